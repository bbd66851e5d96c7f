import os
import zlib

import numpy as np
import pytest

from gpt_common import storage
from gpt_common.storage import (
    atomic_file,
    atomic_folder,
    checksum,
    clean_folder,
    existing_folder,
    read_safetensors,
    recover_folder,
    remove_folder,
    temporary_path,
    write_safetensors,
)


def write(folder, text):
    with atomic_folder(folder) as part:
        (part / "file").write_text(text)


def fill_the_disk():
    raise OSError(28, "No space left on device")


def test_a_folder_is_replaced_whole(tmp_path):
    write(tmp_path / "folder", "old")
    (tmp_path / "folder" / "more").touch()
    write(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
    assert (tmp_path / "folder" / "file").read_text() == "new"


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_place(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(storage, "sync", lambda path: synced.append((path.name, path.is_dir())))
    with atomic_folder(tmp_path / "folder") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").touch()
    assert sorted(synced[:2]) == [("file", False), ("inner", True)]
    assert [name for name, _ in synced[2:]] == [part.name, tmp_path.name]


def test_a_file_is_replaced_whole(tmp_path):
    for text in ("old", "new"):
        with atomic_file(tmp_path / "file") as part:
            part.write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"


def test_a_file_is_on_the_disk_before_it_has_its_place(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        storage, "sync", lambda path: synced.append((path.name, (tmp_path / "file").exists()))
    )
    with atomic_file(tmp_path / "file") as part:
        part.touch()
    assert synced == [(part.name, False), (tmp_path.name, True)]


@pytest.mark.parametrize("name", ["a" * n for n in range(1, 9)])
def test_tensors_lie_on_multiples_of_eight_bytes(name, tmp_path):
    """From where they can be computed with as they are mapped."""
    tensors = {name: np.arange(3.0), "other": np.arange(5.0)}
    write_safetensors(tmp_path / "file", tensors)
    assert int.from_bytes((tmp_path / "file").read_bytes()[:8], "little") % 8 == 0
    for key, tensor in read_safetensors(tmp_path / "file").items():
        assert tensor.flags.aligned
        assert not tensor.flags.writeable
        assert np.array_equal(tensor, tensors[key])


def test_a_file_of_no_numbers(tmp_path):
    write_safetensors(tmp_path / "file", {"a": np.empty((0, 3), np.float16)})
    assert read_safetensors(tmp_path / "file")["a"].shape == (0, 3)


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_failed_write_names_its_place_and_leaves_nothing(atomic, tmp_path):
    def fail():
        with atomic(tmp_path / "place") as part:
            (part / "file" if part.is_dir() else part).write_text("half")
            fill_the_disk()

    with pytest.raises(OSError, match=r"No space left on device: '.*/place'"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "folder", "old")
    rename = os.rename

    def fail_for_the_new(source, target):
        if target == tmp_path / "folder" and "aside" not in source.name:
            fill_the_disk()
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "old"


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(NotADirectoryError):
        write(tmp_path / "mine", "new")
    assert (tmp_path / "mine").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_stands_aside_is_found_and_put_back(tmp_path):
    folder, aside = tmp_path / "folder", tmp_path / ".folder-aside.part"
    assert existing_folder(folder) == folder
    write(aside, "old")
    assert existing_folder(folder) == aside
    recover_folder(folder)
    assert (folder / "file").read_text() == "old"
    write(aside, "older")
    assert existing_folder(folder) == folder
    recover_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "file").read_text() == "old"


def test_cleaning_takes_what_is_left_over_and_nothing_else(tmp_path):
    mine = {".hidden", ".mine.part", "log-0123.part", ".mine-aside", "folder"}
    for name in mine:
        (tmp_path / name).touch()
    write(temporary_path(tmp_path / "folder"), "half")
    temporary_path(tmp_path / "file").touch()
    temporary_path(tmp_path / "latest").symlink_to("nowhere")
    write(tmp_path / ".folder-aside.part", "old")
    write(tmp_path / ".lost-aside.part", "old")
    clean_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == mine | {"lost"}


def test_removing_a_link_leaves_what_it_points_to(tmp_path):
    write(tmp_path / "folder", "mine")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    remove_folder(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 7])
def test_the_checksum_is_that_of_the_whole_file(size, tmp_path):
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert checksum(tmp_path / "file") == f"{zlib.crc32(content):08x}"


def test_a_folder_has_lost_its_name_on_the_disk_before_it_loses_its_files(tmp_path, monkeypatch):
    synced = []

    def sync(path):
        (part,) = tmp_path.iterdir()
        synced.append((path, part.name != "folder", [file.name for file in part.iterdir()]))

    write(tmp_path / "folder", "old")
    monkeypatch.setattr(storage, "sync", sync)
    remove_folder(tmp_path / "folder")
    assert synced == [(tmp_path, True, ["file"])]
