"""What sampling shares: the prompt, and the uniforms that make draws the same in both twins."""

import numpy as np
import numpy.typing as npt

from gpt_common import tokenizer
from gpt_common.config import GPTConfig, SamplingOptions
from gpt_common.errors import InputError


def prompt_tokens(options: SamplingOptions, config: GPTConfig) -> list[int]:
    """Return the tokens of the prompt; of an empty one, `<|endoftext|>`.

    Raises `InputError` where the model cannot continue it.
    """
    prompt = tokenizer.encode(options.prompt) or [tokenizer.END_OF_TEXT_TOKEN]
    if options.max_length > config.block_size:
        raise InputError(
            f"max_length must be at most block_size {config.block_size}, got {options.max_length}"
        )
    if len(prompt) >= options.max_length:
        raise InputError(
            f"max_length must be above the prompt's {len(prompt)} tokens, got {options.max_length}"
        )
    if max(prompt) >= config.vocab_size:
        raise InputError(
            f"expected a prompt of tokens below vocab_size {config.vocab_size}, got {max(prompt)}"
        )
    return prompt


def uniforms(seed: int, num_samples: int, num_positions: int) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1), `(num_samples, num_positions)`.

    Entry `(s, t)` decides which token sample `s` takes at position `t`. It depends on the seed, `s`
    and `t` alone, through the counter-based generator Philox (Salmon et al. 2011), so that neither
    the number of samples nor the framework changes it.
    """
    rows = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, sample])))
        for sample in range(num_samples)
    ]
    return np.stack([row.random(num_positions) for row in rows])


def sample(
    logits: npt.NDArray[np.floating],
    draws: npt.NDArray[np.float64],
    top_k: int,
    temperature: float,
) -> npt.NDArray[np.int64]:
    """Return a token for each row of `logits` `(S, V)`, by inverse cumulative probability.

    Tokens stand by falling probability, ties by token id; the uniform `draws` `(S,)` choose among
    the first `top_k`. In float64: the last digits of the twins' float32 logits then seldom matter.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.astype(np.float64) / temperature
    tokens = np.argsort(-scaled, axis=-1, kind="stable")[:, : top_k or None]  # (S, k)
    kept = np.take_along_axis(scaled, tokens, -1)
    cumulative = np.exp(kept - kept[:, :1]).cumsum(-1)
    below = (cumulative <= draws[:, None] * cumulative[:, -1:]).sum(-1, keepdims=True)
    last = tokens.shape[1] - 1  # where rounding puts a draw of nearly 1 past the end
    return np.take_along_axis(tokens, np.minimum(below, last), -1)[:, 0]
