"""A reader types what README.md and docs/ say, from the top of each page to its end.

Each command and each block of Python runs as it stands, in a world made small: `gpt2`, the default
size and the model of that name on the Hugging Face Hub, has one layer of eight channels, what would
be downloaded is a stand-in, and a run has at most 80 steps.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpt_common import config, downloads
from gpt_common.config import GPTConfig, TrainConfig
from gpt_common.formats.registry import FORMATS
from gpt_common.tokenizer import encode
from tests.checkpoints import cached_by_hub
from tests.conftest import CPU, FLOAT32, FRAMEWORKS, command, kept_jax_config, random_checkpoint
from tests.pages import PAGES, ROOT, Block, blocks, main_of, module_and_flags, shell_lines

SMALL = GPTConfig(n_layer=1, n_head=2, n_embd=8)
MOST_STEPS = 80  # by default a run has 50
# The first lines of Tiny Shakespeare.
PLAY = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"
    "First Citizen:\nYou are all resolved rather to die than to famish?\n\n"
)
HELLASWAG = Path(__file__).with_name("hellaswag.jsonl")
# What test_pages.py only parses, and why.
NOT_RUN = {
    r"make ": "CI runs the Makefile's lint, test, faults, docs and docs-test",
    r"(cd|diff|export|git|hf|lm_eval|mkdir|pip|python3|source) ": "not ours",
    r"(\.venv/bin/)?(python -m )?pytest ": "the tests",
    r"(torchrun|srun|mpirun|RANK=1) |python -m gpt_flax.train ARGS": "tests/parallel, on CPUs",
    r"(taskset -c 1 )?python -m (benchmarks\.(?!plot_losses)|tests\.)": (
        "minutes to hours, of GPT-2 124M: tests/benchmarks and tests/parity run smaller ones"
    ),
    r"python -m gpt_common.prepare fineweb": "28 GB: test_prepare.py, from a stand-in of the Hub",
    r"python -m \w+.train --(recipe|data data/fineweb)": "days on a GPU: test_recipes.py",
    r"python -m convert \S+ hf:": "test_publish.py, to a server that answers as the Hub does",
    r"python -m convert.verify models/gpt2 ported": "a model of the reader's: test_verify.py",
    r"python -m convert .* --to orbax": "needs Orbax: test_formats_round_trip.py",
    r"gpt-twins ": "test_commands.py and test_completion.py",
}
# What is neither a command nor Python, and what holds it to the truth.
NO_COMMANDS = {
    "console": "test_arithmetic.py runs each command and compares what it prints",
    "yaml": "test_neighbours.py",
    "bash": "a job of SLURM, run by hand on a cluster of one node",
    "": "what a command prints: compared in test_pages_run.py, or of a long run",
}
# Pages about what a run leaves; on the others a reader has made the runs that are named.
AFTER_RUNS = {"convert.md", "evaluation.md", "library.md", "neighbours.md", "recipes.md"}
# Pages with a test of their own for their Python.
PYTHON_ELSEWHERE = {"porting.md": "test_porting.py", "neighbours.md": "test_neighbours.py"}


def is_run(line: str) -> bool:
    return not any(re.match(pattern, line) for pattern in NOT_RUN)


def is_code(page: Path, block: Block) -> bool:
    """Whether the test below runs a block of a page, or lines of it."""
    if block.language == "python":
        return page.name not in PYTHON_ELSEWHERE
    return any(map(is_run, shell_lines(block)))


READ = [page for page in PAGES if any(is_code(page, block) for block in blocks(page))]


def write(form: str, path: Path, **changes: object) -> None:
    """Write a small GPT-2 in a format, with AdamW's state where the format has one."""
    checkpoint = random_checkpoint(replace(SMALL, **changes))
    training = replace(checkpoint.training, options=TrainConfig().as_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[form].write(path, replace(checkpoint, training=training))


def write_text(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PLAY * 40)


def downloaded(self) -> bytes:
    """Return what a `Download` would read, or less of it."""
    return (PLAY * 40).encode() if self.filename.endswith(".txt") else HELLASWAG.read_bytes()


@pytest.fixture(scope="module")
def presumed(tmp_path_factory):
    """Return a folder with what the pages presume: texts, tokens, models and runs."""
    folder = tmp_path_factory.mktemp("presumed")
    write("huggingface", cached_by_hub(folder / "hub", "gpt2"))
    write("huggingface-flax", folder / "old_model")
    write("nanogpt", folder / "ckpt.pt", activation="gelu")
    for name in ("my_text.txt", "my_texts/a.txt", "path/to/input.txt"):
        write_text(folder / name)
    (folder / "data/openwebtext").mkdir(parents=True)
    for part in ("train", "val"):
        np.array(encode(PLAY * 40), np.uint16).tofile(folder / f"data/openwebtext/{part}.bin")
    run_command(f"python -m gpt_torch.train --preset tiny --steps 1 --out_dir {folder}/runs/torch")
    for name in ("flax", "gpt2_124m", "gpt2_124m_flax"):
        shutil.copytree(folder / "runs/torch", folder / "runs" / name, symlinks=True)
    return folder


@pytest.fixture
def world(page, presumed, tmp_path, monkeypatch):
    """Make the world small, and give the reader what a page presumes, in the working folder."""
    left_out = [] if page.name in AFTER_RUNS else ["runs"]
    ignored = shutil.ignore_patterns(*left_out)
    shutil.copytree(presumed, tmp_path / "world", symlinks=True, ignore=ignored)
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setitem(config.PRESETS, "gpt2", SMALL)
    monkeypatch.setitem(config.PRESETS, "shakespeare", SMALL)
    monkeypatch.setattr(downloads.Download, "read", downloaded)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run_command(line: str) -> str:
    """Run a command in this process; return what it prints. Its input is what a pipe holds."""
    before, _, after = line.rpartition(" | ")
    program, flags = module_and_flags(after)
    stdin = io.TextIOWrapper(io.BytesIO(" ".join(shlex.split(before)[1:]).encode()))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [program, *flags])
        patch.setattr(sys, "stdin", stdin)
        with kept_jax_config():
            assert exit_code(main_of(program)) == 0, line
    return out.getvalue()


def exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def smaller(line: str) -> str:
    """Return a command with fewer steps, in the same order where a run has several, and tokens."""
    fewer = lambda match: f"--steps {min(MOST_STEPS, 50 + int(match[1]) // 100)}"  # noqa: E731
    line = re.sub(r"--steps (\d{3,})", fewer, line)
    line = re.sub(r"--(warmup_steps|eval_every) \d{2,}", r"--\1 10", line)
    line = re.sub(r" --shard_tokens [\d_]+", "", line)
    return f"{line} --shard_tokens 500" if "gpt_common.prepare" in line else line


def run_block(block: Block, names: dict[str, object]) -> str:
    """Run the commands or the Python of a block; return what they print."""
    if block.language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as out, kept_jax_config():
            exec(compile(block.code, "<page>", "exec"), names)
        return out.getvalue()
    return "".join(run_command(smaller(line)) for line in shell_lines(block) if is_run(line))


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_a_page_from_top_to_bottom(page, world):
    names: dict[str, object] = {}
    found = [*blocks(page), Block("sh", "")]
    for block, after in pairwise(found):
        printed = run_block(block, names) if is_code(page, block) else ""
        if block.language == "python" and after.language == "":
            assert printed == after.code


def test_what_is_not_run_is_on_the_pages():
    lines = [line for page in PAGES for block in blocks(page) for line in shell_lines(block)]
    assert [p for p in NOT_RUN if not any(re.match(p, line) for line in lines)] == []
    assert sum(map(is_run, lines)) >= 45


def test_each_block_is_a_command_or_says_why_not():
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert {name for name in languages if not name.startswith("{")} == {
        "sh",
        "python",
        *NO_COMMANDS,
    }


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_losses_on_the_pages(framework, tmp_path):
    """Of GPT-2 124M: at the first step, after 50 on one batch, and after 50 of README's."""
    lecture, readme = ((ROOT / page).read_text() for page in ("docs/lecture.md", "README.md"))
    first, last = re.search(r"loss (\d+\.\d{6})", lecture), re.search(r"to (0\.\d{4}) in", lecture)
    validation = re.search(r"validation loss (\S+)", readme)
    one_batch = losses(framework, tmp_path / "one", "--overfit_batch")
    assert one_batch["loss"][0] == pytest.approx(float(first[1]), rel=1e-6)
    assert one_batch["loss"][-1] == pytest.approx(float(last[1]), abs=5e-5)
    fresh = losses(framework, tmp_path / "fresh")
    assert fresh["val_loss"][-1] == pytest.approx(float(validation[1]), rel=2e-5)


def losses(framework: str, out: Path, *flags: str) -> dict[str, list[float]]:
    """Train GPT-2 124M as by default; return the losses in its log."""
    result = command(f"gpt_{framework}.train", *flags, "--out_dir", out, *FLOAT32, *CPU)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines if name in line] for name in ("loss", "val_loss")}
