"""`import gpt_torch` and `import gpt_flax`: the names that a library user finds."""

import importlib
import subprocess
import sys

import pytest

from gpt_common.checkpoint import write_checkpoint
from gpt_common.config import GPTConfig
from gpt_common.errors import InputError
from gpt_common.run_folder import step_folder
from tests.conftest import kept_jax_config, random_checkpoint

NAMES = ["GPT", "GPTConfig", "SamplingOptions", "StoppingOptions", "generate", "load"]


@pytest.fixture
def twin(framework):
    return importlib.import_module(f"gpt_{framework}")


def test_to_import_a_package_imports_nothing_that_takes_time():
    script = "import gpt_torch, gpt_flax, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    slow = {"torch", "jax", "flax", "numpy", "tyro", "gpt_common.config", "gpt_torch.model"}
    assert not slow & set(result.stdout.split())
    assert "gpt_common.lazy" in result.stdout


def test_the_public_names(twin, framework):
    assert twin.__all__ == NAMES
    assert set(NAMES) < set(dir(twin))
    public = {}
    exec(f"from gpt_{framework} import *", public)
    assert set(NAMES) < set(public)
    assert public["GPTConfig"] is GPTConfig
    model = importlib.import_module(f"gpt_{framework}.model")
    assert public["GPT"] is model.GPT


def test_any_other_name_is_pythons_own_error(twin, framework):
    with pytest.raises(AttributeError, match=f"module 'gpt_{framework}' has no attribute 'GTP'"):
        twin.GTP  # noqa: B018


def test_generate_is_the_function_however_its_module_was_imported(twin, framework, monkeypatch):
    module = importlib.import_module(f"gpt_{framework}.generate")
    assert twin.generate is module.generate
    twin.generate = module  # as Python does when it imports the module
    assert twin.generate is module.generate
    monkeypatch.delattr(twin, "generate")
    assert twin.generate is module.generate


def loaded(twin, framework, *args, **kwargs):
    """What `generate` takes first, and the weights of the embedding."""
    with kept_jax_config():
        if framework == "torch":
            model = twin.load(*args, **kwargs)
            return (model,), model.wte.weight
        params, model = twin.load(*args, **kwargs)
        return (params, model), params["wte"]["embedding"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_model_is_loaded_in_the_dtype_of_its_weights(twin, framework, checkpoint_folder, dtype):
    _, embedding = loaded(twin, framework, checkpoint_folder, dtype, device="cpu")
    assert str(embedding.dtype).endswith("float64" if dtype == "float64" else "float32")


def test_both_twins_generate_the_same_tokens(checkpoint_folder):
    tokens = []
    for framework in ("torch", "flax"):
        twin = importlib.import_module(f"gpt_{framework}")
        model, _ = loaded(twin, framework, str(checkpoint_folder))
        sampling, stopping = twin.SamplingOptions(seed=1), twin.StoppingOptions(max_new_tokens=5)
        (completion,) = twin.generate(*model, [[5, 6]], sampling, stopping)
        tokens.append(completion.tokens)
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 5


def test_a_damaged_checkpoint_that_is_skipped_is_a_warning(twin, framework, odd_config, tmp_path):
    for step in (1, 2):
        write_checkpoint(step_folder(tmp_path, step), random_checkpoint(odd_config, step))
    (step_folder(tmp_path, 2) / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped a damaged checkpoint"):
        loaded(twin, framework, tmp_path, device="cpu")


def test_a_device_that_is_not_there(twin, framework, checkpoint_folder):
    with pytest.raises(InputError, match="device npu: expected one of"):
        loaded(twin, framework, checkpoint_folder, device="npu")
