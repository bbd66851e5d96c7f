"""Faults of exact generation."""

from tests.faults.fault import Fault

EXACT = "gpt_common/exact.py"
COMPLETION = "gpt_common/completion.py"
DIALOGUE = "gpt_common/dialogue.py"
TORCH_GENERATE = "gpt_torch/generate.py"
FLAX_GENERATE = "gpt_flax/generate.py"
TORCH_SAMPLING = "gpt_torch/sampling.py"
FLAX_SAMPLING = "gpt_flax/sampling.py"

DECIDED = (
    Fault(
        "exact: a changed token does not void what was drawn after it",
        EXACT,
        "changed, rows[n] = True, iter(())",
        "changed = True",
    ),
    Fault(
        "exact: a changed token is not told",
        EXACT,
        "changed, rows[n] = True, iter(())",
        "rows[n] = iter(())",
    ),
    Fault(
        "exact: every draw is decided anew",
        EXACT,
        "if drawn.slack <= self._limit:",
        "if True:",
    ),
    Fault(
        "exact: a row that has ended is decided too",
        EXACT,
        "if completions[n].finish:",
        "if False:",
    ),
    Fault(
        "exact: the penalty is forgotten",
        EXACT,
        "if self._sampling.repetition_penalty != 1:",
        "if False:",
    ),
    Fault(
        "exact: equal tokens tie as their products were added",
        EXACT,
        "return on_grid(self._head(self._norm(x[ends - 1], ",
        "return (self._head(self._norm(x[ends - 1], ",
    ),
    Fault(
        "exact: the whole text is read for each draw",
        EXACT,
        "if start >= len(text) or reading.tokens != text[:start]:",
        "if True:",
    ),
    Fault(
        "exact: what was read of another text is kept",
        EXACT,
        "if start >= len(text) or reading.tokens != text[:start]:",
        "if start >= len(text):",
    ),
    Fault(
        "exact: all that was read is kept",
        EXACT,
        "for reading in self._readings.values()) > KEPT_BYTES",
        "for reading in self._readings.values()) > 10**20",
    ),
    Fault(
        "exact: a token sees the next",
        EXACT,
        "np.tri(T, S, S - T, dtype=bool)",
        "np.tri(T, S, S - T + 1, dtype=bool)",
    ),
    Fault(
        "exact: the GELU is always the tanh form",
        EXACT,
        '"gelu": gelu_erf}',
        '"gelu": gelu_tanh}',
    ),
    Fault(
        "exact: the products are in float32",
        EXACT,
        ".astype(np.float64, copy=False)\n\n\ndef turn",
        "\n\n\ndef turn",
    ),
    Fault(
        "exact: a model that rounds too much is not told",
        EXACT,
        "if error > 2 * limit * largest + LOGPROB_ROUNDING:",
        "if False:",
    ),
    Fault(
        "exact: bfloat16 is taken",
        "gpt_common/config.py",
        'if dtype in ("bfloat16", "tf32"):',
        'if dtype == "tf32":',
    ),
    Fault(
        "exact: the command does not ask for it in torch",
        TORCH_GENERATE,
        "grow(model, rows, config.sampling, dtype, exact)",
        "grow(model, rows, config.sampling, dtype)",
    ),
    Fault(
        "exact: the command does not ask for it in flax",
        FLAX_GENERATE,
        "grow(params, model, rows, config.sampling, exact)",
        "grow(params, model, rows, config.sampling)",
    ),
    Fault(
        "torch: a changed token is still marked as seen",
        TORCH_GENERATE,
        "seen = torch.from_numpy(seen_tokens(completions, seen.shape[1]))",
        "pass",
    ),
    Fault(
        "flax: a row goes on after a changed token where it was",
        FLAX_GENERATE,
        "if add(completions, chunk):",
        "add(completions, chunk)\n        if False:",
    ),
    Fault(
        "torch: a row goes on after a changed token where it was",
        TORCH_GENERATE,
        "if add(completions, chunk):",
        "add(completions, chunk)\n        if False:",
    ),
    Fault(
        "torch: a changed token stands one place late",
        TORCH_GENERATE,
        "DecodeState(tokens.to(device), positions.to(device), ",
        "DecodeState(tokens.to(device), positions.to(device) + 1, ",
    ),
    Fault(
        "torch: the slack forgets the penalty",
        TORCH_SAMPLING,
        " * (options.temperature or 1.0) / penalty",
        " * (options.temperature or 1.0)",
    ),
    Fault(
        "flax: the slack is of first order",
        FLAX_SAMPLING,
        "jnp.abs(jnp.log1p(odds)) / 2",
        "jnp.abs(odds) / 2",
    ),
    Fault(
        "a step takes the draw of the token before",
        COMPLETION,
        "starts = [c.total for c in completions]",
        "starts = [c.total - 1 for c in completions]",
    ),
    Fault(
        "draws begin at a multiple of four",
        "gpt_common/sampling.py",
        ".random(start % 4 + num_positions)[start % 4 :]",
        ".random(num_positions)",
    ),
)

# What is chosen and must arrive, and what is shown.
GENERATION = (
    Fault(
        "torch: top-p keeps one more where the share is exactly that",
        TORCH_SAMPLING,
        "(shares_above(ranked) < options.top_p)",
        "(shares_above(ranked) <= options.top_p)",
    ),
    Fault(
        "a prompt file loses its white space",
        DIALOGUE,
        'content.decode().removesuffix("\\n")',
        "content.decode().strip()",
    ),
    Fault(
        "tokens a second are by the time to the first token",
        DIALOGUE,
        "count / times[-1]",
        "count / times[0]",
    ),
    Fault(
        "an empty prompt shows <|endoftext|>",
        DIALOGUE,
        '[tokenizer.END_OF_TEXT_TOKEN]:\n        return ""',
        "[tokenizer.END_OF_TEXT_TOKEN]:\n        return tokenizer.END_OF_TEXT",
    ),
    Fault(
        "close draws are those that were not close",
        COMPLETION,
        "if self.slacks[i] <= limit]",
        "if self.slacks[i] >= limit]",
    ),
    Fault(
        "a token that pads the vocabulary shows nothing",
        "gpt_common/tokenizer.py",
        'if known else "\\ufffd".encode()',
        'if known else b""',
    ),
    Fault(
        "flax: the options for few rows never reach generation",
        FLAX_GENERATE,
        'decode_few_rows if few_rows and "lm_head" in params else decode_rows',
        "decode_rows",
    ),
    Fault(
        "torch: the command does not freeze weights",
        TORCH_GENERATE,
        "model = freeze(load_model(start, master_dtype(dtype), device), dtype, config.compile)",
        "model = load_model(start, master_dtype(dtype), device)",
    ),
    Fault(
        "torch: --compile does nothing",
        TORCH_GENERATE,
        "device), dtype, config.compile)",
        "device), dtype)",
    ),
    Fault(
        "torch: the frozen head stays in float32",
        "gpt_torch/frozen.py",
        "FrozenLinear(model.wte.weight, None, compute, packed)",
        "FrozenLinear(model.wte.weight, None, model.wte.weight.dtype, False)",
    ),
    Fault(
        "flax: frozen biases stay in float32",
        "gpt_flax/frozen.py",
        'is_linear = any(key.key in ("attn", "mlp") for key in path)',
        'is_linear = path[-1].key == "kernel"',
    ),
    Fault(
        "what is held back is lost where <|endoftext|> ends the text",
        COMPLETION,
        "if self.finish:\n            self.stream.end()",
        'if self.finish == "length":\n            self.stream.end()',
    ),
    Fault(
        "flax: each seed compiles anew",
        FLAX_GENERATE,
        "replace(sampling, seed=0)",
        "sampling",
    ),
    Fault(
        "samples in training do not depend on --seed",
        "gpt_common/run.py",
        "SamplingOptions(seed=self.config.runtime.seed)",
        "SamplingOptions()",
    ),
    Fault(
        "a byte that is no text ends a session",
        DIALOGUE,
        'sys.stdin.reconfigure(errors="surrogateescape")',
        "pass",
    ),
    Fault(
        "Ctrl-C in an answer ends the session",
        DIALOGUE,
        "except KeyboardInterrupt:\n            print()",
        "except KeyboardInterrupt:\n            raise",
    ),
    Fault(
        "an answer that does not fit is refused",
        DIALOGUE,
        "min(ANSWER_LENGTH, max(1, room))",
        "ANSWER_LENGTH",
    ),
    Fault(
        "any number of samples is begun",
        COMPLETION,
        "require_memory(rows * row,",
        "require_memory(0 * row,",
    ),
)

HANDED_ON: tuple[Fault, ...] = (
    Fault(
        "exact: float64 is decided anew as float32 is",
        "gpt_common/exact.py",
        "self._limit = ROUNDING[model.dtype]",
        'self._limit = ROUNDING["float32"]',
    ),
    Fault(
        "exact: the command in torch decides as of float32",
        "gpt_torch/generate.py",
        "lambda: start.weights, dtype)",
        "lambda: start.weights)",
    ),
    Fault(
        "exact: the command in flax decides as of float32",
        "gpt_flax/generate.py",
        "lambda: start.weights, dtype)",
        "lambda: start.weights)",
    ),
    Fault(
        "exact: torch decides as of float32",
        "gpt_torch/generate.py",
        "Float64GPT(model.config, weights, dtype)",
        "Float64GPT(model.config, weights)",
    ),
    Fault(
        "exact: what is close is said as of float32",
        "gpt_common/dialogue.py",
        'limit = ROUNDING["float64" if config.exact else config.dtype]',
        "limit = ROUNDING[config.dtype]",
    ),
    Fault(
        "torch: the command generates in float32",
        "gpt_torch/generate.py",
        "config.sampling, dtype, exact)",
        'config.sampling, "float32", exact)',
    ),
    Fault(
        "torch: the command holds float32",
        "gpt_torch/generate.py",
        "load_model(start, master_dtype(dtype), device)",
        "load_model(start, torch.float32, device)",
    ),
    Fault(
        "JSON: dtype is always float32",
        "gpt_common/dialogue.py",
        '"dtype": config.dtype',
        '"dtype": "float32"',
    ),
)

FAULTS: tuple[Fault, ...] = (*DECIDED, *GENERATION, *HANDED_ON)
