"""The words of JAX and Flax, explained on each page where its code uses them for the first time."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

from docs._twins.text import prose


class Word(NamedTuple):
    """A name in the code, and what it means to someone who knows torch."""

    name: str
    meaning: str


WORDS = (
    Word("linen", "Flax's library of layers, imported as `nn`, as `torch.nn` is."),
    Word(
        "jnp",
        "`jax.numpy`: numpy's functions on JAX's arrays. An array never changes; each function "
        "returns a new one.",
    ),
    Word("optax", "The library of losses and optimizers for JAX."),
    Word("attend", "`x @ embedding.T`: the embedding's weights used as a linear layer."),
    Word(
        "self.param",
        "Declares a weight of this layer: its name, how `model.init` makes its first value, and "
        "its shape.",
    ),
    Word(
        "nn.Dense",
        "Linen's linear layer. Its weight is called `kernel`, and is `(in, out)`.",
    ),
    Word(
        "use_fast_variance",
        "Linen's default, the variance as E[x²] - E[x]²; `False` computes it as torch does, as the "
        "mean of (x - E[x])².",
    ),
    Word(
        "jax.jit",
        "Compiles a function when it is first called with arguments of these shapes. Python runs "
        "only then, on placeholders; later calls run the compiled program.",
    ),
    Word(
        "static_argnames",
        "Arguments that are constants of the compiled program: each new value compiles it again.",
    ),
    Word(
        "donate_argnames",
        "Arguments whose memory the results may take. The caller must not use the old value again.",
    ),
    Word(
        "value_and_grad",
        "Turns a function into one that returns its value and its gradient by the first argument. "
        "The gradient has the form of that argument: a dictionary of weights gives one of "
        "gradients.",
    ),
    Word("jax.vjp", "Returns a function's value, and the function that is its backward pass."),
    Word(
        "custom_vjp",
        "A function with a backward pass of its own, as `torch.autograd.Function` is.",
    ),
    Word(
        "jax.tree",
        "Functions on pytrees: nested dictionaries, lists and tuples of arrays, such as the "
        "weights of a model. `map` applies a function to each array.",
    ),
    Word(
        "optax.tree",
        "Functions on pytrees, nested dictionaries, lists and tuples of arrays: `add` adds two, "
        "array by array.",
    ),
    Word(
        "jax.lax.scan",
        "A loop inside the compiled program: `f(carry, x)` returns the next carry and an output, "
        "for each x along the first axis.",
    ),
    Word(
        "jax.lax.fori_loop",
        "A loop inside the compiled program: `f(n, carry)` returns the next carry.",
    ),
    Word("jax.lax.map", "A loop inside the compiled program: a function of each row in turn."),
    Word(
        ".at[",
        "`x.at[i].set(v)` returns a copy of `x` with other values at `i`, `.add` one with values "
        "added. In a compiled program it is done in place where nothing needs the old `x`.",
    ),
    Word(
        "dynamic_update_slice",
        "Returns an array with a block of it replaced, at a place that is known only when the "
        "program runs.",
    ),
    Word("jax.eval_shape", "Returns the shapes and dtypes of a function's result, uncomputed."),
    Word(
        "enable_x64",
        "64-bit types are off in JAX unless turned on: float64 would silently be float32.",
    ),
    Word(
        "optimization_barrier",
        "Returns its argument; the compiler may not move or merge computations across it.",
    ),
    Word(
        "intercept_methods",
        "A context in which each call of a layer goes through a function of ours.",
    ),
    Word("Mesh", "Devices arranged in a grid with named axes, as torch's `DeviceMesh`."),
    Word("PartitionSpec", "Which axes of a mesh divide each dimension of an array."),
    Word("NamedSharding", "How an array is divided: a mesh and a `PartitionSpec`."),
    Word(
        "with_sharding_constraint",
        "Says inside a compiled program how an array is to be divided among the devices.",
    ),
)


def first_uses(codes: Mapping[str, str]) -> dict[str, list[Word]]:
    """Return the words that each text uses before those that follow it, by the texts' names."""
    found: dict[str, list[Word]] = {name: [] for name in codes}
    for word in WORDS:
        name = next((name for name, code in codes.items() if is_used(word, code)), None)
        if name is not None:
            found[name].append(word)
    return found


def is_used(word: Word, code: str) -> bool:
    """Return whether a text of Python has a word."""
    return bool(re.search(rf"\b{re.escape(word.name)}", code))


def vocabulary(words: Iterable[Word]) -> str:
    """Return the words with their meanings, as HTML."""
    items = "".join(
        f"<div><dt><code>{escape(word.name)}</code></dt><dd>{prose(word.meaning)}</dd></div>"
        for word in words
    )
    return f'<dl class="words simple">{items}</dl>' if items else ""
