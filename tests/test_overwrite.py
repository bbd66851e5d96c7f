"""What takes the place of what: a model of a model, whole or not at all, and of nothing else."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint, write_checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError
from gpt_common.formats import orbax, registry
from gpt_common.formats.registry import FORMATS
from gpt_common.run_folder import step_folder, update_latest
from tests.conftest import assert_one_line_error, random_checkpoint, random_weights
from tests.test_crash import KILLED, ROOT, die_at

MODEL = GPTConfig(n_layer=1, n_head=1, n_embd=16, block_size=2, vocab_size=997)
WRITTEN = [name for name, form in FORMATS.items() if form.write]
DESCRIBED = [name for name, form in FORMATS.items() if form.has_config_file]
ENDINGS = {"torch": ".pt", "flax": ".msgpack", "llmc": ".bin", "nanogpt": ".pt"}


def model(name, seed, n_head=1):
    """Of the same sizes with another `n_head`: another model, which no shape tells apart."""
    activation = "gelu" if name == "nanogpt" else "gelu_new"
    config = dataclasses.replace(MODEL, n_head=n_head, activation=activation)
    return Checkpoint(config, random_weights(config, seed))


def place(name, folder):
    return folder / f"model{ENDINGS.get(name, '')}"


def write(name, folder, seed, n_head=1):
    FORMATS[name].write(place(name, folder), model(name, seed, n_head))
    return place(name, folder)


def contents(checkpoint):
    return checkpoint.config, {k: w.tobytes() for k, w in checkpoint.weights.items()}


def tree(folder):
    """All that is in a folder, links and hidden files too."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.is_fifo()
    }


# Asked to end, killed, or without room.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("name", "at"), [("huggingface", 1), ("torch", 1), ("flax", 0)])
def test_a_signal_leaves_nothing_half_written(name, at, number, tmp_path, call, monkeypatch):
    """And what was there as it was: torch makes a Ctrl-C an error of its own."""
    source, old = write(name, tmp_path / "source", 1), write(name, tmp_path, 2)
    before = tree(tmp_path)

    writes, opened = itertools.count(), Path.open

    class Signalling(io.FileIO):
        def write(self, content):
            if next(writes) == at:
                os.kill(os.getpid(), number)
            return super().write(content)

    def open_(path, mode="r", *args, **options):
        return Signalling(path, mode) if mode == "wb" else opened(path, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_)
        result = call("convert.__main__", source, old, "--overwrite")
    assert result.returncode == 128 + number
    assert result.stderr == ("error: interrupted\n" if number == signal.SIGINT else "")
    assert tree(tmp_path) == before


def test_a_signal_while_the_flags_are_read_is_no_wrong_flag(call, monkeypatch):
    """Which a parser, too, answers by an exit."""
    monkeypatch.setattr("tyro.cli", lambda *args, **options: os.kill(os.getpid(), signal.SIGTERM))
    result = call("convert.__main__", "--list")
    assert (result.returncode, result.stderr) == (128 + signal.SIGTERM, "")


def test_signals_are_as_they_were_when_a_command_has_ended(call):
    before = [signal.getsignal(number) for number in cli.STOP_SIGNALS]
    call("convert.__main__", "--list")
    assert [signal.getsignal(number) for number in cli.STOP_SIGNALS] == before


def in_a_child(task):
    """Run a task in a process of its own, and return with which code that ends."""
    if (child := os.fork()) == 0:
        task()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_old(folder):
    for name in WRITTEN:
        write(name, folder / name / "old", seed=1)
    write("orbax", folder / "orbax" / "new", seed=2, n_head=2)


def write_new_and_die(name, copy, instant):
    # What Orbax writes, at length, is under another name until all of it is there.
    params = copy.parents[1] / "orbax" / "new" / "model" / "params"
    orbax.save = lambda path, tree: path.symlink_to(params)
    die_at(instant)
    write(name, copy, seed=2, n_head=2)


def die_at_every_instant(folder: Path):
    """Write anew in each format, and die at each instant of it, each time in a copy of the old."""
    import orbax.checkpoint  # noqa: F401 - once, and not in every child

    import gpt_flax.weights  # noqa: F401
    import gpt_torch.weights  # noqa: F401

    os.fsync = lambda descriptor: None  # nobody pulls the plug
    # In a child, as jax and Orbax start threads, which no fork takes along.
    assert in_a_child(partial(write_old, folder)) == 0
    for name in WRITTEN:
        for instant in itertools.count():
            copy = folder / name / f"{instant:03d}"
            shutil.copytree(folder / name / "old", copy)
            code = in_a_child(partial(write_new_and_die, name, copy, instant))
            if code != KILLED:
                assert code == 0, name
                break


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A folder for each format, with one for each instant in it."""
    folder = tmp_path_factory.mktemp("crashed")
    code = "from tests.test_overwrite import *; die_at_every_instant(Path(sys.argv[1]))"
    python = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    subprocess.run(python, check=True, cwd=ROOT)
    return folder


@pytest.mark.parametrize("name", WRITTEN)
def test_a_kill_at_any_instant_leaves_the_old_or_the_new_model(name, crashed, tmp_path):
    old, new = contents(model(name, 1)), contents(model(name, 2, n_head=2))
    copies = sorted((crashed / name).glob("[0-9]*"))
    found = [contents(registry.read(str(place(name, copy)))[0]) for copy in copies]
    turn = found.index(new)
    assert 2 < turn
    assert found == [old] * turn + [new] * (len(found) - turn)
    for copy in copies[turn - 1 : turn + 1]:
        shutil.copytree(copy, tmp_path / copy.name)
        again = write(name, tmp_path / copy.name, seed=3)
        assert contents(registry.read(str(again))[0]) == contents(model(name, 3))


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_write_that_fails_after_a_kill_between_the_two_renames(
    name, crashed, tmp_path, monkeypatch
):
    """The configuration that waits is the only one of the new file: first it has its place."""
    new = contents(model(name, 2, n_head=2))
    for copy in sorted((crashed / name).glob("[0-9]*")):
        file = place(name, copy)
        between = contents(registry.read(str(file))[0]) == new and list(copy.glob(".*json-next*"))
        if between:
            break
    assert between
    shutil.copytree(copy, tmp_path / "copy")
    replace = os.replace

    def fail_for_the_file(source, target):
        if target == place(name, tmp_path / "copy"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_file)
    with pytest.raises(OSError, match="Input/output"):
        write(name, tmp_path / "copy", seed=3)
    assert contents(registry.read(str(place(name, tmp_path / "copy")))[0]) == new


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_configuration_of_another_file_is_refused(name, tmp_path):
    """Of the same shapes, as it may lie there after a copy by hand."""
    for seed in (1, 2):
        write(name, tmp_path / str(seed), seed, n_head=seed)
    file = place(name, tmp_path / "1")
    shutil.copy(place(name, tmp_path / "2"), file)
    with pytest.raises(InputError, match=r"json: expected the file of checksum '\w{8}' beside it"):
        registry.read(str(file))
    beside = file.with_name(file.name + ".json")
    content = json.loads(beside.read_text())
    del content["weights_checksum"]  # as a file of somebody else's has none
    beside.write_text(json.dumps(content))
    assert registry.read(str(file))[0].config.n_head == 1


def test_what_orbaxs_threads_still_write_after_an_error_is_removed(tmp_path, monkeypatch):
    class Checkpointer(contextlib.AbstractContextManager):
        def __exit__(self, *error):
            return None

        def save(self, path, tree):
            threading.Thread(target=self.go_on, args=(path / "part",)).start()
            raise ValueError("no room [os_error_code='27']")

        def go_on(self, path):
            for number in range(20):
                with contextlib.suppress(FileNotFoundError):  # removed in between
                    path.mkdir(parents=True, exist_ok=True)
                    (path / str(number)).touch()
                time.sleep(0.01)

    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointer", Checkpointer)
    with pytest.raises(OSError, match="File too large"):
        FORMATS["orbax"].write(tmp_path / "model", model("orbax", 1))
    time.sleep(0.3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
@pytest.mark.parametrize("name", WRITTEN)
def test_without_room_the_old_model_stays(name, tmp_path, call):
    source = tmp_path / "source"
    write_checkpoint(source, model(name, 2, n_head=2))
    old = write(name, tmp_path / "there", seed=1)
    before = tree(old.parent)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        result = call("convert.__main__", source, old, "--to", name, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_line_error(result, "File too large", "there/model")
    assert tree(old.parent) == before


# What --overwrite replaces.


@pytest.fixture
def source(tmp_path):
    write_checkpoint(tmp_path / "source", random_checkpoint(MODEL))
    return tmp_path / "source"


@pytest.fixture
def refused(tmp_path, source, call):
    """Convert, be refused with these words, and find everything as it was."""

    def refused(destination, *words, flags=("--overwrite",), source=source):
        before = tree(tmp_path)
        result = call("convert.__main__", source, destination, *flags)
        assert_one_line_error(result, *words)
        assert tree(tmp_path) == before

    return refused


def a_run(folder):
    for step in (1, 2):
        write_checkpoint(step_folder(folder, step), random_checkpoint(MODEL, step))
        update_latest(folder, step_folder(folder, step))
    (folder / "log.jsonl").touch()
    return folder


def test_a_run_is_not_replaced_nor_one_of_its_checkpoints(tmp_path, refused):
    run = a_run(tmp_path / "run")
    refused(run, "a model and nothing else")
    refused(run, "another place than that of the source", source=run)
    refused(run / "latest", "got a link to step_000002")
    refused(run / "step_000001", "got a checkpoint of a run")


@pytest.mark.parametrize("left", ["latest", "log.jsonl", "step_000002"])
def test_a_run_is_known_by_whatever_is_left_of_it(left, tmp_path, refused):
    run = a_run(tmp_path / "run")
    copy = shutil.copytree(run / "step_000001", tmp_path / "copy")
    for path in run.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (copy / "optimizer.safetensors").unlink()
    copy.rename(run / "step_000001")
    refused(run / "step_000001", "got a checkpoint of a run")


def test_the_source_and_what_holds_it_are_not_replaced(tmp_path, source, refused):
    refused(source, "another place")
    refused(tmp_path, "another place")
    refused(source / "model.safetensors", "another place", flags=("--to", "llmc", "--overwrite"))
    file = write("torch", tmp_path / "mine", seed=1)
    refused(file.parent, "another place", source=file)
    (tmp_path / "again.pt").hardlink_to(file)
    refused(tmp_path / "again.pt", "another place", source=file)
    for name in (".", tmp_path / "source" / ".."):
        refused(name, "expected the name of a file or of a folder")


@pytest.mark.parametrize("name", ["thesis.txt", ".bashrc", "notes", "model.safetensors.bak"])
def test_a_folder_with_anything_else_in_it_is_not_replaced(name, tmp_path, refused):
    folder = tmp_path / "folder"
    write_checkpoint(folder, random_checkpoint(MODEL))
    (folder / name).write_text("precious")
    refused(folder, f"got {name} in it")


def test_a_folder_with_the_name_of_a_models_file_is_none(tmp_path, refused):
    write_checkpoint(tmp_path / "folder", random_checkpoint(MODEL))
    (tmp_path / "folder" / "merges.txt").mkdir()
    refused(tmp_path / "folder", "got merges.txt in it")


def test_folders_that_only_look_like_a_model_are_not_replaced(tmp_path, refused):
    for name, content in (("config.json", '{"port": 80}'), ("vocab.json", "{}")):
        (tmp_path / name.split(".")[0]).mkdir()
        (tmp_path / name.split(".")[0] / name).write_text(content)
        refused(tmp_path / name.split(".")[0], "config.json")
    write_checkpoint(tmp_path / "model", random_checkpoint(MODEL))
    (tmp_path / "model" / "params").mkdir()
    refused(tmp_path / "model", "got params in it")


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_links_and_what_is_neither_file_nor_folder(flags, tmp_path, source, refused):
    (tmp_path / "dangling").symlink_to("nowhere")
    write_checkpoint(tmp_path / "model", random_checkpoint(MODEL))
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "loop").symlink_to("loop")
    for name, target in (("dangling", "nowhere"), ("link", "model"), ("loop", "loop")):
        refused(tmp_path / name, f"got a link to {target}", flags=flags)
    os.mkfifo(tmp_path / "fifo")
    words = "got a device, a pipe or a socket" if flags else "there already"
    for path in (tmp_path / "fifo", "/dev/null"):
        refused(path, words, flags=(*flags, "--to", "llmc"))


def test_files_that_are_no_model_are_not_replaced(tmp_path, refused):
    (tmp_path / "notes.bin").write_text("precious")
    refused(tmp_path / "notes.bin", "not a model")
    (tmp_path / "a.pt.json").write_text('{"mine": 1}')
    refused(tmp_path / "a.pt", "a.pt.json: there already", flags=())
    refused(tmp_path / "a.pt", "a.pt.json: expected a model's")
    file = write("torch", tmp_path, seed=1)
    refused(f"{file}.json", "not a model", flags=("--to", "llmc", "--overwrite"))
    file.unlink()
    refused(file, "model.pt.json: there already", flags=())


@pytest.mark.parametrize("name", WRITTEN)
def test_a_model_is_replaced_in_every_format(name, tmp_path, call):
    """And a folder or a file with nothing in it, in which nothing can be lost."""
    write_checkpoint(tmp_path / "source", model(name, 2))
    file = write(name, tmp_path, seed=1)
    nothing = tmp_path / f"empty{file.suffix}"
    nothing.mkdir() if file.is_dir() else nothing.touch()
    for destination in (file, nothing):
        flags = ("--to", name, "--overwrite")
        result = call("convert.__main__", tmp_path / "source", destination, *flags)
        assert result.returncode == 0, result.stderr
        assert contents(registry.read(str(destination))[0]) == contents(model(name, 2))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_refused_overwrite_leaves_the_destination(name, tmp_path, call):
    """A model that the format cannot hold, and a file where a folder is or the other way round."""
    other_gelu = "gelu_new" if name == "nanogpt" else "gelu"
    config = dataclasses.replace(MODEL, activation=other_gelu)
    write_checkpoint(tmp_path / "source", Checkpoint(config, random_weights(config)))
    file = write(name, tmp_path / "there", seed=1)
    before = tree(file.parent)
    cannot = ["nanogpt"] if name == "nanogpt" else ["llmc", "build-nanogpt"]
    for to in [*cannot, "huggingface" if file.is_file() else "torch"]:
        flags = ("--to", to, "--overwrite")
        assert_one_line_error(call("convert.__main__", tmp_path / "source", file, *flags))
        assert tree(file.parent) == before


def test_a_folder_that_stands_aside_after_a_kill_is_there(tmp_path, source, call):
    write_checkpoint(tmp_path / "model", random_checkpoint(MODEL))
    os.rename(tmp_path / "model", tmp_path / ".model-aside.part")
    assert_one_line_error(call("convert.__main__", source, tmp_path / "model"), "there already")
    result = call("convert.__main__", tmp_path / "model", tmp_path / "a.bin")
    assert result.returncode == 0, result.stderr
    write_checkpoint(tmp_path / "model", random_checkpoint(MODEL, step=8))
    os.rename(tmp_path / "model", tmp_path / ".model-aside.part")
    write_checkpoint(tmp_path / "copy", random_checkpoint(MODEL, step=9))
    os.rename(tmp_path / "copy", tmp_path / "model")  # killed before the old one went
    write_checkpoint(tmp_path / "model", random_checkpoint(MODEL, step=10))
    assert registry.read(str(tmp_path / "model"))[0].training.step == 10
    assert not list(tmp_path.glob(".*"))
