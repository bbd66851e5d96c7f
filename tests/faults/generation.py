"""Faults of generation: the loop, the cache, inference models and what is printed."""

from tests.faults.fault import Fault

FAULTS = (
    # The loop.
    Fault(
        "flax: a prompt is read without its last token",
        "gpt_flax/generate.py::prefill_step",
        "lengths - 1",
        "jnp.maximum(lengths - 2, 0)",
    ),
    Fault(
        "flax: a drawn token is not marked as seen",
        "gpt_flax/generate.py::sample_next",
        "seen = seen.at[jnp.arange(len(seen)), sampled[0]].set(True)",
        "pass",
    ),
    Fault(
        "flax: usage names the other twin",
        "gpt_flax/generate.py::main",
        'cli.parse(GenerateConfig, "gpt_flax.generate")',
        'cli.parse(GenerateConfig, "gpt_torch.generate")',
    ),
    Fault(
        "exact: the command does not ask for it in torch",
        "gpt_torch/generate.py::main",
        "config.sampling, dtype, exact",
        "config.sampling, dtype",
    ),
    Fault(
        "exact: the command does not ask for it in flax",
        "gpt_flax/generate.py::main",
        "config.sampling, dtype, exact",
        "config.sampling, dtype",
    ),
    Fault(
        "torch: a changed token is still marked as seen",
        "gpt_torch/generate.py::rewind",
        "seen = upload(seen_tokens(completions, seen.shape[1]), seen.device)",
        "pass",
    ),
    Fault(
        "flax: a row goes on after a changed token where it was",
        "gpt_flax/generate.py::generate_stream",
        "add(completions, chunk)",
        "add(completions, chunk) and False",
    ),
    Fault(
        "torch: a row goes on after a changed token where it was",
        "gpt_torch/generate.py::generate_stream",
        "add(completions, chunk)",
        "add(completions, chunk) and False",
    ),
    Fault(
        "torch: a changed token stands one place late",
        "gpt_torch/generate.py::rewind",
        "upload(positions, device)",
        "upload(positions, device) + 1",
    ),
    Fault(
        "flax: the options for a small batch never reach generation",
        "gpt_flax/generate.py::choose_decode",
        "jit_decode_small_batch if small else jit_decode",
        "jit_decode",
    ),
    Fault(
        "torch: the command does not prepare weights for inference",
        "gpt_torch/generate.py::main",
        "prepare_for_inference(model, dtype, config.compile)",
        "model",
    ),
    Fault(
        "torch: --compile does nothing",
        "gpt_torch/generate.py::main",
        "prepare_for_inference(model, dtype, config.compile)",
        "prepare_for_inference(model, dtype)",
    ),
    Fault(
        "flax: each seed compiles anew",
        "gpt_flax/generate.py::generate_stream",
        "replace(sampling, seed=0)",
        "sampling",
    ),
    Fault(
        "exact: the command in torch decides as of float32",
        "gpt_torch/generate.py::main",
        "Float64GPT(start.config, lambda: start.weights, dtype)",
        "Float64GPT(start.config, lambda: start.weights)",
    ),
    Fault(
        "exact: the command in flax decides as of float32",
        "gpt_flax/generate.py::main",
        "Float64GPT(start.config, lambda: start.weights, dtype)",
        "Float64GPT(start.config, lambda: start.weights)",
    ),
    Fault(
        "exact: torch decides as of float32",
        "gpt_torch/generate.py::generate",
        "Float64GPT(model.config, weights, dtype)",
        "Float64GPT(model.config, weights)",
    ),
    Fault(
        "torch: the command generates in float32",
        "gpt_torch/generate.py::main",
        "config.sampling, dtype, exact",
        'config.sampling, "float32", exact',
    ),
    Fault(
        "torch: the command holds float32",
        "gpt_torch/generate.py::main",
        "master_dtype(dtype)",
        "torch.float32",
    ),
    Fault(
        "flax: generation keeps no compiled program",
        "gpt_flax/generate.py::main",
        "enable_compilation_cache()",
        "pass",
    ),
    Fault(
        "torch: generation keeps no memory",
        "gpt_torch/generate.py::main",
        "tune_malloc()",
        "pass",
    ),
    Fault(
        "torch: what was noted of a checkpoint is not told",
        "gpt_torch/generate.py::main",
        "cli.print_notes(start.notes)",
        "pass",
    ),
    Fault(
        "flax: what was noted of a checkpoint is not told",
        "gpt_flax/generate.py::main",
        "cli.print_notes(start.notes)",
        "pass",
    ),
    Fault(
        "torch: prompts of each length are compiled",
        "gpt_torch/generate.py::next_logits",
        "isinstance(model, InferenceGPT) and one_token",
        "isinstance(model, InferenceGPT)",
    ),
    Fault(
        "torch: the cache that is read ends one position early",
        "gpt_torch/generate.py::active_cache",
        "cached[:, :, : state.end]",
        "cached[:, :, : state.end - 1]",
    ),
    # The cache.
    Fault(
        "torch: a cached token does not see itself",
        "gpt_torch/cache.py::cache_positions",
        "torch.arange(keys.shape[2], device=device) > positions[:, None, :, None]",
        "torch.arange(keys.shape[2], device=device) >= positions[:, None, :, None].clamp(min=1)",
    ),
    Fault(
        "flax: a cached token sees what follows",
        "gpt_flax/cache.py::cache_positions",
        "positions[:, None, :, None]",
        "positions[:, None, :, None] + 1",
    ),
    Fault(
        "torch: keys are kept as values",
        "gpt_torch/cache.py::CachedAttention.__call__",
        "update_cache(self.cache.values, v, self.at)",
        "update_cache(self.cache.values, k, self.at)",
    ),
    Fault(
        "flax: keys are kept one place late",
        "gpt_flax/cache.py::update_cache",
        "cached.at[at.rows, :, at.positions]",
        "cached.at[at.rows, :, at.positions + 1]",
    ),
    Fault(
        "flax: a single row's keys are kept one place late",
        "gpt_flax/cache.py::update_cache",
        "at.positions[0, 0]",
        "at.positions[0, 0] + 1",
    ),
    Fault(
        "torch: the next token is that of the first place",
        "gpt_torch/cache.py::forward_cached",
        "x[torch.arange(len(x), device=x.device), last]",
        "x[:, 0]",
    ),
    Fault(
        "torch: what is kept on a CPU is in bfloat16",
        "gpt_torch/cache.py::cache_dtype",
        'torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype',
        "dtype",
    ),
    Fault(
        "flax: what is kept on a CPU is in bfloat16",
        "gpt_flax/cache.py::cache_dtype",
        'jnp.promote_types(dtype, jnp.float32) if device_type == "cpu" else dtype',
        "dtype",
    ),
    # Inference models.
    Fault(
        "torch: weights are packed that torch.compile does not take so",
        "gpt_torch/inference.py::can_pack",
        'device_type == "cpu" and dtype in supported and not compiled',
        'device_type == "cpu" and dtype in supported',
    ),
    Fault(
        "torch: the head of inference stays in float32",
        "gpt_torch/inference.py::prepare_for_inference",
        "InferenceLinear(model.wte.weight, None, compute, packed)",
        "InferenceLinear(model.wte.weight, None, model.wte.weight.dtype, False)",
    ),
    Fault(
        "flax: the biases of inference stay in float32",
        "gpt_flax/inference.py::prepare_for_inference.cast",
        'any(key.key in ("attn", "mlp") for key in path)',
        'path[-1].key == "kernel"',
    ),
    # Completions and the repl.
    Fault(
        "the window is one token short",
        "gpt_common/completion.py::pad_inputs",
        "(c.prompt + c.tokens)[-block_size:]",
        "(c.prompt + c.tokens)[-block_size + 1 :]",
    ),
    Fault(
        "a text to stop before is shown",
        "gpt_common/completion.py::Detokenizer._append",
        "min(found)",
        "len(self._pending)",
    ),
    Fault(
        "a step takes the draw of the token before",
        "gpt_common/completion.py::next_uniforms",
        "[c.num_tokens for c in completions]",
        "[c.num_tokens - 1 for c in completions]",
    ),
    Fault(
        "a prompt file loses its white space",
        "gpt_common/repl.py::prompt_tokens",
        r'content.decode().removesuffix("\n")',
        "content.decode().strip()",
    ),
    Fault(
        "tokens a second are by the time to the first token",
        "gpt_common/repl.py::as_json",
        "sum(len(c.tokens) for c in completions) / times[-1]",
        "sum(len(c.tokens) for c in completions) / times[0]",
    ),
    Fault(
        "an empty prompt shows <|endoftext|>",
        "gpt_common/repl.py::prompt_text",
        'return ""',
        "return tokenizer.END_OF_TEXT",
    ),
    Fault(
        "close draws are those that were not close",
        "gpt_common/completion.py::Completion.borderline_tokens",
        "self.margins[i] <= limit",
        "self.margins[i] >= limit",
    ),
    Fault(
        "what is held back is lost where <|endoftext|> ends the text",
        "gpt_common/completion.py::Completion.add",
        """
        if self.finish:
            self.detokenizer.end()
        """,
        """
        if self.finish == "length":
            self.detokenizer.end()
        """,
    ),
    Fault(
        "a byte that is no text ends a session",
        "gpt_common/repl.py::prepare_stdin",
        'sys.stdin.reconfigure(errors="surrogateescape")',
        "pass",
    ),
    Fault(
        "torch: weights that follow are initialized",
        "gpt_torch/weights.py::NoInitialization.__torch_function__",
        'getattr(func, "__module__", None) == "torch.nn.init"',
        "False",
    ),
    Fault(
        "Ctrl-C in an answer ends the session",
        "gpt_common/repl.py::run_repl",
        "print()",
        "raise",
    ),
    Fault(
        "Ctrl-C ends one answer of a pipe's",
        "gpt_common/repl.py::run_repl",
        "not is_terminal",
        "False",
    ),
    Fault(
        "Ctrl-C at a prompt ends the session",
        "gpt_common/repl.py::read_prompt",
        'print("\\n(Ctrl-D ends)")',
        "raise",
    ),
    Fault(
        "what computes is said in the text",
        "gpt_common/repl.py::print_summary",
        "print(summary, file=sys.stderr)",
        "print(summary)",
    ),
    Fault(
        "an answer that does not fit is refused",
        "gpt_common/repl.py::fit_to_context",
        "min(REPLY_LENGTH, room)",
        "REPLY_LENGTH",
    ),
    Fault(
        "any number of samples is begun",
        "gpt_common/completion.py::check_memory",
        "rows * row",
        "0 * row",
    ),
    Fault(
        "exact: what is close is said as of float32",
        "gpt_common/repl.py::print_borderline_tokens",
        '"float64" if config.exact else config.dtype',
        "config.dtype",
    ),
    Fault(
        "JSON: dtype is always float32",
        "gpt_common/repl.py::as_json",
        '"dtype": config.dtype',
        '"dtype": "float32"',
    ),
)
