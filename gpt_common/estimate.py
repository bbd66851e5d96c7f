"""The memory and communication of a training step, estimated before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gpt_common.config import GPTConfig, TrainConfig
from gpt_common.flops import datasheet_peak, flops_per_token
from gpt_common.memory import available_memory
from gpt_common.weights import block_shapes, num_parameters

# Of activations and logits, what stays where memory is short: at least 0.45 in docs/gpu.md.
NOT_RECOMPUTED = 0.4


@dataclass(frozen=True)
class Footprint:
    """What a twin's training step keeps in memory, in bytes: measured, in the twin's `memory.py`.

    `channel` is of each token, channel and block, `stream` of each token and channel outside of the
    blocks, `score` of each pair of positions, head and block, and `logit` of each logit of at most
    `loss_rows` rows (0: all), of which the head's gradient is the sum. `cast` is of each weight,
    `head_copy` of each of the head, and `loop_copy` of each of the blocks if batches accumulate.

    Where weights' gradients come last, `backward_channel` is what the backward pass adds before
    them, and `block_scores` are of each score in one layer's attention, a quarter of the queries at
    a time, at least `block_rows`: in the first block of keys, and in the others.
    """

    channel: float = 0
    stream: float = 0
    score: float = 0
    logit: float = 0
    loss_rows: int = 0
    cast: float = 0
    head_copy: float = 0
    loop_copy: float = 0
    backward_channel: float = 0
    block_scores: tuple[float, float] = (0, 0)
    block_rows: int = 0
    frees: bool = False  # activations as the gradients are made, layer by layer
    whole_program: bool = False  # XLA gathers parameters once a step, and adds up every batch


@dataclass(frozen=True)
class Target:
    """The devices of a run. `kind` is the framework's: cpu, cuda, gpu (Flax) or mps.

    `name` and `free`, in bytes, are of a GPU, as far as they are known, and `peak_memory` returns
    the most bytes taken so far. `mesh` has the axes `data` and `fsdp`.
    """

    kind: str
    footprint: Footprint = Footprint()
    mesh: tuple[int, int] = (1, 1)
    name: str = ""
    free: int | None = None
    peak_memory: Callable[[], int | None] = lambda: None

    @property
    def devices(self) -> int:
        """The number of devices."""
        return math.prod(self.mesh)

    @property
    def available(self) -> int | None:
        """The bytes that each device has for the run, None if unknown."""
        return available_memory() if self.kind == "cpu" else self.free

    def seconds_at_peak(self, model: GPTConfig, config: TrainConfig) -> float | None:
        """Return the seconds of a step's FLOPs at the peak of the GPUs, None if it is unknown."""
        dtype = config.runtime.dtype
        peak = None if dtype == "auto" else datasheet_peak(self.name, dtype)
        return peak and flops_per_step(model, config) / (peak * self.devices)


@dataclass(frozen=True)
class StepEstimate:
    """A step's memory on one device when it is at its peak, and what the device sends, in bytes."""

    parameters: float
    moments: float
    gradients: float
    activations: float
    logits: float
    sent_data: float
    sent_fsdp: float

    @property
    def sent(self) -> float:
        """The bytes along both axes of the mesh."""
        return self.sent_data + self.sent_fsdp

    @property
    def memory(self) -> float:
        """The bytes of all."""
        return self.state + self.activations + self.logits

    @property
    def at_least(self) -> float:
        """A lower bound, whatever compilers recompute."""
        return self.state + NOT_RECOMPUTED * (self.activations + self.logits)

    @property
    def state(self) -> float:
        """The bytes that do not depend on the batch."""
        return self.parameters + self.moments + self.gradients


def estimate_step(model: GPTConfig, config: TrainConfig, target: Target) -> StepEstimate:
    """Return the estimate for one of the devices.

    Along `fsdp` each device has its part of the parameters and moments, and for some time the whole
    embeddings and two blocks. Gradients that are accumulated are whole until the last batch.
    """
    footprint, mesh, accumulates = target.footprint, target.mesh, config.grad_accum > 1
    size = 8 if config.runtime.dtype == "float64" else 4
    padding = model.n_embd * (model.padded_vocab_size - model.vocab_size)
    weights = num_parameters(model) + padding
    gathered = _gathered(model, weights, footprint, accumulates) if mesh[1] > 1 else 0
    along_data, along_fsdp = _shares_sent(config.grad_accum, footprint, mesh)
    gradients, activations, logits = max(_instants(model, config, target, size, weights), key=sum)
    return StepEstimate(
        parameters=size * (weights / mesh[1] + gathered)
        + footprint.cast * weights
        + _copy_bytes(model, footprint, accumulates),
        moments=2 * size * weights / mesh[1],
        gradients=gradients,
        activations=activations,
        logits=logits,
        sent_data=size * weights * along_data,
        sent_fsdp=size * weights * along_fsdp,
    )


def _instants(
    model: GPTConfig, config: TrainConfig, target: Target, size: int, weights: int
) -> list[tuple[float, float, float]]:
    """Return the bytes of gradients, activations and logits at each instant that may be the peak.

    Where the weights' gradients come last there are three: in the loss; before those gradients,
    when the inputs and the outputs' gradients of all layers are there; and before the update.
    """
    footprint, accumulates = target.footprint, config.grad_accum > 1
    tokens = config.data.batch_size / target.devices * config.data.seq_len
    activations = tokens * _token_bytes(model, config.data.seq_len, footprint)
    logits = _loss_bytes(model, tokens, size, footprint, accumulates)
    gradients = size * (weights if accumulates else weights / target.mesh[1])
    if footprint.backward_channel:
        sums = gradients if accumulates else 0.0
        head = size * model.padded_vocab_size * model.n_embd
        late = tokens * _late_bytes(model, footprint)
        scores = tokens * _block_bytes(model, config.data.seq_len, footprint)
        # After the last attention the embedding's gradient is made, and added to the head's.
        before_gradients = (sums, activations + late + max(0.0, scores - 2 * head), 3.0 * head)
        return [(sums, activations, logits), before_gradients, (gradients, 0.0, 2.0 * head)]
    if footprint.frees and target.devices == 1 and not accumulates:
        gradients = max(0.0, gradients - (activations + logits))
    return [(gradients, activations, logits)]


def _late_bytes(model: GPTConfig, footprint: Footprint) -> float:
    """Return a token's bytes that wait for the weights' gradients when the peak is reached.

    It is reached in the attention of the first block, of which most does not wait yet.
    """
    return footprint.backward_channel * (model.n_layer - 1) * model.n_embd


def _block_bytes(model: GPTConfig, seq_len: int, footprint: Footprint) -> float:
    """Return a token's bytes of scores in the backward pass of one layer's blockwise attention."""
    first, others = footprint.block_scores
    keys = min(seq_len, max(footprint.block_rows, seq_len / 4))
    return model.n_head * (first * keys + others * (seq_len - keys) / 2)


def _copy_bytes(model: GPTConfig, footprint: Footprint, accumulates: bool) -> float:
    """Return the bytes of copies of weights, which XLA makes before the loop over batches."""
    head = model.padded_vocab_size * model.n_embd
    blocks = model.n_layer * sum(map(math.prod, block_shapes(model).values()))
    return footprint.head_copy * head + footprint.loop_copy * blocks * accumulates


def _gathered(model: GPTConfig, weights: int, footprint: Footprint, accumulates: bool) -> int:
    """Return the number of parameters of other devices that one has at once."""
    if footprint.whole_program and accumulates:
        return weights
    block = sum(map(math.prod, block_shapes(model).values()))
    return weights - max(0, model.n_layer - 2) * block


def _token_bytes(model: GPTConfig, seq_len: int, footprint: Footprint) -> float:
    """Return the bytes of a token's activations."""
    channels = footprint.channel * model.n_layer + footprint.stream
    return model.n_embd * channels + footprint.score * model.n_layer * model.n_head * seq_len


def _loss_bytes(
    model: GPTConfig, tokens: float, size: int, footprint: Footprint, accumulates: bool
) -> float:
    """Return the bytes of the logits, and of the head's gradient where it is added up by rows."""
    vocab, rows = model.padded_vocab_size, footprint.loss_rows
    if not rows:
        return footprint.logit * tokens * vocab
    # Another one in XLA's loop over batches; where gradients come last, that of one chunk.
    sums = 2 if footprint.backward_channel or (accumulates and footprint.whole_program) else 1
    return footprint.logit * min(tokens, rows) * vocab + sums * size * vocab * model.n_embd


def _shares_sent(
    grad_accum: int, footprint: Footprint, mesh: tuple[int, int]
) -> tuple[float, float]:
    """Return what a device sends along `data` and `fsdp` in a step, in copies of all weights.

    Of n devices in a ring each sends (n - 1) / n of them to gather parameters, the same to scatter
    sums of gradients, and twice that for an all-reduce (Patarasuk & Yuan 2009).
    """
    data, fsdp = mesh
    sums = grad_accum if footprint.whole_program else 1
    gathers = 1 if footprint.whole_program else 2 * grad_accum
    return 2 * sums * (data - 1) / data / fsdp, (sums + gathers) * (fsdp - 1) / fsdp


def checkpoint_bytes(model: GPTConfig, config: TrainConfig) -> int:
    """Return the bytes of a checkpoint's arrays: the weights and AdamW's two moments."""
    return 3 * (8 if config.runtime.dtype == "float64" else 4) * num_parameters(model)


def flops_per_step(model: GPTConfig, config: TrainConfig) -> float:
    """Return the floating-point operations of a step on all devices."""
    data = config.data
    tokens = data.batch_size * data.seq_len * config.grad_accum
    return float(tokens * flops_per_token(model, data.seq_len))
