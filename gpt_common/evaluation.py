"""What the `evaluate` commands read, compute and print."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from gpt_common import hellaswag
from gpt_common.config import EvaluateConfig, GPTConfig, HellaSwagProtocol
from gpt_common.data import TokenRange, Tokens, load_splits
from gpt_common.errors import InputError
from gpt_common.hellaswag import Counts, EncodedExample, encode_examples, read_examples
from gpt_common.progress import progress_bar, table_console
from gpt_common.scoring import Logprobs, Windows, mean_loss
from gpt_common.weights import num_parameters

TEXT_FLAGS: tuple[str, ...] = ("data", "text")
LARGE_EVALUATION = 10**12  # floating-point operations: a few seconds on a CPU


@dataclass(frozen=True)
class Evaluations:
    """What is evaluated, read and checked before the model computes."""

    texts: dict[str, Windows]  # by the name of the flag: data and text
    hellaswag: dict[HellaSwagProtocol, list[EncodedExample]]


def read_evaluations(config: EvaluateConfig, model: GPTConfig) -> Evaluations:
    """Return what the options ask for. Raises `InputError` if it does not fit the model."""
    texts: dict[str, Windows] = {}
    if config.data is not None:
        _, val = load_splits(config.data, config.val_fraction, model.vocab_size)
        val = TokenRange(val, 0, min(len(val), config.eval_tokens + 1))
        seq_len = _at_most("seq_len", config.seq_len or model.block_size, model)
        texts["data"] = _windows(val, seq_len, seq_len, f"{config.data}: validation")
    if config.text is not None:
        whole, _ = load_splits(config.text, 0.0, model.vocab_size)
        stride = _at_most("stride", config.stride or -(-model.block_size // 2), model)
        texts["text"] = _windows(whole, model.block_size, stride, config.text)
    if config.hellaswag is None:
        return Evaluations(texts, {})
    examples = read_examples(config.hellaswag, config.limit)
    protocols = hellaswag.ENCODE if config.protocol == "both" else (config.protocol,)
    return Evaluations(texts, {p: encode_examples(examples, p, model) for p in protocols})


def _at_most(name: str, number: int, model: GPTConfig) -> int:
    if number > model.block_size:
        raise InputError(f"{name} must be at most block_size {model.block_size}, got {number}")
    return number


def _windows(tokens: Tokens, length: int, stride: int, source: str) -> Windows:
    if len(tokens) < 2:
        raise InputError(f"{source}: expected at least 2 tokens, got {len(tokens)}")
    return Windows(tokens, length, stride)


def evaluate(
    evaluations: Evaluations, config: EvaluateConfig, model: GPTConfig, logprobs: Logprobs
) -> dict[str, Any]:
    """Return the results as JSON values."""
    results: dict[str, Any] = {
        "model": config.init,
        "parameters": num_parameters(model),
        "dtype": config.dtype,
    }
    for name, windows in evaluations.texts.items():
        source = getattr(config, name)
        B, T = windows.shape(config.batch_size)
        size = B * T * math.ceil(len(windows) / B)
        with _progress(source, size, model, logprobs) as counted:
            loss = mean_loss(windows, config.batch_size, counted)
        results[name] = {"source": source, **loss_results(windows, loss)}
    scores = {
        protocol: hellaswag_results(_count_correct(protocol, examples, config, model, logprobs))
        for protocol, examples in evaluations.hellaswag.items()
    }
    return results | ({"hellaswag": scores} if scores else {})


def _count_correct(
    protocol: HellaSwagProtocol,
    examples: Sequence[EncodedExample],
    config: EvaluateConfig,
    model: GPTConfig,
    logprobs: Logprobs,
) -> Counts:
    batches = hellaswag.batches(examples, model.block_size, config.batch_size)
    size = sum(math.prod(batch.shape) for batch in batches)
    with _progress(f"HellaSwag, {protocol}", size, model, logprobs) as counted:
        counts = hellaswag.count_correct(batches, counted)
    assert counts is not None  # nothing stops it
    return counts


@contextmanager
def _progress(work: str, size: int, model: GPTConfig, logprobs: Logprobs) -> Iterator[Logprobs]:
    """Yield `logprobs` that also reports its progress, of `size` tokens in total."""
    show = 2 * num_parameters(model) * size >= LARGE_EVALUATION
    with progress_bar(f"{work}: {size:,} tokens", size, show) as advance:

        def counted(x: Any, y: Any) -> Any:
            found = logprobs(x, y)
            advance(x.size)
            return found

        yield counted


def loss_results(windows: Windows, loss: float) -> dict[str, Any]:
    """Return a loss and its perplexity, exp(loss), None if that is not finite."""
    perplexity = math.exp(loss) if loss < 700 else None
    sizes = {"tokens": windows.scored, "window": windows.length, "stride": windows.stride}
    return {**sizes, "loss": loss, "perplexity": perplexity}


def hellaswag_results(counts: Counts) -> dict[str, Any]:
    """Return the counts, the accuracies and their standard errors, sqrt(p (1 - p) / n)."""
    accuracies = {
        "acc": counts.correct / counts.total,
        "acc_norm": counts.correct_norm / counts.total,
    }
    errors = {
        f"{name}_stderr": math.sqrt(p * (1 - p) / counts.total) for name, p in accuracies.items()
    }
    return counts._asdict() | accuracies | errors


def print_results(results: dict[str, Any], as_json: bool) -> None:
    """Print the results as one JSON object, or as tables."""
    if as_json:
        print(json.dumps(results))
        return
    console = table_console()
    console.print(f"{results['model']}: {results['parameters']:,} parameters, {results['dtype']}")
    if texts := {name: results[name] for name in TEXT_FLAGS if name in results}:
        console.print()
        console.print(loss_table(texts))
    if "hellaswag" in results:
        console.print()
        console.print(hellaswag_table(results["hellaswag"]))


def loss_table(texts: dict[str, dict[str, Any]]) -> Table:
    """Return a row for the validation data and one for the text."""
    table = _table("loss of", "tokens", "window", "stride", "loss", "perplexity")
    for name, result in texts.items():
        label = f"{name}: {Path(result['source']).name}"
        sizes = (f"{result[key]:,}" for key in ("tokens", "window", "stride"))
        perplexity = result["perplexity"]
        shown = "inf" if perplexity is None else f"{perplexity:.6g}"
        table.add_row(label, *sizes, f"{result['loss']:.6f}", shown)
    return table


def hellaswag_table(protocols: dict[str, dict[str, Any]]) -> Table:
    """Return a row for each protocol."""
    table = _table("HellaSwag", "examples", "acc", "acc_norm")
    for protocol, result in protocols.items():
        accuracies = (
            f"{result[name]:.4f} ± {result[f'{name}_stderr']:.4f}" for name in ("acc", "acc_norm")
        )
        table.add_row(protocol, f"{result['total']:,}", *accuracies)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(first, no_wrap=True, overflow="ellipsis", max_width=22)  # 80 in total
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table
