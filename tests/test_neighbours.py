"""Other programs open a run's checkpoint and compute the same: what docs/neighbours.md says."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gpt_torch
from gpt_common.checkpoint import write_checkpoint
from gpt_common.config import LAYER_NORM_EPSILON, GPTConfig, SamplingOptions, StoppingOptions
from gpt_common.formats.registry import read_weights
from gpt_common.hellaswag import encode_examples, read_examples
from gpt_common.scoring import sum_logprobs
from gpt_common.tokenizer import byte_characters, encode, token_bytes
from gpt_torch.evaluate import numpy_logprobs
from tests.conftest import random_checkpoint, random_weights
from tests.pages import blocks
from tests.parity.tolerances import LIMITS, relative

PAGE = Path(__file__).parents[1] / "docs" / "neighbours.md"
HELLASWAG = Path(__file__).with_name("hellaswag.jsonl")
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=128, vocab_size=50257)
MODEL = "models/mine"  # the name on the page
# llama.cpp's names of the parts of GPT-2, and ours.
GGUF_NAMES = {
    "token_embd": "wte",
    "position_embd": "wpe",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
    "output_norm": "ln_f",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Return a folder in which `models/mine` is a run's checkpoint."""
    weights = random_weights(CONFIG)
    for name in weights:
        if name.endswith(".bias"):
            weights[name] *= 0.1  # else the last one decides each token
    folder = tmp_path_factory.mktemp("neighbours")
    checkpoint = dataclasses.replace(random_checkpoint(CONFIG), weights=weights)
    write_checkpoint(folder / MODEL, checkpoint)
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def code_of_the_page(name: str) -> str:
    """Return the block of Python on the page in which `name` occurs."""
    (code,) = [b.code for b in blocks(PAGE) if b.language == "python" and name in b.code]
    return code


def run(*arguments: object, **environment: str) -> None:
    """Run Python in a process of its own, where another program's warnings are no errors."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(PAGE.parents[1])} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def test_the_pipeline_of_transformers_continues_as_we_do(capsys):
    exec(code_of_the_page("pipeline("), {})
    model = gpt_torch.load(MODEL, device="cpu")
    greedy, length = SamplingOptions(temperature=0), StoppingOptions(max_new_tokens=20)
    (ours,) = gpt_torch.generate(model, [encode("Hello, I am")], greedy, length)
    assert capsys.readouterr().out == f"Hello, I am{ours.text}\n"


def test_lm_eval_scores_each_ending_as_we_do(tmp_path):
    lm_eval = importlib.util.find_spec("lm_eval")
    if lm_eval is None:
        pytest.skip("needs lm_eval")
    task = {
        "include": f"{Path(lm_eval.origin).parent}/tasks/hellaswag/hellaswag.yaml",
        "task": "hellaswag_file",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(HELLASWAG)}},
        "training_split": None,
    }
    (tmp_path / "hellaswag_file.yaml").write_text(json.dumps(task))  # JSON is YAML
    flags = ("--model", "hf", "--model_args", f"pretrained={MODEL},dtype=float32")
    flags += ("--tasks", task["task"], "--include_path", tmp_path, "--device", "cpu")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    run("-m", "lm_eval", *flags, "--log_samples", "--output_path", tmp_path / "out", **offline)
    (samples,) = tmp_path.glob("out/**/samples_*.jsonl")
    answers = [json.loads(line)["resps"] for line in samples.read_text().splitlines()]
    theirs = np.array([[float(ending[0][0]) for ending in answer] for answer in answers])
    np.testing.assert_allclose(theirs, ending_logprobs(), rtol=1e-6)


def ending_logprobs() -> np.ndarray:
    """Return our log-probabilities of the endings, `(12, 4)`."""
    logprobs = numpy_logprobs(gpt_torch.load(MODEL, device="cpu"), "float32")
    examples = encode_examples(read_examples(str(HELLASWAG)), "lm-eval", CONFIG)
    shape = (4, CONFIG.block_size)
    return np.stack([sum_logprobs(example.rows, shape, logprobs) for example in examples])


def test_llama_cpps_script_keeps_every_bit_and_the_vocabulary():
    gguf = pytest.importorskip("gguf")
    if "LLAMA_CPP" not in os.environ:
        pytest.skip("needs a clone of llama.cpp, named by LLAMA_CPP")
    script = Path(os.environ["LLAMA_CPP"]) / "convert_hf_to_gguf.py"
    run(script, MODEL, "--outfile", "mine.gguf", "--outtype", "f32")
    reader = gguf.GGUFReader("mine.gguf")
    theirs = {our_name(t.name): our_layout(t.name, t.data) for t in reader.tensors}
    ours = read_weights(MODEL).weights
    assert theirs.keys() == ours.keys()
    for name, weight in ours.items():
        np.testing.assert_array_equal(theirs[name], weight, strict=True, err_msg=name)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["gpt2.context_length"] == CONFIG.block_size
    assert fields["gpt2.attention.head_count"] == CONFIG.n_head
    assert fields["gpt2.attention.layer_norm_epsilon"] == np.float32(LAYER_NORM_EPSILON)
    assert fields["tokenizer.ggml.pre"] == "gpt-2"  # how a text is split into words
    to_byte = {character: byte for byte, character in byte_characters().items()}
    vocabulary = [bytes(map(to_byte.get, token)) for token in fields["tokenizer.ggml.tokens"]]
    assert vocabulary == [token_bytes(token) for token in range(CONFIG.vocab_size)]


def our_name(name: str) -> str:
    """Return our name of a tensor that llama.cpp calls `blk.0.attn_qkv.weight`."""
    *block, part, kind = name.split(".")
    return ".".join(["transformer", *(["h", block[1]] if block else []), GGUF_NAMES[part], kind])


def our_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Return a tensor of llama.cpp's as we store it: linear kernels are `(in, out)`."""
    return array.T if ".c_" in our_name(name) else array


def test_onnxruntime_computes_the_same_logits():
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    run("-c", code_of_the_page("torch.onnx.export"))
    session = onnxruntime.InferenceSession("mine.onnx")
    model = gpt_torch.load(MODEL, device="cpu")
    random = np.random.default_rng(0)
    for shape in ((1, 1), (3, 17), (2, CONFIG.block_size)):
        tokens = random.integers(CONFIG.vocab_size, size=shape)
        (theirs,) = session.run(["logits"], {"tokens": tokens})
        ours = model(torch.from_numpy(tokens))[0].detach().numpy()
        assert relative(theirs, ours) < LIMITS["float32"].logits
