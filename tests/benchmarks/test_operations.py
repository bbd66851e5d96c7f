"""Fast operations against plain ones: that both compute the same, and how they are timed."""

from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from benchmarks import environment, operations, timing
from benchmarks.process import WorkerError
from benchmarks.spec import Spec
from benchmarks.workers import flax_operations, torch_operations
from benchmarks.workers.operation import Operation, OperationSession
from gpt_common.config import PRESETS
from gpt_common.errors import InputError
from tests.benchmarks.fakes import CONSOLE, OPERATION, approx, cells
from tests.conftest import kept_jax_config
from tests.parity.tolerances import relative

TWINS = {"torch": torch_operations, "flax": flax_operations}
LIMITS = {"float32": 1e-5, "bfloat16": 3e-2}
FLOAT32_RESULTS = {"matmul c_fc", "head and loss"}  # of the fast one in Flax, also in bfloat16


def tiny(dtype="float32", seq_len=8):
    return Spec(PRESETS["tiny"], "", "cpu", dtype, batch_size=2, seq_len=seq_len)


def arrays(results):
    """Return a call's results, possibly nested, as float64 arrays and their dtypes."""
    if isinstance(results, tuple | list):
        return [array for each in results for array in arrays(each)]
    results = results.detach() if hasattr(results, "detach") else results
    as_float32 = results.float() if hasattr(results, "float") else results.astype("float32")
    return [(np.asarray(as_float32, np.float64), str(results.dtype))]


@pytest.mark.parametrize("seq_len", [8, 1])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("twin", TWINS)
def test_a_fast_operation_computes_what_the_plain_one_does(twin, dtype, seq_len):
    """The result and, in training, every gradient; but for two operations in one dtype."""
    spec, module = tiny(dtype, seq_len), TWINS[twin]
    with kept_jax_config():
        session = OperationSession(module)
        assert session.names(spec.as_dict())
        for operation in session._operations.values():
            arguments = operation.arguments(spec)
            plain = module.passes(operation.plain, arguments, spec)
            fast = module.passes(operation.fast, arguments, spec)
            names = ["forward"] if seq_len == 1 else ["forward", "forward_backward"]
            assert list(plain) == list(fast) == names
            for name in names:
                pairs = zip(arrays(fast[name]()), arrays(plain[name]()), strict=True)
                for (found, kind), (expected, plain_kind) in pairs:
                    assert relative(found, expected) < LIMITS[dtype], operation.name
                    assert kind == plain_kind or operation.name in FLOAT32_RESULTS


def test_operations_are_those_of_the_device_and_the_dtype():
    def operation(name, **fields):
        return Operation(name, tuple, tuple, tuple, **fields)

    table = (
        operation("any"),
        operation("GPU", devices=("cuda",)),
        operation("bfloat16", dtypes=("bfloat16",)),
        operation("decode", training=False),
    )
    tools = SimpleNamespace(select_device=lambda *_: None, device_name=lambda: "cpu")
    session = OperationSession(SimpleNamespace(OPERATIONS=table, tools=tools))
    assert session.names(tiny().as_dict()) == ["any"]
    assert session.names(tiny("bfloat16").as_dict()) == ["any", "bfloat16"]
    assert session.names(tiny(seq_len=1).as_dict()) == ["decode"]


@pytest.mark.parametrize("chosen", [True, False])
def test_plain_and_fast_passes_are_interleaved(chosen, clock):
    """A plain pass takes 4 s, a fast one 1 s, and forward with backward three times as long."""
    order = []

    def spend(name, seconds):
        order.append(name)
        clock.spend(seconds)

    def passes(function, arguments, spec):
        assert (arguments, spec) == (("x",), tiny())
        name, seconds = function()
        return {
            part: lambda n=name[0] + part[-1], s=seconds * factor: spend(n, s)
            for part, factor in (("forward", 1), ("forward_backward", 3))
        }

    twin = SimpleNamespace(
        OPERATIONS=(
            Operation("f", lambda _: ("x",), lambda: ("plain", 4.0), lambda: ("fast", 1.0), "f"),
        ),
        tools=SimpleNamespace(
            select_device=lambda *_: None, device_name=lambda: "cpu", synchronize=lambda _: None
        ),
        default_ops=lambda spec: SimpleNamespace(f=chosen),
        passes=passes,
    )
    session = OperationSession(twin)
    session.names(tiny().as_dict())
    answer = session.measure("f", rounds=2)
    assert answer == {
        "default": chosen,
        "seconds": {
            "plain": {"forward": [4.0, 4.0], "forward_backward": [12.0, 12.0]},
            "fast": {"forward": [1.0, 1.0], "forward_backward": [3.0, 3.0]},
        },
    }
    assert order[-8:] == 2 * ["pd", "pd", "fd", "fd"]
    assert order[:2] == ["pd", "pd"]  # a call that compiles, and one to count


def test_a_round_repeats_short_calls(clock):
    calls = {"a": 0, "b": 0}

    def call(name, seconds):
        calls[name] += 1
        clock.spend(seconds)

    found = timing.interleaved_seconds(
        [lambda: call("a", 0.25), lambda: call("b", 8.0)], lambda _: None, 1.0, rounds=3
    )
    assert found == [[0.25] * 3, [8.0] * 3]
    assert calls == {"a": 2 + 3 * 4, "b": 2 + 3}


def test_the_speed_up_is_the_median_of_the_rounds_ratios():
    seconds = {
        "plain": {"forward": [8.0, 2.0, 3.0], "forward_backward": [4.0] * 3},
        "fast": {"forward": [1.0, 1.0, 3.0], "forward_backward": [8.0] * 3},
    }
    found = operations.summarise(seconds)
    assert found["speed_up"] == approx({"forward": 2.0, "forward_backward": 0.5})
    assert found["plain"]["forward"] == {"median": 3000.0, "min": 2000.0, "max": 8000.0}
    assert found["fast"]["forward"]["median"] == 1000.0


def test_the_table_of_operations():
    forward = {kind: {"forward": OPERATION[kind]["forward"]} for kind in ("plain", "fast")}
    decode = OPERATION | forward | {"speed_up": {"forward": 0.5}, "default": False, "seq_len": 1}
    options = {"preset": "gpt2", "batch_size": 4}
    head = {"options": options, "environment": environment.describe()}
    programs = [OPERATION, decode, {"name": "flax", "error": "gone"}]
    assert cells(operations.table(head | {"programs": programs})) == [
        ["twin: torch", "operation: attention", "dtype: bfloat16", "T: 256", "plain: fwd: 4.00",
         "fast: fwd: 0.500", "plain: fwd+bwd: 12.0", "fast: fwd+bwd: 1,234", "speed-up: 2.00x",
         "default: yes"],
        ["twin: torch", "operation: attention", "dtype: bfloat16", "T: 1", "plain: fwd: 4.00",
         "fast: fwd: 0.500", "plain: fwd+bwd: ", "fast: fwd+bwd: ", "speed-up: 0.50x",
         "default: no"],
    ]  # fmt: skip


def test_every_operation_is_of_one_kind():
    for twin in TWINS.values():
        for operation in twin.OPERATIONS:
            assert sum(kind in operation.name for kind in get_args(operations.Kind)) == 1


@pytest.mark.parametrize(
    ("kinds", "wanted"), [((), [True, True, True]), (("attention", "GELU"), [True, True, False])]
)
def test_one_may_ask_for_some_operations(kinds, wanted):
    config = operations.OperationsConfig(operation=kinds)
    names = "attention", "cuDNN attention", "head and loss"
    assert [config.wants(name) for name in names] == wanted


def test_an_operation_that_a_twin_lacks_is_an_error(monkeypatch):
    monkeypatch.setattr(operations, "WorkerProcess", FakeWorker)
    config = operations.OperationsConfig(("flax",), ("loss",), dtype=("float32",), preset="tiny")
    with pytest.raises(InputError, match="operation loss: flax has none on this device"):
        operations.run(replace(config, seq_len=(8,)), CONSOLE)


class FakeWorker:
    """A worker in which one operation fails, and which cannot compute in bfloat16."""

    def __init__(self, command, environ):
        assert command[-1] == "flax_operations"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def ask(self, call, **arguments):
        if call == "names" and arguments["spec"]["dtype"] == "bfloat16":
            raise WorkerError("no bfloat16")
        if call == "names":
            return ["broken", "sound"]
        assert arguments["rounds"] == 7
        if arguments["name"] == "broken":
            raise WorkerError("gone")
        seconds = {"forward": [1.0]}
        return {"default": True, "seconds": {"plain": seconds, "fast": seconds}}


def test_an_operation_that_fails_is_reported_and_the_others_continue(monkeypatch):
    monkeypatch.setattr(operations, "WorkerProcess", FakeWorker)
    config = operations.OperationsConfig(("flax",), preset="tiny", seq_len=(8,), rounds=7)
    found = operations.run(config, CONSOLE)["programs"]
    assert [(p["dtype"], p["seq_len"], p.get("operation"), p.get("error")) for p in found] == [
        ("float32", 8, "broken", "gone"), ("float32", 8, "sound", None),
        ("float32", 1, "broken", "gone"), ("float32", 1, "sound", None),
        ("bfloat16", 8, None, "no bfloat16"), ("bfloat16", 1, None, "no bfloat16"),
    ]  # fmt: skip
    assert found[1]["speed_up"] == {"forward": 1.0}
