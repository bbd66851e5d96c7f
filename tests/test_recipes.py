"""Recipes, and the tokens of an update."""

from typing import get_args

import pytest

from gpt_common.config import PRESETS, DataOptions, OptimizerOptions, Recipe, TrainConfig
from gpt_common.errors import InputError
from gpt_common.recipes import SIZES
from gpt_common.resume import parse_train_config
from gpt_common.schedule import learning_rate
from gpt_common.weights import num_parameters
from tests.conftest import TINY, assert_one_line_error

# Peak learning rates of GPT-3 Small, Medium, Large and XL: arXiv:2005.14165, table 2.1.
GPT3_PEAKS = {
    "gpt2_124m": 6e-4,
    "gpt2_350m": 3e-4,
    "gpt2_774m": 2.5e-4,
    "gpt2_1558m": 2e-4,
}
# A recipe's run that takes no time.
SMALL = ("--recipe", "gpt2_124m", *TINY, "--preset", "tiny", "--data", "shakespeare",
         "--batch_size", 4, "--total_batch_tokens", 96, "--dtype", "float32", "--no_compile",
         "--steps", 2)  # fmt: skip


def parse(*args):
    return parse_train_config("gpt_torch.train", [str(arg) for arg in args])


@pytest.mark.parametrize("recipe", get_args(Recipe))
def test_a_recipe_is_gpt3s_run_of_that_size(recipe):
    config = parse("--recipe", recipe)
    model, data, optimizer = config.model.gpt_config(), config.data, config.optimizer
    assert round(num_parameters(model) / 1e6) == {"gpt2_350m": 355}.get(recipe, int(recipe[5:-1]))
    assert data.batch_size * data.seq_len * config.grad_accum == 524_288
    assert data.seq_len == model.block_size == 1024
    assert optimizer.steps * 524_288 == pytest.approx(10e9, rel=1e-4)
    rates = [learning_rate(step, optimizer) for step in range(optimizer.steps)]
    assert rates[0] == pytest.approx(GPT3_PEAKS[recipe] / 715)
    assert max(rates) == rates[714] == GPT3_PEAKS[recipe]
    assert rates[-1] == pytest.approx(GPT3_PEAKS[recipe] / 10, rel=1e-4)
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.95)
    assert (optimizer.weight_decay, optimizer.grad_clip) == (0.1, 1.0)
    assert (config.runtime.dtype, config.runtime.compile) == ("bfloat16", True)
    assert config.output.eval_steps * data.batch_size == 10_240


def test_there_are_as_many_recipes_as_sizes_of_gpt2():
    assert set(SIZES) == set(get_args(Recipe))
    assert [size.preset for size in SIZES.values()] == [*PRESETS][:4]


def test_flags_override_a_recipe():
    config = parse("--recipe", "gpt2_124m", "--batch_size", 512, "--steps", 9, "--data", "x")
    assert (config.grad_accum, config.optimizer.steps, config.data.data) == (1, 9, "x")
    assert config.optimizer.learning_rate == 6e-4
    assert not parse("--recipe", "gpt2_124m", "--no_compile").runtime.compile
    assert parse("--recipe", "gpt2_124m", "--compile").runtime.compile


def test_batches_that_are_counted_replace_a_recipes_tokens():
    config = parse("--recipe", "gpt2_124m", "--grad_accum", 3)
    assert config.grad_accum == 3
    assert config.optimizer.total_batch_tokens is None


def test_a_resumed_run_keeps_the_options_of_its_recipe(train, call, framework, tmp_path):
    train(framework, *SMALL, "--out_dir", tmp_path)
    again = ("--resume", tmp_path, "--steps", 3, "--recipe")
    assert parse(*again[:-1]) == parse(*again, "gpt2_124m")
    assert parse(*again[:-1]).optimizer.learning_rate == 6e-4
    output = train(framework, *again, "gpt2_124m")
    assert "changed steps: 2 -> 3" in output
    other = call(f"gpt_{framework}.train", *again, "gpt2_350m")
    assert_one_line_error(other, "recipe is gpt2_124m, got gpt2_350m")


def test_accumulation_follows_from_the_tokens_of_an_update_and_is_printed(train, tmp_path):
    output = train("torch", *SMALL, "--out_dir", tmp_path)
    assert "| 96 tokens a step\n" in output
    assert "\ngrad_accum 3: batches of 4 x 8 tokens in each step\n" in output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--total_batch_tokens", 1000),
            "total_batch_tokens: expected a multiple of batch_size 4 x seq_len 8 = 32, got 1000",
        ),
        (
            ("--total_batch_tokens", 64, "--grad_accum", 2),
            "expected grad_accum or total_batch_tokens, got both: 2 and 64",
        ),
    ],
)
def test_tokens_that_make_no_whole_batches_are_one_line(call, framework, tmp_path, flags, words):
    result = call(f"gpt_{framework}.train", *TINY, *flags, "--out_dir", tmp_path / "run")
    assert_one_line_error(result, words)
    assert not (tmp_path / "run").exists()


def test_fewer_tokens_than_one_batch_are_refused():
    config = TrainConfig(
        data=DataOptions(batch_size=8, seq_len=16),
        optimizer=OptimizerOptions(total_batch_tokens=64),
    )
    with pytest.raises(InputError, match=r"expected a multiple of .* = 128, got 64"):
        _ = config.grad_accum


def test_the_number_of_batches_is_stored(train, tmp_path):
    """So that naming the default, when a run is resumed, changes nothing."""
    train("torch", *TINY, "--steps", 1, "--out_dir", tmp_path)
    again = parse("--resume", tmp_path, "--steps", 2, "--grad_accum", 1)
    assert again == parse("--resume", tmp_path, "--steps", 2)
    assert again.optimizer.grad_accum == 1
