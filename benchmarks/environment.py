"""The environment of a measurement, part of every result: hardware, versions and date."""

import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

from gpt_common.run import versions

PACKAGES = ("torch", "jax", "flax", "optax", "numpy", "transformers")

# Dense tensor-core TFLOP/s from NVIDIA's datasheets, without sparsity, in the order of DTYPES. A
# name is part of what nvidia-smi prints, the more specific first. A GeForce's must end the line:
# Ti, D and Laptop GPU are other chips.
DTYPES = ("bfloat16", "tf32", "float32", "float64")
DATASHEETS = {
    "GB200": (2500, 1250, 80, 40),
    "B200": (2250, 1125, 75, 37),
    "GH200": (989, 495, 67, 67),
    "H200 NVL": (835, 417, 60, 60),
    "H200": (989, 495, 67, 67),
    "H100 NVL": (835, 417, 60, 60),
    "H100 PCIe": (756, 378, 51, 51),
    "H100": (989, 495, 67, 67),
    "A100": (312, 156, 19.5, 19.5),
    "L40S": (362, 183, 91.6, 1.4),
    "L40": (181, 90.5, 90.5, 1.4),
    "L4": (121, 60, 30.3, 0.5),
    "A10": (125, 62.5, 31.2, 1.0),
    "RTX 4090$": (165, 82.6, 82.6, 1.3),
    "RTX 3090$": (71, 35.6, 35.6, 0.6),
}


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


def datasheet_peak(gpu: str, dtype: str) -> float | None:
    """Return a GPU's matmul peak from its datasheet, in FLOP/s, or None if it is unknown."""
    for name, peaks in DATASHEETS.items():
        if re.search(rf"\b{name}(?!\w)", gpu):
            return 1e12 * peaks[DTYPES.index(dtype)]
    return None
