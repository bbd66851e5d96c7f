"""The blocks of README.md and docs/: what the pages tell a reader to type, and what is printed."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpt_common import commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Programs that are not ours, and pytest's flags.
OTHERS = {
    *("cd", "diff", "export", "git", "hf", "lm_eval", "mkdir", "pip", "pytest", "python3"),
    *("sbatch", "source"),
}
# A fence with its language, or lines that are indented by four and begin as a command does.
BLOCK = re.compile(
    r"^```(?P<language>[\w{}-]*).*\n(?P<code>(?:.*\n)*?)```$"
    r"|^ {4}(?P<command>python -m (?:[^\\\n]|\\\n)*)\n",
    re.MULTILINE,
)

# A command within a line: with an argument, else it is the name of one.
SPAN = re.compile(r"`((?:(?:torchrun|python)[^`]* -m [\w.]+|make|gpt-twins [a-z]+)\s[^`]+)`")


class Block(NamedTuple):
    """A block of a page: its language, empty for what a command prints, and its text."""

    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    return [
        Block("sh", match["command"])
        if match["command"]
        else Block(match["language"], match["code"])
        for match in BLOCK.finditer(page.read_text())
    ]


def shell_lines(block: Block) -> list[str]:
    """Return the commands of a `sh` block, without comments, each as one line."""
    if block.language != "sh":
        return []
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page: those of its blocks, and those with arguments in its lines."""
    lines = [line for block in blocks(page) for line in shell_lines(block)]
    text = BLOCK.sub("", page.read_text())
    return lines + [" ".join(span.split()) for span in SPAN.findall(text)]


def module_and_flags(line: str) -> tuple[str, list[str]]:
    """Return what a command runs, a module after `-m` or else a program, and its flags."""
    words = [word for word in shlex.split(line.partition(" > ")[0]) if word != "ARGS"]
    if "-m" in words and words[0] not in OTHERS:
        words = words[words.index("-m") + 1 :]
    return words[0], words[1:]


def main_of(module: str) -> Callable[[], None]:
    """Return the function that a command of ours runs."""
    if module == "gpt-twins":
        return commands.main
    has_main = (ROOT / module.replace(".", "/") / "__main__.py").is_file()
    return importlib.import_module(f"{module}.__main__" if has_main else module).main
