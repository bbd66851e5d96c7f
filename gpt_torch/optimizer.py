"""AdamW: weight decay, clipping, and its state under Hugging Face's names."""

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import AdamW

from gpt_common.checkpoint import TrainingState
from gpt_common.config import GPTConfig, OptimizerOptions
from gpt_common.weights import LazyWeights
from gpt_torch.parallel import divide
from gpt_torch.weights import iter_hf, lazy_hf

CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_'s


def has_weight_decay(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices and embeddings, not to biases and norms."""
    return parameter.ndim >= 2


def create_optimizer(model: nn.Module, options: OptimizerOptions) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with weight decay of matrices only.

    Each training step sets the learning rate.
    """
    decay = [p for p in model.parameters() if has_weight_decay(p)]
    no_decay = [p for p in model.parameters() if not has_weight_decay(p)]
    groups = [
        {"params": decay, "weight_decay": options.weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    betas = (options.beta1, options.beta2)
    return AdamW(groups, lr=options.learning_rate, betas=betas, eps=options.eps, fused=True)


def global_norm(gradients: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together.

    `vector_norm` adds one by one: in float32 the norm of the embedding's 38 million numbers is
    0.3 % low. So it takes the norms of rows, and `sum`, which adds in pairs, does the rest.
    """
    rows = [torch.linalg.vector_norm(g, dim=-1) for g in gradients]
    return torch.stack([r.square().sum() for r in rows]).sum().sqrt()


def clip_by_global_norm(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Scale gradients in place to a global norm of at most `max_norm`; return the norm before.

    `max_norm` 0 turns clipping off.
    """
    norm = global_norm(gradients)
    if max_norm > 0:
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + CLIP_EPSILON), max=1.0))
    return norm


def clip_and_update(
    model: nn.Module,
    optimizer: AdamW,
    scaler: GradScaler | None,
    learning_rate: float | Tensor,
    max_norm: float,
) -> Tensor:
    """Clip the gradients and update the parameters by AdamW; return the norm before clipping.

    A scaler of float16 unscales the gradients first, and skips the update if one is not finite.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = clip_by_global_norm([p.grad for p in model.parameters() if p.grad is not None], max_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)  # which does not wait for the device, as AdamW is fused
        scaler.update()
    return norm


def optimizer_step(optimizer: AdamW) -> int:
    """Return AdamW's own step count, which is without the updates that were skipped."""
    return int(next(iter(optimizer.state.values()))["step"])


def state_to_hf(
    optimizer: AdamW, model: nn.Module, config: GPTConfig
) -> tuple[LazyWeights, LazyWeights]:
    """Return AdamW's first and second moments under Hugging Face's names, each read when needed."""
    state = {name: optimizer.state[p] for name, p in model.named_parameters()}
    exp_avg = {name: s["exp_avg"] for name, s in state.items()}
    exp_avg_sq = {name: s["exp_avg_sq"] for name, s in state.items()}
    return lazy_hf(exp_avg, config), lazy_hf(exp_avg_sq, config)


def restore_state(
    optimizer: AdamW, model: nn.Module, config: GPTConfig, training: TrainingState
) -> None:
    """Restore AdamW's moments and step from a checkpoint."""
    step = training.adamw_step
    parameters = dict(model.named_parameters())
    dtype = next(iter(parameters.values())).dtype
    moments = zip(
        iter_hf(training.exp_avg, config, dtype),
        iter_hf(training.exp_avg_sq, config, dtype),
        strict=True,
    )
    for (name, exp_avg), (_, exp_avg_sq) in moments:
        parameter = parameters[name]
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            "exp_avg": divide(exp_avg, parameter).to(parameter.device),
            "exp_avg_sq": divide(exp_avg_sq, parameter).to(parameter.device),
        }
