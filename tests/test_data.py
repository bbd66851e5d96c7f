import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_common import data, tokenizer
from gpt_common.data import BatchLoader, ShardedTokens, load_splits, load_tokens
from gpt_common.errors import InputError


def numbered(count):
    return np.arange(count, dtype=np.uint16)


def slow_batches(tokens, B, T, rank, world_size, count):
    """The lecture's rule, said as plainly as possible."""
    position, batches = 0, []
    for _ in range(count):
        mine = position + rank * B * T
        window = [int(t) for t in tokens[mine : mine + B * T + 1]]
        rows = range(B)
        x = [[window[b * T + t] for t in range(T)] for b in rows]
        y = [[window[b * T + t + 1] for t in range(T)] for b in rows]
        batches.append((x, y))
        position += B * T * world_size
        if position + B * T * world_size + 1 > len(tokens):
            position = 0
    return batches


@given(
    B=st.integers(1, 4),
    T=st.integers(1, 5),
    world_size=st.integers(1, 3),
    extra=st.integers(0, 60),
    restore_at=st.integers(0, 8),
)
def test_loader_against_the_slow_rule(B, T, world_size, extra, restore_at):
    tokens = numbered(B * T * world_size + 1 + extra)
    for rank in range(world_size):
        loader = BatchLoader(tokens, B, T, rank, world_size)
        for step, (x, y) in enumerate(slow_batches(tokens, B, T, rank, world_size, 9)):
            if step == restore_at:  # a fresh loader goes on where the old one stood
                state = loader.state()
                loader = BatchLoader(tokens, B, T, rank, world_size)
                loader.restore(state)
            got_x, got_y = loader.next_batch()
            assert got_x.tolist() == x
            assert got_y.tolist() == y
            assert got_x.dtype == got_y.dtype == np.int32


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


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(InputError, match="world_size 2, got 2"):
        BatchLoader(numbered(100), 2, 2, rank=2, world_size=2)


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


def test_every_kind_of_token_file(tmp_path):
    tokens = numbered(1000)
    np.save(tmp_path / "a.npy", tokens)
    tokens.tofile(tmp_path / "b.bin")
    header = np.zeros(256, np.int32)
    header[:3] = (data.LLMC_MAGIC, 1, 1000)
    (tmp_path / "c.bin").write_bytes(header.tobytes() + tokens.tobytes())
    for name in ("a.npy", "b.bin", "c.bin"):
        assert load_tokens(str(tmp_path / name))[:].tolist() == tokens.tolist()
    assert load_tokens(str(tmp_path))[:].tolist() == tokens.tolist() * 3


def test_token_files_are_mapped_not_read(tmp_path):
    numbered(10).tofile(tmp_path / "a.bin")
    assert isinstance(load_tokens(str(tmp_path / "a.bin")), np.memmap)


def test_text_is_encoded_once(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("First Citizen: once\r\nupon a time — äöü\n" * 3, newline="")
    first = load_tokens(str(path))
    monkeypatch.setattr(tokenizer, "encode_corpus", lambda text: pytest.fail("encoded again"))
    assert load_tokens(str(path))[:].tolist() == first[:].tolist()
    assert tokenizer.decode(first.tolist()) == path.read_bytes().decode()


def test_a_damaged_cache_is_made_again(tmp_path, cache):
    path = tmp_path / "text.txt"
    path.write_text("a text of its own, for this test")
    before = set(cache.iterdir())
    tokens = load_tokens(str(path)).tolist()
    (entry,) = set(cache.iterdir()) - before
    entry.write_bytes(entry.read_bytes()[:-3])
    assert load_tokens(str(path)).tolist() == tokens


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "file" / "folder"))
    assert len(load_tokens("shakespeare")) == 359_673


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "expected text, got an empty file"),
        ("latin.txt", b"caf\xe9", "expected UTF-8 text, got byte 0xe9 at position 3"),
        ("odd.bin", b"123", "expected uint16 tokens, got 3 bytes"),
        ("empty.bin", b"", "expected uint16 tokens, got 0 bytes"),
        ("bad.npy", b"123", "expected a whole .npy file"),
        ("empty.npy", b"", "expected a whole .npy file"),
    ],
)
def test_unreadable_sources_are_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_tokens(str(path))


def test_tokens_of_another_type_are_refused(tmp_path):
    np.save(tmp_path / "wide.npy", np.arange(10))
    with pytest.raises(InputError, match="expected uint16 tokens in one dimension, got int64"):
        load_tokens(str(tmp_path / "wide.npy"))


def test_missing_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_tokens(str(tmp_path / "missing.txt"))
    with pytest.raises(InputError, match="got none"):
        load_tokens(str(tmp_path))


def test_a_token_beyond_the_vocabulary_is_found_wherever_it_is(tmp_path):
    tokens = np.zeros(1000, np.uint16)
    tokens[987] = 500
    tokens.tofile(tmp_path / "a.bin")
    with pytest.raises(InputError, match="below vocab_size 500, got 500 at position 987"):
        load_splits(str(tmp_path / "a.bin"), 0.1, 500)
    load_splits(str(tmp_path / "a.bin"), 0.1, 501)


def test_tiny_shakespeare_without_a_network_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "TINY_SHAKESPEARE_URL", (tmp_path / "absent").as_uri())
    with pytest.raises(InputError, match=r"save it as .*tinyshakespeare.txt"):
        load_tokens("tiny_shakespeare")


def test_tiny_shakespeare_is_downloaded_once_and_its_hash_checked(monkeypatch, tmp_path):
    served = tmp_path / "served.txt"
    served.write_text("First Citizen: not the real file")
    monkeypatch.setenv("GPT_TWINS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "TINY_SHAKESPEARE_URL", served.as_uri())
    with pytest.raises(InputError, match="expected sha256 86c4e6aa"):
        load_tokens("tiny_shakespeare")
    digest = data.hashlib.sha256(served.read_bytes()).hexdigest()
    monkeypatch.setattr(data, "TINY_SHAKESPEARE_SHA256", digest)
    served.unlink()
    assert tokenizer.decode(load_tokens("tiny_shakespeare").tolist()).endswith("the real file")
