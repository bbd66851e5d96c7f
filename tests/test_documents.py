"""Sources of documents. Those that need the extra `data` are skipped without it."""

import gzip
import json

import pytest

from gpt_common import documents
from gpt_common.documents import HubDataset, open_documents
from gpt_common.errors import InputError

TEXTS = ["first", "", "  third, \n with é and <|endoftext|> in it\n", "fourth 🙂"]


def read(source, field="text", skip=0):
    return list(open_documents(str(source), field).read(skip))


def jsonl(texts=TEXTS, field="text"):
    return "".join(json.dumps({"id": 7, field: text}) + "\n" for text in texts).encode()


def zst(content):
    return pytest.importorskip("pyarrow").compress(content, "zstd", asbytes=True)


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zst}


@pytest.mark.parametrize("suffix", PACK)
def test_a_line_of_jsonl_is_a_document(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix](jsonl()))
    assert read(path) == TEXTS
    assert read(path, skip=2) == TEXTS[2:]
    path.write_bytes(PACK[suffix](jsonl(field="body").removesuffix(b"\n")))
    assert read(path, field="body") == TEXTS


@pytest.mark.parametrize("suffix", PACK)
def test_a_text_is_a_document_with_all_its_lines(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix]("a\r\nb\n\né".encode()))
    assert read(path) == ["a\r\nb\n\né"]


def test_files_of_several_gzip_members_and_zstd_frames(tmp_path):
    for suffix in (".gz", ".zst"):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(PACK[suffix](jsonl(TEXTS[:1])) + PACK[suffix](jsonl(TEXTS[1:])))
        assert read(path) == TEXTS


def test_a_row_of_parquet_is_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROWS", 3)
    write_parquet(tmp_path / "a.parquet", n=[1, 2, 3, 4], text=TEXTS)
    assert read(tmp_path / "a.parquet") == TEXTS
    assert read(tmp_path / "a.parquet", skip=3) == TEXTS[3:]


def test_a_folder_is_its_files_in_the_order_of_their_paths(tmp_path):
    for name in ("b/1.txt", "a/10.txt", "a/9.jsonl", "b.txt", ".hidden/a.txt", "a/.b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = json.dumps({"text": name}) if name.endswith("jsonl") else name
        (tmp_path / name).write_text(content)
    (tmp_path / "README.md").write_text("left out")
    (tmp_path / "a" / "data.json.gz").write_text("left out")
    assert read(tmp_path) == ["a/10.txt", "a/9.jsonl", "b/1.txt", "b.txt"]
    assert read(tmp_path, skip=3) == ["b.txt"]


def test_what_has_been_read_of_how_much(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl())
    source = open_documents(str(tmp_path), "text")
    assert (source.done, source.total) == (0, 2 * len(jsonl()))
    done = [source.done for _ in source.read(0)]
    assert done == sorted(done)
    assert done[-1] == source.total


def test_a_source_that_has_changed_is_told_apart(tmp_path):
    identities = []
    for sizes in ({"a": 3}, {"a": 4}, {"b": 4}, {"a": 3, "b": 4}, {"a": 4, "b": 3}):
        folder = tmp_path / str(len(identities)) / "source"
        folder.mkdir(parents=True)
        for name, size in sizes.items():
            (folder / f"{name}.txt").write_text(size * "x")
        identities.append(json.dumps(open_documents(str(folder), "text").identity()))
    assert len(set(identities)) == 5
    assert json.loads(identities[-1])["files"] == 2


REFUSED = [
    ("a.jsonl", jsonl() + b"{", "a.jsonl: line 5: expected JSON, got: Expecting"),
    ("a.jsonl", b"\n" + jsonl(), "line 1: expected JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1: expected JSON, got: maximum recursion"),
    ("a.jsonl", jsonl() + b'{"text": 1}', "line 5: expected text in 'text', got 1"),
    ("a.jsonl", jsonl() + b'{"id": 1}', "line 5: expected a field 'text', got 'id'"),
    ("a.jsonl", jsonl() + b'["text"]', "line 5: expected an object, got list"),
    ("a.jsonl", jsonl() + b'{"text": "\xe9"}', "line 5: expected UTF-8 text, got byte 0xe9 at"),
    (
        "a.jsonl.gz",
        gzip.compress(jsonl(), mtime=0)[:-9],
        "a.jsonl.gz: Compressed file ended before",
    ),
    ("a.jsonl.gz", jsonl(), "a.jsonl.gz: Not a gzipped file"),
    ("a.txt", b"", "a.txt: expected text, got an empty file"),
    ("a.txt.gz", gzip.compress(b"", mtime=0), "a.txt.gz: expected text, got an empty file"),
    ("a.txt", b"caf\xe9", "a.txt: expected UTF-8 text, got byte 0xe9 at position 3"),
    ("a.csv", b"1", "expected .txt, .jsonl, .parquet files .* got none"),
    ("a.txt.bz2", b"1", "expected .txt, .jsonl, .parquet files .* got none"),
]


@pytest.mark.parametrize(("name", "content", "words"), REFUSED)
def test_what_is_not_a_document_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as refusal:
        read(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_zst_file_that_is_cut_or_damaged_is_named(tmp_path):
    content = zst(jsonl(map(str, range(5000))))
    for damaged in (content[:-5], content[: len(content) // 2], b"none of it"):
        (tmp_path / "a.jsonl.zst").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.jsonl\.zst: "):
            read(tmp_path)


def test_a_parquet_file_that_is_wrong_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    for columns, words in (
        ({"body": TEXTS, "id": TEXTS}, "expected a column 'text', got body, id"),
        ({"text": ["a", "b", None]}, "row 3: expected text in 'text', got None"),
        ({"text": [1, 2]}, "row 1: expected text in 'text', got 1"),
    ):
        write_parquet(path, **columns)
        with pytest.raises(InputError, match=rf"a\.parquet: {words}"):
            read(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"a\.parquet: "):
        read(path)


def test_missing_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file or folder \(a source is fineweb-edu-10b,"):
        read(tmp_path / "missing")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"a\.txt: expected a file, got a folder"):
        read(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of parquet files in place of a data set on the Hub."""
    pytest.importorskip("datasets")
    for i in range(2):
        write_parquet(tmp_path / f"{i}.parquet", id=[1, 2, 3], text=[f"{i} {j}" for j in "abc"])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(documents.HUB, "openwebtext", HubDataset(str(tmp_path), None, None, 6))
    return tmp_path


def test_a_data_set_of_the_hub(hub):
    texts = [f"{i} {j}" for i in range(2) for j in "abc"]
    assert read("openwebtext") == texts
    assert read("openwebtext", skip=4) == texts[4:]
    source = open_documents("openwebtext", "text")
    assert [source.done for _ in source.read(2)] == [3, 4, 5, 6]
    assert source.total == 6
    with pytest.raises(InputError, match="openwebtext: "):
        read("openwebtext", field="body")


def test_a_hub_that_is_not_reached_is_one_line(hub, monkeypatch):
    missing = HubDataset(str(hub / "missing"), None, None, 6)
    monkeypatch.setitem(documents.HUB, "openwebtext", missing)
    with pytest.raises(InputError, match=r"^openwebtext: .*missing") as refusal:
        read("openwebtext")
    assert "\n" not in str(refusal.value)
