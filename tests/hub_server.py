"""A Hugging Face Hub on loopback: repositories in memory, served well or badly over its HTTP API.

Status codes, headers and bodies are those of the real Hub. Large files are answered with a redirect
to another host, as the real Hub does with its storage.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from tests.loopback import LoopbackServer

LARGE = (".safetensors", ".parquet", ".bin")


@dataclass
class Repo:
    """Commits by hash, each with its files; branches and tags by name."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(
        self, files: dict[str, bytes], branch: str = "main", gone: Iterable[str] = ()
    ) -> str:
        """Add files on a branch, without those that are gone; return the hash of the commit."""
        content = dict(self.commits.get(self.branches.get(branch, ""), {}))
        for path in gone:
            content.pop(path, None)
        content |= files
        digest = hashlib.sha1(f"{len(self.commits)} {self.name}".encode())
        for path, data in sorted(content.items()):
            digest.update(path.encode() + hashlib.sha1(data).digest())
        self.commits[digest.hexdigest()] = content
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a commit's hash."""
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None


@dataclass
class Fault:
    """What is wrong with answers to requests whose `METHOD /path` matches `request`.

    Attributes:
        request: a regular expression.
        status: answer this, with `headers`, instead of what is right.
        headers: of that answer.
        cut_at: close the connection after so many bytes of the right answer.
        damage: replace the first byte of the right answer.
        short: leave out its last byte, and say that this is all.
        times: how often; None for ever.
    """

    request: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    damage: bool = False
    short: bool = False
    times: int | None = None


@dataclass
class Hub:
    """Where it listens, what it holds, who may read it, and what it was asked."""

    url: str
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    """By token: the gated repositories whose licence is accepted, and "write"."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def add(self, kind: str, name: str, files: dict[str, bytes], **how: Any) -> Repo:
        """Make a repository with one commit."""
        repo = self.repos[kind, name] = Repo(kind, name, **how)
        repo.commit(files)
        return repo

    def asked(self, pattern: str) -> list[dict[str, str]]:
        """Return the headers of every request so far that matches."""
        return [headers for line, headers in self.requests if re.search(pattern, line)]

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Return what makes any client of the Hub use this one, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # the storage protocol of files that were uploaded with it
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": token or "",
        }


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve an empty Hub."""
    server = LoopbackServer(("127.0.0.1", 0), _Handler)
    port = server.server_address[1]
    server.hub = Hub(f"http://127.0.0.1:{port}")  # type: ignore[attr-defined]
    server.storage = f"http://localhost:{port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str | None, message: str) -> None:
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    @property
    def hub(self) -> Hub:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.requests.append((line, {k.lower(): v for k, v in self.headers.items()}))
        fault = next((f for f in self.hub.faults if re.search(f.request, line)), None)
        if fault and fault.times is not None:
            fault.times -= 1
            if not fault.times:
                self.hub.faults.remove(fault)
        if fault and fault.status:
            self._answer(fault.status, b"", fault.headers)
            return
        try:
            status, content, headers = self._route(urlsplit(self.path), body)
        except _Refused as refused:
            status, content, headers = refused.status, b"", refused.headers
        self._answer(status, content, headers, fault)

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if status == 200 and asked and self.command == "GET":
            start, size = int(asked[1]), len(content)
            content = content[start : int(asked[2]) + 1 if asked[2] else size]
            rest = f"bytes {start}-{start + len(content) - 1}/{size}"
            status, headers = 206, headers | {"Content-Range": rest}
        if fault and fault.damage:
            content = bytes([content[0] ^ 255]) + content[1:]
        if fault and fault.short:
            content = content[:-1]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if fault and fault.cut_at is not None:
                self.wfile.write(content[: fault.cut_at])
                self.close_connection = True
            else:
                self.wfile.write(content)
        except OSError:
            pass  # the client is gone

    def _route(self, url: SplitResult, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of the right answer."""
        path = url.path  # quoted: a branch may have slashes in its name
        if found := re.fullmatch(r"/storage/(\w{64})", path):
            if self.command == "PUT":
                assert hashlib.sha256(body).hexdigest() == found[1]
                self.hub.objects[found[1]] = body
                return 200, b"", {}
            return 200, self.hub.objects[found[1]], {"ETag": f'"{found[1]}"'}
        if path == "/api/whoami-v2":
            self._token(write=False)
            return _json({"type": "user", "name": "tests", "orgs": []})
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repo("datasets" if found[1] else "models", found[2], write=True)
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo = self._repo("datasets" if found[1] else "models", found[2])
            return self._resolve(repo, unquote(found[3]), unquote(found[4]))
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)", path):
            return self._info(self._repo(found[1], found[2]), "main")
        pattern = r"/api/(models|datasets)/([^/]+/[^/]+)/([\w-]+)/([^/]+)(?:/(.+))?"
        if found := re.fullmatch(pattern, path):
            kind, name, what, revision, folder = (unquote(part or "") for part in found.groups())
            repo = self._repo(kind, name, write=what in ("preupload", "commit", "tag"))
            match what:
                case "revision":
                    return self._info(repo, revision)
                case "tree":
                    entries = self._entries(repo, revision)
                    if folder and entries.get(folder, {}).get("type") != "directory":
                        raise _Refused(
                            404, "EntryNotFound", f"{folder} does not exist on {revision}"
                        )
                    whole = "recursive=true" in url.query.lower()
                    return _json(
                        [
                            entry
                            for path, entry in entries.items()
                            if _inside(path, folder) and (whole or _parent(path) == folder)
                        ]
                    )
                case "paths-info":
                    entries, asked = self._entries(repo, revision), _form(body)["paths"]
                    return _json([entries[path] for path in asked if path in entries])
                case "preupload":
                    return self._preupload(json.loads(body))
                case "commit":
                    return self._commit(repo, revision, body)
                case "tag":
                    return self._tag(repo, revision, json.loads(body)["tag"])
        raise AssertionError(f"{self.command} {path}: not served")

    def _token(self, *, write: bool) -> set[str] | None:
        """Return what the request's token allows, None without a token."""
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given not in self.hub.tokens:
            raise _Refused(401, None, "Invalid credentials in Authorization header")
        rights = self.hub.tokens.get(given)
        if write and rights is None:
            raise _Refused(401, None, "Invalid username or password.")
        if write and "write" not in (rights or set()):
            raise _Refused(403, None, "You don't have the rights to write here with this token")
        return rights

    def _repo(self, kind: str, name: str, *, write: bool = False) -> Repo:
        rights = self._token(write=write)
        repo = self.hub.repos.get((kind.removesuffix("s"), name))
        if repo is None or (repo.private and rights is None):
            if rights is None:
                raise _Refused(401, "RepoNotFound", "Invalid username or password.")
            raise _Refused(404, "RepoNotFound", "Repository not found")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.find(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _info(self, repo: Repo, revision: str) -> tuple[int, bytes, dict[str, str]]:
        commit = self._commit_of(repo, revision)
        return _json(
            {
                "_id": "0",
                "id": repo.name,
                "sha": commit,
                "private": repo.private,
                "gated": "auto" if repo.gated else False,
                "tags": [],
                "siblings": [{"rfilename": path} for path in repo.commits[commit]],
            }
        )

    def _entries(self, repo: Repo, revision: str) -> dict[str, dict[str, Any]]:
        """Return what the Hub tells about every file and folder at a commit, by path."""
        entries: dict[str, dict[str, Any]] = {}
        for path, data in repo.commits[self._commit_of(repo, revision)].items():
            folder = _parent(path)
            while folder:
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
                folder = _parent(folder)
            entry = {"type": "file", "path": path, "size": len(data), "oid": _git_hash(data)}
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
            entries[path] = entry
        return entries

    def _resolve(self, repo: Repo, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        rights = self._token(write=False)
        if repo.gated and repo.name not in (rights or set()):
            where = f"Access to {repo.kind} {repo.name} is restricted"
            if rights is None:
                raise _Refused(
                    401,
                    "GatedRepo",
                    f"{where}. You must have access to it and be authenticated to access it. "
                    "Please log in.",
                )
            pending = "awaiting a review from the repo authors."
            visit = f"Visit https://huggingface.co/{repo.name} to ask for access."
            raise _Refused(
                403,
                "GatedRepo",
                f"Your request to access {repo.kind} {repo.name} is {pending}"
                if "pending" in rights
                else f"{where} and you are not in the authorized list. {visit}",
            )
        commit = self._commit_of(repo, revision)
        headers = {"X-Repo-Commit": commit}
        if path not in repo.commits[commit]:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data = repo.commits[commit][path]
        if not path.endswith(LARGE):
            return 200, data, headers | {"ETag": f'"{_git_hash(data)}"'}
        sha256 = hashlib.sha256(data).hexdigest()
        self.hub.objects[sha256] = data
        return (
            302,
            b"",
            headers
            | {
                "X-Linked-ETag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.server.storage}/storage/{sha256}",  # type: ignore[attr-defined]
            },
        )

    def _create(self, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        self._token(write=True)
        kind = asked.get("type") or "model"
        name = f"{asked.get('organization') or 'tests'}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            status, content, headers = _json({"error": "You already created this", "url": url})
            return 409, content, headers
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.add(kind, name, {".gitattributes": b""}, private=private)
        return _json({"url": url, "name": name, "id": "0"})

    def _preupload(self, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        return _json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in asked["files"]
                ]
            }
        )

    def _batch(self, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        storage = f"{self.server.storage}/storage/"  # type: ignore[attr-defined]
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": storage + one["oid"], "header": {}}},
            }
            for one in asked["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: Repo, branch: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        files: dict[str, bytes] = {}
        gone: list[str] = []
        for line in body.splitlines():
            part = json.loads(line)
            match part["key"]:
                case "deletedFile" | "deletedFolder":
                    gone += self._existing(repo, branch, part["value"]["path"])
                case "file":
                    files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
                case "lfsFile":
                    files[part["value"]["path"]] = self.hub.objects[part["value"]["oid"]]
        commit = repo.commit(files, branch, gone)
        url = f"{self.hub.url}/{repo.name}/commit/{commit}"
        return _json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _existing(self, repo: Repo, branch: str, path: str) -> list[str]:
        """Return the files that a path on a branch stands for, a folder with a slash at its end."""
        files = repo.commits[self._commit_of(repo, branch)]
        found = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
        if not found:
            raise _Refused(404, "EntryNotFound", f"A file with the name {path} does not exist")
        return found

    def _tag(self, repo: Repo, revision: str, tag: str) -> tuple[int, bytes, dict[str, str]]:
        if tag in repo.tags:
            raise _Refused(409, None, f"Tag {tag} already exists")
        repo.tags[tag] = self._commit_of(repo, revision)
        return _json({})

    def log_message(self, *args: object) -> None:
        pass


def _json(value: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _form(body: bytes) -> dict[str, Any]:
    """Return what a body holds, JSON or a form."""
    if body.startswith(b"{"):
        return dict(json.loads(body))
    return dict(parse_qs(body.decode()))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _inside(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
