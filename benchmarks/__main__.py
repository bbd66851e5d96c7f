"""`python -m benchmarks` alone lists the commands."""

from gpt_common import cli
from gpt_common.errors import InputError

COMMANDS = (
    "train_step",
    "generate",
    "scaling",
    "data",
    "convert",
    "operations",
    "roofline",
    "memory",
    "failures",
    "plot",
    "plot_losses",
    "gpu",
)


def main() -> None:
    """Raise `InputError` with the names of the commands."""
    raise InputError(f"expected python -m benchmarks.COMMAND, one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    cli.run(main)
