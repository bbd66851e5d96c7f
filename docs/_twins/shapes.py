"""The shape of the value of each line of the twins, read from a pass of a tiny model."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gpt_common.config import GPTConfig

# Each size is another number, so that a number says which dimension it is.
SIZES = {"B": 2, "T": 9, "nh": 5, "hs": 7, "C": 35, "3C": 105, "4C": 140, "V": 67}
CONFIG = GPTConfig(n_layer=1, n_head=5, n_embd=35, block_size=11, vocab_size=67)
NAMES = {size: name for name, size in SIZES.items()} | {128: "padded V"}

Shapes = dict[int, str]  # by the number of a line


def torch_shapes(file: Path) -> Shapes:
    """Return the shapes in a file of the PyTorch twin."""
    import torch

    from gpt_torch.model import GPT

    model = GPT(CONFIG)
    tokens = torch.zeros(SIZES["B"], SIZES["T"], dtype=torch.int64)
    return observe(file, lambda: model(tokens, tokens))


def flax_shapes(file: Path) -> Shapes:
    """Return the shapes in a file of the Flax twin."""
    import jax
    import jax.numpy as jnp

    from gpt_flax.model import GPT

    model = GPT(CONFIG)
    tokens = jnp.zeros((SIZES["B"], SIZES["T"]), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    return observe(file, lambda: jax.eval_shape(model.apply, params, tokens, tokens))


def observe(file: Path, call: Callable[[], object]) -> Shapes:
    """Call a function; return what each assignment and each return in `file` had as its shape."""
    statements = _statements(file.read_text())
    shapes: Shapes = {}

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return _Lines(statements, shapes) if frame.f_code.co_filename == str(file) else None

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return shapes


class _Lines:
    """Follows one call of a function: a statement's value is known when the next one begins."""

    def __init__(self, statements: dict[int, ast.stmt], shapes: Shapes) -> None:
        self.statements, self.shapes = statements, shapes
        self.previous: ast.stmt | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> "_Lines":
        match self.previous:
            case ast.Assign(targets=[ast.Name(id=name)]):
                self.note(frame.f_locals.get(name))
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id=name), *_])]):
                self.note(frame.f_locals.get(name))
            case ast.Return() if event == "return":
                self.note(arg[0] if isinstance(arg, tuple) else arg)
        if event == "line":
            self.previous = self.statements.get(frame.f_lineno)
        return self

    def note(self, value: object) -> None:
        """Store the shape of the previous statement's value, if it has one."""
        if self.previous is not None and hasattr(value, "reshape") and hasattr(value, "shape"):
            self.shapes.setdefault(self.previous.lineno, symbolic(value.shape))


def symbolic(shape: tuple[int, ...]) -> str:
    """Return a shape with names for sizes: `(B, T, C)`; a scalar is `()`."""
    return f"({', '.join(NAMES.get(size, str(size)) for size in shape)})"


def _statements(source: str) -> dict[int, ast.stmt]:
    """Return the simple statement on each line."""
    simple = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign | ast.Return)]
    return {
        line: node for node in simple for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
