"""The definitions of a file in both twins, paired by name and in the files' order."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

# The frameworks' own words for the same thing, and the few functions that only one of them needs.
SAME_NAME = {"setup": "__init__", "__call__": "forward"}
ONLY_TORCH = {
    *("Loss", "Loss.__init__", "Loss.forward", "shard_model", "sum_gradients", "set_gradient_sync"),
    *("whole", "mean", "reshard", "is_sharded", "iter_hf"),
    *("compute_dtype", "to_device", "async_to_host"),
    *("AsyncScalar", "AsyncScalar.__init__", "AsyncScalar.__float__"),
    *("FastGPT.__init__", "onednn_linear", "onednn_matmul", "row_losses_"),
    *("OneDNNLinear", "OneDNNLinear.forward", "OneDNNLinear.backward"),
    *("BlockwiseAttention", "BlockwiseAttention.forward", "BlockwiseAttention.backward"),
    *("ChunkedCrossEntropy", "ChunkedCrossEntropy.forward", "ChunkedCrossEntropy.backward"),
    *("upcast_matmul", "scale_loss", "current_scale"),
    *("attention_weights", "active_cache", "stack", "master_weights"),
    *("drop_surplus_ties", "upload"),
    *("sampling_device", "has_static_cache", "cache_length"),
    *("InferenceLinear", "InferenceLinear.__init__", "InferenceLinear.forward"),
    *("can_pack", "onednn_dtypes"),
    *("NoInitialization", "NoInitialization.__torch_function__"),
}
ONLY_FLAX = {
    *("own_devices", "sharding_of", "shard_state", "join_rows", "divide_rows", "mean_loss"),
    "_cpu_footprint",
    *("create_opt_state", "divided_step"),
    *("eval_step", "enable_compilation_cache", "in_half"),
    *("call_fast", "fast_attention", "train_step_options"),
    *("is_small_batch", "small_batch_options", "choose_decode"),
    *("matmul", "_matmul_backward", "transpose_contiguous"),
    *("dense_2d", "_dense_2d_backward", "flatten_batch"),
    *("remat_gelu", "_remat_gelu_backward", "upcast", "cudnn_attention"),
    *("_blockwise_attention_forward", "_blockwise_attention_backward"),
    *("swap_time_and_heads", "causal_scores", "row_losses"),
    *("attention_block_forward", "attention_block_backward"),
    *("_chunked_cross_entropy_forward", "has_cudnn_attention"),
    *("prefill_step", "decode_steps", "gather"),
    *("Scaler", "value_and_scaled_grad", "unscale", "unless_skipped", "update_scaler"),
}


@dataclass(frozen=True)
class Part:
    """A function, a method, the head of a class, or the code before one of these.

    `name` is qualified, and ends in ":before" for code before a definition. `start` is the number
    of the first line, from 1.
    """

    name: str
    start: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """The same part in both twins, or a part that only one of them has."""

    torch: Part | None
    flax: Part | None

    @property
    def name(self) -> str:
        """PyTorch's name of it, Flax's if only Flax has it."""
        part = self.torch or self.flax
        assert part is not None
        return part.name

    @property
    def is_definition(self) -> bool:
        """Whether it is a function, a method or the head of a class."""
        return ":" not in self.name


def pairs(torch_source: str, flax_source: str) -> list[Pair]:
    """Return the parts of both files, paired, in order.

    Raises `ValueError` if a definition has no partner and is in neither `ONLY_TORCH` nor
    `ONLY_FLAX`, or if the common ones are in another order.
    """
    ours, theirs = split(torch_source), split(flax_source)
    found = list(_merge(ours, theirs))
    alone = [pair.name for pair in found if None in (pair.torch, pair.flax) and _is_new(pair)]
    if alone:
        raise ValueError(f"expected these in both twins, in the same order: {', '.join(alone)}")
    return found


def _is_new(pair: Pair) -> bool:
    known = ONLY_TORCH if pair.torch else ONLY_FLAX
    return pair.is_definition and pair.name not in known


def _merge(ours: list[Part], theirs: list[Part]) -> Iterator[Pair]:
    names = ([common_name(part.name) for part in parts] for parts in (ours, theirs))
    matcher = SequenceMatcher(None, next(names), next(names), autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            yield from map(Pair, ours[i:i_end], theirs[j:j_end])
        else:
            yield from (Pair(part, None) for part in ours[i:i_end])
            yield from (Pair(None, part) for part in theirs[j:j_end])


def common_name(name: str) -> str:
    """Return a qualified name in PyTorch's words: `forward` for `__call__`."""
    name, colon, rest = name.partition(":")
    return ".".join(SAME_NAME.get(part, part) for part in name.split(".")) + colon + rest


def names(source: str) -> list[str]:
    """Return the names of a file's functions, classes and methods, in order."""
    return [name for name, _, _ in _definitions(ast.parse(source))]


def split(source: str) -> list[Part]:
    """Return the parts of a file, in order, without the empty lines between them."""
    lines = source.splitlines()
    parts, end = [], 0
    for name, first, last in [*_definitions(ast.parse(source)), ("end", len(lines) + 1, end)]:
        first = _with_comments(lines, first, end)
        before = f"{name}:before" if end else "start:before"  # beside the other twin's imports
        parts.append(_part(before, lines, end + 1, first - 1))
        parts.append(_part(name, lines, first, last))
        end = last
    return [part for part in parts if part.lines]


def _definitions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Yield name, first and last line; a class ends where its first method starts."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, _first_line(node), node.end_lineno or 0
        elif isinstance(node, ast.ClassDef):
            methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
            end = min([_first_line(method) - 1 for method in methods] + [node.end_lineno or 0])
            yield node.name, _first_line(node), end
            for method in methods:
                yield f"{node.name}.{method.name}", _first_line(method), method.end_lineno or 0


def _first_line(node: ast.FunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _with_comments(lines: list[str], first: int, end: int) -> int:
    """Return the line at which the comment directly above a definition starts."""
    while first - 1 > end and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return first


def _part(name: str, lines: list[str], first: int, last: int) -> Part:
    while first <= last and not lines[first - 1].strip():
        first += 1
    while first <= last and not lines[last - 1].strip():
        last -= 1
    return Part(name, first, tuple(lines[first - 1 : last]))
