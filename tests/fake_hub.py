"""A hub on this machine: a server of the few addresses that huggingface_hub asks for uploads and downloads.

Every file is small, so it is sent inside the commit, as the hub itself has it for small files; the transfer of large
ones (Xet, LFS) is huggingface_hub's own and not imitated.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Repo:
    """A model repository."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@dataclass
class FakeHub:
    """What the server knows.

    Attributes:
        users: Who owns which token.
        readers: Tokens that may only read.
        repos: By id.
        requests: Method and path of each, in order.
        is_broken: Whether commits fail.
    """

    users: dict[str, str] = field(default_factory=lambda: {"hf_mine": "me", "hf_reader": "me"})
    readers: set[str] = field(default_factory=lambda: {"hf_reader"})
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    is_broken: bool = False
    url: str = ""

    def respond(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Answer a request: status, headers, content."""
        self.requests.append(f"{method} {path}")
        user = self.users.get(token)
        if path == "/api/whoami-v2":
            return _json(200, {"type": "user", "name": user, "orgs": []}) if user else _json(401, {"error": "no token"})
        if path == "/api/validate-yaml":
            return _json(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body), user, token)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path):
            return self._api(found[1], found[2], user, token, body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(found[1], unquote(found[2]))
        return _json(404, {"error": path})

    def _create(self, asked: dict, user: str | None, token: str) -> tuple[int, dict[str, str], bytes]:
        repo_id = f"{asked.get('organization') or user}/{asked['name']}"
        url = {"url": f"{self.url}/{repo_id}", "id": repo_id}
        if repo_id in self.repos:
            return _json(409, {"error": "You already created this model repo", **url})
        if token in self.readers or not repo_id.startswith(f"{user}/"):
            return _json(403, {"error": "You don't have the rights to create a model under this namespace"})
        self.repos[repo_id] = Repo(private=asked.get("visibility") == "private")
        return _json(200, url)

    def _api(
        self, repo_id: str, what: str | None, user: str | None, token: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        repo = self.repos.get(repo_id)
        if repo is None:
            return _missing("RepoNotFound")
        may_write = token not in self.readers and repo_id.startswith(f"{user}/")
        if what == "auth-check":
            return _json(200, {}) if may_write else _json(403, {"error": "Forbidden"})
        if what == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return _json(200, {"files": modes})
        if what == "commit":
            if self.is_broken:
                return _json(422, {"error": "the storage is full"})
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "header":
                    repo.messages.append(line["value"]["summary"])
                else:
                    repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return _json(200, {"commitUrl": f"{self.url}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT})
        if what == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
                for path, content in repo.files.items()
            ]
            return _json(200, entries)
        siblings = [{"rfilename": path} for path in repo.files]
        return _json(200, {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "siblings": siblings, "tags": []})

    def _file(self, repo_id: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if repo_id not in self.repos:
            return _missing("RepoNotFound")
        content = self.repos[repo_id].files.get(path)
        if content is None:
            return _missing("EntryNotFound")
        return 200, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT}, content


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run the server as long as the block lasts."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            status, headers, content = hub.respond(self.command, urlsplit(self.path).path, token, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = _answer

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _json(status: int, value: object) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _missing(code: str) -> tuple[int, dict[str, str], bytes]:
    return 404, {"X-Error-Code": code, "X-Error-Message": "not found"}, b"{}"
