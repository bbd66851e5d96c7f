"""Every format to every other, bit for bit; files of other people's programs; and wrong ones."""

import dataclasses
import fnmatch
import json
import pickle
import shutil
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_common.checkpoint import Checkpoint, TrainingState, to_hugging_face
from gpt_common.config import GPTConfig, TrainConfig
from gpt_common.errors import InputError
from gpt_common.formats import huggingface, huggingface_hub, openai, registry, torch_files
from gpt_common.formats.registry import FORMATS
from gpt_common.weights import weight_shapes
from tests.conftest import assert_one_line_error, random_weights

ODD = GPTConfig(n_layer=3, n_head=5, n_embd=40, block_size=23, vocab_size=997)
WRITTEN = [name for name, form in FORMATS.items() if form.write]


def activation_of(name):
    return "gelu" if name == "nanogpt" else "gelu_new"


def model(activation="gelu_new", dtype=np.float32, training=False):
    config = dataclasses.replace(ODD, activation=activation)
    weights = {k: w.astype(dtype) for k, w in random_weights(config).items()}
    state = TrainingState(
        step=9,
        exp_avg=random_weights(config, 2, 1e-3),
        exp_avg_sq={k: v**2 for k, v in random_weights(config, 3, 1e-3).items()},
        loader={"position": 0},
        options=TrainConfig().as_dict(),
    )
    return Checkpoint(config, weights, state if training else None)


def written(name, folder, checkpoint):
    """Write a checkpoint in a format, into a folder, and return where it lies."""
    path = folder / {"torch": "a.pt", "flax": "a.msgpack", "llmc": "a.bin"}.get(name, name)
    FORMATS[name].write(path, checkpoint)
    return path


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert first[name].tobytes() == second[name].tobytes(), name


# nanoGPT computes the erf GELU, these two the tanh form: no model is both.
TANH = {"build-nanogpt", "llmc"}
PAIRS = [
    (first, second)
    for first in WRITTEN
    for second in WRITTEN
    if not ("nanogpt" in (first, second) and TANH & {first, second})
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_there_and_back_between_every_two_formats(first, second, tmp_path):
    """From neutral to the first, to the second, and back to neutral."""
    activation = "gelu" if "nanogpt" in (first, second) else "gelu_new"
    checkpoint = model(activation)
    for name in (first, second):
        path = written(name, tmp_path, checkpoint)
        assert registry.detect(path).name == name
        read, form = registry.read(str(path))
        assert form.name == name
        assert read.config == checkpoint.config
        assert_same(read.weights, model(activation).weights)
        checkpoint = dataclasses.replace(read, training=None)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", WRITTEN)
def test_other_types_keep_their_bits(name, dtype, tmp_path):
    checkpoint = model(activation_of(name), dtype)
    if name == "llmc" and dtype != ml_dtypes.bfloat16:
        with pytest.raises(InputError, match="float32 or bfloat16"):
            written(name, tmp_path, checkpoint)
        return
    read, _ = registry.read(str(written(name, tmp_path, checkpoint)))
    assert_same(read.weights, checkpoint.weights)


@pytest.mark.parametrize("name", [n for n in WRITTEN if FORMATS[n].keeps_training])
def test_the_state_of_a_run_is_kept(name, tmp_path):
    checkpoint = model(activation_of(name), training=True)
    read, _ = registry.read(str(written(name, tmp_path, checkpoint)))
    assert read.training.step == 9
    assert_same(read.training.exp_avg, checkpoint.training.exp_avg)
    assert_same(read.training.exp_avg_sq, checkpoint.training.exp_avg_sq)


@pytest.mark.parametrize("name", ["build-nanogpt", "llmc"])
def test_an_activation_is_never_swapped(name, tmp_path):
    with pytest.raises(InputError, match=r"computes gelu_new .* this model's activation is gelu"):
        written(name, tmp_path, model("gelu"))
    with pytest.raises(InputError, match="computes gelu and"):
        written("nanogpt", tmp_path, model("gelu_new"))


# Files that other people's programs write.


def hugging_face(**changes):
    torch.manual_seed(0)
    fields = to_hugging_face(ODD) | changes
    return GPT2LMHeadModel(GPT2Config(**fields)).eval()


def assert_same_as(reference, path):
    """The weights of a Hugging Face model, by name."""
    checkpoint, _ = registry.read(str(path))
    state = reference.state_dict()
    assert checkpoint.weights.keys() == weight_shapes(ODD).keys()
    for name, weight in checkpoint.weights.items():
        assert weight.tobytes() == state[name].numpy().tobytes(), name
    return checkpoint


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_folders_that_transformers_saves(shard, tmp_path):
    reference = hugging_face()
    reference.save_pretrained(tmp_path, max_shard_size=shard)
    assert ((tmp_path / "model.safetensors.index.json").exists()) == (shard == "100KB")
    assert_same_as(reference, tmp_path)


@pytest.mark.parametrize("name", ["huggingface", "huggingface-sharded", "huggingface-bin"])
def test_folders_that_transformers_opens(name, tmp_path):
    path = written(name, tmp_path, model())
    opened = GPT2LMHeadModel.from_pretrained(path).state_dict()
    for weight, array in model().weights.items():
        assert opened[weight].numpy().tobytes() == array.tobytes()
    assert (
        opened["lm_head.weight"].numpy().tobytes()
        == opened["transformer.wte.weight"].numpy().tobytes()
    )


@pytest.mark.parametrize("legacy", [True, False])
def test_the_released_layout_of_gpt2(legacy, tmp_path):
    """Names without a prefix, mask buffers, a stored head, and torch's old file format."""
    reference = hugging_face()
    state = {k.removeprefix("transformer."): v for k, v in reference.state_dict().items()}
    for layer in range(ODD.n_layer):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 23, 23).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(ODD)))
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert_same_as(reference, tmp_path)


def nanogpt_state(reference, prefix=""):
    """The state dict that nanoGPT has for these weights: linear kernels the other way round."""
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {
        prefix + name: (v.T.contiguous() if name.endswith(linear) else v)
        for name, v in reference.state_dict().items()
    }


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_nanogpt(prefix, tmp_path):
    reference = hugging_face()
    shape = {
        k: getattr(ODD, k) for k in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    }
    content = {
        "model": nanogpt_state(reference, prefix=prefix),
        "model_args": shape | {"bias": True, "dropout": 0.0},
        "iter_num": 3,
    }
    torch.save(content, tmp_path / "ckpt.pt")
    assert assert_same_as(reference, tmp_path / "ckpt.pt").config.activation == "gelu"


def test_build_nanogpt_is_written_as_its_program_reads_it(tmp_path):
    """The configuration unpickles as a `GPTConfig` of the program that loads the file."""
    path = written("build-nanogpt", tmp_path, model())
    import __main__

    class GPTConfig:
        pass

    GPTConfig.__module__, GPTConfig.__qualname__ = "__main__", "GPTConfig"
    __main__.GPTConfig = GPTConfig
    try:
        content = torch.load(path, weights_only=False)
    finally:
        del __main__.GPTConfig
    assert type(content["config"]) is GPTConfig
    assert content["config"].vocab_size == 997
    assert content["step"] == 0
    FORMATS["build-nanogpt"].write(path, model(training=True))
    assert torch_files.load(path)["step"] == 9
    assert "lm_head.weight" in content["model"]


@pytest.mark.parametrize(("version", "dtype"), [(3, np.float32), (5, ml_dtypes.bfloat16)])
def test_llmc_by_its_own_layout(version, dtype, tmp_path):
    """Written here from llm.c's description, by hand."""
    weights = {k: w.astype(dtype) for k, w in random_weights(ODD).items()}
    header = np.zeros(256, np.int32)
    header[:8] = (20240326, version, 23, 997, 3, 5, 40, 1024)
    wte = np.concatenate([weights["transformer.wte.weight"], np.zeros((27, 40), dtype)])
    parts = [header.tobytes(), wte.tobytes(), weights["transformer.wpe.weight"].tobytes()]
    for kind in (
        "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
        "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias",
        "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
    ):  # fmt: skip
        for layer in range(3):
            weight = weights[f"transformer.h.{layer}.{kind}"]
            parts.append((weight.T if weight.ndim == 2 else weight).tobytes())
    parts += [weights[f"transformer.ln_f.{kind}"].tobytes() for kind in ("weight", "bias")]
    (tmp_path / "a.bin").write_bytes(b"".join(parts))
    read, form = registry.read(str(tmp_path / "a.bin"))
    assert form.name == "llmc"
    assert read.config == ODD
    assert_same(read.weights, weights)
    FORMATS["llmc"].write(tmp_path / "b.bin", read)
    assert (tmp_path / "b.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_openai_names():
    names = [openai.tensorflow_name(n) for n in weight_shapes(ODD)]
    assert names[:6] == [
        "model/wte", "model/wpe", "model/h0/ln_1/g", "model/h0/ln_1/b",
        "model/h0/attn/c_attn/w", "model/h0/attn/c_attn/b",
    ]  # fmt: skip
    assert names[-2:] == ["model/ln_f/g", "model/ln_f/b"]


def test_openais_tensorflow_checkpoint(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    weights = random_weights(ODD)
    with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
        for name, weight in weights.items():
            kernel = weight.ndim == 2 and ".h." in name
            tensorflow.compat.v1.get_variable(
                openai.tensorflow_name(name), initializer=weight[None] if kernel else weight
            )
        session.run(tensorflow.compat.v1.global_variables_initializer())
        tensorflow.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    hparams = {"n_vocab": 997, "n_ctx": 23, "n_embd": 40, "n_head": 5, "n_layer": 3}
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    read, form = registry.read(str(tmp_path))
    assert form.name == "openai"
    assert read.config == ODD
    assert_same(read.weights, weights)


def test_a_hub_name_is_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--small-gpt2"
    snapshot = repository / "snapshots" / ("0" * 40)
    hugging_face().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    folder = huggingface_hub.download("someone/small-gpt2")
    assert_same_as(hugging_face(), folder)


def test_a_hub_name_is_downloaded_with_all_that_a_model_needs(tmp_path, monkeypatch):
    """By patterns, of which the Hub sends what fits: first of a repository without safetensors."""
    hub, cache = tmp_path / "hub", tmp_path / "cache"
    hugging_face().save_pretrained(hub)
    (hub / "tf_model.h5").touch()
    state = hugging_face().state_dict()
    torch.save(state, hub / "pytorch_model.bin")

    def snapshot_download(name, allow_patterns):
        assert name == "someone/small-gpt2"
        cache.mkdir(exist_ok=True)
        for path in hub.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert_same_as(hugging_face(), "someone/small-gpt2")
    assert sorted(p.name for p in cache.iterdir()) == ["config.json", "model.safetensors"]
    shutil.rmtree(cache)
    (hub / "model.safetensors").unlink()
    assert_same_as(hugging_face(), "someone/small-gpt2")
    assert sorted(p.name for p in cache.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_a_hub_name_without_a_network_says_how_to_bring_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"no download .* put its config.json and"):
        registry.read("someone/absent")
    for name in ("missing.pt", "/no/such/folder", "./nothing"):
        with pytest.raises(InputError, match=r"no such file or folder$"):
            registry.read(name)


# Wrong ones.


def test_an_untied_head_is_refused(tmp_path):
    reference = hugging_face(tie_word_embeddings=False)
    reference.lm_head.weight.data += 1
    reference.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(InputError, match=r"lm_head.weight differs from transformer.wte.weight"):
        registry.read(str(tmp_path))


def test_names_that_become_one_are_refused(tmp_path):
    weights = random_weights(ODD)
    double = weights | {"ln_f.bias": weights["transformer.ln_f.bias"]}
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(ODD)))
    save_file(double, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"duplicate transformer.ln_f.bias \(again as"):
        registry.read(str(tmp_path))


@pytest.mark.parametrize("name", [n for n in WRITTEN if n not in {"nanogpt", *TANH}])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_their_configuration_are_refused(name, fault, tmp_path):
    checkpoint = model()
    path = written(name, tmp_path, checkpoint)
    changes = {
        "missing": {"n_layer": 4}, "unexpected": {"n_layer": 2}, "shape": {"block_size": 24}
    }  # fmt: skip
    places = [path / "config.json", path.with_name(path.name + ".json")]
    (config,) = (p for p in places if p.exists())
    other = dataclasses.replace(checkpoint.config, **changes[fault])
    config.write_text(json.dumps(to_hugging_face(other)))
    words = {"missing": "missing .*h.3", "unexpected": "unexpected .*h.2"}
    with pytest.raises(
        InputError,
        match=words.get(fault, r"expected \(24, 40\), got \(23, 40\)").replace("h.", "h[._/]"),
    ):
        registry.read(str(path))


class Evil:
    """Pickles as a call of `os.system`, which a careless reader makes."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("where", ["model.pt", "pytorch_model.bin"])
def test_a_pickle_that_wants_to_run_is_refused_by_name(where, legacy, tmp_path):
    mark = tmp_path / "ran"
    content = {"wte.weight": torch.zeros(3), "model": Evil(mark)}
    torch.save(content, tmp_path / where, _use_new_zipfile_serialization=not legacy)
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(ODD)))
    source = tmp_path / where if where == "model.pt" else tmp_path
    with pytest.raises(InputError, match=r"refused: the file asks for .*system"):
        registry.read(str(source))
    assert not mark.exists()


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    with pytest.raises(InputError):
        registry.read(str(tmp_path / "a.pt"))
    assert not (tmp_path / "ran").exists()


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(InputError, match="entries are not compressed"):
        registry.read(str(tmp_path / "bomb.pt"))


def damages(content, random):
    """Yield a file's content damaged in many ways."""
    for share in (0, 0.01, 0.3, 0.9, 0.999):
        yield content[: int(len(content) * share)]
    for _ in range(4):
        flipped = bytearray(content)
        for place in random.integers(0, min(len(flipped), 600), 3):
            flipped[place] ^= 1 << random.integers(0, 8)
        yield bytes(flipped)
    yield content[:8].replace(content[:8], b"\xff" * 8) + content[8:]
    yield b"\0" * len(content)
    yield content + b"\0" * 1000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
@pytest.mark.parametrize("name", WRITTEN)
def test_damaged_files_are_one_line_and_leave_the_destination(name, tmp_path, call):
    """Or, where the damage is to a number and no more, are read as the number that is there."""
    random = np.random.default_rng(0)
    path = written(name, tmp_path, model(activation_of(name)))
    main = max(([path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]),
               key=lambda p: p.stat().st_size)  # fmt: skip
    content = main.read_bytes()
    target = tmp_path / "target"
    FORMATS["huggingface"].write(target, model())
    before = (target / "model.safetensors").read_bytes()
    refused = 0
    for damaged in damages(content, random):
        main.write_bytes(damaged)
        result = call("convert.__main__", path, target, "--to", "huggingface", "--overwrite")
        if result.returncode == 0:
            FORMATS["huggingface"].write(target, model())
            continue
        assert_one_line_error(result)
        assert (target / "model.safetensors").read_bytes() == before
        refused += 1
    assert refused >= 7


# The command line.


def test_a_run_converts_to_and_fro(tmp_path, call):
    source = written("huggingface", tmp_path, model(training=True))
    for first, second in (
        (source, "a.bin"), ("a.bin", "b.msgpack"), ("b.msgpack", "c.pt"), ("c.pt", "d")
    ):  # fmt: skip
        result = call("convert.__main__", tmp_path / first, tmp_path / second)
        assert result.returncode == 0, result.stderr
        assert f"{sum(np.prod(s) for s in weight_shapes(ODD).values()):,}" in result.stdout
    assert (
        "no place for the state of the run"
        in call("convert.__main__", source, tmp_path / "e.bin").stdout
    )
    assert_same(registry.read(str(tmp_path / "d"))[0].weights, model().weights)


def test_a_cast_is_asked_for_and_said(tmp_path, call):
    source = written("huggingface", tmp_path, model())
    result = call("convert.__main__", source, tmp_path / "a.bin", "--dtype", "bfloat16")
    assert "cast to bfloat16" in result.stdout
    read, _ = registry.read(str(tmp_path / "a.bin"))
    assert_same(read.weights, {k: w.astype(ml_dtypes.bfloat16) for k, w in model().weights.items()})


def test_a_cast_that_would_make_weights_infinite_is_refused(tmp_path, call):
    checkpoint = model()
    checkpoint.weights["transformer.ln_f.bias"][0] = 70_000
    source = written("huggingface", tmp_path, checkpoint)
    result = call("convert.__main__", source, tmp_path / "out", "--dtype", "float16")
    assert_one_line_error(result, "transformer.ln_f.bias: expected weights that float16 can hold")
    assert not (tmp_path / "out").exists()
    checkpoint.weights["transformer.ln_f.bias"][0] = np.inf  # which it was before, and stays
    FORMATS["huggingface"].write(source, checkpoint)
    assert call("convert.__main__", source, tmp_path / "out", "--dtype", "float16").returncode == 0


def test_the_state_of_a_run_is_left_out_where_weights_are_asked_for(tmp_path, call):
    source = written("huggingface", tmp_path, model(training=True))
    for flags, kept in (((), True), (("--weights_only",), False)):
        out = tmp_path / f"out{kept}"
        result = call("convert.__main__", source, out, *flags)
        assert ("the state of the run: left out" in result.stdout) != kept
        assert (out / "optimizer.safetensors").exists() == kept
        assert (out / "training_state.json").exists() == kept
        assert (registry.read(str(out))[0].training is not None) == kept


@pytest.mark.parametrize("state", [[1], {"state": {0: 1}}, {"state": 3}])
def test_a_strange_optimizer_of_nanogpt_is_one_line(state, tmp_path):
    content = {
        "model": nanogpt_state(hugging_face()),
        "model_args": dataclasses.asdict(ODD),
        "optimizer": state,
    }
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(InputError, match=r"ckpt.pt"):
        registry.read(str(tmp_path / "ckpt.pt"))


def test_padding_of_the_vocabulary_is_kept_or_cut_as_asked(tmp_path, call):
    config = dataclasses.replace(ODD, vocab_size=50304, n_layer=1, activation="gelu")
    weights = random_weights(config)
    checkpoint = dataclasses.replace(model("gelu"), config=config, weights=weights)
    source = written("nanogpt", tmp_path, checkpoint)
    result = call("convert.__main__", source, tmp_path / "whole")
    assert "47 of them padding: kept" in result.stdout
    assert_same(registry.read(str(tmp_path / "whole"))[0].weights, weights)
    result = call("convert.__main__", source, tmp_path / "cut", "--vocab_size", 50257)
    assert "cut to the first 50257" in result.stdout
    read, _ = registry.read(str(tmp_path / "cut"))
    assert read.config.vocab_size == 50257
    embedding = "transformer.wte.weight"
    assert_same(read.weights, weights | {embedding: weights[embedding][:50257]})
    result = call("convert.__main__", source, tmp_path / "more", "--vocab_size", 50305)
    assert_one_line_error(result, "vocab_size must be 1 to 50304, got 50305")


def test_the_moments_are_cut_with_the_vocabulary(tmp_path, call):
    checkpoint = model(training=True)
    source = written("huggingface", tmp_path, checkpoint)
    assert call("convert.__main__", source, tmp_path / "cut", "--vocab_size", 900).returncode == 0
    found, embedding = registry.read(str(tmp_path / "cut"))[0].training, "transformer.wte.weight"
    for moment in ("exp_avg", "exp_avg_sq"):
        before = getattr(checkpoint.training, moment)
        cut = before | {embedding: before[embedding][:900]}
        assert_same(getattr(found, moment), cut)


def test_the_list_names_every_format(call):
    output = call("convert.__main__", "--list").stdout
    assert all(name in output for name in FORMATS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("expected SOURCE and DESTINATION",)),
        (("{tmp}/missing.pt", "{tmp}/out"), ("missing.pt: no such file or folder",)),
        (("{tmp}/huggingface", "{tmp}/out.xyz"), ("expected --to", ".xyz")),
        (("{tmp}/huggingface", "{tmp}/out", "--to", "openai"), ("openai is only read",)),
        (("{tmp}/huggingface", "{tmp}/out", "--to", "onnx"), ("expected --to", "onnx")),
        (("{tmp}/huggingface", "{tmp}/huggingface"), ("there already", "--overwrite")),
        (("{tmp}", "{tmp}/out"), ("expected one of the formats",)),
    ],
)
def test_wrong_input_is_one_line(args, words, tmp_path, call):
    written("huggingface", tmp_path, model())
    args = [a.format(tmp=tmp_path) for a in args]
    assert_one_line_error(call("convert.__main__", *args), *words)
    assert not (tmp_path / "out").exists()


def test_shards_hold_every_tensor_once():
    shards = huggingface.split(model().weights, 50_000)
    assert len(shards) > 5
    assert [name for shard in shards for name in shard] == list(model().weights)
