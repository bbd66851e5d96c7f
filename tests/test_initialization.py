import numpy as np
import pytest

from gpt_common.config import PRESETS, GPTConfig
from gpt_common.initialization import initialize_weights
from gpt_common.weights import weight_shapes

CONFIG = GPTConfig(n_layer=8, n_head=4, n_embd=128, block_size=64, vocab_size=1000)


def test_names_shapes_and_types():
    weights = initialize_weights(CONFIG, seed=1)
    assert {name: w.shape for name, w in weights.items()} == weight_shapes(CONFIG)
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("transformer.wte.weight", 0.02),
        ("transformer.wpe.weight", 0.02),
        ("transformer.h.3.attn.c_attn.weight", 0.02),
        ("transformer.h.3.mlp.c_fc.weight", 0.02),
        ("transformer.h.3.attn.c_proj.weight", 0.02 / 4),  # sqrt(2 * 8 layers) is 4
        ("transformer.h.3.mlp.c_proj.weight", 0.02 / 4),
    ],
)
def test_standard_deviations(name, std):
    values = initialize_weights(CONFIG, seed=1)[name]
    assert abs(values.mean()) < 0.05 * std
    assert values.std() == pytest.approx(std, rel=0.03)


def test_norms_and_biases():
    for name, values in initialize_weights(CONFIG, seed=1).items():
        if name.endswith(".bias"):
            assert not values.any()
        elif ".ln_" in name:
            assert (values == 1).all()


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = (initialize_weights(CONFIG, seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["transformer.wte.weight"] != other["transformer.wte.weight"]).mean() > 0.99


def test_tensors_do_not_share_their_numbers():
    weights = initialize_weights(CONFIG, seed=1)
    first, second = (weights[f"transformer.h.{i}.mlp.c_fc.weight"] for i in (0, 1))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02


def test_the_numbers_of_seed_1337_do_not_change():
    """A run of last year starts from the same weights today."""
    weights = initialize_weights(PRESETS["tiny"], seed=1337)
    first = [float(v).hex() for v in weights["transformer.wte.weight"].ravel()[:3]]
    assert first == ["0x1.5a33e00000000p-7", "0x1.9d13d40000000p-10", "-0x1.751fc80000000p-12"]
    first = [float(v).hex() for v in weights["transformer.h.1.mlp.c_proj.weight"].ravel()[:3]]
    assert first == ["0x1.9a51d80000000p-6", "-0x1.54ce0e0000000p-7", "0x1.0546280000000p-8"]
