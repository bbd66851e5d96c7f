"""Errors that are the user's to mend, apart from those that are ours."""


class InputError(ValueError):
    """A wrong input: flag, file or checkpoint. The command line shows it as one line, exit code 2.

    The message states what was expected and what was got.
    """


class NonFiniteError(ArithmeticError):
    """The loss or the gradient norm became infinite or NaN. The command line exits with code 1."""


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
