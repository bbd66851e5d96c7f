"""Files made to keep us waiting, to fill the memory or the terminal, or to end in a traceback."""

import collections
import dataclasses
import json
import os
import re
import resource
import signal
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from flax.serialization import msgpack_serialize

from gpt_common.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from gpt_common.config import GPTConfig, TrainConfig
from gpt_common.errors import InputError
from gpt_common.formats import build_nanogpt, msgpack_files, openai, registry, torch_files
from gpt_common.formats.registry import FORMATS
from gpt_common.formats.torch_files import CLASSES
from gpt_common.hf_config import config_to_hf
from gpt_common.run_folder import OPTIMIZER, STATE, step_folder, update_latest
from gpt_common.storage import MAX_HEADER_BYTES, MAX_JSON_BYTES, write_safetensors
from gpt_common.weights import num_parameters, require_plausible, weight_shapes
from tests.conftest import assert_one_line_error, random_checkpoint, random_weights

MODEL = GPTConfig(n_layer=2, n_head=2, n_embd=4, block_size=3, vocab_size=7)
DEEP = dataclasses.replace(MODEL, n_layer=48)
ENDINGS = {"torch": ".pt", "flax": ".msgpack", "llmc": ".bin"}
WITH_CONFIG = [n for n, f in FORMATS.items() if f.write and n not in ("llmc", "nanogpt")]
ESCAPE = "\x1b]0;title\x07\x1b[2J"


@pytest.fixture(autouse=True)
def bounds():
    """What believes a file's sizes, or waits for a pipe, fails and does the machine no harm."""

    def give_up(number, frame):
        raise TimeoutError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), limits[1]))
    signal.alarm(60)
    yield
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.signal(signal.SIGALRM, before)


def written(name, folder):
    path = folder / f"model{ENDINGS.get(name, '')}"
    FORMATS[name].write(path, Checkpoint(MODEL, random_weights(MODEL)))
    return path


def torch_content(path):
    with torch.serialization.safe_globals(CLASSES):
        return torch.load(path, weights_only=True)


def save_torch(path, content):
    with build_nanogpt.pickled_as_gpt_config():
        torch.save(content, path)


def config_of(path):
    return path / "config.json" if path.is_dir() else path.with_name(path.name + ".json")


def refusal(path):
    """Return the line that refuses a source: a short one, which a terminal may be shown."""
    with pytest.raises(InputError) as error:
        registry.read(str(path))
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


# Open files.


def test_two_deep_models_are_open_at_once(tmp_path, call):
    """macOS lets a process have 256 files, and these have 3480 arrays."""
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, random_checkpoint(DEEP))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        both = [read_checkpoint(tmp_path / name) for name in ("a", "b")]
        result = call("convert.verify", tmp_path / "a", tmp_path / "b")
        FORMATS["llmc"].write(tmp_path / "c.bin", both[0])
        both.append(registry.read(str(tmp_path / "c.bin"))[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert result.returncode == 0, result.stderr
    for checkpoint in both:
        for name, weight in random_weights(DEEP).items():
            assert weight.tobytes() == checkpoint.weights[name].tobytes()


# Sizes that are not there.


@pytest.mark.parametrize("name", WITH_CONFIG)
@pytest.mark.parametrize("n_layer", [10**9, 10**400, -1], ids=["many", "endless", "negative"])
def test_more_layers_than_a_file_can_hold(name, n_layer, tmp_path):
    path = written(name, tmp_path)
    if name == "build-nanogpt":
        content = torch_content(path)
        content["config"].n_layer = n_layer
        save_torch(path, content)
    else:
        config = json.loads(config_of(path).read_text())
        config_of(path).write_text(json.dumps(config | {"n_layer": n_layer}))
    assert str(path) in refusal(path)


def test_what_is_plausible():
    parameters = sum(int(np.prod(shape)) for shape in weight_shapes(MODEL).values())
    assert num_parameters(MODEL) == parameters
    require_plausible(MODEL, 2, parameters, "file")
    with pytest.raises(InputError, match="file: expected the tensors of 2 layers, got 1 tensors"):
        require_plausible(MODEL, 1, parameters, "file")
    with pytest.raises(InputError, match=f"of {parameters} parameters, got {parameters - 1} bytes"):
        require_plausible(MODEL, 2, parameters - 1, "file")


def tensors_of_one_number(state):
    """10 million tokens in four bytes, which a conversion would write in full."""
    state["transformer.wte.weight"] = torch.zeros(1).expand(10**7, 4)


def tensors_of_the_same_numbers(state):
    numbers = torch.zeros(10**6)
    state |= {f"x.{i}": numbers[i:] for i in range(100)}


STRANGE = {
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "conj": lambda t: torch.conj(t.to(torch.complex64)),
    "dimensions": lambda t: torch.zeros([1] * 70),
    "stride": lambda t: torch.zeros(1).expand(2**62),
    "number": lambda t: torch.tensor(3.0),
    "text": lambda t: ESCAPE * 1000,
    "none": lambda t: None,
}


@pytest.mark.parametrize("change", [tensors_of_one_number, tensors_of_the_same_numbers])
def test_tensors_larger_than_their_file(change, tmp_path):
    path = written("huggingface-bin", tmp_path)
    state = torch.load(path / "pytorch_model.bin")
    change(state)
    torch.save(state, path / "pytorch_model.bin")
    config_of(path).write_text(json.dumps(config_to_hf(MODEL) | {"vocab_size": 10**7}))
    assert "expected separate tensors" in refusal(path)


@pytest.mark.parametrize("name", ["torch", "huggingface-bin", "build-nanogpt"])
@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_that_are_no_arrays(name, kind, tmp_path):
    path = written(name, tmp_path)
    file = path / "pytorch_model.bin" if path.is_dir() else path
    config_of(file).unlink(missing_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(MODEL)))
    content = torch_content(file)
    state = content.get("model", content)
    key = next(key for key in state if key.endswith("wte.weight"))
    state[key] = STRANGE[kind](state[key])
    save_torch(file, content)
    assert str(file) in refusal(path)


def test_a_scalar_embedding_of_flax(tmp_path):
    path = written("flax", tmp_path)
    tree = msgpack_files.load(path)
    tree["wte"]["embedding"] = np.array(3, np.float32)
    path.write_bytes(msgpack_serialize(tree))
    config_of(path).write_text(json.dumps(config_to_hf(MODEL)))
    assert "expected (7, 4), got ()" in refusal(path)


def zarr_without_chunks(folder, rows):
    """An array of `rows` rows, none of which is on the disk."""
    tree = {}
    for name in ("wte", "wpe"):
        (folder / f"{name}.embedding").mkdir()
        shape = {"shape": [rows, 8], "chunks": [1000, 8], "dtype": "<f4", "order": "C"}
        rest = {"compressor": None, "fill_value": None, "filters": None, "zarr_format": 2}
        (folder / f"{name}.embedding" / ".zarray").write_text(json.dumps(shape | rest))
        keys = [{"key": key, "key_type": 2} for key in (name, "embedding")]
        kind = {"value_type": "np.ndarray", "skip_deserialize": False}
        tree[str((name, "embedding"))] = {"key_metadata": keys, "value_metadata": kind}
    content = {"tree_metadata": tree, "use_ocdbt": False, "use_zarr3": False}
    (folder / "_METADATA").write_text(json.dumps(content))


def test_arrays_of_orbax_that_are_not_there(tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(MODEL)))
    zarr_without_chunks(tmp_path / "params", 10**6)
    assert "arrays of 64000000 bytes" in refusal(tmp_path)


# Many small things.


def nested(count):
    """The pickle of a tuple of one tuple twice, in another twice, and so on."""
    levels = (b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(count))
    return b")q\x00" + b"".join(levels)


HASHED = {
    "key": b"\x80\x02}" + nested(60) + b"Ns.",
    "counted": b"\x80\x02ccollections\nCounter\n]" + nested(60) + b"a\x85R.",
}
ENDLESS = {"none": b"\x80\x02" + b"N" * 400_000, "lists": b"\x80\x02" + b"]" * 400_000}


@pytest.mark.parametrize("pickle", [*HASHED, *ENDLESS])
@pytest.mark.parametrize("legacy", [True, False])
def test_pickles_that_never_end(pickle, legacy, tmp_path):
    content = (HASHED | ENDLESS)[pickle]
    path = tmp_path / "a.pt"
    if legacy:
        opening = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
        path.write_bytes(opening + content + b"\x80\x02].")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
    words = "objects in a tuple" if pickle in HASHED else "opcodes in a pickle"
    assert words in refusal(path)


def array(shape, dtype="float32", content=b""):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, content)))


TOO_MANY = {
    "empty maps": b"\xdf\x00\x09\x27\xc0" + b"\xa0\x80" * 600_000,
    "maps of maps": b"\x8f" + (b"\xa1a\xde\xff\xff" + b"\xa1a\x80" * 0xFFFF) * 15,
    "a long list": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "lists in an array": msgpack.packb({"a": array([[[[]] * 60] * 60] * 60)}),
}
MSGPACKS = {
    "deep": b"\x81\xa1a" * 100_000 + b"\xc0",
    "shape": msgpack.packb({"a": array((10**6, 10**6))}),
    "dtype": msgpack.packb({"a": array((1,), ESCAPE * 1000, b"\0" * 8)}),
    "long name": msgpack.packb({ESCAPE * 10_000: {"a": array((2,), content=b"\0" * 8)}}),
    "number": msgpack.packb({ESCAPE: 3}),
    "levels": msgpack.packb({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}),
}


@pytest.mark.parametrize("kind", [*TOO_MANY, *MSGPACKS])
@pytest.mark.parametrize("file", ["a.msgpack", "flax_model.msgpack"])
def test_msgpacks_that_hold_something_else(kind, file, tmp_path):
    (tmp_path / file).write_bytes((TOO_MANY | MSGPACKS)[kind])
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(MODEL)))
    line = refusal(tmp_path / file if file == "a.msgpack" else tmp_path)
    # By what is counted before anything is made of it.
    assert re.search("more than 200000 objects|exceeds max_", line) or kind in MSGPACKS, line


def test_a_header_of_a_safetensors_file_that_is_too_long(tmp_path):
    path = written("huggingface", tmp_path)
    file = path / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        opened.truncate(MAX_HEADER_BYTES + 100)
    assert "expected a whole safetensors file, got a header of" in refusal(path)


# What is not a file, and JSON that is not what it should be.


def make_fifo(path):
    os.mkfifo(path)


def link_to_zero(path):
    path.symlink_to("/dev/zero")


def make_folder(path):
    path.mkdir()


PLACES = [
    ("huggingface", "config.json"),
    ("huggingface", STATE),
    ("huggingface", OPTIMIZER),
    ("huggingface-sharded", "model-00001-of-*.safetensors"),
    ("huggingface-bin-sharded", "pytorch_model-00001-of-*.bin"),
    ("orbax", "params/manifest.ocdbt"),
    ("torch", "model.pt.json"),
    ("flax", "model.msgpack.json"),
]


@pytest.mark.parametrize("make", [make_fifo, link_to_zero, make_folder])
@pytest.mark.parametrize(("name", "file"), PLACES)
def test_what_is_not_a_file_is_not_opened(make, name, file, tmp_path):
    path = written(name, tmp_path)
    if name == "huggingface":
        write_checkpoint(path, random_checkpoint(MODEL))
    (place,) = (tmp_path if file.startswith("model.") else path).glob(file)
    place.unlink()
    make(place)
    # A folder without config.json is none of ours; Orbax does not look for a folder.
    named = file != "config.json" and not (name == "orbax" and make is make_folder)
    assert (place.name if named else path.name) in refusal(path)


def test_files_that_are_no_files_in_the_place_of_a_source(tmp_path):
    for make in (make_fifo, link_to_zero, lambda path: path.symlink_to(path)):
        make(tmp_path / "a.bin")
        refusal(tmp_path / "a.bin")
        (tmp_path / "a.bin").unlink()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "9" * 10_000,
        "NaN",
        '"text"',
        "\xff",
        json.dumps(config_to_hf(MODEL)) + " " * MAX_JSON_BYTES,
        json.dumps({"n_layer": ESCAPE * 1000}),
        json.dumps({"model_type": [ESCAPE] * 10_000}),
        json.dumps({"activation_function": ESCAPE * 1000}),
        '{"n_head": ' + "9" * 4000 + "}",
        '{"n_embd": 1e400}',
    ],
)
@pytest.mark.parametrize("name", ["huggingface", "torch", "orbax"])
def test_configurations_that_are_none(name, content, tmp_path):
    path = written(name, tmp_path)
    config_of(path).write_text(content, "latin-1")
    assert str(config_of(path)) in refusal(path)


@pytest.mark.parametrize("value", [None, "", 0, False, [], {}, ["gelu"]])
def test_only_a_missing_activation_is_the_default(value, tmp_path):
    path = written("huggingface", tmp_path)
    content = config_to_hf(MODEL)
    config_of(path).write_text(json.dumps(content | {"activation_function": value}))
    assert "activation" in refusal(path)
    del content["activation_function"]
    config_of(path).write_text(json.dumps(content))
    assert registry.read(str(path))[0].config.activation == "gelu_new"


@pytest.mark.parametrize(
    "places", [None, [], 3, {"a": 1}, {"a": None}, {"a": ["x"]}, {"a": "../b"}, {"a": ESCAPE}]
)
@pytest.mark.parametrize("name", ["huggingface-sharded", "huggingface-bin-sharded"])
def test_an_index_that_names_no_files(name, places, tmp_path):
    path = written(name, tmp_path)
    (index,) = path.glob("*.index.json")
    index.write_text(json.dumps({"weight_map": places}))
    assert index.name in refusal(path)


@pytest.mark.parametrize(
    "change",
    [{"n_layer": "12"}, {"n_head": 2.5}, {"n_ctx": None}, {"n_vocab": 10**400}, {"n_layer": []}],
)
def test_hparams_that_make_no_sense(change, tmp_path):
    """Of OpenAI's checkpoint; they are read before TensorFlow is asked for."""
    hparams = {"n_vocab": 7, "n_ctx": 3, "n_embd": 4, "n_head": 2, "n_layer": 5}
    (tmp_path / "model.ckpt.index").touch()
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    assert openai.read_config(tmp_path / "hparams.json") == GPTConfig(5, 2, 4, 3, 7)
    (tmp_path / "hparams.json").write_text(json.dumps(hparams | change))
    assert "hparams.json: " in refusal(tmp_path)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("data", "batch_size", 2.5),
        ("data", "data", None),
        ("data", "data", 5),
        ("output", "keep_last", 1.5),
        ("output", "eval_every", []),
        ("runtime", "dtype", "banana"),
        ("runtime", "compile", ESCAPE * 1000),
        ("optimizer", "learning_rate", True),
        ("optimizer", "grad_clip", 10**400),
        ("optimizer", "grad_clop", 1),
    ],
)
def test_options_of_another_type(group, name, value, tmp_path, call):
    write_checkpoint(tmp_path, random_checkpoint(MODEL))
    state = json.loads((tmp_path / STATE).read_text())
    right = TrainConfig().as_dict()
    wrong = right | {group: right[group] | {name: value}}
    for options in (wrong, right | {group: value}, {}, [], 3):
        (tmp_path / STATE).write_text(json.dumps(state | {"options": options}))
        result = call("gpt_torch.train", "--resume", tmp_path)
        assert_one_line_error(result, "training_state.json", "expected", "got")


@pytest.mark.parametrize("name", ["step", "loader", "versions", "fingerprint", "source"])
def test_a_state_of_another_type(name, tmp_path, call):
    write_checkpoint(tmp_path, random_checkpoint(MODEL))
    state = json.loads((tmp_path / STATE).read_text())
    for value in (None, 1.5, [], "x" * 10**5):
        (tmp_path / STATE).write_text(json.dumps(state | {name: value}))
        with pytest.raises(InputError, match=f"training_state.json: {name}: expected .*, got .*"):
            read_checkpoint(tmp_path)


def test_a_whole_number_is_a_float_where_one_is_due():
    """No integer of this size is one to torch or jax."""
    groups = TrainConfig().as_dict()
    groups["optimizer"]["grad_clip"] = 10**30
    assert type(TrainConfig.from_dict(groups, "x").optimizer.grad_clip) is float


def test_names_that_would_write_to_the_terminal(tmp_path, call):
    path = written("huggingface", tmp_path)
    weights = random_weights(MODEL)
    weights[ESCAPE * 100] = weights.pop("transformer.ln_f.bias")
    write_safetensors(path / "model.safetensors", weights)
    assert "missing transformer.ln_f.bias" in refusal(path)
    result = call("convert.__main__", path, tmp_path / "out")
    assert_one_line_error(result)


def test_a_link_to_itself(tmp_path):
    write_checkpoint(step_folder(tmp_path, 3), random_checkpoint(MODEL))
    (tmp_path / "latest").symlink_to("latest")
    assert read_checkpoint(tmp_path).training.step == 7
    update_latest(tmp_path, step_folder(tmp_path, 3))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="got nothing there"):
        read_checkpoint(tmp_path / "loop")
    assert "no such file or folder" in refusal(tmp_path / "loop")


def test_a_counter_is_read_as_what_it_is(tmp_path):
    """The unpickler that refuses bombs lets torch's own containers through."""
    torch.save(collections.OrderedDict(a=torch.zeros(3), b=((1, 2), (3, 4))), tmp_path / "a.pt")
    assert torch_files.load(tmp_path / "a.pt")["b"] == ((1, 2), (3, 4))
