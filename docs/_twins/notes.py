"""Where the twins must differ, and why: one sentence for each place."""

from typing import NamedTuple


class Note(NamedTuple):
    """`torch` and `flax` are text of one line each of the function; "" where a twin has none.

    `place` is file::name, in PyTorch's words.
    """

    place: str
    torch: str
    flax: str
    title: str
    why: str


NOTES = (
    Note(
        "model.py::causal_attention",
        "is_causal=True",
        "jnp.tri(",
        "the mask",
        "torch's function masks on request; in Flax a lower triangle is True where a position may "
        "attend, and any other score becomes -inf, whose probability is 0.",
    ),
    Note(
        "model.py::causal_attention",
        "F.scaled_dot_product_attention",
        "scores / math.sqrt",
        "the scale",
        "torch's function divides the scores by sqrt(hs) itself; written out, this line must do "
        "it, or the softmax is too sharp.",
    ),
    Note(
        "model.py::causal_attention",
        "",
        "preferred_element_type=dtype",
        "the dtype of the scores",
        "The softmax must be in at least float32; jax.nn.dot_product_attention computes it in "
        "float32 even for float64 inputs, which made the twins agree to 1e-8 only.",
    ),
    Note(
        "model.py::CausalSelfAttention",
        "",
        "config: GPTConfig",
        "a field, not an argument",
        "A Linen module is a dataclass without weights: its fields say how to compute, and the "
        "weights come from outside.",
    ),
    Note(
        "model.py::CausalSelfAttention.__init__",
        "def __init__",
        "def setup",
        "where weights are created",
        "torch creates the weights here and keeps them in the module; setup only names the layers, "
        "and `model.init` returns their weights as a dictionary.",
    ),
    Note(
        "model.py::CausalSelfAttention.__init__",
        "linear(config.n_embd, 3 *",
        "linear(3 *",
        "sizes of a layer",
        "torch is given both sizes; Linen takes the input's from the first input.",
    ),
    Note(
        "model.py::CausalSelfAttention.forward",
        "def forward",
        "def __call__",
        "how it is called",
        'In torch `model(x)` calls forward; in Flax `model.apply({"params": params}, x)` puts the '
        "weights into the layers for this one call of __call__, so that the result depends on its "
        "arguments alone, and jax can differentiate it by them.",
    ),
    Note(
        "model.py::CausalSelfAttention.forward",
        ".view(B, T, 3",
        ".reshape(B, T, 3",
        "queries, keys, values, then heads",
        "The 3C outputs are three blocks of C, each of nh heads: 3 comes before nh, or queries, "
        "keys and values of all heads are mixed.",
    ),
    Note(
        "model.py::CausalSelfAttention.forward",
        "qkv.transpose(1, 3)",
        "jnp.unstack(qkv",
        "the axis of the heads",
        "torch's attention takes heads before time, (B, nh, T, hs); jax's convention is time "
        "before heads, (B, T, nh, hs), which is how they leave the layer.",
    ),
    Note(
        "model.py::CausalSelfAttention.forward",
        "y.transpose(1, 2)",
        "y.reshape(B, T, C)",
        "the heads side by side",
        "In torch time must be moved before the heads again, before they are joined to C numbers.",
    ),
    Note(
        "model.py::MLP.__init__",
        "self.approximate",
        "self.approximate",
        "which GELU",
        'GPT-2\'s is the tanh form, "gelu_new"; the default of torch is the exact one, that of jax '
        "the tanh form.",
    ),
    Note(
        "model.py::Block.__init__",
        "self.mlp",
        "self.mlp",
        "names of layers",
        "In both, a layer has the name of its attribute, and so have its weights: here those of "
        "`mlp`.",
    ),
    Note(
        "model.py::GPT.__init__",
        "self.wte = nn.Embedding",
        "self.wte = nn.Embed",
        "the standard deviation of an embedding",
        "torch starts an embedding at 1, Linen at 1/sqrt(C); GPT-2's is 0.02.",
    ),
    Note(
        "model.py::GPT.__init__",
        "nn.ModuleList",
        "[Block(config)",
        "a list of layers",
        "torch finds the layers of a list only in a ModuleList, Linen in a plain one.",
    ),
    Note(
        "model.py::GPT.hidden",
        "torch.arange",
        "jnp.arange",
        "the device",
        "A torch tensor is created on the CPU unless told otherwise; jax has one default device.",
    ),
    Note(
        "model.py::GPT.head",
        "F.linear",
        "self.wte.attend",
        "the tied head",
        "Both multiply by the embedding's own weights, (V, C), transposed; a copy would be trained "
        "apart.",
    ),
    Note(
        "model.py::cross_entropy",
        "logits.logsumexp",
        "softmax_cross_entropy_with_integer_labels",
        "the loss",
        "torch's F.cross_entropy adds the terms of a softmax one by one on a CPU in float32, and "
        "loses the small ones. So torch's loss is written out here: `logsumexp`, less the logit of "
        "the target, which is what optax's function computes too.",
    ),
    Note(
        "model.py::linear",
        "nn.Linear(",
        "nn.Dense(",
        "the kernel is transposed",
        "torch stores a weight W as (out, in) and computes x Wᵀ + b; Linen stores a kernel K as "
        "(in, out) and computes x K + b. K is Wᵀ: a weight is transposed when it is moved.",
    ),
    Note(
        "model.py::linear",
        "nn.init.normal_",
        "kernel_init",
        "initial weights",
        "torch changes the weights in place; in Flax the layer only keeps the function that "
        "`model.init` will call with a key for the random numbers.",
    ),
    Note(
        "model.py::layer_norm",
        "eps=LAYER_NORM_EPSILON",
        "epsilon=LAYER_NORM_EPSILON",
        "epsilon and the variance",
        "GPT-2's epsilon is 1e-5, as torch's default; Linen's default is 1e-6, and its default "
        "variance, E[x²] - E[x]², loses digits by cancellation.",
    ),
    Note(
        "weights.py::start:before",
        '"attn.c_proj.weight": (',
        '"attn.c_proj.weight": "',
        "transposed or not",
        "GPT-2's files are from TensorFlow, whose kernels are (in, out), as Linen's are; for "
        "torch four weights of each block are transposed, and c_proj is square, so that "
        "forgetting it raises no error.",
    ),
    Note(
        "weights.py::name_table",
        '(f"h.{layer}.{name}", transposed)',
        'f"h_{layer}/{path}"',
        "names of blocks",
        "A module in a ModuleList is h.0; Linen calls the first of a list of layers h_0.",
    ),
    Note(
        "optimizer.py::create_optimizer",
        "AdamW(groups",
        "learning_rate=1.0",
        "the learning rate",
        "torch's optimizer holds its learning rate, and each step sets it; optax's update is "
        "multiplied by it outside, so that a new rate does not compile the step again.",
    ),
    Note(
        "optimizer.py::create_optimizer",
        '"params": no_decay',
        "mask=",
        "weight decay of matrices only",
        "By default both decay biases and norms, too; torch takes groups of parameters, optax a"
        " mask in the shape of the parameters. The defaults differ as well: 0.01 in torch, "
        "0.0001 in optax.",
    ),
    Note(
        "optimizer.py::global_norm",
        "torch.linalg.vector_norm",
        "optax.tree.norm",
        "how a sum is added",
        "On a CPU torch adds a norm's squares one by one, in float32 0.3 % too little for 38 "
        "million of them; `sum` adds in pairs, as XLA does.",
    ),
    Note(
        "optimizer.py::clip_by_global_norm",
        "torch._foreach_mul_",
        "gradients = jax.tree.map",
        "in place, or a new value",
        "torch scales the gradients where they are; JAX arrays never change, so clipped "
        "gradients are new ones, and must be returned and used.",
    ),
    Note(
        "optimizer.py::clip_and_update",
        "optimizer.step()",
        "optimizer.update(",
        "the update",
        "torch's step changes weights and moments; optax returns the change of the weights and "
        "the new moments, and has to be given the weights for their decay.",
    ),
    Note(
        "optimizer.py::clip_and_update",
        'group["lr"] = learning_rate',
        "p + learning_rate * u",
        "where the learning rate is multiplied",
        "AdamW multiplies the whole update by it, the weight decay included, so it can be done "
        "afterwards.",
    ),
    Note(
        "train.py::train_step",
        "scale_loss(loss, state.scaler).backward()",
        "value_and_grad(state.params",
        "gradients",
        "backward adds to each parameter's grad; in JAX the gradient of a function is another "
        "function, which returns it.",
    ),
    Note(
        "train.py::train_step",
        "/ len(x)",
        "/ len(x)",
        "accumulated gradients are divided",
        "Each batch's loss is divided by their number, or the sum of gradients is A times as "
        "long as their mean.",
    ),
    Note(
        "train.py::train_step",
        "for number, (x_micro",
        "jax.lax.scan",
        "the loop over batches",
        "A Python loop would be unrolled when JAX compiles it; scan is one loop in the program.",
    ),
    Note(
        "train.py::train_step",
        "state.optimizer.zero_grad()",
        "zeros = ",
        "gradients start at 0",
        "torch keeps gradients until they are removed; in Flax the sum starts at zeros in each "
        "step.",
    ),
    Note(
        "train.py::compile_train_step",
        "torch.compile(model.loss)",
        "donate_argnames",
        "memory of the old state",
        "The state is an argument and a result: unless the old one is donated, both are in "
        "memory at once.",
    ),
    Note(
        "train.py::compile_train_step",
        "rate = torch.tensor",
        "static_argnames",
        "what a compiled program depends on",
        "torch.compile compiles again for each new Python number, so the rate is a tensor; jit "
        "does so for static arguments alone, here the model and its options.",
    ),
    Note(
        "sampling.py::sample",
        "ordered.cumulative.gather",
        "gather(ordered.cumulative",
        "gather",
        "jnp has take_along_axis, which is torch's gather.",
    ),
    Note(
        "sampling.py::sample",
        "largest = logits.abs()",
        "largest = jnp.abs",
        "float64",
        "A torch tensor may always be float64; JAX has 64-bit types only where they are turned "
        "on, as in `sample_arrays`.",
    ),
    Note(
        "cache.py::CachedAttention.__call__",
        "keys = update_cache",
        "keys = update_cache",
        "in place, or a new cache",
        "torch writes into the cache, and both names are the same memory; in Flax the result is"
        " a new cache, which must be kept: the next line.",
    ),
    Note(
        "cache.py::update_cache",
        "cached[at.rows",
        "cached.at[at.rows",
        "an index assignment",
        "JAX arrays have no item assignment; `x.at[i].set(y)` returns the changed array, and "
        "inside jit it is done in place if the old one is donated.",
    ),
    Note(
        "cache.py::cache_positions",
        "masked_fill",
        "mask = ",
        "the mask",
        "torch's is added to the scores, 0 or -inf; Flax's is boolean, True where a key is "
        "attended to.",
    ),
    Note(
        "precision.py::autocast",
        "torch.autocast",
        "nn.intercept_methods",
        "autocast",
        "Flax has none: ours intercepts the calls of Linen's layers and gives them a dtype; it "
        "must be entered inside the function that is compiled.",
    ),
)
