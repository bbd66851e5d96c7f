"""Faults of sampling: from logits to a token."""

from tests.faults.fault import Fault

FAULTS = (
    Fault(
        "torch: top-k keeps one more",
        "gpt_torch/sampling.py::sort_tokens",
        "torch.exp(scores - scores[:, :1])[:, :k]",
        "torch.exp(scores - scores[:, :1])[:, : k + 1]",
    ),
    Fault(
        "flax: temperature multiplies",
        "gpt_flax/sampling.py::sort_tokens",
        "values.astype(jnp.float64) / (options.temperature or 1.0)",
        "values.astype(jnp.float64) * (options.temperature or 1.0)",
    ),
    Fault(
        "torch: top-p leaves out the token that crosses it",
        "gpt_torch/sampling.py::cutoff_index",
        "exclusive_cumulative(ordered) < options.top_p",
        "exclusive_cumulative(ordered) + ordered.weights / ordered.cumulative[:, -1:]"
        " <= options.top_p",
    ),
    Fault(
        "flax: min-p is a share of everything",
        "gpt_flax/sampling.py::cutoff_index",
        "ordered.weights",
        "ordered.weights / ordered.cumulative[:, -1:]",
    ),
    Fault(
        "torch: the penalty favours negative logits",
        "gpt_torch/sampling.py::penalize",
        "torch.where(logits < 0, logits * penalty, logits / penalty)",
        "logits / penalty",
    ),
    Fault(
        "torch: ties stand as topk leaves them",
        "gpt_torch/sampling.py::top_k_tokens",
        "(values[:, k:] == values[:, k - 1 : k]).any()",
        "False",
    ),
    Fault(
        "torch: one tie too many is taken out at the edge",
        "gpt_torch/sampling.py::drop_surplus_ties",
        "ties.cumsum(-1, dtype=torch.int32) > count",
        "ties.cumsum(-1, dtype=torch.int32) >= count",
    ),
    Fault(
        "flax: a draw is a hundredth too small",
        "gpt_flax/sampling.py::sample",
        "uniforms[:, None]",
        "uniforms[:, None] - 0.01",
    ),
    Fault(
        "torch: the log-probability is of the penalized logits",
        "gpt_torch/sampling.py::sample",
        "logits.gather(-1, token)",
        "penalize(logits, seen, options).gather(-1, token)",
    ),
    Fault(
        "flax: the margin forgets the neighbours",
        "gpt_flax/sampling.py::margin",
        "jnp.where(index < end, after, jnp.inf) / 2",
        "jnp.full_like(after, jnp.inf)",
    ),
    Fault(
        "sampling: the seed is not used",
        "gpt_common/sampling.py::_row",
        "[seed, sample]",
        "[0, sample]",
    ),
    Fault(
        "sampling: seed and sample change places",
        "gpt_common/sampling.py::_row",
        "[seed, sample]",
        "[sample, seed]",
    ),
    Fault(
        "sampling: every sample draws the same",
        "gpt_common/sampling.py::_row",
        "[seed, sample]",
        "[seed, 0]",
    ),
    Fault(
        "torch: the margin forgets the penalty",
        "gpt_torch/sampling.py::margin",
        "torch.cat(margins, -1).amin(-1) * (options.temperature or 1.0) / penalty",
        "torch.cat(margins, -1).amin(-1) * (options.temperature or 1.0)",
    ),
    Fault(
        "flax: the margin is of first order",
        "gpt_flax/sampling.py::boundary_margin",
        "jnp.log1p(odds)",
        "odds",
    ),
    Fault(
        "draws begin at a multiple of four",
        "gpt_common/sampling.py::_row",
        "np.random.Generator(philox).random(start % 4 + num_positions)[start % 4 :]",
        "np.random.Generator(philox).random(num_positions)",
    ),
    Fault(
        "torch: top-p keeps one more where the share is exactly that",
        "gpt_torch/sampling.py::cutoff_index",
        "exclusive_cumulative(ordered) < options.top_p",
        "exclusive_cumulative(ordered) <= options.top_p",
    ),
)
