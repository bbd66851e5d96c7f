"""The learning rate schedule, a pure function of the step."""

import math

from gpt_common.config import OptimizerOptions


def learning_rate(step: int, options: OptimizerOptions) -> float:
    """Return the learning rate of 0-based `step`.

    Linear warmup, `peak * (step + 1) / warmup_steps` (`warmup_peak` "next": one step later), then
    constant, or a half cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5) down to `min_lr`
    at step `lr_decay_steps`, by default `steps`; constant after that.
    """
    if step < options.warmup_steps:
        warmup = options.warmup_steps + (options.warmup_peak == "next")
        return options.learning_rate * (step + 1) / warmup
    if options.lr_schedule == "constant":
        return options.learning_rate
    end = options.lr_decay_steps or options.steps
    if step >= end:
        return options.min_lr
    progress = (step - options.warmup_steps) / (end - options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return options.min_lr + cosine * (options.learning_rate - options.min_lr)
