"""What `python -m gpt_torch` says: it is not a command itself."""

from gpt_common import cli
from gpt_common.errors import InputError


def main() -> None:
    """Name the commands. Raises `InputError`."""
    raise InputError("expected python -m gpt_torch.train, gpt_torch.generate or gpt_torch.evaluate")


if __name__ == "__main__":
    cli.run(main)
