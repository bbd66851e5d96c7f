"""Compare the outputs of two models, layer by layer: `python -m convert.verify --help`.

python -m convert.verify runs/torch                         # one checkpoint in both twins
python -m convert.verify runs/torch runs/flax               # two checkpoints, both in PyTorch
python -m convert.verify runs/torch --against huggingface   # and with transformers' GPT-2
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro
from rich import box
from rich.table import Table

from gpt_common import cli
from gpt_common.checkpoint import Checkpoint
from gpt_common.config import Dtype, GPTConfig
from gpt_common.data import Batch, BatchLoader, load_tokens
from gpt_common.errors import InputError, require_positive
from gpt_common.formats import registry
from gpt_common.hf_config import config_to_hf
from gpt_common.progress import table_console
from gpt_common.weights import check_shapes, num_parameters, weight_shapes, with_zero_biases

Array = npt.NDArray[np.float64]
CpuDtype = Literal["float32", "bfloat16", "float64"]

MAX_LABELS = 40


@dataclass(frozen=True)
class Tolerance:
    """The largest relative differences of two models that agree."""

    layers: float
    logits: float
    loss: float

    def of(self, layer: str) -> float:
        """Return the tolerance of a layer's output, or of the logits."""
        return self.logits if layer == "logits" else self.layers


# The largest differences measured, of the twins and of transformers, with fresh, large random and
# trained weights, from 100 thousand to 124 million parameters:
#   float64   layers 2.5e-15, logits 2.2e-15, loss 8.1e-16
#   float32   layers 1.4e-6,  logits 1.2e-6,  loss 1.6e-7
#   bfloat16  layers 1.2e-2,  logits 8.2e-3,  loss 1.5e-3
# With one exception: twelve layers of large random weights amplify rounding, to 4e-5 of a layer in
# float32 and 8e-14 in float64. So use float64 to tell a fault from rounding.
TOLERANCES: dict[CpuDtype, Tolerance] = {
    "float64": Tolerance(layers=1e-12, logits=1e-12, loss=1e-13),
    "float32": Tolerance(layers=4e-6, logits=2e-6, loss=5e-7),
    "bfloat16": Tolerance(layers=3e-2, logits=2e-2, loss=4e-3),
}


@dataclass(frozen=True)
class VerifyConfig:
    """Compare a checkpoint in both twins, or two checkpoints in PyTorch, layer by layer.

    Exit code 0 if they agree, 1 if they do not. Everything runs on the CPU. To tell a fault from
    rounding, use --dtype float64.

    python -m convert.verify runs/mine --against huggingface
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint in any format that `python -m convert` reads, or the folder of a run."""
    other: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="[OTHER]", help_behavior_hint="(default: the Flax twin)"),
    ] = None
    """A second checkpoint, to compare instead of the Flax twin."""
    dtype: CpuDtype = "float32"
    """The dtype to compute in, as in training."""
    against: Annotated[
        Literal["huggingface", None],
        tyro.conf.arg(metavar="huggingface", help_behavior_hint="(default: none)"),
    ] = None
    """Also compare CHECKPOINT in PyTorch with transformers' GPT2LMHeadModel."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = "shakespeare"
    """As in training; random tokens if it has tokens beyond the model's vocabulary."""
    batch_size: int = 2
    """Sequences (B)."""
    seq_len: int = 64
    """Tokens in a sequence (T); at most the model's block_size."""
    json: bool = False
    """Print one JSON object instead of the tables."""
    plot: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE.png", help_behavior_hint="(default: no plot)")
    ] = None
    """Plot the relative differences."""

    def __post_init__(self) -> None:
        require_positive("batch_size", self.batch_size)
        require_positive("seq_len", self.seq_len)
        if self.plot and self.plot.suffix != ".png":
            raise InputError(f"plot: expected a name that ends in .png, got {self.plot}")


@dataclass(frozen=True)
class Trace:
    """The outputs of a model: those of each layer, the logits last, and the loss."""

    name: str
    layers: dict[str, Array]
    loss: float


@dataclass(frozen=True)
class Difference:
    """The difference of an output from its reference, and the tolerance of its relative value."""

    name: str
    max_abs: float
    relative: float
    allowed: float  # the tolerance, under the name that it has in JSON

    @property
    def agrees(self) -> bool:
        """Whether the relative difference is within the tolerance; NaN is not."""
        return self.relative <= self.allowed


@dataclass(frozen=True)
class Comparison:
    """A model against its reference: layers in the order of computation, the loss, KL."""

    reference: str
    other: str
    layers: list[Difference]
    losses: tuple[float, float]
    loss: Difference
    kl_divergence: float

    @property
    def first_difference(self) -> Difference | None:
        """The first layer, or else the loss, that is not within its tolerance."""
        return next((d for d in [*self.layers, self.loss] if not d.agrees), None)

    @property
    def agrees(self) -> bool:
        """Whether all layers and the loss are within their tolerances."""
        return self.first_difference is None


@dataclass(frozen=True)
class Report:
    """All comparisons, the model's shape and a description of the tokens."""

    config: VerifyConfig
    model: GPTConfig
    tokens: str
    comparisons: list[Comparison]

    @property
    def agrees(self) -> bool:
        """Whether every comparison agrees."""
        return all(c.agrees for c in self.comparisons)


def load(path: str) -> Checkpoint:
    """Return the model at `path`, in any format. Raises `InputError` if there is none."""
    checkpoint = registry.read_weights(path)
    cli.print_notes(checkpoint.notes)
    return checkpoint


def verify(config: VerifyConfig) -> Report:
    """Run the models on the same tokens and compare them.

    Raises `InputError` if a checkpoint cannot be read or the shapes of two differ.
    """
    checkpoint = load(config.checkpoint)
    batch, tokens = choose_tokens(config, checkpoint.config)
    traces = []
    if config.other is None:
        traces.append(trace_flax("flax", checkpoint, batch, config.dtype))
    else:
        other, shapes = load(config.other), weight_shapes(checkpoint.config)
        check_shapes(other.weights, shapes, f"{config.other} against {config.checkpoint}")
        traces.append(trace_torch(config.other, other, batch, config.dtype))
    if config.against:
        traces.append(trace_huggingface(config.against, checkpoint, batch, config.dtype))
    name = config.checkpoint if config.other else "torch"
    reference = trace_torch(name, checkpoint, batch, config.dtype)
    comparisons = [compare(reference, trace, TOLERANCES[config.dtype]) for trace in traces]
    return Report(config, checkpoint.config, tokens, comparisons)


def choose_tokens(config: VerifyConfig, model: GPTConfig) -> tuple[Batch, str]:
    """Return the first batch of the data, and a description of it.

    The tokens are random if the data has tokens beyond the model's vocabulary.
    """
    B, T = config.batch_size, min(config.seq_len, model.block_size)
    x, y = BatchLoader(load_tokens(config.data), B, T).next_batch()
    if max(x.max(), y.max()) < model.vocab_size:
        return (x, y), f"{B} x {T} tokens from the start of {config.data}"
    window = np.random.default_rng(0).integers(0, model.vocab_size, B * T + 1, np.int32)
    x, y = window[:-1].reshape(B, T), window[1:].reshape(B, T)
    return (x, y), f"{B} x {T} random tokens, as {config.data} has some that the model does not"


def trace_torch(name: str, checkpoint: Checkpoint, batch: Batch, dtype: Dtype) -> Trace:
    """Run the torch twin on a batch."""
    import torch

    from gpt_torch.generate import load_model
    from gpt_torch.precision import autocast, master_dtype

    cpu = torch.device("cpu")
    model = load_model(checkpoint, master_dtype(dtype), cpu)
    layers = record(model)
    x, y = (torch.from_numpy(tokens).long() for tokens in batch)
    with torch.inference_mode(), autocast(cpu, dtype):
        logits, loss = model(x, y)
    return Trace(name, layers | {"logits": logits.double().numpy()}, loss.item())


def trace_huggingface(name: str, checkpoint: Checkpoint, batch: Batch, dtype: Dtype) -> Trace:
    """Run transformers' GPT-2 on a batch. Raises `InputError` if it is not installed."""
    import torch

    from gpt_torch.model import cross_entropy
    from gpt_torch.precision import autocast, master_dtype

    model = huggingface_model(checkpoint, dtype)
    layers = record(model.transformer)
    x, y = (torch.from_numpy(tokens).long() for tokens in batch)
    with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
        logits = model(x).logits.to(master_dtype(dtype))
    layers["logits"] = logits.double().numpy()
    return Trace(name, layers, cross_entropy(logits, y).item())


def huggingface_model(checkpoint: Checkpoint, dtype: Dtype) -> Any:
    """Return transformers' model with the checkpoint's weights, without any code of the twins."""
    import torch

    from gpt_torch.precision import master_dtype

    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        raise InputError("huggingface needs transformers: pip install transformers") from None
    model: Any = GPT2LMHeadModel(GPT2Config(**config_to_hf(checkpoint.config)))
    precision = np.float64 if dtype == "float64" else np.float32
    weights = with_zero_biases(checkpoint.weights, checkpoint.config)
    copies = {name: np.array(weight, precision) for name, weight in weights.items()}
    state = {name: torch.from_numpy(weight) for name, weight in copies.items()}
    model.to(master_dtype(dtype)).eval()
    model.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})
    return model


def record(model: Any) -> dict[str, Array]:
    """Register hooks on a torch GPT-2; return the dict that they fill with each layer's output.

    `model` has the blocks `h`, each with `attn` and `mlp`, and `ln_f`.
    """
    layers: dict[str, Array] = {}

    def save(name: str, output: Any) -> None:
        # transformers' attention returns a tuple, its output first
        tensor = output[0] if isinstance(output, tuple) else output
        layers[name] = tensor.detach().cpu().double().numpy()

    def hook(name: str, module: Any) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: save(name, output))

    model.h[0].register_forward_pre_hook(lambda _module, inputs: save("embedding", inputs))
    for n, block in enumerate(model.h):
        hook(f"h.{n}.attn", block.attn)
        hook(f"h.{n}.mlp", block.mlp)
    hook("ln_f", model.ln_f)
    return layers


def is_captured(module: Any, method: str) -> bool:
    """Whether Linen should capture this module's output."""
    return method == "__call__" and module.name in ("wte", "attn", "mlp", "ln_f")


def trace_flax(name: str, checkpoint: Checkpoint, batch: Batch, dtype: Dtype) -> Trace:
    """Run the Flax twin, compiled as in training, on a batch."""
    import jax

    from gpt_flax.device import select_device
    from gpt_flax.generate import load_model

    select_device("cpu", dtype)
    params, model = load_model(checkpoint, dtype)
    jitted = jax.jit(flax_loss_and_layers, static_argnums=(1, 4))
    loss, layers = jitted(params, model, *batch, dtype)
    return Trace(name, {k: np.asarray(v, np.float64) for k, v in layers.items()}, loss.item())


def flax_loss_and_layers(
    params: Any, model: Any, x: Any, y: Any, dtype: Dtype
) -> tuple[Any, dict[str, Any]]:
    """Return the Flax twin's loss on a batch and the output of each layer, a pure function."""
    from flax.traverse_util import flatten_dict

    from gpt_flax.precision import autocast

    with autocast(dtype):
        (logits, loss), captured = model.apply(
            {"params": params}, x, y, capture_intermediates=is_captured, mutable="intermediates"
        )
    outputs = flatten_dict(captured["intermediates"], sep=".")  # "h_0.attn.__call__": (output,)
    layers = {
        path.removesuffix(".__call__").replace("h_", "h."): output
        for path, (output,) in outputs.items()
    }
    # Linen captures outputs of modules, and the sum of the two embeddings is not one.
    layers["embedding"] = layers.pop("wte") + params["wpe"]["embedding"][: x.shape[1]]
    return loss, layers | {"logits": logits}


@np.errstate(invalid="ignore")  # inf - inf is NaN, and NaN never agrees
def compare(reference: Trace, other: Trace, tolerance: Tolerance) -> Comparison:
    """Compare two traces layer by layer."""
    layers = [
        difference(name, expected, other.layers[name], tolerance.of(name))
        for name, expected in reference.layers.items()
    ]
    return Comparison(
        reference=reference.name,
        other=other.name,
        layers=layers,
        losses=(reference.loss, other.loss),
        loss=difference("loss", np.array(reference.loss), np.array(other.loss), tolerance.loss),
        kl_divergence=kl_divergence(reference.layers["logits"], other.layers["logits"]),
    )


def difference(name: str, expected: Array, found: Array, tolerance: float) -> Difference:
    """Return the largest |d| and ||d|| / ||expected||, where d is `found - expected`.

    If `expected` is all zeros, the relative difference is 1, or 0 if `found` is, too.
    """
    d = found - expected
    scale = np.linalg.norm(expected) or np.linalg.norm(found) or 1.0
    return Difference(name, float(np.abs(d).max()), float(np.linalg.norm(d) / scale), tolerance)


def kl_divergence(reference: Array, other: Array) -> float:
    """Return KL(reference || other) of the next token, in nats, the mean over all positions."""
    log_p, log_q = log_softmax(reference), log_softmax(other)
    p, q = np.exp(log_p), np.exp(log_q)
    # q - p sums to 0: it cancels the rounding errors of the sums of p and q
    nats = np.sum(p * (log_p - log_q) + (q - p), axis=-1)
    return max(float(nats.mean()), 0.0)


def log_softmax(logits: Array) -> Array:
    """Return the log probabilities of `logits` `(..., V)`."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def print_report(report: Report) -> None:
    """Print the tables and the verdicts."""
    console = table_console()
    config = report.config
    console.print(
        f"{config.checkpoint}: {report.model.n_layer} layers, "
        f"{num_parameters(report.model):,} parameters, {config.dtype}"
    )
    console.print(report.tokens)
    for comparison in report.comparisons:
        console.print(f"\n{comparison.other} against {comparison.reference}")
        console.print(difference_table(comparison))
        expected, found = comparison.losses
        console.print(f"loss {found:.9f} against {expected:.9f}")
        console.print(f"KL divergence {comparison.kl_divergence:.1e} nats")
        console.print(verdict(comparison), style="green" if comparison.agrees else "red")


def difference_table(comparison: Comparison) -> Table:
    """Return a row for each layer and one for the loss; rows beyond the tolerance are marked."""
    table = Table("", box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("largest abs", "relative", "tolerance"):
        table.add_column(column, justify="right")
    table.add_column("")
    for d in (*comparison.layers, comparison.loss):
        numbers = (f"{value:.1e}" for value in (d.max_abs, d.relative, d.allowed))
        mark, style = ("", None) if d.agrees else ("differs", "red")
        table.add_row(d.name, *numbers, mark, style=style)
    return table


def verdict(comparison: Comparison) -> str:
    """Return one line: whether the two agree, and the first layer that does not."""
    first = comparison.first_difference
    if first is None:
        return "AGREE in every layer and the loss"
    numbers = f"relative {first.relative:.1e}, tolerance {first.allowed:.1e}"
    return f"DIFFER, first in {first.name}: {numbers}"


def as_json(report: Report) -> str:
    """Return the report as one JSON object; numbers that are not finite are null."""
    content = {
        "checkpoint": report.config.checkpoint,
        "other": report.config.other,
        "dtype": report.config.dtype,
        "tokens": report.tokens,
        "agree": report.agrees,
        "comparisons": [comparison_json(c) for c in report.comparisons],
    }
    # Python would write NaN, which is not JSON
    return json.dumps(json.loads(json.dumps(content), parse_constant=lambda name: None))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison with its verdict."""
    first = comparison.first_difference
    verdict = {"agree": first is None, "first_difference": first and first.name}
    return asdict(comparison) | verdict


def plot_report(report: Report, path: Path) -> None:
    """Plot the relative difference of every layer, a line for each comparison."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    names = [d.name for d in report.comparisons[0].layers]
    curves = [[d.relative for d in c.layers] for c in report.comparisons]
    floor = min((v for curve in curves for v in curve if v > 0), default=1e-17) / 10
    for comparison, curve in zip(report.comparisons, curves, strict=True):
        label = f"{comparison.other} against {comparison.reference}"
        axes.semilogy(np.maximum(curve, floor), marker="o", markersize=3, linewidth=1, label=label)
    tolerances = [d.allowed for d in report.comparisons[0].layers]
    style: dict[str, Any] = {"color": "0.5", "linewidth": 1, "drawstyle": "steps-mid"}
    axes.semilogy(tolerances, "--", label="tolerance", **style)
    every = math.ceil(len(names) / MAX_LABELS)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=8)
    axes.set_ylabel("relative difference")
    axes.set_title(
        f"{report.config.dtype}; differences of 0 are plotted at {floor:.0e}", fontsize=9
    )
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the command line."""
    config = cli.parse(VerifyConfig, "convert.verify")
    report = verify(config)
    if config.json:
        print(as_json(report))
    else:
        print_report(report)
    if config.plot:
        plot_report(report, config.plot)
    if not report.agrees:
        sys.stdout.flush()
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
