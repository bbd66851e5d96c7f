"""The device, and the dtypes that it can compute in."""

import numpy as np
import torch
from torch import Tensor

from gpt_common.config import Device, Dtype, DtypeOption
from gpt_common.errors import InputError


def select_device(name: Device, dtype: Dtype) -> torch.device:
    """Return the device called `name`; `auto` is cuda, else mps, else cpu.

    Sets the precision of float32 matrix products: TensorFloat-32 only if `dtype` is tf32. Raises
    `InputError` if the device is not available or cannot compute in `dtype`.
    """
    found = available_devices()
    if name != "auto" and name not in found:
        raise InputError(f"device {name}: expected one of {', '.join(found)}")
    device = torch.device(found[0] if name == "auto" else name)
    check_dtype(device.type, dtype)
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    return device


def check_dtype(device_type: str, dtype: Dtype) -> None:
    """Raise `InputError` if the device cannot compute in `dtype`."""
    lacks_float64 = device_type == "mps" and dtype == "float64"
    lacks_tf32 = dtype == "tf32" and (device_type != "cuda" or torch.version.hip is not None)
    lacks_bfloat16 = (
        device_type == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported()
    )
    lacks_float16 = device_type == "mps" and dtype == "float16"  # not tested
    if lacks_float64 or lacks_tf32 or lacks_bfloat16 or lacks_float16:
        kind = device_type.replace("cuda", "cuda (ROCm)") if torch.version.hip else device_type
        instead = "float16 or float32" if lacks_bfloat16 else "float32"
        raise InputError(f"device {kind} cannot compute in {dtype}; try --dtype {instead}")
    # Before torch 2.13 the causal mask of MPS leaks future tokens in bfloat16.
    if device_type == "mps" and dtype == "bfloat16" and torch.__version__ < "2.13":
        raise InputError(f"device mps: bfloat16 needs torch 2.13, got {torch.__version__}")


def available_devices() -> list[str]:
    """Return the names of the available devices, the preferred one first."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name in available if available[name]), "cpu"]


def resolve_dtype(dtype: DtypeOption, name: Device) -> Dtype:
    """Return `dtype`; `auto` is bfloat16 on a GPU that supports it, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16(select_device(name, "float32")) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is a GPU that multiplies matrices of bfloat16 in hardware."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on the device, without waiting for a GPU's work."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
