"""The learning rate, a pure function of the step."""

import math

from gpt_common.config import OptimizerOptions


def learning_rate(step: int, options: OptimizerOptions) -> float:
    """Return the learning rate of the update that follows 0-based `step`.

    Linear warm-up, `peak * (step + 1) / warmup_steps`, then constant, or the half cosine of
    Loshchilov & Hutter 2017 (arXiv:1608.03983, eq. 5) down to `min_lr` at the last step.
    """
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.lr_schedule == "constant":
        return options.learning_rate
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return options.min_lr + cosine * (options.learning_rate - options.min_lr)
