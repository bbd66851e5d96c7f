"""Files that other people's programs write, and ours as they read them."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt_common.formats import openai, registry, torch_files
from gpt_common.formats.registry import FORMATS
from gpt_common.hf_config import config_to_hf
from gpt_common.weights import weight_shapes
from tests.checkpoints import (
    ODD,
    assert_same,
    assert_same_as,
    hugging_face,
    model,
    nanogpt_state,
    written,
)
from tests.conftest import random_weights


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
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(ODD)))
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert_same_as(reference, tmp_path)


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
