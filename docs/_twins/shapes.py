"""The shape of the value of each line of the twins, read from runs of a tiny model."""

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gpt_common.config import GPTConfig, OptimizerOptions, SamplingOptions

ROOT = Path(__file__).parents[2]
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
    **{"V": "tokens in the vocabulary", "S": "tokens in the cache", "K": "most probable tokens"},
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


@cache
def torch_shapes() -> dict[str, Shapes]:
    """Return the shapes in each file of the PyTorch twin, by its name."""
    import torch

    from gpt_torch.evaluate import token_logprobs
    from gpt_torch.fast import FastGPT, FastOps
    from gpt_torch.model import GPT
    from gpt_torch.optimizer import create_optimizer
    from gpt_torch.train import TrainState, train_step

    model, fast = GPT(CONFIG), FastGPT(CONFIG, FastOps(True, True, loss_rows=SIZES["R"]))
    batches = torch.zeros(SIZES["A"], SIZES["B"], SIZES["T"], dtype=torch.int64)
    x = y = batches[0]
    state = TrainState(model, create_optimizer(model, OptimizerOptions()))
    runs = (
        lambda: model(x, y),
        lambda: train_step(state, batches, batches, 1e-3, 1.0, "float32"),
        lambda: token_logprobs(model, x, y, "float32"),
        lambda: _read_in_torch(model, x),
        lambda: _decode_in_torch(model),
        lambda: fast.loss(x, y).backward(),
    )
    return observe(ROOT / "gpt_torch", runs)


def _read_in_torch(model: Any, tokens: Any) -> None:
    import torch

    from gpt_torch.cache import empty_cache, forward_cached

    cache = empty_cache(CONFIG, SIZES["B"], SIZES["S"], torch.float32, tokens.device)
    positions = torch.arange(SIZES["T"]).expand(tokens.shape)
    with torch.inference_mode():
        forward_cached(model, tokens, positions, tokens[:, 0], cache)


def _decode_in_torch(model: Any) -> None:
    import torch

    from gpt_torch.cache import empty_cache
    from gpt_torch.generate import DecodeState, decode

    R = SIZES["R"]
    token = position = torch.zeros(R, 1, dtype=torch.int64)
    seen = torch.zeros(R, SIZES["V"], dtype=torch.bool)
    cache = empty_cache(CONFIG, R, SIZES["S"], torch.float32, token.device)
    state = DecodeState(token, position, seen, cache, end=1)
    decode(model, state, np.zeros((R, SIZES["n"])), SAMPLING, "float32")


@cache
def flax_shapes() -> dict[str, Shapes]:
    """Return the shapes in each file of the Flax twin, by its name; nothing is computed."""
    import jax
    import jax.numpy as jnp

    from gpt_flax.evaluate import token_logprobs
    from gpt_flax.fast import FastGPT, FastOps
    from gpt_flax.model import GPT
    from gpt_flax.optimizer import create_optimizer
    from gpt_flax.train import TrainState, train_step

    model, optimizer = GPT(CONFIG), create_optimizer(OptimizerOptions())
    fast = FastGPT(CONFIG, FastOps(True, True, True, loss_rows=SIZES["R"]))
    fast_gradients = jax.grad(lambda p, x, y: fast.apply({"params": p}, x, y, method="loss"))
    batches = jnp.zeros((SIZES["A"], SIZES["B"], SIZES["T"]), jnp.int32)
    x = y = batches[0]
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    static: dict[str, Any] = {"model": model, "dtype": "float32"}
    of_step = static | {"optimizer": optimizer, "grad_clip": 1.0}
    runs = (
        lambda: _trace(model.apply, {"params": params}, x, y),
        lambda: _trace(train_step, state, batches, batches, 1e-3, **of_step),
        lambda: _trace(token_logprobs, params, x, y, **static),
        lambda: _read_in_flax(model, params, x),
        lambda: _decode_in_flax(params, static),
        lambda: _trace(fast_gradients, params, x, y),
    )
    return observe(ROOT / "gpt_flax", runs)


def _read_in_flax(model: Any, params: Any, tokens: Any) -> None:
    import jax.numpy as jnp

    from gpt_flax.cache import empty_cache, forward_cached

    cache = empty_cache(CONFIG, SIZES["B"], SIZES["S"], jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(SIZES["T"]), tokens.shape)
    inputs = tokens, positions, tokens[:, 0], cache
    _trace(model.apply, {"params": params}, *inputs, method=forward_cached)


def _decode_in_flax(params: Any, static: dict[str, Any]) -> None:
    import jax
    import jax.numpy as jnp

    from gpt_flax.cache import empty_cache
    from gpt_flax.generate import DecodeState, decode_steps

    R = SIZES["R"]
    with jax.enable_x64(True):
        token = position = jnp.zeros((R, 1), jnp.int64)
        seen = jnp.zeros((R, SIZES["V"]), bool)
        state = DecodeState(token, position, seen, empty_cache(CONFIG, R, SIZES["S"], jnp.float32))
        _trace(decode_steps, params, state, 1, jnp.zeros((R, 1)), sampling=SAMPLING, **static)


def _trace(function: Callable[..., Any], *args: Any, **static: Any) -> None:
    """Trace a function by shapes alone."""
    import jax

    jax.eval_shape(lambda *traced: function(*traced, **static), *args)


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
    """Return a shape with names for sizes: `(B, T, C)`; a scalar is `()`."""
    return f"({', '.join(NAMES.get(size, str(size)) for size in shape)})"


def _statements(source: str) -> Statements:
    """Return the simple statement on each line."""
    kinds = ast.Assign | ast.AnnAssign | ast.Return
    simple = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return {
        line: node for node in simple for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
