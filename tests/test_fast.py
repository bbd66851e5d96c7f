"""Each fast operation against its plain one, value and gradients, and how they are chosen."""

import ctypes
import importlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from gpt_common import hardware
from gpt_common.checkpoint import read_options
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError
from gpt_common.hardware import Processor, parse_cpuinfo
from gpt_flax import cache as flax_cache
from gpt_flax import device as flax_device
from gpt_flax import fast as flax_fast
from gpt_flax import model as flax_model
from gpt_flax import train as flax_train
from gpt_flax.weights import from_hf
from gpt_torch import cache as torch_cache
from gpt_torch import device as torch_device
from gpt_torch import fast as torch_fast
from gpt_torch import model as torch_model
from tests.conftest import FLOAT32, TINY, kept_jax_config, random_weights
from tests.parity import reference
from tests.parity.tolerances import relative
from tests.test_train import entries

SCHEDULED = flax_fast.FastOps(memory_scheduler=True)
ZEN_5 = Processor(amd=True, avx512=True, bfloat16=True)
ZEN_3 = Processor(amd=True)
XEON = Processor(avx512=True, bfloat16=True)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def torch_gradients(function, *arrays, dtype=torch.float64):
    """Return a function's value, and the gradients of the sum of its squares."""
    inputs = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]
    value = function(*inputs)
    gradients = torch.autograd.grad(value.double().square().sum(), inputs)
    return [a.detach().double().numpy() for a in (value, *gradients)]


def flax_gradients(function, *arrays, dtype=jnp.float64):
    """Return a function's value, and the gradients of the sum of its squares."""
    with jax.enable_x64(True):
        inputs = [jnp.asarray(a, dtype) for a in arrays]

        def squares(*inputs):
            value = function(*inputs)
            return (value.astype(jnp.float64) ** 2).sum(), value

        both = jax.jit(jax.grad(squares, tuple(range(len(inputs))), has_aux=True))
        gradients, value = both(*inputs)
        return [np.asarray(a, np.float64) for a in (value, *gradients)]


def assert_close(found, expected, limit):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert relative(ours, theirs) < limit


def test_onednn_linear():
    """oneDNN has no float64: its float32 is held against the plain one in float64."""
    arrays = normal(3, 17, 40), normal(24, 40), normal(24)
    expected = torch_gradients(torch.nn.functional.linear, *arrays)
    found = torch_gradients(torch_fast.OneDNNLinear.apply, *arrays, dtype=torch.float32)
    assert_close(found, expected, 1e-6)


def test_dense_2d():
    arrays = normal(3, 17, 40), normal(40, 24), normal(24)
    expected = flax_gradients(lambda x, kernel, bias: x @ kernel + bias, *arrays)
    assert_close(flax_gradients(flax_fast.dense_2d, *arrays), expected, 1e-14)
    rounded = flax_gradients(flax_fast.dense_2d, *arrays, dtype=jnp.bfloat16)
    assert_close(rounded, expected, 2e-2)


def test_dense_2d_gives_weights_gradients_of_their_own_type():
    """Where it computes in bfloat16 too: as by way of bfloat16, they would end in 16 zero bits."""
    x, kernel, bias = normal(40, 40), normal(40, 24).astype("f"), normal(24).astype("f")

    def loss(kernel, bias):
        return flax_fast.dense_2d(jnp.asarray(x, jnp.bfloat16), kernel, bias).sum()

    d_kernel, d_bias = jax.jit(jax.grad(loss, (0, 1)))(kernel, bias)
    assert d_kernel.dtype == d_bias.dtype == jnp.float32
    assert (d_kernel != d_kernel.astype(jnp.bfloat16)).any()
    assert (d_bias == 40).all()


@pytest.mark.parametrize("approximate", [True, False])
def test_gelu(approximate):
    plain, fast = (
        lambda x, gelu=gelu: gelu(x, approximate) for gelu in (jax.nn.gelu, flax_fast.remat_gelu)
    )
    x = 3 * normal(17, 40)
    expected = flax_gradients(plain, x)
    assert_close(flax_gradients(fast, x), expected, 1e-15)
    assert_close(flax_gradients(fast, x, dtype=jnp.bfloat16), expected, 1e-2)


@pytest.mark.parametrize("approximate", [True, False])
def test_remat_gelu_of_bfloat16_is_rounded_once(approximate):
    """And so is its gradient: each number is the nearest, or one beside it."""
    x = jnp.linspace(-3, 3, 301, dtype=jnp.bfloat16)
    found = flax_gradients(lambda x: flax_fast.remat_gelu(x, approximate), x, dtype=x.dtype)
    y, pull_back = jax.vjp(lambda x: jax.nn.gelu(x, approximate), x.astype(jnp.float32))
    (dx,) = pull_back(2 * jnp.asarray(found[0], jnp.float32))
    for ours, theirs in zip(found, (y, dx), strict=True):
        assert (abs(ours - theirs) <= 2.0**-8 * abs(theirs)).all()


@pytest.mark.parametrize("fast", [True, False])
def test_gelu_keeps_its_argument_alone(fast):
    """And a product its operand, for the gradient of the matrix: two arrays a layer, not three."""
    gelu = flax_fast.remat_gelu if fast else jax.nn.gelu

    def layers(x, w):
        for _ in range(8):
            x = gelu(x @ w, True)
        return x.sum()

    x, w = normal(512, 64).astype("f"), normal(64, 64).astype("f")
    options = flax_fast.train_step_options(SCHEDULED, jax.__version_info__)
    if not options:
        pytest.skip(f"jax {jax.__version__} was not tried with the depth-first option")
    assert (temporaries(layers, x, w, compiler_options=options) < 2.5 * 8 * x.nbytes) == fast


PLAIN_ATTENTION = {"torch": torch_model.causal_attention, "flax": flax_model.causal_attention}
FAST_ATTENTION = {
    "torch": torch_fast.blockwise_attention,
    "flax": flax_fast.blockwise_attention,
}


@pytest.mark.parametrize("T", [2, 17, 128, 650])
def test_attention(framework, T):
    """650 is four blocks, of which the last is short."""
    shape = (1, 2, T, 8) if framework == "torch" else (1, T, 2, 8)
    arrays = [normal(*shape, seed=seed) for seed in range(3)]
    plain, fast = PLAIN_ATTENTION[framework], FAST_ATTENTION[framework]
    gradients = torch_gradients if framework == "torch" else flax_gradients
    expected = gradients(plain, *arrays)
    assert_close(gradients(fast, *arrays), expected, 2e-14)
    bfloat16 = torch.bfloat16 if framework == "torch" else jnp.bfloat16
    assert_close(gradients(fast, *arrays, dtype=bfloat16), expected, 3e-2)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 300, 512, 513, 650, 1024, 1600])
def test_every_position_is_in_one_block(framework, length):
    blocks = importlib.import_module(f"gpt_{framework}.fast").query_blocks(length)
    assert [place for rows in blocks for place in range(rows.start, rows.stop)] == [*range(length)]
    assert len(blocks) <= 4


@pytest.mark.parametrize("attention", [flax_model.causal_attention, flax_fast.blockwise_attention])
def test_attention_in_flax_rounds_no_score_to_bfloat16(attention):
    """Scores of 60, whose rounding would be an eighth, and so an eighth of a weight."""
    q, k, v = (jnp.asarray(normal(1, 128, 2, 8, seed=seed), jnp.bfloat16) for seed in range(3))
    q = 16 * q
    found = np.asarray(attention(q, k, v), np.float64)
    expected = plain_attention(*(np.asarray(a, np.float64)[0].swapaxes(0, 1) for a in (q, k, v)))
    assert relative(found[0].swapaxes(0, 1), expected) < 5e-3


def plain_attention(q, k, v):
    """Return attention over `(nh, T, hs)` arrays of numpy."""
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[2])
    return reference.softmax(np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)) @ v


def head_and_loss(framework, fast, count=600, spread=1.0):
    """Return a function of x `(N, C)` and a padded embedding, and the two; 997 tokens count."""
    targets = np.random.default_rng(1).integers(0, 997, count)

    def torch_loss(x, w):
        y, ops = torch.from_numpy(targets), torch_fast.FastOps(loss_rows=512)
        if fast:
            return 3 * torch_fast.chunked_cross_entropy(x, w, y, 997, ops)
        return 3 * torch_model.cross_entropy((x @ w.T)[:, :997], y)

    def flax_loss(x, w):
        if fast:
            return 3 * flax_fast.chunked_cross_entropy(x, w, targets, 997, x.dtype, 512)
        return 3 * flax_model.cross_entropy((x @ w.T)[:, :997], targets)

    loss = torch_loss if framework == "torch" else flax_loss
    return loss, spread * normal(count, 40), normal(1024, 40)


GRADIENTS = {"torch": torch_gradients, "flax": flax_gradients}


@pytest.mark.parametrize("count", [1, 512, 1100])
@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_head_and_loss(framework, count, spread):
    """Two chunks and what is left over; also where losses are of hundreds of nats.

    And not for the padding, whose rows are not 0.
    """
    expected = GRADIENTS[framework](*head_and_loss(framework, False, count, spread))
    found = GRADIENTS[framework](*head_and_loss(framework, True, count, spread))
    assert_close(found, expected, 1e-13)
    assert not found[2][997:].any()
    bfloat16 = torch.bfloat16 if framework == "torch" else jnp.bfloat16
    if spread == 1.0:
        args = head_and_loss(framework, True, count)
        assert_close(GRADIENTS[framework](*args, dtype=bfloat16), expected, 3e-2)


def test_the_heads_gradient_in_flax_is_summed_in_its_own_type():
    """Where it computes in bfloat16 too: rounded chunk by chunk it would end in zero bits."""
    loss, x, weight = head_and_loss("flax", True, 1100)
    gradient = jax.grad(loss, 1)(jnp.asarray(x, jnp.bfloat16), weight.astype("f"))
    assert gradient.dtype == jnp.float32
    bits = np.asarray(gradient)[:997].view(np.uint32) & 0xFF
    assert np.mean(bits != 0) > 0.9


def test_the_loss_by_rows_keeps_its_small_terms(framework):
    """50256 small terms beside a large one, as in a model that is sure of its targets."""
    logits = np.random.default_rng(0).standard_normal((64, 50257), np.float32)
    targets = np.arange(64)
    logits[np.arange(64), targets] += 15
    expected, _ = reference.cross_entropy(logits.astype(np.float64)[None], targets[None])
    if framework == "torch":
        rows = torch.from_numpy(logits), torch.from_numpy(targets)
        losses = torch_fast.row_losses_(*rows, 64, torch.float32)
    else:
        losses, _ = flax_fast.row_losses(jnp.asarray(logits), targets)
    assert losses.mean().item() == pytest.approx(expected, rel=4e-6)


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that anything returned."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel())
        return result


@pytest.mark.parametrize("fast", [True, False])
def test_the_logits_of_a_batch_never_exist_whole(framework, fast):
    loss, x, weight = head_and_loss(framework, fast)
    if framework == "torch":
        with LargestTensor() as largest:
            torch_gradients(loss, x, weight)
        size = largest.size
    else:
        jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x.astype("f"), weight.astype("f"))
        size = max(v.aval.size for e in jaxpr.jaxpr.eqns for v in e.outvars)
    assert (size < 600 * 997) == fast


def temporaries(function, *inputs, **options):
    """The bytes that XLA sets aside for a compiled function's gradients, over and above them."""
    gradients = jax.jit(jax.grad(function, tuple(range(len(inputs)))), **options)
    return gradients.lower(*inputs).compile().memory_analysis().temp_size_in_bytes


def test_the_loss_in_flax_needs_memory_for_one_chunk_at_a_time():
    """However many there are: logits of 512 rows, their gradients, and dx, of 40 columns."""
    logits = 4 * 512 * 1024
    for chunks in (2, 16):
        loss, x, weight = head_and_loss("flax", True, chunks * 512)
        needed = temporaries(loss, x.astype("f"), weight.astype("f"))
        assert needed < 3 * logits + 3 * x.size * 4


def test_attention_in_torch_keeps_no_scores():
    """What is kept for the gradients is q, k and v, whatever their length."""
    kept = []
    inputs = [torch.randn(1, 3, 512, 8, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        torch_fast.blockwise_attention(*inputs)
    assert [a.numel() for a in kept] == [3 * 512 * 8] * 3


@pytest.mark.parametrize("fast", [True, False])
def test_attention_in_flax_keeps_no_scores(fast):
    attention = (FAST_ATTENTION if fast else PLAIN_ATTENTION)["flax"]
    scores = 4 * 3 * 512 * 512  # bytes: three heads' of one layer, of eight

    def layers(x):
        for _ in range(8):
            x = x + attention(x, x, x)
        return x.sum()

    options = flax_fast.train_step_options(SCHEDULED, jax.__version_info__)
    if not options:
        pytest.skip(f"jax {jax.__version__} was not tried with the depth-first option")
    needed = temporaries(layers, normal(1, 512, 3, 8).astype("f"), compiler_options=options)
    assert (needed < 4 * scores) == fast


def test_no_gradient_is_made_where_none_is_asked_for():
    loss, x, weight = head_and_loss("torch", True)
    with torch.no_grad(), LargestTensor() as largest:
        loss(torch.from_numpy(x), torch.from_numpy(weight))
    assert largest.size == 512 * 1024  # the logits of a chunk; the embedding's gradient is smaller


def test_what_torch_chooses():
    choose, ops = torch_fast.choose_fast_ops, torch_fast.FastOps
    assert choose("cpu", "float32", ZEN_5) == ops(onednn_linear=True, loss_rows=512)
    assert choose("cpu", "float32", ZEN_5, compiled=True) == ops(loss_rows=512)
    assert choose("cpu", "float32", ZEN_3) == ops(loss_rows=512)
    assert choose("cpu", "float32", XEON) == ops(loss_rows=512)
    assert choose("cpu", "bfloat16", XEON) == ops(blockwise_attention=True, loss_rows=512)
    assert choose("cpu", "bfloat16", ZEN_3) == ops(loss_rows=512)
    assert choose("cpu", "float16", XEON) == ops(loss_rows=512)
    for dtype in ("float32", "tf32", "bfloat16", "float16"):
        assert choose("cuda", dtype, ZEN_5) == ops(loss_rows=4096)
        assert choose("mps", dtype, ZEN_5) == ops()
    for device in ("cpu", "cuda", "mps"):
        assert choose(device, "float64", ZEN_5) == ops()


def test_what_flax_chooses(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    choose, ops = flax_fast.choose_fast_ops, flax_fast.FastOps
    everything = ops(True, True, True, loss_rows=512, memory_scheduler=True)
    assert choose("cpu", "float32", ZEN_3) == choose("cpu", "bfloat16", XEON) == everything
    without_products = ops(remat_gelu=True, loss_rows=512, memory_scheduler=True)
    assert choose("cpu", "bfloat16", ZEN_3) == choose("cpu", "float16", XEON) == without_products
    assert choose("cpu", "float64", ZEN_5) == choose("gpu", "float64", ZEN_5) == ops()
    assert choose("gpu", "float32", ZEN_5) == choose("gpu", "tf32", ZEN_5) == ops(loss_rows=4096)
    assert choose("gpu", "bfloat16", ZEN_3) == ops(cudnn_attention=True, loss_rows=4096)
    without_cudnn = ops(blockwise_attention=True, loss_rows=4096)
    assert choose("gpu", "bfloat16", ZEN_3, False) == without_cudnn
    assert choose("gpu", "float32", ZEN_3, False) == ops(loss_rows=4096)
    float16 = {"remat_gelu": True, "loss_rows": 4096}
    assert choose("gpu", "float16", ZEN_3) == ops(cudnn_attention=True, **float16)
    assert choose("gpu", "float16", ZEN_3, False) == ops(**float16)
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 0))
    assert choose("cpu", "bfloat16", ZEN_3) == ops(
        dense_2d=True, remat_gelu=True, loss_rows=512, memory_scheduler=True
    )


SHAPE = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=97)
TOKENS = np.arange(32).reshape(2, 16)


def counted(monkeypatch, owner, name):
    """Let a function note its calls; return the list of them."""
    calls, function = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a: calls.append(name) or function(*a))
    return calls


@pytest.mark.parametrize("fast", [True, False])
def test_what_torch_chooses_is_what_computes(fast, monkeypatch):
    linear = counted(monkeypatch, torch_fast.OneDNNLinear, "apply")
    attention = counted(monkeypatch, torch_fast.BlockwiseAttention, "apply")
    loss = counted(monkeypatch, torch_fast.ChunkedCrossEntropy, "apply")
    ops = torch_fast.FastOps(True, True, 512) if fast else None
    model = torch_fast.create_model(SHAPE, ops)
    tokens = torch.from_numpy(TOKENS)
    model.loss(tokens, tokens)
    layers = 2 * fast
    assert (len(linear), len(attention), len(loss)) == (4 * layers, layers, fast)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fast", [True, False])
def test_what_flax_chooses_is_what_computes(fast, dtype, monkeypatch):
    linear = counted(monkeypatch, flax_fast, "dense_2d")
    gelu = counted(monkeypatch, flax_fast, "remat_gelu")
    attention = counted(monkeypatch, flax_fast, "blockwise_attention")
    loss = counted(monkeypatch, flax_fast, "chunked_cross_entropy")
    ops = flax_fast.FastOps(True, True, True, loss_rows=512) if fast else None
    model = flax_fast.create_model(SHAPE, ops, dtype)
    params = from_hf(random_weights(SHAPE), SHAPE, np.float32)
    jax.eval_shape(lambda p: flax_train.loss_fn(p, model, TOKENS, TOKENS, dtype), params)
    layers = 2 * fast
    found = len(linear), len(gelu), len(attention), len(loss)
    assert found == (4 * layers, layers, layers, fast)


def test_a_training_step_is_compiled_memory_scheduler_where_jax_knows_how():
    assert flax_fast.train_step_options(SCHEDULED, (0, 12, 0, 1))
    assert not flax_fast.train_step_options(SCHEDULED, (0, 13, 0))
    options = flax_fast.train_step_options(SCHEDULED, jax.__version_info__)
    assert jax.jit(lambda x: x, compiler_options=options)(1.0) == 1.0  # jax knows them


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16", "float64"])
def test_tensorfloat32_is_for_tf32_alone(framework, dtype, monkeypatch):
    """On a GPU, which is not here: what is set is how products of float32 are to compute."""
    device = importlib.import_module(f"gpt_{framework}.device")
    monkeypatch.setattr(device, "available_devices", lambda: ["cuda", "cpu"])
    if framework == "torch":
        before = torch.get_float32_matmul_precision()
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        assert device.select_device("cuda", dtype).type == "cuda"
        found = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(before)
        assert found == ("high" if dtype == "tf32" else "highest")
    else:
        here = jax.devices("cpu")
        monkeypatch.setattr(jax, "devices", lambda *_: here)
        monkeypatch.setattr(jax, "local_devices", lambda backend: here)
        monkeypatch.setattr(device, "has_bfloat16", lambda _: True)
        with kept_jax_config():
            device.select_device("cuda", dtype)
            found = jax.config.jax_default_matmul_precision
        assert found == ("tensorfloat32" if dtype == "tf32" else "highest")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mps", "float64"), ("mps", "tf32"), ("mps", "float16"), ("cuda", "bfloat16")],
)
def test_a_device_that_cannot_compute_in_a_type_is_refused(name, dtype, monkeypatch):
    monkeypatch.setattr(torch_device, "available_devices", lambda: [name, "cpu"])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    for asked in (name, "auto"):
        with pytest.raises(InputError, match=f"device {name} cannot compute in {dtype}"):
            torch_device.select_device(asked, dtype)


@pytest.mark.parametrize(("version", "refused"), [("2.12.1", True), ("2.13.0", False)])
def test_bfloat16_on_mps_is_refused_where_attention_sees_future_tokens(
    version, refused, monkeypatch
):
    monkeypatch.setattr(torch_device, "available_devices", lambda: ["mps", "cpu"])
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    if refused:
        with pytest.raises(InputError, match=r"needs torch 2\.13, got 2\.12\.1"):
            torch_device.select_device("mps", "bfloat16")
    else:
        assert torch_device.select_device("mps", "bfloat16").type == "mps"


@pytest.mark.parametrize(
    ("backend", "version", "called"), [("tpu", "", "tpu"), ("gpu", "rocm 7.0", "rocm")]
)
def test_jax_refuses_what_it_does_not_support_by_name(backend, version, called, monkeypatch):
    """Not silently computing on the CPU."""
    found = SimpleNamespace(client=SimpleNamespace(platform_version=version))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda *_: [found])
    with pytest.raises(InputError, match=f"device {called}: expected an NVIDIA GPU or a CPU"):
        flax_device.available_devices()


def test_float16_keeps_small_gradients_of_the_logits_and_large_ones_of_the_head(framework):
    """Those of a mean over 1,000 rows and 8,000 tokens are 1e-7, which float16 has to one digit.

    Those of a sum are not, but of the token that is the target of half the rows it overflows.
    """
    random = np.random.default_rng(0)
    x = (1 + random.standard_normal((1000, 16))).astype(np.float32)
    weight = 0.01 * random.standard_normal((8000, 16)).astype(np.float32)
    inputs = x, weight, np.arange(1000) % 2
    expected, found = (head_gradient(framework, *inputs, dtype) for dtype in ("float32", "float16"))
    for tokens in (slice(2), slice(2, None)):
        assert relative(found[tokens], expected[tokens]) < 2e-3


def head_gradient(framework, x, weight, targets, dtype):
    """The gradient of the head's weight, from the loss by rows."""
    if framework == "flax":
        options = len(weight), jnp.dtype(dtype), 512
        loss = flax_fast.chunked_cross_entropy
        return np.asarray(jax.grad(lambda w: loss(x, w, targets, *options))(weight))
    head, ops = torch.from_numpy(weight).requires_grad_(), torch_fast.FastOps(loss_rows=512)
    rows, targets = torch.from_numpy(x)[None], torch.from_numpy(targets)[None]
    with torch.autocast("cpu", torch.float16, enabled=dtype == "float16"):
        torch_fast.chunked_cross_entropy(rows, head, targets, len(weight), ops).backward()
    return head.grad.numpy()


def test_jax_refuses_bfloat16_before_ampere():
    turing = SimpleNamespace(platform="gpu", compute_capability="7.5")
    message = "device cuda cannot compute in bfloat16; try --dtype float16 or float32"
    with pytest.raises(InputError, match=message):
        flax_device.check_dtype("cuda", "bfloat16", turing)


def test_an_amd_gpu_is_called_rocm(monkeypatch):
    """Its name in torch is cuda."""
    monkeypatch.setattr(torch_device, "available_devices", lambda: ["cuda", "cpu"])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(InputError, match=r"device cuda \(ROCm\) cannot compute in bfloat16"):
        torch_device.select_device("cuda", "bfloat16")
    with pytest.raises(InputError, match=r"device cuda \(ROCm\) cannot compute in tf32"):
        torch_device.select_device("cuda", "tf32")


def test_a_step_of_jax_on_a_cpu_does_not_begin_before_the_last_has_ended(monkeypatch):
    """Else it has memory of its own; and jax looks for no other device."""
    asked, update = {}, jax.config.update
    with kept_jax_config():
        with monkeypatch.context() as patch:
            patch.setattr(jax.config, "update", lambda *a: asked.update([a]) or update(*a))
            device = flax_device.select_device("cpu", "float32")
        assert jax.config.jax_default_device == device
    assert asked["jax_cpu_enable_async_dispatch"] is False
    assert asked["jax_platforms"] == "cpu"


def test_what_is_compiled_is_kept_where_the_user_says(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        flax_device.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == before
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path))
        flax_device.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_keys_and_values_are_kept_in_float32_on_a_cpu(framework):
    cache, names = (torch_cache, torch) if framework == "torch" else (flax_cache, jnp)
    assert cache.cache_dtype("cpu", names.bfloat16) == names.float32
    assert cache.cache_dtype("cpu", names.float64) == names.float64
    assert cache.cache_dtype("tpu", names.bfloat16) == names.bfloat16


def test_few_rows_are_multiplied_by_eigen():
    """As XLA's program says; and by YNNPACK without the options, or they are of no use any more."""
    options = flax_fast.small_batch_options((0, 10, 9))
    assert not flax_fast.small_batch_options((0, 11, 0))
    assert flax_fast.is_small_batch("cpu", 64, "float32")
    assert not flax_fast.is_small_batch("gpu", 64, "float32")
    assert not flax_fast.is_small_batch("cpu", 65, "float32")
    assert not flax_fast.is_small_batch("cpu", 5, "bfloat16")
    if flax_fast.small_batch_options(jax.__version_info__):
        x, w = jnp.ones((5, 64)), jnp.ones((64, 96))
        for given, is_ynnpack in ((None, True), (options, False)):
            program = jax.jit(jnp.matmul, compiler_options=given).lower(x, w).compile()
            assert ("ynn" in program.as_text()) == is_ynnpack


@pytest.mark.parametrize(("hs", "taken"), [(64, True), (128, True), (5, False), (136, False)])
@pytest.mark.parametrize("T", [16, 17])
def test_cudnn_is_asked_only_for_what_it_can_do(T, hs, taken, monkeypatch):
    """An even number of positions, and heads of at most 128 numbers, in eights."""
    asked, attend = [], jax.nn.dot_product_attention

    def record(q, k, v, is_causal, implementation):
        asked.append((q.shape, k.shape, v.shape, implementation))
        return attend(q, k, v, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, T, 2, hs), jnp.bfloat16)
    fast = flax_fast.fast_attention(flax_fast.FastOps(cudnn_attention=True))
    expected, vjp = jax.vjp(flax_model.causal_attention, q, k, v)
    got, fast_vjp = jax.vjp(fast, q, k, v)
    assert asked == [(*[(1, (T + 1) // 2 * 2, 2, hs)] * 3, "cudnn")] * taken
    pairs = zip((got, *fast_vjp(q)), (expected, *vjp(q)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(np.float32(one), np.float32(other), atol=0.05)


def test_a_gpu_without_cudnn_says_so(capsys, monkeypatch):
    """Attention by cuDNN does not compile for a CPU, as it does not where cuDNN is missing."""
    gpu = SimpleNamespace(platform="gpu", compute_capability="8.0")
    assert not flax_device.has_cudnn_attention(gpu, "bfloat16")
    note = capsys.readouterr().err
    assert note.startswith("note: attention is XLA's, as cuDNN's does not compile: ")
    assert note.count("\n") == 1
    assert not flax_device.has_cudnn_attention(gpu, "float32")
    assert not flax_device.has_cudnn_attention(jax.devices("cpu")[0], "bfloat16")
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **_: q)
    assert flax_device.has_cudnn_attention(gpu, "bfloat16")
    assert flax_device.has_cudnn_attention(gpu, "float16")
    t4 = SimpleNamespace(platform="gpu", compute_capability="7.5")
    assert not flax_device.has_cudnn_attention(t4, "float16")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", ZEN_5),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2\n\nflags\t: avx512f\n", ZEN_3),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512f amx_bf16 amx_tile\n", XEON),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", Processor(bfloat16=True)),
        ("", Processor()),
    ],
)
def test_a_processor_by_what_linux_says_of_it(text, expected):
    assert parse_cpuinfo(text) == expected


def test_elsewhere_nothing_is_known_of_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    assert hardware.processor() == Processor()


def test_auto_is_float32_on_a_processor_whatever_it_can_do(framework, monkeypatch):
    """The command decides, and no clock: twins and machines compute in the same numbers."""
    device = importlib.import_module(f"gpt_{framework}.device")
    monkeypatch.setattr(hardware, "processor", lambda: Processor(True, True, bfloat16=True))
    for name in ("cpu", "auto"):
        assert device.resolve_dtype("auto", name) == "float32"
    assert device.resolve_dtype("float64", "cpu") == "float64"


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")]
)
def test_auto_is_bfloat16_on_a_gpu_that_has_it(framework, capability, expected, monkeypatch):
    device = importlib.import_module(f"gpt_{framework}.device")
    if framework == "torch":
        gpu = torch.device("cuda")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        properties = SimpleNamespace(major=capability[0], minor=capability[1])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    else:
        gpu = SimpleNamespace(platform="gpu", compute_capability=".".join(map(str, capability)))
    monkeypatch.setattr(device, "select_device", lambda name, dtype: gpu)
    assert device.resolve_dtype("auto", "cuda") == expected


def test_a_resumed_run_keeps_what_auto_came_to(train, framework, tmp_path, monkeypatch):
    module = f"gpt_{framework}.train.resolve_dtype"
    with monkeypatch.context() as patch:
        patch.setattr(module, lambda dtype, _: "bfloat16" if dtype == "auto" else dtype)
        output = train(framework, *TINY, "--steps", 1, "--out_dir", tmp_path)
    assert f"{framework} on cpu, bfloat16 |" in output
    assert read_options(tmp_path / "latest")[1]["runtime"]["dtype"] == "bfloat16"
    monkeypatch.setattr(module, lambda dtype, _: "float32" if dtype == "auto" else dtype)
    assert "cpu, bfloat16 |" in train(framework, "--resume", tmp_path, "--steps", 2)
    output = train(framework, "--resume", tmp_path, "--steps", 3, "--dtype", "auto")
    assert "changed dtype: bfloat16 -> float32" in output


@pytest.mark.parametrize("fast", [True, False])
def test_a_step_in_flax_is_compiled_as_chosen_and_gives_the_old_states_memory_away(
    train, fast, tmp_path, monkeypatch
):
    """In the trainer: else a run holds two states, or all of a layer's backward pass at once."""
    asked, jit, old = [], jax.jit, []
    monkeypatch.setattr(jax, "jit", lambda f, **how: asked.append((f, how)) or jit(f, **how))
    create_state = flax_train.create_state
    monkeypatch.setattr(
        flax_train, "create_state", lambda *a: old.append(create_state(*a)) or old[0]
    )
    flax_train.compile_train_step.cache_clear()
    flags = () if fast else ("--no_fast_ops",)
    train("flax", *TINY, *FLOAT32, *flags, "--steps", 1, "--out_dir", tmp_path)
    (how,) = [how for function, how in asked if function is flax_train.train_step]
    options = flax_fast.train_step_options(SCHEDULED, jax.__version_info__)
    assert how["compiler_options"] == (options if fast else {})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))


def test_what_the_trainer_in_torch_chooses_is_in_the_model(train, tmp_path, monkeypatch):
    """And `--compile` compiles loss and update: here it is only asked for."""
    used, compiled, create = [], [], torch_fast.create_model
    loading = importlib.import_module("gpt_torch.generate")
    monkeypatch.setattr(loading, "create_model", lambda _, ops: used.append(ops) or create(_, ops))
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    for name, flags in (("a", ()), ("b", ("--no_fast_ops",)), ("c", ("--compile",))):
        how = (*TINY, "--device", "cpu", *FLOAT32, *flags, "--steps", 1)
        train("torch", *how, "--out_dir", tmp_path / name)
    processor = hardware.processor()
    chosen = [torch_fast.choose_fast_ops("cpu", "float32", processor, c) for c in (False, True)]
    assert used == [chosen[0], None, chosen[1]]
    assert [function.__name__ for function in compiled] == ["loss", "clip_and_update"]


@pytest.mark.parametrize("flags", [(), ("--no_fast_ops",)])
def test_no_fast_ops_turns_all_of_it_off(train, framework, flags, tmp_path, monkeypatch):
    """Also in the run that goes on with it."""
    module = importlib.import_module(f"gpt_{framework}.train")
    kept, chosen = [], []
    monkeypatch.setattr(module, "tune_malloc", lambda: kept.append(True))
    original = module.choose_fast_ops
    monkeypatch.setattr(
        module, "choose_fast_ops", lambda *how: chosen.append(how) or original(*how)
    )
    for fresh in (True, False):
        begin = (*TINY, *flags, "--out_dir", tmp_path) if fresh else ("--resume", tmp_path)
        train(framework, *begin, "--steps", 2 - fresh)
    assert len(kept) == len(chosen) == (0 if flags else 2)


def test_fast_and_plain_runs_have_the_same_losses(train, framework, tmp_path):
    for name, flags in (("fast", ()), ("plain", ("--no_fast_ops",))):
        train(framework, *TINY, "--dtype", "float32", *flags, "--steps", 5,
              "--out_dir", tmp_path / name)  # fmt: skip
    fast, plain = (list(entries(tmp_path / name, "loss").values()) for name in ("fast", "plain"))
    assert fast == pytest.approx(plain, rel=5e-7)


KEEPING = """
import ctypes, threading
from gpt_common.hardware import tune_malloc
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", *"bcdefghi")]
library.mallinfo2.restype = Info
tune_malloc()
library.free(library.malloc(3 * 2**30))
print(library.mallinfo2().arena, flush=True)
threads = [threading.Thread(target=library.malloc, args=[1000]) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
library.fopen.restype = ctypes.c_void_p
library.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
library.malloc_info(0, library.fopen(b"/dev/stderr", b"w"))
library.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_keep_memory_keeps_gigabytes_in_one_heap():
    """Of which no page is touched: this needs no memory. And one heap serves all threads."""
    result = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 3 * 2**30
    assert result.stderr.count("<heap nr=") == 1


def test_keep_memory_is_harmless_where_there_is_no_glibc(monkeypatch):
    calls = []
    library = type("Library", (), {"mallopt": staticmethod(lambda *a: calls.append(a))})
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: library)
    hardware.tune_malloc()
    assert len(calls) == 4
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: object())
    hardware.tune_malloc()
    assert len(calls) == 4
