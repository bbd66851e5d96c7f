"""Every figure that a benchmark prints, computed from known numbers: nothing is timed."""

import json
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import (
    convert,
    data,
    environment,
    generate,
    operations,
    peaks,
    report,
    scaling,
    train_step,
)
from benchmarks.generate import GenerateBenchmarkConfig
from benchmarks.implementations import BY_NAME
from benchmarks.spec import Spec
from benchmarks.train_step import Plan
from benchmarks.workers import conversion
from gpt_common.config import PRESETS
from tests.benchmarks.fakes import (
    CONSOLE,
    GPT2_FLOPS,
    H100,
    OPERATION,
    RATES,
    SHORT,
    SPEC,
    STEP,
    FakeCandidate,
    approx,
    cells,
    generated_case,
    generated_results,
    no_corpus,
)


def answers_to_training(seconds):
    start = {"device": "cpu", "setup_seconds": 1.5, "first_step_seconds": 9.0, "loss": 10.9}
    warm = {"seconds": [50.0], "loss": 7.0}
    steps = iter([warm, *({"seconds": each, "loss": 3.0} for each in seconds)])
    return {"train": start, "steps": steps, "memory": 5 * 10**9}


def test_rounds_are_interleaved(clock):
    asked = []
    running = [
        FakeCandidate(name, asked, answers_to_training([[2.0, 1.0], [3.0, 9.0]]), clock)
        for name in ("torch", "huggingface-best")
    ]
    plan = Plan(steps=2, rounds=2, warmup=1)
    results = train_step.measure_interleaved(running, SPEC, plan)
    one_round = [("torch", "steps"), ("huggingface-best", "steps")]
    assert [(name, call) for name, call, _ in asked] == [
        ("torch", "train"), ("torch", "steps"),
        ("huggingface-best", "train"), ("huggingface-best", "steps"),
        *one_round, *one_round,
        ("torch", "memory"), ("huggingface-best", "memory"),
    ]  # fmt: skip
    counts = [arguments["count"] for _, call, arguments in asked if call == "steps"]
    assert counts == [1, 1, 2, 2, 2, 2]
    settings = [a["spec"]["settings"] for _, call, a in asked if call == "train"]
    assert settings == [{}, {"fused": True, "static_cache": True}]
    assert [result["name"] for result in results] == ["torch", "huggingface-best"]
    for result in results:
        assert result["seconds"] == [2.0, 1.0, 3.0, 9.0]  # without the warm-up steps
        assert result["peak_memory"] == 5 * 10**9
        assert (result["first_loss"], result["last_loss"]) == (10.9, 3.0)
        assert result["first_loss_seconds"] == approx(4.0)  # without the warm-up steps


@pytest.fixture
def groups(monkeypatch):
    """Record the groups of implementations that run at the same time."""
    groups = []

    @contextmanager
    def candidates(programs, console, timeout):
        groups.append([program.name for program in programs])
        yield [FakeCandidate(p.name, [], answers_to_training([[2.0]])) for p in programs]

    def matmul_speeds(model, rows, device, dtype, console, timeout):
        assert (model, device, dtype) == (PRESETS["gpt2"], SPEC.device, "float32")
        return {"flax: head, x @ w": 2e12, "torch: head, linear": 1e12}

    monkeypatch.setattr(generate, "read_speeds", lambda *_: {"torch: sum": 1e10})
    for module in (train_step, generate):
        monkeypatch.setattr(module, "candidates", candidates)
        monkeypatch.setattr(module, "corpus", no_corpus)
        monkeypatch.setattr(module, "matmul_speeds", matmul_speeds)
    return groups


ONE_OR_BOTH = {True: [["flax"], ["huggingface"]], False: [["flax", "huggingface"]]}


@pytest.mark.parametrize("sequential", [False, True])
def test_training_is_measured_interleaved_or_sequentially(sequential, groups):
    """Either way every result has its speed-ups and its percentage of the peak."""
    programs = [BY_NAME["flax"], BY_NAME["huggingface"]]
    plan = Plan(steps=1, rounds=1, warmup=1, sequential=sequential)
    results = train_step.measure(programs, SPEC, plan, CONSOLE)
    assert groups == ONE_OR_BOTH[sequential]
    assert len(results) == 2
    for result in results:
        assert result["times"] == {"huggingface": 1.0}
        assert result["share_of_matmul_peak"] == approx(SHORT * 1024 / 2.0 / 2e12)


@pytest.mark.parametrize("sequential", [False, True])
def test_generation_is_measured_interleaved_or_sequentially(sequential, groups, monkeypatch):
    def measure_interleaved(running, config, tokens):
        return [
            {"name": candidate.implementation.name, "cases": [generated_case()]}
            for candidate in running
        ]

    monkeypatch.setattr(generate, "measure_interleaved", measure_interleaved)
    programs = [BY_NAME["flax"], BY_NAME["huggingface"]]
    config = GenerateBenchmarkConfig(sequential=sequential, device="cpu")
    results = generate.measure(config, programs, CONSOLE)
    assert groups == ONE_OR_BOTH[sequential]
    assert {r["cases"][0]["limited_by"] for r in results} == {"bandwidth"}
    assert [r["cases"][0]["times"] for r in results] == [{"huggingface": 1.0}] * 2


def test_a_failed_candidate_has_an_error_for_a_result():
    broken = FakeCandidate("torch", [], answers_to_training([[2.0]]))
    broken.error = "gone"
    plan = Plan(steps=1, rounds=1, warmup=1)
    (result,) = train_step.measure_interleaved([broken], SPEC, plan)
    train_step.add_percent_of_peak(result, SPEC, {"torch: head, linear": 2e12})
    assert result == {"name": "torch", "error": "gone"}


def test_without_warm_up_none_is_requested():
    asked = []
    answers = {**answers_to_training([]), "steps": {"seconds": [1.0], "loss": 3.0}}
    plan = Plan(steps=1, rounds=1, warmup=0)
    train_step.measure_interleaved([FakeCandidate("flax", asked, answers)], SPEC, plan)
    assert [call for _, call, _ in asked] == ["train", "steps", "memory"]


def test_without_peaks_none_are_measured(groups):
    plan = Plan(steps=1, rounds=1, warmup=1)
    (result,) = train_step.measure([BY_NAME["flax"]], SPEC, plan, CONSOLE, peaks=False)
    assert "matmul_peak" not in result


def test_an_implementations_settings_override_the_specs():
    asked = []
    running = FakeCandidate("huggingface-best", asked, {"train": {}})
    spec = replace(SPEC, settings={"attention": "eager", "fused": False})
    train_step.warm_up(running, spec, Plan(warmup=0))
    expected = {"attention": "eager", "fused": True, "static_cache": True}
    assert asked[0][2]["spec"]["settings"] == expected


def test_the_figures_of_a_training_step():
    start = answers_to_training([])["train"] | {"first_loss_seconds": 11.0}
    found = train_step.summarise("torch", SPEC, start, [0.5, 0.25, 4.0])
    assert found["milliseconds"] == {"median": 500.0, "min": 250.0, "max": 4000.0}
    assert found["tokens_per_second"] == approx(2 * 512 / 0.5)
    assert found["flops_per_second"] == approx(SHORT * 2 * 512 / 0.5)
    assert found["compile_seconds"] == approx(8.5)
    assert found["setup_seconds"] == 1.5
    assert found["first_step_seconds"] == 9.0
    assert found["first_loss_seconds"] == 11.0
    assert found["first_loss"] == 10.9


def test_the_fractions_of_the_peaks(monkeypatch):
    monkeypatch.setattr(environment, "nvidia_gpu", lambda: {"gpu": H100})
    matmuls = {"flax: head, x @ w": 4e14, "torch: c_fc, x @ w": 8e14}
    result = {"flops_per_second": 2e14, "device": "cuda"}
    for dtype, sheet in (("bfloat16", 989e12), ("float32", 67e12)):
        train_step.add_percent_of_peak(result, replace(SPEC, dtype=dtype), matmuls)
        assert result["matmul_peak"] == 8e14
        assert result["share_of_matmul_peak"] == approx(0.25)
        assert result["share_of_datasheet_peak"] == approx(2e14 / sheet)
    on_a_cpu = {"flops_per_second": 2e14, "device": "cpu"}
    train_step.add_percent_of_peak(on_a_cpu, SPEC, {})
    assert on_a_cpu.keys() == {"flops_per_second", "device", "matmuls"}


def test_the_speed_ups_of_training_over_each_baseline():
    results = [{"name": name, "tokens_per_second": rate} for name, rate in RATES.items()]
    train_step.add_speedups([*results, {"name": "huggingface-flax", "error": "gone"}])
    assert [r["times"]["huggingface"] for r in results] == [3.0, 0.5, 1.0, 2.0]
    assert [r["times"]["huggingface-best"] for r in results] == [1.5, 0.25, 0.5, 1.0]
    assert all(len(r["times"]) == 2 for r in results)


def test_the_matmuls_are_the_models_own():
    gpt2 = PRESETS["gpt2"]
    expected = {"c_fc": (1024, 768, 3072), "head": (1024, 768, 50304)}
    assert peaks.matmul_shapes(gpt2, 1024) == expected
    assert [M for M, _, _ in peaks.matmul_shapes(gpt2, 64 * 512).values()] == [8192, 8192]


@pytest.fixture
def asked(monkeypatch):
    """The requests to the processes of both frameworks, of which Flax's has no such device."""
    asked = []

    @contextmanager
    def candidate(implementation, console, timeout):
        speeds = {"head, linear": 3.0} if implementation.name == "torch" else None
        answers = {"device": None, "matmuls": speeds, "bandwidth": speeds}
        yield FakeCandidate(implementation.name, asked, answers)

    monkeypatch.setattr(peaks, "Candidate", candidate)
    for speeds in (peaks.matmul_speeds, peaks.read_speeds):
        speeds.cache_clear()
    return asked


def test_both_frameworks_are_asked_for_their_matmuls_once(asked):
    for _ in range(2):
        found = peaks.matmul_speeds(PRESETS["gpt2"], 64, "cuda", "bfloat16", CONSOLE)
        assert found == {"torch: head, linear": 3.0}
    device = {"name": "cuda", "dtype": "bfloat16"}
    shapes = {"shapes": peaks.matmul_shapes(PRESETS["gpt2"], 64)}
    assert asked == [
        (name, call, arguments)
        for name in ("torch", "flax")
        for call, arguments in (("device", device), ("matmuls", shapes))
    ]


def test_both_frameworks_are_asked_for_their_bandwidth(asked):
    found = peaks.read_speeds("cpu", "float32", CONSOLE)
    assert found == {"torch: head, linear": 3.0}
    assert [arguments for _, call, arguments in asked if call == "bandwidth"] == 2 * [
        {"size": 2**29}
    ]


def test_the_options_reach_the_measurement(monkeypatch):
    asked = []
    monkeypatch.setattr(train_step, "corpus", no_corpus)
    monkeypatch.setattr(train_step, "measure", lambda *how: asked.append(how) or [])
    config = train_step.TrainStepConfig(
        ("torch",), "cpu", "bfloat16", "gpt2", 3, 1024, compile=True, fast_ops=False
    )
    result = train_step.run(config, CONSOLE)
    assert result["flops"]["per_token"] == GPT2_FLOPS
    expected = Spec(
        PRESETS["gpt2"], "tokens.npy", "cpu", "bfloat16", 3, 1024, compile=True, fast_ops=False
    )
    assert asked[0][:3] == ([BY_NAME["torch"]], expected, config.plan)
    assert expected.tokens_per_step == 3 * 1024
    assert Spec.from_dict(json.loads(json.dumps(expected.as_dict()))) == expected


def test_the_table_of_training_steps(monkeypatch):
    monkeypatch.setattr(environment, "nvidia_gpu", lambda: {"gpu": H100})
    start = answers_to_training([])["train"] | {"first_loss_seconds": 11.0, "device": "cuda"}
    result = train_step.summarise("huggingface", SPEC, start, [0.5, 0.25, 4.0])
    rate, matmuls = result["flops_per_second"], {"head, x @ w": 4 * result["flops_per_second"]}
    result |= {"last_loss": 3.256, "peak_memory": 5.678e9}
    train_step.add_percent_of_peak(result, SPEC, matmuls)
    train_step.add_speedups([result, {"name": "torch", "error": "gone"}])
    shown = train_step.table("", [result, {"name": "torch", "error": "gone"}])
    assert rate == approx(1.63541680128e12)
    assert cells(shown) == [[
        "implementation: huggingface", "ms/step: 500.0", "min: 250.0", "max: 4,000.0",
        "tokens/s: 2,048", "TFLOP/s: 1.64", "% of peak: 25 %", "% of datasheet: 2 %",
        "memory: 5.68 GB", "first step: 9.0 s", "loss: 3.26", "vs HF: 1.00x",
    ]]  # fmt: skip


def test_generation_is_interleaved(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(100, 200, dtype=np.uint16))
    calls = [50.0, 60.0, 0.5, 2.5, 1.5, 4.5, 1.0, 3.5]  # seconds; the first two compile
    config = GenerateBenchmarkConfig(
        preset="tiny", batch_size=(3,), prompt_length=(5,), new_tokens=11, rounds=3
    )
    asked = []
    running = [
        FakeCandidate(name, asked, {
            "load": {"setup_seconds": 1.0, "device": "cpu"}, "memory": 7,
            "generate": iter([{"seconds": s, "length": 16} for s in calls]),
        })
        for name in ("torch", "huggingface-best")
    ]  # fmt: skip
    results = generate.measure_interleaved(running, config, str(tmp_path / "tokens.npy"))
    calls = [call for name, call, _ in asked if name == "torch"]
    assert calls == ["load", *["generate"] * 8, "memory"]
    prompts = [how for _, call, how in asked if call == "generate"]
    assert all(how["prompt"] == [100, 101, 102, 103, 104] for how in prompts)
    assert all(how["batch_size"] == 3 for how in prompts)
    assert [how["new_tokens"] for how in prompts] == [1, 11] * 8
    assert [a["spec"]["settings"] for _, call, a in asked if call == "load"] == [
        {}, {"fused": True, "static_cache": True}
    ]  # fmt: skip
    assert [result["name"] for result in results] == ["torch", "huggingface-best"]
    for result in results:
        (case,) = result["cases"]
        assert case["milliseconds"] == {"median": 3500.0, "min": 2500.0, "max": 4500.0}
        assert case["milliseconds_to_first_token"] == approx(1000.0)
        assert case["milliseconds_per_step"] == approx(250.0)
        assert case["first_call_seconds"] == approx(110.0)
        assert result["peak_memory"] == 7


def test_the_figures_of_generation():
    case = generated_case()
    assert (case["batch_size"], case["prompt_length"], case["new_tokens"]) == (4, 8, 33)
    assert case["milliseconds"] == approx({"median": 2100.0, "min": 1500.0, "max": 8000.0})
    assert case["milliseconds_to_first_token"] == approx(500.0)
    assert case["prefill_tokens_per_second"] == approx(4 * 8 / 0.5)
    assert case["milliseconds_per_step"] == approx(1000 * 1.6 / 32)
    assert case["tokens_per_second"] == approx(4 * 33 / 2.1)
    assert case["first_call_seconds"] == 7.0
    assert case["length"] == 40


def test_the_limit_is_the_lower_of_bandwidths_and_matmuls():
    gpt2 = PRESETS["gpt2"]
    weights = 124_439_808 - 1024 * 768
    sizes = {"float32": 4, "tf32": 4, "bfloat16": 2, "float64": 8}
    for dtype, size in sizes.items():
        assert generate.weight_bytes(gpt2, dtype) == size * weights
    config, reads = GenerateBenchmarkConfig(dtype="bfloat16"), {"sum": 2e9, "x @ v": 4e9}
    bandwidth, matmuls = 2 * weights / 4e9, 2 * 4 * weights / 8e10  # seconds of a step
    for peak, name, seconds in ((8e10, "bandwidth", bandwidth), (8e9, "matmuls", 10 * matmuls)):
        found = generate.limit(generated_case(), config, reads, {"c_fc": 1e9, "head": peak})
        assert found["limited_by"] == name
        assert found["limit_tokens_per_second"] == approx(4 / seconds)
        assert found["limits_tokens_per_second"][name] == approx(4 / seconds)
        assert found["share_of_limit"] == approx(seconds / 0.05)


def test_without_a_peak_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(generate, "read_speeds", lambda *_: {})
    monkeypatch.setattr(generate, "matmul_speeds", lambda *_: {"c_fc": 1e9})
    result = {"name": "flax", "cases": [generated_case()], "peak_memory": 1.0}
    generate.add_speedups([result])
    generate.add_limits([result], GenerateBenchmarkConfig(), CONSOLE)
    (row,) = cells(generate.table("", [result]))
    assert row[7:10] == ["limit: ", "by: ", "% of limit: "]


def test_the_speed_ups_of_generation_in_each_case():
    results = generated_results()
    assert [r["cases"][0]["times"]["huggingface"] for r in results] == [3.0, 0.5, 1.0, 2.0]
    assert [r["cases"][0]["times"]["huggingface-best"] for r in results] == [1.5, 0.25, 0.5, 1.0]
    assert all(set(r["cases"][1]["times"].values()) == {1.0} for r in results)


def test_the_table_of_generation():
    rows = cells(generate.table("", [*generated_results(), {"name": "flax", "error": "gone"}]))
    assert len(rows) == 8  # two cases of four implementations
    assert rows[0] == [
        "implementation: torch", "B: 4", "prompt: 8", "tokens/s: 300.0", "ms/token: 50.00",
        "first token: 500.0 ms", "prefill tokens/s: 64", "limit: 81",
        "by: bandwidth", "% of limit: 99 %",
        "memory: 1.23 GB", "first call: 7.0 s", "vs HF: 3.00x", "vs HF-best: 1.50x",
    ]  # fmt: skip


def test_the_result_of_generation_has_the_bytes_of_a_step(monkeypatch):
    monkeypatch.setattr(generate, "measure", lambda *_: [])
    result = generate.run(GenerateBenchmarkConfig(("torch",), dtype="bfloat16"), CONSOLE)
    assert result["step_bytes"] == 2 * (124_439_808 - 1024 * 768)
    config = GenerateBenchmarkConfig(device="cpu", dtype="float64", preset="tiny", fast_ops=False)
    expected = Spec(PRESETS["tiny"], "t.npy", "cpu", "float64", fast_ops=False)
    assert config.spec("t.npy") == expected
    pairs = GenerateBenchmarkConfig(batch_size=(1, 5), prompt_length=(8, 9)).cases
    assert pairs == [(1, 8), (1, 9), (5, 8), (5, 9)]


def test_scaling_changes_one_size_at_a_time():
    config = scaling.ScalingConfig(preset="tiny", depth=(3,), width=(16,), context=(128,))
    config = replace(config, batch=(2,), seq_len=8)
    specs = {axis: spec for axis, _, spec in scaling.points(config, "tokens.npy")}
    tiny = PRESETS["tiny"]
    assert specs["depth"].model == replace(tiny, n_layer=3)
    assert specs["width"].model == replace(tiny, n_embd=16, n_head=4)
    assert specs["context"].model == replace(tiny, block_size=128)
    assert [spec.seq_len for spec in specs.values()] == [8, 8, 128, 8]
    assert [spec.batch_size for spec in specs.values()] == [4, 4, 4, 2]


def test_the_figures_of_scaling(monkeypatch):
    specs = []
    monkeypatch.setattr(scaling, "corpus", no_corpus)

    def measure(programs, spec, plan, console, peaks):
        assert not peaks
        specs.append(spec)
        return [STEP, {"name": "torch", "error": "gone"}]

    monkeypatch.setattr(train_step, "measure", measure)
    config = scaling.ScalingConfig(
        vary=("depth", "context"), depth=(3, 12), context=(64, 2048), dtype="bfloat16", compile=True
    )
    result = scaling.run(config, CONSOLE)
    points = {axis: [p["value"] for p in found] for axis, found in result["series"].items()}
    assert points == {"depth": [3, 12], "context": [64, 2048]}
    gpt2 = [p["model"] for found in result["series"].values() for p in found]
    assert [model["n_layer"] for model in gpt2] == [3, 12, 12, 12]
    assert [model["block_size"] for model in gpt2] == [1024, 1024, 1024, 2048]
    assert gpt2[1]["parameters"] == 124_439_808
    assert [spec.seq_len for spec in specs] == [128, 128, 64, 2048]
    assert all((s.dtype, s.compile, s.batch_size) == ("bfloat16", True, 4) for s in specs)
    rows = cells(scaling.table(result))
    assert rows[1] == [
        "axis: depth", "value: 12", "implementation: flax", "ms/step: 500.0", "tokens/s: 2,048",
        "TFLOP/s: 1.64", "memory: 5.68 GB",
    ]  # fmt: skip
    assert len(rows) == 4


def test_the_figures_of_the_tokenizer(clock, monkeypatch):
    seconds = iter([7.0, 0.5, 2.0, 0.25, 3.0])

    def encode(text):
        clock.spend(next(seconds))
        return [0] * (len(text) // 4)

    monkeypatch.setattr(data.tokenizer, "encode_corpus", encode)
    found = data.measure_tokenizer("a" * 1000, 3)
    assert found == {
        "characters": 1000,
        "tokens": 250,
        "first_seconds": 7.0,
        "milliseconds": {"median": 500.0, "min": 250.0, "max": 2000.0},
        "characters_per_second": 2000.0,
    }
    assert len(data.tiny_shakespeare_sized_text()) == 1_115_394


def test_the_figures_of_the_loader(clock, monkeypatch):
    asked = []

    def next_batches(count):
        asked.append(count)
        clock.spend(0.25)

    monkeypatch.setattr(Spec, "loader", lambda _: SimpleNamespace(next_batches=next_batches))
    found = data.measure_loader(SPEC, 2)
    assert asked == [1] * 200
    assert found["milliseconds"] == approx({"median": 250.0, "min": 250.0, "max": 250.0})
    assert found["tokens_per_second"] == approx(2 * 512 / 0.25)


def test_loader_and_tokenizer_as_fractions_of_a_step(monkeypatch):
    times = {"milliseconds": {"median": 5.0, "min": 1.0, "max": 50.0}}
    monkeypatch.setattr(data, "corpus", no_corpus)
    monkeypatch.setattr(data, "measure_loader", lambda *_: dict(times))
    monkeypatch.setattr(data, "measure_tokenizer", lambda *_: dict(times))
    monkeypatch.setattr(train_step, "measure", lambda *_, **__: [STEP])
    result = data.run(data.DataBenchmarkConfig(), CONSOLE)
    assert result["loader"]["share_of_step"] == approx(0.01)
    assert result["tokenizer"]["share_of_step"] == approx(0.01)
    assert cells(data.table(result)) == [
        [f"part: {part}", "median ms: 5.000", "min: 1.000", "max: 50.000",
         "% of a training step: 1.000 %"]
        for part in ("loader, one batch", "tokenizer, the whole text")
    ]  # fmt: skip


def test_the_figures_of_conversion(clock, monkeypatch):
    monkeypatch.setattr(conversion, "convert", lambda *_: clock.spend(2.5))
    monkeypatch.setattr(conversion, "peak_rss", lambda: 77)
    assert conversion.run("a", "b", "torch") == {"seconds": 2.5, "peak_memory": 77}
    to, back = ({"seconds": s, "peak_memory": 1e9 * s} for s in (2.5, 1.25))
    head = {"options": {"preset": "gpt2"}, "bytes": 4.98e8, "environment": environment.describe()}
    programs = [{"name": "torch", "to": to, "back": back}, {"name": "flax", "error": "gone"}]
    shown = convert.table(head | {"programs": programs})
    assert cells(shown) == [
        [
            "format: torch",
            "write: 2.50 s",
            "memory: 2.50 GB",
            "read back: 1.25 s",
            "memory: 1.25 GB",
        ]
    ]
    assert shown.title.startswith("gpt2: 0.50 GB of weights")


def test_conversions_are_written_and_read_back(monkeypatch, tmp_path):
    asked = []

    def answer(call, **arguments):
        asked.append((call, arguments))
        if call == "make":
            conversion.make(**arguments)
        return arguments.get("to")

    monkeypatch.setattr(convert, "call_in_new_process", answer)
    config = convert.ConvertBenchmarkConfig("tiny", ("nanogpt", "llmc"))
    result = convert.run(config, CONSOLE)
    assert [(found["to"], found["back"]) for found in result["programs"]] == [
        ("nanogpt", "huggingface"), ("llmc", "huggingface")
    ]  # fmt: skip
    assert [a["model"]["activation"] for call, a in asked if call == "make"] == ["gelu", "gelu_new"]
    (there, back) = (arguments for call, arguments in asked[1:3])
    assert back["source"] == there["destination"]
    assert 4 * 404_328 < result["bytes"] < 4 * 404_328 + 10_000


WHOLE_STEP = {"first_step_seconds": 9.0, "last_loss": 3.0, "times": {}}
PARTS = {"milliseconds": STEP["milliseconds"]}


@pytest.mark.parametrize(
    ("module", "figures", "shown"),
    [
        (train_step, {"programs": [STEP | WHOLE_STEP]}, "2,048"),
        (generate, {"programs": generated_results()}, "81"),
        (operations, {"programs": [OPERATION]}, "2.00x"),
        (scaling, {"series": {"depth": [{"value": 3, "programs": [STEP]}]}}, "2,048"),
        (data, {"loader": PARTS, "tokenizer": PARTS}, "4,000.000"),
        (convert, {"programs": [], "bytes": 5e8}, "0.50 GB"),
    ],
)
def test_a_command_prints_a_table_and_one_line_of_json_and_writes_the_result(
    module, figures, shown, call, monkeypatch, tmp_path
):
    def run(config, console):
        return report.new_result(module.__name__.split(".")[1], config) | figures

    monkeypatch.setattr(module, "run", run)
    printed = call(module.__name__, "--out", tmp_path / "result.json")
    assert printed.returncode == 0, printed.stderr
    *table, line = printed.stdout.splitlines()
    assert shown in "\n".join(table)
    result = json.loads(line)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["command"].startswith(f"python -m {module.__name__} --out ")
