"""Pieces of HTML that several parts of a page use."""

from html import escape

FRAMEWORKS = {"torch": "PyTorch", "flax": "Flax"}


def number(value: float) -> str:
    """Return a difference as it is shown everywhere: three digits, or 0, inf, nan."""
    return "0" if value == 0 else f"{value:.2e}"


def prose(text: str) -> str:
    """Return a sentence as HTML, its `code` in a `<code>`."""
    parts = text.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if i % 2 else escape(part, quote=False)
        for i, part in enumerate(parts)
    )
