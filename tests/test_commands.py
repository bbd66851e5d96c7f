"""What `python -m` and `gpt-twins` find: each command under its own name."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpt_common
from gpt_common import cli, commands
from tests.conftest import assert_one_line_error

ROOT = Path(__file__).parent.parent
COMMANDS = [
    f"{package}.{path.stem}"
    for package in ("gpt_common", "gpt_torch", "gpt_flax", "convert", "benchmarks")
    for path in sorted((ROOT / package).glob("*.py"))
    if re.search(r"def main\(.*(cli\.parse|parse_train_config)\(", path.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("package", ["gpt_torch", "gpt_flax", "benchmarks"])
def test_a_package_alone_names_its_commands(package, call):
    names = [command.partition(".")[2] for command in COMMANDS if command.startswith(package)]
    assert len(names) >= 2
    assert_one_line_error(call(f"{package}.__main__"), f"expected python -m {package}.", *names)


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_is_the_command_that_was_typed(command, call):
    result = call(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: python -m {command.removesuffix('.__main__')} ")
    has_example = re.search(r"^python -m \S+ \S+", result.stdout, re.MULTILINE)
    assert has_example or command.startswith("benchmarks")


@pytest.fixture
def select(capsys, monkeypatch):
    """Call `gpt-twins` in this process, except for the module that it runs.

    Return the exit code with what it prints, and the module with its arguments.
    """

    def select(*args):
        selected = []
        monkeypatch.setattr(cli, "typed_as", None)
        monkeypatch.setattr(sys, "argv", ["gpt-twins", *args])
        run = lambda module, **how: selected.append((module, *sys.argv[1:]))  # noqa: E731
        monkeypatch.setattr(runpy, "run_module", run)
        code = 0
        try:
            commands.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(args, code, captured.out, captured.err), selected

    return select


@pytest.mark.parametrize(
    ("typed", "run"),
    [
        ("train --steps 3", "gpt_torch.train --steps 3"),
        ("train --framework flax --steps 3", "gpt_flax.train --steps 3"),
        ("train --steps 3 --framework=flax", "gpt_flax.train --steps 3"),
        ("--framework flax evaluate --help", "gpt_flax.evaluate --help"),
        (
            "generate --init r --prompt - --seed -1",
            "gpt_torch.generate --init r --prompt - --seed -1",
        ),
        ("generate --frame x", "gpt_torch.generate --frame x"),
        ("convert a b --to torch", "convert a b --to torch"),
        ("verify a --against flax", "convert.verify a --against flax"),
        ("prepare a b", "gpt_common.prepare a b"),
    ],
)
def test_gpt_twins_runs_the_module_with_the_other_arguments(select, typed, run):
    result, selected = select(*typed.split())
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert selected == [tuple(run.split())]


def test_gpt_twins_runs_flax_where_torch_is_not_installed(select, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert select("train")[1] == [("gpt_flax.train",)]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", ["expected a command, train, generate, ", "got ''"]),
        ("trian --steps 3", ["got 'trian'"]),
        ("train --framework tf", ["--framework: invalid choice: 'tf'", "torch", "flax"]),
        ("train --framework", ["--framework: expected one argument"]),
        ("convert a b --framework flax", ["--framework: expected none with convert, got flax"]),
        ("completion", ["expected bash, zsh, fish, got ''"]),
        ("completion csh", ["got 'csh'"]),
    ],
)
def test_what_gpt_twins_does_not_know_is_an_error_of_one_line(select, typed, words):
    result, selected = select(*typed.split())
    assert_one_line_error(result, *words)
    assert selected == []


def test_gpt_twins_lists_its_commands_in_80_columns(select):
    lines = select("--help")[0].stdout.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [*commands.COMMANDS, "completion"]


def test_gpt_twins_tells_its_version(select):
    assert select("--version")[0].stdout == f"gpt-twins {gpt_common.__version__}\n"


def test_every_module_of_a_command_is_there():
    for command in commands.COMMANDS.values():
        for framework in commands.FRAMEWORKS:
            module = command.module.format(framework=framework)
            assert {module, f"{module}.__main__"} & {*COMMANDS}


@pytest.fixture
def gpt_twins(tmp_path):
    """The program that pip makes of the entry point, called in a folder with the user's files."""
    program = tmp_path / "bin" / "gpt-twins"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom gpt_common.commands import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    (tmp_path / "convert.py").write_text("raise SystemExit('not gpt-twins')")

    def call(*args):
        environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        return subprocess.run(
            [program, *args],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | environment,
        )

    return call


@pytest.mark.parametrize("command", ["convert", "generate", "prepare"])
def test_usage_is_what_was_typed_of_gpt_twins(gpt_twins, command):
    """In a folder where `convert` is a program of the user's."""
    result = gpt_twins(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: gpt-twins {command} ")


def test_an_error_of_a_module_is_that_of_gpt_twins(gpt_twins):
    assert_one_line_error(gpt_twins("convert", "nowhere", "there"), "nowhere")


def test_a_framework_that_gpt_twins_does_not_find_is_an_error_of_one_line():
    script = """
import importlib.util, sys
from gpt_common import commands
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "torch" else find_spec(name)
sys.argv = ["gpt-twins", "train", "--framework", "torch"]
commands.main()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert_one_line_error(result, "gpt_torch needs torch: pip install torch")


def test_choices_are_in_the_same_order_in_each_run():
    """Whatever the seed of Python's hashes, by which a set of texts is ordered."""
    script = "from gpt_common import commands; commands.print_completion(['fish'])"
    printed = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    ]
    assert printed[0]
    assert printed[0] == printed[1]


# Ask a shell for the completions of $1, a line up to the cursor, as a Tab does: one in each line.
TAB = {
    "bash": r"""
source $script
IFS=" " read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
$(complete -p gpt-twins | sed "s/.*-F //; s/ .*//")
printf "%s\\n" "${COMPREPLY[@]}"
""",
    "zsh": r"""
_describe() { print -rl -- ${${(P)2}%%:*} }
words=("${(@s: :)1}") CURRENT=$#words
source $script
""",
    "fish": r"""
source $script
complete --do-complete $argv[1] | string split --fields 1 \t
""",
}


@pytest.fixture(params=TAB)
def complete(request, select, tmp_path, monkeypatch):
    """The completions of a line in a shell that has sourced the script for it."""
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    script = tmp_path / "completion"
    script.write_text(select("completion", shell)[0].stdout)
    monkeypatch.setenv("script", str(script))

    def complete(line):
        command = [shell, "-c", TAB[shell], *([] if shell == "fish" else [shell]), line]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return set(result.stdout.split("\n")) - {""}

    return complete


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("gpt-twins ", {"-h", "--help", *commands.COMMANDS}),
        ("gpt-twins tr", {"train"}),
        ("gpt-twins train --pre", {"--preset"}),
        ("gpt-twins train --framework ", {"torch", "flax"}),
        ("gpt-twins train --rec", {"--recipe"}),  # whose description has several lines
        ("gpt-twins convert --weig", {"--weights_only"}),
    ],
)
def test_shells_complete_commands_flags_and_values(complete, line, completions):
    assert complete(line) == completions
