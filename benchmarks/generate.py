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
from benchmarks.programs import PEER, Framework, Program, select_programs
from benchmarks.report import Result
from benchmarks.spec import Dtype, Spec, check_length
from benchmarks.trial import Trial, corpus, stderr_console, trials
from gpt_common import cli
from gpt_common.config import PRESETS, Device, GPTConfig, Preset
from gpt_common.errors import require_positive
from gpt_common.weights import num_parameters

READ_BYTES = 1 << 29  # the array whose reading is the limit; more than any cache holds
TIMEOUT = 900.0  # seconds
BYTES = {"bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class GenerateBenchmarkConfig:
    """Time generation in both twins and in Hugging Face's GPT-2, side by side.

    Each program has a process of its own, and their turns alternate. The last line of the output
    is one JSON object.
    """

    framework: tuple[Framework, ...] = ("all",)
    """One or more; huggingface-best has a static cache and a malloc that keeps its memory."""
    device: Device = "auto"
    """auto takes cuda, else mps (PyTorch only), else cpu."""
    dtype: Dtype = "float32"
    """What matrix products compute in."""
    preset: Preset = "gpt2"
    """A named shape."""
    batch_size: tuple[int, ...] = (1, 5)
    """Rows that are continued at once; every size is measured."""
    prompt_length: tuple[int, ...] = (8,)
    """Tokens in the prompt; every length is measured."""
    new_tokens: int = 128
    """Tokens that are added to each row."""
    rounds: int = 3
    """Rounds; in each, every program has its turn."""
    fast_ops: bool = True
    """The twins' fast operations; --no_fast_ops turns them off."""
    sequential: bool = False
    """Start a program when the one before has ended: where they do not fit in memory together."""
    flax_peer_python: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Interpreter with transformers<5, flax<0.11, jax<0.7: adds Hugging Face's Flax GPT-2."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the result, for benchmarks.plot."""

    def __post_init__(self) -> None:
        require_positive("rounds", self.rounds)
        require_positive("new_tokens above 1", self.new_tokens - 1)
        for name in ("batch_size", "prompt_length"):
            for size in getattr(self, name):
                require_positive(name, size)

    @property
    def cases(self) -> list[tuple[int, int]]:
        """Every batch size with every length of the prompt."""
        return [(B, T) for B in self.batch_size for T in self.prompt_length]

    def spec(self, tokens: str) -> Spec:
        """Return what each program is to run."""
        return Spec(
            model=PRESETS[self.preset],
            tokens=tokens,
            device=self.device,
            dtype=self.dtype,
            fast_ops=self.fast_ops,
        )


def measure(
    config: GenerateBenchmarkConfig,
    programs: Sequence[Program],
    console: Console,
    timeout: float = TIMEOUT,
) -> list[Result]:
    """Return a result for each program, with a figure for each case."""
    together = [[program] for program in programs] if config.sequential else [list(programs)]
    results = []
    with corpus() as tokens:
        for group in together:
            with trials(group, console, timeout) as running:
                results += measure_together(running, config, tokens)
    compare(results)
    return results


def measure_together(
    running: Sequence[Trial], config: GenerateBenchmarkConfig, tokens: str
) -> list[Result]:
    """Let the programs take turns, case by case."""
    spec = config.spec(tokens).as_dict()
    starts = [t.ask("load", spec=spec | {"settings": t.program.settings}) for t in running]
    cases: list[list[Result]] = [[] for _ in running]
    for case in config.cases:
        prompt = np.load(tokens, mmap_mode="r")[: case[1]].tolist()
        for found, figures in zip(cases, measure_case(running, config, case, prompt), strict=True):
            found.append(figures)
    results = []
    for trial, start, found in zip(running, starts, cases, strict=True):
        memory = trial.ask("memory")  # before the large array, which takes some of its own
        speeds = trial.ask("bandwidth", size=READ_BYTES)
        if trial.error:
            results.append(trial.failure())
            continue
        figures = {"name": trial.program.name, **start, "peak_memory": memory, "reads": speeds}
        results.append(figures | {"cases": [add_share(c, config, speeds) for c in found]})
    return results


def measure_case(
    running: Sequence[Trial],
    config: GenerateBenchmarkConfig,
    case: tuple[int, int],
    prompt: list[int],
) -> list[Result]:
    """Return each program's figures for a batch size and a length of the prompt.

    Each turn continues the prompt by one token, which shows what the prompt costs, and by all.
    """
    counts = (1, config.new_tokens)
    asked = {"prompt": prompt, "batch_size": case[0]}
    first = [[t.ask("generate", **asked, new_tokens=n) for n in counts] for t in running]
    times: list[list[list[float]]] = [[[], []] for _ in running]
    for _ in range(config.rounds):
        for trial, (one, all_tokens) in zip(running, times, strict=True):
            for n, seconds in zip(counts, (one, all_tokens), strict=True):
                if answer := trial.ask("generate", **asked, new_tokens=n):
                    seconds.append(answer["seconds"])
    return [
        {} if trial.error else summarise(case, config.new_tokens, warm, *seconds)
        for trial, warm, seconds in zip(running, first, times, strict=True)
    ]


def summarise(
    case: tuple[int, int],
    new_tokens: int,
    first: Sequence[Result],
    one: list[float],
    all_tokens: list[float],
) -> Result:
    """Return the figures of a case; `first` are the calls that compile and are not counted."""
    B, T = case
    to_first, total = statistics.median(one), statistics.median(all_tokens)
    step = max(total - to_first, 1e-9) / (new_tokens - 1)
    return {
        "batch_size": B,
        "prompt_length": T,
        "new_tokens": new_tokens,
        "milliseconds": report.spread(all_tokens),
        "first_call_seconds": sum(answer["seconds"] for answer in first),
        "length": first[-1]["length"],
        "milliseconds_to_first_token": 1000 * to_first,
        "prefill_tokens_per_second": B * T / to_first,
        "milliseconds_per_step": 1000 * step,
        "tokens_per_second": B * new_tokens / total,
    }


def step_bytes(config: GPTConfig, dtype: Dtype) -> int:
    """Return the bytes of weights that a step has to read: all but the positions, once."""
    weights = num_parameters(config) - config.block_size * config.n_embd
    return weights * BYTES.get(dtype, 4)


def add_share(case: Result, config: GenerateBenchmarkConfig, reads: dict[str, float]) -> Result:
    """Return a case with the limit that reading the weights sets, and what share it reached."""
    bandwidth = max(reads.values())
    seconds = step_bytes(PRESETS[config.preset], config.dtype) / bandwidth
    return case | {
        "limit_tokens_per_second": case["batch_size"] / seconds,
        "share_of_bandwidth": 1000 * seconds / case["milliseconds_per_step"],
    }


def compare(results: Sequence[Result]) -> None:
    """Add to each case how many times as fast it is as each of Hugging Face's."""
    done = [result for result in results if "error" not in result]
    peers = [result for result in done if result["name"].startswith(PEER)]
    for result in done:
        for i, case in enumerate(result["cases"]):
            speed = case["tokens_per_second"]
            case["times"] = {
                peer["name"]: speed / peer["cases"][i]["tokens_per_second"] for peer in peers
            }


def table(title: str, results: Sequence[Result]) -> Table:
    """Return the results as a table, case by case."""
    done = [result for result in results if "error" not in result]
    peers = list(done[0]["cases"][0]["times"]) if done else []
    shown = Table(title=title, title_justify="left", box=None)
    shown.add_column("program", no_wrap=True)
    heads = ("B", "prompt", "tokens/s", "ms a token", "first token", "prefill/s", "limit")
    heads += ("of limit", "memory", "first call", *("x " + p.replace(PEER, "HF") for p in peers))
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for i in range(len(done[0]["cases"]) if done else 0):
        for result in done:
            shown.add_row(*row(result, result["cases"][i], peers))
        shown.add_section()
    return shown


def row(result: Result, case: Result, peers: Sequence[str]) -> list[str]:
    """Return a case of a program as the cells of a row."""
    return [
        result["name"],
        f"{case['batch_size']}",
        f"{case['prompt_length']}",
        f"{case['tokens_per_second']:,.1f}",
        f"{case['milliseconds_per_step']:,.2f}",
        f"{case['milliseconds_to_first_token']:,.1f} ms",
        f"{case['prefill_tokens_per_second']:,.0f}",
        f"{case['limit_tokens_per_second']:,.0f}",
        report.percent(case["share_of_bandwidth"]),
        report.gigabytes(result["peak_memory"]),
        f"{case['first_call_seconds']:.1f} s",
        *(f"{case['times'][peer]:.2f}" for peer in peers),
    ]


def run(config: GenerateBenchmarkConfig, console: Console) -> Result:
    """Measure as the options say. Raises `InputError` where they do not fit the model."""
    model = PRESETS[config.preset]
    check_length(config.preset, model, max(config.prompt_length) + config.new_tokens)
    programs = select_programs(config.framework, config.flax_peer_python)
    result = report.new_result("generate", config)
    result["step_bytes"] = step_bytes(model, config.dtype)
    result["programs"] = measure(config, programs, console)
    return result


def headline(result: Result) -> str:
    """Return what was measured, in a line."""
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
