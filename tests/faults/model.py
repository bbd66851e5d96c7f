"""Faults of the model: layers, precision, initial weights and the tables of names."""

from tests.faults.fault import Fault

FAULTS = (
    # The model.
    Fault(
        "torch: LayerNorm's epsilon is Flax's",
        "gpt_torch/model.py::layer_norm",
        "LAYER_NORM_EPSILON",
        "1e-6",
    ),
    Fault(
        "flax: LayerNorm's epsilon is Flax's",
        "gpt_flax/model.py::layer_norm",
        "nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_bias=config.bias, use_fast_variance=False)",
        "nn.LayerNorm(use_bias=config.bias, use_fast_variance=False)",
    ),
    Fault(
        "flax: the variance in one pass",
        "gpt_flax/model.py::layer_norm",
        "False",
        "True",
    ),
    Fault(
        "torch: GELU is always the erf form",
        "gpt_torch/model.py::MLP.__init__",
        '"tanh" if config.activation == "gelu_new" else "none"',
        '"none"',
    ),
    Fault(
        "flax: GELU is always the tanh form",
        "gpt_flax/model.py::MLP.setup",
        'config.activation == "gelu_new"',
        "True",
    ),
    Fault(
        "torch: queries and keys change places",
        "gpt_torch/model.py::CausalSelfAttention.forward",
        "q, k, v = qkv.transpose(1, 3).unbind(2)",
        "k, q, v = qkv.transpose(1, 3).unbind(2)",
    ),
    Fault(
        "flax: keys and values change places",
        "gpt_flax/model.py::CausalSelfAttention.__call__",
        "q, k, v",
        "q, v, k",
    ),
    Fault(
        "torch: heads are merged in the wrong order",
        "gpt_torch/model.py::CausalSelfAttention.forward",
        "y.transpose(1, 2)",
        "y",
    ),
    Fault(
        "torch: attention is not residual",
        "gpt_torch/model.py::Block.forward",
        "x + self.attn(self.ln_1(x), attention)",
        "self.attn(self.ln_1(x), attention)",
    ),
    Fault(
        "flax: the norm comes after, as in the first GPT",
        "gpt_flax/model.py::Block.__call__",
        "x + self.mlp(self.ln_2(x))",
        "self.ln_2(x + self.mlp(x))",
    ),
    Fault(
        "torch: the MLP takes the norm of attention",
        "gpt_torch/model.py::Block.forward",
        "self.ln_2(x)",
        "self.ln_1(x)",
    ),
    Fault(
        "torch: ln_f is skipped",
        "gpt_torch/model.py::GPT.head",
        "self.ln_f(x)",
        "x",
    ),
    Fault(
        "flax: ln_f is skipped",
        "gpt_flax/model.py::GPT.head",
        "self.ln_f(x)",
        "x",
    ),
    Fault(
        "torch: positions count from 1",
        "gpt_torch/model.py::GPT.hidden",
        "positions = torch.arange(T, device=tokens.device)",
        "positions = torch.arange(T, device=tokens.device) + 1",
    ),
    Fault(
        "flax: every position is the first",
        "gpt_flax/model.py::GPT.hidden",
        "jnp.arange(T)",
        "jnp.zeros(T, jnp.int32)",
    ),
    Fault(
        "torch: the head's use of the embedding gets no gradient",
        "gpt_torch/model.py::GPT.head",
        "F.linear(self.ln_f(x), self.wte.weight)",
        "F.linear(self.ln_f(x), self.wte.weight.detach())",
    ),
    Fault(
        "flax: the head's use of the embedding gets no gradient",
        "gpt_flax/model.py::GPT.head",
        "self.wte.attend(self.ln_f(x))",
        "self.ln_f(x) @ jax.lax.stop_gradient(self.wte.embedding).T",
    ),
    Fault(
        "torch: padded rows have logits",
        "gpt_torch/model.py::GPT.head",
        "F.linear(self.ln_f(x), self.wte.weight)[..., : self.config.vocab_size]",
        "F.linear(self.ln_f(x), self.wte.weight)",
    ),
    Fault(
        "flax: the loss is in bfloat16",
        "gpt_flax/model.py::GPT.head",
        "logits.astype(self.wte.embedding.dtype)",
        "logits",
    ),
    Fault(
        "torch: block_size itself is refused",
        "gpt_torch/model.py::GPT.hidden",
        "T > self.config.block_size",
        "T >= self.config.block_size",
    ),
    Fault(
        "flax: no length is refused",
        "gpt_flax/model.py::GPT.hidden",
        "T > self.config.block_size",
        "T > 10**9",
    ),
    Fault(
        "torch: a model without biases has those of its linear layers",
        "gpt_torch/model.py::linear",
        "nn.Linear(in_features, out_features, bias)",
        "nn.Linear(in_features, out_features)",
    ),
    Fault(
        "torch: a model without biases has those of its norms",
        "gpt_torch/model.py::layer_norm",
        "nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON, bias=config.bias)",
        "nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON)",
    ),
    Fault(
        "flax: a model without biases has those of its linear layers",
        "gpt_flax/model.py::linear",
        "nn.Dense(features, use_bias=bias, kernel_init=normal(std))",
        "nn.Dense(features, kernel_init=normal(std))",
    ),
    Fault(
        "flax: a model without biases has those of its norms",
        "gpt_flax/model.py::layer_norm",
        "nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_bias=config.bias, use_fast_variance=False)",
        "nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)",
    ),
    Fault(
        "torch: the mask is gone",
        "gpt_torch/model.py::causal_attention",
        "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
        "F.scaled_dot_product_attention(q, k, v, is_causal=False)",
    ),
    Fault(
        "flax: the mask is shifted by one, a token sees the next",
        "gpt_flax/model.py::causal_attention",
        "jnp.tri(q.shape[1], dtype=bool)",
        "jnp.tri(q.shape[1], k=1, dtype=bool)",
    ),
    Fault(
        "flax: hidden scores are 0, not minus infinity",
        "gpt_flax/model.py::causal_attention",
        "-jnp.inf",
        "0.0",
    ),
    Fault(
        "flax: the scale is that of the width",
        "gpt_flax/model.py::causal_attention",
        "math.sqrt(q.shape[3])",
        "math.sqrt(q.shape[3] * q.shape[2])",
    ),
    Fault(
        "torch: the loss is a sum",
        "gpt_torch/model.py::cross_entropy",
        "(logits.logsumexp(-1) - target_logits).mean()",
        "(logits.logsumexp(-1) - target_logits).sum()",
    ),
    Fault(
        "torch: the loss adds up one by one",
        "gpt_torch/model.py::cross_entropy",
        "(logits.logsumexp(-1) - target_logits).mean()",
        "F.cross_entropy(logits.flatten(0, -2), targets.flatten())",
    ),
    Fault(
        "flax: the loss is in bits",
        "gpt_flax/model.py::cross_entropy",
        "softmax_cross_entropy_with_integer_labels(logits, targets).mean()",
        "softmax_cross_entropy_with_integer_labels(logits, targets).mean() / math.log(2)",
    ),
    Fault(
        "flax: plain attention's scores and softmax in bfloat16",
        "gpt_flax/model.py::causal_attention",
        "jnp.promote_types(q.dtype, jnp.float32)",
        "q.dtype",
    ),
    Fault(
        "torch: the variance is unbiased, tensors' default",
        "gpt_torch/model.py::layer_norm",
        "return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON, bias=config.bias)",
        """
        class LayerNorm(nn.LayerNorm):
            def forward(self, x):
                deviation = (x.var(-1, keepdim=True) + self.eps).sqrt()
                return (x - x.mean(-1, keepdim=True)) / deviation * self.weight + self.bias

        return LayerNorm(config.n_embd, eps=LAYER_NORM_EPSILON, bias=config.bias)
        """,
    ),
    Fault(
        "flax: each head has its own queries, keys and values side by side",
        "gpt_flax/model.py::CausalSelfAttention.__call__",
        "qkv = self.c_attn(x).reshape(B, T, 3, self.config.n_head, C // self.config.n_head)",
        """
        qkv = self.c_attn(x).reshape(B, T, self.config.n_head, 3, C // self.config.n_head)
        qkv = qkv.swapaxes(2, 3)
        """,
    ),
    Fault(
        "flax: scores are not scaled",
        "gpt_flax/model.py::causal_attention",
        "scores / math.sqrt(q.shape[3])",
        "scores",
    ),
    Fault(
        "flax: the softmax is over queries",
        "gpt_flax/model.py::causal_attention",
        "jax.nn.softmax(scores, axis=-1)",
        "jax.nn.softmax(scores, axis=-2)",
    ),
    Fault(
        "torch: targets are shifted once more",
        "gpt_torch/model.py::cross_entropy",
        "target_logits = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)",
        """
        logits, targets = logits[:, :-1], targets[:, 1:]
        target_logits = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        """,
    ),
    Fault(
        "flax: the loss is a sum over positions",
        "gpt_flax/model.py::cross_entropy",
        "return softmax_cross_entropy_with_integer_labels(logits, targets).mean()",
        "return softmax_cross_entropy_with_integer_labels(logits, targets).sum(-1).mean()",
    ),
    # Precision.
    Fault(
        "flax: autocast leaves the head in float32",
        "gpt_flax/precision.py::in_bfloat16",
        'name == "attend"',
        "False",
    ),
    Fault(
        "flax: autocast leaves linear layers in float32",
        "gpt_flax/precision.py::in_bfloat16",
        'isinstance(layer, nn.Dense) and name == "__call__"',
        "False",
    ),
    # Initial weights.
    Fault(
        "initialisation: no scaling of the residual projections",
        "gpt_common/initialization.py::residual_std",
        "INITIAL_STD / math.sqrt(2 * config.n_layer)",
        "INITIAL_STD",
    ),
    Fault(
        "initialisation: one residual a layer",
        "gpt_common/initialization.py::residual_std",
        "2 * config.n_layer",
        "config.n_layer",
    ),
    Fault(
        "initialisation: the seed is not used",
        "gpt_common/initialization.py::initialize_weights.initialize",
        "[seed, zlib.crc32(name.encode())]",
        "[0, zlib.crc32(name.encode())]",
    ),
    Fault(
        "initialisation: tensors share a stream",
        "gpt_common/initialization.py::initialize_weights.initialize",
        "zlib.crc32(name.encode())",
        "len(shape)",
    ),
    Fault(
        "initialisation: norms start at 0",
        "gpt_common/initialization.py::initialize_weights.initialize",
        "np.ones(shape, np.float32)",
        "np.zeros(shape, np.float32)",
    ),
    # Weights by Hugging Face's names.
    Fault(
        "torch: the square c_proj is not transposed",
        "gpt_torch/weights.py::BLOCK_TABLE",
        '"attn.c_proj.weight": ("attn.c_proj.weight", True)',
        '"attn.c_proj.weight": ("attn.c_proj.weight", False)',
    ),
    Fault(
        "flax: the norms of a block change places",
        "gpt_flax/weights.py::BLOCK_TABLE",
        '"ln_1/scale"',
        '"ln_2/scale"',
    ),
    Fault(
        "torch: the table forgets which layer",
        "gpt_torch/weights.py::name_table",
        'f"h.{layer}.{name}"',
        'f"h.{max(0, layer - 1)}.{name}"',
    ),
    Fault(
        "torch: padded rows are repeated tokens",
        "gpt_torch/weights.py::iter_hf",
        "np.pad(array, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))",
        'np.pad(array, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)), "wrap")',
    ),
    Fault(
        "flax: padded rows are handed out",
        "gpt_flax/weights.py::hf_array",
        "to_host(array)[: shape[0]]",
        "to_host(array)",
    ),
    Fault(
        "torch: float64 goes through float32",
        "gpt_torch/weights.py::iter_hf",
        "np.float64 if dtype == torch.float64 else np.float32",
        "np.float32",
    ),
    Fault(
        "as many layers as a file claims",
        "gpt_common/weights.py::require_plausible",
        "config.n_layer > num_tensors",
        "False",
    ),
    Fault(
        "as many parameters as a file claims",
        "gpt_common/weights.py::require_plausible",
        "(parameters := num_parameters(config)) > size",
        "(parameters := num_parameters(config)) < 0",
    ),
    Fault(
        "checkpoint: biases of a model without are dropped whatever they are",
        "gpt_common/weights.py::match_weights",
        "not in_model(name, config) and arrays[name].any()",
        "False",
    ),
    Fault(
        "parameters: those of the last norm count twice",
        "gpt_common/weights.py::num_parameters",
        "(config.n_layer - 1) * block",
        "(config.n_layer - 1) * (block + config.n_embd)",
    ),
)
