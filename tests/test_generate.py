"""Sampling as a user meets it."""

import pytest

from gpt_common import tokenizer
from gpt_common.checkpoint import Checkpoint, write_checkpoint
from gpt_common.config import GPTConfig
from tests.conftest import FRAMEWORKS, assert_one_line_error, command, random_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model with opinions: random weights large enough that the logits differ."""
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=40)
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    write_checkpoint(path, Checkpoint(config, random_weights(config)))
    return path


@pytest.fixture
def generate(call):
    """Generate in this process, and return what is printed."""

    def generate(framework, folder, *args):
        result = call(f"gpt_{framework}.generate", "--init", folder, *args)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return generate


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--prompt", "", "--max_length", 40, "--seed", 3),
        ("--temperature", 0, "--num_samples", 1),
    ],
)
def test_both_twins_write_the_same_text(generate, folder, args):
    ours, theirs = (generate(framework, folder, *args) for framework in FRAMEWORKS)
    assert ours == theirs
    assert ours.startswith("> ")


def test_both_twins_write_the_same_text_from_the_whole_vocabulary(folder):
    """In float64: in float32 one draw of some hundreds falls within rounding of a boundary."""
    args = ("--init", folder, "--top_k", 0, "--temperature", 1.7, "--dtype", "float64")
    ours, theirs = (command(f"gpt_{f}.generate", *args) for f in FRAMEWORKS)
    assert ours.returncode == theirs.returncode == 0
    assert ours.stdout == theirs.stdout


def test_five_rows_of_thirty_tokens(generate, framework, folder):
    rows = generate(framework, folder).split("> Hello, I'm a language model,")
    assert rows[0] == ""
    assert len(rows) == 6
    assert len(set(rows)) == 6
    assert tokenizer.encode("Hello, I'm a language model,") == tokenizer.encode(
        generate(framework, folder)[2:30]
    )


def test_the_number_of_samples_does_not_change_a_sample(generate, framework, folder):
    five, two = (generate(framework, folder, "--num_samples", n) for n in (5, 2))
    assert five.startswith(two)


def test_seeds(generate, framework, folder):
    first, again, other = (generate(framework, folder, "--seed", seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--max_length", 41), ("at most block_size 40, got 41",)),
        (("--max_length", 8), ("above the prompt's 8 tokens, got 8",)),
        (("--temperature", -1), ("temperature must not be negative",)),
        (("--num_samples", 0), ("num_samples must be positive",)),
        (("--init", "nowhere"), ("nowhere: expected a checkpoint folder",)),
    ],
)
def test_wrong_input_is_one_line(call, framework, folder, args, words):
    assert_one_line_error(call(f"gpt_{framework}.generate", "--init", folder, *args), *words)


def test_init_is_required(call, framework):
    assert_one_line_error(call(f"gpt_{framework}.generate"), "--init")
