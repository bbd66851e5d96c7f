"""Faults of the benchmarks."""

from tests.faults.fault import Fault

FAULTS = (
    # Programs and figures.
    Fault(
        "train_step: times Hugging Face upside down",
        "benchmarks/train_step.py::compare",
        "speed / other",
        "other / speed",
    ),
    Fault(
        "train_step: the share of the measured peak upside down",
        "benchmarks/train_step.py::add_shares",
        'speed / result["matmul_peak"]',
        'result["matmul_peak"] / speed',
    ),
    Fault(
        "train_step: the share of the datasheet's peak upside down",
        "benchmarks/train_step.py::add_shares",
        "speed / peak",
        "peak / speed",
    ),
    Fault(
        "train_step: the peak is that of the slowest product",
        "benchmarks/train_step.py::add_shares",
        'max(result["matmuls"].values())',
        'min(result["matmuls"].values())',
    ),
    Fault(
        "train_step: tokens/s by block_size",
        "benchmarks/train_step.py::summarise",
        "spec.tokens_per_step / median",
        "spec.batch_size * spec.model.block_size / median",
    ),
    Fault(
        "train_step: operations of the whole context",
        "benchmarks/train_step.py::summarise",
        "spec.seq_len",
        "spec.model.block_size",
    ),
    Fault(
        "train_step: the mean, which one slow step spoils",
        "benchmarks/train_step.py::summarise",
        "statistics.median(seconds)",
        "statistics.fmean(seconds)",
    ),
    Fault(
        "train_step: peak memory has the matmuls' in it",
        "benchmarks/train_step.py::measure_together",
        """
        memory = trial.ask("memory")
        speeds = trial.ask("matmuls", shapes=matmul_shapes(spec)) if peaks else {}
        """,
        """
        speeds = trial.ask("matmuls", shapes=matmul_shapes(spec)) if peaks else {}
        memory = trial.ask("memory")
        """,
    ),
    Fault(
        "train_step: steps that warm up count",
        "benchmarks/train_step.py::warm_up",
        """
        seconds = {"first_loss_seconds": time.perf_counter() - started}
        if plan.warmup and start:
            trial.ask("steps", count=plan.warmup)
        """,
        """
        if plan.warmup and start:
            trial.ask("steps", count=plan.warmup)
        seconds = {"first_loss_seconds": time.perf_counter() - started}
        """,
    ),
    Fault(
        "train_step: the head without its padded rows",
        "benchmarks/train_step.py::matmul_shapes",
        "(M, C, spec.model.padded_vocab_size)",
        "(M, C, spec.model.vocab_size)",
    ),
    Fault(
        "train_step: nothing is compared",
        "benchmarks/train_step.py::measure",
        "compare(results)",
        "pass",
    ),
    Fault(
        "train_step: the table's least and most change places",
        "benchmarks/train_step.py::row",
        '("median", "min", "max")',
        '("median", "max", "min")',
    ),
    Fault(
        "train_step: TFLOP/s a thousand times too many",
        "benchmarks/train_step.py::row",
        '''f"{result['flops_per_second'] / 1e12:.3g}"''',
        '''f"{result['flops_per_second'] / 1e9:.3g}"''',
    ),
    Fault(
        "generate: prefill counts new tokens",
        "benchmarks/generate.py::summarise",
        "B * T / to_first",
        "B * (T + new_tokens) / to_first",
    ),
    Fault(
        "generate: a step's time has the prompt's in it",
        "benchmarks/generate.py::summarise",
        "max(total - to_first, 1e-9)",
        "total",
    ),
    Fault(
        "generate: tokens/s of one row",
        "benchmarks/generate.py::summarise",
        "B * new_tokens",
        "new_tokens",
    ),
    Fault(
        "generate: the limit in bfloat16 reads twice the bytes",
        "benchmarks/generate.py::BYTES",
        '{"bfloat16": 2, "float64": 8}',
        '{"bfloat16": 4, "float64": 8}',
    ),
    Fault(
        "generate: a step reads all positions",
        "benchmarks/generate.py::step_bytes",
        "num_parameters(config) - config.block_size * config.n_embd",
        "num_parameters(config)",
    ),
    Fault(
        "generate: the share of the bandwidth a thousand times too small",
        "benchmarks/generate.py::add_share",
        "1000 * seconds",
        "seconds",
    ),
    Fault(
        "generate: the limit is of one row",
        "benchmarks/generate.py::add_share",
        'case["batch_size"]',
        "1",
    ),
    Fault(
        "generate: the calls that compile count",
        "benchmarks/generate.py::measure_case",
        "times: list[list[list[float]]] = [[[], []] for _ in running]",
        'times = [[[a["seconds"]] for a in found] for found in first]',
    ),
    Fault(
        "generate: peak memory has the large array in it",
        "benchmarks/generate.py::measure_together",
        'speeds = trial.ask("bandwidth", size=READ_BYTES)',
        """
        speeds = trial.ask("bandwidth", size=READ_BYTES)
        memory = trial.ask("memory")
        """,
    ),
    Fault(
        "generate: every case is compared with the first",
        "benchmarks/generate.py::compare",
        'peer["cases"][i]',
        'peer["cases"][0]',
    ),
    Fault(
        "scaling: a short context makes the model smaller",
        "benchmarks/scaling.py::grown",
        "max(value, model.block_size)",
        "value",
    ),
    Fault(
        "scaling: heads grow with the width",
        "benchmarks/scaling.py::grown",
        "replace(model, n_embd=value, n_head=heads)",
        "replace(model, n_embd=value)",
    ),
    Fault(
        "data: characters per millisecond",
        "benchmarks/data.py::measure_tokenizer",
        "1000 * len(text)",
        "len(text)",
    ),
    Fault(
        "data: the loader's tokens/s of one sequence",
        "benchmarks/data.py::measure_loader",
        "1000 * spec.tokens_per_step",
        "1000 * spec.seq_len",
    ),
    Fault(
        "data: the share of a step upside down",
        "benchmarks/data.py::run",
        'result[part]["milliseconds"]["median"] / milliseconds',
        'milliseconds / result[part]["milliseconds"]["median"]',
    ),
    Fault(
        "convert: the memory of the way there, twice",
        "benchmarks/convert.py::table",
        'found["back"]',
        'found["to"]',
    ),
    Fault(
        "gpu: the whole memory is promised",
        "benchmarks/gpu.py::promising",
        "0.95 * memory",
        "1.05 * memory",
    ),
    Fault(
        "gpu: the largest batch of the first rung",
        "benchmarks/gpu.py::largest_batches",
        "[rung for rung in ladders() if rung.framework == framework][-1]",
        "[rung for rung in ladders() if rung.framework == framework][0]",
    ),
    Fault(
        "gpu: the ladder in the order in which it was climbed",
        "benchmarks/gpu.py::run",
        '[*result["ladder"][:-1], *rest, result["ladder"][-1]]',
        '[*result["ladder"], *rest]',
    ),
    Fault(
        "gpu: the peer's eager rungs have flash attention",
        "benchmarks/gpu.py::ladders",
        '{"attention": "eager", "fused": False}',
        '{"attention": "sdpa", "fused": False}',
    ),
    Fault(
        "plot: the limit of a step, not of a token",
        "benchmarks/plot.py::draw_train_step",
        'result["flops"]["per_token"]',
        'p["tokens_per_second"]',
    ),
    Fault(
        "plot: the ratio is to the tuned peer",
        "benchmarks/plot.py::times",
        'figures.get("times", {}).get(PEER)',
        'figures.get("times", {}).get(PEER + "-best")',
    ),
    Fault(
        "plot: scaling draws the least time",
        "benchmarks/plot.py::draw_scaling",
        'p["milliseconds"]["median"]',
        'p["milliseconds"]["min"]',
    ),
    Fault(
        "plot_losses: the difference is absolute",
        "benchmarks/plot_losses.py::draw",
        "np.abs(first - second) / first",
        "np.abs(first - second)",
    ),
    Fault(
        "plot_losses: the mean for the median",
        "benchmarks/plot_losses.py::draw",
        'f"largest {apart.max():.1e}, median {np.median(apart):.1e}; equal bits are drawn at 1e-9"',
        'f"largest {apart.max():.1e}, median {np.mean(apart):.1e}; equal bits are drawn at 1e-9"',
    ),
    Fault(
        "report: seconds for milliseconds",
        "benchmarks/report.py::spread",
        "1000 * statistics.median(seconds)",
        "statistics.median(seconds)",
    ),
    Fault(
        "report: GiB are called GB",
        "benchmarks/report.py::gigabytes",
        'f"{size / 1e9:.2f} GB"',
        'f"{size / 2**30:.2f} GB"',
    ),
    Fault(
        "report: a share is not in percent",
        "benchmarks/report.py::percent",
        'f"{100 * share:.0f} %"',
        'f"{share:.0f} %"',
    ),
    Fault(
        "environment: the H200's peak with sparsity",
        "benchmarks/environment.py::DATASHEETS",
        '"H200": (989, 495, 67, 67)',
        '"H200": (1979, 989, 67, 67)',
    ),
    Fault(
        "environment: an L40 is an L4",
        "benchmarks/environment.py::datasheet_peak",
        r're.search(rf"\b{name}(?!\w)", gpu)',
        "name in gpu",
    ),
    Fault(
        "environment: an H100 PCIe is an H100",
        "benchmarks/environment.py::DATASHEETS",
        '"H100 PCIe": (756, 378, 51, 51)',
        "**{}",
    ),
    Fault(
        "worker: the set-up has the first step in it",
        "benchmarks/worker.py::Session.train",
        """
        built = time.perf_counter()
        first = self.steps(1)
        """,
        """
        first = self.steps(1)
        built = time.perf_counter()
        """,
    ),
    Fault(
        "worker: memory at the moment, not at its peak",
        "benchmarks/worker.py::peak_resident",
        'lines["VmHWM"]',
        'lines["VmRSS"]',
    ),
    Fault(
        "worker: the matmuls are always of float32",
        "benchmarks/worker.py::Session.matmuls",
        "self._spec.dtype",
        '"float32"',
    ),
    Fault(
        "timing: a round's seconds are one call's",
        "benchmarks/timing.py::seconds_per_call.seconds",
        "(time.perf_counter() - started) / calls",
        "time.perf_counter() - started",
    ),
    Fault(
        "timing: nothing is waited for",
        "benchmarks/timing.py::seconds_per_call.seconds",
        """
        for _ in range(calls):
            result = call()
        wait(result)
        """,
        """
        for _ in range(calls):
            call()
        """,
    ),
    Fault(
        "timing: the first call counts",
        "benchmarks/timing.py::seconds_per_call",
        "wait(call())",
        "pass",
    ),
    Fault(
        "torch: a step's mark is set before it",
        "benchmarks/subjects/torch_tools.py::time_steps",
        """
        losses.append(step())
        marks.append(_mark())
        """,
        """
        marks.append(_mark())
        losses.append(step())
        """,
    ),
    Fault(
        "torch: a loss is read before the next step is started",
        "benchmarks/subjects/torch_tools.py::time_steps",
        """
        if len(losses) > 1:
            float(losses[-2])
        """,
        "float(losses[-1])",
    ),
    Fault(
        "torch: a step on mps is not waited for",
        "benchmarks/subjects/torch_tools.py::_mark",
        "synchronize()",
        "pass",
    ),
    Fault(
        "torch: an event's milliseconds are seconds",
        "benchmarks/subjects/torch_tools.py::_between",
        "first.elapsed_time(second) / 1000",
        "first.elapsed_time(second)",
    ),
    Fault(
        "torch: the matmul peak is half",
        "benchmarks/subjects/torch_tools.py::matmul_speeds",
        "2 * M * K * N",
        "M * K * N",
    ),
    Fault(
        "torch: the matmul peak is that of float32",
        "benchmarks/subjects/torch_tools.py::matmul_speeds",
        "DTYPES.get(dtype, torch.float32)",
        "torch.float32",
    ),
    Fault(
        "torch: the large array is a quarter as large",
        "benchmarks/subjects/torch_tools.py::read_speeds",
        "size // 4 // 1024",
        "size // 16 // 1024",
    ),
    Fault(
        "jax: the matmul peak without waiting for the result",
        "benchmarks/subjects/jax_tools.py::matmul_speeds",
        "jax.block_until_ready",
        "lambda _: None",
    ),
    Fault(
        "jax: a read is not waited for",
        "benchmarks/subjects/jax_tools.py::read_speeds",
        "jax.block_until_ready",
        "lambda _: None",
    ),
    Fault(
        "jax: the matmul peak is half",
        "benchmarks/subjects/jax_tools.py::matmul_speeds",
        "2 * M * K * N",
        "M * K * N",
    ),
    Fault(
        "jax: a GPU waits for each loss",
        "benchmarks/subjects/jax_tools.py::time_steps",
        'int(device_name() != "cpu")',
        "0",
    ),
    Fault(
        "jax: the memory at the moment",
        "benchmarks/subjects/jax_tools.py::peak_memory",
        'statistics["peak_bytes_in_use"]',
        'statistics["bytes_in_use"]',
    ),
    Fault(
        "the peer is measured with eager attention",
        "benchmarks/subjects/huggingface.py::build",
        'spec.settings.get("attention", "sdpa")',
        'spec.settings.get("attention", "eager")',
    ),
    Fault(
        "the peer drops out",
        "benchmarks/subjects/huggingface.py::build",
        """
        config = GPT2Config(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            n_positions=shape.block_size,
            vocab_size=shape.padded_vocab_size if padded else shape.vocab_size,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation=spec.settings.get("attention", "sdpa"),
        )
        """,
        """
        config = GPT2Config(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            n_positions=shape.block_size,
            vocab_size=shape.padded_vocab_size if padded else shape.vocab_size,
            resid_pdrop=0.1,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation=spec.settings.get("attention", "sdpa"),
        )
        """,
    ),
    Fault(
        "the peer does not clip",
        "benchmarks/subjects/huggingface.py::training.step",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        "pass",
    ),
    Fault(
        "the peer's padded vocabulary is always on",
        "benchmarks/subjects/huggingface.py::build",
        'spec.settings.get("padded", False)',
        'spec.settings.get("padded", True)',
    ),
    Fault(
        "the Flax peer's matmul peak is half",
        "benchmarks/subjects/huggingface_flax.py::Session.matmuls",
        "2 * M * K * N",
        "M * K * N",
    ),
    Fault(
        "the Flax peer's matmuls are not waited for",
        "benchmarks/subjects/huggingface_flax.py::seconds_per_call",
        "call(*arguments).block_until_ready()",
        "call(*arguments)",
    ),
    Fault(
        "the torch twin is measured with its plain operations",
        "benchmarks/subjects/torch_twin.py::training",
        "choose_ops(device.type, spec.dtype, processor(), compiled) if fast else PLAIN",
        "choose_ops(device.type, spec.dtype, processor(), compiled) if not fast else PLAIN",
    ),
    Fault(
        "the Flax twin's step is compiled as a plain one",
        "benchmarks/subjects/flax_twin.py::training",
        "jit_train_step(ops)",
        "jit_train_step(PLAIN)",
    ),
    Fault(
        "a package alone forgets one of its commands",
        "benchmarks/__main__.py::COMMANDS",
        '("train_step", "generate", "scaling", "data", "convert", "plot", "plot_losses", "gpu")',
        '("train_step", "generate", "scaling", "data", "convert", "plot", "gpu")',
    ),
    Fault(
        "benchmarks: a program without its framework shows Python's words",
        "benchmarks/worker.py",
        "cli.run(main)",
        "main()",
    ),
    Fault(
        "Ctrl-C in the imports of a benchmark is a traceback",
        "benchmarks/__init__.py",
        'prepare("benchmarks")',
        "pass",
    ),
)
