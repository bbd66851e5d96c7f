"""A lock on a folder, which one process at a time may write to."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from gpt_common.errors import InputError

LOCK = ".lock"
# What file systems without locks, as some of clusters are, answer: a run there goes unlocked.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class FolderLock:
    """Holds a folder for this process, until `release` or the end of the process, however it ends.

    Raises `InputError`, with the process that holds it, where another does. The lock is flock's on
    the file `.lock`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LOCK
        self._file = self._open()
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def _open(self) -> IO[str]:
        while True:
            file = self._path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    holder = file.read(200) or "another process"
                raise InputError(f"{self.folder}: in use by {holder}") from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            if _is_same_file(file, self._path):  # else its holder has just removed it
                return file
            file.close()

    def release(self) -> None:
        """Let others have the folder."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
