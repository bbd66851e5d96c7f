"""Faults of tokens and their sources."""

from tests.faults.fault import Fault

DATA = "gpt_common/data.py"
TOKEN_FILES = "gpt_common/token_files.py"
TEXTS = "gpt_common/texts.py"
CACHE = "gpt_common/cache.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "tokenizer: <|endoftext|> in a corpus is text",
        "gpt_common/tokenizer.py",
        'encode_to_numpy(chunk, allowed_special="all")',
        "encode_to_numpy(chunk, disallowed_special=())",
    ),
    Fault(
        "the vocabulary is checked by samples",
        DATA,
        "if window.max() >= vocab_size:",
        "if window[:: max(1, len(window) // 2**16)].max() >= vocab_size:",
    ),
    Fault(
        "a wrong token's place counts from the window",
        DATA,
        "at position {start + place}",
        "at position {place}",
    ),
    Fault(
        "the vocabulary is not checked for validation",
        DATA,
        'check_vocabulary(val, vocab_size, f"{source}: validation")',
        "pass",
    ),
    Fault(
        "validation of its own is left to val_fraction",
        DATA,
        "if len(val):",
        "if False:",
    ),
    Fault(
        "a val_fraction of 0 validates on a folder's own",
        DATA,
        "len(val) if val_fraction else 0",
        "len(val)",
    ),
    Fault(
        "val is found within words",
        DATA,
        r'r"(?<![a-z])val(id|idation)?(?![a-z])"',
        'r"val(id|idation)?"',
    ),
    Fault(
        "a file that is neither train nor val is left out",
        DATA,
        "if (path in train) == (path in val):",
        "if False:",
    ),
    Fault(
        "texts beside token files are left out",
        DATA,
        "if token_files and text_files and not val:",
        "if False:",
    ),
    Fault(
        "the files of a folder come as the disk has them",
        DATA,
        'visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))',
        'visible = [path for path in reversed(sorted(folder.iterdir())) if path.name[0] != "."]',
    ),
    Fault(
        "hidden files are tokens",
        DATA,
        'if not path.name.startswith(".")',
        "if path.name",
    ),
    Fault(
        "no name of the data is the working folder",
        DATA,
        "if not source or not path.exists():",
        "if not path.exists():",
    ),
    Fault(
        "a place beyond the tokens is their start",
        DATA,
        "if not 0 <= position < len(self.tokens):",
        "if False:",
    ),
    Fault(
        "a fingerprint is of the first tokens",
        DATA,
        "start = i * (size - window) // max(1, count - 1)",
        "start = i",
    ),
    Fault(
        "a fingerprint leaves gaps in few tokens",
        DATA,
        "count = min(FINGERPRINT_WINDOWS, -(-size // window))",
        "count = min(FINGERPRINT_WINDOWS, size // window)",
    ),
    Fault(
        "a fingerprint has no length",
        DATA,
        '"length": size, ',
        "",
    ),
    Fault(
        "a range of tokens ends where they do",
        DATA,
        "self.start + max(start, stop)]",
        "len(self.tokens)]",
    ),
    Fault(
        "token files are kept open",
        TOKEN_FILES,
        "tokens = np.fromfile(self.path, np.uint16, count, offset=self.offset + 2 * start)",
        "tokens = np.memmap(self.path, np.uint16, 'r', self.offset)[start:stop]",
    ),
    Fault(
        "a file that was cut gives fewer tokens",
        TOKEN_FILES,
        "if len(tokens) < count:",
        "if False:",
    ),
    Fault(
        "a header is believed",
        TOKEN_FILES,
        "if size != expected:",
        "if False:",
    ),
    Fault(
        "a file may be longer than its header says",
        TOKEN_FILES,
        "if size != expected:",
        "if size < expected:",
    ),
    Fault(
        "pipes and devices are read",
        TOKEN_FILES,
        "if not stat.S_ISREG(status.st_mode):",
        "if stat.S_ISDIR(status.st_mode):",
    ),
    Fault(
        "every version of llm.c's files is read",
        TOKEN_FILES,
        "if version != LLMC_VERSION:",
        "if False:",
    ),
    Fault(
        "llm.c's other files are tokens",
        TOKEN_FILES,
        "if magic in LLMC_OTHERS:",
        "if False:",
    ),
    Fault(
        "only the errors of numpy that are known are the file's",
        TOKEN_FILES,
        "except Exception:",
        "except (ValueError, EOFError):",
    ),
    Fault(
        "a .npy file is known by its name alone",
        TOKEN_FILES,
        " or head.startswith(np.lib.format.MAGIC_PREFIX)",
        "",
    ),
    Fault(
        "tokens of the other byte order are read",
        TOKEN_FILES,
        "if dtype != np.uint16 or",
        'if dtype.name != "uint16" or',
    ),
    Fault(
        "a text's tokens are kept under its size",
        TEXTS,
        "_hash(content)}.npy",
        "len(content)}.npy",
    ),
    Fault(
        "texts of a folder run into one another",
        TEXTS,
        "tokenizer.END_OF_TEXT.encode().join",
        'b"".join',
    ),
    Fault(
        "a cache that fills the disk ends the run",
        TEXTS,
        """    except OSError:
        pass
""",
        """    except FileNotFoundError:
        pass
""",
    ),
    Fault(
        "a download is kept unseen",
        TEXTS,
        "    digest = hashlib.sha256(content).hexdigest()\n    if digest",
        "    _keep(path, lambda file: file.write(content))\n"
        "    digest = hashlib.sha256(content).hexdigest()\n    if digest",
    ),
    Fault(
        "a download is not kept",
        TEXTS,
        "    if not kept:\n",
        "    if False:\n",
    ),
    Fault(
        "a cache where all may write is taken",
        CACHE,
        "if status.st_uid != os.getuid() or status.st_mode & 0o022:",
        "if status.st_uid != os.getuid():",
    ),
    Fault(
        "a bar where nobody looks",
        "gpt_common/progress.py",
        "if size >= large and console.is_terminal:",
        "if size >= large:",
    ),
    Fault(
        "little work is told too",
        "gpt_common/progress.py",
        "    if size >= large:\n",
        "    if True:\n",
    ),
    Fault(
        "XDG_CACHE_HOME is not read",
        "gpt_common/cache.py",
        'base := os.environ.get("XDG_CACHE_HOME")',
        'base := os.environ.get("NO_CACHE_HOME")',
    ),
    Fault(
        "texts are told apart by their first 16 MiB",
        "gpt_common/texts.py",
        "memoryview(content)[start : start + step]",
        "memoryview(content)[:step]",
    ),
    Fault(
        "a download may be silent for ever", "gpt_common/texts.py", ", timeout=SILENT_SECONDS", ""
    ),
    Fault(
        "a download may never end",
        "gpt_common/texts.py",
        "response.read(TINY_SHAKESPEARE_BYTES + 1)",
        "response.read()",
    ),
    Fault(
        "a download that breaks off is a traceback",
        "gpt_common/texts.py",
        "except (OSError, HTTPException) as error",
        "except OSError as error",
    ),
)
