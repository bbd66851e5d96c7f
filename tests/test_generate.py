"""Generation as a user meets it."""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gpt_common import tokenizer
from gpt_common.checkpoint import Checkpoint, write_checkpoint
from gpt_common.config import (
    GenerateConfig,
    GPTConfig,
    PromptOptions,
    SamplingOptions,
    StoppingOptions,
    TrainConfig,
)
from gpt_common.errors import InputError
from gpt_common.formats import registry
from gpt_common.repl import fit_to_context, print_stream, run_prompts
from gpt_torch.inference import InferenceGPT
from tests.conftest import (
    CPU,
    FLOAT32,
    FRAMEWORKS,
    assert_one_line_error,
    random_checkpoint,
    random_weights,
)
from tests.test_completion import give, started

flax_generate = importlib.import_module("gpt_flax.generate")
PROMPT = "Hello, I'm a language model,"
BFLOAT16 = ("--dtype", "bfloat16")


@pytest.fixture(scope="module")
def start():
    """A small model with opinions: random weights large enough that the logits differ."""
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=40)
    return Checkpoint(config, random_weights(config))


@pytest.fixture(scope="module")
def folder(start, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    write_checkpoint(path, start)
    return path


@pytest.fixture
def generate(call):
    """Generate in this process, and return what is printed."""

    def generate(framework, folder, *args):
        result = call(f"gpt_{framework}.generate", "--init", folder, *args)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return generate


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--prompt", "", "--max_length", 40, "--seed", 3),
        ("--temperature", 0, "--num_samples", 1, "--explain"),
        ("--max_new_tokens", 40, "--window", "--num_samples", 2),
        ("--stop", " ", "e", "--top_k", 0, "--top_p", 0.9),
    ],
)
def test_both_twins_write_the_same_text(generate, folder, args):
    ours, theirs = (generate(framework, folder, *CPU, *args) for framework in FRAMEWORKS)
    assert ours == theirs
    assert ours.startswith("> ")


def test_keys_and_values_are_kept_in_float32(generate, framework, folder, monkeypatch):
    """On a CPU also where all else is in bfloat16."""
    module, kept = importlib.import_module(f"gpt_{framework}.generate"), []
    empty_cache = module.empty_cache
    monkeypatch.setattr(module, "empty_cache", lambda *a: kept.append(a[3]) or empty_cache(*a))
    generate(framework, folder, "--device", "cpu", "--dtype", "bfloat16", "--num_samples", 9)
    assert kept == [torch.float32 if framework == "torch" else jnp.float32]


def test_five_rows_of_thirty_tokens(generate, framework, folder):
    rows = generate(framework, folder).split(f"> {PROMPT}")
    assert rows[0] == ""
    assert len(rows) == 6
    assert len(set(rows)) == 6
    report = json.loads(generate(framework, folder, "--json"))
    assert [len(report["prompt_tokens"] + sample["tokens"]) for sample in report["samples"]] == [
        30
    ] * 5


def test_json(generate, framework, folder):
    args = ("--json", "--num_samples", 2, "--max_new_tokens", 7, "--top_p", 0.9, *BFLOAT16)
    output = generate(framework, folder, *args)
    assert output.count("\n") == 1
    report = json.loads(output)
    assert report["prompt"] == PROMPT
    assert (report["dtype"], report["sampling"]["top_p"]) == ("bfloat16", 0.9)
    assert report["time_to_first_token"] > 0
    assert report["tokens_per_second"] == pytest.approx(14 / report["seconds"])
    assert report["time_to_first_token"] < report["seconds"]
    plain = generate(framework, folder, *args[1:])
    for sample in report["samples"]:
        assert len(sample["tokens"]) == len(sample["logprobs"]) == 7
        assert sample["text"] == tokenizer.decode(sample["tokens"])
        assert max(sample["logprobs"]) < 0
        assert f"> {PROMPT}{sample['text']}\n" in plain


@pytest.mark.slow
def test_a_compiled_step_writes_the_same_text(generate, folder):
    plain = generate("torch", folder, *FLOAT32)
    assert generate("torch", folder, *FLOAT32, "--compile") == plain


def test_the_number_of_samples_does_not_change_a_sample(generate, framework, folder):
    five, two = (generate(framework, folder, "--num_samples", n) for n in (5, 2))
    assert five.startswith(two)


def test_seeds(generate, framework, folder):
    first, again, other = (generate(framework, folder, "--seed", seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_prompt_from_a_file_and_from_standard_input(
    generate, framework, folder, tmp_path, monkeypatch
):
    path = tmp_path / "prompt.txt"
    path.write_text("\n A parrot 🦜 \n\n")  # of which the last newline is the file's own
    expected = generate(framework, folder, "--prompt", "\n A parrot 🦜 \n")
    assert expected.startswith("> \n A parrot 🦜 \n")
    assert generate(framework, folder, "--prompt_file", path) == expected
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert generate(framework, folder, "--prompt_file", "-") == expected
    command = [sys.executable, "-m", f"gpt_{framework}.generate", "--init", str(folder)]
    piped = subprocess.run(
        [*command, "--prompt", "-"], input=path.read_bytes(), capture_output=True
    )
    assert piped.stdout.decode() == expected


def test_a_prompt_that_is_not_utf8(call, framework, folder, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"ab\xff")
    result = call(f"gpt_{framework}.generate", "--init", folder, "--prompt_file", path)
    assert_one_line_error(result, "prompt.txt: expected UTF-8 text")


def test_one_prompt_after_the_other(generate, call, framework, folder, monkeypatch):
    """Each is answered alone; one that cannot be is an error, and the next is asked for."""
    lines = iter(["Yes", "no " * 39, "Hello"])
    monkeypatch.setattr(
        "builtins.input", lambda mark: next(lines, None) or (_ for _ in ()).throw(EOFError)
    )
    args = ("--max_length", 12)
    result = call(f"gpt_{framework}.generate", "--init", folder, "--interactive", *args)
    assert result.returncode == 0
    assert "error: max_length must be above the prompt's" in result.stderr
    expected = [
        generate(framework, folder, "--prompt", prompt, "--num_samples", 1, *args)
        for prompt in ("Yes", "Hello")
    ]
    assert result.stdout == "".join(expected)


class Typed(io.TextIOWrapper):
    """Lines on standard input, a byte that is no text among them; it may be a terminal."""

    def __init__(self, typed, is_terminal=False):
        super().__init__(io.BytesIO(typed), "utf-8")
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def test_bytes_that_are_no_text_do_not_end_a_session(call, framework, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Typed(b"Yes\nn\xff\nHello\n"))
    args = ("--init", folder, "--interactive", "--max_length", 9)
    result = call(f"gpt_{framework}.generate", *args)
    assert result.returncode == 0
    _, error = result.stderr.splitlines()  # after what computes
    assert error == "error: expected text in utf-8, got other bytes"
    assert result.stdout.count("> ") == 2


def test_an_answer_is_as_long_as_fits(call, framework, folder, monkeypatch):
    """Of a model of 40 positions, of which 100 new tokens do not fit."""
    monkeypatch.setattr(sys, "stdin", Typed(b"Yes\n" + b"no " * 41 + b"\n\n"))
    result = call(
        f"gpt_{framework}.generate", "--init", folder, "--interactive", "--json", "--ignore_end"
    )
    assert result.stderr.count("error: expected at most block_size 40 tokens") == 1
    lengths = [
        len(report["prompt_tokens"] + report["samples"][0]["tokens"])
        for report in map(json.loads, result.stdout.splitlines())
    ]
    assert lengths == [40, 40]


def test_an_answer_in_a_window_has_100_tokens():
    config = GPTConfig(block_size=40)
    assert fit_to_context(StoppingOptions(window=True), 3, config).max_new_tokens == 100
    assert fit_to_context(StoppingOptions(), 3, GPTConfig()).max_new_tokens == 100
    assert fit_to_context(StoppingOptions(max_new_tokens=60), 3, config).max_new_tokens == 60
    assert fit_to_context(StoppingOptions(max_length=60), 3, config).max_new_tokens is None


def dialogue(typed, is_terminal, monkeypatch):
    """Return the prompts that are answered; in the answer to `stop` comes a Ctrl-C."""
    monkeypatch.setattr(sys, "stdin", Typed(typed, is_terminal))
    answered = []

    def generate_stream(completions):
        answered.append(tokenizer.decode(completions[0].prompt))
        if answered[-1] == "stop":
            raise KeyboardInterrupt
        give(completions, 50256)
        yield

    config = GenerateConfig("nowhere", PromptOptions(interactive=True))
    with contextlib.suppress(KeyboardInterrupt):  # which would end the tests too
        run_prompts(config, GPTConfig(), "torch on cpu", generate_stream)
    return answered


def test_ctrl_c_ends_an_answer_and_not_the_session(capsys, monkeypatch):
    assert dialogue(b"stop\ntwo\n", True, monkeypatch) == ["stop", "two"]
    captured = capsys.readouterr()
    assert captured.out == "prompt: \nprompt: > two\nprompt: \n"
    assert captured.err == "torch on cpu\n"


def test_ctrl_c_ends_a_command_that_reads_a_pipe(monkeypatch):
    assert dialogue(b"stop\ntwo\n", False, monkeypatch) == ["stop"]


@pytest.mark.parametrize(("is_terminal", "answered"), [(True, ["two"]), (False, [])])
def test_ctrl_c_at_a_prompt_discards_the_line_of_a_terminal(is_terminal, answered, monkeypatch):
    read = input

    def interrupted(mark):
        monkeypatch.setattr("builtins.input", read)
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert dialogue(b"two\n", is_terminal, monkeypatch) == answered


def test_standard_error_says_what_computes(call, framework, folder):
    """And not standard output, which may be in a pipe."""
    args = ("--init", folder, "--num_samples", 1, *CPU, "--dtype", "bfloat16")
    result = call(f"gpt_{framework}.generate", *args)
    assert result.stderr == f"{framework} on cpu, bfloat16 | 808,064 parameters\n"
    assert result.stdout.startswith("> Hello, I'm a language model,")
    assert call(f"gpt_{framework}.generate", *args, "--json").stderr == ""


@pytest.mark.parametrize(("args", "shown"), [(("--interactive",), 0), (("--prompt", "-"), 5)])
def test_standard_input_that_is_closed_is_empty(generate, folder, args, shown, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert generate("torch", folder, *args).count("> ") == shown
    sys.stdin.close()  # which the command has opened


def test_an_empty_prompt_shows_nothing(generate, framework, folder):
    args = ("--prompt", "", "--num_samples", 1, "--max_length", 3)
    shown = generate(framework, folder, *args)
    report = json.loads(generate(framework, folder, *args, "--json"))
    assert report["prompt"] == ""
    assert report["prompt_tokens"] == [50256]
    assert shown == f"> {report['samples'][0]['text']}\n"


def grown_with(framework, monkeypatch):
    """Return a list that gets what the command lets grow."""
    module, given = importlib.import_module(f"gpt_{framework}.generate"), []
    generate_stream = module.generate_stream
    monkeypatch.setattr(
        module, "generate_stream", lambda *args: given.append(args) or generate_stream(*args)
    )
    return given


def test_the_command_generates_with_inference_weights(generate, framework, folder, monkeypatch):
    given = grown_with(framework, monkeypatch)
    generate(framework, folder, *FLOAT32, "--num_samples", 1)
    if framework == "torch":
        assert isinstance(given[0][0], InferenceGPT)
        assert not given[0][0].compiled
    else:
        assert "lm_head" in given[0][0]


@pytest.mark.parametrize(("dtype", "held"), [("bfloat16", "float32"), ("float64", "float64")])
def test_the_command_holds_and_computes_as_asked(call, framework, folder, dtype, held, monkeypatch):
    def told(*args):
        held = (
            args[0].wte.weight.dtype if framework == "torch" else args[0]["wte"]["embedding"].dtype
        )
        computes = args[3] if framework == "torch" else args[4]
        raise InputError(f"{computes} over {held}".replace("torch.", ""))

    module = importlib.import_module(f"gpt_{framework}.generate")
    monkeypatch.setattr(module, "generate_stream", told)
    result = call(f"gpt_{framework}.generate", "--init", folder, "--dtype", dtype)
    _, error = result.stderr.splitlines()  # after what computes
    assert (result.returncode, error) == (2, f"error: {dtype} over {held}")


def test_compile_compiles_the_step(generate, folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda step, **how: compiled.append(how) or step)
    plain = generate("torch", folder, *FLOAT32)
    assert not compiled
    given = grown_with("torch", monkeypatch)
    assert generate("torch", folder, *FLOAT32, "--compile", "--exact") == plain
    assert given[0][0].compiled
    assert compiled == [{"dynamic": False}]


@pytest.mark.parametrize(("rows", "small"), [(2, True), (65, False)])
def test_a_small_batch_is_compiled_for_one(generate, folder, monkeypatch, rows, small):
    """On a CPU in float32."""
    run = []
    for name in ("jit_decode", "jit_decode_small_batch"):
        step = getattr(flax_generate, name)
        spied = functools.partial(lambda name, step, *a, **k: run.append(name) or step(*a, **k))
        monkeypatch.setattr(flax_generate, name, functools.partial(spied, name, step))
    args = ("--num_samples", rows, "--max_length", 10)
    generate("flax", folder, *FLOAT32, "--device", "cpu", *args)
    assert run == ["jit_decode_small_batch" if small else "jit_decode"]


def test_another_seed_compiles_nothing_anew(generate, folder):
    """Seeds that no other test has compiled."""
    sizes = []
    for seed in (7001, 7002):
        generate("flax", folder, *FLOAT32, "--device", "cpu", "--seed", seed)
        steps = flax_generate.prefill_step, flax_generate.jit_decode_small_batch
        sizes.append([step._cache_size() for step in steps])
    assert sizes[0] == sizes[1]


def test_samples_in_training_are_of_its_seed(train, framework, start, tmp_path, monkeypatch):
    given, module = [], importlib.import_module(f"gpt_{framework}.train")
    monkeypatch.setattr(module, "generate_texts", lambda *args: given.append(args) or [])
    registry.FORMATS["torch"].write(tmp_path / "m.pt", start)
    quick = ("--seq_len", 8, "--eval_every", 0, "--steps", 1, "--sample_every", 1)
    where = ("--init", tmp_path / "m.pt", "--out_dir", tmp_path / "run")
    train(framework, *where, *quick, "--seed", 7, "--dtype", "bfloat16")
    (args,) = given
    assert SamplingOptions(seed=7) in args
    assert StoppingOptions(max_length=30) in args
    assert args[-1] == "bfloat16" if framework == "torch" else args[1].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("gpt_torch.generate", ("tune_malloc",)),
        ("gpt_flax.generate", ("enable_compilation_cache",)),
        ("gpt_torch.train", ("tune_malloc",)),
        ("gpt_flax.train", ("tune_malloc", "enable_compilation_cache")),
    ],
)
def test_what_a_command_keeps_for_later(call, command, names, tmp_path, monkeypatch):
    kept, asked = [], []
    module = importlib.import_module(command)
    for name in names:
        monkeypatch.setattr(module, name, lambda name=name: kept.append(name))
    monkeypatch.setattr(module, "select_device", lambda *how: asked.append(how) or failed())
    flags = ("--device", "cpu", "--dtype", "float64")
    assert_one_line_error(call(command, "--init", tmp_path, *flags), "asked")
    assert tuple(kept) == names
    assert asked == [("cpu", "float64")]


def failed():
    raise InputError("asked")


def test_text_is_shown_as_it_is_made(framework, start, capsys, monkeypatch):
    """After each few tokens there is more of the first continuation, and never less."""
    completions = started(prompts=([15496],), count=2, max_new_tokens=6)
    seen = []

    def grown():
        for token in (11, 314, 1101, 257, 262, 318):
            give(completions, token)
            yield
            seen.append(capsys.readouterr().out)

    print_stream(completions, grown())
    assert seen == ["> Hello,", " I", "'m", " a", " the", " is\n> Hello, I'm a the is\n"]


@pytest.mark.parametrize("form", ["torch", "flax", "huggingface-sharded", "build-nanogpt"])
def test_any_format_is_read(generate, framework, start, folder, tmp_path, form):
    path = tmp_path / {"torch": "m.pt", "flax": "m.msgpack", "build-nanogpt": "b.pt"}.get(form, "m")
    registry.FORMATS[form].write(path, start)
    assert generate(framework, path) == generate(framework, folder)


def test_weights_are_read_without_the_state_of_a_run(odd_config, tmp_path):
    """Else a new run that starts from nanoGPT's file would go on at its step."""
    config = dataclasses.replace(odd_config, activation="gelu")
    started = random_checkpoint(config)
    state = dataclasses.replace(started.training, options=TrainConfig().as_dict())
    trained = dataclasses.replace(started, training=state)
    registry.FORMATS["nanogpt"].write(tmp_path / "ckpt.pt", trained)
    write_checkpoint(tmp_path / "folder", trained)
    for source in ("ckpt.pt", "folder"):
        assert registry.read(str(tmp_path / source))[0].training is not None
        assert registry.read_weights(str(tmp_path / source)).training is None


def test_a_model_trained_from_any_format(train, framework, start, tmp_path):
    path = tmp_path / "m.pt"
    registry.FORMATS["torch"].write(path, start)
    quick = ("--seq_len", 8, "--eval_every", 0, "--steps", 1)
    printed = train(framework, "--init", path, *quick, "--out_dir", tmp_path / "run")
    assert "step     0" in printed


def test_weights_that_are_not_finite(call, framework, start, tmp_path):
    weights = start.weights | {"transformer.ln_f.bias": np.full(16, np.nan, np.float32)}
    write_checkpoint(tmp_path / "nan", Checkpoint(start.config, weights))
    result = call(f"gpt_{framework}.generate", "--init", tmp_path / "nan")
    assert result.returncode == 1
    _, error = result.stderr.splitlines()  # after what computes
    assert error == "error: token 0: the model's logits are not finite"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--max_length", 41), ("at most block_size 40 tokens", "got 41", "window")),
        (("--max_length", 8), ("above the prompt's 8 tokens, got 8",)),
        (("--temperature", -1), ("temperature must not be negative",)),
        (("--num_samples", 0), ("num_samples must be positive",)),
        (("--prompt", "a", "--interactive"), ("or interactive, got prompt and interactive",)),
        (("--prompt", "a", "--prompt_file", "b"), ("got prompt and prompt_file",)),
        (("--top_k", 50258), ("at most vocab_size 50257, got 50258",)),
        (("--num_samples", 10**7), ("a batch of 10000000 continuations", "GB are available", "GB")),
        (("--init", "nowhere.pt"), ("nowhere.pt: no such file",)),
    ],
)
def test_wrong_input_is_one_line(call, framework, folder, args, words):
    assert_one_line_error(call(f"gpt_{framework}.generate", "--init", folder, *args), *words)


def test_init_is_required(call, framework):
    assert_one_line_error(call(f"gpt_{framework}.generate"), "--init")
