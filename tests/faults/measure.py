"""What a twin computes, beside the reference. `effects.py` runs this in a copy with a fault:

python -m tests.faults.measure torch 400
"""

import contextlib
import json
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gpt_common import assets
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import OptimizerOptions
from gpt_common.weights import Array
from tests.conftest import random_weights
from tests.figures import rounded
from tests.parity.comparisons import SMALL, passes
from tests.parity.reference import batch
from tests.parity.tolerances import outcome_differences
from tests.parity.twins import train_twin

CHARACTERS = replace(SMALL, vocab_size=127)  # that of ASCII, with a row of padding
MODEL = (
    "A character model of 3 layers, 5 heads and width 40, in float64; its weights are random, "
    "none of them 0 or 1. A pass over 3 x 17 characters of Shakespeare, and a run of 400 steps, "
    "each of 2 batches of 4 x 22: AdamW, 20 steps of warm-up to 1e-2, then a cosine, clipping at "
    "1, weight decay 0.1. Each loss is the mean of 10 steps."
)
OPTIONS = OptimizerOptions(
    steps=400,
    grad_accum=2,
    learning_rate=1e-2,
    min_lr=1e-3,
    warmup_steps=20,
    lr_schedule="cosine",
)
MEAN_OF = 10  # steps: one loss is noisy
LOSS_DIGITS = 4  # three would show as stairs


def measure(framework: str, steps: int) -> dict[str, Any]:
    """Return the differences of a pass, by layer and parameter, and the losses of a run.

    A run of fewer steps begins as one of 400, as long as it ends in the warm-up.
    """
    options = replace(OPTIONS, steps=steps)
    start, tokens = Checkpoint(CHARACTERS, random_weights(CHARACTERS, scale=0.1)), characters()
    x, y = batch(tokens, 0, 3, 17)
    ((*_, found, expected),) = passes(start, x, y, ("float64",), frameworks=(framework,))
    differences = outcome_differences(found, expected)
    with TemporaryDirectory() as folder:
        run = train_twin(framework, start, tokens, 4, 22, options, Path(folder), "float64")
    losses = np.reshape(run.losses, (-1, MEAN_OF)).mean(1).tolist()
    return {
        "layers": rounded(differences["layers"] | differences["logits"]),
        "gradients": rounded(differences["gradients"]),
        "losses": rounded(losses, LOSS_DIGITS),
    }


def characters() -> Array:
    """Return the bundled text's characters. With them a model of this size learns in 400 steps."""
    return np.frombuffer(files(assets).joinpath("shakespeare.txt").read_bytes(), np.uint8)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # where the trainer prints
        measured = measure(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(measured))
