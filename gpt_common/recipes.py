"""Runs that reproduce the sizes of GPT-2: the defaults that `--recipe` sets.

python -m gpt_common.prepare fineweb-edu-10b data/fineweb-edu-10b
python -m gpt_torch.train --recipe gpt2_124m --out_dir runs/gpt2_124m

The first command downloads ten billion tokens, of which the run reads each once. Any flag overrides
a recipe: eight GPUs take `--batch_size 512 --eval_steps 20`, and `--dry_run` says what fits.

Expect of gpt2_124m a validation loss below 3.29 on FineWeb-Edu's first shard, and more than 0.2955
of HellaSwag's endings: OpenAI's GPT-2 124M has these by the same measure (build-nanogpt,
https://github.com/karpathy/build-nanogpt, whose run this is). No such figures are published for the
other sizes trained on these tokens.
"""

from dataclasses import dataclass, replace

from gpt_common.config import (
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    OutputOptions,
    Preset,
    Recipe,
    RuntimeOptions,
    TrainConfig,
)

DATA = "data/fineweb-edu-10b"
TOKENS_PER_STEP = 2**19  # GPT-3's half a million
STEPS = 19_073  # for ten billion tokens
WARMUP_STEPS = 715  # GPT-3's 375 million tokens
EVAL_SEQUENCES = 10_240  # ten million tokens, as in build-nanogpt


@dataclass(frozen=True)
class Size:
    """What differs between the recipes.

    The peak learning rate is that of GPT-3 (Brown et al. 2020, arXiv:2005.14165, table 2.1) for the
    model of about that size: Small, Medium, Large and XL. The batch fits a GPU of 80 GB in both
    twins.
    """

    preset: Preset
    learning_rate: float
    batch_size: int


SIZES: dict[Recipe, Size] = {
    "gpt2_124m": Size("gpt2", 6e-4, 64),
    "gpt2_350m": Size("gpt2-medium", 3e-4, 32),
    "gpt2_774m": Size("gpt2-large", 2.5e-4, 16),
    "gpt2_1558m": Size("gpt2-xl", 2e-4, 8),
}


def recipe_defaults(recipe: Recipe, given: OptimizerOptions) -> TrainConfig:
    """Return the options of a recipe, but for its tokens per update if grad_accum is `given`."""
    size = SIZES[recipe]
    optimizer = OptimizerOptions(
        steps=STEPS,
        total_batch_tokens=TOKENS_PER_STEP,
        learning_rate=size.learning_rate,
        min_lr=size.learning_rate / 10,
        warmup_steps=WARMUP_STEPS,
        lr_schedule="cosine",
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.1,
        grad_clip=1.0,
    )
    if given.grad_accum is not None:
        optimizer = replace(optimizer, total_batch_tokens=None)
    return TrainConfig(
        model=ModelOptions(recipe=recipe, preset=size.preset),
        data=DataOptions(data=DATA, batch_size=size.batch_size, seq_len=1024),
        optimizer=optimizer,
        runtime=RuntimeOptions(dtype="bfloat16", compile=True),
        output=OutputOptions(
            eval_every=250,
            eval_steps=EVAL_SEQUENCES // size.batch_size,
            checkpoint_every=1000,
            keep_last=2,
        ),
    )
