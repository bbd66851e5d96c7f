"""Faults of the benchmarks."""

from tests.faults.fault import Fault

TRAIN_STEP = "benchmarks/train_step.py"
GENERATE = "benchmarks/generate.py"
DATA = "benchmarks/data.py"
GPU = "benchmarks/gpu.py"
PLOT = "benchmarks/plot.py"
LOSSES = "benchmarks/plot_losses.py"
REPORT = "benchmarks/report.py"
SESSION = "benchmarks/workers/session.py"
TIMING = "benchmarks/timing.py"
OPERATIONS = "benchmarks/operations.py"
OPERATION = "benchmarks/workers/operation.py"
TORCH_OPERATIONS = "benchmarks/workers/torch_operations.py"
FLAX_OPERATIONS = "benchmarks/workers/flax_operations.py"
ENVIRONMENT = "benchmarks/environment.py"
TORCH_TOOLS = "benchmarks/workers/torch_tools.py"
JAX_TOOLS = "benchmarks/workers/jax_tools.py"
HUGGING_FACE = "benchmarks/workers/huggingface.py"
LAST_FLAX = "benchmarks/workers/huggingface_flax.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "train_step: the speed-up upside down",
        TRAIN_STEP,
        "name: speed / other for",
        "name: other / speed for",
    ),
    Fault(
        "train_step: the fraction of the measured peak upside down",
        TRAIN_STEP,
        'speed / result["matmul_peak"]',
        'result["matmul_peak"] / speed',
    ),
    Fault(
        "train_step: the fraction of the datasheet's peak upside down",
        TRAIN_STEP,
        "peak and speed / peak",
        "peak and peak / speed",
    ),
    Fault(
        "train_step: the peak is the slowest matmul's",
        TRAIN_STEP,
        'max(result["matmuls"].values())',
        'min(result["matmuls"].values())',
    ),
    Fault(
        "train_step: tokens/s by block_size",
        TRAIN_STEP,
        '"tokens_per_second": spec.tokens_per_step / median',
        '"tokens_per_second": spec.batch_size * spec.model.block_size / median',
    ),
    Fault(
        "train_step: operations of the whole context",
        TRAIN_STEP,
        "flops_per_token(spec.model, spec.seq_len) * spec",
        "flops_per_token(spec.model, spec.model.block_size) * spec",
    ),
    Fault(
        "train_step: the mean, which one slow step spoils",
        TRAIN_STEP,
        "statistics.median(seconds)",
        "statistics.fmean(seconds)",
    ),
    Fault(
        "train_step: peak memory has the matmuls' in it",
        TRAIN_STEP,
        """        memory = candidate.ask("memory")  # before the matmuls, which allocate more
        speeds = candidate.ask("matmuls", shapes=matmul_shapes(spec)) if peaks else {}
""",
        """        speeds = candidate.ask("matmuls", shapes=matmul_shapes(spec)) if peaks else {}
        memory = candidate.ask("memory")
""",
    ),
    Fault(
        "train_step: warm-up steps are counted",
        TRAIN_STEP,
        """    seconds = {"first_loss_seconds": time.perf_counter() - started}
    if plan.warmup and start:
        candidate.ask("steps", count=plan.warmup)
""",
        """    if plan.warmup and start:
        candidate.ask("steps", count=plan.warmup)
    seconds = {"first_loss_seconds": time.perf_counter() - started}
""",
    ),
    Fault(
        "train_step: the head without its padded rows",
        TRAIN_STEP,
        "(M, C, spec.model.padded_vocab_size)",
        "(M, C, spec.model.vocab_size)",
    ),
    Fault(
        "train_step: nothing is compared",
        TRAIN_STEP,
        "    add_speedups(results)\n",
        "",
    ),
    Fault(
        "train_step: the table's min and max are swapped",
        TRAIN_STEP,
        'for name in ("median", "min", "max")),',
        'for name in ("median", "max", "min")),',
    ),
    Fault(
        "train_step: TFLOP/s a thousand times too high",
        TRAIN_STEP,
        "result['flops_per_second'] / 1e12",
        "result['flops_per_second'] / 1e9",
    ),
    Fault(
        "generate: prefill counts new tokens",
        GENERATE,
        "B * T / to_first",
        "B * (T + new_tokens) / to_first",
    ),
    Fault(
        "generate: a step's time has the prompt's in it",
        GENERATE,
        "max(total - to_first, 1e-9) / (new_tokens - 1)",
        "total / (new_tokens - 1)",
    ),
    Fault(
        "generate: tokens/s of one sequence",
        GENERATE,
        '"tokens_per_second": B * new_tokens / total',
        '"tokens_per_second": new_tokens / total',
    ),
    Fault(
        "generate: the limit in bfloat16 reads twice the bytes",
        GENERATE,
        '"bfloat16": 2,',
        '"bfloat16": 4,',
    ),
    Fault(
        "generate: a step reads the position embedding",
        GENERATE,
        "num_parameters(config) - config.block_size * config.n_embd",
        "num_parameters(config)",
    ),
    Fault(
        "generate: the fraction of the bandwidth a thousand times too small",
        GENERATE,
        "1000 * seconds / case",
        "seconds / case",
    ),
    Fault(
        "generate: the limit is of one sequence",
        GENERATE,
        'case["batch_size"] / seconds',
        "1 / seconds",
    ),
    Fault(
        "generate: the warm-up calls are counted",
        GENERATE,
        "    times: list[list[list[float]]] = [[[], []] for _ in running]\n",
        "    times = [[[a['seconds']] for a in found] for found in first]\n",
    ),
    Fault(
        "generate: peak memory has the large array in it",
        GENERATE,
        'speeds = candidate.ask("bandwidth", size=READ_BYTES)\n',
        'speeds = candidate.ask("bandwidth", size=READ_BYTES)\n'
        '    memory = candidate.ask("memory")\n',
    ),
    Fault(
        "generate: every case is compared with the first",
        GENERATE,
        'other["cases"][i]["tokens_per_second"]',
        'other["cases"][0]["tokens_per_second"]',
    ),
    Fault(
        "scaling: a short context makes the model smaller",
        "benchmarks/scaling.py",
        "max(value, model.block_size)",
        "value",
    ),
    Fault(
        "scaling: heads grow with the width",
        "benchmarks/scaling.py",
        "n_embd=value, n_head=heads",
        "n_embd=value",
    ),
    Fault(
        "data: characters per millisecond",
        DATA,
        "1000 * len(text) / times",
        "len(text) / times",
    ),
    Fault(
        "data: the loader's tokens/s of one sequence",
        DATA,
        "1000 * spec.tokens_per_step / times",
        "1000 * spec.seq_len / times",
    ),
    Fault(
        "data: the fraction of a step upside down",
        DATA,
        'result[part]["milliseconds"]["median"] / milliseconds',
        'milliseconds / result[part]["milliseconds"]["median"]',
    ),
    Fault(
        "convert: the memory of writing, twice",
        "benchmarks/convert.py",
        'directions = (found["to"], found["back"])',
        'directions = (found["to"], found["to"])',
    ),
    Fault(
        "gpu: batch sizes to try fill the whole memory",
        GPU,
        "0.95 * memory",
        "1.05 * memory",
    ),
    Fault(
        "gpu: the largest batch is the first variant's",
        GPU,
        "if variant.framework == framework][-1]",
        "if variant.framework == framework][0]",
    ),
    Fault(
        "gpu: the variants in the order of measurement",
        GPU,
        '[*result["ladder"][:-1], *rest, result["ladder"][-1]]',
        '[*result["ladder"], *rest]',
    ),
    Fault(
        "gpu: the baseline's eager variants have flash attention",
        GPU,
        '{"attention": "eager", "fused": False}',
        '{"attention": "sdpa", "fused": False}',
    ),
    Fault(
        "plot: the limit of a step, not of a token",
        PLOT,
        'p["matmul_peak"] / result["flops"]["per_token"]',
        'p["matmul_peak"] / p["tokens_per_second"]',
    ),
    Fault(
        "plot: the speed-up is over the tuned baseline",
        PLOT,
        '.get("times", {}).get(BASELINE)',
        '.get("times", {}).get(BASELINE + "-best")',
    ),
    Fault(
        "plot: scaling draws the least time",
        PLOT,
        '(point["value"], p["milliseconds"]["median"])',
        '(point["value"], p["milliseconds"]["min"])',
    ),
    Fault(
        "plot_losses: the difference is absolute",
        LOSSES,
        "np.abs(first - second) / first",
        "np.abs(first - second)",
    ),
    Fault(
        "plot_losses: the mean for the median",
        LOSSES,
        "np.median(difference)",
        "np.mean(difference)",
    ),
    Fault(
        "report: seconds for milliseconds",
        REPORT,
        "1000 * statistics.median(seconds)",
        "statistics.median(seconds)",
    ),
    Fault(
        "report: GiB are called GB",
        REPORT,
        "size / 1e9",
        "size / 2**30",
    ),
    Fault(
        "report: a fraction is not in percent",
        REPORT,
        "{100 * share:.0f} %",
        "{share:.0f} %",
    ),
    Fault(
        "environment: the H200's peak with sparsity",
        ENVIRONMENT,
        '"H200": (989, 495, 67, 67),\n    "H100 NVL"',
        '"H200": (1979, 989, 67, 67),\n    "H100 NVL"',
    ),
    Fault(
        "environment: an L40 is an L4",
        ENVIRONMENT,
        r'if re.search(rf"\b{name}(?!\w)", gpu):',
        "if name in gpu:",
    ),
    Fault(
        "environment: an H100 PCIe is an H100",
        ENVIRONMENT,
        '    "H100 PCIe": (756, 378, 51, 51),\n',
        "",
    ),
    Fault(
        "session: the set-up time includes the first step",
        SESSION,
        """        built = time.perf_counter()
        first = self.steps(1)
""",
        """        first = self.steps(1)
        built = time.perf_counter()
""",
    ),
    Fault(
        "session: current memory, not its peak",
        SESSION,
        'lines["VmHWM"]',
        'lines["VmRSS"]',
    ),
    Fault(
        "session: the matmuls are always of float32",
        SESSION,
        "matmul_speeds(shapes, self._spec.dtype)",
        'matmul_speeds(shapes, "float32")',
    ),
    Fault(
        "timing: a round's seconds are not divided by its calls",
        TIMING,
        "(time.perf_counter() - started) / count",
        "time.perf_counter() - started",
    ),
    Fault(
        "timing: nothing is synchronized",
        TIMING,
        """        result = call()
    synchronize(result)
""",
        """        call()
""",
    ),
    Fault(
        "timing: the first call is counted",
        TIMING,
        "        synchronize(call())  # compiles\n",
        "",
    ),
    Fault(
        "timing: one call's rounds come before the next call's",
        TIMING,
        """    for _ in range(rounds):
        for call, count, found in zip(calls, counts, seconds, strict=True):
            found.append""",
        """    for call, count, found in zip(calls, counts, seconds, strict=True):
        for _ in range(rounds):
            found.append""",
    ),
    Fault(
        "operations: the speed-up upside down",
        OPERATIONS,
        "statistics.median(p / f for",
        "statistics.median(f / p for",
    ),
    Fault(
        "operations: the mean, which one slow round spoils",
        OPERATIONS,
        "statistics.median(p / f for",
        "statistics.fmean(p / f for",
    ),
    Fault(
        "operations: the table's speed-up is the forward pass's",
        OPERATIONS,
        'list(found["speed_up"])[-1]',
        'list(found["speed_up"])[0]',
    ),
    Fault(
        "operations: generation is not measured",
        OPERATIONS,
        "for length in (*self.seq_len, 1):",
        "for length in self.seq_len:",
    ),
    Fault(
        "operation: the plain one twice",
        OPERATION,
        '("fast", operation.fast))',
        '("fast", operation.plain))',
    ),
    Fault(
        "operation: generation is measured at the lengths of training",
        OPERATION,
        "if operation.training == (self._spec.seq_len > 1)",
        "if operation.training or self._spec.seq_len > 1",
    ),
    Fault(
        "operation: every fast operation is the default",
        OPERATION,
        "not option or getattr(self._twin.default_ops(self._spec), option)",
        "True",
    ),
    Fault(
        "torch operations: bfloat16 without autocast",
        TORCH_OPERATIONS,
        "torch.autocast(device, torch.bfloat16, enabled=bfloat16)",
        "torch.autocast(device, torch.bfloat16, enabled=False)",
    ),
    Fault(
        "torch operations: plain attention sees later tokens",
        TORCH_OPERATIONS,
        "is_causal=True",
        "is_causal=False",
    ),
    Fault(
        "flax operations: the fast GELU is the exact one",
        FLAX_OPERATIONS,
        "partial(compact_gelu, approximate=True)",
        "partial(compact_gelu, approximate=False)",
    ),
    Fault(
        "flax operations: nn.Dense computes in float32",
        FLAX_OPERATIONS,
        "nn.Dense(kernel.shape[1], dtype=x.dtype)",
        "nn.Dense(kernel.shape[1])",
    ),
    Fault(
        "torch: a step's timestamp is taken before it",
        TORCH_TOOLS,
        """        losses.append(step())
        marks.append(_timestamp())
""",
        """        marks.append(_timestamp())
        losses.append(step())
""",
    ),
    Fault(
        "torch: a loss is read before the next step is started",
        TORCH_TOOLS,
        """        if len(losses) > 1:
            float(losses[-2])
""",
        """        float(losses[-1])
""",
    ),
    Fault(
        "torch: a step on mps is not synchronized",
        TORCH_TOOLS,
        "    synchronize()\n    return time.perf_counter()",
        "    return time.perf_counter()",
    ),
    Fault(
        "torch: an event's milliseconds are seconds",
        TORCH_TOOLS,
        "first.elapsed_time(second) / 1000",
        "first.elapsed_time(second)",
    ),
    Fault(
        "torch: the matmul peak is half",
        TORCH_TOOLS,
        "2 * M * K * N / seconds",
        "M * K * N / seconds",
    ),
    Fault(
        "torch: the matmul peak is that of float32",
        TORCH_TOOLS,
        "DTYPES.get(dtype, torch.float32)",
        "torch.float32",
    ),
    Fault(
        "torch: the large array is a quarter as large",
        TORCH_TOOLS,
        "torch.ones(size // 4 // 1024, 1024,",
        "torch.ones(size // 16 // 1024, 1024,",
    ),
    Fault(
        "jax: the matmul peak without synchronization",
        JAX_TOOLS,
        "lambda c=call, x=x, w=w: c(x, w), synchronize)",
        "lambda c=call, x=x, w=w: c(x, w), lambda _: None)",
    ),
    Fault(
        "jax: a read is not synchronized",
        JAX_TOOLS,
        "lambda c=call: c(x, v), synchronize)",
        "lambda c=call: c(x, v), lambda _: None)",
    ),
    Fault(
        "jax: the matmul peak is half",
        JAX_TOOLS,
        "2 * M * K * N / seconds",
        "M * K * N / seconds",
    ),
    Fault(
        "jax: a GPU waits for each loss",
        JAX_TOOLS,
        'overlap = int(device_name() != "cpu")',
        "overlap = 0",
    ),
    Fault(
        "jax: the current memory",
        JAX_TOOLS,
        '"peak_bytes_in_use"',
        '"bytes_in_use"',
    ),
    Fault(
        "the baseline is measured with eager attention",
        HUGGING_FACE,
        'spec.settings.get("attention", "sdpa")',
        'spec.settings.get("attention", "eager")',
    ),
    Fault(
        "the baseline has dropout",
        HUGGING_FACE,
        "resid_pdrop=0.0",
        "resid_pdrop=0.1",
    ),
    Fault(
        "the baseline does not clip",
        HUGGING_FACE,
        "        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n",
        "",
    ),
    Fault(
        "the baseline's padded vocabulary is always on",
        HUGGING_FACE,
        'spec.settings.get("padded", False)',
        'spec.settings.get("padded", True)',
    ),
    Fault(
        "Hugging Face's Flax matmul peak is half",
        LAST_FLAX,
        "2 * M * K * N / seconds_per_call",
        "M * K * N / seconds_per_call",
    ),
    Fault(
        "Hugging Face's Flax matmuls are not synchronized",
        LAST_FLAX,
        "call(*arguments).block_until_ready()",
        "call(*arguments)",
    ),
    Fault(
        "the torch twin is measured with its plain operations",
        "benchmarks/workers/torch_twin.py",
        "spec.dtype, processor(), compiled) if fast else PLAIN",
        "spec.dtype, processor(), compiled) if not fast else PLAIN",
    ),
    Fault(
        "the Flax twin's step is compiled as a plain one",
        "benchmarks/workers/flax_twin.py",
        "jit_train_step(ops)",
        "jit_train_step(PLAIN)",
    ),
)
