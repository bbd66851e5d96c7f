"""Files that are refused: damaged, of another model, or made to run code."""

import dataclasses
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from gpt_common.errors import InputError
from gpt_common.formats import registry
from gpt_common.formats.registry import FORMATS
from gpt_common.hf_config import config_to_hf
from tests.checkpoints import (
    ODD,
    TANH,
    WRITTEN,
    activation_of,
    hugging_face,
    model,
    nanogpt_state,
    written,
)
from tests.conftest import assert_one_line_error, random_weights


def test_an_untied_head_is_refused(tmp_path):
    reference = hugging_face(tie_word_embeddings=False)
    reference.lm_head.weight.data += 1
    reference.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(InputError, match=r"expected lm_head.weight tied to transformer.wte.weight"):
        registry.read(str(tmp_path))


def test_names_that_become_one_are_refused(tmp_path):
    weights = random_weights(ODD)
    double = weights | {"ln_f.bias": weights["transformer.ln_f.bias"]}
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(ODD)))
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
    config.write_text(json.dumps(config_to_hf(other)))
    words = {"missing": "missing .*h.3", "unexpected": "unexpected .*h.2"}
    with pytest.raises(
        InputError,
        match=words.get(fault, r"expected \(24, 40\), got \(23, 40\)").replace("h.", "h[._/]"),
    ):
        registry.read(str(path))


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
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(ODD)))
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
