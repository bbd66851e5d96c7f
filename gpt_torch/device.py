"""Which device computes, and in which numbers."""

import time

import torch

from gpt_common.config import Device, Dtype, DtypeOption
from gpt_common.errors import InputError
from gpt_common.hardware import auto_dtype, processor


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
        raise InputError(f"device {device.type} cannot compute in {dtype}; try --dtype float32")
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    return device


def available_devices() -> list[str]:
    """Return the names of the devices that are there, the preferred first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name in there if there[name]), "cpu"]


def resolve_dtype(dtype: DtypeOption, name: Device) -> Dtype:
    """Return `dtype`; for `auto` what suits the device called `name`, by trying it."""
    if dtype != "auto":
        return dtype
    device = select_device(name, "float32")
    return auto_dtype(has_bfloat16(device), lambda dtype: product_seconds(device, dtype))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices of bfloat16 in hardware, as far as is known."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor().bfloat16


def product_seconds(device: torch.device, dtype: Dtype) -> float:
    """Return the seconds that a product of two 1024 x 1024 matrices takes, the best of five."""
    a = torch.ones(1024, 1024, device=device, dtype=getattr(torch, dtype))
    times = []
    for _ in range(6):  # the first warms up
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def master_dtype(dtype: DtypeOption) -> torch.dtype:
    """Return the type of weights and moments: float32 but for float64."""
    return torch.float64 if dtype == "float64" else torch.float32
