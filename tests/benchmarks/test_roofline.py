"""What a GPU does in a training step: bytes and FLOPs by kernel, and the least time for them."""

import importlib.util
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
import torch

from benchmarks import report, roofline
from benchmarks.cards import Card, read_card
from benchmarks.process import WorkerError
from benchmarks.roofline import RooflineConfig
from benchmarks.workers import torch_kernels
from benchmarks.workers.hlo import Module
from benchmarks.workers.kernels import Kernel
from gpt_common.errors import InputError
from tests.benchmarks.fakes import CONSOLE, H100, approx, cells
from tests.conftest import assert_one_line_error

x, w, b, rows = jnp.ones((64, 32)), jnp.ones((32, 128)), jnp.ones(128), jnp.arange(4)
PROGRAMS = {
    "a product and what is fused with it": (lambda x: jax.nn.gelu(x @ w + b).sum(0), x),
    "several kernels": (jax.nn.softmax, x),
    "another element type": (lambda x: jnp.tanh(x).astype(jnp.bfloat16).T, x),
    "a slice": (lambda x, i: jnp.sin(jax.lax.dynamic_slice(x, (i[0], 0), (4, 32))), x, rows),
    "an update in place": (
        lambda x, y, i: jax.lax.dynamic_update_slice(x, jnp.tanh(y), (i[0], 0)), x, x[:4], rows
    ),
}  # fmt: skip


def compiled(function, *arguments):
    return jax.jit(function, donate_argnums=0).lower(*arguments).compile()


@pytest.mark.filterwarnings("ignore:Some donated buffers")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_bytes_are_those_of_xlas_own_analysis(name):
    """Which it has for programs of a CPU."""
    program = compiled(*PROGRAMS[name])
    kernels = list(Module(program.as_text()).kernels())
    assert sum(kernel.bytes for kernel in kernels) == program.cost_analysis()["bytes accessed"]


def test_of_a_gathered_operand_only_the_rows_count():
    """Where XLA's analysis counts all of it."""
    program = jax.jit(lambda x, rows: 2 * x[rows]).lower(x, rows).compile()
    (kernel,) = Module(program.as_text()).kernels()
    assert kernel.bytes == 2 * (4 * 32 * 4) + rows.nbytes


def test_the_flops_are_those_of_the_products():
    program = compiled(*PROGRAMS["a product and what is fused with it"])
    (kernel,) = Module(program.as_text()).kernels()
    assert kernel.flops == 2 * 64 * 32 * 128
    assert "reduce_sum" in kernel.layer


# As XLA writes a program for a GPU: a loop of 3 rounds around cuBLAS, and cuDNN's attention, whose
# workspaces are of 8-bit integers. 2 sequences of 8 tokens, 4 heads of 16 numbers.
GPU_TEXT = """
%body (p: (s32[], f32[6,4])) -> (s32[], f32[6,4]) {
  %p = (s32[], f32[6,4]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %a = f32[6,4]{1,0} get-tuple-element(%p), index=1
  %gemm = (f32[6,5]{1,0}, s8[4096]{0}) custom-call(%a, %a), custom_call_target="__cublas$gemm", metadata={op_name="jit(train_step)/FastGPT.loss/h_0/mlp/dot" stack_frame_id=1}, backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}
  ROOT %t = (s32[], f32[6,4]{1,0}) tuple(%n, %a)
}

ENTRY %main (q: bf16[2,8,4,16], s: (s32[], f32[6,4])) -> f32[] {
  %q = bf16[2,8,4,16]{3,2,1,0} parameter(0)
  %s = (s32[], /*index=1*/f32[6,4]{1,0}) parameter(1)
  %fwd = (bf16[2,4,8,16]{3,1,2,0}, f32[2,4,8]{2,1,0}, u8[64]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(train_step)/FastGPT.loss/h_0/attn/fwd"}, backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "8", "8"], "tuple_shapes": []}, "mask_type": "CAUSAL"}}
  %bwd = (bf16[2,4,8,16]{3,1,2,0}, bf16[2,4,8,16]{3,1,2,0}, bf16[2,4,8,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "8", "8"], "tuple_shapes": []}, "mask_type": "NO_MASK"}}
  ROOT %loop = (s32[], f32[6,4]{1,0}) while(%s), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501


def test_the_kernels_of_a_gpus_libraries():
    forward, backward, product = Module(GPU_TEXT).kernels()
    qkv, scores = 2 * 8 * 4 * 16, 2 * 4 * 8 * 8 * 16
    layer = "jit(train_step)/FastGPT.loss/h_0"
    expected = 4 * 2 * qkv + 4 * 2 * 4 * 8, 2 * 2 * scores / 2  # q, k, v, y, denominators
    assert forward == Kernel(f"{layer}/attn/fwd", *expected)
    assert backward == Kernel("", 6 * 2 * qkv, 5 * 2 * scores)
    assert product == Kernel(f"{layer}/mlp/dot", 4 * (24 + 24 + 30), 2 * 6 * 5 * 4, times=3)


def test_a_loop_of_unknown_length_is_an_error():
    text = GPU_TEXT.replace("known_trip_count", "")
    with pytest.raises(ValueError, match="loop: expected a loop with a known trip count"):
        list(Module(text).kernels())


def moved(function, *arguments):
    """The bytes of each operation that a function dispatches, views left out."""
    with torch_kernels.Recorder() as recorder:
        function(*arguments)
    return [kernel.bytes for kernel in recorder.kernels]


def test_the_bytes_of_pytorchs_operations():
    a, row, index = torch.ones(8, 16), torch.ones(16), torch.zeros(8, 1, dtype=torch.int64)
    size = 8 * 16 * 4
    assert moved(lambda: a + row) == [2 * size + 64]
    assert moved(lambda: a + row.expand(8, 16)) == [2 * size + 64]  # a broadcast dimension once
    assert moved(lambda: a.t()[:4].unsqueeze(0)) == []  # views
    assert moved(lambda: a.mul_(2.0)) == [2 * size]
    assert moved(lambda: a.fill_(1.0)) == [size]
    assert moved(lambda: a[:4].copy_(a[4:])) == [size]
    assert moved(lambda: a.bfloat16()) == [size + size / 2]
    assert moved(lambda: a.gather(1, index)) == [8 * 8 + 2 * 8 * 4]
    assert moved(lambda: a.scatter_add_(1, index, torch.ones(8, 1))) == [8 * 4, 8 * 8 + 3 * 8 * 4]
    assert moved(lambda: torch._foreach_mul_([a, row], 2.0)) == [2 * size + 2 * 64]


SPEC = RooflineConfig(preset="tiny", batch_size=2, seq_len=32).spec()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_flops_of_pytorchs_step_are_those_of_its_products(dtype):
    """Three for each matrix, with one addition each; of attention seven, half of them masked."""
    found = torch_kernels.kernels(replace(SPEC, dtype=dtype), "h100")
    model, tokens = SPEC.model, 2 * 32
    weights = 12 * model.n_layer * model.n_embd**2 + model.n_embd * model.padded_vocab_size
    attention = 7 * 2 * model.n_layer * model.n_embd * 32 * tokens / 2
    assert sum(kernel.flops for kernel in found) == 6 * weights * tokens + attention


def test_every_group_has_kernels_and_fast_operations_are_used():
    found = torch_kernels.kernels(SPEC, "h100")
    groups = {roofline.group_of(kernel.layer) for kernel in found}
    assert groups == set(roofline.GROUPS)
    plain = torch_kernels.kernels(replace(SPEC, fast_ops=False), "h100")
    assert sum(k.bytes for k in found) != sum(k.bytes for k in plain)
    assert len(found) == len(torch_kernels.kernels(replace(SPEC, batch_size=4), "h100"))


@pytest.mark.parametrize(
    ("layer", "group"),
    [
        ("jit(train_step)/jvp(FastGPT.loss)/FastGPT.hidden/h_0/ln_1/sub", "layer norms"),
        ("jit(train_step)/jvp(FastGPT.loss)/ln_f/sub", "layer norms"),
        ("jit(train_step)/transpose(jvp(FastGPT.loss))/h_11/attn/c_attn/dot", "attention"),
        ("jit(train_step)/jvp(GPT.loss)/GPT.hidden/h_0/mlp/c_fc/dot", "MLP"),
        ("jit(train_step)/jvp(FastGPT.loss)/FastGPT.hidden/wte/take", "embeddings"),
        ("jit(train_step)/jvp(FastGPT.loss)/FastGPT.hidden/h_3/add", "residual stream"),
        ("jit(train_step)/jvp(FastGPT.loss)/while/body/dot_general", "head and loss"),
        ("jit(train_step)/jvp(FastGPT.loss)/wte.attend/dot_general", "head and loss"),
        ("jit(train_step)/sqrt", "clipping and AdamW"),
        ("loss/Block/Block.attn/Block.attn.c_attn/Global", "attention"),
        ("loss/Global/LayerNorm", "layer norms"),
        ("loss/Global", "head and loss"),
        ("update", "clipping and AdamW"),
    ],
)
def test_the_group_of_a_layer(layer, group):
    assert roofline.group_of(layer) == group


CARD = Card(H100, flops_per_second=1e12, bytes_per_second=1e9)
KERNELS = [
    {"layer": "loss/mlp", "bytes": 2e9, "flops": 1e12, "times": 3},  # 2 s for bytes, 1 s for FLOPs
    {"layer": "loss/mlp", "bytes": 1e9, "flops": 4e12, "times": 1},  # 1 s and 4 s
    {"layer": "update", "bytes": 5e8, "flops": 0.0, "times": 1},
]


def test_a_kernel_takes_the_longer_of_the_times_for_bytes_and_flops():
    groups = {group.pop("group"): group for group in roofline.summarise(KERNELS, CARD)}
    mlp = {"kernels": 4, "bytes": 7e9, "flops": 7e12, "milliseconds": 10_000.0}
    update = {"kernels": 1, "bytes": 5e8, "flops": 0.0, "milliseconds": 500.0}
    assert groups["MLP"] == approx(mlp)
    assert groups["clipping and AdamW"] == approx(update)
    assert groups["all"] == approx({name: mlp[name] + update[name] for name in mlp})
    assert list(groups) == [*roofline.GROUPS, "all"]


@pytest.mark.parametrize(
    ("name", "full_name", "bandwidth"),
    [("h100", H100, 3.35e12), ("a100", "NVIDIA A100-SXM4-80GB", 2.039e12)],
)
def test_the_bandwidths_are_those_of_the_datasheets(name, full_name, bandwidth):
    card = read_card(name, "bfloat16")
    assert card.name == full_name
    assert card.bytes_per_second == pytest.approx(bandwidth, rel=0.001)
    assert card.flops_per_second == {"h100": 989e12, "a100": 312e12}[name]


@pytest.fixture
def counted(monkeypatch):
    """The specs whose kernels are counted; Flax's fails."""
    specs = []

    def count_kernels(framework, spec, card, console):
        specs.append(spec)
        if framework == "flax":
            raise WorkerError("no plugin")
        return KERNELS

    monkeypatch.setattr(roofline, "count_kernels", count_kernels)
    return specs


def test_a_measured_step_is_compared_with_the_least_time(counted):
    result = roofline.run(RooflineConfig(preset="tiny", seq_len=8, milliseconds=20.0), CONSOLE)
    torch_result, flax_result = result["programs"]
    least = torch_result["groups"][-1]["milliseconds"]
    assert torch_result["share_of_limit"] == approx(least / 20.0)
    assert flax_result == {"name": "flax", "error": "no plugin"}
    assert counted[0] == replace(SPEC, batch_size=16, seq_len=8)
    table = cells(roofline.table(result))
    assert [row[1] for row in table] == [f"kernels of: {n}" for n in (*roofline.GROUPS, "all")]
    assert table[-1][-2:] == ["measured ms: 20.0", f"limit reached: {100 * least / 20:.0f} %"]
    assert table[0][-2:] == ["measured ms: ", "limit reached: "]


def measured_on(gpu, tmp_path, **changes):
    """A file with the result of a benchmark, that of train_step by default."""
    options = {"dtype": "float32", "preset": "tiny", "batch_size": 4, "seq_len": 16}
    programs = [
        {"name": "torch", "milliseconds": {"median": 7.0}}, {"name": "flax", "error": "gone"}
    ]  # fmt: skip
    result = {"benchmark": "train_step", "options": options | {"fast_ops": False}}
    result |= {"environment": gpu | {"processor": "Zen"}, "programs": programs} | changes
    report.write(result, tmp_path / "train.json")
    return RooflineConfig(measured=tmp_path / "train.json")


def test_a_result_of_train_step_gives_sizes_and_milliseconds(counted, tmp_path):
    result = roofline.run(measured_on({"gpu": H100}, tmp_path), CONSOLE)
    assert result["programs"][0]["milliseconds"] == 7.0
    assert counted[0] == replace(SPEC, dtype="float32", batch_size=4, seq_len=16, fast_ops=False)
    assert result["options"]["preset"] == "tiny"


@pytest.mark.parametrize(
    ("gpu", "changes", "words"),
    [
        ({}, {}, f"expected a result of {H100}, got Zen"),
        ({"gpu": "NVIDIA H100 PCIe"}, {}, f"expected a result of {H100}, got NVIDIA H100 PCIe"),
        ({"gpu": H100}, {"benchmark": "gpu"}, "expected a result of train_step, got gpu"),
    ],
)
def test_other_results_are_refused(gpu, changes, words, counted, tmp_path):
    with pytest.raises(InputError, match=words):
        roofline.run(measured_on(gpu, tmp_path, **changes), CONSOLE)


def test_pytorchs_limit_needs_no_gpu_and_flaxs_says_what_it_needs(call, tmp_path):
    if importlib.util.find_spec("jax_cuda13_plugin"):
        pytest.skip("jax's CUDA plugin is installed")
    out = tmp_path / "roofline.json"
    flags = ("--preset", "tiny", "--seq_len", 8, "--batch_size", 2, "--out", out)
    found = call("benchmarks.roofline", *flags)
    assert found.returncode == 0, found.stderr
    torch_result, flax_result = json.loads(out.read_text())["programs"]
    assert torch_result["groups"][-1]["bytes"] > 0
    assert flax_result["error"] == 'this needs jax\'s CUDA plugin: pip install -e ".[cuda]"'


@pytest.mark.parametrize(
    "flags", [("--milliseconds", 0), ("--batch_size", 0), ("--preset", "tiny", "--seq_len", 65)]
)
def test_impossible_options_are_errors_of_one_line(flags, call):
    assert_one_line_error(call("benchmarks.roofline", *flags))
