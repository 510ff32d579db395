"""A Hugging Face Hub on loopback: enough of its protocol for the real huggingface_hub client.

    with HubServer() as hub:
        hub.add_repo("org/model-GGUF", {"model-Q4_K_M.gguf": data, "README.md": b"..."})
        settings = replace(settings, hf_endpoint=hub.url)

Large files (LFS) redirect to a "CDN" on another host name, as the real one does, with their
sha256 in the linked etag; small ones are served at once with their git blob id. Faults for
the large files go to the path `/cdn/*`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.http_server import Answer, LoopbackServer, Request

TOKEN = "hf_reader"  # may read everything
STRANGER_TOKEN = "hf_stranger"  # valid, and may read only what is public

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LFS_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pth", ".pt", ".onnx", ".msgpack", ".dat")


@dataclass(frozen=True)
class HubFile:
    body: bytes | Path
    lfs: bool
    sha256: str
    blob_id: str

    @property
    def size_bytes(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size


@dataclass
class HubRepo:
    id: str
    commit: str
    files: dict[str, HubFile]
    private: bool = False
    gated: str | bool = False
    card: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    branches: dict[str, str] = field(default_factory=dict)

    def knows(self, revision: str) -> bool:
        return revision in (self.commit, "main") or revision in self.branches


class HubServer(LoopbackServer):
    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.repos: dict[str, HubRepo] = {}
        self.cdn_etag = True

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        *,
        commit: str | None = None,
        private: bool = False,
        gated: str | bool = False,
        card: Mapping[str, Any] = {},
        tags: tuple[str, ...] = (),
    ) -> HubRepo:
        """Publish `files`; the commit is derived from the repository's name unless given."""
        made = {name: hub_file(name, body) for name, body in files.items()}
        commit = commit or hashlib.sha1(repo_id.encode()).hexdigest()
        repo = HubRepo(repo_id, commit, made, private, gated, card, tags)
        self.repos[repo_id] = repo
        return repo

    def respond(self, request: Request) -> Answer:
        if match := _API.fullmatch(request.path):
            return self._info(match[1], match[2] or "main", request)
        if match := _RESOLVE.fullmatch(request.path):
            return self._resolve(match[1], match[2], match[3], request)
        if request.path.startswith("/cdn/"):
            return self._cdn(request.path.removeprefix("/cdn/"))
        return _problem(404, "", "Not Found")

    def _info(self, repo_id: str, revision: str, request: Request) -> Answer:
        repo = self._visible(repo_id, request)
        if isinstance(repo, Answer):
            return repo
        if not repo.knows(revision):
            return _problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        blobs = "blobs=true" in request.query.lower()
        value = {
            "_id": "0" * 24,
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.split("/")[0],
            "sha": repo.branches.get(revision, repo.commit),
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": list(repo.tags),
            "cardData": dict(repo.card),
            "siblings": [_sibling(name, f, blobs) for name, f in sorted(repo.files.items())],
        }
        return Answer.of_json(value)

    def _resolve(self, repo_id: str, revision: str, name: str, request: Request) -> Answer:
        repo = self._visible(repo_id, request)
        if isinstance(repo, Answer):
            return repo
        if repo.gated and _token(request) != TOKEN:
            status = 401 if _token(request) is None else 403
            return _problem(status, "GatedRepo", f"Access to model {repo.id} is restricted")
        if not repo.knows(revision):
            return _problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        file = repo.files.get(name)
        head = {"X-Repo-Commit": repo.branches.get(revision, repo.commit)}
        if file is None:
            return _problem(404, "EntryNotFound", "Entry not found", head)
        if not file.lfs:
            return Answer(200, file.body, head, etag=file.blob_id)
        head |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size_bytes)}
        signature = f"response-content-disposition={quote(name)}&Expires=1"
        return Answer.redirect(f"{self.other_url}/cdn/{file.sha256}?{signature}", head)

    def _cdn(self, sha256: str) -> Answer:
        for repo in self.repos.values():
            for file in repo.files.values():
                if file.sha256 == sha256:
                    return Answer(200, file.body, etag=f"cdn-{sha256[:16]}")
        return Answer(403, b"<Error>AccessDenied</Error>", ranges=False)

    def _visible(self, repo_id: str, request: Request) -> HubRepo | Answer:
        """The repository, or what the real Hub says where there is none to be seen."""
        repo = self.repos.get(repo_id)
        token = _token(request)
        if token not in (None, TOKEN, STRANGER_TOKEN):
            return _problem(401, "", "Invalid credentials in Authorization header")
        if repo is not None and (not repo.private or token == TOKEN):
            return repo
        # Without a token a repository that is missing and one that is private look the same.
        status = 401 if token is None else 404
        return _problem(status, "RepoNotFound", "Repository not found")


def hub_file(name: str, body: bytes | Path) -> HubFile:
    """The file with the digests that the Hub would publish."""
    size = len(body) if isinstance(body, bytes) else body.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    if isinstance(body, bytes):
        sha256.update(body)
        blob.update(body)
    else:
        with body.open("rb") as file:
            while block := file.read(1 << 22):
                sha256.update(block)
                blob.update(block)
    lfs = name.endswith(_LFS_SUFFIXES) or size > 10 << 20
    return HubFile(body, lfs, sha256.hexdigest(), blob.hexdigest())


def _sibling(name: str, file: HubFile, blobs: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"rfilename": name}
    if blobs:
        value |= {"size": file.size_bytes, "blobId": file.blob_id}
        if file.lfs:
            lfs = {"sha256": file.sha256, "size": file.size_bytes, "pointerSize": 135}
            value["lfs"] = lfs
    return value


def _token(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token if kind == "Bearer" else None


def _problem(status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> Answer:
    head = {"X-Error-Message": message, **headers}
    if code:
        head["X-Error-Code"] = code
    return Answer.of_json({"error": message}, status, head)
