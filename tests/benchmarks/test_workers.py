"""How workers time an implementation, and how they call it."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GPT2Config

from benchmarks import timing
from benchmarks.implementations import BY_NAME
from benchmarks.spec import Spec
from benchmarks.workers import flax_twin, huggingface, jax_tools, session, torch_tools, torch_twin
from gpt_common.config import GPTConfig
from gpt_flax import fast as flax_fast
from gpt_torch import fast as torch_fast
from tests.benchmarks.fakes import SPEC, approx


def test_seconds_per_call_are_the_median_of_rounds_synchronized_once(clock):
    """A call is dispatched at once and takes 2 s on the device; the first round is slow."""
    events, queue = [], []

    def call():
        events.append("call")
        queue.append(2.0)

    def wait(_):
        rounds = events.count("wait")
        events.append("wait")
        clock.spend(sum(queue) * (100 if rounds in (0, 2) else 1))
        queue.clear()

    assert timing.seconds_per_call(call, wait, min_run_time=8.0, rounds=3) == approx(2.0)
    assert events == ["call", "wait", "call", "wait", *[*["call"] * 4, "wait"] * 3]


class Number:
    """An asynchronous loss: reading it waits until the device has computed it."""

    def __init__(self, clock, name, there, events):
        self._clock, self._name, self._there, self._events = clock, name, there, events

    def __float__(self):
        self._events.append(f"read {self._name}")
        self._clock.now = max(self._clock.now, self._there)
        return float(self._name)


class Device:
    """Steps of 1, 2 and 3 s, one after the other, on an asynchronous device."""

    def __init__(self, clock):
        self._clock, self.events, self.free = clock, [], clock.now

    def step(self):
        name = 1 + sum(event.startswith("start") for event in self.events)
        self.events.append(f"start {name}")
        self.free = max(self.free, self._clock.now) + name
        return Number(self._clock, name, self.free, self.events)

    def synchronize(self):
        self._clock.now = max(self._clock.now, self.free)


def test_a_step_in_jax_ends_when_its_loss_is_ready(clock, monkeypatch):
    for platform, overlap in (("gpu", True), ("cpu", False)):
        device = Device(clock)
        monkeypatch.setattr(jax_tools, "_device", SimpleNamespace(platform=platform), raising=False)
        seconds, loss = jax_tools.time_steps(device.step, 3)
        assert (seconds, loss) == ([1.0, 2.0, 3.0], 3.0)
        second = device.events.index("start 2")
        assert (second < device.events.index("read 1")) == overlap


def test_a_step_in_torch_on_a_cpu_ends_when_it_returns(clock, monkeypatch):
    monkeypatch.setattr(torch_tools, "_device", torch.device("cpu"))
    losses = iter([1.0, 2.0, 3.0])

    def step():
        loss = next(losses)
        clock.spend(loss)
        return loss

    assert torch_tools.time_steps(step, 3) == ([1.0, 2.0, 3.0], 3.0)


def test_a_step_in_torch_on_mps_ends_with_a_synchronization(clock, monkeypatch):
    device = Device(clock)
    monkeypatch.setattr(torch_tools, "_device", torch.device("mps"))
    monkeypatch.setattr(torch.mps, "synchronize", device.synchronize)
    assert torch_tools.time_steps(device.step, 3) == ([1.0, 2.0, 3.0], 3.0)


def test_a_step_in_torch_on_a_gpu_is_timed_by_events(clock, monkeypatch):
    """An event has the device's time, and is read after a synchronization."""
    device, done = Device(clock), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.place = device.free

        def elapsed_time(self, other):
            assert done
            return 1000 * (other.place - self.place)

    monkeypatch.setattr(torch_tools, "_device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append(device.synchronize()))
    assert torch_tools.time_steps(device.step, 3) == ([1.0, 2.0, 3.0], 3.0)
    assert device.events.index("start 2") < device.events.index("read 1")


def test_torch_synchronizes_the_device_that_it_computes_on(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for name in ("cuda", "mps", "cpu"):
        monkeypatch.setattr(torch_tools, "_device", torch.device(name))
        torch_tools.synchronize()
    assert waited == ["cuda", "mps"]


SHAPES = {"c_fc": [3, 4, 8], "head": [3, 4, 16]}
IN_TWO_SECONDS = {"c_fc": 2 * 3 * 4 * 8 / 2, "head": 2 * 3 * 4 * 16 / 2}


@pytest.fixture
def two_seconds(monkeypatch):
    """Every call takes 2 s; its result and its `synchronize` are recorded."""
    seen = []

    def seconds_per_call(call, wait):
        seen.append((call(), wait))
        return 2.0

    for tools in (torch_tools, jax_tools):
        monkeypatch.setattr(tools, "seconds_per_call", seconds_per_call)
    monkeypatch.setattr(torch_tools, "_device", torch.device("cpu"))
    return seen


def by_shape(speeds):
    return {name: {v for k, v in speeds.items() if k.startswith(name)} for name in SHAPES}


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16", "float64"])
def test_the_matmul_peak_in_torch(dtype, two_seconds):
    speeds = torch_tools.matmul_speeds(SHAPES, dtype)
    assert by_shape(speeds) == {name: {rate} for name, rate in IN_TWO_SECONDS.items()}
    routes = {"x @ w", "linear"} | ({"oneDNN"} if dtype in ("float32", "tf32") else set())
    assert {key.removeprefix("head, ") for key in speeds if "head" in key} == routes
    results = [result for result, _ in two_seconds]
    assert [tuple(r.shape) for r in results] == [(3, 8)] * len(routes) + [(3, 16)] * len(routes)
    assert all((r == 4).all() for r in results)
    assert {r.dtype for r in results} == {torch_tools.DTYPES.get(dtype, torch.float32)}
    assert all(wait is torch_tools.synchronize for _, wait in two_seconds)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_matmul_peak_in_jax(dtype, two_seconds):
    speeds = jax_tools.matmul_speeds(SHAPES, dtype)
    assert by_shape(speeds) == {name: {rate} for name, rate in IN_TWO_SECONDS.items()}
    types = ["float32"] if dtype == "float32" else ["bfloat16", "float32"]
    assert [str(result.dtype) for result, _ in two_seconds] == 2 * types
    assert all((result == 4).all() for result, _ in two_seconds)
    assert [r.shape for r, _ in two_seconds] == [(3, 8)] * len(types) + [(3, 16)] * len(types)
    assert all(wait is jax.block_until_ready for _, wait in two_seconds)


@pytest.mark.parametrize("tools", [torch_tools, jax_tools])
def test_the_read_bandwidth(tools, two_seconds):
    """Every element is read: all are ones, so that their sums count them."""
    size = 2**20
    assert tools.read_speeds(size) == {"sum": size / 2, "x @ v": size / 2}
    (whole, wait), (rows, _) = two_seconds
    assert 4 * float(whole) == 4 * float(rows.sum()) == size
    assert wait is (torch_tools.synchronize if tools is torch_tools else jax.block_until_ready)


def test_the_peak_memory_of_the_device(monkeypatch):
    for tools in (torch_tools, jax_tools):
        monkeypatch.setattr(tools, "peak_rss", lambda: 5)
    statistics = {"peak_bytes_in_use": 7, "bytes_in_use": 1}
    card = SimpleNamespace(platform="gpu", memory_stats=lambda: statistics)
    monkeypatch.setattr(jax_tools, "_device", card, raising=False)
    assert jax_tools.peak_memory() == 7
    monkeypatch.setattr(jax_tools, "_device", jax.devices("cpu")[0], raising=False)
    assert jax_tools.peak_memory() == 5
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 9)
    monkeypatch.setattr(torch_tools, "_device", torch.device("cuda"))
    assert torch_tools.peak_memory() == 9
    monkeypatch.setattr(torch_tools, "_device", torch.device("cpu"))
    assert torch_tools.peak_memory() == 5


def test_what_a_framework_may_take_of_a_gpu(monkeypatch):
    card = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 7})
    versions = {"cuda_runtime_get_version": lambda: 13010, "cudnn_get_version": lambda: 91501}
    monkeypatch.setattr(jax_tools, "_device", card, raising=False)
    monkeypatch.setattr("jax._src.lib.cuda_versions", SimpleNamespace(**versions))
    expected = {"memory_limit": 7, "cuda": "13.1", "cudnn": "91501"}
    assert jax_tools.describe_gpu() == expected
    monkeypatch.setattr("jax._src.lib.cuda_versions", None)  # it is not public
    assert jax_tools.describe_gpu() == {"memory_limit": 7}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7, 9))  # free, total
    monkeypatch.setattr(torch.version, "cuda", "13.1")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)
    monkeypatch.setattr(torch_tools, "_device", torch.device("cuda"))
    assert torch_tools.describe_gpu() == expected
    monkeypatch.setattr(torch_tools, "_device", torch.device("cpu"))
    monkeypatch.setattr(jax_tools, "_device", jax.devices("cpu")[0], raising=False)
    assert torch_tools.describe_gpu() == jax_tools.describe_gpu() == {}


def test_the_attention_of_a_torch_step_is_what_it_dispatches():
    q = torch.randn(1, 2, 16, 8, requires_grad=True)

    def step(attention):
        loss = attention(q, q, q).sum()
        loss.backward()
        return loss.detach()

    fused = torch.nn.functional.scaled_dot_product_attention
    found = torch_tools.attention_kernels(lambda: step(fused))
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in found
    assert any(name.endswith("backward") for name in found)
    assert (
        torch_tools.attention_kernels(lambda: step(lambda q, k, v: (q @ k.mT).softmax(-1) @ v))
        == []
    )


def test_the_attention_of_a_jax_step_is_a_custom_call_of_its_program(monkeypatch):
    names = ("__cudnn$fmhaSoftmax", "__cublas$lt$matmul", "__cudnn$fmhaSoftmaxBackward")
    calls = [f'%c = custom-call(%a), custom_call_target="{name}", x={{}}' for name in names]
    module = SimpleNamespace(to_string=lambda: "\n".join([*calls, calls[0]]))
    client = SimpleNamespace(
        live_executables=lambda: [SimpleNamespace(hlo_modules=lambda: [module])]
    )
    monkeypatch.setattr(jax_tools, "_device", SimpleNamespace(client=client), raising=False)
    assert jax_tools.attention_kernels(None) == [
        "__cudnn$fmhaSoftmax",
        "__cudnn$fmhaSoftmaxBackward",
    ]


def test_the_programs_of_jax_can_be_read(monkeypatch):
    """The client's own, with a custom call that a CPU has."""
    device = jax.devices("cpu")[0]
    monkeypatch.setattr(jax_tools, "_device", device, raising=False)
    top = jax.jit(lambda a: jax.lax.top_k(a, 3)).lower(jnp.ones(2000)).compile()
    texts = [m.to_string() for e in device.client.live_executables() for m in e.hlo_modules()]
    assert "TopK" in {name for text in texts for name in jax_tools.CUSTOM_CALL.findall(text)}
    assert top is not None  # alive until here


def test_the_answers_of_a_session(clock):
    seconds = iter([[2.0], [4.0, 8.0]])

    def training(spec):
        assert spec == replace(SPEC, dtype="bfloat16")
        clock.spend(16.0)
        return "step"

    def time_steps(step, count):
        assert step == "step"
        found = next(seconds)
        assert count == len(found)
        clock.spend(sum(found))
        return found, 3.0

    def generation(spec):
        clock.spend(32.0)
        return lambda prompt, rows, new: clock.spend(0.5) or [[*prompt, *range(new)]] * rows

    matmuls = []
    tools = SimpleNamespace(
        time_steps=time_steps, device_name=lambda: "cpu", peak_memory=lambda: 7,
        select_device=lambda *_: None,
        matmul_speeds=lambda *how: matmuls.append(how), read_speeds=lambda size: {"sum": size},
    )  # fmt: skip
    module = SimpleNamespace(training=training, generation=generation, tools=tools)
    served = session.Session(module)
    spec = replace(SPEC, dtype="bfloat16").as_dict()
    assert served.train(spec) == {
        "setup_seconds": 16.0, "first_step_seconds": 2.0, "loss": 3.0, "device": "cpu"
    }  # fmt: skip
    assert served.steps(2) == {"seconds": [4.0, 8.0], "loss": 3.0}
    assert served.load(spec) == {"setup_seconds": 32.0, "device": "cpu"}
    assert served.generate([1, 2], 3, 4) == {"seconds": 0.5, "length": 6}
    assert served.device("cpu", "bfloat16") == "cpu"
    served.matmuls(SHAPES)
    assert matmuls == [(SHAPES, "bfloat16")]
    assert (served.memory(), served.bandwidth(5)) == (7, {"sum": 5})


SMALL = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=97)


@pytest.fixture
def small_spec(tmp_path):
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 97, 40).astype(np.uint16))
    return Spec(SMALL, str(tmp_path / "tokens.npy"), "cpu", "float32", batch_size=2, seq_len=8)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("task", ["training", "generation"])
def test_the_twins_are_measured_with_their_commands_operations(task, fast, small_spec, monkeypatch):
    """And with the plain ones under --no_fast_ops."""
    used, kept, prepared = [], [], []
    for twin in (torch_twin, flax_twin):
        monkeypatch.setattr(twin, "tune_malloc", lambda: kept.append(True))
        prepare = twin.prepare_for_inference
        monkeypatch.setattr(
            twin,
            "prepare_for_inference",
            lambda *how, call=prepare: prepared.append(how) or call(*how),
        )
    chosen = {}
    for twin, ops in (
        (torch_twin, torch_fast.FastOps(loss_rows=512)),
        (flax_twin, flax_fast.FastOps(loss_rows=512)),
    ):
        chosen[twin] = ops
        monkeypatch.setattr(twin, "choose_fast_ops", lambda *how, twin=twin: chosen[twin])
        if task == "training":
            name = "create_state" if twin is torch_twin else "compile_train_step"
            monkeypatch.setattr(twin, name, lambda *how: used.append(how[-1]) or id)
        getattr(twin, task)(replace(small_spec, fast_ops=fast))
    if task == "training":
        assert used == (list(chosen.values()) if fast else [None, None])
    assert len(prepared) == (2 if fast and task == "generation" else 0)
    assert bool(kept) == fast


@pytest.mark.parametrize("program", [torch_twin, huggingface])
def test_implementations_in_torch_train_and_generate(program, small_spec, monkeypatch):
    monkeypatch.setattr(torch_twin, "tune_malloc", lambda: None)
    step = program.training(small_spec)
    assert [float(step()) for _ in range(2)] == pytest.approx([np.log(97)] * 2, abs=0.2)
    rows = program.generation(small_spec)([5, 6, 7], 2, 4)
    assert [list(row[:3]) for row in rows] == [[5, 6, 7]] * 2
    assert [len(row) for row in rows] == [7, 7]


def build_baseline(spec, **settings):
    model, _ = huggingface.build(replace(spec, settings=settings))
    return model


def test_the_baseline_has_its_default_settings(small_spec):
    model = build_baseline(small_spec)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.vocab_size == 97
    dropout = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(dropout) == {0.0}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert build_baseline(small_spec, attention="eager").config._attn_implementation == "eager"
    assert build_baseline(small_spec, padded=True).config.vocab_size == 128
    assert huggingface.create_optimizer(model, None).defaults["fused"] is None
    assert huggingface.create_optimizer(model, True).defaults["fused"] is True
    assert (BY_NAME["huggingface"].settings, BY_NAME["huggingface"].environment) == ({}, {})


def test_the_baselines_training_steps_are_complete(small_spec, monkeypatch):
    """Three steps against a plain loop, in which clipping, decay and learning rate matter."""
    torch.manual_seed(0)
    model = build_baseline(small_spec)
    torch.manual_seed(0)
    other = build_baseline(small_spec)
    with torch.no_grad():
        for p in (*model.parameters(), *other.parameters()):
            p.mul_(20.0)  # large enough to be clipped
    monkeypatch.setattr(huggingface, "build", lambda spec: (model, torch.device("cpu")))
    step, loader = huggingface.training(small_spec), small_spec.loader()
    optimizer = torch.optim.AdamW(other.parameters(), 3e-4, (0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        tokens = torch.from_numpy(loader.next_batch()[0]).long()
        loss = other(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0) > 1
        optimizer.step()
        assert step().item() == loss.item()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("settings", [{}, {"static_cache": True}])
def test_the_baseline_generates_with_its_cache(settings, small_spec, monkeypatch):
    asked = []
    model = build_baseline(small_spec)
    monkeypatch.setattr(
        model, "generate", lambda rows, **how: asked.append((rows.tolist(), how)) or rows
    )
    monkeypatch.setattr(huggingface, "build", lambda spec: (model, torch.device("cpu")))
    spec = replace(small_spec, dtype="bfloat16", settings=settings)
    huggingface.generation(spec)([5, 6], 3, 4)
    ((rows, how),) = asked
    assert rows == [[5, 6]] * 3
    assert (how["max_new_tokens"], how["do_sample"], how["top_k"]) == (4, True, 50)
    assert how.get("cache_implementation") == ("static" if settings else None)
    assert how.get("use_cache", model.generation_config.use_cache) is not False
    assert model.generation_config.eos_token_id is None
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.fixture
def last_flax(monkeypatch, clock):
    """The worker of Hugging Face's last Flax GPT-2, without that version of transformers."""
    library = ModuleType("transformers")
    library.FlaxGPT2LMHeadModel, library.GPT2Config = None, GPT2Config
    monkeypatch.setitem(sys.modules, "transformers", library)
    path = Path(session.__file__).parent / "huggingface_flax.py"
    found = importlib.util.spec_from_file_location("huggingface_flax", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "time", clock)
    return module


def test_the_steps_of_the_last_flax(last_flax, clock, monkeypatch):
    for name, overlap in (("cuda", True), ("cpu", False)):
        device, served = Device(clock), last_flax.Session()
        served._device, served._state = name, None
        served._update = lambda state, _, device=device: (state, device.step())
        monkeypatch.setattr(served, "_next_batch", lambda: None)
        assert served.steps(3) == {"seconds": [1.0, 2.0, 3.0], "loss": 3.0}
        assert (device.events.index("start 2") < device.events.index("read 1")) == overlap


def test_the_batches_of_the_last_flax_are_the_twins(last_flax, small_spec):
    served, loader = last_flax.Session(), small_spec.loader()
    served._spec, served._position = small_spec.as_dict(), 0
    for _ in range(5):  # more than one epoch
        assert np.array_equal(served._next_batch(), loader.next_batch()[0])
