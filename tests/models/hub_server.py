"""A server on loopback that speaks the hub's HTTP routes, for the real huggingface_hub client.

Repositories live in memory; each commit has a hash, and files are stored by it.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


@dataclass
class Repository:
    """Files of the newest commit, and of all."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        content = {**self.commits.get(self.head, {}), **files}
        digest = hashlib.sha1()
        for name in sorted(content):
            digest.update(name.encode() + content[name])
        self.head = digest.hexdigest()
        self.commits[self.head] = content
        return self.head

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.head if revision == "main" else revision)


@dataclass
class Hub:
    """The server's state: repositories by name, uploaded objects, and the requests so far."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # by SHA-256, of Git LFS
    requests: list[str] = field(default_factory=list)
    refused: bool = False  # whether an upload wants a login


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, route in ROUTES.items():
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                route(self, body, *match.groups())
                return
        self.fail(501, "NoRoute")

    def reply(
        self, content: bytes, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: Any, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    # Routes: what is asked about a model, its files, and the steps of an upload.

    def info(self, _: bytes, name: str, revision: str | None) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None or repository.private:
            self.fail(401, "RepoNotFound")
            return
        files = repository.files(revision or "main")
        if files is None:
            self.fail(404, "RevisionNotFound")
            return
        sha = repository.head if revision in (None, "main") else revision
        siblings = [{"rfilename": file} for file in files]
        self.json({"id": name, "sha": sha, "siblings": siblings, "gated": repository.gated})

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.fail(401, "RepoNotFound")
            return
        if repository.gated:
            self.fail(403, "GatedRepo")
            return
        files = repository.files(revision) or {}
        if file not in files:
            self.fail(404, "EntryNotFound")
            return
        commit = repository.head if revision == "main" else revision
        tag = hashlib.sha256(files[file]).hexdigest()
        self.reply(files[file], {"X-Repo-Commit": commit, "ETag": f'"{tag}"'})

    def create(self, body: bytes) -> None:
        if self.hub.refused:
            self.fail(401, "Unauthorized")
            return
        asked = json.loads(body)
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if name in self.hub.repositories:
            self.json({"error": "exists", "url": f"{self.hub.url}/{name}"}, 409)
            return
        self.hub.repositories[name] = Repository(private=bool(asked.get("private")))
        self.json({"url": f"{self.hub.url}/{name}"})

    def check_card(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        errors = [] if text.startswith("---\n") else [{"message": "no front matter"}]
        self.json({"errors": errors, "warnings": []})

    def preupload(self, body: bytes, name: str, _: str) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs"
                if file["path"].endswith((".safetensors", ".png"))
                else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.json({"files": modes})

    def batch(self, body: bytes, _: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.fail(422, "WrongContent")
            return
        self.hub.objects[oid] = body
        self.reply(b"")

    def commit(self, body: bytes, name: str, _: str) -> None:
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        oid = self.hub.repositories[name].commit(files)
        self.json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})


_REPO = r"([\w.-]+/[\w.-]+)"
ROUTES: dict[str, Any] = {
    rf"GET /api/models/{_REPO}(?:/revision/([^/]+))?": _Handler.info,
    rf"(?:GET|HEAD) /{_REPO}/resolve/([^/]+)/(.+)": _Handler.resolve,
    r"POST /api/repos/create": _Handler.create,
    r"POST /api/validate-yaml": _Handler.check_card,
    rf"POST /api/models/{_REPO}/preupload/([^/]+)": _Handler.preupload,
    rf"POST /{_REPO}\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /lfs/([0-9a-f]+)": _Handler.put,
    rf"POST /api/models/{_REPO}/commit/([^/]+)": _Handler.commit,
}


@contextmanager
def serving(patch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """A hub on loopback that the client in this process uses, with an empty cache."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    use(patch, hub.url, cache)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(patch: pytest.MonkeyPatch, url: str, cache: str) -> None:
    """What HF_ENDPOINT and HF_HUB_CACHE set when huggingface_hub is imported."""
    patch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setenv("HF_TOKEN", "hf_of_a_test")
