"""A hub on this machine: enough of the Hugging Face hub's protocol for its client to upload and read.

What it answers was taken from the client (huggingface_hub): repositories are made, files come inside
of a commit or as LFS objects that it names, and are read as whole files or ranges. It keeps what arrives, and
every request. Faults are given to it beforehand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

WRITING, READING = "hf_" + "w" * 34, "hf_" + "r" * 34
CUT_OFF = 0  # as a status: the connection ends without an answer


@dataclass
class Repository:
    """What has arrived.

    Attributes:
        private: as it was created.
        branches: files by path, of each branch.
        ignored: pattern of paths that its .gitignore keeps out.
    """

    private: bool = True
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    ignored: str = r"(?!)"


@dataclass
class Hub:
    """State of the server.

    Attributes:
        url: of the server.
        repositories: by "models/owner/name" or "datasets/owner/name".
        objects: LFS objects by their SHA-256.
        asked: method, path and authorisation of every request.
        faults: (method, beginning of the path) -> statuses of the next such requests, instead of an answer.
        server_says: is added to what a refused client is told.
        lfs_from: bytes; smaller files come inside of a commit.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    faults: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    server_says: str = ""
    lfs_from: int = 10_000

    def fault(self, method: str, path: str) -> int | None:
        """The status of the fault that is due for this request."""
        for (of, beginning), statuses in self.faults.items():
            if of == method and path.startswith(beginning) and statuses:
                return statuses.pop(0)
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, until the end of the block."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, xet: bool = False) -> None:
    """Let this process's client speak to ``hub``, with a token of ours or none, and wait for nothing."""
    address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not xet)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815  # the names are the library's

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silent."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        authorised = self.headers.get("Authorization", "")
        self.state.asked.append((self.command, path, authorised))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        fault = self.state.fault(self.command, path)
        if fault == CUT_OFF:
            self.close_connection = True
        elif fault is not None:
            self._refuse(fault)
        elif path.startswith("/lfs/"):  # signed addresses, which ask for no token
            self.state.objects[path.removeprefix("/lfs/")] = body
            self._answer({})
        elif authorised not in (f"Bearer {WRITING}", f"Bearer {READING}"):
            self._refuse(401, "Invalid username or password.")
        else:
            self._route(path, query, body, authorised.endswith(WRITING))

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _route(self, path: str, query: dict[str, list[str]], body: bytes, may_write: bool) -> None:
        name = r"(?P<name>[\w.-]+/[\w.-]+)"
        kind = r"/api/(?P<kind>models|datasets)/"
        routes: dict[str, Callable[..., None]] = {
            r"POST /api/repos/create": self._create,
            r"POST /api/validate-yaml": self._check_card,
            rf"POST {kind}{name}/branch/(?P<branch>.+)": self._branch,
            rf"POST {kind}{name}/preupload/(?P<revision>[^/]+)": self._preupload,
            rf"POST /{name}\.git/info/lfs/objects/batch": self._batch,
            rf"POST {kind}{name}/commit/(?P<revision>[^/]+)": self._commit,
            rf"POST {kind}{name}/paths-info/(?P<revision>[^/]+)": self._paths,
            rf"GET {kind}{name}(/revision/(?P<revision>[^/]+))?": self._info,
            rf"GET {kind}{name}/tree/(?P<revision>[^/]+)(/(?P<below>.+))?": self._tree,
            rf"(GET|HEAD) /(?P<kind>datasets/)?{name}/resolve/(?P<revision>[^/]+)/(?P<file>.+)": self._file,
        }
        for pattern, action in routes.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                if self.command == "POST" and not may_write and "paths-info" not in pattern:
                    self._refuse(403, "You don't have the rights to create a model under this namespace")
                    return
                if self.command == "GET" and action == self._tree:
                    action(**found.groupdict(), recursive="recursive" in query)
                    return
                action(**found.groupdict(), **({"body": body} if self.command == "POST" else {}))
                return
        self._refuse(404, "no such address")

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        there = f"models/{name}" in self.state.repositories
        if not there:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.state.repositories[f"models/{name}"] = Repository(private)
        told = {"url": f"{self.state.url}/{name}", "error": "You already created this model repo"}
        self._answer(told if there else {"url": told["url"]}, 409 if there else 200)

    def _check_card(self, body: bytes) -> None:
        wrong = [] if "license" in json.loads(body)["content"] else [{"message": "no licence"}]
        self._answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def _branch(self, kind: str, name: str, branch: str, body: bytes) -> None:
        if repository := self._repository(kind, name):
            there = branch in repository.branches
            repository.branches.setdefault(branch, dict(repository.branches["main"]))
            self._answer({"error": "Reference already exists"} if there else {}, 409 if there else 200)

    def _preupload(self, kind: str, name: str, revision: str, body: bytes) -> None:
        if (files := self._files(kind, name, revision)) is None:
            return
        repository = self.state.repositories[f"{kind}/{name}"]
        told = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= self.state.lfs_from else "regular",
                "shouldIgnore": re.fullmatch(repository.ignored, file["path"]) is not None,
                "oid": _oid(files[file["path"]]) if file["path"] in files else None,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer({"files": told})

    def _batch(self, name: str, body: bytes) -> None:
        told: list[dict[str, Any]] = []
        for entry in json.loads(body)["objects"]:
            oid = entry["oid"]
            there = oid in self.state.objects
            actions = {} if there else {"actions": {"upload": {"href": f"{self.state.url}/lfs/{oid}"}}}
            told.append({"oid": oid, "size": entry["size"], **actions})
        self._answer({"transfer": "basic", "objects": told})

    def _commit(self, kind: str, name: str, revision: str, body: bytes) -> None:
        if (files := self._files(kind, name, revision)) is None:
            return
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = self.state.objects.get(value["oid"], b"")
                if hashlib.sha256(content).hexdigest() != value["oid"] or len(content) != value["size"]:
                    self._refuse(400, f"{value['path']}: no such LFS object has been uploaded")
                    return
                files[value["path"]] = content
        oid = _commit_of(files)
        url = f"{self.state.url}/{name}/commit/{oid}"
        self._answer({"success": True, "commitOid": oid, "commitUrl": url})

    def _info(self, kind: str, name: str, revision: str | None = None) -> None:
        if (files := self._files(kind, name, revision or "main")) is not None:
            told = {"id": name, "sha": _commit_of(files)}
            told |= {"private": self.state.repositories[f"{kind}/{name}"].private}
            self._answer(told | {"siblings": [{"rfilename": path} for path in files]})

    def _tree(
        self, kind: str, name: str, revision: str, below: str | None = None, recursive: bool = False
    ) -> None:
        if (files := self._files(kind, name, revision)) is None:
            return
        found = [entry for entry in _entries(files) if below is None or entry["path"].startswith(f"{below}/")]
        depth = 0 if below is None else below.count("/") + 1
        if below is not None and not found:
            self._refuse(404, f"{below} does not exist on {revision}", "EntryNotFound")
            return
        self._answer([entry for entry in found if recursive or entry["path"].count("/") == depth])

    def _paths(self, kind: str, name: str, revision: str, body: bytes) -> None:
        if (files := self._files(kind, name, revision)) is not None:
            wanted = parse_qs(body.decode())["paths"]
            self._answer([entry for entry in _entries(files) if entry["path"] in wanted])

    def _file(self, kind: str | None, name: str, revision: str, file: str) -> None:
        files = self._files("datasets" if kind else "models", name, revision)
        if files is None:
            return
        if file not in files:
            self._refuse(404, "Entry not found", "EntryNotFound", _commit_of(files))
            return
        content = files[file]
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": _commit_of(files), "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            self._send(200, content, headers)
            return
        begin, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        self._send(206, content[begin : end + 1], headers)

    def _repository(self, kind: str, name: str) -> Repository | None:
        repository = self.state.repositories.get(f"{kind}/{name}")
        if repository is None:
            self._refuse(404, "Repository not found", "RepoNotFound")
        return repository

    def _files(self, kind: str, name: str, revision: str) -> dict[str, bytes] | None:
        """Of a branch or commit."""
        if (repository := self._repository(kind, name)) is None:
            return None
        commits = {_commit_of(files): files for files in repository.branches.values()}
        files = {**commits, **repository.branches}.get(revision)
        if files is None:
            self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return files

    def _refuse(self, status: int, message: str = "fault", code: str = "", commit: str = "") -> None:
        message += self.state.server_says
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        headers |= {"X-Repo-Commit": commit} if commit else {}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _answer(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entries(files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    """Folders and files, as the hub lists them."""
    folders = {path.rpartition("/")[0] for path in files} - {""}
    folders |= {folder[: place.start()] for folder in folders for place in re.finditer("/", folder)}
    for folder in sorted(folders):
        yield {"type": "directory", "path": folder, "oid": _oid(folder.encode())}
    for path, content in sorted(files.items()):
        yield {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _commit_of(files: dict[str, bytes]) -> str:
    return _oid(json.dumps({path: _oid(content) for path, content in sorted(files.items())}).encode())
