"""GPT-2 in PyTorch: the twin of `gpt_flax`, file by file and function by function.

model = gpt_torch.load("gpt2")
for completion in gpt_torch.generate(model, prompts=[[15496, 11]]):
    print(completion.text)
"""

from typing import TYPE_CHECKING

from gpt_common.lazy import import_lazily
from gpt_common.startup import prepare

if TYPE_CHECKING:
    from gpt_common.config import GPTConfig, SamplingOptions, StoppingOptions
    from gpt_torch.generate import generate, load
    from gpt_torch.model import GPT

__all__ = ["GPT", "GPTConfig", "SamplingOptions", "StoppingOptions", "generate", "load"]

prepare("gpt_torch", "torch")
import_lazily(
    "gpt_torch",
    {
        "gpt_common.config": ("GPTConfig", "SamplingOptions", "StoppingOptions"),
        "gpt_torch.generate": ("generate", "load"),
        "gpt_torch.model": ("GPT",),
    },
)
