"""A lock on a folder, so that one process at a time writes to it."""

import errno
import fcntl
import os
import socket
import weakref
from pathlib import Path

from gpt_common.errors import InputError

LOCK = ".lock"
# Errors of file systems without locks, as on some clusters: a run there is not locked.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class FolderLock:
    """A lock (`flock` on the file `.lock`), held until `release` or the end of the process.

    Raises `InputError`, with the name of the other process, if the folder is locked already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / LOCK
        descriptor = _open_locked(path)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self.release = weakref.finalize(self, _release, descriptor, path, os.getpid())


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise InputError(f"{path.parent}: in use by {holder}") from None
            if error.errno not in UNSUPPORTED:
                os.close(descriptor)
                raise
        if _is_same_file(descriptor, path):  # else the previous holder has just removed it
            return descriptor
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _release(descriptor: int, path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork
        path.unlink(missing_ok=True)
    os.close(descriptor)
