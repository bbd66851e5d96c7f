"""Faults of what is chosen and must arrive, and of sizes above one chunk or block."""

from tests.faults.fault import Fault

TORCH_OPS = "gpt_torch/ops.py"
FLAX_OPS = "gpt_flax/ops.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "flax: plain attention's scores and softmax in bfloat16",
        FLAX_OPS,
        "    dtype = jnp.promote_types(q.dtype, jnp.float32)\n    scores",
        "    dtype = q.dtype\n    scores",
    ),
    Fault(
        "flax: the weights of blocks are taken from scores of bfloat16",
        FLAX_OPS,
        "    top = scores.max(axis=-1, keepdims=True)",
        "    scores = scores.astype(q.dtype)\n    top = scores.max(axis=-1, keepdims=True)",
    ),
    Fault(
        "flax: the compact GELU computes in bfloat16",
        FLAX_OPS,
        "return jax.nn.gelu(widened(x), approximate).astype(x.dtype)",
        "return jax.nn.gelu(x, approximate)",
    ),
    Fault(
        "flax: the gradient of the compact GELU computes in bfloat16",
        FLAX_OPS,
        """approximate=approximate), widened(x))
    (dx,) = pull_back(widened(gradient))
""",
        """approximate=approximate), x)
    (dx,) = pull_back(gradient)
""",
    ),
    Fault(
        "flax: the head's gradient is rounded to bfloat16 chunk by chunk",
        FLAX_OPS,
        "d_weight += product(transposed(d_logits), x_rows)",
        "d_weight += product(transposed(d_logits), x_rows).astype(dtype)",
    ),
    Fault(
        "flax: targets of several chunks in the wrong order",
        FLAX_OPS,
        "targets[:whole].reshape(-1, CHUNK_ROWS)",
        "targets[:whole].reshape(CHUNK_ROWS, -1).T",
    ),
    Fault(
        "torch: blocks leave out positions from 512 on",
        TORCH_OPS,
        "for start in range(0, length, size)]",
        "for start in range(0, min(length, 4 * BLOCK_ROWS), size)]",
    ),
    Fault(
        "flax: blocks leave out positions from 512 on",
        FLAX_OPS,
        "for start in range(0, length, size)]",
        "for start in range(0, min(length, 4 * BLOCK_ROWS), size)]",
    ),
    Fault(
        "torch: every chunk's gradient but the last is lost",
        TORCH_OPS,
        "d_weight += product(logits.t(), x_rows.t())",
        "d_weight = product(logits.t(), x_rows.t())",
    ),
    Fault(
        "flax: cuDNN is asked for heads of more than 128",
        FLAX_OPS,
        "hs % 8 == 0 and hs <= 128",
        "hs % 8 == 0 and hs <= 512",
    ),
    Fault(
        "flax: cuDNN is asked for smaller heads alone",
        FLAX_OPS,
        "hs % 8 == 0 and hs <= 128",
        "hs % 8 == 0 and hs < 128",
    ),
    Fault(
        "torch: TensorFloat-32 also where dtype is float32",
        "gpt_torch/device.py",
        '"high" if dtype == "tf32" else "highest"',
        '"high"',
    ),
    Fault(
        "flax: TensorFloat-32 also where dtype is float32",
        "gpt_flax/device.py",
        '"tensorfloat32" if dtype == "tf32" else "highest"',
        '"tensorfloat32"',
    ),
    Fault(
        "torch: evaluation keeps the graph of every batch",
        "gpt_torch/train.py",
        "@torch.no_grad()\ndef evaluate(",
        "def evaluate(",
    ),
    Fault(
        "run: each loss is read at once on jax's gpu",
        "gpt_common/run.py",
        'asynchronous=device != "cpu"',
        'asynchronous=device == "cuda"',
    ),
    Fault(
        "flax: a step does not give the old state's memory away",
        "gpt_flax/train.py",
        '        donate_argnames="state",\n',
        "",
    ),
    Fault(
        "flax: the depth-first option never reaches the training step",
        "gpt_flax/train.py",
        "depth_first_options(jax.__version_info__) if ops.depth_first else None",
        "None",
    ),
    Fault(
        "flax: the trainer's step is compiled as a plain one",
        "gpt_flax/train.py",
        "partial(jit_train_step(ops), **fixed)",
        "partial(jit_train_step(PLAIN), **fixed)",
    ),
    Fault(
        "torch: attention and loss keep their plain operations",
        "gpt_torch/model.py",
        "if isinstance(module, Linear | CausalSelfAttention | GPT):",
        "if isinstance(module, Linear):",
    ),
    Fault(
        "torch: the trainer's choice never reaches the model",
        "gpt_torch/train.py",
        "state = create_state(run.start, config, device, ops)",
        "state = create_state(run.start, config, device)",
    ),
    Fault(
        "torch: --compile compiles nothing",
        "gpt_torch/train.py",
        """    if config.runtime.compile:
        model.compile()
""",
        "",
    ),
    Fault(
        "flax: the MLP keeps its plain GELU",
        "gpt_flax/model.py",
        "gelu(self.c_fc(x), approximate, self.ops)",
        "gelu(self.c_fc(x), approximate, PLAIN)",
    ),
    Fault(
        "flax: attention keeps its plain form",
        "gpt_flax/model.py",
        "causal_attention(q, k, v, self.ops)",
        "causal_attention(q, k, v, PLAIN)",
    ),
    Fault(
        "malloc keeps a heap for each thread",
        "gpt_common/hardware.py",
        "mallopt(M_ARENA_MAX, 1)",
        "mallopt(M_ARENA_MAX, 64)",
    ),
)
