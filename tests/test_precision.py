"""In 16 bits every product by a weight is rounded to them, in both twins."""

import ml_dtypes
import numpy as np
import pytest

from tests.conftest import random_weights
from tests.parity.twins import outcome


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layer", ["h.0.attn", "h.0.mlp", "logits"])
def test_products_are_in_16_bits(framework, layer, dtype, odd_config):
    tokens = np.arange(34).reshape(2, 17)
    weights = random_weights(odd_config)
    found = outcome(framework, odd_config, weights, tokens, tokens, dtype).layers[layer]
    assert (found == found.astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))).all()
