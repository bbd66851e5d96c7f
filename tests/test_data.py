import dataclasses
import errno
import hashlib
import http.client
import json
import os
import resource
import tempfile
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_common import cache, data, texts, tokenizer
from gpt_common.data import BatchLoader, ShardedTokens, load_splits, load_tokens
from gpt_common.errors import InputError


def numbered(count):
    return np.arange(count, dtype=np.uint16)


def slow_batches(tokens, B, T, count):
    """The lecture's rule, said as plainly as possible."""
    position, batches = 0, []
    for _ in range(count):
        window = [int(t) for t in tokens[position : position + B * T + 1]]
        rows = range(B)
        x = [[window[b * T + t] for t in range(T)] for b in rows]
        y = [[window[b * T + t + 1] for t in range(T)] for b in rows]
        batches.append((x, y))
        position += B * T
        if position + B * T + 1 > len(tokens):
            position = 0
    return batches


@given(
    B=st.integers(1, 4),
    T=st.integers(1, 5),
    processes=st.integers(1, 3),
    extra=st.integers(0, 60),
    restore_at=st.integers(0, 8),
)
def test_loader_against_the_slow_rule(B, T, processes, extra, restore_at):
    """The batches are the same for any number of processes; each reads its rows of them."""
    tokens = numbered(processes * B * T + 1 + extra)
    expected = slow_batches(tokens, processes * B, T, 9)
    for rank in range(processes):
        rows = range(rank * B, (rank + 1) * B)
        loader = BatchLoader(tokens, processes * B, T, rows)
        for step, (x, y) in enumerate(expected):
            if step == restore_at:  # a fresh loader, of all rows, goes on where the old one stood
                state = loader.state()
                rows, loader = range(processes * B), BatchLoader(tokens, processes * B, T)
                loader.restore(state)
            got_x, got_y = loader.next_batch()
            assert got_x.tolist() == x[rows.start : rows.stop]
            assert got_y.tolist() == y[rows.start : rows.stop]
            assert got_x.dtype == got_y.dtype == np.int32


@given(
    B=st.integers(1, 5),
    T=st.integers(1, 3),
    extra=st.integers(0, 30),
    seed=st.integers(0, 2**70),
    restore_at=st.integers(0, 30),
)
def test_a_shuffled_epoch_has_every_window_once(B, T, extra, seed, restore_at):
    """Though an epoch may end within a batch; and each process reads its rows of it."""
    tokens = numbered(B * T + 1 + extra)
    count = (len(tokens) - 1) // T
    loader = BatchLoader(tokens, B, T, seed=seed)
    rows = []
    for step in range(3 * count):
        if step == restore_at:
            state = loader.state()
            loader = BatchLoader(tokens, B, T, seed=seed)
            loader.restore(state)
        half = BatchLoader(tokens, B, T, range(B // 2, B), seed)
        half.restore(loader.state())
        x, y = loader.next_batch()
        assert (y == x + 1).all()
        assert half.next_batch()[0].tolist() == x[B // 2 :].tolist()
        assert half.state() == loader.state() == {"position": (step + 1) * B * T}
        rows += x.tolist()
    windows = [list(range(w * T, w * T + T)) for w in range(count)]
    for epoch in range(3):
        assert sorted(rows[epoch * count : (epoch + 1) * count]) == windows


def test_stacked_batches_are_the_same_batches():
    one, several = (BatchLoader(numbered(100), 2, 3) for _ in range(2))
    x, y = several.next_batches(4)
    assert x.shape == y.shape == (4, 2, 3)
    for i in range(4):
        expected = one.next_batch()
        assert (x[i] == expected[0]).all()
        assert (y[i] == expected[1]).all()


def test_exactly_enough_tokens_are_enough_and_one_fewer_is_not():
    BatchLoader(numbered(25), 4, 6).next_batch()
    with pytest.raises(InputError, match=r"at least 25 .*got 24"):
        BatchLoader(numbered(24), 4, 6)


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    start=st.integers(0, 40),
    length=st.integers(0, 40),
)
def test_shards_read_as_one(sizes, start, length):
    whole = numbered(sum(sizes))
    shards = ShardedTokens(np.split(whole, np.cumsum(sizes)[:-1]))
    assert len(shards) == len(whole)
    assert shards[start : start + length].tolist() == whole[start : start + length].tolist()


def test_bundled_shakespeare():
    train, val = load_splits("shakespeare", 0.1, 50257)
    assert len(train) + len(val) == 359_673
    assert len(val) == 35_967
    assert tokenizer.decode(train[:30].tolist()).startswith("ACT I.\n\nSCENE I. An open Place.")


def test_validation_is_the_end_of_the_tokens(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, numbered(1000))
    train, val = load_splits(str(path), 0.25, 50257)
    assert train[:].tolist() == list(range(750))
    assert val[:].tolist() == list(range(750, 1000))
    assert val[10:-10].tolist() == list(range(760, 990))
    assert train[20:10].tolist() == []


def llmc_bytes(tokens, magic=20240520, version=1, count=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    return header.tobytes() + tokens.tobytes()


def test_every_kind_of_token_file(tmp_path):
    """And a folder of all kinds, in the order of their names."""
    parts = np.split(numbered(1000), [300, 700])
    np.save(tmp_path / "b.npy", parts[1])
    parts[0].tofile(tmp_path / "a.bin")
    (tmp_path / "c.bin").write_bytes(llmc_bytes(parts[2]))
    (tmp_path / "._a.bin").write_bytes(b"what a Mac leaves beside a.bin")
    for name, tokens in zip(("a.bin", "b.npy", "c.bin"), parts, strict=True):
        assert load_tokens(str(tmp_path / name))[:].tolist() == tokens.tolist()
    assert load_tokens(str(tmp_path))[:].tolist() == list(range(1000))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_whatever_its_name(tmp_path, version):
    with (tmp_path / "a.bin").open("wb") as file:
        np.lib.format.write_array(file, numbered(10), version=version)
    with warnings.catch_warnings(record=True) as noise:
        assert load_tokens(str(tmp_path / "a.bin"))[:].tolist() == list(range(10))
    assert not noise


def test_npy_of_python_2(tmp_path):
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (10L,), }".ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "a.npy").write_bytes(content + numbered(10).tobytes())
    assert load_tokens(str(tmp_path / "a.npy"))[:].tolist() == list(range(10))


@pytest.fixture
def few_open_files():
    """Of which the process has some already, so that it may open about a dozen more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 12, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
@pytest.mark.usefixtures("few_open_files")
def test_a_folder_may_have_more_files_than_a_process_may_open(tmp_path):
    for i in range(100):
        numbered(1000)[10 * i : 10 * i + 10].tofile(tmp_path / f"{i:03d}.bin")
    train, val = load_splits(str(tmp_path), 0.1, 50257)
    slices = [train[start : start + 7] for start in range(0, 900, 7)]  # held, as a user may
    assert np.concatenate(slices).tolist() == list(range(900))
    x, _ = BatchLoader(val, 1, 99).next_batch()
    assert x.tolist() == [list(range(900, 999))]


def test_splits_of_a_large_corpus_are_not_copied(tmp_path, monkeypatch):
    """Sparse files that are larger than memory, of which only what is asked for is read."""
    for name in ("a.bin", "b.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
    train, val = load_splits(str(tmp_path), 0.5, 50257)
    assert len(train) == len(val) == 1 << 39
    assert train[-5:].tolist() == val[:5].tolist() == [0] * 5
    monkeypatch.setattr(data, "FINGERPRINT_TOKENS", 1 << 10)
    assert data.fingerprint(train)["length"] == 1 << 39


def test_a_file_that_is_cut_or_removed_while_it_is_used_is_named(tmp_path):
    path = tmp_path / "a.bin"
    numbered(100).tofile(path)
    tokens = load_tokens(str(path))
    numbered(50).tofile(path)
    assert tokens[:50].tolist() == list(range(50))
    with pytest.raises(InputError, match=r"a\.bin: expected 100 tokens, got fewer"):
        tokens[50:60]
    path.unlink()
    with pytest.raises(OSError, match=r"a\.bin"):
        tokens[:10]


# As nanoGPT, build-nanogpt, llm.c (twice), modded-nanogpt and Hugging Face name them.
@pytest.mark.parametrize(
    ("train", "val", "others"),
    [
        (["train.bin"], ["val.bin"], ["input.txt", "meta.pkl", "prepare.py"]),
        (["edufineweb_train_000001.npy", "edufineweb_train_000002.npy"],
         ["edufineweb_val_000000.npy"], []),
        (["tiny_shakespeare_train.bin"], ["tiny_shakespeare_val.bin"], ["tiny_shakespeare.txt"]),
        (["TinyStories_train.bin"], ["TinyStories_val.bin"], []),
        (["fineweb_train_000001.bin"], ["fineweb_val_000000.bin"], []),
        (["train-00000-of-00002.npy", "train-00001-of-00002.npy"],
         ["validation-00000-of-00001.npy"], ["README.md"]),
        (["b.TRAINING.npy"], ["a.valid1.npy"], []),
        (["train1.txt", "train2.txt"], ["val.txt"], []),
    ],
)  # fmt: skip
def test_files_named_train_and_val_are_the_splits(tmp_path, train, val, others):
    for number, name in enumerate([*train, *val, *others]):
        write_tokens(tmp_path / name, number)
    parts = load_splits(str(tmp_path), 0.1, 50257)
    for part, names in zip(parts, (train, val), strict=True):
        expected = [load_tokens(str(tmp_path / name))[:].tolist() for name in names]
        if names[0].endswith(".txt"):
            expected[1:] = [[tokenizer.END_OF_TEXT_TOKEN, *tokens] for tokens in expected[1:]]
        assert part[:].tolist() == [token for tokens in expected for token in tokens]
    whole = [*parts[0][:].tolist(), *parts[1][:].tolist()]
    assert load_tokens(str(tmp_path))[:].tolist() == whole
    train_alone, nothing = load_splits(str(tmp_path), 0.0, 50257)
    assert train_alone[:].tolist() == parts[0][:].tolist()
    assert len(nothing) == len(nothing[:]) == 0


def write_tokens(path, number):
    """Write a file of tokens or text that no other number has."""
    if path.suffix == ".npy":
        np.save(path, numbered(100)[number : 2 * number + 3])
    elif path.suffix == ".bin":
        path.write_bytes(llmc_bytes(numbered(100)[number : 2 * number + 3]))
    else:
        path.write_text(f"text number {number}")


@pytest.mark.parametrize(
    "names",
    [
        ["a.bin", "train.bin"],
        ["interval_1.bin", "train.bin"],
        ["evaluation.bin", "training_1.bin"],
        ["straining.npy", "trainval.npy", "valley.npy"],
    ],
)
def test_other_folders_are_cut_by_val_fraction(tmp_path, names):
    for name in names:
        write_tokens(tmp_path / name, 20)
    train, val = load_splits(str(tmp_path), 0.5, 50257)
    assert len(names) * list(range(20, 43)) == [*train[:].tolist(), *val[:].tolist()]
    assert abs(len(train) - len(val)) <= 1


@pytest.mark.parametrize(
    ("names", "odd"),
    [
        (["test.bin", "train.bin", "val.bin"], "test.bin"),
        (["a.bin", "val.bin"], "a.bin"),
        (["train.bin", "train_val.bin", "val.bin"], "train_val.bin"),
        (["test.txt", "train.txt", "val.txt"], "test.txt"),
    ],
)
def test_a_file_that_is_neither_train_nor_val_is_refused_beside_them(tmp_path, names, odd):
    for number, name in enumerate(names):
        write_tokens(tmp_path / name, number)
    with pytest.raises(InputError, match=rf"/{odd}: expected train or val in its name"):
        load_splits(str(tmp_path), 0.1, 50257)


@pytest.mark.parametrize("names", [["val.bin"], ["val_1.bin", "val_2.bin"], ["a_val.txt"]])
def test_a_folder_without_training_data_is_refused(tmp_path, names):
    for number, name in enumerate(names):
        write_tokens(tmp_path / name, number)
    with pytest.raises(InputError, match=rf"expected train in .* got {names[-1]}"):
        load_splits(str(tmp_path), 0.1, 50257)


def test_a_folder_of_texts_is_one_text_with_ends_between(tmp_path):
    contents = {"b.txt": "  second, with spaces \n", "a.txt": "first é\r\n", "c.txt": "\n\n third"}
    for name, text in contents.items():
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "notes.md").write_text("left out")
    tokens = load_tokens(str(tmp_path))[:].tolist()
    ordered = [tokenizer.encode(contents[name]) for name in sorted(contents)]
    end = [tokenizer.END_OF_TEXT_TOKEN]
    assert tokens == ordered[0] + end + ordered[1] + end + ordered[2]


def test_a_folder_of_texts_names_the_one_that_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"/b\.txt: expected UTF-8 text, got byte 0xe9 at .* 3"):
        load_tokens(str(tmp_path))


def test_a_folder_of_texts_and_tokens_is_refused(tmp_path):
    write_tokens(tmp_path / "a.txt", 1)
    write_tokens(tmp_path / "a.bin", 1)
    with pytest.raises(InputError, match=r"texts in this folder, got a\.bin and a\.txt"):
        load_tokens(str(tmp_path))


def test_text_is_encoded_once(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("First Citizen: once\r\nupon a time — äöü\n" * 3, newline="")
    first = load_tokens(str(path))[:].tolist()
    monkeypatch.setattr(tokenizer, "encode_corpus", lambda text: pytest.fail("encoded again"))
    assert load_tokens(str(path))[:].tolist() == first
    assert tokenizer.decode(first) == path.read_bytes().decode()


def test_an_edited_text_is_encoded_anew(tmp_path):
    path = tmp_path / "text.txt"
    for text in ("before the edit", "after the edit.", "before the edit"):
        path.write_text(text)
        assert tokenizer.decode(load_tokens(str(path))[:].tolist()) == text


def test_an_end_of_text_in_a_text_is_the_token(tmp_path):
    (tmp_path / "a.txt").write_text("one document<|endoftext|>and another")
    tokens = load_tokens(str(tmp_path / "a.txt"))[:].tolist()
    assert tokens == tokenizer.encode("one document<|endoftext|>and another")
    assert tokens.count(50256) == 1


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: content + b"12"])
def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("a text of its own, for this test")
    tokens = load_tokens(str(tmp_path / "text.txt"))[:].tolist()
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert load_tokens(str(tmp_path / "text.txt"))[:].tolist() == tokens
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "file" / "folder"))
    assert len(load_tokens("shakespeare")) == 359_673


def test_a_cache_that_fills_the_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(file, tokens):
        file.write(b"the first half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(np, "save", full)
    assert len(load_tokens("shakespeare")) == 359_673
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_is_where_the_user_has_caches(tmp_path, monkeypatch):
    monkeypatch.delenv("GPT_TWINS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "gpt-twins"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "gpt-twins"


def test_a_long_text_that_differs_at_its_end_is_another(tmp_path, monkeypatch):
    """Beyond what is hashed at a time."""
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path))
    monkeypatch.setattr(tokenizer, "encode_corpus", lambda text: numbered(200)[ord(text[-1]) :])
    for end in (b"a", b"b", b"a"):
        assert texts.encode_cached(b" " * (1 << 24) + end)[0] == end[0]


def test_a_user_without_a_home_has_a_cache_all_the_same(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GPT_TWINS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache.cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache.cache_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(InputError, match="GPT_TWINS_CACHE"):
        cache.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "gpt-twins"


def npy_bytes(header, content=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def npy_header(descr="'<u2'", shape="(10,)"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


WHOLE = "expected a whole .npy file of uint16 tokens"
COUNT = "tokens that its header states, got"


REFUSED = [
    ("empty.txt", b"", "expected text, got an empty file"),
    ("latin.txt", b"caf\xe9", "expected UTF-8 text, got byte 0xe9 at position 3"),
    ("odd.bin", b"123", "expected uint16 tokens, got 3 bytes"),
    ("empty.bin", b"", "expected uint16 tokens, got an empty file"),
    ("bad.npy", b"123", WHOLE),
    ("empty.npy", b"", "expected uint16 tokens, got an empty file"),
    ("zip.npy", b"PK\x03\x04" + bytes(100), WHOLE),
    ("unclosed.npy", npy_bytes("{'descr': '<u2', 'shape': (10"), WHOLE),
    ("nested.npy", npy_bytes("(" * 5000), WHOLE),
    ("code.npy", npy_bytes("__import__('os').abort()"), WHOLE),
    ("large.npy", npy_bytes(npy_header(shape=f"({2**63},)"), bytes(20)), WHOLE),
    ("digits.npy", npy_bytes(npy_header(shape=f"({'9' * 4000},)"), bytes(20)), WHOLE),
    ("future.npy", b"\x93NUMPY\x09" + npy_bytes(npy_header(), bytes(20))[7:], WHOLE),
    ("long.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), WHOLE),
    ("short.npy", npy_bytes(npy_header(), bytes(19)), f"10 {COUNT}"),
    ("longer.npy", npy_bytes(npy_header(), bytes(21)), f"10 {COUNT}"),
    ("negative.npy", npy_bytes(npy_header(shape="(-1,)"), bytes(20)), f"-1 {COUNT}"),
    ("true.npy", npy_bytes(npy_header(shape="(True,)"), bytes(20)), f"1 {COUNT}"),
    (
        "huge.npy",
        npy_bytes(npy_header(shape="(1000000000,)")),
        COUNT,
    ),
    ("none.npy", npy_bytes(npy_header(shape="(0,)")), "expected tokens, got none"),
    (
        "wide.npy",
        npy_bytes(npy_header("'<i8'"), bytes(80)),
        r"got int64 \(<i8\) in 1",
    ),
    ("big.npy", npy_bytes(npy_header("'>u2'"), bytes(20)), r"got uint16 \(>u2\) in 1"),
    ("flat.npy", npy_bytes(npy_header(shape="(2, 5)"), bytes(20)), r"got uint16 \(<u2\) in 2"),
    ("one.npy", npy_bytes(npy_header(shape="()"), bytes(2)), r"got uint16 \(<u2\) in 0"),
    ("objects.npy", npy_bytes(npy_header("'|O'"), b"pickle"), r"got object \(\|O\) in 1"),
    ("cut.bin", llmc_bytes(numbered(10))[:-2], f"10 {COUNT} 1042"),
    ("header.bin", llmc_bytes(numbered(10))[:500], f"10 {COUNT} 500"),
    ("magic.bin", llmc_bytes(numbered(10))[:4], "expected version 1 of llm.c's .* got 0"),
    ("more.bin", llmc_bytes(numbered(10)) + b"12", f"10 {COUNT} 1046"),
    ("billion.bin", llmc_bytes(numbered(10), count=10**9), f"1000000000 {COUNT} 1044"),
    ("minus.bin", llmc_bytes(numbered(10), count=-1), f"-1 {COUNT} 1044"),
    ("no.bin", llmc_bytes(numbered(0)), "expected tokens, got none"),
    ("99.bin", llmc_bytes(numbered(10), version=99), "version 1 of llm.c's .* got 99"),
    ("llama.bin", llmc_bytes(numbered(10), 20240801, 7), "got the uint32 tokens of Llama 3"),
    ("hellaswag.bin", llmc_bytes(numbered(10), 20240522), "got multiple-choice questions of"),
    ("gpt2_124M.bin", llmc_bytes(numbered(10), 20240326, 3), "got a model of llm.c"),
]


@pytest.mark.parametrize(("name", "content", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_unreadable_sources_are_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as refusal:
        load_tokens(str(path))
    assert str(refusal.value).startswith(str(path))
    if path.suffix != ".txt":
        with pytest.raises(InputError, match=words):  # and the same as one of a folder
            load_tokens(str(tmp_path))


def test_a_true_npy_with_more_behind_it_is_refused(tmp_path):
    with (tmp_path / "two.npy").open("wb") as file:
        np.save(file, numbered(10))
        np.save(file, numbered(10))
    with pytest.raises(InputError, match=f"148 bytes for the 10 {COUNT} 296"):
        load_tokens(str(tmp_path / "two.npy"))


@pytest.mark.parametrize("name", ["x.npy", "x.bin", "x.txt"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_only_regular_files_are_opened(tmp_path, name, kind):
    make = {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
    }
    make[kind](tmp_path / name)
    with pytest.raises(InputError, match=rf"/{name}: expected a file, got a"):
        load_tokens(str(tmp_path))
    if kind != "folder":
        with pytest.raises(InputError, match=rf"/{name}: expected a file, got a"):
            load_tokens(str(tmp_path / name))


def test_missing_sources_are_refused(tmp_path):
    for source in (str(tmp_path / "missing.txt"), "", "a\0b"):
        with pytest.raises(InputError, match="no such file"):
            load_tokens(source)
    with pytest.raises(InputError, match="got none"):
        load_tokens(str(tmp_path))
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"gone\.bin: no such file"):
        load_tokens(str(tmp_path))


def test_a_text_larger_than_memory_is_refused(tmp_path, monkeypatch):
    def too_large(path):
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", too_large)
    (tmp_path / "a.txt").write_text("as long as it goes")
    with pytest.raises(InputError, match=r"a\.txt: expected text that fits .* got 18 bytes"):
        load_tokens(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("place", [0, 99, 100, 987, 999])
def test_a_token_beyond_the_vocabulary_is_found_wherever_it_is(tmp_path, monkeypatch, place):
    monkeypatch.setattr(data, "CHECKED_TOKENS", 100)
    tokens = np.zeros(1000, np.uint16)
    tokens[place] = 500
    tokens.tofile(tmp_path / "a.bin")
    with pytest.raises(InputError, match=f"below vocab_size 500, got 500 at position {place}$"):
        load_splits(str(tmp_path / "a.bin"), 0.1, 500)
    load_splits(str(tmp_path / "a.bin"), 0.1, 501)


@pytest.mark.parametrize("place", [5, 12_345, (1 << 18) - 1])
def test_every_token_of_a_large_file_is_checked(tmp_path, place):
    tokens = np.zeros(1 << 18, np.uint16)
    tokens[place] = 500
    tokens.tofile(tmp_path / "a.bin")
    with pytest.raises(InputError, match=f"got 500 at position {place}$"):
        load_splits(str(tmp_path / "a.bin"), 0.1, 500)


@pytest.mark.parametrize("name", ["val.bin", "train_1.bin"])
def test_a_token_beyond_the_vocabulary_is_found_in_its_file(tmp_path, name):
    for other in ("train_0.bin", "train_1.bin", "val.bin"):
        np.full(100, 500 * (other == name), np.uint16).tofile(tmp_path / other)
    with pytest.raises(InputError, match=rf"/{name}: expected tokens below .* at position 0$"):
        load_splits(str(tmp_path), 0.1, 500)


def test_the_tokens_of_large_files_are_checked_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHECKED_AT_START", 99)
    tokens = np.zeros(100, np.uint16)
    tokens[70] = 500
    tokens.tofile(tmp_path / "a.bin")
    loader = BatchLoader(load_splits(str(tmp_path / "a.bin"), 0.0, 500)[0], 2, 16)
    loader.next_batches(2)
    with pytest.raises(InputError, match=r"/a\.bin: .* vocab_size 500, got 500 at position 70$"):
        loader.next_batch()


def test_a_fingerprint_is_that_of_the_tokens_however_they_are_stored(tmp_path):
    text = (tmp_path / "a.txt", "A text, and its tokens, to be stored in every way.")
    text[0].write_text(text[1])
    tokens = np.array(tokenizer.encode(text[1]), np.uint16)
    np.save(tmp_path / "a.npy", tokens)
    (tmp_path / "a.bin").write_bytes(llmc_bytes(tokens))
    (tmp_path / "shards").mkdir()
    for i, part in enumerate(np.array_split(tokens, 3)):
        part.tofile(tmp_path / "shards" / f"{i}.bin")
    prints = [
        data.fingerprint(load_splits(str(tmp_path / name), 0.3, 50257)[0])
        for name in ("a.txt", "a.npy", "a.bin", "shards")
    ]
    assert prints == 4 * [data.fingerprint(tokens[: len(tokens) - int(len(tokens) * 0.3)])]
    assert json.loads(json.dumps(prints)) == prints


@given(size=st.integers(1, 40), place=st.integers(0, 39))
def test_a_fingerprint_tells_every_change_apart(size, place):
    """Of tokens that fit in its windows: here four of ten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "FINGERPRINT_WINDOWS", 4)
        patch.setattr(data, "FINGERPRINT_TOKENS", 10)
        tokens = numbered(size)
        original = data.fingerprint(tokens)
        assert original["length"] == size
        assert data.fingerprint(tokens[:-1]) != original
        tokens[place % size] += 1
        assert data.fingerprint(tokens) != original


def test_a_fingerprint_of_much_reads_windows_of_it(monkeypatch):
    monkeypatch.setattr(data, "FINGERPRINT_WINDOWS", 4)
    monkeypatch.setattr(data, "FINGERPRINT_TOKENS", 10)
    tokens = numbered(1000)
    original = data.fingerprint(tokens)
    for start in (0, 330, 660, 990):
        for place in (start, start + 9):
            changed = tokens.copy()
            changed[place] += 1
            assert data.fingerprint(changed) != original
    tokens[15] += 1
    assert data.fingerprint(tokens) == original


@pytest.mark.parametrize("position", [100, -1, 10**30])
def test_a_place_outside_of_the_tokens_is_refused(position):
    with pytest.raises(InputError, match=f"expected a position below 100, got {position}"):
        BatchLoader(numbered(100), 2, 3).restore({"position": position})


def test_sizes_beyond_all_measure_are_too_many_tokens():
    for B, T in ((10**26, 32), (4, 10**12)):
        with pytest.raises(InputError, match=f"expected at least {B * T + 1}"):
            BatchLoader(numbered(100), B, T)


def from_url(path, **changes):
    return dataclasses.replace(texts.TINY_SHAKESPEARE, url=path.as_uri(), **changes)


def test_tiny_shakespeare_without_a_network_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path))
    monkeypatch.setattr(texts, "TINY_SHAKESPEARE", from_url(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"save it as .*tinyshakespeare.txt"):
        load_tokens("tiny_shakespeare")


def test_tiny_shakespeare_is_downloaded_once_and_its_hash_checked(monkeypatch, tmp_path):
    served = tmp_path / "served.txt"
    served.write_text("First Citizen: not the real file")
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(texts, "TINY_SHAKESPEARE", from_url(served))
    with pytest.raises(InputError, match=r"served\.txt: expected sha256 86c4e6aa"):
        load_tokens("tiny_shakespeare")
    assert not (tmp_path / "cache").exists()  # so that the next try is a download again
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    monkeypatch.setattr(texts, "TINY_SHAKESPEARE", from_url(served, sha256=digest))
    first = load_tokens("tiny_shakespeare")[:].tolist()
    served.unlink()
    assert load_tokens("tiny_shakespeare")[:].tolist() == first
    assert tokenizer.decode(first).endswith("the real file")
    (tmp_path / "cache" / "tinyshakespeare.txt").write_text("edited since")
    with pytest.raises(InputError, match=r"cache/tinyshakespeare\.txt: expected sha256"):
        load_tokens("tiny_shakespeare")


class Response:
    """What a server says, which may never end or end too soon."""

    def __init__(self, error=None):
        self.error = error

    def __enter__(self):
        return self

    def __exit__(self, *details):
        pass

    def read(self, size):
        if self.error:
            raise self.error
        return b"x" * size


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "expected sha256"),
        (http.client.IncompleteRead(b""), "no download from"),
        (TimeoutError("timed out"), r"\(timed out\)"),
    ],
)
def test_a_download_is_bounded_in_time_and_size(error, words, monkeypatch, tmp_path):
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path))
    answer = lambda url, *, timeout: Response(error)  # noqa: E731
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    with pytest.raises(InputError, match=words):
        load_tokens("tiny_shakespeare")


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(texts, "LARGE_HASH", 100)
    monkeypatch.setattr(tokenizer, "LARGE_TEXT", 100)


@pytest.mark.usefixtures("small_is_large")
def test_much_work_is_one_line_each_where_nobody_looks(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("as much as to be worth a line " * 10)
    for work in (
        ["hashing text: 0 MB", "encoding text: 0 MB"],
        ["hashing text: 0 MB"],  # encoded before
    ):
        load_splits(str(tmp_path / "a.txt"), 0.1, 50257)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.splitlines() == work


@pytest.mark.usefixtures("small_is_large")
def test_much_work_is_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    (tmp_path / "a.txt").write_text("as much as to be worth a bar " * 10)
    load_splits(str(tmp_path / "a.txt"), 0.1, 50257)
    shown = capsys.readouterr()
    assert shown.out == ""
    for words in ("hashing text", "encoding text", "100%"):
        assert words in shown.err


def test_little_work_says_nothing(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a few words of its own, for this test")
    load_splits(str(tmp_path / "a.txt"), 0.1, 50257)
    assert capsys.readouterr() == ("", "")
