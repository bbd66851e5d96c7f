"""Flax's functions compiled for an NVIDIA GPU that is not there, and what their programs hold.

jax needs its CUDA plugin, and JAX_PLATFORMS=cuda,cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import ShapeDtypeStruct
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.cards import CARDS
from benchmarks.workers.hlo import Instruction, Module
from gpt_common.config import Dtype, GPTConfig, OptimizerOptions
from gpt_common.errors import InputError
from gpt_flax.fast import FastOps, create_model
from gpt_flax.model import GPT
from gpt_flax.optimizer import create_optimizer
from gpt_flax.train import TrainState, compile_train_step
from gpt_flax.weights import Params

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


@dataclass(frozen=True)
class Product:
    """A matrix product: the element types of both operands, and the precision that is asked for."""

    left: str
    right: str
    precision: str


@dataclass(frozen=True)
class Program(Module):
    """A function compiled for a card: XLA's text of it, and its memory in bytes."""

    peak: int
    aliased: int

    @property
    def loops(self) -> list[Instruction]:
        """The loops."""
        return [each for each in self.instructions if each.opcode == "while"]

    @property
    def calls(self) -> Counter[str]:
        """How often each library function is called."""
        return Counter(re.findall(r'custom_call_target="([^"]+)"', self.text))

    @property
    def products(self) -> Counter[Product]:
        """The matrix products, by cuBLAS or by XLA's own kernels, without those in cuDNN."""
        types = {each.name: each.shapes[0][0] for each in self.instructions if each.shapes}
        found: Counter[Product] = Counter()
        for each in self.instructions:
            if each.opcode == "dot" or "__cublas" in each.attributes:
                left, right = each.operands[:2]
                asked = each.find(r'operand_precision"?[:=][\[{]"?(\w+)').lower() or "default"
                found[Product(types[left], types[right], asked)] += 1
        return found

    def arrays(self, element: str) -> Counter[tuple[int, ...]]:
        """How often each shape of an element type is the result of an instruction of the program.

        Not of those inside fusions, whose results never reach memory.
        """
        results = [each.shapes[0] for each in self.computations["ENTRY"].values() if each.shapes]
        return Counter(tuple(shape) for found, shape in results if found == element)


@cache
def card(name: str) -> NamedSharding:
    """Return where arrays of a card are; jax makes a topology of its data sheet.

    Raises `InputError` without jax's CUDA plugin.
    """
    if not any(map(importlib.util.find_spec, PLUGINS)):
        raise InputError('this needs jax\'s CUDA plugin: pip install -e ".[cuda]"')
    topology = topologies.get_topology_desc(
        "", platform="cuda", topology="1x1x1", target_config=(CARDS / f"{name}.txtpb").read_text()
    )
    return NamedSharding(Mesh(np.array(topology.devices), ("d",)), PartitionSpec())


def on_card(name: str, tree: Any) -> Any:
    """Return shapes and types of arrays, as arrays of the card; Python's numbers as they are."""
    return jax.tree.map(lambda a: a if isinstance(a, int) else a.update(sharding=card(name)), tree)


def compile_for(name: str, jitted: Callable[..., Any], *args: Any, **static: Any) -> Program:
    """Compile a jitted function of arrays given by shape and type for a card."""
    traced = jitted.trace(*on_card(name, args), **static)  # type: ignore[attr-defined]
    compiled = traced.lower(lowering_platforms=("cuda",)).compile()
    memory = compiled.memory_analysis()
    return Program(compiled.as_text(), memory.peak_memory_in_bytes, memory.alias_size_in_bytes)


def parameters(config: GPTConfig) -> Params:
    """Return the shapes and types of the weights."""
    key, tokens = ShapeDtypeStruct((2,), jnp.uint32), jnp.zeros((1, 8), jnp.int32)
    return jax.eval_shape(lambda key: GPT(config).init(key, tokens)["params"], key)


def matmul_precision(dtype: Dtype) -> Any:
    """Return a context in which float32 matmuls have the precision that `select_device` sets."""
    return jax.default_matmul_precision("tensorfloat32" if dtype == "tf32" else "highest")


def compiled_step(
    name: str, config: GPTConfig, ops: FastOps | None, dtype: Dtype, shape: tuple[int, int, int]
) -> Program:
    """Return the training step of `(A, B, T)` tokens, as the trainer compiles it on a card."""
    model, optimizer = create_model(config, ops, dtype), create_optimizer(OptimizerOptions())
    params = parameters(config)
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    tokens, rate = ShapeDtypeStruct(shape, jnp.int32), ShapeDtypeStruct((), jnp.float32)
    static = {"model": model, "optimizer": optimizer, "grad_clip": 1.0, "dtype": dtype}
    with matmul_precision(dtype):
        inputs = state, tokens, tokens, rate
        return compile_for(name, compile_train_step(ops), *inputs, **static)
