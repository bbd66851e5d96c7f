import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from gpt_common import checkpoint as checkpoint_module
from gpt_common.checkpoint import read_checkpoint, write_checkpoint
from gpt_common.config import PRESETS
from gpt_common.errors import InputError
from gpt_common.hf_config import config_from_hf, config_to_hf
from gpt_common.run_folder import (
    checkpoint_folders,
    remove_older,
    run_checkpoints,
    step_folder,
    update_latest,
)
from gpt_common.storage import temporary_path
from tests.conftest import random_checkpoint


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert first[name].tobytes() == second[name].tobytes(), name


def test_what_is_written_is_read(odd_config, tmp_path):
    written = random_checkpoint(odd_config)
    write_checkpoint(tmp_path / "c", written)
    read = read_checkpoint(tmp_path / "c")
    assert read.config == odd_config
    assert_same_weights(read.weights, written.weights)
    assert_same_weights(read.training.exp_avg, written.training.exp_avg)
    assert_same_weights(read.training.exp_avg_sq, written.training.exp_avg_sq)
    assert read.training.step == 7
    assert read.training.loader == {"position": 40}


def test_float64_stays_float64(odd_config, tmp_path):
    weights = {
        k: w.astype(np.float64) / 3 for k, w in random_checkpoint(odd_config).weights.items()
    }
    write_checkpoint(tmp_path / "c", checkpoint_module.Checkpoint(odd_config, weights))
    assert_same_weights(read_checkpoint(tmp_path / "c").weights, weights)


def test_files_are_those_of_hugging_face(tmp_path):
    checkpoint_folder = tmp_path / "checkpoint"
    write_checkpoint(checkpoint_folder, random_checkpoint(PRESETS["tiny"]))
    assert {path.name for path in checkpoint_folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "training_state.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    }
    assert (
        (checkpoint_folder / "model.safetensors")
        .read_bytes()[8:]
        .startswith(b'{"__metadata__":{"format":"pt"}')
    )


@pytest.mark.parametrize(("vocab_size", "end"), [(50304, 50256), (50257, 50256), (50256, None)])
def test_where_the_vocabulary_is_gpt2s_the_tokenizer_and_its_end_of_text_go_along(
    vocab_size, end, tmp_path
):
    """Also where rows pad it, as nanoGPT and build-nanogpt train it."""
    config = dataclasses.replace(PRESETS["tiny"], vocab_size=vocab_size)
    write_checkpoint(tmp_path / "c", random_checkpoint(config))
    content = json.loads((tmp_path / "c" / "config.json").read_text())
    assert content["eos_token_id"] == content["bos_token_id"] == end
    assert (tmp_path / "c" / "vocab.json").exists() == (end is not None)


def test_a_configuration_is_that_of_the_released_gpt2():
    """But for dropout, which is not the twins'."""
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    assert config_to_hf(PRESETS["gpt2"]) == dropout | {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 12, "n_head": 12,
        "n_embd": 768, "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True, "add_cross_attention": False, "bos_token_id": 50256,
        "eos_token_id": 50256,
    }  # fmt: skip
    longer = dataclasses.replace(PRESETS["gpt2"], block_size=2048)
    assert config_to_hf(longer)["n_ctx"] == config_to_hf(longer)["n_positions"] == 2048


def test_the_tanh_form_by_its_name_in_pytorch():
    content = config_to_hf(PRESETS["gpt2"]) | {"activation_function": "gelu_pytorch_tanh"}
    assert config_from_hf(content, "config.json") == PRESETS["gpt2"]


def test_transformers_truncates_texts_to_the_length_of_the_model(tmp_path):
    config = dataclasses.replace(PRESETS["tiny"], block_size=19)
    write_checkpoint(tmp_path / "c", random_checkpoint(config))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "c")
    assert tokenizer.model_max_length == 19
    assert len(tokenizer("word " * 200, truncation=True)["input_ids"]) == 19


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_config_there_and_back(preset, activation):
    config = dataclasses.replace(PRESETS[preset], activation=activation)
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config))), "x") == config


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model_type", "llama", "expected model_type gpt2, got 'llama'"),
        ("layer_norm_epsilon", 1e-6, "expected layer_norm_epsilon 1e-05, got 1e-06"),
        ("n_inner", 100, "expected n_inner None, got 100"),
        ("scale_attn_by_inverse_layer_idx", True, "got True"),
        ("scale_attn_weights", False, "expected scale_attn_weights True, got False"),
        ("add_cross_attention", True, "expected add_cross_attention False, got True"),
        ("tie_word_embeddings", False, "expected tie_word_embeddings True"),
        ("activation_function", "relu", "got 'relu'"),
        ("n_head", 7, "n_head 7"),
        ("n_layer", "12", "expected a whole number, got '12'"),
    ],
)
def test_a_config_of_another_model_is_refused(name, value, words):
    content = config_to_hf(PRESETS["gpt2"]) | {name: value}
    with pytest.raises(InputError, match=words):
        config_from_hf(content, "config.json")


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(
    checkpoint_folder, odd_config, monkeypatch
):
    before = {path.name: path.read_bytes() for path in checkpoint_folder.iterdir()}

    def fill_the_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "write_safetensors", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(checkpoint_folder, random_checkpoint(odd_config, step=8))
    assert {path.name: path.read_bytes() for path in checkpoint_folder.iterdir()} == before
    assert [path.name for path in checkpoint_folder.parent.iterdir()] == ["checkpoint"]


def test_a_run_is_read_at_its_latest_checkpoint(odd_config, tmp_path):
    for step in (3, 12):
        folder = step_folder(tmp_path, step)
        write_checkpoint(folder, random_checkpoint(odd_config, step))
        update_latest(tmp_path, folder)
        assert checkpoint_folders(tmp_path)[0] == folder
        assert read_checkpoint(tmp_path).training.step == step


def write_run(run, config, *steps):
    for step in steps:
        write_checkpoint(step_folder(run, step), random_checkpoint(config, step))
        update_latest(run, step_folder(run, step))


def test_where_latest_is_lost_the_newest_whole_checkpoint_is_found(odd_config, tmp_path):
    write_run(tmp_path, odd_config, 999_999, 1_000_000, 3)
    assert read_checkpoint(tmp_path).training.step == 3
    shutil.rmtree(tmp_path / "step_000003")  # latest dangles
    assert read_checkpoint(tmp_path).training.step == 1_000_000
    (tmp_path / "latest").unlink()
    assert read_checkpoint(tmp_path).training.step == 1_000_000
    (tmp_path / "step_1000000" / "optimizer.safetensors").unlink()
    assert read_checkpoint(tmp_path).training.step == 999_999


def test_steps_of_an_abandoned_branch_are_the_last_resort(odd_config, tmp_path):
    """Of a run that went back: where its newest is damaged, what it came from is read."""
    write_run(tmp_path, odd_config, 1, 3, 4, 2)
    (tmp_path / "step_000002" / "model.safetensors").write_bytes(b"")
    assert read_checkpoint(tmp_path).training.step == 1
    (tmp_path / "step_000001" / "model.safetensors").write_bytes(b"")
    assert read_checkpoint(tmp_path).training.step == 4


def test_what_a_killed_run_left_is_not_read(odd_config, tmp_path):
    write_run(tmp_path, odd_config, 3)
    (tmp_path / "latest").unlink()
    shutil.copytree(tmp_path / "step_000003", temporary_path(step_folder(tmp_path, 4)))
    temporary_path(tmp_path / "latest").symlink_to("step_000003")
    assert run_checkpoints(tmp_path) == [tmp_path / "step_000003"]
    assert checkpoint_folders(tmp_path)[0] == tmp_path / "step_000003"


@pytest.mark.parametrize("place", ["run", "run/latest", "run/step_000003"])
def test_a_checkpoint_that_stands_aside_is_read(odd_config, place, tmp_path):
    run = tmp_path / "run"
    write_run(run, odd_config, 2, 3)
    (run / "step_000003").rename(run / ".step_000003-aside.part")
    assert read_checkpoint(tmp_path / place).training.step == 3


@pytest.mark.parametrize(
    ("keep_last", "written", "left"),
    [
        (1, 4, [4, 5]),
        (2, 4, [3, 4, 5]),
        (4, 4, [1, 2, 3, 4, 5]),
        (5, 4, [1, 2, 3, 4, 5]),
        (9, 4, [1, 2, 3, 4, 5]),
        (1, 1, [1, 2, 3, 4, 5]),
        (2, 5, [4, 5]),
    ],
)
def test_older_checkpoints_are_removed(odd_config, keep_last, written, left, tmp_path):
    write_run(tmp_path, odd_config, 1, 2, 3, 4, 5)
    remove_older(step_folder(tmp_path, written), keep_last)
    assert run_checkpoints(tmp_path) == [step_folder(tmp_path, step) for step in left]
    assert sum(1 for _ in tmp_path.iterdir()) == len(left) + 1  # and latest


def damage(folder, name, change):
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)


def rename(tensors):
    tensors["transformer.h.9.ln_1.bias"] = tensors.pop("transformer.h.1.ln_1.bias")


def extra(tensors):
    tensors["transformer.h.9.ln_1.bias"] = np.zeros(3, np.float32)


def transpose(tensors):
    name = "transformer.h.0.mlp.c_fc.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "missing transformer.h.1.ln_1.bias"),
        (extra, "unexpected transformer.h.9.ln_1.bias"),
        (transpose, r"mlp.c_fc.weight: expected \(40, 160\), got \(160, 40\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(checkpoint_folder, change, words):
    damage(checkpoint_folder, "model.safetensors", change)
    with pytest.raises(InputError, match=words):
        read_checkpoint(checkpoint_folder)


def test_moments_that_do_not_fit_are_refused(checkpoint_folder):
    damage(checkpoint_folder, "optimizer.safetensors", lambda t: t.popitem())
    with pytest.raises(InputError, match=r"optimizer.safetensors: missing exp_avg"):
        read_checkpoint(checkpoint_folder)
    read_checkpoint(checkpoint_folder, with_training=False)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(checkpoint_folder, name, share):
    path = checkpoint_folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="expected a whole safetensors file"):
        read_checkpoint(checkpoint_folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "expected format_version 1, got 99"),
        ({"step": "many"}, "expected a whole number, got 'many'"),
        ({"step": -1}, "expected a whole number, got -1"),
        ({"loader": {}}, "position"),
        ({"options": None}, "options: expected an object, got None"),
    ],
)
def test_a_training_state_that_makes_no_sense_is_refused(checkpoint_folder, change, words):
    path = checkpoint_folder / "training_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        read_checkpoint(checkpoint_folder)


def change_a_number(path):
    """So little that the file still fits the others."""
    content = path.read_bytes()
    if path.name == "config.json":
        path.write_bytes(content.replace(b'"n_head": 5', b'"n_head": 4'))
    else:
        path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "optimizer.safetensors"])
def test_a_changed_file_is_refused(checkpoint_folder, name):
    change_a_number(checkpoint_folder / name)
    words = rf"{name}: expected checksum '[0-9a-f]{{8}}', got [0-9a-f]{{8}}: the file is not"
    with pytest.raises(InputError, match=words):
        read_checkpoint(checkpoint_folder)
    if name == "optimizer.safetensors":
        read_checkpoint(checkpoint_folder, with_training=False)
        return
    with pytest.raises(InputError, match=words):
        read_checkpoint(checkpoint_folder, with_training=False)
    (checkpoint_folder / "training_state.json").unlink()  # the weights are somebody else's now
    read_checkpoint(checkpoint_folder)


@pytest.mark.parametrize("checksums", [None, {}, {"config.json": "00000000"}])
def test_checksums_are_required(checkpoint_folder, checksums):
    path = checkpoint_folder / "training_state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"checksums": checksums}))
    words = "expected a checksum of config.json, got none"
    if checksums:
        words = "config.json: expected checksum '00000000'"
    with pytest.raises(InputError, match=words):
        read_checkpoint(checkpoint_folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(checkpoint_folder, content):
    (checkpoint_folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="expected"):
        read_checkpoint(checkpoint_folder)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="got a folder without one"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="got nothing there"):
        read_checkpoint(tmp_path / "absent")
