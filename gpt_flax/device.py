"""Which device computes, and in which numbers."""

import os

import jax

from gpt_common.cache import cache_folder
from gpt_common.config import Device, Dtype, DtypeOption
from gpt_common.errors import InputError


def select_device(name: Device, dtype: Dtype) -> jax.Device:
    """Return the device called `name`; `auto` takes cuda, else cpu. jax then computes on it.

    Call it before anything else touches jax. Sets the precision of float32 matrix products, which
    jax would leave to the GPU: TensorFloat-32 where `dtype` is tf32 and nowhere else. Raises
    `InputError` where the device is not there or cannot compute in `dtype`.
    """
    if name == "cpu":  # before jax looks for others, and takes most of a GPU's memory
        jax.config.update("jax_platforms", "cpu")
    # On a CPU a step that waits for another starts no sooner, but has its memory: 1.8 GB for GPT-2.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    found = available_devices()
    if name != "auto" and name not in found:
        raise InputError(f"device {name}: expected one of {', '.join(found)}")
    chosen = found[0] if name == "auto" else name
    if chosen != "cuda" and dtype == "tf32":
        raise InputError(f"device {chosen} cannot compute in {dtype}; try --dtype float32")
    precision = "tensorfloat32" if dtype == "tf32" else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    device = jax.devices(chosen)[0]
    jax.config.update("jax_default_device", device)
    return device


def available_devices() -> list[str]:
    """Return the names of the devices that are there, the preferred first."""
    return ["cuda", "cpu"] if jax.default_backend() == "gpu" else ["cpu"]


def enable_compilation_cache() -> None:
    """Keep what XLA compiles, so that the next run starts sooner.

    In the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))


def resolve_dtype(dtype: DtypeOption, name: Device) -> Dtype:
    """Return `dtype`; `auto` is bfloat16 on a GPU that has it, and float32 on any other device."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16(select_device(name, "float32")) else "float32"


def has_bfloat16(device: jax.Device) -> bool:
    """Whether the device is a GPU that multiplies matrices of bfloat16 in hardware."""
    return device.platform == "gpu" and float(getattr(device, "compute_capability", 0)) >= 8
