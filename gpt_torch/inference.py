"""`InferenceGPT`: weights to generate with, in the type that computes and packed for few rows."""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import Dtype, GPTConfig
from gpt_torch.cache import forward_cached
from gpt_torch.model import GPT

PACKED_ROWS = 32  # the number of rows that oneDNN lays weights out for; good from 1 to 512


class InferenceGPT(GPT):
    """A GPT-2 to generate with, not to train: `prepare_for_inference` makes it."""

    def __init__(self, config: GPTConfig, compiled: bool) -> None:
        super().__init__(config)
        self.lm_head: nn.Module = nn.Identity()
        self.compiled = compiled
        self.step = torch.compile(forward_cached, dynamic=False) if compiled else forward_cached

    def head(self, x: Tensor) -> Tensor:
        """Norm the residual stream `(..., C)`, and return its logits `(..., V)`."""
        logits: Tensor = self.lm_head(self.ln_f(x))[..., : self.config.vocab_size]
        return logits.to(self.wte.weight.dtype)


class InferenceLinear(nn.Module):
    """A linear layer whose weights are already cast, and on a CPU packed by oneDNN.

    A step of generation reads every weight for a few rows; packed weights are read in order.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packed: bool
    ) -> None:
        super().__init__()
        weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.dtype, self.packed = dtype, packed
        if packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., in)` to `(..., out)`."""
        x = x.to(self.dtype)
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], None)
        return F.linear(x, self.weight, self.bias)


def can_pack(
    device_type: str, dtype: torch.dtype, supported: tuple[torch.dtype, ...], compiled: bool
) -> bool:
    """Whether weights are packed; `supported` is what oneDNN can pack here.

    torch.compile takes packed weights only where it has packed them itself.
    """
    return device_type == "cpu" and dtype in supported and not compiled


@cache
def onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Return the types in which oneDNN packs weights on this processor: none but on x86."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return torch.float32, torch.bfloat16


def prepare_for_inference(model: GPT, dtype: Dtype, compiled: bool = False) -> InferenceGPT:
    """Return a model with the same weights for `generate`, which computes in `dtype`.

    Embeddings and norms are shared; the other weights are copies. It cannot be trained. `compiled`
    has torch.compile compile the step from one token to the next, for each size of the cache.
    """
    compute = torch.bfloat16 if dtype == "bfloat16" else model.wte.weight.dtype
    packed = can_pack(model.wte.weight.device.type, compute, onednn_dtypes(), compiled)
    with torch.device("meta"):
        inference = InferenceGPT(model.config, compiled)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            prepared = InferenceLinear(layer.weight, layer.bias, compute, packed)
            inference.set_submodule(name, prepared)
        elif isinstance(layer, (nn.LayerNorm, nn.Embedding)):
            inference.set_submodule(name, layer)
    inference.lm_head = InferenceLinear(model.wte.weight, None, compute, packed)
    return inference
