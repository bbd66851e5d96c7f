"""Faults that people make in a GPT-2, each, planted, must turn the tests red."""

from tests.faults import benchmarks, commands, data, exact, formats, nanogpt, runs, trial, wiring
from tests.faults.fault import Fault

TORCH_MODEL = "gpt_torch/model.py"
FLAX_MODEL = "gpt_flax/model.py"
TORCH_OPS = "gpt_torch/ops.py"
FLAX_OPS = "gpt_flax/ops.py"
TORCH_WEIGHTS = "gpt_torch/weights.py"
FLAX_WEIGHTS = "gpt_flax/weights.py"
TORCH_OPTIMIZER = "gpt_torch/optimizer.py"
FLAX_OPTIMIZER = "gpt_flax/optimizer.py"
TORCH_TRAIN = "gpt_torch/train.py"
FLAX_TRAIN = "gpt_flax/train.py"
DATA = "gpt_common/data.py"
HARDWARE = "gpt_common/hardware.py"
SCHEDULE = "gpt_common/schedule.py"
RUN = "gpt_common/run.py"

MODEL = (
    Fault(
        "torch: LayerNorm's epsilon is Flax's",
        TORCH_MODEL,
        "eps=LAYER_NORM_EPSILON",
        "eps=1e-6",
    ),
    Fault(
        "flax: LayerNorm's epsilon is Flax's",
        FLAX_MODEL,
        "epsilon=LAYER_NORM_EPSILON, ",
        "",
    ),
    Fault(
        "flax: the variance in one pass",
        FLAX_MODEL,
        "use_fast_variance=False",
        "use_fast_variance=True",
    ),
    Fault(
        "torch: GELU is always the erf form",
        TORCH_MODEL,
        '"tanh" if config.activation == "gelu_new" else "none"',
        '"none"',
    ),
    Fault(
        "flax: GELU is always the tanh form",
        FLAX_MODEL,
        'self.config.activation == "gelu_new"',
        "True",
    ),
    Fault(
        "torch: the mask is gone",
        TORCH_OPS,
        "is_causal=True",
        "is_causal=False",
    ),
    Fault(
        "flax: the mask is shifted by one, a token sees the next",
        FLAX_OPS,
        "jnp.where(jnp.tri(T, dtype=bool)",
        "jnp.where(jnp.tri(T, k=1, dtype=bool)",
    ),
    Fault(
        "flax: hidden scores are 0, not minus infinity",
        FLAX_OPS,
        "jnp.tri(T, dtype=bool), scores, -jnp.inf)",
        "jnp.tri(T, dtype=bool), scores, 0.0)",
    ),
    Fault(
        "flax: the scale is that of the width",
        FLAX_OPS,
        "preferred_element_type=dtype) / math.sqrt(hs)",
        "preferred_element_type=dtype) / math.sqrt(hs * q.shape[2])",
    ),
    Fault(
        "torch: queries and keys change places",
        TORCH_MODEL,
        "q, k, v = qkv.transpose(1, 3).unbind(2)",
        "k, q, v = qkv.transpose(1, 3).unbind(2)",
    ),
    Fault(
        "flax: keys and values change places",
        FLAX_MODEL,
        "q, k, v = jnp.unstack(qkv, axis=2)",
        "q, v, k = jnp.unstack(qkv, axis=2)",
    ),
    Fault(
        "torch: heads are merged in the wrong order",
        TORCH_MODEL,
        "y.transpose(1, 2).reshape(B, T, C)",
        "y.reshape(B, T, C)",
    ),
    Fault(
        "torch: attention is not residual",
        TORCH_MODEL,
        "x = x + self.attn(self.ln_1(x), places, cache)",
        "x = self.attn(self.ln_1(x), places, cache)",
    ),
    Fault(
        "flax: the norm comes after, as in the first GPT",
        FLAX_MODEL,
        "return x + self.mlp(self.ln_2(x))",
        "return self.ln_2(x + self.mlp(x))",
    ),
    Fault(
        "torch: the MLP takes the norm of attention",
        TORCH_MODEL,
        "self.mlp(self.ln_2(x))",
        "self.mlp(self.ln_1(x))",
    ),
    Fault(
        "torch: ln_f is skipped",
        TORCH_MODEL,
        "return self.ln_f(x)",
        "return x",
    ),
    Fault(
        "flax: ln_f is skipped",
        FLAX_MODEL,
        "return self.ln_f(x)",
        "return x",
    ),
    Fault(
        "torch: positions count from 1",
        TORCH_MODEL,
        "self.wpe.weight[:T]",
        "self.wpe.weight[1 : T + 1]",
    ),
    Fault(
        "flax: every position is the first",
        FLAX_MODEL,
        "self.wpe.embedding[:T]",
        "self.wpe.embedding[:1]",
    ),
    Fault(
        "torch: the head's use of the embedding gets no gradient",
        TORCH_MODEL,
        "F.linear(x, self.wte.weight)",
        "F.linear(x, self.wte.weight.detach())",
    ),
    Fault(
        "flax: the head's use of the embedding gets no gradient",
        FLAX_MODEL,
        "if frozen else self.wte.embedding",
        "if frozen else jax.lax.stop_gradient(self.wte.embedding)",
    ),
    Fault(
        "torch: padded rows have logits",
        TORCH_MODEL,
        "[..., : self.config.vocab_size]",
        "",
    ),
    Fault(
        "flax: the loss is in bfloat16",
        FLAX_MODEL,
        "return logits.astype(self.wte.embedding.dtype)",
        "return logits",
    ),
    Fault(
        "torch: the loss is a sum",
        TORCH_OPS,
        "target_logits).mean()",
        "target_logits).sum()",
    ),
    Fault(
        "torch: the loss adds up one by one",
        TORCH_OPS,
        "return (logits.logsumexp(-1) - target_logits).mean()",
        "return F.cross_entropy(logits.flatten(0, -2), targets.flatten())",
    ),
    Fault(
        "flax: the loss is in bits",
        FLAX_OPS,
        "(logits, targets).mean()",
        "(logits, targets).mean() / math.log(2)",
    ),
    Fault(
        "torch: block_size itself is refused",
        TORCH_MODEL,
        "if T > self.config.block_size",
        "if T >= self.config.block_size",
    ),
    Fault(
        "flax: no length is refused",
        FLAX_MODEL,
        "if T > self.config.block_size",
        "if T > 10**9",
    ),
)

OPS = (
    Fault(
        "torch: oneDNN's gradient of x is that of a weight without signs",
        TORCH_OPS,
        "return onednn_product(gradient, weight.t()), d_weight",
        "return gradient @ weight.abs(), d_weight",
    ),
    Fault(
        "torch: oneDNN's bias gets the mean of its gradients",
        TORCH_OPS,
        "d_bias = rows.sum(0)",
        "d_bias = rows.mean(0)",
    ),
    Fault(
        "torch: attention by blocks is not masked",
        TORCH_OPS,
        "torch.full((R, S), -math.inf, dtype=q.dtype, device=q.device).triu(S - R + 1)",
        "torch.zeros((R, S), dtype=q.dtype, device=q.device)",
    ),
    Fault(
        "torch: attention by blocks is not scaled",
        TORCH_OPS,
        "alpha=1 / math.sqrt(q.shape[2])",
        "alpha=1",
    ),
    Fault(
        "flax: the linear layer forgets its bias",
        FLAX_OPS,
        "y if bias is None else y + bias",
        "y",
    ),
    Fault(
        "flax: the linear layer's bias gets the mean of its gradients",
        FLAX_OPS,
        "rows.astype(d_kernel.dtype).sum(axis=0)",
        "rows.astype(d_kernel.dtype).mean(axis=0)",
    ),
    Fault(
        "flax: the linear layer's gradients go by way of bfloat16",
        FLAX_OPS,
        "d_kernel.astype(kernel.dtype), d_bias",
        "d_kernel.astype(x.dtype).astype(kernel.dtype), d_bias",
    ),
    Fault(
        "flax: GELU is always the approximation",
        FLAX_OPS,
        "return compact_gelu(x, approximate)",
        "return compact_gelu(x, True)",
    ),
    Fault(
        "flax: GELU's gradient is always the approximation's",
        FLAX_OPS,
        "partial(jax.nn.gelu, approximate=approximate)",
        "partial(jax.nn.gelu, approximate=True)",
    ),
    Fault(
        "flax: GELU keeps what it computed",
        FLAX_OPS,
        "x = jax.lax.optimization_barrier(x)",
        "x = x + 0",
    ),
    Fault(
        "torch: padded rows take part in the loss by rows",
        TORCH_OPS,
        "logits[:, vocab_size:] = -math.inf",
        "pass",
    ),
    Fault(
        "torch: the loss by rows leaves logits where their gradients should be",
        TORCH_OPS,
        "logits.copy_(wide)",
        "pass",
    ),
    Fault(
        "torch: the loss by rows forgets what follows it",
        TORCH_OPS,
        "return gradients[0] * dx, gradients[0] * d_weight,",
        "return dx, d_weight,",
    ),
    Fault(
        "flax: the second factor of a product gets its gradient with the other sign",
        FLAX_OPS,
        "product(gradient, transposed(b)), product(transposed(a), gradient)",
        "product(gradient, transposed(b)), product(transposed(a), -gradient)",
    ),
    Fault(
        "torch: every block of queries sees one key more",
        TORCH_OPS,
        ".triu(S - R + 1)",
        ".triu(S - R + 2)",
    ),
    Fault(
        "torch: keys get a gradient from the last block of queries alone",
        TORCH_OPS,
        "dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale)",
        "dk[:, seen].baddbmm_(d_scores.mT, q[:, rows], alpha=scale, beta=0)",
    ),
    Fault(
        "flax: every block of queries sees one key more",
        FLAX_OPS,
        "k.shape[2] - q.shape[2])",
        "k.shape[2] - q.shape[2] + 1)",
    ),
    Fault(
        "flax: every block of keys is seen by one query more",
        FLAX_OPS,
        "causal_scores(q, k, 0)",
        "causal_scores(q, k, 1)",
    ),
    Fault(
        "flax: scores of a block get no gradient from their softmax's sum",
        FLAX_OPS,
        "(product(scaled, transposed(v)) - shared)",
        "product(scaled, transposed(v))",
    ),
    Fault(
        "flax: a block of keys takes its queries' gradients from the others",
        FLAX_OPS,
        "dq.at[:, :, rows].add(d_rows)",
        "dq.at[:, :, rows].set(d_rows)",
    ),
    Fault(
        "flax: a block's gradients are of terms, not of shares",
        FLAX_OPS,
        "heads_first(gradient) / total",
        "heads_first(gradient)",
    ),
    Fault(
        "flax: padded rows take part in the loss by rows",
        FLAX_OPS,
        "jnp.arange(len(w)) < vocab_size",
        "jnp.arange(len(w)) <= vocab_size",
    ),
    Fault(
        "flax: the loss by rows averages over a chunk",
        FLAX_OPS,
        "d_logits / count",
        "d_logits / len(d_logits)",
    ),
    Fault(
        "flax: rows beyond the last whole chunk have no loss",
        FLAX_OPS,
        "(loss + losses.sum(), d_weight)",
        "(loss + losses[: len(losses) // CHUNK_ROWS * CHUNK_ROWS].sum(), d_weight)",
    ),
    Fault(
        "flax: each chunk forgets the ones before",
        FLAX_OPS,
        "d_weight += product(",
        "d_weight = product(",
    ),
    Fault(
        "flax: as many rows as are few are many",
        FLAX_OPS,
        "rows <= FEW_ROWS",
        "rows < FEW_ROWS",
    ),
    Fault(
        "flax: a step is compiled breadth first",
        FLAX_OPS,
        "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "CPU_SCHEDULER_TYPE_DEFAULT",
    ),
    Fault(
        "torch: compiled, oneDNN multiplies",
        TORCH_OPS,
        " and not compiled",
        "",
    ),
    Fault(
        "malloc gives back what is large",
        HARDWARE,
        "M_TRIM_THRESHOLD, -1",
        "M_TRIM_THRESHOLD, 2**31 - 1",
    ),
)

WEIGHTS = (
    Fault(
        "torch: the square c_proj is not transposed",
        TORCH_WEIGHTS,
        '("attn.c_proj.weight", True)',
        '("attn.c_proj.weight", False)',
    ),
    Fault(
        "flax: the norms of a block change places",
        FLAX_WEIGHTS,
        '"ln_1.weight": "ln_1/scale"',
        '"ln_1.weight": "ln_2/scale"',
    ),
    Fault(
        "torch: the table forgets which layer",
        TORCH_WEIGHTS,
        '(f"h.{layer}.{name}", transposed)',
        '(f"h.{max(0, layer - 1)}.{name}", transposed)',
    ),
    Fault(
        "torch: padded rows are repeated tokens",
        TORCH_WEIGHTS,
        "config.vocab_size), (0, 0)))",
        'config.vocab_size), (0, 0)), "wrap")',
    ),
    Fault(
        "flax: padded rows are handed out",
        FLAX_WEIGHTS,
        "array = array[: config.vocab_size]",
        "pass",
    ),
    Fault(
        "torch: float64 goes through float32",
        TORCH_WEIGHTS,
        "np.float64 if dtype == torch.float64 else np.float32",
        "np.float32",
    ),
    Fault(
        "initialisation: no scaling of the residual projections",
        "gpt_common/initialization.py",
        "INITIAL_STD / math.sqrt(2 * config.n_layer)",
        "INITIAL_STD",
    ),
    Fault(
        "initialisation: one residual a layer",
        "gpt_common/initialization.py",
        "math.sqrt(2 * config.n_layer)",
        "math.sqrt(config.n_layer)",
    ),
    Fault(
        "initialisation: the seed is not used",
        "gpt_common/initialization.py",
        "[seed, zlib.crc32",
        "[0, zlib.crc32",
    ),
    Fault(
        "initialisation: tensors share a stream",
        "gpt_common/initialization.py",
        "zlib.crc32(name.encode())",
        "len(shape)",
    ),
    Fault(
        "initialisation: norms start at 0",
        "gpt_common/initialization.py",
        "np.ones(shape, np.float32)",
        "np.zeros(shape, np.float32)",
    ),
)

OPTIMIZER = (
    Fault(
        "torch: everything decays",
        TORCH_OPTIMIZER,
        "return parameter.ndim >= 2",
        "return parameter.ndim >= 1",
    ),
    Fault(
        "flax: nothing decays",
        FLAX_OPTIMIZER,
        "return parameter.ndim >= 2",
        "return parameter.ndim >= 3",
    ),
    Fault(
        "torch: AdamW's own decay",
        TORCH_OPTIMIZER,
        '"weight_decay": options.weight_decay}',
        '"weight_decay": 1e-2}',
    ),
    Fault(
        "flax: optax's own decay",
        FLAX_OPTIMIZER,
        "weight_decay=options.weight_decay,",
        "",
    ),
    Fault(
        "torch: the betas of torch",
        TORCH_OPTIMIZER,
        "betas=betas, ",
        "",
    ),
    Fault(
        "flax: the betas change places",
        FLAX_OPTIMIZER,
        "b1=options.beta1",
        "b1=options.beta2",
    ),
    Fault(
        "flax: epsilon inside the root",
        FLAX_OPTIMIZER,
        "eps=options.eps",
        "eps=0.0, eps_root=options.eps",
    ),
    Fault(
        "torch: epsilon is fixed",
        TORCH_OPTIMIZER,
        "eps=options.eps",
        "eps=1e-8",
    ),
    Fault(
        "flax: no epsilon in clipping",
        FLAX_OPTIMIZER,
        "max_norm / (norm + CLIP_EPSILON)",
        "max_norm / norm",
    ),
    Fault(
        "torch: clipping also enlarges",
        TORCH_OPTIMIZER,
        "torch.clamp(max_norm / (norm + CLIP_EPSILON), max=1.0)",
        "max_norm / (norm + CLIP_EPSILON)",
    ),
    Fault(
        "flax: clipping at 0 makes all gradients 0",
        FLAX_OPTIMIZER,
        "if max_norm > 0:",
        "if max_norm >= 0:",
    ),
    Fault(
        "torch: the norm adds up one by one",
        TORCH_OPTIMIZER,
        "torch.stack([r.square().sum() for r in rows]).sum().sqrt()",
        "torch.linalg.vector_norm(torch.cat([r.flatten() for r in rows]))",
    ),
    Fault(
        "torch: the norm is a sum of norms",
        TORCH_OPTIMIZER,
        "torch.stack([r.square().sum() for r in rows]).sum().sqrt()",
        "torch.stack([r.square().sum().sqrt() for r in rows]).sum()",
    ),
    Fault(
        "flax: the norm squared",
        FLAX_OPTIMIZER,
        "return optax.tree.norm(gradients)",
        "return optax.tree.norm(gradients, squared=True)",
    ),
    Fault(
        "torch: the moments change places on the way out",
        TORCH_OPTIMIZER,
        '{name: s["exp_avg"] for name',
        '{name: s["exp_avg_sq"] for name',
    ),
    Fault(
        "torch: bias correction starts again after a resume",
        TORCH_OPTIMIZER,
        "torch.tensor(float(step)",
        "torch.tensor(float(0)",
    ),
    Fault(
        "flax: bias correction starts again after a resume",
        FLAX_OPTIMIZER,
        "count=jnp.array(step, jnp.int32)",
        "count=jnp.array(0, jnp.int32)",
    ),
    Fault(
        "flax: the second moment is lost in a resume",
        FLAX_OPTIMIZER,
        "nu=from_hf(training.exp_avg_sq, config, dtype)",
        "nu=optax.tree.get(opt_state, 'nu')",
    ),
)

TRAINING = (
    Fault(
        "torch: accumulated gradients are summed",
        TORCH_TRAIN,
        "loss_fn(state.model, x_micro, y_micro, dtype) / len(x)",
        "loss_fn(state.model, x_micro, y_micro, dtype)",
    ),
    Fault(
        "flax: accumulated gradients are summed",
        FLAX_TRAIN,
        "loss_fn(params, model, *xy) / len(x)",
        "loss_fn(params, model, *xy)",
    ),
    Fault(
        "torch: clipping before the gradients are all there",
        TORCH_TRAIN,
        "losses.append(loss.detach())",
        "losses.append(loss.detach()), "
        "clip_by_global_norm([p.grad for p in state.model.parameters()], grad_clip)",
    ),
    Fault(
        "torch: gradients pile up over steps",
        TORCH_TRAIN,
        "state.optimizer.zero_grad()",
        "pass",
    ),
    Fault(
        "torch: the learning rate of the next step",
        TORCH_TRAIN,
        "rate = learning_rate(step, options)",
        "rate = learning_rate(step + 1, options)",
    ),
    Fault(
        "flax: the learning rate of the next step",
        FLAX_TRAIN,
        "rate = learning_rate(step, options)",
        "rate = learning_rate(step + 1, options)",
    ),
    Fault(
        "flax: decay is not scaled by the learning rate",
        FLAX_TRAIN,
        "p + learning_rate * u, state.params, updates",
        "p + learning_rate * u - 1e-4 * p, state.params, updates",
    ),
    Fault(
        "torch: the head is untied after a step",
        TORCH_TRAIN,
        "state.optimizer.step()",
        "state.optimizer.step(), setattr(state.model.wte, 'weight', "
        "torch.nn.Parameter(state.model.wte.weight.detach().clone()))",
    ),
    Fault(
        "flax: the state is that of before the update",
        FLAX_TRAIN,
        "return TrainState(params, opt_state), {",
        "return TrainState(params, state.opt_state), {",
    ),
    Fault(
        "torch: evaluation leaves the loader where it is",
        TORCH_TRAIN,
        'loader.restore({"position": 0})',
        "pass",
    ),
    Fault(
        "torch: evaluation is of the first batch",
        TORCH_TRAIN,
        "torch.stack(losses).mean()",
        "losses[0]",
    ),
    Fault(
        "flax: evaluation is of the last batch",
        FLAX_TRAIN,
        "jnp.stack(losses).mean().item()",
        "losses[-1].item()",
    ),
    Fault(
        "schedule: warm-up starts at 0",
        SCHEDULE,
        "* (step + 1) / rise",
        "* step / rise",
    ),
    Fault(
        "schedule: warm-up takes one step more",
        SCHEDULE,
        "if step < options.warmup_steps",
        "if step <= options.warmup_steps",
    ),
    Fault(
        "schedule: the cosine begins with the run",
        SCHEDULE,
        "(step - options.warmup_steps) / (",
        "step / (",
    ),
    Fault(
        "schedule: the cosine goes down to 0",
        SCHEDULE,
        "options.min_lr + cosine * (options.learning_rate - options.min_lr)",
        "cosine * options.learning_rate",
    ),
    Fault(
        "a resumed run starts at the first batch",
        RUN,
        "    loader.restore(training.loader)",
        "    pass",
    ),
    Fault(
        "a resumed run does one step twice",
        RUN,
        "return self.start.training.step if self.start.training else 0",
        "return self.start.training.step - 1 if self.start.training else 0",
    ),
    Fault(
        "the batch to over-fit moves on",
        RUN,
        "self.train_loader.restore(place)",
        "pass",
    ),
)

DATA_FAULTS = (
    Fault(
        "loader: targets are the inputs",
        DATA,
        "window[1:].reshape(self.shape)",
        "window[:-1].reshape(self.shape)",
    ),
    Fault(
        "loader: the walk skips a token",
        DATA,
        "self._move_to(self.position + self.stride)",
        "self._move_to(self.position + self.stride + 1)",
    ),
    Fault(
        "loader: the last whole batch is left out",
        DATA,
        "position + self.stride + 1 <= len(self.tokens)",
        "position + self.stride + 1 < len(self.tokens)",
    ),
    Fault(
        "loader: the last batch may be a partial one",
        DATA,
        "position + self.stride + 1 <= len(self.tokens)",
        "position + 1 <= len(self.tokens)",
    ),
    Fault(
        "loader: every rank reads the same",
        DATA,
        "self.position + self.rank * size",
        "self.position",
    ),
    Fault(
        "loader: ranks do not step over each other",
        DATA,
        "batch_size * seq_len * world_size",
        "batch_size * seq_len",
    ),
    Fault(
        "loader: restore does nothing",
        DATA,
        "self._move_to(position)",
        "self._move_to(0)",
    ),
    Fault(
        "validation tokens are trained on",
        DATA,
        "TokenRange(train, 0, cut)",
        "TokenRange(train, 0, len(train))",
    ),
    Fault(
        "shards: a slice over a border loses its start",
        DATA,
        "start - offset : stop - offset",
        "0 : stop - offset",
    ),
    Fault(
        "llm.c's header is read as tokens",
        "gpt_common/token_files.py",
        "return TokenFile(path, LLMC_HEADER_BYTES, count)",
        "return TokenFile(path, 0, size // 2)",
    ),
    Fault(
        "tokenizer: <|endoftext|> is text",
        "gpt_common/tokenizer.py",
        'return get_encoding().encode(text, allowed_special="all")',
        "return get_encoding().encode(text, disallowed_special=())",
    ),
    Fault(
        "tokenizer: words are split without their space",
        "gpt_common/tokenizer.py",
        r"| ?\p{L}++|",
        r"|\p{L}++|",
    ),
    Fault(
        "tokenizer: long texts are cut after white space",
        "gpt_common/tokenizer.py",
        "end = cut.start() if cut",
        "end = cut.end() if cut",
    ),
)

CHECKPOINT = (
    Fault(
        "checkpoint: the moments change places on the way in",
        "gpt_common/checkpoint.py",
        'moments[f"exp_avg_sq.{name}"]',
        'moments[f"exp_avg.{name}"]',
    ),
    Fault(
        "checkpoint: --keep_last keeps one more",
        "gpt_common/checkpoint.py",
        "[:-keep_last]",
        "[: -keep_last - 1]",
    ),
    Fault(
        "convert: the prefix of a compiled model stays",
        "gpt_common/formats/names.py",
        '("_orig_mod.", "module.")',
        '("module.",)',
    ),
    Fault(
        "convert: c_fc is not transposed",
        "gpt_common/formats/names.py",
        "(c_attn|c_proj|c_fc)",
        "(c_attn|c_proj)",
    ),
    Fault(
        "convert: an untied head is taken for a tied one",
        "gpt_common/formats/names.py",
        "and not np.array_equal(head, embedding)",
        "and head.shape != embedding.shape",
    ),
    Fault(
        "convert: nanoGPT's moments in the order of its weights",
        "gpt_common/formats/nanogpt.py",
        "[n for n in shapes if len(shapes[n]) >= 2] + [n for n in shapes if len(shapes[n]) < 2]",
        "list(shapes)",
    ),
    Fault(
        "convert: nanoGPT's models compute the tanh GELU",
        "gpt_common/formats/nanogpt.py",
        'read_shape(arguments, "gelu", source)',
        'read_shape(arguments, "gelu_new", source)',
    ),
)

SAMPLING = (
    Fault(
        "torch: top-k keeps one more",
        "gpt_torch/sampling.py",
        "torch.exp(scores - scores[:, :1])[:, :k]",
        "torch.exp(scores - scores[:, :1])[:, : k + 1]",
    ),
    Fault(
        "flax: temperature multiplies",
        "gpt_flax/sampling.py",
        "values.astype(jnp.float64) / (options.temperature or 1.0)",
        "values.astype(jnp.float64) * (options.temperature or 1.0)",
    ),
    Fault(
        "torch: top-p leaves out the token that crosses it",
        "gpt_torch/sampling.py",
        "(shares_above(ranked) < options.top_p)",
        "(shares_above(ranked) + ranked.weights / ranked.cumulative[:, -1:] <= options.top_p)",
    ),
    Fault(
        "flax: min-p is a share of everything",
        "gpt_flax/sampling.py",
        "(ranked.weights >= options.min_p)",
        "(ranked.weights / ranked.cumulative[:, -1:] >= options.min_p)",
    ),
    Fault(
        "torch: the penalty favours negative logits",
        "gpt_torch/sampling.py",
        "torch.where(logits < 0, logits * penalty, logits / penalty)",
        "logits / penalty",
    ),
    Fault(
        "torch: weights are packed that torch.compile does not take so",
        "gpt_torch/frozen.py",
        "and dtype in supported and not compiled",
        "and dtype in supported",
    ),
    Fault(
        "torch: ties stand as topk leaves them",
        "gpt_torch/sampling.py",
        "if (values[:, k:] == values[:, k - 1 : k]).any():",
        "if False:",
    ),
    Fault(
        "torch: one tie too many is taken out at the edge",
        "gpt_torch/sampling.py",
        "dtype=torch.int32) > places)",
        "dtype=torch.int32) >= places)",
    ),
    Fault(
        "flax: a draw is a hundredth too small",
        "gpt_flax/sampling.py",
        "<= draws[:, None] * total)",
        "<= (draws[:, None] - 0.01) * total)",
    ),
    Fault(
        "torch: the log-probability is of the penalized logits",
        "gpt_torch/sampling.py",
        "logprob = logits.gather(-1, token)",
        "logprob = penalize(logits, seen, options).gather(-1, token)",
    ),
    Fault(
        "flax: the slack forgets the neighbours",
        "gpt_flax/sampling.py",
        "jnp.where(chosen < end, after, jnp.inf) / 2,",
        "jnp.full_like(after, jnp.inf),",
    ),
    Fault(
        "sampling: the seed is not used",
        "gpt_common/sampling.py",
        "np.random.SeedSequence([seed, sample])",
        "np.random.SeedSequence([0, sample])",
    ),
    Fault(
        "sampling: seed and sample change places",
        "gpt_common/sampling.py",
        "[seed, sample]",
        "[sample, seed]",
    ),
    Fault(
        "sampling: every sample draws the same",
        "gpt_common/sampling.py",
        "np.random.SeedSequence([seed, sample])",
        "np.random.SeedSequence([seed, 0])",
    ),
    Fault(
        "torch: a cached token does not see itself",
        "gpt_torch/model.py",
        "device=device) > positions[:, None, :, None]",
        "device=device) >= positions[:, None, :, None].clamp(min=1)",
    ),
    Fault(
        "flax: a cached token sees what follows",
        "gpt_flax/model.py",
        "jnp.arange(length) <= positions[:, None, :, None]",
        "jnp.arange(length) <= positions[:, None, :, None] + 1",
    ),
    Fault(
        "torch: keys are kept as values",
        "gpt_torch/model.py",
        "values[places.rows, :, places.positions] = v.transpose(1, 2)",
        "values[places.rows, :, places.positions] = k.transpose(1, 2)",
    ),
    Fault(
        "flax: keys are kept one place late",
        "gpt_flax/model.py",
        ".at[places.rows, :, places.positions].set(new)",
        ".at[places.rows, :, places.positions + 1].set(new)",
    ),
    Fault(
        "flax: a single row's keys are kept one place late",
        "gpt_flax/model.py",
        "places.positions[0, 0], 0)",
        "places.positions[0, 0] + 1, 0)",
    ),
    Fault(
        "torch: what is kept on a CPU is in bfloat16",
        "gpt_torch/ops.py",
        'return torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype',
        "return dtype",
    ),
    Fault(
        "flax: what is kept on a CPU is in bfloat16",
        "gpt_flax/ops.py",
        'return jnp.promote_types(dtype, jnp.float32) if device_type == "cpu" else dtype',
        "return dtype",
    ),
    Fault(
        "torch: the next token is that of the first place",
        "gpt_torch/model.py",
        "x = x[torch.arange(len(x), device=x.device), last]",
        "x = x[:, 0]",
    ),
    Fault(
        "flax: a prompt is read without its last token",
        "gpt_flax/generate.py",
        "next_logits(params, model, state, lengths - 1)",
        "next_logits(params, model, state, jnp.maximum(lengths - 2, 0))",
    ),
    Fault(
        "flax: a drawn token is not marked as seen",
        "gpt_flax/generate.py",
        "seen = seen.at[jnp.arange(len(seen)), drawn[0]].set(True)",
        "pass",
    ),
    Fault(
        "the window is one token short",
        "gpt_common/completion.py",
        "[-block_size:] for c in completions]",
        "[-block_size + 1 :] for c in completions]",
    ),
    Fault(
        "a text to stop before is shown",
        "gpt_common/completion.py",
        "sure = min(found) if found else",
        "sure = len(self._held) if found else",
    ),
)

FAULTS = (
    *MODEL,
    *OPS,
    *WEIGHTS,
    *OPTIMIZER,
    *TRAINING,
    *DATA_FAULTS,
    *CHECKPOINT,
    *SAMPLING,
    *benchmarks.FAULTS,
    *commands.FAULTS,
    *data.FAULTS,
    *exact.FAULTS,
    *formats.FAULTS,
    *nanogpt.FAULTS,
    *runs.FAULTS,
    *trial.FAULTS,
    *wiring.FAULTS,
)
