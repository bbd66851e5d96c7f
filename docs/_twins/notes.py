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
        "Both name a layer as its attribute; with Linen's @nn.compact its name would be Dense_0.",
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
        "loses the small ones; optax computes it as the left side does.",
    ),
    Note(
        "model.py::linear",
        "nn.Linear(",
        "nn.Dense(",
        "the kernel is transposed",
        "torch stores a weight as (out, in) and computes x Wᵀ + b; Linen stores a kernel as "
        "(in, out) and computes x W + b, so moving weights transposes each.",
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
)
