"""Faults of fast operations: attention, linear layers, GELU and the loss, and when each is used."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "torch: the mask is gone",
        "gpt_torch/ops.py::causal_attention",
        "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        "F.scaled_dot_product_attention(q, k, v, is_causal=False)",
    ),
    Fault(
        "flax: the mask is shifted by one, a token sees the next",
        "gpt_flax/ops.py::causal_attention",
        "jnp.tri(T, dtype=bool)",
        "jnp.tri(T, k=1, dtype=bool)",
    ),
    Fault(
        "flax: hidden scores are 0, not minus infinity",
        "gpt_flax/ops.py::causal_attention",
        "-jnp.inf",
        "0.0",
    ),
    Fault(
        "flax: the scale is that of the width",
        "gpt_flax/ops.py::causal_attention",
        "math.sqrt(hs)",
        "math.sqrt(hs * q.shape[2])",
    ),
    Fault(
        "torch: the loss is a sum",
        "gpt_torch/ops.py::cross_entropy",
        "(logits.logsumexp(-1) - target_logits).mean()",
        "(logits.logsumexp(-1) - target_logits).sum()",
    ),
    Fault(
        "torch: the loss adds up one by one",
        "gpt_torch/ops.py::cross_entropy",
        "(logits.logsumexp(-1) - target_logits).mean()",
        "F.cross_entropy(logits.flatten(0, -2), targets.flatten())",
    ),
    Fault(
        "flax: the loss is in bits",
        "gpt_flax/ops.py::cross_entropy",
        "softmax_cross_entropy_with_integer_labels(logits, targets).mean()",
        "softmax_cross_entropy_with_integer_labels(logits, targets).mean() / math.log(2)",
    ),
    Fault(
        "torch: oneDNN's gradient of x is that of a weight without signs",
        "gpt_torch/ops.py::OneDNNLinear.backward",
        "onednn_product(gradient, weight.t())",
        "gradient @ weight.abs()",
    ),
    Fault(
        "torch: oneDNN's bias gets the mean of its gradients",
        "gpt_torch/ops.py::OneDNNLinear.backward",
        "rows.sum(0)",
        "rows.mean(0)",
    ),
    Fault(
        "torch: attention by blocks is not masked",
        "gpt_torch/ops.py::attention_weights",
        "torch.full((R, S), -math.inf, dtype=q.dtype, device=q.device).triu(S - R + 1)",
        "torch.zeros((R, S), dtype=q.dtype, device=q.device)",
    ),
    Fault(
        "torch: attention by blocks is not scaled",
        "gpt_torch/ops.py::attention_weights",
        "1 / math.sqrt(q.shape[2])",
        "1",
    ),
    Fault(
        "flax: the linear layer forgets its bias",
        "gpt_flax/ops.py::flat_linear",
        "y if bias is None else y + bias",
        "y",
    ),
    Fault(
        "flax: the linear layer's bias gets the mean of its gradients",
        "gpt_flax/ops.py::_flat_linear_backward",
        "rows.astype(d_kernel.dtype).sum(axis=0)",
        "rows.astype(d_kernel.dtype).mean(axis=0)",
    ),
    Fault(
        "flax: the linear layer's gradients go by way of bfloat16",
        "gpt_flax/ops.py::_flat_linear_backward",
        "d_kernel.astype(kernel.dtype)",
        "d_kernel.astype(x.dtype).astype(kernel.dtype)",
    ),
    Fault(
        "flax: GELU is always the approximation",
        "gpt_flax/ops.py::gelu",
        "compact_gelu(x, approximate)",
        "compact_gelu(x, True)",
    ),
    Fault(
        "flax: GELU's gradient is always the approximation's",
        "gpt_flax/ops.py::_compact_gelu_backward",
        "partial(jax.nn.gelu, approximate=approximate)",
        "partial(jax.nn.gelu, approximate=True)",
    ),
    Fault(
        "flax: GELU keeps what it computed",
        "gpt_flax/ops.py::_compact_gelu_backward",
        "jax.lax.optimization_barrier(x)",
        "x + 0",
    ),
    Fault(
        "torch: padded rows take part in the loss by rows",
        "gpt_torch/ops.py::ChunkedLoss.forward",
        "logits[:, vocab_size:] = -math.inf",
        "pass",
    ),
    Fault(
        "torch: the loss by rows leaves logits where their gradients should be",
        "gpt_torch/ops.py::row_losses_",
        "logits.copy_(wide)",
        "pass",
    ),
    Fault(
        "torch: the loss by rows forgets what follows it",
        "gpt_torch/ops.py::ChunkedLoss.backward",
        "gradients[0] * dx, gradients[0] * d_weight, None, None, None, None",
        "dx, d_weight, None, None, None, None",
    ),
    Fault(
        "flax: the second factor of a product gets its gradient with the other sign",
        "gpt_flax/ops.py::_product_backward",
        "product(transposed(a), gradient)",
        "product(transposed(a), -gradient)",
    ),
    Fault(
        "torch: every block of queries sees one key more",
        "gpt_torch/ops.py::attention_weights",
        "S - R + 1",
        "S - R + 2",
    ),
    Fault(
        "torch: keys get a gradient from the last block of queries alone",
        "gpt_torch/ops.py::BlockAttention.backward",
        "dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale)",
        "dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale, beta=0)",
    ),
    Fault(
        "flax: every block of queries sees one key more",
        "gpt_flax/ops.py::last_rows_attention",
        "k.shape[2] - q.shape[2]",
        "k.shape[2] - q.shape[2] + 1",
    ),
    Fault(
        "flax: every block of keys is seen by one query more",
        "gpt_flax/ops.py::first_keys_gradients",
        "causal_scores(q, k, 0)",
        "causal_scores(q, k, 1)",
    ),
    Fault(
        "flax: scores of a block get no gradient from their softmax's sum",
        "gpt_flax/ops.py::first_keys_gradients",
        "product(scaled, transposed(v)) - shared",
        "product(scaled, transposed(v))",
    ),
    Fault(
        "flax: a block of keys takes its queries' gradients from the others",
        "gpt_flax/ops.py::_block_attention_backward",
        "dq.at[:, :, rows].add(d_rows)",
        "dq.at[:, :, rows].set(d_rows)",
    ),
    Fault(
        "flax: a block's gradients are of terms, not of shares",
        "gpt_flax/ops.py::_block_attention_backward",
        "heads_first(gradient) / total",
        "heads_first(gradient)",
    ),
    Fault(
        "flax: padded rows take part in the loss by rows",
        "gpt_flax/ops.py::chunked_loss_and_gradients.add_chunk",
        "jnp.arange(len(w)) < vocab_size",
        "jnp.arange(len(w)) <= vocab_size",
    ),
    Fault(
        "flax: the loss by rows averages over a chunk",
        "gpt_flax/ops.py::chunked_loss_and_gradients.add_chunk",
        "d_logits / count",
        "d_logits / len(d_logits)",
    ),
    Fault(
        "flax: rows beyond the last whole chunk have no loss",
        "gpt_flax/ops.py::chunked_loss_and_gradients.add_chunk",
        "losses.sum()",
        "losses[: len(losses) // CHUNK_ROWS * CHUNK_ROWS].sum()",
    ),
    Fault(
        "flax: each chunk forgets the ones before",
        "gpt_flax/ops.py::chunked_loss_and_gradients.add_chunk",
        "d_weight += product(transposed(d_logits), x_rows)",
        "d_weight = product(transposed(d_logits), x_rows)",
    ),
    Fault(
        "flax: as many rows as are few are many",
        "gpt_flax/ops.py::has_few_rows",
        "rows <= FEW_ROWS",
        "rows < FEW_ROWS",
    ),
    Fault(
        "flax: a step is compiled breadth first",
        "gpt_flax/ops.py::depth_first_options",
        '{"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}',
        '{"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_DEFAULT"}',
    ),
    Fault(
        "torch: compiled, oneDNN multiplies",
        "gpt_torch/ops.py::choose_ops",
        'dtype == "float32" and processor.amd and processor.avx512 and not compiled',
        'dtype == "float32" and processor.amd and processor.avx512',
    ),
    Fault(
        "malloc gives back what is large",
        "gpt_common/hardware.py::keep_memory",
        "mallopt(M_TRIM_THRESHOLD, -1)",
        "mallopt(M_TRIM_THRESHOLD, 2**31 - 1)",
    ),
    Fault(
        "torch: what is kept on a CPU is in bfloat16",
        "gpt_torch/ops.py::cache_dtype",
        'torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype',
        "dtype",
    ),
    Fault(
        "flax: what is kept on a CPU is in bfloat16",
        "gpt_flax/ops.py::cache_dtype",
        'jnp.promote_types(dtype, jnp.float32) if device_type == "cpu" else dtype',
        "dtype",
    ),
    Fault(
        "flax: plain attention's scores and softmax in bfloat16",
        "gpt_flax/ops.py::causal_attention",
        "jnp.promote_types(q.dtype, jnp.float32)",
        "q.dtype",
    ),
    Fault(
        "flax: the weights of blocks are taken from scores of bfloat16",
        "gpt_flax/ops.py::last_rows_attention",
        "top = scores.max(axis=-1, keepdims=True)",
        """
        scores = scores.astype(q.dtype)
        top = scores.max(axis=-1, keepdims=True)
        """,
    ),
    Fault(
        "flax: the compact GELU computes in bfloat16",
        "gpt_flax/ops.py::compact_gelu",
        "jax.nn.gelu(widened(x), approximate).astype(x.dtype)",
        "jax.nn.gelu(x, approximate)",
    ),
    Fault(
        "flax: the gradient of the compact GELU computes in bfloat16",
        "gpt_flax/ops.py::_compact_gelu_backward",
        """
        _, pull_back = jax.vjp(partial(jax.nn.gelu, approximate=approximate), widened(x))
        (dx,) = pull_back(widened(gradient))
        """,
        """
        _, pull_back = jax.vjp(partial(jax.nn.gelu, approximate=approximate), x)
        (dx,) = pull_back(gradient)
        """,
    ),
    Fault(
        "flax: the head's gradient is rounded to bfloat16 chunk by chunk",
        "gpt_flax/ops.py::chunked_loss_and_gradients.add_chunk",
        "product(transposed(d_logits), x_rows)",
        "product(transposed(d_logits), x_rows).astype(dtype)",
    ),
    Fault(
        "flax: targets of several chunks in the wrong order",
        "gpt_flax/ops.py::chunked_loss_and_gradients",
        "targets[:whole].reshape(-1, CHUNK_ROWS)",
        "targets[:whole].reshape(CHUNK_ROWS, -1).T",
    ),
    Fault(
        "torch: blocks leave out positions from 512 on",
        "gpt_torch/ops.py::blocks_of",
        "range(0, length, size)",
        "range(0, min(length, 4 * BLOCK_ROWS), size)",
    ),
    Fault(
        "flax: blocks leave out positions from 512 on",
        "gpt_flax/ops.py::blocks_of",
        "range(0, length, size)",
        "range(0, min(length, 4 * BLOCK_ROWS), size)",
    ),
    Fault(
        "torch: every chunk's gradient but the last is lost",
        "gpt_torch/ops.py::ChunkedLoss.forward",
        "d_weight += product(logits.t(), x_rows.t())",
        "d_weight = product(logits.t(), x_rows.t())",
    ),
    Fault(
        "flax: cuDNN is asked for heads of more than 128",
        "gpt_flax/ops.py::causal_attention",
        "hs <= 128",
        "hs <= 512",
    ),
    Fault(
        "flax: cuDNN is asked for smaller heads alone",
        "gpt_flax/ops.py::causal_attention",
        "hs <= 128",
        "hs < 128",
    ),
    Fault(
        "malloc keeps a heap for each thread",
        "gpt_common/hardware.py::keep_memory",
        "mallopt(M_ARENA_MAX, 1)",
        "mallopt(M_ARENA_MAX, 64)",
    ),
)
