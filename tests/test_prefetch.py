import threading
import traceback
from itertools import count

import numpy as np
import pytest

import gpt_torch.train as torch_train
from gpt_common import data
from gpt_common.checkpoint import read_checkpoint
from gpt_common.prefetch import Prefetcher
from gpt_common.run_folder import run_checkpoints
from tests.conftest import CPU, TINY, assert_one_line_error
from tests.test_train import entries


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_results_come_in_order_and_the_next_is_read_meanwhile():
    read, numbers = threading.Semaphore(0), count()

    def next_number():
        read.release()
        return next(numbers)

    prefetcher = Prefetcher(next_number)
    for expected in range(5):
        assert prefetcher.next() == expected
    for _ in range(6):  # one more than was asked for
        assert read.acquire(timeout=60)
    prefetcher.close()
    assert next(numbers) == 6  # and no more than one


def test_an_error_reaches_the_caller_with_its_traceback():
    numbers = count()

    def fails_at_two():
        if next(numbers) == 2:
            raise ValueError("the third")
        return "a batch"

    prefetcher = Prefetcher(fails_at_two)
    assert [prefetcher.next(), prefetcher.next()] == ["a batch", "a batch"]
    with pytest.raises(ValueError, match="the third") as caught:
        prefetcher.next()
    prefetcher.close()
    assert "in fails_at_two" in "".join(traceback.format_exception(caught.value))


def test_the_thread_ends():
    before = prefetch_threads()
    prefetcher = Prefetcher(lambda: 1)
    prefetcher.next()
    assert len(prefetch_threads()) == len(before) + 1
    prefetcher.close()
    assert prefetch_threads() == before


def test_without_a_call_there_is_no_thread():
    before = prefetch_threads()
    prefetcher = Prefetcher(lambda: 1)
    assert prefetch_threads() == before
    prefetcher.close()


def tokens_file(path, bad=()):
    tokens = np.arange(200, dtype=np.uint16)
    tokens[list(bad)] = 60_000
    tokens.tofile(path)
    return path


def test_a_file_that_turns_out_wrong_ends_the_run_in_one_line(
    call, framework, tmp_path, monkeypatch
):
    """The batch with the wrong token is that of the third step, which the thread reads."""
    monkeypatch.setattr(data, "CHECKED_AT_START", 0)
    before = prefetch_threads()
    path, run = tokens_file(tmp_path / "a.bin", bad=[70]), tmp_path / "run"
    args = (*TINY, "--data", path, "--steps", 9, "--out_dir", run)
    result = call(f"gpt_{framework}.train", *args)
    assert_one_line_error(result, f"{path}: expected tokens below vocab_size 50257, got 60000")
    assert list(entries(run, "loss")) == [0, 1]
    assert prefetch_threads() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_the_thread_ends_with_the_run_however_it_ends(call, error, tmp_path, monkeypatch):
    def fails(*args):
        raise error

    before = prefetch_threads()
    monkeypatch.setattr(torch_train, "train_step", fails)
    args = (*TINY, "--data", tokens_file(tmp_path / "a.bin"), "--out_dir", tmp_path / "run")
    assert call("gpt_torch.train", *args).returncode
    assert prefetch_threads() == before


def test_a_checkpoint_is_of_the_batch_handed_out_not_of_the_one_read(tmp_path, train, monkeypatch):
    """Whichever is read by then: here the thread has always read one more."""
    read = Prefetcher.next

    def waits(prefetcher):
        batches = read(prefetcher)
        prefetcher.ahead.result()
        return batches

    monkeypatch.setattr(Prefetcher, "next", waits)
    path, run = tokens_file(tmp_path / "a.bin"), tmp_path / "run"
    args = ("--data", path, "--steps", 3, "--checkpoint_every", 1, "--out_dir", run)
    train("torch", *TINY, *args)
    positions = [read_checkpoint(f).training.loader["position"] for f in run_checkpoints(run)]
    assert sorted(positions) == [32, 64, 96]


def test_the_twins_shuffle_alike_and_not_as_the_data_is(train, tmp_path):
    runs = {}
    for name, flags in {"torch": ["--shuffle"], "flax": ["--shuffle"], "in_order": []}.items():
        folder, framework = tmp_path / name, "torch" if name == "in_order" else name
        train(framework, *TINY, *CPU, "--steps", 3, *flags, "--out_dir", folder)
        runs[name] = list(entries(folder, "loss").values())
    assert runs["torch"] == pytest.approx(runs["flax"], rel=5e-7)
    assert runs["torch"] != pytest.approx(runs["in_order"], rel=1e-5)
