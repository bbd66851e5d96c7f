"""A run brought from nanoGPT goes on as nanoGPT would have gone on, and goes back."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2LMHeadModel

from gpt_common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gpt_common.config import GPTConfig, OptimizerOptions, TrainConfig
from gpt_common.data import BatchLoader
from gpt_common.errors import InputError
from gpt_common.formats import registry
from gpt_common.formats.registry import FORMATS
from gpt_common.metrics import read_log
from gpt_common.storage import read_safetensors, write_safetensors
from gpt_common.weights import num_parameters, weight_shapes
from tests.conftest import FLOAT32, assert_one_line_error, random_checkpoint, random_weights
from tests.parity.hugging_face import hugging_face_outcome
from tests.parity.reference import ReferenceGPT

B, T = 2, 8
SHAPE = GPTConfig(2, 2, 8, block_size=T, vocab_size=65, activation="gelu", bias=False)
SETTINGS = {  # as nanoGPT's train.py keeps them; it has more of them
    "batch_size": B, "block_size": T, "gradient_accumulation_steps": 2, "dataset": "letters",
    "learning_rate": 3e-2, "min_lr": 1e-3, "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.97,
    "grad_clip": 0.5, "decay_lr": False, "warmup_iters": 2000, "lr_decay_iters": 600_000,
    "max_iters": 12, "dropout": 0.0, "bias": False, "init_from": "scratch", "compile": True,
}  # fmt: skip


class Miniature(nn.Module):
    """A GPT-2 whose parameters have nanoGPT's names, layout and order."""

    def __init__(self, config):
        super().__init__()
        C, self.n_head = config.n_embd, config.n_head

        def norm():
            return nn.LayerNorm(C, bias=config.bias)

        def linear(rows, columns):
            return nn.Linear(rows, columns, bias=config.bias)

        def block():
            attn = {"c_attn": linear(C, 3 * C), "c_proj": linear(C, C)}
            mlp = {"c_fc": linear(C, 4 * C), "c_proj": linear(4 * C, C)}
            parts = {"ln_1": norm(), "attn": attn, "ln_2": norm(), "mlp": mlp}
            return modules({k: modules(v) if isinstance(v, dict) else v for k, v in parts.items()})

        modules = nn.ModuleDict
        self.transformer = modules(
            {
                "wte": nn.Embedding(config.vocab_size, C),
                "wpe": nn.Embedding(config.block_size, C),
                "h": nn.ModuleList(block() for _ in range(config.n_layer)),
                "ln_f": norm(),
            }
        )
        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, x, y):
        parts = self.transformer
        hidden = parts["wte"](x) + parts["wpe"].weight[: x.shape[1]]
        for block in parts["h"]:
            attn, mlp = block["attn"], block["mlp"]
            qkv = attn["c_attn"](block["ln_1"](hidden)).unflatten(-1, (3, self.n_head, -1))
            q, k, v = qkv.transpose(1, 3).unbind(2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            hidden = hidden + attn["c_proj"](mixed.transpose(1, 2).flatten(2))
            hidden = hidden + mlp["c_proj"](F.gelu(mlp["c_fc"](block["ln_2"](hidden))))
        logits = self.lm_head(parts["ln_f"](hidden))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def adamw(model, settings):
    """AdamW as nanoGPT sets it up: what has_weight_decay, then what does not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = settings["beta1"], settings["beta2"]
    return torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=betas)


def rate(it, settings):
    """nanoGPT's learning rate."""
    peak, low, warmup = (settings[n] for n in ("learning_rate", "min_lr", "warmup_iters"))
    if not settings["decay_lr"]:
        return peak
    if it < warmup:
        return peak * (it + 1) / (warmup + 1)
    along = min(1.0, (it - warmup) / (settings["lr_decay_iters"] - warmup))
    return low + 0.5 * (1.0 + math.cos(math.pi * along)) * (peak - low)


def advance(model, optimizer, settings, loader, iterations):
    """Train; return the loss of each iteration."""
    losses, count = [], settings["gradient_accumulation_steps"]
    for it in iterations:
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = rate(it, settings)
        total = 0.0
        for _ in range(count):
            x, y = (torch.from_numpy(a).long() for a in loader.next_batch())
            loss = model(x, y) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def started(config=SHAPE, settings=SETTINGS, iterations=3):
    """A model, its optimizer and its loader after some iterations; the biases are not zero."""
    torch.manual_seed(0)
    model = Miniature(config)
    optimizer = adamw(model, settings)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 9000).astype(np.uint16)
    loader = BatchLoader(tokens, B, T)
    advance(model, optimizer, settings, loader, range(iterations))
    return model, optimizer, loader


def content_of(model, optimizer, config=SHAPE, settings=SETTINGS, **more):
    """What nanoGPT's train.py saves."""
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias")
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": {n: getattr(config, n) for n in names} | {"dropout": settings["dropout"]},
        "iter_num": 3,
        "best_val_loss": torch.tensor(4.25),
        "config": settings,
    } | more


@pytest.fixture(scope="module")
def content():
    return content_of(*started()[:2])


@pytest.fixture
def saved(content, tmp_path):
    """Write what nanoGPT saves, changed, and return the file."""

    def saved(drop=(), **changes):
        kept = {k: v for k, v in (content | changes).items() if k not in drop}
        torch.save(kept, tmp_path / "ckpt.pt")
        return tmp_path / "ckpt.pt"

    return saved


def options_of(path) -> TrainConfig:
    return TrainConfig.from_dict(registry.read(str(path))[0].training.options, str(path))


# On in a twin.


CURVE = {"decay_lr": True, "warmup_iters": 5, "lr_decay_iters": 9}
RUNS = {
    "constant, no biases": (SHAPE, SETTINGS, 3),
    "to the end of the cosine and past it": (
        dataclasses.replace(SHAPE, bias=True),
        SETTINGS | CURVE | {"gradient_accumulation_steps": 1},
        3,
    ),
    "of skipped updates": (SHAPE, SETTINGS, 7),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_as_it_would_have(framework, run, tmp_path, call, train):
    """Same losses over the same batches, with its own options and no flag but where and how far."""
    config, settings, iter_num = RUNS[run]
    model, optimizer, loader = started(config, settings)
    content = content_of(model, optimizer, config, settings, iter_num=iter_num)
    torch.save(content, tmp_path / "ckpt.pt")
    loader.tokens[loader.position :].tofile(tmp_path / "on.bin")
    expected = advance(model, optimizer, settings, loader, range(iter_num, 12))
    assert call("convert.__main__", tmp_path / "ckpt.pt", tmp_path / "start").returncode == 0
    where = "--data", tmp_path / "on.bin", "--val_fraction", 0, "--out_dir", tmp_path / "run"
    train(framework, "--resume", tmp_path / "start", *where, *FLOAT32)
    steps = [entry for entry in read_log(tmp_path / "run" / "log.jsonl") if "loss" in entry]
    assert [s["step"] for s in steps] == list(range(iter_num, 12))
    assert [s["loss"] for s in steps] == pytest.approx(expected, rel=1e-6)
    end = read_checkpoint(tmp_path / "run")
    assert end.config == config
    assert end.training.optimizer_step == 12 - iter_num + 3
    assert end.training.exp_avg.keys() == weight_shapes(config).keys()
    FORMATS["nanogpt"].write(tmp_path / "back.pt", end)
    back = torch.load(tmp_path / "back.pt")
    assert back["config"] == settings
    assert {entry["step"].item() for entry in back["optimizer"]["state"].values()} == {
        12 - iter_num + 3
    }
    fresh = Miniature(config)
    fresh.load_state_dict(back["model"])
    for name, parameter in fresh.named_parameters():
        if not name.endswith("c_attn.bias"):  # the keys' walks at random
            assert torch.allclose(parameter, model.get_parameter(name), rtol=1e-4, atol=1e-5), name


def test_every_setting_is_read(saved):
    options = options_of(saved())
    assert (options.data.batch_size, options.data.seq_len) == (B, T)
    assert options.data.data == "data/letters"
    found = dataclasses.asdict(options.optimizer)
    assert found == {
        "steps": 12, "grad_accum": 2, "total_batch_tokens": None, "learning_rate": 3e-2,
        "min_lr": 1e-3, "warmup_steps": 0,
        "warmup_peak": "next", "lr_schedule": "constant", "lr_decay_steps": 600_000,
        "beta1": 0.8, "beta2": 0.97, "eps": 1e-8, "weight_decay": 0.2, "grad_clip": 0.5,
    }  # fmt: skip
    assert options.model.gpt_config() == SHAPE
    found = options_of(saved(config=SETTINGS | CURVE)).optimizer
    assert (found.lr_schedule, found.warmup_steps, found.lr_decay_steps) == ("cosine", 5, 9)


def test_what_its_optimizer_says_counts_before_its_settings(content, saved):
    """As it does in nanoGPT, which loads AdamW's groups: flags of a later start change nothing."""
    options = options_of(saved(config=SETTINGS | {"weight_decay": 9.0, "beta2": 0.5})).optimizer
    assert (options.weight_decay, options.beta2) == (0.2, 0.97)
    options = options_of(saved(config={})).optimizer
    assert (options.weight_decay, options.beta1, options.beta2) == (0.2, 0.8, 0.97)


def test_epsilon_is_its_optimizers(content, saved, tmp_path):
    groups = [group | {"eps": 1e-6} for group in content["optimizer"]["param_groups"]]
    path = saved(optimizer=content["optimizer"] | {"param_groups": groups})
    assert options_of(path).optimizer.eps == 1e-6
    back = written(registry.read(str(path))[0], tmp_path)
    assert [group["eps"] for group in back["optimizer"]["param_groups"]] == [1e-6] * 2


def test_a_file_that_says_nothing_of_its_run(content, saved):
    """Its rate is what the optimizer was at, as far as anyone can tell, and is not warmed up."""
    found = options_of(saved(config={}))
    assert (found.optimizer.lr_schedule, found.optimizer.warmup_steps) == ("constant", 0)
    assert found.data == TrainConfig().data


def test_what_its_batches_are_is_said_of_its_runs_alone(saved, tmp_path):
    run, _ = registry.read(str(saved()))
    assert "samples its batches at random, the twins read the data in order" in run.notes[-1]
    versions = {"framework": "torch"}
    ours = dataclasses.replace(run, training=dataclasses.replace(run.training, versions=versions))
    written(ours, tmp_path)
    assert registry.read(str(tmp_path / "back.pt"))[0].notes == ()


def test_a_constant_rate_of_ours_is_one_there(tmp_path):
    checkpoint = random_checkpoint(SHAPE)
    options = TrainConfig(optimizer=OptimizerOptions(steps=30, learning_rate=0.5)).as_dict()
    training = dataclasses.replace(checkpoint.training, options=options)
    back = written(dataclasses.replace(checkpoint, training=training), tmp_path)
    assert (back["config"]["decay_lr"], back["config"]["learning_rate"]) == (False, 0.5)
    assert (back["config"]["max_iters"], back["config"]["lr_decay_iters"]) == (30, 30)
    assert [group["lr"] for group in back["optimizer"]["param_groups"]] == [0.5] * 2


def test_sequences_are_no_longer_than_the_model(saved):
    """Which nanoGPT's own crop may have made shorter than the settings say."""
    assert options_of(saved(config=SETTINGS | {"block_size": 1024})).data.seq_len == T


def test_whole_numbers_may_be_written_as_real_ones(saved):
    assert options_of(saved(config=SETTINGS | {"max_iters": 6e5})).optimizer.steps == 600_000


def test_dropout_is_said(saved, tmp_path, call, train, content):
    path = saved(model_args=content["model_args"] | {"dropout": 0.2})
    words = "dropout 0.2, the twins without"
    assert words in call("convert.__main__", path, tmp_path / "start").stdout
    out = ("--out_dir", tmp_path / "run", "--steps", 1, "--seq_len", T, "--eval_every", 0)
    np.arange(60, dtype=np.uint16).tofile(tmp_path / "t.bin")
    assert words in train("torch", "--init", path, "--data", tmp_path / "t.bin", *out)
    assert "dropout" not in call("convert.__main__", saved(), tmp_path / "other").stdout


# And back.


def written(checkpoint, tmp_path):
    FORMATS["nanogpt"].write(tmp_path / "back.pt", checkpoint)
    return torch.load(tmp_path / "back.pt")


@pytest.mark.parametrize("bias", [False, True])
def test_nanogpt_takes_model_and_optimizer_back(bias, tmp_path):
    """torch itself loads both, and every moment lies with its parameter."""
    config = dataclasses.replace(SHAPE, bias=bias)
    model, optimizer, _ = started(config)
    torch.save(content_of(model, optimizer, config), tmp_path / "ckpt.pt")
    back = written(registry.read(str(tmp_path / "ckpt.pt"))[0], tmp_path)
    assert back["model_args"]["bias"] is bias
    fresh = Miniature(config)
    fresh.load_state_dict(back["model"])
    other = adamw(fresh, SETTINGS | {"weight_decay": 7.0, "beta1": 0.1})
    other.load_state_dict(back["optimizer"])
    assert [g["weight_decay"] for g in other.param_groups] == [0.2, 0.0]
    assert [g["betas"] for g in other.param_groups] == [(0.8, 0.97)] * 2
    assert [g["eps"] for g in other.param_groups] == [1e-8] * 2
    for name, parameter in model.named_parameters():
        before, after = optimizer.state[parameter], other.state[fresh.get_parameter(name)]
        for part in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(before[part], after[part]), (name, part)


def test_there_and_back_changes_nothing_that_it_says(content, saved, tmp_path):
    run = registry.read(str(saved(note="mine", seen=10**9, best=True)))[0]
    write_checkpoint(tmp_path / "run", run)
    back = written(read_checkpoint(tmp_path / "run"), tmp_path)
    assert back["config"] == SETTINGS
    assert back["model_args"] == content["model_args"]
    assert (back["iter_num"], back["best_val_loss"]) == (3, 4.25)
    assert (back["note"], back["seen"], back["best"]) == ("mine", 10**9, True)


def changed(checkpoint, group, **options):
    groups = checkpoint.training.options
    training = dataclasses.replace(
        checkpoint.training, options=groups | {group: groups[group] | options}
    )
    return dataclasses.replace(checkpoint, training=training)


def test_what_the_run_has_changed_is_said_in_the_settings(saved, tmp_path):
    run = changed(registry.read(str(saved()))[0], "optimizer", steps=40)
    assert written(run, tmp_path)["config"] == SETTINGS | {"max_iters": 40}
    run = changed(run, "data", data="data/words", batch_size=5)
    now = {"max_iters": 40, "dataset": "words", "batch_size": 5}
    assert written(run, tmp_path)["config"] == SETTINGS | now
    for path in ("elsewhere/tokens.bin", "data/tokens.bin"):  # no folder of nanoGPT's
        run = changed(run, "data", data=path)
        assert written(run, tmp_path)["config"]["dataset"] == "letters"


def test_a_run_of_ours_goes_there_and_back_whole(call, train, tmp_path):
    """Every option, the place in the data, and what a resumed run does next."""
    options = [
        "--activation", "gelu", "--bias", "False", "--lr_schedule", "cosine", "--warmup_steps", 5,
        "--lr_decay_steps", 9, "--learning_rate", 1e-2, "--grad_accum", 2, "--seed", 7,
        "--preset", "tiny", "--vocab_size", 50300, "--seq_len", 8, "--eval_every", 0, *FLOAT32,
    ]  # fmt: skip
    train("torch", *options, "--steps", 2, "--out_dir", tmp_path / "run")
    assert call("convert.__main__", tmp_path / "run", tmp_path / "c.pt", "--to", "nanogpt")
    assert call("convert.__main__", tmp_path / "c.pt", tmp_path / "on")
    before, after = read_checkpoint(tmp_path / "run"), read_checkpoint(tmp_path / "on")
    for name in ("step", "optimizer_step", "loader", "options", "versions"):
        assert getattr(after.training, name) == getattr(before.training, name), name
    assert after.config == before.config
    settings = torch.load(tmp_path / "c.pt")["config"]
    assert (settings["decay_lr"], settings["warmup_iters"]) == (True, 5)
    assert (settings["max_iters"], settings["lr_decay_iters"]) == (2, 9)
    assert "dataset" not in settings


def test_weights_alone_can_be_trained_on(tmp_path):
    """nanoGPT resumes from nothing else, and wants an optimizer."""
    back = written(Checkpoint(SHAPE, random_weights(SHAPE)), tmp_path)
    assert (back["iter_num"], back["best_val_loss"]) == (0, 1e9)
    model = Miniature(SHAPE)
    model.load_state_dict(back["model"])
    optimizer = adamw(model, SETTINGS)
    optimizer.load_state_dict(back["optimizer"])
    assert not optimizer.state
    loader = BatchLoader(np.arange(65, dtype=np.uint16), B, T)
    advance(model, optimizer, SETTINGS, loader, range(1))
    assert registry.read(str(tmp_path / "back.pt"))[0].training is None


# Files that are wrong.


def nested(depth=40):
    value = [0]
    for _ in range(depth):
        value = [value, value]
    return value


def wrong_shape(**fields):
    return lambda content: {"model_args": content["model_args"] | fields}


def wrong_entry(**fields):
    def change(content):
        state = content["optimizer"]["state"]
        return {"optimizer": content["optimizer"] | {"state": state | {0: state[0] | fields}}}

    return change


LIST = torch.arange(3.0)
WRONG = [
    (wrong_shape(n_layer=10**5), "expected the tensors of 100000 layers"),
    (wrong_shape(vocab_size=10**9), "expected the bytes of"),
    (wrong_shape(n_layer=10**600), "n_layer: expected a whole number, got int"),
    (wrong_shape(n_head=nested()), "n_head: expected a whole number, got list"),
    (wrong_shape(n_head=3), "n_embd must be divisible by n_head"),
    (wrong_shape(bias=LIST), "bias: expected true or false, got Tensor"),
    (wrong_shape(bias=True), "missing transformer.h.0.ln_1.bias"),
    (lambda _: {"model_args": LIST}, "model_args: expected a dict, got Tensor"),
    (lambda _: {"model": LIST}, "model: expected tensors by name, got Tensor"),
    (lambda _: {"optimizer": LIST}, "optimizer: expected a dict, got Tensor"),
    (lambda _: {"optimizer": {"state": LIST}}, "optimizer: state: expected a dict, got Tensor"),
    (lambda _: {"optimizer": {"state": {0: 1}}}, "expected 15 parameters, got 1"),
    (wrong_entry(exp_avg=nested()), "expected tensors by name"),
    (wrong_entry(step=torch.tensor(7.0)), "one whole number as the step of all"),
    (wrong_entry(step=torch.tensor(math.inf)), "one whole number as the step of all"),
    (lambda _: {"iter_num": math.inf}, "iter_num: expected a whole number, got inf"),
    (lambda _: {"iter_num": LIST}, "iter_num: expected a whole number, got Tensor"),
    (lambda _: {"iter_num": -1}, "iter_num must not be negative, got -1"),
    (lambda _: {"iter_num": 10**30}, "iter_num: expected a whole number"),
    (lambda _: {"config": SETTINGS | {"batch_size": 2.5}}, "batch_size: expected a whole number"),
    (lambda _: {"config": SETTINGS | {"min_lr": "low"}}, "min_lr: expected a number, got 'low'"),
    (lambda _: {"config": SETTINGS | {"max_iters": 0}}, "config: steps must be positive, got 0"),
    (lambda _: {"gpt_twins": "[" * 100_000}, "gpt_twins: expected the state of a run in JSON"),
    (lambda _: {"gpt_twins": "5"}, "gpt_twins: expected the state of a run in JSON"),
    (lambda _: {"gpt_twins": "{}"}, "gpt_twins: loader: expected an object, got None"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_strange_file_is_one_short_line(change, words, content, saved, call, tmp_path):
    path = saved(**change(content))
    result = call("convert.__main__", path, tmp_path / "out")
    assert_one_line_error(result, f"{path}: ", words)
    assert len(result.stderr) < 500
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "strange",
    [
        {"config": LIST}, {"config": SETTINGS | {"decay_lr": LIST}}, {"gpt_twins": LIST},
        {"best_val_loss": nested()}, {"config": SETTINGS | {"note": "x" * 100_000}},
        {"config": SETTINGS | {"note": nested(), "n": 10**600}},
        {"best_val_loss": math.nan}, {"best_val_loss": torch.empty((), device="meta")},
    ],
)  # fmt: skip
def test_what_need_not_be_read_does_no_harm(strange, saved, tmp_path):
    write_checkpoint(tmp_path / "run", registry.read(str(saved(**strange)))[0])
    back = written(read_checkpoint(tmp_path / "run"), tmp_path)
    assert (tmp_path / "run" / "training_state.json").stat().st_size < 10_000
    assert back["iter_num"] == 3


# Models without biases, wherever they go.


def test_such_a_folder_is_an_ordinary_one(tmp_path, recwarn):
    """transformers opens it, without a word, as the same function; AdamW has nothing for zeros."""
    checkpoint = random_checkpoint(SHAPE)
    write_checkpoint(tmp_path / "c", checkpoint)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["bias"] is False
    model, report = GPT2LMHeadModel.from_pretrained(tmp_path / "c", output_loading_info=True)
    assert not any(report.values())
    assert not recwarn.list
    x = np.arange(T)[None]
    expected = ReferenceGPT(SHAPE, checkpoint.weights)(x, x).logits
    found = model.eval()(torch.from_numpy(x)).logits.detach().numpy()
    assert found == pytest.approx(expected, abs=1e-5)
    moments = read_safetensors(tmp_path / "c" / "optimizer.safetensors")
    assert not any(name.endswith(".bias") for name in moments)


def test_the_configuration_of_a_model_with_biases_says_nothing_of_them(odd_config, tmp_path):
    write_checkpoint(tmp_path / "c", Checkpoint(odd_config, random_weights(odd_config)))
    assert "bias" not in json.loads((tmp_path / "c" / "config.json").read_text())


def test_zeros_may_be_absent_and_must_be_zero(tmp_path):
    weights = random_weights(SHAPE)
    write_checkpoint(tmp_path / "c", Checkpoint(SHAPE, weights))
    file = tmp_path / "c" / "model.safetensors"
    whole = {name: np.array(w) for name, w in read_safetensors(file).items()}
    write_safetensors(file, weights)
    assert read_checkpoint(tmp_path / "c").weights.keys() == weights.keys()
    whole["transformer.h.1.mlp.c_fc.bias"][3] = 1e-9
    write_safetensors(file, whole)
    for read in (read_checkpoint, lambda folder: registry.read(str(folder))):
        with pytest.raises(InputError, match=r"h\.1\.mlp\.c_fc\.bias: expected zeros"):
            read(tmp_path / "c")


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.write])
def test_there_and_back_in_every_format(name, tmp_path, call):
    """As they are; where a format has no word for them, with zeros, which the command says."""
    form = FORMATS[name]
    activation = "gelu" if name == "nanogpt" else "gelu_new"
    config = dataclasses.replace(SHAPE, activation=activation)
    weights = random_weights(config)
    write_checkpoint(tmp_path / "c", Checkpoint(config, weights))
    result = call("convert.__main__", tmp_path / "c", tmp_path / "there", "--to", name)
    assert ("no models without biases" in result.stdout) == form.needs_biases
    found = registry.read(str(tmp_path / "there"))[0]
    assert found.config.bias == form.needs_biases
    for weight, array in found.weights.items():
        if weight in weights:
            assert array.tobytes() == weights[weight].tobytes(), weight
        else:
            assert form.needs_biases
            assert not array.any(), weight


def test_a_run_from_the_flag_on(framework, call, train, tmp_path):
    """Trained, saved and resumed; no bias appears anywhere."""
    np.arange(60, dtype=np.uint16).tofile(tmp_path / "t.bin")
    flags = ("--preset", "tiny", "--bias", "False", "--vocab_size", 65, "--seq_len", 8)
    where = ("--data", tmp_path / "t.bin", "--eval_every", 0, "--out_dir", tmp_path / "run")
    train(framework, *flags, *where, "--steps", 1)
    train(framework, "--resume", tmp_path / "run", "--steps", 2)
    end = read_checkpoint(tmp_path / "run")
    assert (end.config.bias, end.training.step) == (False, 2)
    assert end.weights.keys() == end.training.exp_avg.keys()
    assert not any(name.endswith(".bias") for name in end.weights)
    result = call(f"gpt_{framework}.train", "--init", tmp_path / "run", "--bias", "True")
    assert_one_line_error(result, "bias is False, got --bias True")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_parameters_are_counted_without_naming_them(bias, n_layer):
    config = dataclasses.replace(SHAPE, bias=bias, n_layer=n_layer)
    assert num_parameters(config) == sum(math.prod(s) for s in weight_shapes(config).values())
    deep = num_parameters(dataclasses.replace(config, n_layer=10**9))
    assert deep > 10**9 * 12 * SHAPE.n_embd**2


def test_the_reference_without_biases_is_one_with_zeros():
    config = dataclasses.replace(SHAPE, bias=True)
    weights = random_weights(SHAPE)
    zeros = {n: np.zeros(s, np.float32) for n, s in weight_shapes(config).items()}
    x = np.arange(T)[None]
    found = ReferenceGPT(SHAPE, weights)(x, x)
    expected = hugging_face_outcome(config, zeros | weights, x, x)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.gradients.keys() == weights.keys()
    for name, gradient in found.gradients.items():
        assert gradient == pytest.approx(expected.gradients[name], rel=1e-9, abs=1e-12), name
