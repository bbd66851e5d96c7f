"""The environment of a measurement, part of every result: hardware, versions and date."""

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

from gpt_common.run import versions

PACKAGES = ("torch", "jax", "flax", "optax", "numpy", "transformers")


def describe() -> dict[str, str]:
    """Return the processor, the GPU if any, the system, the versions and the date."""
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        **nvidia_gpu(),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions(PACKAGES),
        "date": date.today().isoformat(),
    }


def processor() -> str:
    """Return the processor's name from /proc/cpuinfo, elsewhere from Python's `platform`."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def nvidia_gpu() -> dict[str, str]:
    """Return the first NVIDIA GPU's name, memory and driver; an empty dict without one."""
    return query_gpu(gpu="name", gpu_memory="memory.total", driver="driver_version")


def gpu_state() -> dict[str, str]:
    """Return the first NVIDIA GPU's clocks, power limit and temperature at this moment."""
    return query_gpu(
        sm_clock="clocks.sm",
        max_sm_clock="clocks.max.sm",
        power_limit="power.limit",
        celsius="temperature.gpu",
    )


def query_gpu(**fields: str) -> dict[str, str]:
    """Return what nvidia-smi says of fields of the first GPU; an empty dict without one."""
    query = ("nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        return dict(zip(fields, answer.stdout.splitlines()[0].split(", "), strict=True))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return {}
