"""The kernels of gpt_flax's training step, compiled for a card."""

from benchmarks.spec import Spec
from benchmarks.workers.compiled import compiled_step
from benchmarks.workers.kernels import Kernel
from gpt_common.hardware import Processor
from gpt_flax.fast import choose_fast_ops


def kernels(spec: Spec, card: str) -> list[Kernel]:
    """Return the kernels that XLA has compiled, each with the path of its layer.

    Raises `InputError` without jax's CUDA plugin.
    """
    ops = choose_fast_ops("gpu", spec.dtype, Processor()) if spec.fast_ops else None
    shape = 1, spec.batch_size, spec.seq_len
    return list(compiled_step(card, spec.model, ops, spec.dtype, shape).kernels())
