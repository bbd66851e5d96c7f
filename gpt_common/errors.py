"""Errors that are the user's to mend, apart from those that are ours."""


class InputError(ValueError):
    """A wrong input: flag, file or checkpoint. The command line shows it as one line, exit code 2.

    The message states what was expected and what was got.
    """


MOST_SHOWN = 80  # characters, or bits, of a value in a message


class NonFiniteError(ArithmeticError):
    """The loss or the gradient norm became infinite or NaN. The command line exits with code 1."""


def printable(text: str, most: int = MOST_SHOWN) -> str:
    """Return what a file holds as text for a message: short, and with no control characters."""
    cut = text[:most] + ("..." if len(text) > most else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def shown(value: object) -> str:
    """Return a value that a file holds for a message; of what may be large, its type only."""
    if isinstance(value, str):
        return f"'{printable(value)}'"
    small = value is None or isinstance(value, bool | float)
    if small or (isinstance(value, int) and value.bit_length() <= MOST_SHOWN):
        return str(value)
    return type(value).__name__


def reason(error: Exception) -> str:
    """Return why a file could not be read, for a message: the first line of what a library says."""
    first = (str(error).splitlines() or [""])[0]
    return printable(first, 200) or type(error).__name__


def require_positive(name: str, value: float) -> None:
    """Raise `InputError` unless `value` is above zero."""
    if not value > 0:
        raise InputError(f"{name} must be positive, got {value}")


def require_fraction(name: str, value: float) -> None:
    """Raise `InputError` unless `value` is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise InputError(f"{name} must be at least 0 and below 1, got {value}")


def require_not_negative(name: str, value: float) -> None:
    """Raise `InputError` where `value` is below zero or not a number."""
    if not value >= 0:
        raise InputError(f"{name} must not be negative, got {value}")
