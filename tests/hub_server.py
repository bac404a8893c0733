"""As much of the Hugging Face Hub as publishing a model speaks: repositories, commits, large files by the LFS protocol.

    with hub_server() as hub:        # hub.endpoint for HF_ENDPOINT, hub.repositories to look into

Written after the requests of `huggingface_hub` 2.4 and https://huggingface.co/docs/hub/api; no line of it was compared
with the real Hub, which cannot be reached from here. It refuses what has no token or one that may only read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, READER = "hf_writes_4711", "hf_reads_0815"
_LARGE = (".safetensors", ".gguf", ".bin")


@dataclass
class Repository:
    """One repository: its files as of the last commit, and what was committed."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    large: set[str] = field(default_factory=set)  # names of those that are kept by the LFS protocol
    commits: list[str] = field(default_factory=lambda: ["first"])

    @property
    def head(self) -> str:
        return hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()

    def item(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        told: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob}
        if name in self.large:
            told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return told


@dataclass
class Hub:
    """A running server.

    Attributes: repositories, by `org/name`; blobs, large files that arrived, by SHA-256; requests, each as `GET /path`;
        breaks_at, a request whose line matches it is answered by an error of the server.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    breaks_at: str | None = None

    def uploads(self) -> list[str]:
        return [line for line in self.requests if line.startswith("PUT ")]


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Start one on a free port of the loopback."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
        self.send_response(status)
        for name, content in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, content)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        self._answer(
            status, {"error": message}, {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        )

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.served, self.path.split("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if hub.breaks_at and re.search(hub.breaks_at, hub.requests[-1]):
            self._refuse(400, "the server is out of order")
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path.startswith("/blobs/"):
            sha = path.removeprefix("/blobs/")
            assert hashlib.sha256(body).hexdigest() == sha
            hub.blobs[sha] = body
            self._answer(200)
        elif token not in (TOKEN, READER):
            self._refuse(401, "Invalid username or password.")
        elif path == "/api/whoami-v2":
            self._answer(200, {"type": "user", "name": "me", "orgs": []})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif token == READER and self.command == "POST":
            self._refuse(403, "you don't have the rights to create a model under this namespace")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(?:/(.*))?", path):
            if match[1] not in hub.repositories:
                self._refuse(404, "Repository not found", "RepoNotFound")
            else:
                self._repository(hub.repositories[match[1]], match[1], match[2] or "", body)
        else:
            self._refuse(404, f"unknown: {path}")

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        private = asked.get("private", asked.get("visibility") == "private")
        if name in self.served.repositories:
            self._refuse(409, "You already created this model repo")
            return
        self.served.repositories[name] = Repository(bool(private))
        self._answer(200, {"url": f"{self.served.endpoint}/{name}", "id": name})

    def _repository(self, repository: Repository, name: str, rest: str, body: bytes) -> None:
        hub = self.served
        if not rest:
            self._answer(200, {"id": name, "modelId": name, "sha": repository.head, "private": repository.private})
        elif rest.startswith("tree/"):
            self._answer(200, [repository.item(file) for file in sorted(repository.files)] or b"[]")
        elif rest.startswith("preupload/"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif rest == "info/lfs/objects/batch":
            objects = []
            for one in json.loads(body)["objects"]:
                told = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in hub.blobs:
                    told["actions"] = {"upload": {"href": f"{hub.endpoint}/blobs/{one['oid']}"}}
                objects.append(told)
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif rest.startswith("commit/"):
            self._commit(repository, name, [json.loads(line) for line in body.splitlines()])
        elif rest.startswith("resolve/"):
            self._resolve(repository, rest.split("/", 2)[2])
        else:
            self._refuse(404, f"unknown: {rest}")

    def _commit(self, repository: Repository, name: str, lines: list[dict[str, Any]]) -> None:
        summary = lines[0]["value"]
        if summary.get("parentCommit") not in (None, repository.head):
            self._refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                repository.files[value["path"]] = self.served.blobs[value["oid"]]
                repository.large.add(value["path"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                del repository.files[value["path"]]
        repository.commits.append(summary["summary"])
        url = f"{self.served.endpoint}/{name}/commit/{repository.head}"
        self._answer(200, {"success": True, "commitOid": repository.head, "commitUrl": url, "pullRequestUrl": None})

    def _resolve(self, repository: Repository, file: str) -> None:
        if file not in repository.files:
            self._refuse(404, "Entry not found", "EntryNotFound")
            return
        data = repository.files[file]
        self._answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": repository.head})
