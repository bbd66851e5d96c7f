"""Time generation in both twins and in Hugging Face's GPT-2, side by side.

python -m benchmarks.generate --batch_size 1 5 --out benchmarks/results/generate.json
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.candidate import Candidate, candidates, corpus, stderr_console
from benchmarks.implementations import BASELINE, Framework, Implementation, select_implementations
from benchmarks.peaks import matmul_speeds, read_speeds
from benchmarks.process import TIMEOUT
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec, check_length
from gpt_common import cli
from gpt_common.config import PRESETS, Device, GPTConfig, Preset
from gpt_common.errors import require_positive
from gpt_common.weights import num_parameters

MATMUL_ROWS = 1024  # of the matmul that measures the peak
BYTES = {"bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class GenerateBenchmarkConfig:
    """Time generation in both twins and in Hugging Face's GPT-2, side by side.

    Each implementation runs in a separate process, and their rounds are interleaved. The last line
    of the output is one JSON object.
    """

    framework: tuple[Framework, ...] = ("all",)
    """One or more; huggingface-best is tuned: static cache, and malloc that keeps freed memory."""
    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: Dtype = "float32"
    """The dtype that matrix products compute in."""
    preset: Preset = "gpt2"
    """Named model configuration."""
    batch_size: tuple[int, ...] = (1, 5)
    """Sequences in a batch; one or more sizes to measure."""
    prompt_length: tuple[int, ...] = (8,)
    """Tokens in the prompt; one or more lengths to measure."""
    new_tokens: int = 128
    """Tokens to generate for each sequence."""
    rounds: int = 3
    """Rounds; in each, the implementations run one after the other."""
    fast_ops: bool = True
    """Use the twins' fast operations; --no_fast_ops turns them off."""
    sequential: bool = False
    """Finish one implementation before the next starts, if they do not fit in memory together."""
    flax_peer_python: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Interpreter with transformers<5, flax<0.11, jax<0.7: adds Hugging Face's Flax GPT-2."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result to a file, for benchmarks.plot."""

    def __post_init__(self) -> None:
        require_positive("rounds", self.rounds)
        require_positive("new_tokens above 1", self.new_tokens - 1)
        for name in ("batch_size", "prompt_length"):
            for size in getattr(self, name):
                require_positive(name, size)

    @property
    def cases(self) -> list[tuple[int, int]]:
        """Every combination of batch size and prompt length."""
        return [(B, T) for B in self.batch_size for T in self.prompt_length]

    def spec(self, tokens: str) -> Spec:
        """Return what each implementation is to run."""
        return Spec(
            model=PRESETS[self.preset],
            tokens=tokens,
            device=self.device,
            dtype=self.dtype,
            fast_ops=self.fast_ops,
        )


def measure(
    config: GenerateBenchmarkConfig,
    implementations: Sequence[Implementation],
    console: Console,
    timeout: float = TIMEOUT,
) -> list[Result]:
    """Return the result of each implementation, with its figures in each case."""
    groups = [[i] for i in implementations] if config.sequential else [list(implementations)]
    results = []
    with corpus() as tokens:
        for group in groups:
            with candidates(group, console, timeout) as running:
                results += measure_interleaved(running, config, tokens)
    add_speedups(results)
    add_limits(results, config, console, timeout)
    return results


def measure_interleaved(
    running: Sequence[Candidate], config: GenerateBenchmarkConfig, tokens: str
) -> list[Result]:
    """Interleave the candidates' rounds, case by case."""
    spec = config.spec(tokens).as_dict()
    starts = [t.ask("load", spec=spec | {"settings": t.implementation.settings}) for t in running]
    cases: list[list[Result]] = [[] for _ in running]
    for case in config.cases:
        prompt = np.load(tokens, mmap_mode="r")[: case[1]].tolist()
        for found, figures in zip(cases, measure_case(running, config, case, prompt), strict=True):
            found.append(figures)
    return [finish(*each) for each in zip(running, starts, cases, strict=True)]


def finish(candidate: Candidate, start: Result, cases: list[Result]) -> Result:
    """Return a candidate's result: its cases and its peak memory."""
    memory = candidate.ask("memory")
    if candidate.error:
        return candidate.failure()
    name = candidate.implementation.name
    return {"name": name, **start, "peak_memory": memory, "cases": cases}


def measure_case(
    running: Sequence[Candidate],
    config: GenerateBenchmarkConfig,
    case: tuple[int, int],
    prompt: list[int],
) -> list[Result]:
    """Return each candidate's figures for a batch size and a prompt length.

    A round generates one token, which gives the cost of the prompt, and then all of them.
    """
    counts = (1, config.new_tokens)
    asked = {"prompt": prompt, "batch_size": case[0]}
    first = [[t.ask("generate", **asked, new_tokens=n) for n in counts] for t in running]
    times: list[list[list[float]]] = [[[], []] for _ in running]
    for _ in range(config.rounds):
        for candidate, (one, all_tokens) in zip(running, times, strict=True):
            for n, seconds in zip(counts, (one, all_tokens), strict=True):
                if answer := candidate.ask("generate", **asked, new_tokens=n):
                    seconds.append(answer["seconds"])
    return [
        {} if candidate.error else summarise(case, config.new_tokens, warm, *seconds)
        for candidate, warm, seconds in zip(running, first, times, strict=True)
    ]


def summarise(
    case: tuple[int, int],
    new_tokens: int,
    first: Sequence[Result],
    one: list[float],
    all_tokens: list[float],
) -> Result:
    """Return the figures of a case; `first` are the warm-up calls, which compile."""
    B, T = case
    to_first, total = statistics.median(one), statistics.median(all_tokens)
    step = max(total - to_first, 1e-9) / (new_tokens - 1)
    return {
        "batch_size": B,
        "prompt_length": T,
        "new_tokens": new_tokens,
        "milliseconds": report.summary_in_ms(all_tokens),
        "first_call_seconds": sum(answer["seconds"] for answer in first),
        "length": first[-1]["length"],
        "milliseconds_to_first_token": 1000 * to_first,
        "prefill_tokens_per_second": B * T / to_first,
        "milliseconds_per_step": 1000 * step,
        "tokens_per_second": B * new_tokens / total,
    }


def num_weights(config: GPTConfig) -> int:
    """Return the number of weights in a decoding step: all but the position embedding."""
    return num_parameters(config) - config.block_size * config.n_embd


def weight_bytes(config: GPTConfig, dtype: Dtype) -> int:
    """Return the bytes of weights that a decoding step reads."""
    return num_weights(config) * BYTES.get(dtype, 4)


def add_limits(
    results: Sequence[Result],
    config: GenerateBenchmarkConfig,
    console: Console,
    timeout: float = TIMEOUT,
) -> None:
    """Add to each result the speeds of reads and matmuls, and to each case the limit by them."""
    model, device = PRESETS[config.preset], (config.device, config.dtype, console, timeout)
    speeds = {"reads": read_speeds(*device), "matmuls": matmul_speeds(model, MATMUL_ROWS, *device)}
    for result in results:
        if "error" not in result and all(speeds.values()):
            result |= speeds
            for case in result["cases"]:
                case |= limit(case, config, **speeds)


def limit(
    case: Result,
    config: GenerateBenchmarkConfig,
    reads: dict[str, float],
    matmuls: dict[str, float],
) -> Result:
    """Return the limit of a case, what sets it, and the fraction of it that is reached.

    A step reads every weight once, and multiplies and adds it for each sequence (Williams et al.
    2009, the roofline model, doi:10.1145/1498765.1498785). Without the keys and values.
    """
    model, B = PRESETS[config.preset], case["batch_size"]
    seconds = {
        "bandwidth": weight_bytes(model, config.dtype) / max(reads.values()),
        "matmuls": 2 * num_weights(model) * B / max(matmuls.values()),
    }
    limited_by = max(seconds, key=lambda name: seconds[name])
    return {
        "limits_tokens_per_second": {name: B / each for name, each in seconds.items()},
        "limit_tokens_per_second": B / seconds[limited_by],
        "limited_by": limited_by,
        "share_of_limit": 1000 * seconds[limited_by] / case["milliseconds_per_step"],
    }


def add_speedups(results: Sequence[Result]) -> None:
    """Add to each case its speed-up over each of Hugging Face's models, the baselines."""
    done = [result for result in results if "error" not in result]
    baselines = [result for result in done if result["name"].startswith(BASELINE)]
    for result in done:
        for i, case in enumerate(result["cases"]):
            speed = case["tokens_per_second"]
            case["times"] = {
                other["name"]: speed / other["cases"][i]["tokens_per_second"] for other in baselines
            }


def table(title: str, results: Sequence[Result]) -> Table:
    """Return the results as a table, grouped by case."""
    done = [result for result in results if "error" not in result]
    baselines = list(done[0]["cases"][0]["times"]) if done else []
    shown = Table(title=title, title_justify="left", box=None)
    shown.add_column("implementation", no_wrap=True)
    heads = ("B", "prompt", "tokens/s", "ms/token", "first token", "prefill tokens/s", "limit")
    heads += ("by", "% of limit", "memory", "first call", *report.speed_up_heads(baselines))
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for i in range(len(done[0]["cases"]) if done else 0):
        for result in done:
            shown.add_row(*row(result, result["cases"][i], baselines))
        shown.add_section()
    return shown


def row(result: Result, case: Result, baselines: Sequence[str]) -> list[str]:
    """Return a case of an implementation as the cells of a row."""
    return [
        result["name"],
        f"{case['batch_size']}",
        f"{case['prompt_length']}",
        f"{case['tokens_per_second']:,.1f}",
        f"{case['milliseconds_per_step']:,.2f}",
        f"{case['milliseconds_to_first_token']:,.1f} ms",
        f"{case['prefill_tokens_per_second']:,.0f}",
        f"{case['limit_tokens_per_second']:,.0f}" if "limited_by" in case else "",
        case.get("limited_by", ""),
        report.percent(case.get("share_of_limit")),
        report.gigabytes(result["peak_memory"]),
        f"{case['first_call_seconds']:.1f} s",
        *(f"{case['times'][name]:.2f}x" for name in baselines),
    ]


def run(config: GenerateBenchmarkConfig, console: Console) -> Result:
    """Return the result. Raises `InputError` if a sequence is longer than the model's context."""
    model = PRESETS[config.preset]
    check_length(config.preset, model, max(config.prompt_length) + config.new_tokens)
    implementations = select_implementations(config.framework, config.flax_peer_python)
    result = report.new_result("generate", config)
    result["step_bytes"] = weight_bytes(model, config.dtype)
    result["programs"] = measure(config, implementations, console)
    return result


def headline(result: Result) -> str:
    """Return a title: model, new tokens and dtype, then the environment."""
    options = result["options"]
    return (
        f"{options['preset']}, {options['new_tokens']} new tokens, {options['dtype']}\n"
        f"{report.title(result)}"
    )


def main() -> None:
    """Run the command line."""
    config = cli.parse(GenerateBenchmarkConfig, "benchmarks.generate")
    result = run(config, stderr_console())
    report.finish(result, [table(headline(result), result["programs"])], config.out)


if __name__ == "__main__":
    cli.run(main)
