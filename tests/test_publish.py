"""Uploads, to a server on this machine that answers as the Hugging Face Hub does."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from gpt_common.formats.registry import read_weights
from tests.checkpoints import assert_same_as, hugging_face
from tests.conftest import assert_one_line_error, command

NAME = "someone/small-gpt2"


class Hub(BaseHTTPRequestHandler):
    """Keeps the files of repositories, each of one commit after the other."""

    def do_GET(self):
        repository = re.match(r"/api/models/([^/]+/[^/]+)", self.path)
        files = self.server.repositories.get(repository[1] if repository else "")
        if self.path == "/api/whoami-v2":
            self.answer({"name": "someone"}, 200 if self.has_token() else 401)
        elif files is None:
            self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
        elif "/tree/" in self.path:
            self.answer([{"type": "file", "path": f, "size": 1, "oid": "0"} for f in files])
        else:
            self.answer(
                {"id": NAME, "sha": "0" * 40, "siblings": [{"rfilename": f} for f in files]}
            )

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.posts.append(self.path)
        if not self.has_token():
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": self.path}, 404)

    def has_token(self):
        return self.headers.get("Authorization") == "Bearer token"

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.server.repositories
        self.server.repositories.setdefault(name, {})
        self.server.private = asked.get("private") or asked.get("visibility") == "private"
        self.answer({"url": f"{self.server.address}/{name}", "id": name}, 409 if there else 200)

    def commit(self, lines):
        files = self.server.repositories[NAME]
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        url = f"{self.server.address}/{NAME}/commit/{'0' * 40}"
        self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": url})

    def answer(self, content, status=200, error=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Print nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories, server.private, server.posts = {}, None, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "token")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "model"
    hugging_face().save_pretrained(folder)
    return folder


def upload(source, *flags):
    return command("convert", source, f"hf://{NAME}", *flags)


def test_a_model_is_verified_and_uploaded_with_a_card(hub, source, tmp_path):
    result = upload(source, "--private")
    assert result.returncode == 0, result.stderr
    files = hub.repositories[NAME]
    assert hub.private
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert_same_as(hugging_face(), tmp_path)
    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "text-generation")
    figures = re.findall(r"^\| (float\d\d) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", card, re.M)
    assert [row[0] for row in figures] == ["float64", "float32"]
    assert 0 < float(figures[0][2]) < 1e-12 < float(figures[1][2]) < 2e-6
    assert f"{read_weights(str(tmp_path)).config.n_layer} layers" in card


def test_a_model_that_is_there_is_replaced_only_with_overwrite(hub, source):
    hub.repositories[NAME] = {"pytorch_model.bin": b"old", "notes.txt": b"kept"}
    result = upload(source)
    assert (result.returncode, hub.repositories[NAME]["pytorch_model.bin"]) == (2, b"old")
    assert result.stderr == f"error: hf://{NAME}: there already; --overwrite replaces it\n"
    assert hub.posts == []
    assert upload(source, "--overwrite").returncode == 0
    files = hub.repositories[NAME]
    assert "pytorch_model.bin" not in files
    assert files["notes.txt"] == b"kept"
    assert "model.safetensors" in files


def test_a_refusal_is_one_line_before_the_verification(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    result = upload("nowhere")
    assert result.returncode == 2
    assert result.stderr == (
        f"error: hf://{NAME}: the Hub refuses: hf auth login, with a token that may write\n"
    )


@pytest.mark.parametrize("destination", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b c"])
def test_a_name_that_the_hub_does_not_allow(destination, source):
    result = command("convert", source, destination)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "expected hf://USER/NAME" in result.stderr


def test_a_path_is_not_private(call, source, tmp_path):
    result = call("convert.__main__", source, tmp_path / "model", "--private")
    assert_one_line_error(result, "private: expected hf://USER/NAME with it, got ", "model")
    assert not (tmp_path / "model").exists()


def test_a_format_that_transformers_does_not_open(source):
    result = command("convert", source, f"hf://{NAME}", "--to", "llmc")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "expected --to huggingface" in result.stderr
