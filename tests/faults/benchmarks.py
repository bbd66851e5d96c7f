"""Faults of the benchmarks."""

from tests.faults.fault import Fault

FAULTS = (
    # Commands and figures.
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
        "peaks: the head without its padded rows",
        "benchmarks/peaks.py::matmul_shapes",
        "(M, C, model.padded_vocab_size)",
        "(M, C, model.vocab_size)",
    ),
    Fault(
        "train_step: nothing is compared",
        "benchmarks/train_step.py::measure",
        "add_speedups(results)",
        "pass",
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
        "generate: the limit in bfloat16 reads twice the bytes",
        "benchmarks/generate.py::BYTES",
        '{"bfloat16": 2, "float64": 8}',
        '{"bfloat16": 4, "float64": 8}',
    ),
    Fault(
        "generate: every case is compared with the first",
        "benchmarks/generate.py::add_speedups",
        'other["cases"][i]',
        'other["cases"][0]',
    ),
    Fault(
        "scaling: a short context makes the model smaller",
        "benchmarks/scaling.py::with_size",
        "max(value, model.block_size)",
        "value",
    ),
    Fault(
        "scaling: heads grow with the width",
        "benchmarks/scaling.py::with_size",
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
        "plot: the limit of a step, not of a token",
        "benchmarks/plot.py::train_step_panel",
        'result["flops"]["per_token"]',
        'p["tokens_per_second"]',
    ),
    Fault(
        "plot: scaling draws the least time",
        "benchmarks/plot.py::draw_scaling",
        'p["milliseconds"]["median"]',
        'p["milliseconds"]["min"]',
    ),
    Fault(
        "plot_losses: the difference is absolute",
        "benchmarks/plot_losses.py::common_losses",
        "np.abs(first - second) / first",
        "np.abs(first - second)",
    ),
    Fault(
        "plot_losses: a published accuracy is drawn as a loss",
        "benchmarks/plot_losses.py::MARKS",
        'Marks("GPT-2 124M", 3.29, 0.2955)',
        'Marks("GPT-2 124M", 0.2955, 3.29)',
    ),
    Fault(
        "plot_losses: the validation is the training",
        "benchmarks/plot_losses.py::draw_losses",
        'plot(axes, found["val_loss"], color=color, **POINTS)',
        'plot(axes, found["loss"], color=color, **POINTS)',
    ),
    Fault(
        "plot_losses: the mean for the median",
        "benchmarks/plot_losses.py::draw_difference",
        """
        (
            f"max {difference.max():.1e}, median {np.median(difference):.1e}; "
            "equal losses are drawn at 1e-9"
        )
        """,
        """
        (
            f"max {difference.max():.1e}, median {np.mean(difference):.1e}; "
            "equal losses are drawn at 1e-9"
        )
        """,
    ),
    Fault(
        "report: seconds for milliseconds",
        "benchmarks/report.py::summary_in_ms",
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
        "flops: the H200's peak with sparsity",
        "gpt_common/flops.py::DATASHEETS",
        '"H200": (989, 495, 67, 67)',
        '"H200": (1979, 989, 67, 67)',
    ),
    Fault(
        "flops: an L40 is an L4",
        "gpt_common/flops.py::datasheet_peak",
        r're.search(rf"\b{name}(?!\w)", gpu)',
        "name in gpu",
    ),
    Fault(
        "flops: an H100 PCIe is an H100",
        "gpt_common/flops.py::DATASHEETS",
        '"H100 PCIe": (756, 378, 51, 51)',
        "**{}",
    ),
    Fault(
        "torch: a loss is read before the next step is started",
        "benchmarks/workers/torch_tools.py::time_steps",
        """
        if len(losses) > 1:
            float(losses[-2])
        """,
        "float(losses[-1])",
    ),
    Fault(
        "torch: an event's milliseconds are seconds",
        "benchmarks/workers/torch_tools.py::_elapsed_seconds",
        "first.elapsed_time(second) / 1000",
        "first.elapsed_time(second)",
    ),
    Fault(
        "torch: the matmul peak is half",
        "benchmarks/workers/torch_tools.py::matmul_speeds",
        "2 * M * K * N",
        "M * K * N",
    ),
    Fault(
        "torch: the matmul peak is that of float32",
        "benchmarks/workers/torch_tools.py::matmul_speeds",
        "DTYPES.get(dtype, torch.float32)",
        "torch.float32",
    ),
    Fault(
        "torch: the large array is a quarter as large",
        "benchmarks/workers/torch_tools.py::read_speeds",
        "size // 4 // 1024",
        "size // 16 // 1024",
    ),
    Fault(
        "jax: the matmul peak is half",
        "benchmarks/workers/jax_tools.py::matmul_speeds",
        "2 * M * K * N",
        "M * K * N",
    ),
    Fault(
        "jax: a GPU waits for each loss",
        "benchmarks/workers/jax_tools.py::time_steps",
        'int(device_name() != "cpu")',
        "0",
    ),
    Fault(
        "the torch twin is measured with its plain operations",
        "benchmarks/workers/torch_twin.py::training",
        "choose_fast_ops(device.type, spec.dtype, processor(), compiled) if fast else None",
        "None",
    ),
    Fault(
        "the Flax twin's step is compiled as a plain one",
        "benchmarks/workers/flax_twin.py::training",
        "compile_train_step(ops)",
        "compile_train_step(None)",
    ),
    Fault(
        "a package alone forgets one of its commands",
        "benchmarks/__main__.py",
        """
        COMMANDS = (
            "train_step",
            "generate",
            "scaling",
            "data",
            "convert",
            "operations",
            "roofline",
            "memory",
            "failures",
            "plot",
            "plot_losses",
            "gpu",
        )
        """,
        """
        COMMANDS = (
            "train_step",
            "generate",
            "scaling",
            "data",
            "convert",
            "operations",
            "roofline",
            "memory",
            "failures",
            "plot",
            "gpu",
        )
        """,
    ),
    Fault(
        "benchmarks: a program without its framework shows Python's words",
        "benchmarks/workers/session.py",
        "cli.run(main)",
        "main()",
    ),
    Fault(
        "Ctrl-C in the imports of a benchmark is a traceback",
        "benchmarks/__init__.py",
        'prepare("benchmarks")',
        "pass",
    ),
    Fault(
        "train_step: the speed-up upside down",
        "benchmarks/train_step.py::add_speedups",
        "speed / other",
        "other / speed",
    ),
    Fault(
        "train_step: the fraction of the measured peak upside down",
        "benchmarks/train_step.py::add_percent_of_peak",
        'speed / result["matmul_peak"]',
        'result["matmul_peak"] / speed',
    ),
    Fault(
        "train_step: the fraction of the datasheet's peak upside down",
        "benchmarks/train_step.py::add_percent_of_peak",
        "speed / peak",
        "peak / speed",
    ),
    Fault(
        "train_step: the peak is the slowest matmul's",
        "benchmarks/train_step.py::add_percent_of_peak",
        "max(matmuls.values())",
        "min(matmuls.values())",
    ),
    Fault(
        "train_step: warm-up steps are counted",
        "benchmarks/train_step.py::warm_up",
        """
        seconds = {"first_loss_seconds": time.perf_counter() - started}
        if plan.warmup and start:
            candidate.ask("steps", count=plan.warmup)
        """,
        """
        if plan.warmup and start:
            candidate.ask("steps", count=plan.warmup)
        seconds = {"first_loss_seconds": time.perf_counter() - started}
        """,
    ),
    Fault(
        "train_step: the table's min and max are swapped",
        "benchmarks/train_step.py::row",
        '("median", "min", "max")',
        '("median", "max", "min")',
    ),
    Fault(
        "train_step: TFLOP/s a thousand times too high",
        "benchmarks/train_step.py::row",
        '''f"{result['flops_per_second'] / 1e12:.3g}"''',
        '''f"{result['flops_per_second'] / 1e9:.3g}"''',
    ),
    Fault(
        "generate: tokens/s of one sequence",
        "benchmarks/generate.py::summarise",
        "B * new_tokens",
        "new_tokens",
    ),
    Fault(
        "generate: a step reads the position embedding",
        "benchmarks/generate.py::num_weights",
        "num_parameters(config) - config.block_size * config.n_embd",
        "num_parameters(config)",
    ),
    Fault(
        "generate: the fraction of the limit a thousand times too small",
        "benchmarks/generate.py::limit",
        "1000 * seconds[limited_by]",
        "seconds[limited_by]",
    ),
    Fault(
        "generate: the limit is of one sequence",
        "benchmarks/generate.py::limit",
        'case["batch_size"]',
        "1",
    ),
    Fault(
        "generate: the limit is the higher of the two",
        "benchmarks/generate.py::limit",
        "max(seconds, key=lambda name: seconds[name])",
        "min(seconds, key=lambda name: seconds[name])",
    ),
    Fault(
        "generate: a weight is one operation",
        "benchmarks/generate.py::limit",
        "2 * num_weights(model)",
        "num_weights(model)",
    ),
    Fault(
        "peaks: one framework's own",
        "benchmarks/peaks.py::FRAMEWORKS",
        '("torch", "flax")',
        '("torch",)',
    ),
    Fault(
        "peaks: measured for each variant again",
        "benchmarks/peaks.py::matmul_speeds",
        "cache",
        "lambda function: function",
    ),
    Fault(
        "generate: the warm-up calls are counted",
        "benchmarks/generate.py::measure_case",
        "times: list[list[list[float]]] = [[[], []] for _ in running]",
        'times = [[[a["seconds"]] for a in found] for found in first]',
    ),
    Fault(
        "data: the fraction of a step upside down",
        "benchmarks/data.py::run",
        'result[part]["milliseconds"]["median"] / milliseconds',
        'milliseconds / result[part]["milliseconds"]["median"]',
    ),
    Fault(
        "convert: the memory of writing, twice",
        "benchmarks/convert.py::table",
        'found["back"]',
        'found["to"]',
    ),
    Fault(
        "gpu: batch sizes to try fill the whole memory",
        "benchmarks/gpu.py::batch_sizes_to_try",
        "0.95 * memory",
        "1.05 * memory",
    ),
    Fault(
        "gpu: the fastest variant is the first",
        "benchmarks/gpu.py::last_variant",
        "[variant for variant in variants() if variant.framework == framework][-1]",
        "[variant for variant in variants() if variant.framework == framework][0]",
    ),
    Fault(
        "gpu: the variants in the order of measurement",
        "benchmarks/gpu.py::measure_rest",
        "[next(r for r in found if is_result_of(v, r)) for v in variants()]",
        "found",
    ),
    Fault(
        "gpu: a framework may take all of the GPU's memory",
        "benchmarks/gpu.py::measure_largest_batches",
        'runner.frameworks[framework].get("memory_limit", math.inf)',
        "math.inf",
    ),
    Fault(
        "gpu: a request has its whole timeout at the end of the time limit",
        "benchmarks/gpu.py::Deadline.__float__",
        "min(self._timeout, self.left())",
        "self._timeout",
    ),
    Fault(
        "gpu: a part takes the time of the later ones",
        "benchmarks/gpu.py::Runner.start_part",
        "self._whole.left() - later",
        "self._whole.left()",
    ),
    Fault(
        "gpu: after the time limit the smaller batches are tried",
        "benchmarks/gpu.py::Runner.measure",
        'not result.get("out_of_memory") or not self.deadline.left()',
        'not result.get("out_of_memory")',
    ),
    Fault(
        "gpu: the exit code is 0 if parity fails",
        "benchmarks/gpu.py::main",
        "sys.exit(1)",
        "pass",
    ),
    Fault(
        "gpu: the parity of both twins runs if one can compute",
        "benchmarks/gpu.py::check_parity",
        "[twin for twin in TWINS if not runner.unavailable(twin)]",
        "TWINS",
    ),
    Fault(
        "gpu: parity that is not shown is no error",
        "benchmarks/gpu_report.py::errors",
        'p["error"]',
        'p.get("failed")',
    ),
    Fault(
        "gpu: a reason is cut off",
        "benchmarks/gpu_report.py::notes",
        "f\"note: not measured: {', '.join(dict.fromkeys(names))}: {reason}\"",
        "f\"note: not measured: {', '.join(dict.fromkeys(names))}: {reason[:60]}\"",
    ),
    Fault(
        "gpu parity: skipped tests are a proof",
        "benchmarks/gpu_parity.py::read_report",
        "tests - failures - errors - skipped",
        "tests - failures - errors",
    ),
    Fault(
        "gpu parity: the time limit kills pytest",
        "benchmarks/gpu_parity.py::PytestProcess.finish",
        "signal.SIGINT",
        "signal.SIGKILL",
    ),
    Fault(
        "gpu parity: tests that were stopped are a proof",
        "benchmarks/gpu_parity.py::read_report",
        '["the time limit stopped it"] * stopped',
        "[]",
    ),
    Fault(
        "gpu packages: an old driver gets the plugin of CUDA 13",
        "benchmarks/gpu_packages.py::groups",
        '"cuda12" if old else "cuda"',
        '"cuda"',
    ),
    Fault(
        "gpu packages: a jax that finds the GPU gets another plugin",
        "benchmarks/gpu_packages.py::groups",
        "driver and not jax_finds_gpu()",
        "driver",
    ),
    Fault(
        "gpu packages: one framework that cannot be installed ends the script",
        "benchmarks/gpu_packages.py::main",
        "install(requirements)",
        "assert install(requirements)",
    ),
    Fault(
        "jax: the memory of the GPU is what is in use",
        "benchmarks/workers/jax_tools.py::describe_gpu",
        '"bytes_limit"',
        '"bytes_in_use"',
    ),
    Fault(
        "torch: the memory that others take counts as free",
        "benchmarks/workers/torch_tools.py::describe_gpu",
        "torch.cuda.mem_get_info()[0]",
        "torch.cuda.mem_get_info()[1]",
    ),
    Fault(
        "gpu: the baseline's eager variants have flash attention",
        "benchmarks/gpu.py::variants",
        '{"attention": "eager", "fused": False}',
        '{"attention": "sdpa", "fused": False}',
    ),
    Fault(
        "plot: the speed-up is over the tuned baseline",
        "benchmarks/plot.py::speed_up",
        'figures.get("times", {}).get(BASELINE)',
        'figures.get("times", {}).get(BASELINE + "-best")',
    ),
    Fault(
        "report: a fraction is not in percent",
        "benchmarks/report.py::percent",
        'f"{100 * share:.0f} %"',
        'f"{share:.0f} %"',
    ),
    Fault(
        "session: the set-up time includes the first step",
        "benchmarks/workers/session.py::Session.train",
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
        "session: current memory, not its peak",
        "benchmarks/workers/session.py::peak_rss",
        'lines["VmHWM"]',
        'lines["VmRSS"]',
    ),
    Fault(
        "session: the matmuls are always of float32",
        "benchmarks/workers/session.py::Session.matmuls",
        "self._dtype",
        '"float32"',
    ),
    Fault(
        "timing: a round's seconds are not divided by its calls",
        "benchmarks/timing.py::mean_seconds",
        "(time.perf_counter() - started) / count",
        "time.perf_counter() - started",
    ),
    Fault(
        "timing: nothing is synchronized",
        "benchmarks/timing.py::mean_seconds",
        """
        for _ in range(count):
            result = call()
        synchronize(result)
        """,
        """
        for _ in range(count):
            call()
        """,
    ),
    Fault(
        "timing: the first call is counted",
        "benchmarks/timing.py::interleaved_seconds",
        "synchronize(call())",
        "pass",
    ),
    Fault(
        "timing: one call's rounds come before the next call's",
        "benchmarks/timing.py::interleaved_seconds",
        """
        for _ in range(rounds):
            for call, count, found in zip(calls, counts, seconds, strict=True):
                found.append(mean_seconds(call, synchronize, count))
        """,
        """
        for call, count, found in zip(calls, counts, seconds, strict=True):
            for _ in range(rounds):
                found.append(mean_seconds(call, synchronize, count))
        """,
    ),
    Fault(
        "operations: the speed-up upside down",
        "benchmarks/operations.py::summarise",
        "p / f",
        "f / p",
    ),
    Fault(
        "operations: the mean, which one slow round spoils",
        "benchmarks/operations.py::summarise",
        "statistics.median",
        "statistics.fmean",
    ),
    Fault(
        "operations: the table's speed-up is the forward pass's",
        "benchmarks/operations.py::row",
        'list(found["speed_up"])[-1]',
        'list(found["speed_up"])[0]',
    ),
    Fault(
        "operations: generation is not measured",
        "benchmarks/operations.py::OperationsConfig.specs",
        "(*self.seq_len, 1)",
        "self.seq_len",
    ),
    Fault(
        "operation: the plain one twice",
        "benchmarks/workers/operation.py::OperationSession.measure",
        '("fast", operation.fast)',
        '("fast", operation.plain)',
    ),
    Fault(
        "operation: generation is measured at the lengths of training",
        "benchmarks/workers/operation.py::OperationSession.names",
        """
        (
            operation.training == (self._spec.seq_len > 1)
            and device in operation.devices
            and self._spec.dtype in operation.dtypes
        )
        """,
        """
        (
            operation.training
            or self._spec.seq_len > 1
            and device in operation.devices
            and self._spec.dtype in operation.dtypes
        )
        """,
    ),
    Fault(
        "operation: every fast operation is the default",
        "benchmarks/workers/operation.py::OperationSession.measure",
        "not option or bool(getattr(self._twin.default_ops(self._spec), option))",
        "True",
    ),
    Fault(
        "torch operations: bfloat16 without autocast",
        "benchmarks/workers/torch_operations.py::passes.forward",
        "bfloat16",
        "False",
    ),
    Fault(
        "flax operations: nn.Dense computes in float32",
        "benchmarks/workers/flax_operations.py::dense",
        "nn.Dense(kernel.shape[1], dtype=x.dtype)",
        "nn.Dense(kernel.shape[1])",
    ),
    Fault(
        "torch: a step's timestamp is taken before it",
        "benchmarks/workers/torch_tools.py::time_steps",
        """
        losses.append(step())
        marks.append(_timestamp())
        """,
        """
        marks.append(_timestamp())
        losses.append(step())
        """,
    ),
    Fault(
        "torch: a step on mps is not synchronized",
        "benchmarks/workers/torch_tools.py::_timestamp",
        "synchronize()",
        "pass",
    ),
    Fault(
        "jax: the matmul peak without synchronization",
        "benchmarks/workers/jax_tools.py::matmul_speeds",
        "synchronize",
        "lambda _: None",
    ),
    Fault(
        "jax: a read is not synchronized",
        "benchmarks/workers/jax_tools.py::read_speeds",
        "synchronize",
        "lambda _: None",
    ),
    Fault(
        "jax: the current memory",
        "benchmarks/workers/jax_tools.py::peak_memory",
        'statistics["peak_bytes_in_use"]',
        'statistics["bytes_in_use"]',
    ),
    Fault(
        "the baseline is measured with eager attention",
        "benchmarks/workers/huggingface.py::build",
        'spec.settings.get("attention", "sdpa")',
        'spec.settings.get("attention", "eager")',
    ),
    Fault(
        "the baseline has dropout",
        "benchmarks/workers/huggingface.py::build",
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
        "the baseline does not clip",
        "benchmarks/workers/huggingface.py::training.step",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        "pass",
    ),
    Fault(
        "the baseline's padded vocabulary is always on",
        "benchmarks/workers/huggingface.py::build",
        'spec.settings.get("padded", False)',
        'spec.settings.get("padded", True)',
    ),
    Fault(
        "torch operations: plain attention sees later tokens",
        "benchmarks/workers/torch_operations.py::OPERATIONS",
        "causal_attention",
        "F.scaled_dot_product_attention",
    ),
    Fault(
        "flax operations: the fast GELU is the exact one",
        "benchmarks/workers/flax_operations.py::OPERATIONS",
        "partial(remat_gelu, approximate=True)",
        "partial(remat_gelu, approximate=False)",
    ),
    # The roofline.
    Fault(
        "roofline: a kernel's bytes and FLOPs take turns",
        "benchmarks/roofline.py::summarise",
        'max(moving, kernel["flops"] / card.flops_per_second)',
        'moving + kernel["flops"] / card.flops_per_second',
    ),
    Fault(
        "roofline: the rounds of a loop are not counted",
        "benchmarks/roofline.py::summarise",
        'kernel["times"] * value',
        "value",
    ),
    Fault(
        "roofline: the share upside down",
        "benchmarks/roofline.py::analyse",
        'groups[-1]["milliseconds"] / milliseconds',
        'milliseconds / groups[-1]["milliseconds"]',
    ),
    Fault(
        "roofline: any GPU's result will do",
        "benchmarks/roofline.py::with_sizes_of",
        'found.get("gpu") != wanted',
        '"gpu" not in found',
    ),
    Fault(
        "hlo: a fusion reads all of what it slices",
        "benchmarks/workers/hlo.py::READS_A_PART",
        '("gather", "dynamic-slice", "slice", "broadcast")',
        '("broadcast",)',
    ),
    Fault(
        "hlo: an update in place writes all of its operand",
        "benchmarks/workers/hlo.py::written_bytes",
        "result.opcode in UPDATES",
        "False",
    ),
    Fault(
        "hlo: a workspace is data",
        "benchmarks/workers/hlo.py::Instruction.bytes",
        '("s8", "u8")',
        "()",
    ),
    Fault(
        "hlo: a causal mask saves nothing",
        "benchmarks/workers/hlo.py::attention_flops",
        '0.5 if "CAUSAL" in each.attributes else 1.0',
        "1.0",
    ),
    Fault(
        "hlo: attention's backward pass is four products",
        "benchmarks/workers/hlo.py::attention_flops",
        "5",
        "4",
    ),
    Fault(
        "hlo: a loop runs once",
        "benchmarks/workers/hlo.py::Module.kernels",
        "times * each.trip_count",
        "times",
    ),
    Fault(
        "torch kernels: a view moves data",
        "benchmarks/workers/torch_kernels.py::bytes_moved",
        """
        if not results and not written:
            return 0
        """,
        "pass",
    ),
    Fault(
        "torch kernels: a broadcast dimension is read in full",
        "benchmarks/workers/torch_kernels.py::tensor_bytes",
        "math.prod(size for size, stride in sizes if stride)",
        "math.prod(size for size, stride in sizes)",
    ),
    Fault(
        "torch kernels: attention has no mask",
        "benchmarks/workers/torch_kernels.py::product_flops",
        "2 if operation in ATTENTION else 1",
        "1",
    ),
    Fault(
        "torch kernels: the softmax goes by as few rows as on a CPU",
        "benchmarks/workers/torch_kernels.py::on_a_gpu",
        "ops.loss_rows if ops else fast.SOFTMAX_ROWS",
        "fast.SOFTMAX_ROWS",
    ),
    Fault(
        "torch kernels: plain operations are counted",
        "benchmarks/workers/torch_kernels.py::fast_ops",
        'choose_fast_ops("cuda", spec.dtype, Processor()) if spec.fast_ops else None',
        "None",
    ),
    Fault(
        "memory: the batch is larger than the line allows",
        "benchmarks/memory.py::largest_batch",
        "(limit - low) * (other - one) / (high - low) + one",
        "(limit - low) * (other - one) / (high - low) + other",
    ),
    Fault(
        "memory: the plain loss is measured in place of the fast one",
        "benchmarks/workers/torch_kernels.py::peak_memory",
        "fast_ops(spec)",
        "None",
    ),
    Fault(
        "gpu: each variant measures the matmuls again",
        "benchmarks/gpu.py::Runner._matmul_speeds",
        "spec.dtype not in self._matmuls",
        "True",
    ),
    Fault(
        "failures: none comes during a restart",
        "benchmarks/failures.py::simulate",
        "failure <= ready",
        "clock == ready == failure",
    ),
    Fault(
        "failures: what was trained since the checkpoint is not lost",
        "benchmarks/failures.py::simulate",
        "recomputed += failure - clock",
        "trained += min(work, failure - clock)",
    ),
    Fault(
        "failures: Daly's interval is Young's",
        "benchmarks/failures.py::daly_interval",
        "young_interval(checkpoint, mean) * correction - checkpoint",
        "young_interval(checkpoint, mean)",
    ),
)
