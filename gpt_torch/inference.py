"""`InferenceGPT`: a model for generation, its weights cast once and packed for small batches."""

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_common.config import Dtype, GPTConfig
from gpt_torch.cache import forward_cached
from gpt_torch.model import GPT
from gpt_torch.precision import product_dtype
from gpt_torch.weights import NoInitialization

COMPILED_STEPS = 64  # cache shapes; past torch's limit, by default 8, a step is not compiled
PACKED_ROWS = 32  # the batch size that oneDNN packs weights for; good for 1 to 512


class InferenceGPT(GPT):
    """A GPT-2 for generation, which cannot be trained; `prepare_for_inference` creates it."""

    def __init__(self, config: GPTConfig, compiled: bool) -> None:
        super().__init__(config)
        self.lm_head: nn.Module = nn.Identity()
        self.compiled = compiled
        self.step = forward_cached
        if compiled:
            limit = torch._dynamo.config.recompile_limit  # of the process, and may be the user's
            torch._dynamo.config.recompile_limit = max(limit, COMPILED_STEPS)
            self.step = torch.compile(forward_cached, dynamic=False)

    def head(self, x: Tensor) -> Tensor:
        """Return the logits `(..., V)` of the residual stream `(..., C)`, after its last norm."""
        logits: Tensor = self.lm_head(self.ln_f(x))[..., : self.config.vocab_size]
        return logits.to(self.wte.weight.dtype)


class InferenceLinear(nn.Module):
    """A linear layer whose weights are cast in advance, and on a CPU packed by oneDNN.

    A decoding step is bound by reading the weights, which are read in order if they are packed.
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
    """Whether to pack the weights; `supported` has the dtypes that oneDNN can pack.

    torch.compile accepts packed weights only if it has packed them itself.
    """
    return device_type == "cpu" and dtype in supported and not compiled


@cache
def onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes in which oneDNN packs weights on this processor: none except on x86."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return torch.float32, torch.bfloat16


def prepare_for_inference(model: GPT, dtype: Dtype, compiled: bool = False) -> InferenceGPT:
    """Return a model with the same weights for `generate`, which computes in `dtype`.

    It shares embeddings and norms with `model`; the other weights are copies. If `compiled`,
    torch.compile compiles the decoding step, once for each size of the cache.
    """
    compute = product_dtype(dtype, model.wte.weight.dtype)
    packed = can_pack(model.wte.weight.device.type, compute, onednn_dtypes(), compiled)
    with torch.device("meta"), NoInitialization():
        inference = InferenceGPT(model.config, compiled)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            prepared = InferenceLinear(layer.weight, layer.bias, compute, packed)
            inference.set_submodule(name, prepared)
        elif isinstance(layer, (nn.LayerNorm, nn.Embedding)):
            inference.set_submodule(name, layer)
    inference.lm_head = InferenceLinear(model.wte.weight, None, compute, packed)
    return inference
