"""What a figure was measured on: every result names its hardware, its versions and its date."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "jax", "flax", "optax", "numpy", "transformers")


def describe() -> dict[str, str]:
    """Return the processor, the system, the versions and the date."""
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": platform.system(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "date": date.today().isoformat(),
    }


def processor() -> str:
    """Return the processor's name as Linux gives it, elsewhere as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
