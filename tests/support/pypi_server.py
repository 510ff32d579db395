"""A package index on loopback that real `pip` downloads from, and a writer of wheels.

    with PypiServer() as index:
        index.add(make_wheel("my-model", "1.0", {"my_model/a.gguf": data}))
        ... index.index_url ...

Pages are PEP 691 JSON for clients that ask for it, PEP 503 HTML otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import ssl
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.http_server import Answer, LoopbackServer, Request

JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class BuiltWheel:
    """A wheel as bytes (or a file) under its file name."""

    filename: str
    body: bytes | Path

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else self.body.read_bytes()

    @property
    def project(self) -> str:
        return re.sub(r"[-_.]+", "-", self.filename.split("-")[0]).lower()

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.filename
        path.write_bytes(self.data)
        return path


def make_wheel(
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    requires: Sequence[str] = (),
    stored: bool = False,
    tag: str = "py3-none-any",
    metadata: str = "",
    record: Mapping[str, bytes] | None = None,
) -> BuiltWheel:
    """A wheel that pip installs. `record` lies about members: RECORD is made of its bytes."""
    word = re.sub(r"[-_.]+", "_", name)
    info = f"{word}-{version}.dist-info"
    lines = [f"Requires-Dist: {r}\n" for r in requires]
    members = {
        **files,
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(lines)}{metadata}"
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    members[f"{info}/RECORD"] = _record({**members, **(record or {})}, f"{info}/RECORD")
    buffer = io.BytesIO()
    method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path, body in members.items():
            archive.writestr(path, body)
    return BuiltWheel(f"{word}-{version}-{tag}.whl", buffer.getvalue())


def _record(members: Mapping[str, bytes], own_name: str) -> bytes:
    rows = []
    for path, body in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(body)}")
    return "\n".join([*rows, f"{own_name},,", ""]).encode()


@dataclass
class Entry:
    """One file of an index, and what its page says of it."""

    wheel: BuiltWheel
    hashes: Mapping[str, str]
    requires_python: str | None = None
    yanked: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # added to the JSON entry


class PypiServer(LoopbackServer):
    """`html_only` serves no JSON; `login` ("user:word") guards the pages and the files.

    `certificate` (PEM, with its key) makes it https; then `client_ca` (PEM) is the one
    certificate that clients have to show.
    """

    def __init__(
        self,
        *,
        html_only: bool = False,
        login: str | None = None,
        certificate: Path | None = None,
        client_ca: Path | None = None,
    ) -> None:
        super().__init__(certificate=certificate)
        if client_ca is not None and isinstance(self._server.socket, ssl.SSLSocket):
            self._server.socket.context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket.context.load_verify_locations(client_ca)
        self.entries: dict[str, list[Entry]] = {}
        self.html_only = html_only
        self.login = login
        self.ranges = True
        self.bodies: dict[str, bytes] = {}  # project -> a page as it is, instead of a made one

    @property
    def index_url(self) -> str:
        return f"{self.url}/simple"

    def add(
        self,
        wheel: BuiltWheel,
        *,
        hashes: Mapping[str, str] | None = None,
        requires_python: str | None = None,
        yanked: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> BuiltWheel:
        if hashes is None:
            hashes = {"sha256": hashlib.sha256(wheel.data).hexdigest()}
        entry = Entry(wheel, hashes, requires_python, yanked, extra or {})
        self.entries.setdefault(wheel.project, []).append(entry)
        return wheel

    def respond(self, request: Request) -> Answer:
        if self.login is not None:
            expected = "Basic " + base64.b64encode(self.login.encode()).decode()
            if request.headers.get("authorization") != expected:
                return Answer(401, headers={"WWW-Authenticate": "Basic realm=x"}, ranges=False)
        parts = request.path.strip("/").split("/")
        if parts[0] == "simple" and len(parts) == 2:
            return self._page(parts[1], request)
        if parts[0] == "files":
            for entry in (e for entries in self.entries.values() for e in entries):
                if entry.wheel.filename == parts[-1]:
                    return Answer(body=entry.wheel.body, ranges=self.ranges)
        return Answer(404, ranges=False)

    def _page(self, project: str, request: Request) -> Answer:
        if project in self.bodies:
            return Answer(body=self.bodies[project], headers={"Content-Type": JSON}, ranges=False)
        if project not in self.entries:
            return Answer(404, ranges=False)
        entries = self.entries[project]
        if not self.html_only and JSON in request.headers.get("accept", ""):
            return Answer.of_json(self._json(project, entries), headers={"Content-Type": JSON})
        page = "<!DOCTYPE html><html><body>" + "".join(map(self._anchor, entries))
        return Answer(body=page.encode(), headers={"Content-Type": "text/html"}, ranges=False)

    def _json(self, project: str, entries: Sequence[Entry]) -> dict[str, Any]:
        files = []
        for entry in entries:
            made: dict[str, Any] = {
                "filename": entry.wheel.filename,
                "url": f"../../files/{entry.wheel.filename}",
                "hashes": dict(entry.hashes),
                "yanked": (entry.yanked or True) if entry.yanked is not None else False,
            }
            if entry.requires_python:
                made["requires-python"] = entry.requires_python
            files.append({**made, **entry.extra})
        return {"meta": {"api-version": "1.1"}, "name": project, "files": files}

    def _anchor(self, entry: Entry) -> str:
        fragment = "".join(f"#{k}={v}" for k, v in list(entry.hashes.items())[:1])
        attributes = f'href="../../files/{entry.wheel.filename}{fragment}"'
        if entry.requires_python:
            attributes += f' data-requires-python="{html.escape(entry.requires_python)}"'
        if entry.yanked is not None:
            attributes += f' data-yanked="{html.escape(entry.yanked)}"'
        return f"<a {attributes}>{entry.wheel.filename}</a>\n"
