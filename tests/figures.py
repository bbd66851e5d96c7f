"""The JSON files in docs/figures: rounded, NaN and infinity as text, and where they were measured.

They are rounded so that measuring again changes few lines.
"""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.environment import describe
from docs._twins.figures import checksum

DIGITS = 3  # significant


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """Return JSON's value with its floats rounded; NaN and infinity are text: JSON has neither."""
    match value:
        case float() if math.isfinite(value):
            return float(f"{value:.{digits}g}")
        case float():
            return str(value)
        case dict():
            return {name: rounded(item, digits) for name, item in value.items()}
        case list():
            return [rounded(item, digits) for item in value]
    return value


def dump(value: Any, indent: str = "") -> str:
    """Return JSON with one line for each list and object that holds no other."""
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not any(isinstance(i, dict | list) for i in items):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner, is_dict = indent + " ", isinstance(value, dict)
    names = [f"{json.dumps(name)}: " for name in value] if is_dict else [""] * len(value)
    lines = [inner + name + dump(item, inner) for name, item in zip(names, items, strict=True)]
    return "\n".join(("{" if is_dict else "[", ",\n".join(lines), indent + "]}"[is_dict]))


def write(path: Path, measured: dict[str, Any]) -> None:
    """Write what was measured, with its checksum: the site shows no number that was edited."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump({"sha256": checksum(measured)} | measured) + "\n")
    print(f"wrote {path}")


def environment() -> dict[str, Any]:
    """Return the hardware, the versions and the date of a measurement."""
    found = describe()
    hardware = {name: found.pop(name) for name in ("processor", "gpu", "system") if name in found}
    date = found.pop("date")
    return {"hardware": ", ".join(hardware.values()), "versions": found, "date": date}
