"""What benchmarks.gpu prints: the environment, tables, what was not measured, and the errors."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import generate, report
from benchmarks.implementations import BASELINE
from benchmarks.report import Result

SHARES = "peak: of the measured matmul peak; sheet: of the data sheet"
# jaxlib's versions whose gradient of an embedding is a loop of compare-and-swap on NVIDIA GPUs.
SLOW_JAX = ("0.10.2", "0.11.0")


def environment_lines(result: Result) -> list[str]:
    """Return one line for the GPU, its state, and each framework."""
    found, state = result["environment"], result["gpu_state"]
    lines = ["", "== Environment"]
    if "gpu" in found:
        lines.append(f"{found['gpu']}, {found['gpu_memory']}, driver {found['driver']}")
    if state:
        lines.append(state_line(state))
    for name, described in result["frameworks"].items():
        lines.append(f"{name}: {framework_line(name, described, found)}")
    return lines


def state_line(state: dict[str, str]) -> str:
    """Return the GPU's clocks, power limit and temperature as a line."""
    return (
        f"SM clock {state['sm_clock']} of {state['max_sm_clock']}, "
        f"power limit {state['power_limit']}, {state['celsius']} C"
    )


def framework_line(name: str, described: Result, versions: dict[str, str]) -> str:
    """Return a framework's versions and memory; why it cannot compute, if it cannot."""
    if "error" in described:
        return f"not measured: {described['error']}"
    package = {"flax": "jax", "huggingface": "transformers"}.get(name, name)
    words = [f"{package} {versions.get(package, 'of unknown version')}"]
    for library, key in (("CUDA", "cuda"), ("cuDNN", "cudnn")):
        if key in described:
            words.append(f"{library} {described[key]}")
    if "memory_limit" in described:
        words.append(f"may take {report.gigabytes(described['memory_limit'])}")
    return ", ".join(words)


def print_results(result: Result, generated: Result) -> None:
    """Print the tables, then what they do not show."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width
    for table in (*tables(result), generation_table(generated)):
        console.print("", table, sep="\n")
    for lines in (attention_lines(result), parity_lines(result), notes(result, generated)):
        print_lines(lines)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines; a long one is not wrapped."""
    print("\n".join(lines), flush=True)


def tables(result: Result) -> list[Table]:
    """Return one table of the variants and one of the largest batches."""
    return [
        variant_table(f"T={result['seq_len']}: {words}\n{SHARES}", result[part])
        for part, words in (("ladder", "the variants"), ("best", "the largest batch that fits"))
    ]


def variant_table(title: str, results: list[Result]) -> Table:
    """Return variants as a table; a variant that failed has none."""
    shown = Table("framework", "variant", title=title, title_justify="left", box=None)
    for head in ("B", "ms/step", "tokens/s", "peak", "sheet", "memory"):
        shown.add_column(head, justify="right", no_wrap=True)
    for result in results:
        cells = ["", "-"] if "error" in result else variant_cells(result)
        shown.add_row(result["name"], result["label"], *cells)
    return shown


def variant_cells(result: Result) -> list[str]:
    """Return a variant's result as the cells of a row."""
    shares = ("share_of_matmul_peak", "share_of_datasheet_peak")
    return [
        f"{result['batch_size']}",
        f"{result['milliseconds']['median']:,.1f}",
        f"{result['tokens_per_second']:,.0f}",
        *(report.percent(result.get(share)) for share in shares),
        report.gigabytes(result["peak_memory"]),
    ]


def generation_table(result: Result) -> Table:
    """Return generation as a table of at most 80 columns, grouped by case."""
    shown = Table("framework", title=generate.headline(result), title_justify="left", box=None)
    heads = ("B", "tokens/s", "ms/token", "first token", "of limit", "memory", "vs HF")
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    done = measured(result["programs"])
    for i in range(len(done[0]["cases"]) if done else 0):
        for program in done:
            shown.add_row(*generation_cells(program, program["cases"][i]))
        shown.add_section()
    return shown


def generation_cells(program: Result, case: Result) -> list[str]:
    """Return a case of a framework as the cells of a row."""
    speed_up = case["times"].get(BASELINE)
    return [
        program["name"],
        f"{case['batch_size']}",
        f"{case['tokens_per_second']:,.1f}",
        f"{case['milliseconds_per_step']:,.2f}",
        f"{case['milliseconds_to_first_token']:,.1f} ms",
        report.percent(case.get("share_of_limit")),
        report.gigabytes(program["peak_memory"]),
        f"{speed_up:.2f}x" if speed_up else "",
    ]


def attention_lines(result: Result) -> list[str]:
    """Return one line for each variant: what computed its attention, forward."""
    lines = ["", "== Attention"]
    for each in measured(result["ladder"]):
        names = [name for name in each["attention"] or () if "backward" not in name.lower()]
        dispatched = [name for name in names if name.startswith("aten::")]  # short, unlike kernels'
        kernels = ", ".join(dispatched or names) or "no fused kernel"
        lines.append(f"{each['name']} {each['label']}: {kernels}")
    return lines


def measured(results: Sequence[Result]) -> list[Result]:
    """Return the results that are no errors."""
    return [result for result in results if "error" not in result]


def parity_lines(result: Result) -> list[str]:
    """Return one line for each twin's parity tests."""
    lines = ["", "== Parity with the float64 reference on the CPU"]
    lines += [parity_line(found) for found in result["parity"]]
    return lines + [f"GPT-2 124M: {parity_line(found)}" for found in result.get("parity_gpt2", ())]


def parity_line(found: Result) -> str:
    """Return the counts, and the difference that is closest to its tolerance."""
    line = f"{found['framework']}: {found.get('passed', 0)} tests passed"
    line += "".join(f", {found[name]} {name}" for name in ("failed", "skipped") if found.get(name))
    if rows := found.get("differences"):
        what, quantity, difference, tolerance = max(rows, key=lambda row: row[2] / row[3])
        line += (
            f"; closest to its tolerance: {what}, {quantity}, {difference:.1e} of {tolerance:.0e}"
        )
    return line


def notes(result: Result, generated: Result) -> list[str]:
    """Return what was not measured, with the whole reasons, and what slows the GPU down."""
    lines = [""]
    failed: dict[str, list[str]] = {}
    for each in (*result["ladder"], *result["best"], *generated["programs"]):
        if "error" in each:
            what = f"{each['name']} {each.get('label', 'generation')}"
            failed.setdefault(each["error"], []).append(what)
    for reason, names in failed.items():
        lines.append(f"note: not measured: {', '.join(dict.fromkeys(names))}: {reason}")
    if states := [each["gpu_state"] for each in measured(result["ladder"]) if each["gpu_state"]]:
        lines.append(f"note: after the last step: {state_line(states[-1])}")
    if states and (version := result["environment"].get("jax")) in SLOW_JAX:
        lines.append(f"note: jax {version}: a known bug makes its steps slow, see docs/gpu.md")
    return lines


def errors(result: Result) -> list[str]:
    """Return why the result is not to be believed; an empty list if it is."""
    found = [f"parity of {p['framework']}: {p['error']}" for p in result["parity"] if p["error"]]
    found += [
        f"parity of {p['framework']}, GPT-2 124M: {p['error']}"
        for p in result.get("parity_gpt2", ())
        if p.get("failed")  # it may have been stopped
    ]
    reasons = [f"{k}: {v['error']}" for k, v in result["frameworks"].items() if "error" in v]
    if len(reasons) == len(result["frameworks"]):
        hint = "--device cpu --preset tiny is a dry run"
        found.append(f"no framework can compute on the GPU: {'; '.join(reasons)} ({hint})")
    elif not measured(result["ladder"]):
        found.append("nothing was measured")
    return found
