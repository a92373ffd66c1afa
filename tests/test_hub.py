"""Sending a run to the Hub: through the real command line, to a small server that plays the Hub's write API."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ID = "somebody/teddy"


class Hub(BaseHTTPRequestHandler):
    """The four requests that an upload makes, and what they were asked."""

    def answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        self.answer({"id": ID, "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

    def do_POST(self) -> None:
        path, body, seen = urlsplit(self.path).path, self.body(), self.server.seen
        seen.setdefault("tokens", set()).add(self.headers.get("Authorization"))
        if self.server.refuses:
            return self.answer({"error": "You may not."}, 403)
        if path == "/api/repos/create":
            seen["made"] = json.loads(body)
            return self.answer({"url": f"{self.server.address}/{ID}", "name": ID, "id": "1"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            answers = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self.answer({"files": answers})
        if "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            seen["files"] = {file["path"]: base64.b64decode(file["content"]) for file in files}
            url = f"{self.server.address}/{ID}/commit/{'0' * 40}"
            return self.answer({"success": True, "commitUrl": url, "commitOid": "0" * 40, "hookOutput": ""})
        return self.answer({"error": f"no such thing: {self.path}"}, 404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    """A Hub on this machine: `address`, what it has `seen`, and whether it `refuses`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.seen, server.refuses = f"http://127.0.0.1:{server.server_port}", {}, False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def lora(server, tmp_path: Path, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own: the Hub's settings are read when its library is imported."""
    names = ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    own = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    call = [sys.executable, str(ROOT / "cli.py"), "lora", *map(str, words)]
    return subprocess.run(call, env=clean | own | environment, capture_output=True, text=True)


def test_the_result_is_sent_without_what_only_resuming_needs(hub, tmp_path, tiny_base, images):
    words = ["--base", tiny_base, "--images", images, "--trigger", 'sks "bear"', "--name", "it", "--learning-rate", 1]
    words += ["--steps", 1, "--track", "tensorboard", "--out", tmp_path / "run", "--push-to-hub", ID]
    hub.refuses = True
    done = lora(hub, tmp_path, *words, HF_TOKEN="hf_secret")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "is safe in" in done.stderr and "--resume" in done.stderr
    hub.refuses = False
    done = lora(hub, tmp_path, "--resume", "--out", tmp_path / "run", "--push-to-hub", ID, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert f"It is at {hub.address}/{ID}." in done.stdout and "hf_secret" not in done.stdout
    assert hub.seen["tokens"] == {"Bearer hf_secret"}
    assert (hub.seen["made"]["organization"], hub.seen["made"]["name"]) == tuple(ID.split("/"))
    sent = hub.seen["files"]
    assert {"README.md", "config.toml", "metrics.jsonl", "it.safetensors", "samples/sheet.png"} <= sent.keys()
    assert not [name for name in sent if name.startswith((".", "checkpoints", "logs"))]
    assert sent["it.safetensors"] == (tmp_path / "run" / "it.safetensors").read_bytes()
    front = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
    assert front["instance_prompt"] == 'sks "bear"' and "base_model" not in front and "lora" in front["tags"]


@pytest.mark.parametrize(
    ("name", "environment", "words"),
    [
        ("teddy", {"HF_TOKEN": "hf_x"}, ["OWNER/NAME"]),
        ("some body/teddy", {"HF_TOKEN": "hf_x"}, ["OWNER/NAME"]),
        (ID, {}, ["HF_TOKEN"]),
        (ID, {"HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE"]),
    ],
)
def test_what_cannot_work_is_told_first(hub, tmp_path, images, name, environment, words):
    call = ["--base", "nowhere", "--images", images, "--out", tmp_path / "run", "--push-to-hub", name]
    done = lora(hub, tmp_path, *call, **environment)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in [*words, "--push-to-hub"])
    assert not hub.seen and not (tmp_path / "run").exists()
