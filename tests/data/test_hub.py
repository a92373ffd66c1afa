"""Data sets of the Hub: from a small server that plays the Hub's read API, and then without any network."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import pytest

ID, SHA = "somebody/bears", "1" * 40
SHOW = """
import json, sys
from tuner.data.audit import audit
from tuner.data.options import FolderOptions

found = audit(FolderOptions(images=sys.argv[1]), 32, 8)
print(json.dumps([[p.name, p.key, text] for p, text in zip(found.pictures, found.captions())]))
"""


class Hub(BaseHTTPRequestHandler):
    """One data set, to be read: its revision, its files, and what is in them."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": SHA, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def entries(self) -> list[dict]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.server.files.items()
        ]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {self.path}")
        files = self.server.files
        if path.startswith(f"/datasets/{ID}/resolve/"):
            name = path.split("/resolve/")[1].split("/", 1)[1]
            if name in files:
                return self.answer(files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"')
            return self.answer(b"", 404, X_Error_Code="EntryNotFound")
        if not path.startswith(f"/api/datasets/{ID}"):
            return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
        if "/tree/" in path:
            under = path.split("/tree/")[1].partition("/")[2]
            found = [entry for entry in self.entries() if str(Path(entry["path"]).parent) == (under or ".")]
            if not under:
                found.append({"type": "directory", "path": "data", "size": 0, "oid": "2" * 40})
            return self.answer(json.dumps(found).encode() if found else b"[]", 200 if found else 404)
        told = {"id": ID, "sha": SHA, "private": False, "tags": [], "downloads": 0, "likes": 0, "gated": False}
        return self.answer(json.dumps(told | {"siblings": [{"rfilename": name} for name in files]}).encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        asked = self.rfile.read(length).decode()
        self.server.asked.append(f"POST {self.path} {asked}")
        if "/paths-info/" in self.path:
            found = [entry for entry in self.entries() if entry["path"] in unquote(asked)]
            return self.answer(json.dumps(found).encode())
        return self.answer(b"{}", 404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(name, home, endpoint="http://127.0.0.1:9", offline=False):
    """What is read in a process that can reach no other Hub than the one at `endpoint`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
    told = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", SHOW, name]
    return subprocess.run(call, capture_output=True, text=True, env={**kept, **told, **quiet}, timeout=200)


@pytest.fixture
def bears(hub, picture, tmp_path):
    """Five pictures on the Hub, in a Parquet table as `push_to_hub` makes it; and the same in a folder."""
    folder = tmp_path / "local"
    folder.mkdir()
    for number in range(5):
        picture(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"bear number {number}")
    table = {"image": [str(folder / f"{n}.png") for n in range(5)], "text": [f"bear number {n}" for n in range(5)]}
    frame = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    frame.to_parquet(str(tmp_path / "it.parquet"))
    hub.files["data/train-00000-of-00001.parquet"] = (tmp_path / "it.parquet").read_bytes()
    hub.files["README.md"] = b"---\nlicense: mit\n---\n"
    return folder


def test_by_id_and_then_offline(hub, bears, tmp_path):
    home, endpoint = tmp_path / "home", f"http://127.0.0.1:{hub.server_port}"
    first = read(ID, home, endpoint)
    assert first.returncode == 0, first.stderr[-3000:] + "\n".join(hub.asked)
    local = json.loads(read(str(bears), home).stdout)
    rows = json.loads(first.stdout)
    assert [row[1:] for row in rows] == [row[1:] for row in local]
    assert rows[3][0] == f"{ID}, row 3"
    asked = len(hub.asked)
    again = read(ID, home, endpoint, offline=True)
    assert again.returncode == 0 and again.stdout == first.stdout and len(hub.asked) == asked, again.stderr[-3000:]


def test_what_is_not_there(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    for offline, words in ((False, "no such data set on the Hub"), (True, "the Hub cannot be reached")):
        done = read("nobody/nothing", tmp_path / "home", endpoint, offline)
        assert done.returncode and "--images nobody/nothing: there is no such folder here, " in done.stderr
        assert words in done.stderr.splitlines()[-1]


def test_a_mistyped_folder_is_no_id(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (Path("pictures") / "cats").mkdir(parents=True)
    from tuner.data.examples import listing
    from tuner.data.options import FolderOptions
    from tuner.errors import RequestError

    with pytest.raises(RequestError, match="pictures/dogs: there is no such folder"):
        listing(FolderOptions(images="pictures/dogs"))
