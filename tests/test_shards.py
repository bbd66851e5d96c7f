"""A folder of shards as the loader meets it."""

import json

import numpy as np
import pytest

from gpt_common.data import load_splits, load_tokens
from gpt_common.errors import InputError
from gpt_common.shards import Manifest, ShardWriter, read_manifest


@pytest.fixture
def folder(tmp_path):
    """Shards of four tokens: 0 to 3 to validate, 4 to 9 to train on."""
    writer = ShardWriter(tmp_path, Manifest({"path": "numbers"}, "gpt2", 4), lambda shard: None)
    for part in np.split(np.arange(10, dtype=np.uint16), [1, 2, 7]):
        writer.write(part)
    writer.finish()
    return tmp_path


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_splits_are_those_of_the_names(folder):
    train, val = load_splits(str(folder), 0.1, 50257)
    assert (train[:].tolist(), val[:].tolist()) == ([4, 5, 6, 7, 8, 9], [0, 1, 2, 3])


def test_what_is_read_is_what_was_written(folder):
    manifest = read_manifest(folder)
    before = (folder / "manifest.json").read_bytes()
    manifest.write(folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert read_manifest(folder) == manifest


def test_a_preparation_that_has_not_ended_is_refused(folder):
    edit(folder, complete=False)
    with pytest.raises(InputError, match=r"expected all shards, got 3 so far: run .* again"):
        load_tokens(str(folder))


def test_a_shard_that_is_missing_or_of_another_length_is_named(folder):
    path = folder / "train_000002.bin"
    np.arange(5, dtype=np.uint16).tofile(path)
    with pytest.raises(InputError, match=r"train_000002\.bin: expected 2 tokens, got 5"):
        load_tokens(str(folder))
    path.unlink()
    with pytest.raises(InputError, match=r"train_000002\.bin: no such file"):
        load_tokens(str(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 11}, "expected the sums of its shards, got .*'tokens': 11"),
        ({"documents": None}, "expected the sums of its shards"),
        ({"shards": None}, "got: 'NoneType' object is not iterable"),
        ({"shards": [{}]}, "got: .*missing 4 required"),
        ({"shards": [{"name": 1, "tokens": 1, "documents": 1, "sha256": ""}]}, "got: name is 1"),
        ({"complete": "yes"}, "got: complete is 'yes'"),
        ({"source": []}, "got: source is list"),
        ({"more": 1}, "got: .*unexpected keyword argument 'more'"),
    ],
)
def test_a_damaged_manifest_is_named(folder, changes, words):
    edit(folder, **changes)
    with pytest.raises(InputError, match=rf"manifest\.json: .*{words}") as refusal:
        load_tokens(str(folder))
    assert "\n" not in str(refusal.value)


def test_a_manifest_of_another_program_says_nothing_about_the_files(folder):
    edit(folder, format="another", complete=False)
    assert len(load_tokens(str(folder))) == 10
