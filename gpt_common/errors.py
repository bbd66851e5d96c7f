"""Errors that are the user's to mend, apart from those that are ours."""

FLOAT32_MAX = 3.4028235e38  # beyond it a number is infinite to both frameworks


class InputError(ValueError):
    """A wrong input: flag, file or checkpoint. The command line shows it as one line, exit code 2.

    The message states what was expected and what was got.
    """


MAX_SHOWN = 80  # characters, or bits, of a value in a message


class NonFiniteError(ArithmeticError):
    """A loss, a gradient norm or a weight is infinite or NaN. The command exits with code 1."""


def printable(text: str, most: int = MAX_SHOWN) -> str:
    """Return what a file holds as text for a message: short, and with no control characters."""
    cut = text[:most] + ("..." if len(text) > most else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def brief(value: object) -> str:
    """Return a value that a file holds for a message; of what may be large, its type only."""
    if isinstance(value, str):
        return f"'{printable(value)}'"
    small = value is None or isinstance(value, bool | float)
    if small or (isinstance(value, int) and value.bit_length() <= MAX_SHOWN):
        return str(value)
    return type(value).__name__


def reason(error: Exception) -> str:
    """Return why a file could not be read, for a message: the first line of what a library says."""
    first = (str(error).splitlines() or [""])[0]
    return printable(first, 200) or type(error).__name__


def require_positive(name: str, value: float) -> None:
    """Raise `InputError` unless `value` is finite and above zero."""
    require_finite(name, value)
    if not value > 0:
        raise InputError(f"{name} must be positive, got {value}")


def require_fraction(name: str, value: float) -> None:
    """Raise `InputError` unless `value` is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise InputError(f"{name} must be at least 0 and below 1, got {value}")


def require_not_negative(name: str, value: float) -> None:
    """Raise `InputError` where `value` is below zero or not finite."""
    require_finite(name, value)
    if not value >= 0:
        raise InputError(f"{name} must not be negative, got {value}")


def require_finite(name: str, value: float) -> None:
    """Raise `InputError` where `value` is NaN or infinite in float32; any integer is finite."""
    if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:
        raise InputError(f"{name} must be finite in float32, got {value}")
