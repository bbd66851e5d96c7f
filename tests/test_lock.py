"""A folder has one process that writes to it, whatever the file system and whoever forks."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from gpt_common import lock
from gpt_common.errors import InputError
from gpt_common.lock import FolderLock


def test_a_lock_names_its_process_and_nothing_else(tmp_path):
    """Not what a longer name before it has left."""
    (tmp_path / ".lock").write_text("process 123456789 on " + 100 * "x")
    held = FolderLock(tmp_path)
    name = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(InputError) as refused:
        FolderLock(tmp_path)
    assert str(refused.value) == f"{tmp_path}: in use by {name}"
    held.release()
    assert not list(tmp_path.iterdir())


def test_a_file_that_went_as_it_was_locked_is_locked_anew(tmp_path, monkeypatch):
    """Its holder removes it: else two processes each hold a file of their own."""
    flock = lock.fcntl.flock

    def removed_meanwhile(descriptor, how):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        (tmp_path / ".lock").unlink()
        flock(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "flock", removed_meanwhile)
    held = FolderLock(tmp_path)
    with pytest.raises(InputError, match="in use"):
        FolderLock(tmp_path)
    held.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_where_there_are_no_locks_a_run_goes_without(number, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    FolderLock(tmp_path).release()


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        FolderLock(tmp_path)


def test_a_fork_leaves_the_lock_to_its_process(tmp_path):
    code = """
import os, pathlib, sys
from gpt_common.lock import FolderLock
folder = pathlib.Path(sys.argv[1])
lock = FolderLock(folder)
if (child := os.fork()) == 0:
    lock.release()
    os._exit(0)
os.waitpid(child, 0)
print(*[path.name for path in folder.iterdir()])
FolderLock(folder)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert result.stdout == ".lock\n"
    assert "in use by process" in result.stderr
    assert not list(tmp_path.iterdir())
