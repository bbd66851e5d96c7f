"""The device, and the dtypes that it can compute in."""

import os
from functools import partial

import jax
import jax.numpy as jnp

from gpt_common import cli
from gpt_common.cache import cache_folder
from gpt_common.config import Device, Dtype, DtypeOption
from gpt_common.errors import InputError
from gpt_flax.precision import HALF


def select_device(name: Device, dtype: Dtype) -> jax.Device:
    """Return the device called `name`, jax's default from now on; `auto` is cuda, else cpu.

    Call it before any other use of jax. Sets the precision of float32 matrix products, which jax
    would leave to the GPU: TensorFloat-32 only if `dtype` is tf32. Raises `InputError` if the
    device is not available or cannot compute in `dtype`.
    """
    if name == "cpu":  # before jax finds a GPU, and reserves most of its memory
        jax.config.update("jax_platforms", "cpu")
    # Of a GPU's memory jax reserves this part when it starts, by default three quarters.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    # On a CPU, asynchronous dispatch is no faster, and allocates a step's memory before it starts.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    found = available_devices()
    if name != "auto" and name not in found:
        raise InputError(f"device {name}: expected one of {', '.join(found)}")
    platform = found[0] if name == "auto" else name
    device = jax.local_devices(backend=platform)[0]  # of this process
    check_dtype(platform, dtype, device)
    precision = "tensorfloat32" if dtype == "tf32" else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    jax.config.update("jax_default_device", device)
    return device


def check_dtype(platform: str, dtype: Dtype, device: jax.Device) -> None:
    """Raise `InputError` if the device cannot compute in `dtype`."""
    lacks_tf32 = platform != "cuda" and dtype == "tf32"
    lacks_bfloat16 = platform == "cuda" and dtype == "bfloat16" and not has_bfloat16(device)
    if lacks_tf32 or lacks_bfloat16:
        instead = "float16 or float32" if lacks_bfloat16 else "float32"
        raise InputError(f"device {platform} cannot compute in {dtype}; try --dtype {instead}")


def available_devices() -> list[str]:
    """Return the names of the available devices, the preferred one first.

    Raises `InputError` if jax has found a TPU or an AMD GPU, instead of ignoring it silently.
    """
    backend = jax.default_backend()
    if backend == "gpu" and "rocm" in jax.devices()[0].client.platform_version:
        backend = "rocm"
    if backend not in ("gpu", "cpu"):
        raise InputError(f"device {backend}: expected an NVIDIA GPU or a CPU; try --device cpu")
    return ["cuda", "cpu"] if backend == "gpu" else ["cpu"]


def enable_compilation_cache() -> None:
    """Keep compiled programs, so that the next run starts sooner.

    They are in the user's cache folder, or in JAX_COMPILATION_CACHE_DIR if it is set.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))


def resolve_dtype(dtype: DtypeOption, name: Device) -> Dtype:
    """Return `dtype`; `auto` is bfloat16 on a GPU that supports it, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_bfloat16(select_device(name, "float32")) else "float32"


def has_bfloat16(device: jax.Device) -> bool:
    """Whether the device is a GPU that multiplies matrices of bfloat16 in hardware."""
    return device.platform == "gpu" and float(getattr(device, "compute_capability", 0)) >= 8


def has_cudnn_attention(device: jax.Device, dtype: Dtype) -> bool:
    """Whether cuDNN's attention compiles for the device in `dtype`, of 16 bits.

    It needs a GPU that has bfloat16. A note says if cuDNN is absent, or too old, or another's that
    was loaded first.
    """
    if dtype not in HALF or not has_bfloat16(device):
        return False
    attend = partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    q = jnp.zeros((1, 2, 1, 8), HALF[dtype])
    try:
        jax.jit(jax.grad(lambda q: attend(q, q, q).sum())).lower(q).compile()
    except Exception as error:
        reason = str(error).partition("\n")[0]
        cli.print_notes([f"attention is XLA's, as cuDNN's does not compile: {reason}"])
        return False
    return True
