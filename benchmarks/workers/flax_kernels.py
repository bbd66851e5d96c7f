"""The kernels of gpt_flax's training step, compiled for a card."""

from benchmarks.spec import Spec
from benchmarks.workers.compiled import Program, compiled_step
from benchmarks.workers.kernels import Kernel
from gpt_common.hardware import Processor
from gpt_flax.fast import choose_fast_ops


def kernels(spec: Spec, card: str) -> list[Kernel]:
    """Return the kernels that XLA has compiled, each with the path of its layer.

    Raises `InputError` without jax's CUDA plugin.
    """
    return list(compiled(spec, card).kernels())


def peak_memory(spec: Spec, card: str) -> int:
    """Return the bytes of the compiled program at its peak.

    Raises `InputError` without jax's CUDA plugin.
    """
    return compiled(spec, card).peak


def compiled(spec: Spec, card: str) -> Program:
    """Return the compiled step."""
    ops = choose_fast_ops("gpu", spec.dtype, Processor()) if spec.fast_ops else None
    shape = 1, spec.batch_size, spec.seq_len
    return compiled_step(card, spec.model, ops, spec.dtype, shape)
