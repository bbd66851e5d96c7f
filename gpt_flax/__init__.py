"""GPT-2 in pure-functional Flax: the twin of `gpt_torch`, file by file and function by function.

params, model = gpt_flax.load("gpt2")
for completion in gpt_flax.generate(params, model, prompts=[[15496, 11]]):
    print(completion.text)
"""

from typing import TYPE_CHECKING

from gpt_common.lazy import import_lazily
from gpt_common.startup import prepare

if TYPE_CHECKING:
    from gpt_common.config import GPTConfig, SamplingOptions, StoppingOptions
    from gpt_flax.generate import generate, load
    from gpt_flax.model import GPT

__all__ = ["GPT", "GPTConfig", "SamplingOptions", "StoppingOptions", "generate", "load"]

prepare("gpt_flax", "jax", "flax", "optax")
import_lazily(
    "gpt_flax",
    {
        "gpt_common.config": ("GPTConfig", "SamplingOptions", "StoppingOptions"),
        "gpt_flax.generate": ("generate", "load"),
        "gpt_flax.model": ("GPT",),
    },
)
