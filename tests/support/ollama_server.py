"""An Ollama registry on loopback: manifests by tag or digest, blobs on a "CDN", tokens.

with OllamaServer() as registry:
    registry.push("library/tiny", "1b", [("model", gguf), ("template", b"{{ .Prompt }}")])
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.http_server import Answer, LoopbackServer, Request

PREFIX = "application/vnd.ollama.image."
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def sha256_of(body: bytes | Path) -> str:
    return hashlib.sha256(body if isinstance(body, bytes) else body.read_bytes()).hexdigest()


def layer_of(kind: str, body: bytes | Path) -> dict[str, Any]:
    size = len(body) if isinstance(body, bytes) else body.stat().st_size
    return {"mediaType": PREFIX + kind, "digest": f"sha256:{sha256_of(body)}", "size": size}


def manifest_of(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": f"sha256:{sha256_of(b'{}')}",
        "size": 2,
    }
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": list(layers),
    }


class OllamaServer(LoopbackServer):
    """`cdn` redirects blobs to another host name; `token` guards all but the token's address;
    `list_tags` answers /tags/list, as registry.ollama.ai does not."""

    def __init__(
        self, *, cdn: bool = False, token: str | None = None, list_tags: bool = False
    ) -> None:
        super().__init__()
        self.cdn = cdn
        self.token = token
        self.list_tags = list_tags
        self.manifests: dict[tuple[str, str], bytes] = {}  # (path, tag or digest)
        self.blobs: dict[str, bytes | Path] = {"sha256:" + sha256_of(b"{}"): b"{}"}
        self.cdn_headers: list[dict[str, str]] = []

    def push(self, path: str, tag: str, layers: Sequence[tuple[str, bytes | Path]]) -> str:
        """Publish a model; gives the digest of its manifest."""
        for _, body in layers:
            self.blobs[f"sha256:{sha256_of(body)}"] = body
        made = manifest_of([layer_of(kind, body) for kind, body in layers])
        return self.push_raw(path, tag, json.dumps(made).encode())

    def push_raw(self, path: str, tag: str, manifest: bytes) -> str:
        digest = f"sha256:{sha256_of(manifest)}"
        self.manifests[path, tag] = self.manifests[path, digest] = manifest
        return digest

    def respond(self, request: Request) -> Answer:
        if request.path == "/token":
            return Answer.of_json({"token": self.token})
        if request.path.startswith("/cdn/"):
            self.cdn_headers.append(request.headers)
            return self._blob(request.path.rpartition("/")[2])
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.url}/token",service="test",scope="pull"'
            return Answer(401, headers={"Www-Authenticate": challenge}, ranges=False)
        path = request.path.removeprefix("/v2/")
        for word in ("/manifests/", "/blobs/", "/tags/"):
            if word in path:
                model, _, rest = path.partition(word)
                return self._answer(word, model, rest)
        return Answer(404, ranges=False)

    def _answer(self, word: str, model: str, rest: str) -> Answer:
        if word == "/manifests/":
            body = self.manifests.get((model, rest))
            head = {"Content-Type": MANIFEST_TYPE}
            return Answer(body=body, headers=head, ranges=False) if body else Answer(404)
        if word == "/blobs/":
            if self.cdn:
                return Answer.redirect(f"{self.other_url}/cdn/{rest}", status=307)
            return self._blob(rest)
        tags = [tag for path, tag in self.manifests if path == model and "sha256:" not in tag]
        return Answer.of_json({"name": model, "tags": tags}) if self.list_tags else Answer(404)

    def _blob(self, digest: str) -> Answer:
        body = self.blobs.get(digest)
        return Answer(404, ranges=False) if body is None else Answer(body=body)
