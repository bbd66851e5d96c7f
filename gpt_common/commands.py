"""The command `gpt-twins`: each of its commands is a module that `python -m` runs, too."""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import io
import operator
import re
import runpy
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

import tyro

import gpt_common
from gpt_common import cli
from gpt_common.errors import InputError, brief

FRAMEWORKS = ("torch", "flax")
SHELLS = ("bash", "zsh", "fish")


@dataclasses.dataclass(frozen=True)
class Command:
    """A module to run, that of a twin if its name has a place for the `framework`."""

    module: str
    options: str  # the dataclass of its flags
    summary: str

    @property
    def has_framework(self) -> bool:
        """Whether both twins have this command."""
        return "{framework}" in self.module


COMMANDS = {
    "train": Command(
        "gpt_{framework}.train",
        "gpt_common.config:TrainConfig",
        "Train GPT-2, from random weights or any checkpoint.",
    ),
    "generate": Command(
        "gpt_{framework}.generate",
        "gpt_common.config:GenerateConfig",
        "Continue a prompt.",
    ),
    "evaluate": Command(
        "gpt_{framework}.evaluate",
        "gpt_common.config:EvaluateConfig",
        "Compute validation loss, perplexity, HellaSwag.",
    ),
    "convert": Command(
        "convert",
        "convert.__main__:ConvertConfig",
        "Convert a checkpoint from any format to any other.",
    ),
    "verify": Command(
        "convert.verify",
        "convert.verify:VerifyConfig",
        "Compare the outputs of two models, layer by layer.",
    ),
    "prepare": Command(
        "gpt_common.prepare",
        "gpt_common.prepare:PrepareConfig",
        "Make token shards of texts, to train on.",
    ),
}
HELP = """\
usage: gpt-twins COMMAND [--framework {torch,flax}] [FLAGS]

One GPT-2, written twice: in PyTorch and in pure-functional Flax.

"""
HELP_END = """
train, generate and evaluate run in PyTorch, or in Flax if torch is not
installed; --framework chooses. gpt-twins COMMAND --help lists the flags of a
command, gpt-twins --version prints the version."""


def main() -> None:
    """Run the command line."""
    module = cli.run(lambda: select(sys.argv[1:]))
    if module is not None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def select(args: Sequence[str]) -> str | None:
    """Return the module to run, with its flags as `sys.argv`; print what needs no module.

    Raises `InputError` for an unknown command or framework.
    """
    framework, others = take_framework(args)
    name, *rest = others or [""]
    if name in ("-h", "--help"):
        print(help_text())
    elif name == "--version":
        print(f"gpt-twins {gpt_common.__version__}")
    elif name == "completion":
        print_completion(rest)
    elif name not in COMMANDS:
        names = ", ".join(COMMANDS)
        raise InputError(f"expected a command, {names} or completion, got {brief(name)} (--help)")
    else:
        sys.argv = ["-m", *rest]  # as of `python -m`, for `gpt_common.startup`
        cli.typed_as = f"gpt-twins {name}"
        return module_of(name, framework)
    return None


def take_framework(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of `--framework`, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--framework", choices=FRAMEWORKS)
    try:
        found, others = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise InputError(str(error).removeprefix("argument ")) from None
    return found.framework, others


def module_of(name: str, framework: str | None) -> str:
    """Return the module of a command, by default that of an installed framework.

    Raises `InputError` for a framework where there is none to choose.
    """
    command = COMMANDS[name]
    if not command.has_framework and framework is not None:
        raise InputError(f"--framework: expected none with {name}, got {framework}")
    default = "torch" if importlib.util.find_spec("torch") else "flax"
    return command.module.format(framework=framework or default)


def help_text() -> str:
    """Return the commands as a table, of at most 80 columns."""
    rows = {name: command.summary for name, command in COMMANDS.items()}
    rows["completion"] = f"Print the completions for a shell: {', '.join(SHELLS)}."
    return HELP + "".join(f"  {name:<11} {text}\n" for name, text in rows.items()) + HELP_END


def print_completion(args: Sequence[str]) -> None:
    """Print the shell script that completes `gpt-twins`. Raises `InputError` for other shells."""
    if len(args) != 1 or args[0] not in SHELLS:
        raise InputError(f"completion: expected {', '.join(SHELLS)}, got {brief(' '.join(args))}")
    script = io.StringIO()
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):  # which tyro ends by
        tyro.cli(
            functools.reduce(operator.or_, map(completed, COMMANDS)),
            prog="gpt-twins",
            args=["--tyro-write-completion", args[0], "-"],
            use_underscores=True,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    print(
        re.sub(r"^COMPLETION_SPEC = .*", with_one_line_descriptions, script.getvalue(), flags=re.M)
    )


def with_one_line_descriptions(spec: re.Match[str]) -> str:
    """Return tyro's table of flags; a shell would complete to a description's second line, too."""
    return spec[0].replace(r"\n", " ")


def completed(name: str) -> Any:
    """Return the options of a command as one of tyro's subcommands."""
    command = COMMANDS[name]
    options = resolve_name(command.options)
    if command.has_framework:
        field = ("framework", Literal[FRAMEWORKS], FRAMEWORKS[0])
        options = dataclasses.make_dataclass(name, [field], bases=(options,), frozen=True)
    return Annotated[options, tyro.conf.subcommand(name)]


if __name__ == "__main__":
    main()
