"""TensorBoard's event files, and trackers that fail or are not installed."""

import importlib.util
import sys
import types

import pytest

from gpt_common import trackers
from gpt_common.metrics import read_log
from gpt_common.trackers import PACKAGES, TRACKERS, Trackers
from tests.conftest import CPU, TINY, assert_one_line_error, command

FLAGS = (*TINY, *CPU, "--eval_every", 2, "--eval_steps", 1)


def installed(package):
    return importlib.util.find_spec(package) is not None


def numbers(entries):
    """The numbers of a log by name and step."""
    return {
        (name, entry["step"]): value
        for entry in entries
        for name, value in entry.items()
        if name != "step" and not isinstance(value, list)
    }


def events(folder):
    """The scalars, by name and step, and the names of the texts in an event file."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    scalars, texts = {}, set()
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars[value.tag, event.step] = value.simple_value
                else:
                    texts.add(value.tag.removesuffix("/text_summary"))
    return scalars, texts


def test_tensorboard_has_what_the_log_has(train, framework, tmp_path):
    pytest.importorskip("tensorboardX")
    train(framework, *FLAGS, "--steps", 3, "--tensorboard", "--out_dir", tmp_path)
    logged = numbers(read_log(tmp_path / "log.jsonl"))
    found, texts = events(tmp_path / "tensorboard")
    assert found == pytest.approx(logged, rel=1e-6)
    assert {name for name, _ in found} >= {"loss", "grad_norm", "val_loss", "tokens_per_second"}
    assert texts == {"options"}


class Recorder:
    """A package such as wandb, which keeps what it gets."""

    def __init__(self):
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    @staticmethod
    def Settings(**options):  # noqa: N802
        return options


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_what_the_log_has(train, tmp_path, monkeypatch, name):
    package = Recorder()
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(trackers, "find_spec", lambda package: True)
    train("torch", *FLAGS, "--steps", 2, f"--{name}", "--out_dir", tmp_path)
    entries = read_log(tmp_path / "log.jsonl")
    assert [{"step": step, **values} for step, values in package.logged] == entries
    (options,) = package.started
    assert options["project"] == "gpt-twins"
    assert options["config"]["data"]["seq_len"] == 8
    assert package.finished == 1


def test_texts_are_one_text(tmp_path):
    package = Recorder()
    found = Trackers({"any": lambda: types.SimpleNamespace(log=lambda *a: package.log(a[1], a[0]))})
    found.start()
    found.log({"step": 4, "samples": ["one", "two"]})
    assert package.logged == [(4, {"samples": "one\n\ntwo"})]


@pytest.mark.parametrize("method", ["init", "log", "finish"])
def test_a_tracker_that_fails_ends_no_run(call, tmp_path, monkeypatch, method):
    """It is said once, and the tracker gets nothing more."""
    package, calls = Recorder(), []

    def fails(*args, **options):
        calls.append(args)
        raise OSError("no network\nand more")

    monkeypatch.setattr(package, method, fails)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(trackers, "find_spec", lambda package: True)
    result = call("gpt_torch.train", *FLAGS, "--steps", 3, "--wandb", "--out_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "note: wandb gets nothing any more: no network\n"
    assert len(calls) == 1
    assert len(numbers(read_log(tmp_path / "log.jsonl"))) > 3


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_one_line(call, framework, tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    result = call(f"gpt_{framework}.train", *FLAGS, f"--{name}", "--out_dir", tmp_path / "run")
    words = f"this needs {PACKAGES[name]}: pip install {PACKAGES[name]}"
    assert_one_line_error(result, words)
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_logs(tmp_path, monkeypatch):
    """The others have a log without a folder, which starts nothing."""
    from gpt_common.metrics import RunLog

    package = Recorder()
    with RunLog(None, 0, 10, 64, 1, trackers=Trackers({"any": package.init})) as log:
        log.step(0, 0.1, {"loss": 1.0, "grad_norm": 1.0})
    assert package.started == package.logged == []


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_package(tmp_path, monkeypatch, name):
    """Without a network; where it is installed."""
    pytest.importorskip(PACKAGES[name])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = tmp_path / "run"
    result = command("gpt_torch.train", *FLAGS, "--steps", 2, f"--{name}", "--out_dir", run)
    assert result.returncode == 0, result.stderr
    assert "gets nothing any more" not in result.stderr
    written = {"wandb": run / "wandb", "trackio": tmp_path / "trackio"}[name]
    assert any(b"grad_norm" in path.read_bytes() for path in written.rglob("*") if path.is_file())
