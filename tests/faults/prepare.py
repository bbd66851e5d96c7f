"""Faults of token shards: documents, the command that makes shards of them, and the manifest."""

from tests.faults.fault import Fault

FAULTS = (
    # Documents.
    Fault(
        "files come as the disk has them",
        "gpt_common/documents.py::find_files",
        'sorted(source.rglob("*"))',
        'sorted(source.rglob("*"), reverse=True)',
    ),
    Fault(
        "hidden files are documents",
        "gpt_common/documents.py::find_files",
        "kind_of(path) and not is_hidden(path.relative_to(source))",
        "kind_of(path)",
    ),
    Fault(
        "a file that is damaged ends there",
        "gpt_common/documents.py::FileDocuments._read_all",
        'raise InputError(f"{path}: {reason(error)}") from None',
        "pass",
    ),
    Fault(
        "lines count from 0",
        "gpt_common/documents.py::read_jsonl",
        "enumerate(file, 1)",
        "enumerate(file)",
    ),
    Fault(
        "a text that is no text is read",
        "gpt_common/documents.py::text_of",
        "not isinstance((text := row[field]), str)",
        "not (text := str(row[field]))",
    ),
    Fault(
        "a changed file is continued with",
        "gpt_common/documents.py::FileDocuments.identity",
        "file.stat().st_size",
        "0",
    ),
    Fault(
        "a data set of the Hub is read again from its start",
        "gpt_common/documents.py::HubDocuments.read",
        "rows.select_columns([self.field]).skip(skip)",
        "rows.select_columns([self.field])",
    ),
    # Tokens.
    Fault(
        "<|endoftext|> in a document ends it",
        "gpt_common/tokenizer.py::encode_documents",
        "encoding.encode_to_numpy(text, disallowed_special=())",
        'encoding.encode_to_numpy(text, allowed_special="all")',
    ),
    Fault(
        "<|endoftext|> is before each piece",
        "gpt_common/tokenizer.py::encode_documents",
        """
        if begins:
            parts.append(np.array([END_OF_TEXT_TOKEN], np.uint16))
        """,
        "parts.append(np.array([END_OF_TEXT_TOKEN], np.uint16))",
    ),
    Fault(
        "an empty document is left out",
        "gpt_common/prepare.py::pieces",
        """
        if begins:
            yield begins, ""
        """,
        "pass",
    ),
    Fault(
        "the last few documents are left out",
        "gpt_common/prepare.py::group",
        """
        if task:
            yield task
        """,
        "pass",
    ),
    Fault(
        "workers hand in what is ready",
        "gpt_common/prepare.py::encode",
        """
        if len(pending) > 2 * workers:
            yield pending.popleft().result()
        """,
        """
        if len(pending) > 2 * workers:
            yield pending.pop().result()
        """,
    ),
    Fault(
        "what is pending at the end is lost",
        "gpt_common/prepare.py::encode",
        """
        while pending:
            yield pending.popleft().result()
        """,
        "pass",
    ),
    Fault(
        "workers outlive their parent",
        "gpt_common/prepare.py::start_worker",
        "threading.Thread(target=end_with_parent, daemon=True).start()",
        "pass",
    ),
    Fault(
        "workers take Ctrl-C",
        "gpt_common/prepare.py::ctrl_c_blocked",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
        "pass",
    ),
    # Where to continue.
    Fault(
        "the last document is written again",
        "gpt_common/prepare.py::remaining_tokens",
        "tokens[surplus:]",
        "tokens",
    ),
    Fault(
        "the end of the last document is lost",
        "gpt_common/prepare.py::remaining_tokens",
        "max(0, manifest.documents - 1)",
        "manifest.documents",
    ),
    Fault(
        "what is written of a document is dropped from one task only",
        "gpt_common/prepare.py::remaining_tokens",
        "max(0, surplus - len(tokens))",
        "0",
    ),
    Fault(
        "a document of more than one shard counts from the last",
        "gpt_common/shards.py::ShardWriter._write_shard",
        "int(starts[-1]) if len(starts) else -self.manifest.last_document_tokens",
        "int(starts[-1]) if len(starts) else 0",
    ),
    Fault(
        "shards of other options are continued",
        "gpt_common/prepare.py::open_folder",
        "check_settings(folder, found.settings, new.settings)",
        "pass",
    ),
    Fault(
        "a folder of something else is written to",
        "gpt_common/prepare.py::open_folder",
        """
        if others:
            raise InputError(f"{folder}: expected an empty folder, got one with {others[0]}")
        """,
        "pass",
    ),
    Fault(
        "temporary files stay",
        "gpt_common/prepare.py::open_folder",
        "clean_folder(folder)",
        "pass",
    ),
    Fault(
        "two processes prepare one folder",
        "gpt_common/prepare.py::prepare",
        "lock = FolderLock(folder)",
        "lock = type('Unlocked', (), {'release': int})",
    ),
    # Shards.
    Fault(
        "the first shard is for training",
        "gpt_common/shards.py::ShardWriter._write_shard",
        "f\"{'train' if number else 'val'}_{number:06d}.bin\"",
        'f"train_{number:06d}.bin"',
    ),
    Fault(
        "the hash leaves out the header",
        "gpt_common/shards.py::ShardWriter._write_shard",
        "hashlib.sha256(header)",
        "hashlib.sha256()",
    ),
    Fault(
        "all may be for validation",
        "gpt_common/shards.py::ShardWriter.finish",
        "self.tokens <= self.manifest.shard_tokens",
        "False",
    ),
    Fault(
        "an unfinished folder is trained on",
        "gpt_common/shards.py::check_folder",
        "not manifest.complete",
        "False",
    ),
    Fault(
        "a missing shard is not missed",
        "gpt_common/shards.py::check_folder",
        "check_shards(folder, manifest)",
        "pass",
    ),
    Fault(
        "a shard of another length is read",
        "gpt_common/shards.py::check_shards",
        "(found := len(open_tokens(path))) != shard.tokens",
        "(found := len(open_tokens(path))) < 0",
    ),
)
