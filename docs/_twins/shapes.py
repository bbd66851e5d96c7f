"""The shape of the value of each line of a file, read while it runs on a tiny model."""

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from gpt_common.config import GPTConfig, SamplingOptions

# Each size is another number, so that a number says which dimension it is; 1 to 4 are literals
# of the code.
SIZES = {
    **{"A": 10, "B": 9, "T": 8, "nh": 5, "hs": 7, "C": 35, "3C": 105, "4C": 140, "V": 67},
    **{"padded V": 128, "R": 6, "n": 16, "S": 11, "K": 13, "K+1": 14, "K+2": 15},
    **{"B·T": 72, "B·nh": 45, "chunks": 12},
}
MEANINGS = {
    **{"A": "batches", "B": "sequences", "R": "rows", "n": "steps", "T": "tokens"},
    **{"C": "numbers for each token", "nh": "heads", "hs": "numbers in each head"},
    **{"V": "tokens in the vocabulary", "padded V": "rows of the embedding"},
    **{"S": "tokens in the cache", "K": "most probable tokens"},
    "()": "a single number",
}
# In the other files shapes are those of whatever is passed to them.
FILES = ("model", "cache", "sampling", "generate", "evaluate", "fast", "optimizer", "train")
CONFIG = GPTConfig(n_layer=1, n_head=5, n_embd=35, block_size=SIZES["S"], vocab_size=67)
SAMPLING = SamplingOptions(top_k=SIZES["K"], top_p=0.9, min_p=0.01, repetition_penalty=1.1)
NAMES = {size: name for name, size in SIZES.items()}

Shapes = dict[int, str]  # by the number of a line
Found = dict[int, set[str]]  # all shapes of a line in a run
Statements = dict[int, ast.stmt]


def observe(folder: Path, runs: Sequence[Callable[[], object]]) -> dict[str, Shapes]:
    """Return the shapes of assignments and returns in each of `FILES` of a folder, by its name.

    A line has the shape of the first run that reaches it, and none if that varies within this run.
    """
    files = [folder / f"{name}.py" for name in FILES]
    statements = {str(file): _statements(file.read_text()) for file in files}
    shapes: dict[str, Shapes] = {Path(file).name: {} for file in statements}
    for run in runs:
        for file, found in _found(statements, run).items():
            one = {line: next(iter(s)) if len(s) == 1 else "" for line, s in found.items()}
            shapes[file] = one | shapes[file]
    return {file: {k: v for k, v in lines.items() if v} for file, lines in shapes.items()}


def _found(statements: dict[str, Statements], run: Callable[[], object]) -> dict[str, Found]:
    found: dict[str, Found] = defaultdict(lambda: defaultdict(set))

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        file, is_named = frame.f_code.co_filename, not frame.f_code.co_name.startswith("<")
        known = file in statements and is_named  # a comprehension is a part of its statement
        return _Lines(statements[file], found[Path(file).name]) if known else None

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(previous)
    return found


class _Lines:
    """Follows one call of a function: a statement's value is known when the next one begins."""

    def __init__(self, statements: Statements, found: Found) -> None:
        self.statements, self.found = statements, found
        self.previous: ast.stmt | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> "_Lines":
        match self.previous:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                self.note(frame.f_locals.get(name))
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=name), *_])]):
                self.note(frame.f_locals.get(name))
            case ast.Return() if event == "return":
                self.note(arg[0] if type(arg) is tuple and arg else arg)
        if event == "line":
            self.previous = self.statements.get(frame.f_lineno)
        return self

    def note(self, value: object) -> None:
        """Store the shape of the previous statement's value, if it has one."""
        if self.previous is not None and hasattr(value, "reshape") and hasattr(value, "shape"):
            self.found[self.previous.lineno].add(symbolic(value.shape))


def symbolic(shape: tuple[int, ...]) -> str:
    """Return a shape with names for sizes, as Python writes a tuple: `(B, T, C)`, `(T,)`, `()`."""
    sizes = [NAMES.get(size, str(size)) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def _statements(source: str) -> Statements:
    """Return the simple statement on each line."""
    kinds = ast.Assign | ast.AnnAssign | ast.Return
    simple = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return {
        line: node for node in simple for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
