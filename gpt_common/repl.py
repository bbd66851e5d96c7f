"""Input and output of `generate`: prompts, streamed text, JSON, borderline tokens."""

from __future__ import annotations

import contextlib
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

# Generates until all completions are finished; yields after each chunk of tokens.
GenerateStream = Callable[[list[Completion]], Iterator[None]]

REPLY_LENGTH = 100  # tokens


def run_prompts(
    config: GenerateConfig, model: GPTConfig, summary: str, stream: GenerateStream
) -> None:
    """Continue and print the prompt, or with `interactive` one prompt after the other.

    Standard error says what computes the text, which may be in a pipe; JSON says so itself. Raises
    `InputError` if the model cannot continue the prompt; in a REPL the error is printed.
    """
    if config.prompt.interactive:
        print_summary(config, summary)
        run_repl(config, model, stream)
        return
    completions = start_prompt(prompt_tokens(config.prompt), config, model)
    print_summary(config, summary)
    print_completions(completions, config, stream)


def print_summary(config: GenerateConfig, summary: str) -> None:
    """Print what computes, such as `torch on cpu, float32`, unless the output is JSON."""
    if not config.json:
        print(summary, file=sys.stderr)


def run_repl(config: GenerateConfig, model: GPTConfig, stream: GenerateStream) -> None:
    """Continue the lines of standard input.

    On a terminal Ctrl-C ends a continuation or discards a line, as in Python's REPL, and Ctrl-D
    ends the session. Elsewhere Ctrl-C ends the command.
    """
    is_terminal = prepare_stdin()
    while (line := read_prompt(is_terminal)) is not None:
        try:
            tokens = tokenizer.encode(require_text(line))
            stopping = fit_to_context(config.stopping, len(tokens), model)
            answered = replace(config, stopping=stopping)
            print_completions(start_prompt(tokens, answered, model), answered, stream)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print()


def fit_to_context(
    stopping: StoppingOptions, prompt_length: int, model: GPTConfig
) -> StoppingOptions:
    """Return the options, by default with 100 new tokens, or fewer if the context ends before."""
    if stopping.max_length is not None or stopping.max_new_tokens is not None:
        return stopping
    room = max(1, model.block_size - max(1, prompt_length))
    length = REPLY_LENGTH if stopping.window else min(REPLY_LENGTH, room)
    return replace(stopping, max_new_tokens=length)


def prepare_stdin() -> bool:
    """Return whether standard input is a terminal, whose lines can then be edited."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # an invalid byte must not end the loop
    with contextlib.suppress(ImportError):  # not every Python has it
        import readline  # noqa: F401
    return sys.stdin.isatty()


def read_prompt(is_terminal: bool) -> str | None:
    """Return the next line of standard input, None at its end; on a terminal, after a prompt."""
    while True:
        try:
            return input("prompt: " if is_terminal else "")
        except EOFError:
            if is_terminal:
                print()
            return None
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print("\n(Ctrl-D ends)")


def require_text(line: str) -> str:
    """Return a line. Raises `InputError` for bytes that are not valid in its encoding."""
    try:
        line.encode()
    except UnicodeEncodeError:
        raise InputError(f"expected text in {sys.stdin.encoding}, got other bytes") from None
    return line


def prompt_tokens(options: PromptOptions) -> list[int]:
    """Return the tokens of the prompt. Raises `InputError` if it is not UTF-8."""
    source = options.prompt_file or ("-" if options.prompt == "-" else None)
    if source is None:
        return tokenizer.encode(options.prompt)
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        return tokenizer.encode(content.decode().removesuffix("\n"))
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: expected UTF-8 text, got: {error}") from None


def start_prompt(tokens: list[int], config: GenerateConfig, model: GPTConfig) -> list[Completion]:
    """Return new continuations of a prompt. Raises `InputError` if the model cannot continue it."""
    options = config.sampling, config.stopping
    return start_completions([tokens], config.prompt.count, *options, model)


def print_completions(
    completions: list[Completion], config: GenerateConfig, stream: GenerateStream
) -> None:
    """Print the text of a prompt's continuations as it is generated, or JSON."""
    if config.json:
        times = chunk_times(stream(completions))
        print(json.dumps(as_json(completions, times, config)))
        return
    print_stream(completions, stream(completions))
    if config.explain:
        print_borderline_tokens(completions, config)


def chunk_times(chunks: Iterable[None]) -> list[float]:
    """Return the time of each chunk since the start, in seconds."""
    start = time.perf_counter()
    return [time.perf_counter() - start for _ in chunks]


def print_stream(completions: list[Completion], chunks: Iterable[None]) -> None:
    """Print the completions in order, each as it is generated."""
    waiting = list(completions)
    printed = None  # characters of the first one; None before its prompt is printed
    for _ in chunks:
        while waiting:
            first = waiting[0]
            if printed is None:
                print(f"> {prompt_text(first)}", end="")
                printed = 0
            print(first.text[printed:], end="", flush=True)
            printed = len(first.text)
            if not first.finish:
                break
            print()
            waiting, printed = waiting[1:], None


def prompt_text(completion: Completion) -> str:
    """Return the text of the prompt, "" if it is `<|endoftext|>` alone."""
    if completion.prompt == [tokenizer.END_OF_TEXT_TOKEN]:
        return ""
    return b"".join(map(tokenizer.token_bytes, completion.prompt)).decode(errors="replace")


def texts(completions: Iterable[Completion]) -> list[str]:
    """Return prompts with their continuations as texts."""
    return [prompt_text(completion) + completion.text for completion in completions]


def as_json(
    completions: list[Completion], times: list[float], config: GenerateConfig
) -> dict[str, Any]:
    """Return the completions of a prompt, the options and the times, as JSON values.

    Times are in seconds. `time_to_first_token` includes prefill and, in Flax, compilation.
    """
    return {
        "prompt": prompt_text(completions[0]),
        "prompt_tokens": completions[0].prompt,
        "samples": [_sample_as_json(completion, config) for completion in completions],
        "sampling": asdict(config.sampling),
        "stopping": asdict(config.stopping),
        "dtype": config.dtype,
        "exact": config.exact,
        "time_to_first_token": times[0],
        "seconds": times[-1],
        "tokens_per_second": sum(len(c.tokens) for c in completions) / times[-1],
    }


def _sample_as_json(completion: Completion, config: GenerateConfig) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": completion.tokens,
        "logprobs": completion.logprobs,
        "finish": completion.finish,
        "close_draws": completion.borderline_tokens(config.dtype),
        "exact_draws": completion.exact_tokens,
    }


def print_borderline_tokens(completions: list[Completion], config: GenerateConfig) -> None:
    """Print the tokens that rounding errors could change, and their margins."""
    limit = ROUNDING["float64" if config.exact else config.dtype]
    count = sum(len(c.tokens) for c in completions)
    borderline = [(c, i) for c in completions for i in c.borderline_tokens(config.dtype)]
    if config.exact:
        exact = sum(len(c.exact_tokens) for c in completions)
        print(f"{exact} of {count} tokens were borderline and sampled in float64")
    print(f"{len(borderline)} of {count} tokens are borderline: rounding errors could change them")
    print(f"(margin, relative to the largest logit, of at most {limit:.0e})")
    for completion, i in borderline:
        token = tokenizer.token_bytes(completion.tokens[i]).decode(errors="replace")
        print(f"sample {completion.sample}, token {i} {token!r}: {completion.margins[i]:.1e}")
