"""Faults of the fast operations of FastGPT, and when each is used."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "torch: attention keeps its plain form",
        "gpt_torch/fast.py::FastGPT.hidden",
        "blockwise_attention if self.ops.blockwise_attention else causal_attention",
        "causal_attention",
    ),
    Fault(
        "flax: the MLP keeps its plain GELU",
        "gpt_flax/fast.py::call_fast",
        "ops.remat_gelu and isinstance(layer, MLP)",
        "False",
    ),
    Fault(
        "flax: attention keeps its plain form",
        "gpt_flax/fast.py::fast_attention",
        "blockwise_attention if ops.blockwise_attention else causal_attention",
        "causal_attention",
    ),
    Fault(
        "torch: oneDNN's gradient of x is that of a weight without signs",
        "gpt_torch/fast.py::OneDNNLinear.backward",
        "onednn_matmul(grad, weight.t())",
        "grad @ weight.abs()",
    ),
    Fault(
        "torch: oneDNN's bias gets the mean of its gradients",
        "gpt_torch/fast.py::OneDNNLinear.backward",
        "grad_2d.sum(0)",
        "grad_2d.mean(0)",
    ),
    Fault(
        "torch: attention by blocks is not masked",
        "gpt_torch/fast.py::attention_weights",
        "torch.full((R, S), -math.inf, dtype=q.dtype, device=q.device).triu(S - R + 1)",
        "torch.zeros((R, S), dtype=q.dtype, device=q.device)",
    ),
    Fault(
        "torch: attention by blocks is not scaled",
        "gpt_torch/fast.py::attention_weights",
        "1 / math.sqrt(q.shape[2])",
        "1",
    ),
    Fault(
        "flax: the linear layer forgets its bias",
        "gpt_flax/fast.py::dense_2d",
        "y if bias is None else y + bias",
        "y",
    ),
    Fault(
        "flax: the linear layer's bias gets the mean of its gradients",
        "gpt_flax/fast.py::_dense_2d_backward",
        "grad_2d.astype(d_kernel.dtype).sum(axis=0)",
        "grad_2d.astype(d_kernel.dtype).mean(axis=0)",
    ),
    Fault(
        "flax: the linear layer's gradients go by way of bfloat16",
        "gpt_flax/fast.py::_dense_2d_backward",
        "d_kernel.astype(kernel.dtype)",
        "d_kernel.astype(x.dtype).astype(kernel.dtype)",
    ),
    Fault(
        "flax: GELU is always the approximation",
        "gpt_flax/fast.py::call_fast",
        "remat_gelu(layer.c_fc(x), layer.approximate)",
        "remat_gelu(layer.c_fc(x), True)",
    ),
    Fault(
        "flax: GELU's gradient is always the approximation's",
        "gpt_flax/fast.py::_remat_gelu_backward",
        "partial(jax.nn.gelu, approximate=approximate)",
        "partial(jax.nn.gelu, approximate=True)",
    ),
    Fault(
        "flax: GELU keeps what it computed",
        "gpt_flax/fast.py::_remat_gelu_backward",
        "jax.lax.optimization_barrier(x)",
        "x + 0",
    ),
    Fault(
        "torch: padded rows take part in the loss by rows",
        "gpt_torch/fast.py::ChunkedCrossEntropy.forward",
        "logits[:, vocab_size:] = -math.inf",
        "pass",
    ),
    Fault(
        "torch: the loss by rows leaves logits where their gradients should be",
        "gpt_torch/fast.py::row_losses_",
        "logits.copy_(upcast)",
        "pass",
    ),
    Fault(
        "torch: the loss by rows forgets what follows it",
        "gpt_torch/fast.py::ChunkedCrossEntropy.backward",
        "grad_outputs[0] * dx, grad_outputs[0] * d_weight, None, None, None, None",
        "dx, d_weight, None, None, None, None",
    ),
    Fault(
        "flax: the second factor of a product gets its gradient with the other sign",
        "gpt_flax/fast.py::_matmul_backward",
        "matmul(transpose_contiguous(a), grad)",
        "matmul(transpose_contiguous(a), -grad)",
    ),
    Fault(
        "torch: every block of queries sees one key more",
        "gpt_torch/fast.py::attention_weights",
        "S - R + 1",
        "S - R + 2",
    ),
    Fault(
        "torch: keys get a gradient from the last block of queries alone",
        "gpt_torch/fast.py::BlockwiseAttention.backward",
        "dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale)",
        "dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale, beta=0)",
    ),
    Fault(
        "flax: every block of queries sees one key more",
        "gpt_flax/fast.py::attention_block_forward",
        "k.shape[2] - q.shape[2]",
        "k.shape[2] - q.shape[2] + 1",
    ),
    Fault(
        "flax: every block of keys is seen by one query more",
        "gpt_flax/fast.py::attention_block_backward",
        "causal_scores(q, k, 0)",
        "causal_scores(q, k, 1)",
    ),
    Fault(
        "flax: scores of a block get no gradient from their softmax's sum",
        "gpt_flax/fast.py::attention_block_backward",
        "d_weights - delta",
        "d_weights",
    ),
    Fault(
        "flax: a block of keys takes its queries' gradients from the others",
        "gpt_flax/fast.py::_blockwise_attention_backward",
        "dq.at[:, :, rows].add(dq_rows)",
        "dq.at[:, :, rows].set(dq_rows)",
    ),
    Fault(
        "flax: a block's gradients are of terms, not of shares",
        "gpt_flax/fast.py::_blockwise_attention_backward",
        "swap_time_and_heads(grad) / row_sum",
        "swap_time_and_heads(grad)",
    ),
    Fault(
        "flax: padded rows take part in the loss by rows",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward.add_chunk",
        "jnp.arange(len(w)) < vocab_size",
        "jnp.arange(len(w)) <= vocab_size",
    ),
    Fault(
        "flax: the loss by rows averages over a chunk",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward.add_chunk",
        "d_logits / divisor",
        "d_logits / len(d_logits)",
    ),
    Fault(
        "flax: rows beyond the last whole chunk have no loss",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward.add_chunk",
        "losses.sum()",
        "losses[: len(losses) // loss_rows * loss_rows].sum()",
    ),
    Fault(
        "flax: each chunk forgets the ones before",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward.add_chunk",
        "d_weight += matmul(transpose_contiguous(d_logits), x_rows)",
        "d_weight = matmul(transpose_contiguous(d_logits), x_rows)",
    ),
    Fault(
        "flax: as many rows as are few are many",
        "gpt_flax/fast.py::is_small_batch",
        "rows <= SMALL_BATCH",
        "rows < SMALL_BATCH",
    ),
    Fault(
        "flax: a step is compiled breadth first",
        "gpt_flax/fast.py::train_step_options",
        '{"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}',
        '{"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_DEFAULT"}',
    ),
    Fault(
        "torch: compiled, oneDNN multiplies",
        "gpt_torch/fast.py::choose_fast_ops",
        'dtype == "float32" and processor.amd and processor.avx512 and not compiled',
        'dtype == "float32" and processor.amd and processor.avx512',
    ),
    Fault(
        "malloc gives back what is large",
        "gpt_common/hardware.py::tune_malloc",
        "mallopt(M_TRIM_THRESHOLD, -1)",
        "mallopt(M_TRIM_THRESHOLD, 2**31 - 1)",
    ),
    Fault(
        "flax: the weights of blocks are taken from scores of bfloat16",
        "gpt_flax/fast.py::attention_block_forward",
        "row_max = scores.max(axis=-1, keepdims=True)",
        """
        scores = scores.astype(q.dtype)
        row_max = scores.max(axis=-1, keepdims=True)
        """,
    ),
    Fault(
        "flax: the compact GELU computes in bfloat16",
        "gpt_flax/fast.py::remat_gelu",
        "jax.nn.gelu(upcast(x), approximate).astype(x.dtype)",
        "jax.nn.gelu(x, approximate)",
    ),
    Fault(
        "flax: the gradient of the compact GELU computes in bfloat16",
        "gpt_flax/fast.py::_remat_gelu_backward",
        """
        _, vjp = jax.vjp(partial(jax.nn.gelu, approximate=approximate), upcast(x))
        (dx,) = vjp(upcast(grad))
        """,
        """
        _, vjp = jax.vjp(partial(jax.nn.gelu, approximate=approximate), x)
        (dx,) = vjp(grad)
        """,
    ),
    Fault(
        "flax: the head's gradient is rounded to bfloat16 chunk by chunk",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward.add_chunk",
        "matmul(transpose_contiguous(d_logits), x_rows)",
        "matmul(transpose_contiguous(d_logits), x_rows).astype(dtype)",
    ),
    Fault(
        "flax: targets of several chunks in the wrong order",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward",
        "targets[:whole].reshape(-1, loss_rows)",
        "targets[:whole].reshape(loss_rows, -1).T",
    ),
    Fault(
        "torch: blocks leave out positions from 512 on",
        "gpt_torch/fast.py::query_blocks",
        "range(0, length, size)",
        "range(0, min(length, 4 * BLOCK_ROWS), size)",
    ),
    Fault(
        "flax: blocks leave out positions from 512 on",
        "gpt_flax/fast.py::query_blocks",
        "range(0, length, size)",
        "range(0, min(length, 4 * BLOCK_ROWS), size)",
    ),
    Fault(
        "torch: every chunk's gradient but the last is lost",
        "gpt_torch/fast.py::ChunkedCrossEntropy.forward",
        "d_weight += d_matmul(logits.t(), x_rows.t())",
        "d_weight = d_matmul(logits.t(), x_rows.t())",
    ),
    Fault(
        "flax: cuDNN is asked for heads of more than 128",
        "gpt_flax/fast.py::cudnn_attention",
        "hs > 128",
        "hs > 512",
    ),
    Fault(
        "flax: cuDNN is asked for smaller heads alone",
        "gpt_flax/fast.py::cudnn_attention",
        "hs > 128",
        "hs >= 128",
    ),
    Fault(
        "malloc keeps a heap for each thread",
        "gpt_common/hardware.py::tune_malloc",
        "mallopt(M_ARENA_MAX, 1)",
        "mallopt(M_ARENA_MAX, 64)",
    ),
    Fault(
        "torch: the loss keeps its plain form",
        "gpt_torch/fast.py::FastGPT.loss",
        "not self.ops.loss_rows",
        "True",
    ),
    Fault(
        "torch: in float16 small gradients of the logits are 0",
        "gpt_torch/fast.py::ChunkedCrossEntropy.forward",
        "len(x) if dtype != torch.float16 else 1 / FLOAT16_UNIT",
        "len(x)",
    ),
    Fault(
        "torch: in float16 the head's gradient overflows",
        "gpt_torch/fast.py::ChunkedCrossEntropy.forward",
        "matmul if dtype != torch.float16 else upcast_matmul",
        "matmul",
    ),
    Fault(
        "flax: in float16 small gradients of the logits are 0",
        "gpt_flax/fast.py::_chunked_cross_entropy_forward",
        "1 / FLOAT16_UNIT if dtype == jnp.float16 else len(x)",
        "len(x)",
    ),
    Fault(
        "flax: without bfloat16 a GPU is asked for cuDNN's attention",
        "gpt_flax/device.py::has_cudnn_attention",
        "dtype not in HALF or not has_bfloat16(device)",
        "dtype not in HALF",
    ),
)
