"""`python -m gpt_common.prepare`: the shards, whatever interrupts it."""

import gzip
import hashlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from gpt_common import prepare, tokenizer
from gpt_common.data import load_splits
from gpt_common.documents import HUB
from gpt_common.lock import FolderLock
from gpt_common.prepare import PrepareConfig
from gpt_common.shards import ShardWriter, read_manifest
from gpt_common.token_files import open_tokens
from tests.conftest import TINY, assert_one_line_error
from tests.test_crash import KILLED, ROOT, die_at

END = tokenizer.END_OF_TEXT_TOKEN


def texts(count):
    """Documents of many lengths, among them empty ones and one longer than a shard."""
    random = np.random.default_rng(0)
    words = [f" word{i} <|endoftext|>é\n" for i in range(50)]
    lengths = [int(n) for n in random.integers(0, 12, count)]
    lengths[count // 2] = 150
    return ["half a character \ud800", *("".join(random.choice(words, n)) for n in lengths[1:])]


def expected_tokens(source_texts):
    """One document at a time, with tiktoken's plainest call."""
    encoding = tokenizer.get_encoding()
    return [t for text in source_texts for t in [END, *encoding.encode_ordinary(text)]]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of .jsonl, .jsonl.gz and .txt, of 61 documents: several pieces, several tasks."""
    monkeypatch.setattr(prepare, "PIECE_CHARACTERS", 50)
    monkeypatch.setattr(prepare, "TASK_CHARACTERS", 400)
    folder = tmp_path / "source"
    folder.mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in texts(60)]
    (folder / "a.jsonl").write_text("".join(lines[:40]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[40:]).encode()))
    (folder / "c.txt").write_text("the last one")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tokens_in(folder):
    names = sorted(name for name in os.listdir(folder) if name.endswith(".bin"))
    names.sort(key=lambda name: name.partition("_")[2])
    return [t for name in names for t in open_tokens(folder / name)[:].tolist()]


def run_prepare(call, source, folder, *args):
    flags = ("--shard_tokens", 300, "--workers", 1, *args)
    return call("gpt_common.prepare", source, folder, *flags)


@pytest.fixture
def whole(call, source, tmp_path):
    """What comes of it if nothing interrupts it."""
    folder = tmp_path / "whole"
    assert run_prepare(call, source, folder).returncode == 0
    return contents(folder)


def test_shards_hold_the_documents_in_order(call, source, tmp_path):
    folder = tmp_path / "shards"
    result = run_prepare(call, source, folder)
    assert result.returncode == 0, result.stderr
    expected = expected_tokens([*texts(60), "the last one"])
    assert tokens_in(folder) == expected
    count = -(-len(expected) // 300)
    names = ["val_000000.bin", *(f"train_{i:06d}.bin" for i in range(1, count))]
    assert sorted(os.listdir(folder)) == sorted([*names, "manifest.json"])
    assert all(len(open_tokens(folder / name)) == 300 for name in names[:-1])
    assert (
        result.stdout == f"{folder}: {len(expected):,} tokens of 61 documents in {count} shards\n"
    )
    assert len(result.stderr.splitlines()) == count
    assert result.stderr.startswith("val_000000.bin: 300 tokens, ")


def test_a_manifest_says_what_is_there(call, source, tmp_path):
    run_prepare(call, source, folder := tmp_path / "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"]["path"] == "source"
    assert manifest["tokenizer"] == "gpt2"
    assert manifest["complete"] is True
    assert (manifest["documents"], manifest["tokens"]) == (61, len(tokens_in(folder)))
    for shard in manifest["shards"]:
        content = (folder / shard["name"]).read_bytes()
        tokens = open_tokens(folder / shard["name"])[:]
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["tokens"] == len(tokens)
        assert shard["documents"] == (tokens == END).sum()


def test_the_header_is_llmcs(call, source, tmp_path):
    run_prepare(call, source, folder := tmp_path / "shards")
    content = (folder / "train_000001.bin").read_bytes()
    header = np.frombuffer(content[:1024], "<i4")
    assert header[:3].tolist() == [20240520, 1, 300]
    assert len(content) == 1024 + 2 * 300


def test_a_model_trains_on_the_shards(call, source, tmp_path, framework):
    run_prepare(call, source, folder := tmp_path / "shards")
    train, val = load_splits(str(folder), 0.1, 50257)
    assert [*val[:].tolist(), *train[:].tolist()] == tokens_in(folder)
    assert len(val) == 300
    args = (*TINY, "--data", folder, "--steps", 2, "--out_dir", tmp_path / "run")
    assert f"{len(train):,} tokens to train on" in call(f"gpt_{framework}.train", *args).stdout


def test_the_number_of_workers_does_not_matter(call, source, whole, tmp_path):
    assert run_prepare(call, source, tmp_path / "three", "--workers", 3).returncode == 0
    assert contents(tmp_path / "three") == whole


def die_at_every_instant(source, folder):
    """For each instant of a preparation: die there, in a child process, in a folder of its own."""
    prepare.PIECE_CHARACTERS, prepare.TASK_CHARACTERS = 50, 400
    for instant in itertools.count():
        if (child := os.fork()) == 0:
            die_at(instant)
            config = PrepareConfig(source, f"{folder}/{instant:03d}", "text", 2000, 1)
            prepare.prepare(config)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != KILLED:
            sys.exit(code)


def test_a_death_at_any_instant_neither_repeats_nor_loses_a_document(
    call, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug
    folder = tmp_path / "cut"
    folder.mkdir()
    code = "from tests import test_prepare as t; t.die_at_every_instant("
    code += f"{str(source)!r}, {str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    *cut, whole = sorted(folder.iterdir())
    assert len(contents(whole)) == 4
    assert len(cut) > 20
    for folder in cut:
        assert contents(folder) != contents(whole)
        result = run_prepare(call, source, folder, "--shard_tokens", 2000)
        assert result.returncode == 0, result.stderr
        assert contents(folder) == contents(whole), folder


def test_each_shard_may_be_written_by_another_process(call, source, whole, tmp_path, monkeypatch):
    """Each starts within a document, of which the one before wrote a part."""
    write_shard, folder = ShardWriter._write_shard, tmp_path / "cut"

    def one_only(writer, complete):
        write_shard(writer, complete)
        if not complete:
            raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "_write_shard", one_only)
    codes = [run_prepare(call, source, folder).returncode for _ in range(len(whole) - 1)]
    assert codes == [*[128 + signal.SIGINT] * (len(whole) - 2), 0]
    assert contents(folder) == whole


@pytest.fixture
def long_source(tmp_path):
    """More than is encoded by the time that the first shard is there."""
    path = tmp_path / "long.jsonl"
    line = json.dumps({"text": "So shaken as we are, so wan with care, " * 1000}) + "\n"
    path.write_text(line * 200)
    return path


def start(source, folder):
    """Start the command, and return its process once it has written a shard."""
    args = (source, folder, "--shard_tokens", 50_000, "--workers", 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt_common.prepare", *map(str, args)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr.readline().startswith("val_000000.bin: 50,000 tokens")
    return process


def wait_for_the_group(process):
    """Wait until the workers have ended, too."""
    for _ in range(1000):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlive their parent")


def test_a_killed_process_is_continued_and_its_workers_end(call, long_source, tmp_path):
    process = start(long_source, tmp_path / "cut")
    process.kill()
    process.communicate(timeout=60)
    wait_for_the_group(process)
    assert not read_manifest(tmp_path / "cut").complete
    args = ("--shard_tokens", 50_000, "--workers", 1)
    for name in ("cut", "whole"):
        result = call("gpt_common.prepare", long_source, tmp_path / name, *args)
        assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_ctrl_c_is_one_line(long_source, tmp_path):
    """A terminal sends it to the workers, too."""
    process = start(long_source, tmp_path / "cut")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    lines = [line for line in errors.splitlines() if not line.startswith("train_")]
    assert lines == ["error: interrupted"]
    wait_for_the_group(process)
    assert not [path for path in (tmp_path / "cut").iterdir() if path.name.startswith(".")]


def test_a_worker_gets_no_ctrl_c():
    """Not while it starts either, nor while it has nothing to do."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with prepare.ctrl_c_blocked():
            starting = pool.submit(os.getpid)
        (worker,) = pool._processes
        os.kill(worker, signal.SIGINT)
        assert starting.result() == worker
        os.kill(worker, signal.SIGINT)
        assert pool.submit(os.getpid).result() == worker


def test_ctrl_c_while_a_worker_starts_comes_later():
    def start():
        with prepare.ctrl_c_blocked():
            signal.raise_signal(signal.SIGINT)
            started.append(True)

    started = []
    with pytest.raises(KeyboardInterrupt):
        start()
    assert started


def test_a_worker_that_is_killed_is_one_line(call, source, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "start_worker", os.abort)
    flags = ("--workers", 2)
    result = run_prepare(call, source, tmp_path / "shards", *flags)
    assert_one_line_error(result, "a worker was killed", "fewer --workers")


def test_a_full_disk_is_one_line_and_what_is_there_is_continued(call, source, whole, tmp_path):
    folder, limits = tmp_path / "shards", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1200, limits[1]))  # less than a shard
    try:
        result = run_prepare(call, source, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_line_error(result, "File too large", "val_000000.bin")
    assert os.listdir(folder) == ["manifest.json"]
    run_prepare(call, source, folder)
    assert contents(folder) == whole


def test_again_is_nothing_to_do(call, source, tmp_path):
    folder = tmp_path / "shards"
    first = run_prepare(call, source, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = run_prepare(call, source, folder)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--shard_tokens", 200), "of shard_tokens 300, got 200"),
        (("--text_field", "body"), "of field 'text', got 'body'"),
        ((), "of bytes "),
    ],
)
def test_shards_of_something_else_are_not_continued(call, source, tmp_path, flags, words):
    run_prepare(call, source, tmp_path / "shards")
    if not flags:
        (source / "c.txt").write_text("longer than it was")
    before = contents(tmp_path / "shards")
    result = run_prepare(call, source, tmp_path / "shards", *flags)
    assert_one_line_error(result, words)
    assert contents(tmp_path / "shards") == before


def test_a_folder_of_something_else_stays(call, source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train_000001.bin").write_text("mine")
    result = run_prepare(call, source, tmp_path / "mine")
    assert_one_line_error(result, "mine: expected an empty folder, got one with train_000001.bin")
    assert os.listdir(tmp_path / "mine") == ["train_000001.bin"]


def test_a_folder_is_of_one_process_at_a_time(call, source, tmp_path):
    (tmp_path / "shards").mkdir()
    lock = FolderLock(tmp_path / "shards")
    assert_one_line_error(run_prepare(call, source, tmp_path / "shards"), "in use by process")
    lock.release()


def test_a_wrong_document_stops_it_where_it_is(call, source, tmp_path):
    with (source / "a.jsonl").open("a") as file:
        file.write("{}\n")
    result = run_prepare(call, source, tmp_path / "shards")
    assert result.returncode == 2
    message = f"error: {source}/a.jsonl: line 41: expected a field 'text'"
    assert result.stderr.splitlines()[-1].startswith(message)


def test_too_little_for_training_says_what_would_do(call, source, tmp_path):
    folder = tmp_path / "shards"
    flags = ("--shard_tokens", 100_000)
    result = run_prepare(call, source, folder, *flags)
    assert_one_line_error(result, "expected more than 100,000 tokens", "--shard_tokens ")
    enough = result.stderr.split("--shard_tokens ")[1].strip()
    assert run_prepare(call, source, folder, "--shard_tokens", enough).returncode == 0
    assert len(load_splits(str(folder), 0.1, 50257)[1]) == int(enough)


def test_no_documents_are_refused(call, tmp_path):
    (tmp_path / "a.jsonl").touch()
    result = run_prepare(call, tmp_path / "a.jsonl", tmp_path / "shards")
    assert_one_line_error(result, "a.jsonl: expected documents, got none")


@pytest.mark.parametrize(
    ("name", "package"),
    [("a.parquet", "pyarrow"), ("a.txt.zst", "pyarrow"), ("openwebtext", "datasets")],
)
def test_a_missing_extra_is_named(call, tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).touch()
    source = name if name in HUB else tmp_path / name
    result = run_prepare(call, source, tmp_path / "shards")
    assert_one_line_error(result, f"this needs {package}: pip install datasets pyarrow")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--shard_tokens", 0), "shard_tokens must be positive, got 0"),
        (("--shard_tokens", 2**31), "shard_tokens must be at most 2147483647"),
        (("--workers", 0), "workers must be positive, got 0"),
    ],
)
def test_wrong_flags(call, source, tmp_path, flags, words):
    assert_one_line_error(run_prepare(call, source, tmp_path / "shards", *flags), words)
    assert not (tmp_path / "shards").exists()


def test_a_terminal_shows_a_bar(call, source, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = run_prepare(call, source, tmp_path / "shards")
    assert "━" in result.stderr
    assert "100%" in result.stderr


def test_other_programs_shards_of_the_same_documents_have_the_same_tokens(call, tmp_path):
    """The bytes that build-nanogpt's, llm.c's and nanoGPT's scripts write, and where END is."""
    documents = texts(40)[1:]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in documents))
    run_prepare(call, tmp_path / "a.jsonl", ours := tmp_path / "ours")
    tokens = np.array(expected_tokens(documents), np.uint16)
    for name in ("build-nanogpt", "llm.c", "nanogpt"):
        (tmp_path / name).mkdir()
    for number, start in enumerate(range(0, len(tokens), 300)):
        shard, split = tokens[start : start + 300], "train" if number else "val"
        np.save(tmp_path / "build-nanogpt" / f"edufineweb_{split}_{number:06d}", shard)
        header = np.array([20240520, 1, len(shard), *[0] * 253], np.int32)
        content = header.tobytes() + shard.tobytes()
        (tmp_path / "llm.c" / f"edu_fineweb_{split}_{number:06d}.bin").write_bytes(content)
        assert content == (ours / f"{split}_{number:06d}.bin").read_bytes()
    np.append(tokens[1:], END).astype(np.uint16).tofile(tmp_path / "nanogpt" / "train.bin")
    splits = {path.name: load_splits(str(path), 0.1, 50257) for path in tmp_path.iterdir()
              if path.is_dir() and path.name != "nanogpt"}  # fmt: skip
    for train, val in splits.values():
        assert [*val[:].tolist(), *train[:].tolist()] == tokens.tolist()
    train, val = load_splits(str(tmp_path / "nanogpt"), 0.1, 50257)
    assert [END, *train[:].tolist(), *val[:].tolist()] == [*tokens.tolist(), END]


@pytest.mark.slow
def test_ten_kills_at_random_instants_leave_the_same_bytes(call, long_source, tmp_path):
    """SIGKILLs to one preparation, each while it writes another shard."""
    random, args = np.random.default_rng(0), ("--shard_tokens", 5_000, "--workers", 2)
    command = (sys.executable, "-m", "gpt_common.prepare", long_source, tmp_path / "cut", *args)
    sizes = [0]
    for _ in range(10):
        process = subprocess.Popen(
            [*map(str, command)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        for _ in range(random.integers(1, 5)):
            assert process.stderr.readline().endswith("documents\n")
        time.sleep(random.uniform(0, 0.01))
        process.kill()
        process.communicate(timeout=60)
        wait_for_the_group(process)
        assert process.returncode == -signal.SIGKILL
        sizes.append(len(read_manifest(tmp_path / "cut").shards))
    assert sizes == sorted(set(sizes))
    assert not read_manifest(tmp_path / "cut").complete
    for name in ("cut", "whole"):
        assert call("gpt_common.prepare", long_source, tmp_path / name, *args).returncode == 0
    assert len(contents(tmp_path / "whole")) > sizes[-1] + 10
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
