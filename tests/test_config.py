import dataclasses
import math
import re

import pytest

from gpt_common.config import (
    PRESETS,
    DataOptions,
    GPTConfig,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    PromptOptions,
    RuntimeOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.errors import InputError
from gpt_common.weights import num_parameters


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [  # of the four released models, as transformers counts them
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("shakespeare", 9_938_080),
        ("tiny", 404_328),
    ],
)
def test_parameters_of_presets(preset, parameters):
    assert num_parameters(PRESETS[preset]) == parameters


@pytest.mark.parametrize(("vocab_size", "rows"), [(50257, 50304), (64, 64), (65, 128), (997, 1024)])
def test_padded_vocabulary(vocab_size, rows):
    assert GPTConfig(vocab_size=vocab_size).padded_vocab_size == rows


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_layer": 0}, "n_layer must be positive, got 0"),
        ({"n_embd": -8}, "n_embd must be positive, got -8"),
        ({"n_head": 7}, "n_embd 768, n_head 7"),
        ({"activation": "relu"}, "got 'relu'"),
    ],
)
def test_impossible_shapes_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        GPTConfig(**fields)


def test_flags_without_an_effect_are_noted():
    unused = TrainConfig(optimizer=OptimizerOptions(min_lr=1e-4, lr_decay_steps=9))
    effect = "has no effect: --lr_schedule is constant"
    assert unused.notes == [f"--min_lr {effect}", f"--lr_decay_steps {effect}"]
    cosine = dataclasses.replace(unused.optimizer, lr_schedule="cosine")
    assert TrainConfig(optimizer=cosine).notes == TrainConfig().notes == []
    assumed = OutputOptions(mfu=0.5)
    assert TrainConfig(output=assumed).notes == ["--mfu has no effect without --dry_run"]
    assert TrainConfig(output=dataclasses.replace(assumed, dry_run=True)).notes == []


def test_sizes_override_the_preset():
    options = ModelOptions(preset="tiny", n_layer=5, activation="gelu")
    assert options.gpt_config() == GPTConfig(
        n_layer=5, n_head=2, n_embd=8, block_size=64, activation="gelu"
    )


REFUSED = {
    DataOptions: {"val_fraction": (-0.1, 1.0), "batch_size": (0, -1), "seq_len": (0,)},
    OptimizerOptions: {
        **dict.fromkeys(
            ("steps", "grad_accum", "total_batch_tokens", "eps", "lr_decay_steps"), (0, -1)
        ),
        **dict.fromkeys(("beta1", "beta2"), (-0.1, 1.0)),
        **dict.fromkeys(
            ("learning_rate", "min_lr", "weight_decay", "grad_clip"),
            (-1.0, 1e39, math.inf, math.nan),  # float32 ends at 3.4e38
        ),
        "warmup_steps": (-1,),
    },
    RuntimeOptions: {"seed": (-1,)},
    OutputOptions: {
        **dict.fromkeys(("log_every", "eval_steps"), (0,)),
        **dict.fromkeys(("eval_every", "sample_every", "checkpoint_every", "keep_last"), (-1,)),
    },
    SamplingOptions: {
        **dict.fromkeys(("top_k", "seed"), (-1,)),
        "temperature": (-1.0, math.inf),
        "top_p": (0.0, 1.1),
        "min_p": (-0.1, 1.0),
        "repetition_penalty": (0.0, math.inf),
    },
    StoppingOptions: dict.fromkeys(("max_length", "max_new_tokens"), (0, -1)),
    PromptOptions: {"num_samples": (0, -1)},
}


@pytest.mark.parametrize("options", REFUSED)
def test_options_that_make_no_sense_are_refused_by_name(options):
    for name, values in REFUSED[options].items():
        for value in values:
            with pytest.raises(InputError, match=rf"^{name} must .*, got {re.escape(str(value))}"):
                options(**{name: value})
