"""Models by their names on the Hugging Face Hub, from its cache, over no network."""

import fnmatch
import shutil

import pytest
import torch

from gpt_common.errors import InputError
from gpt_common.formats import huggingface_hub, registry
from tests.checkpoints import assert_same_as, cached_by_hub, hugging_face


def test_a_hub_name_is_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hugging_face().save_pretrained(cached_by_hub(tmp_path, "someone/small-gpt2"))
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
