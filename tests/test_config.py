import pytest

from gpt_common.config import PRESETS, GPTConfig, ModelOptions
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


def test_sizes_override_the_preset():
    options = ModelOptions(preset="tiny", n_layer=5, activation="gelu")
    assert options.gpt_config() == GPTConfig(
        n_layer=5, n_head=2, n_embd=8, block_size=64, activation="gelu"
    )
