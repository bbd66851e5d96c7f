"""The dtype of the weights, and that of matrix products."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from gpt_common.config import Dtype, DtypeOption

HALF: dict[Dtype, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def master_dtype(dtype: DtypeOption) -> torch.dtype:
    """Return the dtype of weights and moments: float64 for `--dtype float64`, else float32."""
    return torch.float64 if dtype == "float64" else torch.float32


def product_dtype(dtype: Dtype, weights: torch.dtype) -> torch.dtype:
    """Return the dtype of matrix products: `dtype` if it has 16 bits, else the `weights`'."""
    return HALF.get(dtype, weights)


def autocast(device: torch.device, dtype: Dtype) -> AbstractContextManager:
    """Return a context in which matrix products compute in `dtype`, if it has 16 bits."""
    return torch.autocast(device.type, HALF.get(dtype), enabled=dtype in HALF)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which matrix products compute: autocast's, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
