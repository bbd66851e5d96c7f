"""Evaluation as a user meets it: from both command lines."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from gpt_common import evaluation
from gpt_common.checkpoint import Checkpoint, write_checkpoint
from gpt_common.config import GPTConfig
from gpt_common.hellaswag import Counts, batches, count_correct, encode_examples, read_examples
from gpt_common.metrics import read_log
from tests.conftest import CPU, FRAMEWORKS, TINY, assert_one_line_error, random_weights
from tests.parity.twins import twin

MINIATURE = Path(__file__).parent / "hellaswag.jsonl"
MODEL = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=64)
TEXT = "Whose woods these are, nobody in the village knows. " * 15  # 181 tokens


@pytest.fixture(scope="module")
def start():
    return Checkpoint(MODEL, random_weights(MODEL, scale=0.5))


@pytest.fixture(scope="module")
def folder(start, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    write_checkpoint(path, start)
    return path


@pytest.fixture
def evaluate(call, folder):
    """Evaluate in this process, on a CPU."""
    return lambda framework, *args, init=folder: call(
        f"gpt_{framework}.evaluate", "--init", init, *CPU, "--batch_size", 4, *args
    )


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def numbers(words):
    return [float(word) for word in words if re.fullmatch(r"\d+\.\d+", word)]


def test_both_twins_print_the_same(evaluate, text):
    args = ("--data", "shakespeare", "--eval_tokens", 500, "--text", text)
    results = [evaluate(f, *args, "--hellaswag", MINIATURE) for f in FRAMEWORKS]
    assert [r.returncode for r in results] == [0, 0], results
    ours, theirs = (r.stdout.split() for r in results)
    assert [w for w in ours if "." not in w] == [w for w in theirs if "." not in w]
    assert numbers(ours) == pytest.approx(numbers(theirs), rel=2e-6)  # to the last digit
    assert [r.stderr for r in results] == ["", ""]
    _, *lines = results[0].stdout.splitlines()  # the first has the path of the model
    assert max(map(len, lines)) <= 80
    for words in ("data: shakespeare", "500", "text: text.txt", "build-nanogpt", "lm-eval"):
        assert words in results[0].stdout


def test_json(evaluate, framework, text):
    args = ("--data", "shakespeare", "--eval_tokens", 500, "--seq_len", 32, "--text", text)
    output = evaluate(framework, *args, "--stride", 16, "--hellaswag", MINIATURE, "--json").stdout
    assert output.count("\n") == 1
    results = json.loads(output)
    assert results["dtype"] == "float32"
    sizes = {"source": "shakespeare", "tokens": 500, "window": 32, "stride": 32}
    assert sizes.items() <= results["data"].items()
    sizes = {"source": str(text), "tokens": 180, "window": 64, "stride": 16}
    assert sizes.items() <= results["text"].items()
    for name in ("data", "text"):
        assert np.log(results[name]["perplexity"]) == pytest.approx(results[name]["loss"])
    # The parity tests hold each answer against the reference.
    right = {"build-nanogpt": (3, 2), "lm-eval": (3, 4)}
    assert results["hellaswag"].keys() == right.keys()
    for protocol, (correct, correct_norm) in right.items():
        found = results["hellaswag"][protocol]
        assert (found["correct"], found["correct_norm"], found["total"]) == (
            correct, correct_norm, 12,
        )  # fmt: skip
        assert found["acc_norm"] == pytest.approx(correct_norm / 12)
        p = correct / 12
        assert found["acc_stderr"] == pytest.approx(np.sqrt(p * (1 - p) / 12))


def test_the_validation_loss_is_the_trainers(evaluate, train, framework, tmp_path):
    run = tmp_path / "run"
    args = (*TINY[:-2], *CPU, "--steps", 1, "--batch_size", 3, "--eval_steps", 4)
    train(framework, *args, "--out_dir", run)
    (expected,) = [e["val_loss"] for e in read_log(run / "log.jsonl") if "val_loss" in e]
    args = ("--data", "shakespeare", "--seq_len", 8, "--eval_tokens", 3 * 8 * 4, "--json")
    result = evaluate(framework, *args, init=run)
    assert json.loads(result.stdout)["data"]["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_batch_size_changes_nothing(evaluate, framework, text):
    results = [
        json.loads(evaluate(framework, "--text", text, "--json", "--batch_size", size).stdout)
        for size in (4, 1)
    ]
    losses = [result["text"]["loss"] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_limit_and_one_protocol(evaluate, framework):
    args = ("--hellaswag", MINIATURE, "--limit", 5, "--protocol", "lm-eval", "--json")
    found = json.loads(evaluate(framework, *args).stdout)["hellaswag"]
    assert found.keys() == {"lm-eval"}
    assert found["lm-eval"]["total"] == 5


def test_the_processes_of_a_run_add_their_counts_up(framework, start):
    """What a trainer calls: each process its share, with a batch that does not divide it."""
    module = importlib.import_module(f"gpt_{framework}.evaluate")
    model = twin(framework).loaded(start)
    examples = encode_examples(read_examples(str(MINIATURE)), "lm-eval", MODEL)
    logprobs = module.numpy_logprobs(*model, "float32")
    shares = [batches(examples, MODEL.block_size, 8, rank, 3) for rank in range(3)]
    counts = [count_correct(share, logprobs) for share in shares]
    assert Counts(*map(sum, zip(*counts, strict=True))) == Counts(3, 4, 12)
    assert count_correct(shares[0], logprobs, stopped=lambda: True) is None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ["expected --data, --text or --hellaswag, got none of them"]),
        (("--text", "absent.txt"), ["absent.txt", "no such file"]),
        (("--text", "text.txt", "--stride", 0), ["stride must be positive, got 0"]),
        (("--text", "text.txt", "--stride", 65), ["stride must be at most block_size 64, got 65"]),
        (("--text", "latin1.txt"), ["latin1.txt: expected UTF-8 text", "position 3"]),
        (("--text", "empty.txt"), ["empty.txt: expected text, got an empty file"]),
        (("--text", "a.txt"), ["a.txt: expected at least 2 tokens, got 1"]),
        (("--data", "a.txt"), ["a.txt: validation: expected at least 2 tokens, got 0"]),
        (("--data", "text.txt", "--seq_len", 65), ["seq_len must be at most block_size 64"]),
        (("--data", "text.txt", "--eval_tokens", 0), ["eval_tokens must be positive"]),
        (("--data", "text.txt", "--batch_size", 0), ["batch_size must be positive"]),
        (("--hellaswag", "text.txt"), ["text.txt:1: expected a JSON object"]),
        (("--hellaswag", "absent.jsonl"), ["absent.jsonl: no such file"]),
        (("--hellaswag", MINIATURE, "--limit", -1), ["limit must not be negative"]),
        (("--hellaswag", MINIATURE, "--protocol", "x"), ["--protocol", "build-nanogpt"]),
        (("--text", "text.txt", "--limit", 5), ["limit: expected --hellaswag with it, got 5"]),
        (("--text", "text.txt", "--seq_len", 8), ["seq_len: expected --data with it, got 8"]),
        (("--data", "text.txt", "--stride", 8), ["stride: expected --text with it, got 8"]),
    ],
)
def test_wrong_input_is_one_line(args, words, evaluate, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("latin1.txt").write_bytes(b"caf\xe9")
    Path("empty.txt").write_bytes(b"")
    Path("a.txt").write_text("a")
    for framework in FRAMEWORKS:
        assert_one_line_error(evaluate(framework, *args), *words)


def test_a_model_with_another_vocabulary(evaluate, framework, checkpoint_folder, text):
    """The vocabulary of this one has 997 tokens."""
    result = evaluate(framework, "--hellaswag", MINIATURE, init=checkpoint_folder)
    assert_one_line_error(result, "HellaSwag: expected a model with GPT-2's vocabulary", "997")
    result = evaluate(framework, "--text", text, init=checkpoint_folder)
    assert_one_line_error(result, "text.txt", "expected tokens below vocab_size 997")


def test_a_model_that_has_diverged(evaluate, framework, text, tmp_path):
    weights = random_weights(MODEL)
    weights["transformer.ln_f.bias"][3] = np.nan
    write_checkpoint(tmp_path / "nan", Checkpoint(MODEL, weights))
    result = evaluate(framework, "--text", text, init=tmp_path / "nan")
    assert result.returncode == 1
    assert result.stderr == "error: a log-probability is not finite: the model has diverged\n"


def test_much_work_is_told(evaluate, framework, text, monkeypatch):
    """One line each where nobody looks; on a terminal it would be a bar."""
    monkeypatch.setattr(evaluation, "LARGE_EVALUATION", 10**8)
    args = ("--text", text, "--hellaswag", MINIATURE, "--protocol", "lm-eval", "--limit", 2)
    result = evaluate(framework, *args)
    assert result.stderr.splitlines() == [f"{text}: 512 tokens", "HellaSwag, lm-eval: 384 tokens"]


def test_a_long_name_on_a_narrow_terminal_does_not_break_the_table(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path = tmp_path / ("a-long-name-" * 9 + ".txt")
    path.write_text(TEXT)
    *_, row = evaluate("torch", "--text", path).stdout.splitlines()
    assert len(row) <= 80
    assert row.split()[2:5] == ["180", "64", "32"]


def test_a_loss_whose_perplexity_is_not_a_number():
    windows = evaluation.Windows(np.arange(9, dtype=np.uint16), 4, 4)
    assert evaluation.loss_results(windows, 800.0)["perplexity"] is None
