"""The GPU's benchmark: what is measured in which order and time, what is printed, exit codes."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from benchmarks import candidate, environment, generate, gpu, gpu_parity, gpu_report
from gpt_common.errors import InputError
from tests.benchmarks.fakes import (
    CONSOLE,
    GPT2_FLOPS,
    H100,
    RATES,
    STEP,
    FakeCandidate,
    approx,
    cells,
    generated_results,
    no_corpus,
)
from tests.benchmarks.test_measurements import answers_to_training

STATE = {"sm_clock": "1980 MHz", "max_sm_clock": "1980 MHz"}
STATE |= {"power_limit": "700.00 W", "celsius": "61"}
DONE = {
    "framework": "torch",
    "passed": 9,
    "failed": 0,
    "skipped": 0,
    "differences": [],
    "error": "",
}


class Monotonic:
    """A fake of the module `time`, which advances only by `spend`."""

    def __init__(self):
        self.now = 50.0

    def monotonic(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def time(monkeypatch):
    time = Monotonic()
    monkeypatch.setattr(gpu, "time", time)
    return time


def use_fakes(monkeypatch, measure, memory=80e9):
    """Let `measure(variant, batch_size)` answer, on a GPU of which frameworks may take `memory`."""
    monkeypatch.setattr(gpu.Runner, "_describe", lambda *_: {"memory_limit": memory})
    monkeypatch.setattr(gpu.Runner, "_measure", lambda self, *case: measure(*case))
    monkeypatch.setattr(gpu, "corpus", no_corpus)


@pytest.fixture
def fakes(monkeypatch):
    return lambda measure, **how: use_fakes(monkeypatch, measure, **how)


def runner(**options):
    return gpu.Runner(gpu.GpuConfig(**options), CONSOLE, "tokens.npy")


def step(variant, batch_size):
    name, shares = variant.framework, {"share_of_matmul_peak": 0.5, "share_of_datasheet_peak": 0.25}
    attention = {"attention": ["aten::_flash"], "gpu_state": STATE}
    return STEP | shares | attention | {"name": name, "tokens_per_second": RATES[name]}


def test_the_batch_sizes_to_try():
    seen = {"peak_memory": 16 * 10**9, "batch_size": 16}  # 1 GB per sequence
    assert gpu.batch_sizes_to_try(seen, 34e9, False) == [32, 16, 8, 4, 2, 1]
    assert gpu.batch_sizes_to_try(seen, 33e9, False) == [16, 8, 4, 2, 1]  # 5 % stays free
    assert gpu.batch_sizes_to_try({"error": "gone"}, 80e9, False) == [16, 8, 4, 2, 1]
    assert gpu.batch_sizes_to_try(seen, 80e9, True) == [2, 1]


def test_the_largest_batches_are_measured_with_the_last_variants(fakes):
    """They are estimated from the memory that each framework may take."""
    measured = []

    def measure(variant, batch_size):
        measured.append((variant, batch_size))
        return step(variant, batch_size) | {"peak_memory": 16e9}

    fakes(measure)
    bench = runner()
    bench.frameworks["flax"]["memory_limit"] = 34e9
    results = gpu.measure_largest_batches(bench, gpu.measure_variants(bench, gpu.variants()))
    assert all(batch_size == 16 for _, batch_size in measured[: len(gpu.variants())])
    best = measured[len(gpu.variants()) :]
    assert [(v.framework, v.dtype, v.compile, batch_size) for v, batch_size in best] == [
        ("torch", "bfloat16", True, 64),
        ("flax", "bfloat16", False, 32),
        ("huggingface", "bfloat16", True, 64),
    ]
    assert best[2][0].settings == {"padded": True, "fused": True}
    assert [r["times"]["huggingface"] for r in results] == [3.0, 0.5, 1.0]


def test_the_variants_are_the_lectures_optimisations():
    eager, flash = {"attention": "eager", "fused": False}, {"attention": "sdpa", "fused": False}
    variants = [(r.framework, r.dtype, r.compile, r.settings) for r in gpu.variants()]
    assert variants == [
        *(("torch", dtype, False, {}) for dtype in ("float32", "tf32", "bfloat16")),
        ("torch", "bfloat16", True, {}),
        *(("flax", dtype, False, {}) for dtype in ("float32", "tf32", "bfloat16")),
        *(("huggingface", dtype, False, eager) for dtype in ("float32", "tf32", "bfloat16")),
        ("huggingface", "bfloat16", True, eager),
        ("huggingface", "bfloat16", True, flash),
        ("huggingface", "bfloat16", True, {**flash, "padded": True}),
        ("huggingface", "bfloat16", True, {"padded": True, "fused": True}),
    ]


def test_variants_fall_back_to_smaller_batches_and_continue_after_failures(fakes):
    def measure(variant, batch_size):
        if variant.dtype == "tf32":
            return {"error": "broken"}
        if batch_size > 4:
            return {"error": "out of memory", "out_of_memory": True}
        return {"tokens_per_second": 1.0}

    fakes(measure)
    results = gpu.measure_variants(runner(), gpu.variants())
    for variant, result in zip(gpu.variants(), results, strict=True):
        assert result["label"] == variant.label
        assert result.get("error") == ("broken" if variant.dtype == "tf32" else None)
        assert result["batch_size"] == 4 or variant.dtype == "tf32"


def test_after_a_variant_its_attention_and_the_clocks_are_read(monkeypatch):
    """While its process still computes: an idle GPU clocks down."""
    asked, open_processes = [], []

    @contextmanager
    def candidates(programs, console, timeout):
        assert float(timeout) == 55.0
        open_processes.append(programs[0].name)
        answers = answers_to_training([[2.0]]) | {"attention_kernels": ["fmha"]}
        yield [FakeCandidate(programs[0].name, asked, answers)]
        open_processes.clear()

    def gpu_state():
        return {"sm_clock": "1980 MHz"} if open_processes else {"sm_clock": "210 MHz"}

    monkeypatch.setattr(gpu.Runner, "_describe", lambda *_: {})
    monkeypatch.setattr(gpu, "candidates", candidates)
    monkeypatch.setattr(environment, "gpu_state", gpu_state)
    peaks = []
    monkeypatch.setattr(gpu, "matmul_speeds", lambda *a: peaks.append(a) or {"flax: head": 4e12})
    running = runner(timeout=55.0)
    result = running.measure(gpu.last_variant("flax"), [8])
    running.measure(gpu.last_variant("flax"), [8])
    ((_, rows, device, dtype, _, timeout),) = peaks  # measured once for each dtype
    assert (rows, device, dtype, float(timeout)) == (8 * 1024, "cuda", "bfloat16", 55.0)
    assert result["share_of_matmul_peak"] == result["flops_per_second"] / 4e12
    assert (result["attention"], result["gpu_state"]) == (["fmha"], {"sm_clock": "1980 MHz"})
    assert [call for _, call, _ in asked][-2:] == ["memory", "attention_kernels"]
    spec = asked[0][2]["spec"]
    assert (spec["batch_size"], spec["seq_len"], spec["dtype"]) == (8, 1024, "bfloat16")


def test_a_request_has_at_most_the_time_that_is_left(time, monkeypatch):
    timeouts = []

    class Worker:
        def __init__(self, *_):
            pass

        def ask(self, call, timeout):
            timeouts.append(timeout)
            time.spend(30.0)

        def close(self):
            pass

    monkeypatch.setattr(candidate, "WorkerProcess", Worker)
    deadline = gpu.Deadline(100.0, 55.0)
    with candidate.Candidate(
        SimpleNamespace(name="x", command="", environ={}), CONSOLE, deadline
    ) as c:
        for _ in range(5):
            c.ask("steps")
    assert timeouts == [55.0, 55.0, 40.0, 10.0, 1.0]
    assert deadline.left() == 0


def test_each_part_has_its_time(time, fakes):
    """What one leaves the next has, and none takes another's."""
    fakes(step)
    bench = runner(minutes=10.0)
    assert bench.deadline.left() == approx(120.0)  # of parity
    time.spend(30.0)
    bench.start_part("fastest")
    assert bench.deadline.left() == approx(300.0)
    time.spend(310.0)  # too long
    assert bench.measure(gpu.variants()[0], [1])["error"] == "the time limit was reached"
    bench.start_part("generation")
    assert bench.deadline.left() == approx(110.0)
    time.spend(110.0)
    bench.start_part("all")
    assert bench.deadline.left() == approx(150.0)


def test_the_last_measurement_does_not_try_every_batch_size(time, fakes):
    tried = []

    def measure(variant, batch_size):
        tried.append(batch_size)
        time.spend(400.0)
        return {"error": "no answer within 180 s", "out_of_memory": True}

    fakes(measure)
    bench = runner(minutes=60.0)
    found = bench.measure(gpu.variants()[0], [64, 32, 16, 8, 4, 2, 1])
    assert tried == [64, 32]  # in the 720 s of its part
    assert found["error"] == "the time limit was reached: no answer within 180 s"


def test_generation_on_a_gpu(monkeypatch, fakes):
    fakes(step)
    configs = []
    monkeypatch.setattr(
        generate, "measure", lambda config, programs, *_: configs.append(config) or [
            {"name": p.name, "cases": [{"tokens_per_second": RATES[p.name]}]} for p in programs
        ],
    )  # fmt: skip
    result = gpu.measure_generation(runner(), "bfloat16")
    assert result["step_bytes"] == 2 * (124_439_808 - 1024 * 768)
    assert [r["cases"][0]["times"]["huggingface"] for r in result["programs"]] == [3.0, 0.5, 1.0]
    (config,) = set(configs)
    assert config.cases == [(1, 64), (32, 64)]
    assert (config.new_tokens, config.dtype, config.device) == (128, "bfloat16", "cuda")


@pytest.fixture
def whole(monkeypatch, fakes, tmp_path, call):
    """Run the command with fakes; return how it ended, and in which order it measured."""
    order = []

    def measure(variant, batch_size):
        order.append(f"{variant.framework} {variant.label}")
        return step(variant, batch_size)

    def parity(frameworks, device, marks, only, seconds):
        order.append(f"parity of {' '.join(frameworks)}: {marks}")
        return [DONE | {"framework": framework} for framework in frameworks]

    def generation(config, programs, *_):
        order.append(f"{programs[0].name} generation")
        return [r for r in generated_results() if r["name"] == programs[0].name]

    fakes(measure)
    monkeypatch.setattr(gpu_parity, "run", parity)
    monkeypatch.setattr(generate, "measure", generation)
    monkeypatch.setattr(environment, "gpu_state", lambda: STATE)
    return lambda *flags: (call("benchmarks.gpu", "--out", tmp_path, *flags), order, tmp_path)


def test_the_most_important_is_measured_first(whole):
    ended, order, out = whole()
    assert ended.returncode == 0, ended.stderr
    assert order[:7] == [
        "parity of torch flax: gpu and not slow",
        "torch + compile", "flax bfloat16", "huggingface + fused AdamW",
        "torch generation", "flax generation", "huggingface generation",
    ]  # fmt: skip
    assert order[7] == "torch float32"
    assert order[-1] == "parity of torch flax: gpu and slow"
    names = {"gpu.json", "gpu.png", "gpu_generate.json", "gpu_generate.png"}
    assert {path.name for path in out.iterdir()} == names
    result = json.loads((out / "gpu.json").read_text())
    assert [r["label"] for r in result["ladder"]] == [variant.label for variant in gpu.variants()]
    assert (result["seq_len"], result["flops"]["per_token"]) == (1024, GPT2_FLOPS)
    ladder, best = (cells(table) for table in gpu_report.tables(result))
    assert ladder[0] == [
        "framework: torch", "variant: float32", "B: 16", "ms/step: 500.0", "tokens/s: 300",
        "peak: 50 %", "sheet: 25 %", "memory: 5.68 GB",
    ]  # fmt: skip
    assert (len(ladder), len(best)) == (len(gpu.variants()), 3)


def test_no_line_of_a_table_is_wider_than_a_terminal(whole):
    ended, _, _ = whole()
    tables = ended.stdout[ended.stdout.index("T=1024") : ended.stdout.index("== Attention")]
    rows = [line.rstrip() for line in tables.splitlines() if " | " not in line]  # but the titles
    assert len(rows) > 30
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("count", [1, 0])
def test_parity_that_is_not_shown_is_exit_code_1(count, whole, monkeypatch):
    """With the whole reason, last, whether tests failed or were stopped; the rest is measured."""
    reason = f"test_training[torch-float32]: AssertionError: {100 * 'long '}end"
    failed = DONE | {"failed": count, "error": reason}
    monkeypatch.setattr(gpu_parity, "run", lambda *_: [failed, DONE | {"framework": "flax"}])
    ended, _, out = whole()
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0] == f"error: parity of torch: {reason}"
    assert len(json.loads((out / "gpu.json").read_text())["best"]) == 3
    assert "torch: 9 tests passed" in ended.stdout


def test_no_framework_is_exit_code_1(whole, monkeypatch):
    gone = f"no GPU: {100 * 'long '}end"
    monkeypatch.setattr(gpu.Runner, "_describe", lambda self, name: {"error": f"{name}: {gone}"})
    ended, order, _ = whole()
    assert ended.returncode == 1
    assert order == ["parity of : gpu and not slow", "parity of : gpu and slow"]
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: no framework can compute on the GPU: ")
    for name in gpu.FRAMEWORKS:
        assert f"{name}: {gone}" in last


def test_a_framework_that_cannot_compute_is_named_and_the_other_measured(whole, monkeypatch):
    why = f"the process ended: error: {100 * 'long '}this needs jax: pip install jax"

    def describe(self, name):
        return {"error": why} if name == "flax" else {"cuda": "13.0", "cudnn": "91300"}

    monkeypatch.setattr(gpu.Runner, "_describe", describe)
    ended, order, _ = whole()
    assert ended.returncode == 0
    assert order[0] == "parity of torch: gpu and not slow"
    assert not any(step.startswith("flax") for step in order)
    assert f"flax: not measured: {why}" in ended.stdout
    assert "CUDA 13.0, cuDNN 91300" in ended.stdout
    note = next(line for line in ended.stdout.splitlines() if line.startswith("note: not measured"))
    assert note.endswith(f"flax float32, flax TF32, flax bfloat16, flax generation: {why}")


@pytest.mark.parametrize(
    ("found", "errors"),
    [
        ({"failed": 0, "error": "the time limit stopped it"}, 0),
        ({"failed": 1, "error": "test_gpt2: it differs; the time limit stopped it"}, 1),
    ],
)
def test_the_slow_parity_tests_may_be_stopped_but_not_fail(found, errors):
    result = {"parity": [DONE], "parity_gpt2": [DONE | found], "frameworks": {"torch": {}}}
    assert len(gpu_report.errors(result | {"ladder": [{}]})) == errors


def test_if_nothing_was_measured_that_is_an_error():
    result = {"parity": [DONE], "frameworks": {"torch": {}}, "ladder": [{"error": "late"}]}
    assert gpu_report.errors(result) == ["nothing was measured"]


def test_the_difference_that_is_closest_to_its_tolerance_is_shown():
    rows = [["a", "loss", 1e-8, 1e-7], ["b", "weights", 3e-6, 1e-5], ["c", "norms", 1e-3, 1e-2]]
    line = gpu_report.parity_line(DONE | {"differences": rows})
    assert line.endswith("closest to its tolerance: b, weights, 3.0e-06 of 1e-05")


def test_a_framework_is_asked_for_the_device_before_the_gpu(monkeypatch):
    asked = []

    @contextmanager
    def fake(implementation, console, timeout):
        yield FakeCandidate(
            implementation.name, asked, {"device": "cuda", "describe_gpu": {"a": 1}}
        )

    monkeypatch.setattr(gpu, "Candidate", fake)
    assert runner().frameworks == {name: {"a": 1} for name in gpu.FRAMEWORKS}
    assert [call for _, call, _ in asked] == 3 * ["device", "describe_gpu"]
    monkeypatch.setattr(FakeCandidate, "error", "device cuda: expected one of cpu")
    assert runner().unavailable("flax") == "device cuda: expected one of cpu"


def test_a_plot_that_fails_does_not_end_the_command(monkeypatch, tmp_path):
    def draw(*_):
        raise InputError("nothing to plot")

    monkeypatch.setattr(gpu, "draw", draw)
    gpu.draw_plot({}, tmp_path / "gpu.png", CONSOLE)


def test_the_gpu_is_what_nvidia_smi_says(nvidia_smi, monkeypatch):
    assert environment.describe()["gpu"] == H100
    assert environment.nvidia_gpu()["driver"] == "580.65.06"
    assert gpu_report.state_line(environment.gpu_state()) == (
        "SM clock 345 MHz of 1980 MHz, power limit 700.00 W, 31 C"
    )
    nvidia_smi("exit 9")
    assert "gpu" not in environment.describe()
    assert environment.gpu_state() == {}


def test_a_jax_with_a_slow_gradient_is_named():
    each = {"name": "flax", "label": "bfloat16", "gpu_state": STATE}
    result = {"ladder": [each], "best": [], "environment": {"jax": "0.11.0"}}
    assert "jax 0.11.0: a known bug" in gpu_report.notes(result, {"programs": []})[-1]
    result["environment"]["jax"] = "0.11.1"
    assert "known bug" not in "".join(gpu_report.notes(result, {"programs": []}))
