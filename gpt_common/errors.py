"""Exceptions for user errors, and functions for their messages."""

FLOAT32_MAX = 3.4028235e38
MAX_SHOWN = 80  # characters, or bits, of a value in a message


class InputError(ValueError):
    """An invalid flag, file or checkpoint; the message says what was expected and what was got.

    A command prints it as one line and exits with code 2.
    """


class PeerError(InputError):
    """The error that another process of the run has raised, and prints."""


class NonFiniteError(ArithmeticError):
    """A loss, a gradient norm or a weight is infinite or NaN. A command exits with code 1."""


def printable(text: str, max_length: int = MAX_SHOWN) -> str:
    """Return text for a message: truncated, with control characters escaped."""
    cut = text[:max_length] + ("..." if len(text) > max_length else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def brief(value: object) -> str:
    """Return a value for a message; of a type whose values may be long, the type's name."""
    if isinstance(value, str):
        return f"'{printable(value)}'"
    small = value is None or isinstance(value, bool | float)
    if small or (isinstance(value, int) and value.bit_length() <= MAX_SHOWN):
        return str(value)
    return type(value).__name__


def reason(error: Exception) -> str:
    """Return the first line of a library's message; without one, the exception's type."""
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
    """Raise `InputError` if `value` is negative or not finite."""
    require_finite(name, value)
    if not value >= 0:
        raise InputError(f"{name} must not be negative, got {value}")


def require_finite(name: str, value: float) -> None:
    """Raise `InputError` if `value` is a float that is NaN or infinite in float32."""
    if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:
        raise InputError(f"{name} must be finite in float32, got {value}")
