"""GPT-2 in float64 numpy, forward, backward, AdamW and sampling: the reference for both twins.

Written from the formulas and from neither twin, so that the twins cannot share a mistake. It is
itself held against finite differences and Hugging Face's GPT-2 in `test_reference.py`.

Each layer returns its output and a function that takes the gradient of the loss with respect to
that output, notes those of the layer's weights, and returns that with respect to its input.
Weights, gradients and moments are dicts of arrays under Hugging Face's names, kernels `(in, out)`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.special import erf

from gpt_common.config import GPTConfig, OptimizerOptions, SamplingOptions
from gpt_common.weights import Array, Weights

Backward = Callable[[Array], Array]


@dataclass(frozen=True)
class Outcome:
    """What a model makes of a batch: what each sub-layer gives, the loss, each weight's gradient.

    The last of the layers are the logits `(B, T, V)`.
    """

    layers: dict[str, Array]
    loss: float
    gradients: Weights

    @property
    def logits(self) -> Array:
        return self.layers["logits"]


@dataclass(frozen=True)
class Training:
    """What a run left: each step's loss and norm (before clipping), last weights, the moments."""

    losses: list[float]
    norms: list[float]
    weights: Weights
    exp_avg: Weights
    exp_avg_sq: Weights


class ReferenceGPT:
    """The model: call it on `(B, T)` tokens and targets."""

    def __init__(self, config: GPTConfig, weights: Weights) -> None:
        self.config = config
        self.weights = {name: w.astype(np.float64) for name, w in weights.items()}

    def __call__(self, tokens: Array, targets: Array) -> Outcome:
        self.gradients: Weights = {}
        self.layers: dict[str, Array] = {}
        T = tokens.shape[1]
        wte = self.weights["transformer.wte.weight"]
        x = wte[tokens] + self.weights["transformer.wpe.weight"][:T]
        self.layers["embedding"] = x
        backwards = []
        for n in range(self.config.n_layer):
            x, backward = self.block(x, n)
            backwards.append(backward)
        x, norm_backward = self.layer_norm(x, "transformer.ln_f")
        self.layers["ln_f"] = x
        self.layers["logits"] = logits = x @ wte.T
        loss, dlogits = cross_entropy(logits, targets)
        dx = norm_backward(dlogits @ wte)
        for backward in reversed(backwards):
            dx = backward(dx)
        self.embedding_gradients(tokens, dx)
        # the head's use of the embedding, beside that at the bottom
        self.gradients["transformer.wte.weight"] += rows(dlogits).T @ rows(x)
        return Outcome(self.layers, loss, self.gradients)

    def embedding_gradients(self, tokens: Array, dx: Array) -> None:
        """Add each position's gradient to the rows that it was looked up from."""
        wte, wpe = (self.weights[f"transformer.{name}.weight"] for name in ("wte", "wpe"))
        dwte, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
        np.add.at(dwte, tokens, dx)
        dwpe[: tokens.shape[1]] = dx.sum(0)
        self.gradients |= {"transformer.wte.weight": dwte, "transformer.wpe.weight": dwpe}

    def block(self, x: Array, n: int) -> tuple[Array, Backward]:
        """x + attn(ln_1(x)), then x + mlp(ln_2(x))."""
        name = f"transformer.h.{n}"
        normed, norm_1 = self.layer_norm(x, f"{name}.ln_1")
        self.layers[f"h.{n}.attn"], attn = self.attention(normed, f"{name}.attn")
        x = x + self.layers[f"h.{n}.attn"]
        normed, norm_2 = self.layer_norm(x, f"{name}.ln_2")
        self.layers[f"h.{n}.mlp"], mlp = self.mlp(normed, f"{name}.mlp")

        def backward(dy: Array) -> Array:
            dy = dy + norm_2(mlp(dy))
            return dy + norm_1(attn(dy))

        return x + self.layers[f"h.{n}.mlp"], backward

    def attention(self, x: Array, name: str) -> tuple[Array, Backward]:
        """Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2, with a causal mask."""
        heads = self.config.n_head
        qkv, c_attn = self.linear(x, f"{name}.c_attn")
        q, k, v = (split_heads(part, heads) for part in np.split(qkv, 3, axis=-1))
        scale = 1 / math.sqrt(q.shape[-1])
        future = np.triu(np.full((q.shape[2], q.shape[2]), -np.inf), 1)
        attended = softmax(q @ transpose(k) * scale + future)  # (B, nh, T, T)
        y, c_proj = self.linear(merge_heads(attended @ v), f"{name}.c_proj")

        def backward(dy: Array) -> Array:
            dmixed = split_heads(c_proj(dy), heads)
            dattended = dmixed @ transpose(v)
            inner = (dattended * attended).sum(-1, keepdims=True)
            dscores = attended * (dattended - inner) * scale
            dq, dk, dv = dscores @ k, transpose(dscores) @ q, transpose(attended) @ dmixed
            return c_attn(np.concatenate([merge_heads(d) for d in (dq, dk, dv)], axis=-1))

        return y, backward

    def mlp(self, x: Array, name: str) -> tuple[Array, Backward]:
        """Linear, GELU, linear."""
        hidden, c_fc = self.linear(x, f"{name}.c_fc")
        activated, slope = GELU[self.config.activation](hidden)
        y, c_proj = self.linear(activated, f"{name}.c_proj")
        return y, lambda dy: c_fc(c_proj(dy) * slope)

    def linear(self, x: Array, name: str) -> tuple[Array, Backward]:
        """x W + b."""
        weight = self.weights[f"{name}.weight"]

        def backward(dy: Array) -> Array:
            self.gradients[f"{name}.weight"] = rows(x).T @ rows(dy)
            self.bias_gradient(dy, name)
            return dy @ weight.T

        return x @ weight + self.bias(name), backward

    def layer_norm(self, x: Array, name: str) -> tuple[Array, Backward]:
        """Ba et al. 2016, arXiv:1607.06450, with GPT-2's epsilon."""
        weight = self.weights[f"{name}.weight"]
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        normed = centred / deviation

        def backward(dy: Array) -> Array:
            self.gradients[f"{name}.weight"] = rows(dy * normed).sum(0)
            self.bias_gradient(dy, name)
            d = dy * weight
            along = normed * (d * normed).mean(-1, keepdims=True)
            return (d - d.mean(-1, keepdims=True) - along) / deviation

        return normed * weight + self.bias(name), backward

    def bias(self, name: str) -> Array | float:
        """b, which a model may be without."""
        return self.weights[f"{name}.bias"] if self.config.bias else 0.0

    def bias_gradient(self, dy: Array, name: str) -> None:
        if self.config.bias:
            self.gradients[f"{name}.bias"] = rows(dy).sum(0)


def gelu_tanh(x: Array) -> tuple[Array, Array]:
    """Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2: the tanh form, and its slope."""
    root = math.sqrt(2 / math.pi)
    t = np.tanh(root * (x + 0.044715 * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * root * (1 + 3 * 0.044715 * x**2)
    return 0.5 * x * (1 + t), slope


def gelu_erf(x: Array) -> tuple[Array, Array]:
    """The same paper's exact form, x times the normal distribution's Phi(x), and its slope."""
    cumulative = 0.5 * (1 + erf(x / math.sqrt(2)))
    return x * cumulative, cumulative + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


GELU = {"gelu_new": gelu_tanh, "gelu": gelu_erf}


def cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """The mean of -log p(target) over all positions, in nats, and its gradient."""
    p = softmax(logits)
    b, t = np.indices(targets.shape)
    shifted = logits - logits.max(-1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(-1)) - shifted[b, t, targets]
    p[b, t, targets] -= 1
    return float(losses.mean()), p / targets.size


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def split_heads(x: Array, heads: int) -> Array:
    """`(B, T, C)` to `(B, nh, T, hs)`."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """`(B, nh, T, hs)` to `(B, T, C)`."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def transpose(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def global_norm(gradients: Weights) -> float:
    return math.sqrt(sum(float(np.sum(g**2)) for g in gradients.values()))


@dataclass
class ReferenceAdamW:
    """Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; decay for what is not a vector."""

    options: OptimizerOptions
    step: int = 0
    exp_avg: Weights = field(default_factory=dict)
    exp_avg_sq: Weights = field(default_factory=dict)

    def update(self, weights: Weights, gradients: Weights, rate: float) -> Weights:
        """Return the next weights."""
        o, updated = self.options, {}
        self.step += 1
        for name, g in gradients.items():
            m = self.exp_avg.get(name, 0.0) * o.beta1 + (1 - o.beta1) * g
            v = self.exp_avg_sq.get(name, 0.0) * o.beta2 + (1 - o.beta2) * g**2
            self.exp_avg[name], self.exp_avg_sq[name] = m, v
            m_hat, v_hat = m / (1 - o.beta1**self.step), v / (1 - o.beta2**self.step)
            decay = o.weight_decay * weights[name] if g.ndim > 1 else 0.0
            updated[name] = weights[name] - rate * (m_hat / (np.sqrt(v_hat) + o.eps) + decay)
        return updated


def learning_rate(step: int, options: OptimizerOptions) -> float:
    """Linear warm-up to the peak, then constant, or half a cosine to `min_lr` at the end."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.lr_schedule == "constant":
        return options.learning_rate
    along = (step - options.warmup_steps) / (options.steps - options.warmup_steps)
    span = options.learning_rate - options.min_lr
    return options.min_lr + span * (1 + math.cos(math.pi * along)) / 2


def batch(tokens: Array, k: int, B: int, T: int) -> tuple[Array, Array]:
    """The k-th batch of `B * T` tokens, and the tokens that follow each; round and round."""
    start = k % ((len(tokens) - 1) // (B * T)) * B * T
    window = tokens[start : start + B * T + 1].astype(np.int64)
    return window[:-1].reshape(B, T), window[1:].reshape(B, T)


def train(
    config: GPTConfig, weights: Weights, tokens: Array, B: int, T: int, options: OptimizerOptions
) -> Training:
    """Train for `options.steps` updates of `options.grad_accum` batches each."""
    steps = training_steps(config, weights, tokens, B, T, options)
    (last,) = deque(steps, maxlen=1)  # of GPT-2 each has three gigabytes: none but it is kept
    return last


def training_steps(
    config: GPTConfig, weights: Weights, tokens: Array, B: int, T: int, options: OptimizerOptions
) -> Iterator[Training]:
    """Train, and yield after each update what there is so far."""
    model, optimizer = ReferenceGPT(config, weights), ReferenceAdamW(options)
    A = options.grad_accum or 1
    losses, norms = [], []
    for step in range(options.steps):
        parts = [model(*batch(tokens, step * A + a, B, T)) for a in range(A)]
        gradients = {name: sum(part.gradients[name] for part in parts) / A for name in weights}
        norm = global_norm(gradients)
        if options.grad_clip:
            scale = min(1.0, options.grad_clip / (norm + 1e-6))
            gradients = {name: g * scale for name, g in gradients.items()}
        model.weights = optimizer.update(model.weights, gradients, learning_rate(step, options))
        losses.append(sum(part.loss for part in parts) / A)
        norms.append(norm)
        moments = dict(optimizer.exp_avg), dict(optimizer.exp_avg_sq)
        yield Training(losses.copy(), norms.copy(), model.weights, *moments)


def sample(logits: Array, uniform: float, text: list[int], options: SamplingOptions) -> int:
    """Sample a token that continues a text from logits `(V,)`; of equal ones the lower is first."""
    scores, seen = logits.astype(np.float64), sorted(set(text))
    penalty = options.repetition_penalty
    scores[seen] *= np.where(scores[seen] < 0, penalty, 1 / penalty)
    order = np.argsort(-scores, kind="stable")
    if options.temperature == 0:
        return int(order[0])
    order = order[: options.top_k or None]
    p = softmax(scores[order] / options.temperature)
    p = p[(p.cumsum() - p < options.top_p) & (p >= options.min_p * p[0])]
    below = np.searchsorted(p.cumsum(), uniform * p.sum(), side="right")
    return int(order[min(below, len(p) - 1)])
