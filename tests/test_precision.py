"""With `--dtype bfloat16` every product by a weight is rounded to bfloat16, in both twins."""

import ml_dtypes
import numpy as np
import pytest

from tests.conftest import random_weights
from tests.parity.twins import outcome


@pytest.mark.parametrize("layer", ["h.0.attn", "h.0.mlp", "logits"])
def test_products_are_in_bfloat16(framework, layer, odd_config):
    tokens = np.arange(34).reshape(2, 17)
    weights = random_weights(odd_config)
    found = outcome(framework, odd_config, weights, tokens, tokens, "bfloat16").layers[layer]
    assert (found == found.astype(ml_dtypes.bfloat16)).all()
