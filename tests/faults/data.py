"""Faults of data: texts, token files and batches."""

from tests.faults.fault import Fault

FAULTS = (
    # Batches.
    Fault(
        "loader: targets are the inputs",
        "gpt_common/data.py::BatchLoader.next_batch",
        "windows[:, 1:]",
        "windows[:, :-1]",
    ),
    Fault(
        "loader: the walk skips a token",
        "gpt_common/data.py::BatchLoader.next_batch",
        "self.position + self.stride",
        "self.position + self.stride + 1",
    ),
    Fault(
        "loader: the last whole batch is left out",
        "gpt_common/data.py::BatchLoader._move_to",
        "position + self.stride + 1 <= len(self.tokens)",
        "position + self.stride + 1 < len(self.tokens)",
    ),
    Fault(
        "loader: the last batch may be a partial one",
        "gpt_common/data.py::BatchLoader._move_to",
        "position + self.stride",
        "position",
    ),
    Fault(
        "loader: every process reads the same rows",
        "gpt_common/data.py::BatchLoader._windows",
        "self.position + self.rows.start * self.seq_len",
        "self.position",
    ),
    Fault(
        "loader: the position depends on the rows of the process",
        "gpt_common/data.py::BatchLoader.__init__",
        "batch_size * seq_len",
        "len(self.rows) * seq_len",
    ),
    Fault(
        "loader: restore does nothing",
        "gpt_common/data.py::BatchLoader.restore",
        'self._move_to(state["position"])',
        "self._move_to(0)",
    ),
    Fault(
        "shuffle: the last window is left out",
        "gpt_common/data.py::BatchLoader._shuffled_windows",
        "(len(self.tokens) - 1) // T",
        "max(1, (len(self.tokens) - 1) // T - 1)",
    ),
    Fault(
        "shuffle: every process reads the same rows",
        "gpt_common/data.py::BatchLoader._shuffled_windows",
        "first + row",
        "first + row - self.rows.start",
    ),
    Fault(
        "shuffle: the epoch ends with its last whole batch",
        "gpt_common/data.py::BatchLoader._move_to",
        "self.seed is not None or position + self.stride + 1 <= len(self.tokens)",
        "position + self.stride + 1 <= len(self.tokens)",
    ),
    Fault(
        "shuffle: a run past its first epoch does not resume",
        "gpt_common/data.py::BatchLoader.accepts",
        'self.seed is not None or state["position"] < len(self.tokens)',
        'state["position"] < len(self.tokens)',
    ),
    Fault(
        "shuffle: all epochs are alike",
        "gpt_common/shuffle.py::shuffled",
        "_mix(_uint64(epochs) + _mix(_uint64([seed])))",
        "_mix(0 * _uint64(epochs) + _mix(_uint64([seed])))",
    ),
    Fault(
        "shuffle: an epoch of a seed is the next one of another",
        "gpt_common/shuffle.py::shuffled",
        "_mix(_uint64(epochs) + _mix(_uint64([seed])))",
        "_mix(_uint64(epochs) + _uint64([seed]))",
    ),
    Fault(
        "shuffle: the walk ends after one step",
        "gpt_common/shuffle.py::permute",
        "np.where(outside, _feistel(places, half, keys), places)",
        "np.where(outside, _feistel(places, half, keys), places) % size",
    ),
    Fault(
        "shuffle: all rounds have one key",
        "gpt_common/shuffle.py::_feistel",
        "np.uint64(number)",
        "np.uint64(0)",
    ),
    Fault(
        "prefetch: nothing is read ahead",
        "gpt_common/prefetch.py::Prefetcher.next",
        "self.ahead = self.thread.submit(self.read)",
        "pass",
    ),
    Fault(
        "prefetch: the thread goes on",
        "gpt_common/prefetch.py::Prefetcher.close",
        "self.thread.shutdown(cancel_futures=True)",
        "pass",
    ),
    Fault(
        "validation tokens are trained on",
        "gpt_common/data.py::load_splits",
        "TokenRange(train, 0, cut)",
        "TokenRange(train, 0, len(train))",
    ),
    Fault(
        "shards: a slice over a border loses its start",
        "gpt_common/data.py::ShardedTokens.__getitem__",
        "start - offset",
        "0",
    ),
    Fault(
        "the vocabulary is checked by samples",
        "gpt_common/data.py::CheckedTokens.__getitem__",
        "window.max(initial=0)",
        "window[:: max(1, len(window) // 2**16)].max(initial=0)",
    ),
    Fault(
        "a wrong token's place counts from the window",
        "gpt_common/data.py::CheckedTokens.__getitem__",
        "index.indices(len(self))[0] + first",
        "first",
    ),
    Fault(
        "the tokens of a large file are never checked",
        "gpt_common/data.py::open_files",
        "CheckedTokens(open_tokens(path), vocab_size, str(path))",
        "CheckedTokens(open_tokens(path), UINT16_SIZE, str(path))",
    ),
    Fault(
        "the vocabulary is not checked for validation",
        "gpt_common/data.py::load_splits",
        """
        for tokens in (train, val):
            if len(tokens) <= CHECKED_AT_START:
                read_all(tokens)
        """,
        """
        for tokens in (train,):
            if len(tokens) <= CHECKED_AT_START:
                read_all(tokens)
        """,
    ),
    Fault(
        "validation of its own is left to val_fraction",
        "gpt_common/data.py::load_splits",
        """
        if len(val):
            return train, TokenRange(val, 0, len(val) if val_fraction else 0)
        """,
        """
        if False:
            return train, TokenRange(val, 0, len(val) if val_fraction else 0)
        """,
    ),
    Fault(
        "a val_fraction of 0 validates on a folder's own",
        "gpt_common/data.py::load_splits",
        "len(val) if val_fraction else 0",
        "len(val)",
    ),
    Fault(
        "val is found within words",
        "gpt_common/data.py::VALIDATION",
        're.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)',
        're.compile(r"val(id|idation)?", re.IGNORECASE)',
    ),
    Fault(
        "a folder of validation files alone is trained on",
        "gpt_common/data.py::split_by_name",
        "not val",
        "not val or len(val) == len(files)",
    ),
    Fault(
        "a file that is neither train nor val is left out",
        "gpt_common/data.py::split_by_name",
        "(path in train) == (path in val)",
        "False",
    ),
    Fault(
        "texts beside token files are left out",
        "gpt_common/data.py::folder_files",
        "token_files and text_files and not val",
        "False",
    ),
    Fault(
        "the files of a folder come as the disk has them",
        "gpt_common/data.py::folder_files",
        'sorted(path for path in folder.iterdir() if not path.name.startswith("."))',
        '[path for path in reversed(sorted(folder.iterdir())) if path.name[0] != "."]',
    ),
    Fault(
        "hidden files are tokens",
        "gpt_common/data.py::folder_files",
        'not path.name.startswith(".")',
        "path.name",
    ),
    Fault(
        "no name of the data is the working folder",
        "gpt_common/data.py::open_source",
        "not source or not path.exists()",
        "not path.exists()",
    ),
    Fault(
        "a place beyond the tokens is their start",
        "gpt_common/data.py::BatchLoader.accepts",
        'state["position"] < len(self.tokens)',
        "True",
    ),
    Fault(
        "a fingerprint is of the first tokens",
        "gpt_common/data.py::fingerprint",
        "i * (size - window) // max(1, count - 1)",
        "i",
    ),
    Fault(
        "a fingerprint leaves gaps in few tokens",
        "gpt_common/data.py::fingerprint",
        "-(-size // window)",
        "size // window",
    ),
    Fault(
        "a fingerprint has no length",
        "gpt_common/data.py::fingerprint",
        '"length": size',
        "**{}",
    ),
    Fault(
        "a range of tokens ends where they do",
        "gpt_common/data.py::TokenRange.__getitem__",
        "self.start + max(start, stop)",
        "len(self.tokens)",
    ),
    # Sources.
    Fault(
        "llm.c's header is read as tokens",
        "gpt_common/token_files.py::_open_bin",
        "TokenFile(path, LLMC_HEADER_BYTES, count)",
        "TokenFile(path, 0, size // 2)",
    ),
    Fault(
        "token files are kept open",
        "gpt_common/token_files.py::TokenFile.__getitem__",
        "np.fromfile(self.path, np.uint16, count, offset=self.offset + 2 * start)",
        'np.memmap(self.path, np.uint16, "r", self.offset)[start:stop]',
    ),
    Fault(
        "a file that was cut gives fewer tokens",
        "gpt_common/token_files.py::TokenFile.__getitem__",
        "len(tokens) < count",
        "False",
    ),
    Fault(
        "a header is believed",
        "gpt_common/token_files.py::open_tokens",
        "size != expected",
        "False",
    ),
    Fault(
        "a file may be longer than its header says",
        "gpt_common/token_files.py::open_tokens",
        "size != expected",
        "size < expected",
    ),
    Fault(
        "every version of llm.c's files is read",
        "gpt_common/token_files.py::_open_bin",
        "version != LLMC_VERSION",
        "False",
    ),
    Fault(
        "llm.c's other files are tokens",
        "gpt_common/token_files.py::_open_bin",
        "magic in LLMC_OTHERS",
        "False",
    ),
    Fault(
        "only the errors of numpy that are known are the file's",
        "gpt_common/token_files.py::_open_npy",
        "Exception",
        "(ValueError, EOFError)",
    ),
    Fault(
        "a .npy file is known by its name alone",
        "gpt_common/token_files.py::open_tokens",
        'path.suffix == ".npy" or head.startswith(np.lib.format.MAGIC_PREFIX)',
        'path.suffix == ".npy"',
    ),
    Fault(
        "tokens of the other byte order are read",
        "gpt_common/token_files.py::_open_npy",
        "dtype != np.uint16",
        'dtype.name != "uint16"',
    ),
    Fault(
        "a text's tokens are kept under its size",
        "gpt_common/texts.py::encode_cached",
        'f"{_hash(content)}.npy"',
        'f"{len(content)}.npy"',
    ),
    Fault(
        "texts of a folder run into one another",
        "gpt_common/texts.py::encode_files",
        "tokenizer.END_OF_TEXT.encode()",
        'b""',
    ),
    Fault(
        "a cache that fills the disk ends the run",
        "gpt_common/cache.py::write_cached",
        "OSError",
        "FileNotFoundError",
    ),
    Fault(
        "a download is kept unseen",
        "gpt_common/downloads.py::Download.read",
        "digest = hashlib.sha256(content).hexdigest()",
        """
        write_cached(path, lambda file: file.write(content))
        digest = hashlib.sha256(content).hexdigest()
        """,
    ),
    Fault(
        "a download is not kept",
        "gpt_common/downloads.py::Download.read",
        "not cached",
        "False",
    ),
    Fault(
        "a cache where all may write is taken",
        "gpt_common/cache.py::_temporary_cache",
        "status.st_uid != os.getuid() or status.st_mode & 0o022",
        "status.st_uid != os.getuid()",
    ),
    Fault(
        "a bar where nobody looks",
        "gpt_common/progress.py::progress_bar",
        "show and console.is_terminal",
        "show",
    ),
    Fault(
        "little work is told too",
        "gpt_common/progress.py::progress_bar",
        """
        if show:
            console.print(line)
        """,
        """
        if True:
            console.print(line)
        """,
    ),
    Fault(
        "XDG_CACHE_HOME is not read",
        "gpt_common/cache.py::cache_folder",
        'os.environ.get("XDG_CACHE_HOME")',
        'os.environ.get("NO_CACHE_HOME")',
    ),
    Fault(
        "texts are told apart by their first 16 MiB",
        "gpt_common/texts.py::_hash",
        "memoryview(content)[start : start + step]",
        "memoryview(content)[:step]",
    ),
    Fault(
        "a download may be silent for ever",
        "gpt_common/downloads.py::Download._download",
        "urllib.request.urlopen(self.url, timeout=TIMEOUT)",
        "urllib.request.urlopen(self.url)",
    ),
    Fault(
        "a download may never end",
        "gpt_common/downloads.py::Download._download",
        "response.read(self.size + 1)",
        "response.read()",
    ),
    Fault(
        "a download that breaks off is a traceback",
        "gpt_common/downloads.py::Download._download",
        "(OSError, HTTPException)",
        "OSError",
    ),
)
