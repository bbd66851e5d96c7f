"""Which device computes, and in which numbers."""

import numpy as np
import torch
from torch import Tensor

from gpt_common.config import Device, Dtype, DtypeOption
from gpt_common.errors import InputError


def select_device(name: Device, dtype: Dtype) -> torch.device:
    """Return the device called `name`; `auto` takes cuda, else mps, else cpu.

    Sets the precision of float32 matrix products: TensorFloat-32 where `dtype` is tf32 and nowhere
    else. Raises `InputError` where the device is not there or cannot compute in `dtype`.
    """
    found = available_devices()
    if name != "auto" and name not in found:
        raise InputError(f"device {name}: expected one of {', '.join(found)}")
    device = torch.device(found[0] if name == "auto" else name)
    lacks_float64 = device.type == "mps" and dtype == "float64"
    lacks_tf32 = device.type != "cuda" and dtype == "tf32"
    lacks_bfloat16 = (
        device.type == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported()
    )
    if lacks_float64 or lacks_tf32 or lacks_bfloat16:
        kind = device.type.replace("cuda", "cuda (ROCm)") if torch.version.hip else device.type
        raise InputError(f"device {kind} cannot compute in {dtype}; try --dtype float32")
    if device.type == "mps" and dtype == "bfloat16" and torch.__version__ < "2.13":
        # Before 2.13 its causal mask lets tokens see up to three later ones.
        raise InputError(
            f"device mps: in bfloat16 expected torch 2.13 or later, got {torch.__version__}"
        )
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    return device


def available_devices() -> list[str]:
    """Return the names of the devices that are there, the preferred first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name in there if there[name]), "cpu"]


def resolve_dtype(dtype: DtypeOption, name: Device) -> Dtype:
    """Return `dtype`; `auto` is bfloat16 on a GPU that has it, and float32 on any other device."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16(select_device(name, "float32")) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is a GPU that multiplies matrices of bfloat16 in hardware."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on the device, without waiting for what a GPU still computes."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
