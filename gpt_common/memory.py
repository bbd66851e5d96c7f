"""Available memory of the machine: an error before it runs out."""

import resource
from pathlib import Path

from gpt_common.errors import InputError

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def require_memory(needed: float, purpose: str, smaller: str) -> None:
    """Raise `InputError` if `needed` bytes are more than this process has of main memory.

    `purpose` and `smaller`, the options to reduce, are for the message.
    """
    require_free(needed, available_memory(), purpose, smaller)


def require_free(needed: float, available: int | None, purpose: str, smaller: str) -> None:
    """Raise `InputError` if `needed` bytes are more than are `available`; None is unknown."""
    if available is not None and needed > available:
        raise InputError(
            f"{purpose} takes at least {needed / 1e9:,.1f} GB of memory, "
            f"{available / 1e9:,.1f} GB are available: make {smaller} smaller"
        )


def available_memory() -> int | None:
    """Return the bytes available to this process, None if unknown.

    It is the minimum of the limits of the machine, the container (cgroup v2) and `ulimit -v`.
    """
    limits = (_machine_memory(), _container_memory(), _address_space())
    return min((limit for limit in limits if limit is not None), default=None)


def _machine_memory() -> int | None:
    fields = _fields(PROC / "meminfo")
    return 1024 * fields["MemAvailable"] if "MemAvailable" in fields else None


def _container_memory() -> int | None:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    reclaimable = _fields(CGROUP / "memory.stat").get("inactive_file", 0)
    return int(limit) - used + reclaimable if limit.isdigit() else None


def _address_space() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = 1024 * _fields(PROC / "self" / "status").get("VmSize", 0)
    return None if limit == resource.RLIM_INFINITY else limit - used


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers in lines such as `MemAvailable: 123 kB`, {} if there is no file."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
