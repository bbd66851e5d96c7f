"""What `generate` reads and shows: prompts, text as it is made, JSON, the draws that were close."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from gpt_common import tokenizer
from gpt_common.completion import ROUNDING, Completion, start_completions
from gpt_common.config import GenerateConfig, GPTConfig, PromptOptions, StoppingOptions
from gpt_common.errors import InputError

# Lets continuations grow until all have ended, and yields after each few tokens.
GenerateStream = Callable[[list[Completion]], Iterator[None]]

REPLY_LENGTH = 100


def run_prompts(config: GenerateConfig, model: GPTConfig, stream: GenerateStream) -> None:
    """Continue the prompt, or one after the other, and show what comes.

    Raises `InputError` where the model cannot continue it. Ctrl-C ends an answer; where a prompt is
    asked for, the command.
    """
    if not config.prompt.interactive:
        run_prompt(prompt_tokens(config.prompt), config, model, stream)
        return
    for line in read_prompts():
        try:
            tokens = tokenizer.encode(require_text(line))
            stopping = fit_to_context(config.stopping, len(tokens), model)
            run_prompt(tokens, replace(config, stopping=stopping), model, stream)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print()


def fit_to_context(
    stopping: StoppingOptions, prompt_length: int, model: GPTConfig
) -> StoppingOptions:
    """Return how far an answer goes where that is not said: 100 tokens, or what fits."""
    if stopping.max_length is not None or stopping.max_new_tokens is not None:
        return stopping
    room = model.block_size - max(1, prompt_length)
    fits = REPLY_LENGTH if stopping.window else min(REPLY_LENGTH, max(1, room))
    return replace(stopping, max_new_tokens=fits)


def read_prompts() -> Iterator[str]:
    """Yield the lines of a terminal, or of a pipe, until they end."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is no text must not end it
    mark = "prompt: " if sys.stdin.isatty() else ""
    while True:
        try:
            yield input(mark)
        except EOFError:
            return


def require_text(line: str) -> str:
    """Return a line. Raises `InputError` for bytes that are no text where it comes from."""
    try:
        line.encode()
    except UnicodeEncodeError:
        raise InputError(f"expected text in {sys.stdin.encoding}, got other bytes") from None
    return line


def prompt_tokens(options: PromptOptions) -> list[int]:
    """Return the tokens of the prompt. Raises `InputError` where it cannot be read."""
    source = options.prompt_file or ("-" if options.prompt == "-" else None)
    if source is None:
        return tokenizer.encode(options.prompt)
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        return tokenizer.encode(content.decode().removesuffix("\n"))
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: expected UTF-8 text, got: {error}") from None


def run_prompt(
    tokens: list[int], config: GenerateConfig, model: GPTConfig, stream: GenerateStream
) -> None:
    """Continue one prompt and show what comes, as it comes."""
    count, options = config.prompt.count, (config.sampling, config.stopping)
    completions = start_completions([tokens], count, *options, model)
    if config.json:
        times = chunk_times(stream(completions))
        print(json.dumps(as_json(completions, times, config)))
        return
    show(completions, stream(completions))
    if config.explain:
        explain(completions, config)


def chunk_times(grown: Iterable[None]) -> list[float]:
    """Let continuations grow to their end; return when each few tokens were there, in seconds."""
    started = time.perf_counter()
    return [time.perf_counter() - started for _ in grown]


def show(completions: list[Completion], grown: Iterable[None]) -> None:
    """Print each continuation: the first as it grows, the others when those before have ended."""
    waiting = list(completions)
    shown = None  # characters of the first that waits; None where its prompt is not shown yet
    for _ in grown:
        while waiting:
            first = waiting[0]
            if shown is None:
                print(f"> {prompt_text(first)}", end="")
                shown = 0
            print(first.text[shown:], end="", flush=True)
            shown = len(first.text)
            if not first.finish:
                break
            print()
            waiting, shown = waiting[1:], None


def prompt_text(completion: Completion) -> str:
    """Return the text of the prompt; nothing where it is the `<|endoftext|>` before any text."""
    if completion.prompt == [tokenizer.END_OF_TEXT_TOKEN]:
        return ""
    return b"".join(map(tokenizer.token_bytes, completion.prompt)).decode(errors="replace")


def texts(completions: Iterable[Completion]) -> list[str]:
    """Return prompts and continuations as texts."""
    return [prompt_text(completion) + completion.text for completion in completions]


def as_json(
    completions: list[Completion], times: list[float], config: GenerateConfig
) -> dict[str, Any]:
    """Return the continuations of a prompt and how they were made, in a form that JSON can hold.

    Times are in seconds; that to the first token has the reading of the prompt in it and, in Flax,
    the compilation.
    """
    count = sum(len(completion.tokens) for completion in completions)
    return {
        "prompt": prompt_text(completions[0]),
        "prompt_tokens": completions[0].prompt,
        "samples": [
            {
                "text": completion.text,
                "tokens": completion.tokens,
                "logprobs": completion.logprobs,
                "finish": completion.finish,
                "close_draws": completion.borderline_tokens(config.dtype),
                "exact_draws": completion.exact_tokens,
            }
            for completion in completions
        ],
        "sampling": asdict(config.sampling),
        "stopping": asdict(config.stopping),
        "dtype": config.dtype,
        "exact": config.exact,
        "time_to_first_token": times[0],
        "seconds": times[-1],
        "tokens_per_second": count / times[-1],
    }


def explain(completions: list[Completion], config: GenerateConfig) -> None:
    """Print the draws that rounding may have decided, and how close they were."""
    limit = ROUNDING["float64" if config.exact else config.dtype]
    count = sum(len(c.tokens) for c in completions)
    close = [(c, i) for c in completions for i in c.borderline_tokens(config.dtype)]
    if config.exact:
        decided = sum(len(c.exact_tokens) for c in completions)
        print(f"{decided} of {count} draws were within rounding: float64 has decided them")
    print(f"{len(close)} of {count} draws may take another token in another program:")
    print(f"margin, the error of the logits that is enough, is below {limit:.0e} of the largest")
    for completion, i in close:
        token = tokenizer.token_bytes(completion.tokens[i]).decode(errors="replace")
        print(f"sample {completion.sample}, token {i} {token!r}: {completion.margins[i]:.1e}")
