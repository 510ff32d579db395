"""Pages of a Python package index as values: PEP 691 (JSON), PEP 503 (HTML), folders.

Only reads; nothing here touches the network. Hashes (PEP 503 fragments), requires-python
and yanked files (PEP 592) are taken from either form. Separate metadata (PEP 658) is not:
a wheel's directory has to be read for its models anyway, and METADATA lies beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from localllm.errors import DamagedFile

ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2,"
    " text/html;q=0.1"
)
PAGE_LIMIT_BYTES = 64 << 20  # the largest real project pages are under 20 MB
# Strongest first. md5 and sha1 are not worth refusing a file for, nor worth trusting.
HASH_NAMES = ("sha256", "sha512", "sha384", "blake2b", "sha3_256", "sha224")
_HEX = re.compile(r"[0-9a-f]{56,128}")


@dataclass(frozen=True)
class ProjectFile:
    """One file of a project. `url` has no fragment; hashes are lower-case hex by name."""

    filename: str
    url: str
    hashes: Mapping[str, str] = field(default_factory=dict)
    requires_python: str | None = None
    yanked: bool = False
    size_bytes: int | None = None


def parse_page(body: bytes, content_type: str, url: str) -> tuple[ProjectFile, ...]:
    """The files that an index page lists. `url` is where the page came from in the end.

    Raises DamagedFile where the body is not what its content type says.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind == "application/vnd.pypi.simple.v1+json" or kind == "application/json":
        return tuple(_json_files(body, url))
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    base = urljoin(url, parser.base) if parser.base else url
    return tuple(found for a in parser.anchors if (found := _from_anchor(a, base)) is not None)


def folder_files(folder: Path) -> tuple[ProjectFile, ...]:
    """The wheels and sdists that lie in a folder (pip's find-links)."""
    return tuple(
        ProjectFile(path.name, path.absolute().as_uri(), size_bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name.endswith((".whl", ".tar.gz", ".zip")) and path.is_file()
    )


def _json_files(body: bytes, url: str) -> Iterator[ProjectFile]:
    try:
        document = json.loads(body)
        entries = document["files"]
        version = str(document.get("meta", {}).get("api-version", "1.0"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedFile(f"the page {url} is no package index (PEP 691)") from None
    if version.split(".")[0] != "1":
        raise DamagedFile(f"the page {url} speaks version {version[:20]} of the index protocol")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("url"), str):
            with suppress(ValueError):  # an address that is none
                yield _from_json(entry, url)


def _from_json(entry: dict[str, Any], page: str) -> ProjectFile:
    url, fragment = _without_fragment(urljoin(page, entry["url"]))
    filename, size = entry.get("filename"), entry.get("size")
    python = entry.get("requires-python")
    return ProjectFile(
        filename if isinstance(filename, str) else _last(url),
        url,
        _hashes(entry.get("hashes")) or _fragment_hashes(fragment),
        python if isinstance(python, str) else None,
        bool(entry.get("yanked", False)),  # true, or the reason
        size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
    )


def _from_anchor(anchor: Mapping[str, str], base: str) -> ProjectFile | None:
    try:
        url, fragment = _without_fragment(urljoin(base, anchor["href"]))
    except ValueError:
        return None
    return ProjectFile(
        _last(url),
        url,
        _fragment_hashes(fragment),
        anchor.get("data-requires-python") or None,
        "data-yanked" in anchor,
    )


def _without_fragment(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(fragment="")), parts.fragment


def _last(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _hashes(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    found = {str(k).lower(): v.lower() for k, v in value.items() if isinstance(v, str)}
    return {k: found[k] for k in HASH_NAMES if k in found and _HEX.fullmatch(found[k])}


def _fragment_hashes(fragment: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in fragment.split("&"))
    return _hashes({name: value for name, _, value in pairs})


class _Anchors(HTMLParser):
    """The attributes of every <a href>, and the first <base href>."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.anchors: list[dict[str, str]] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and values.get("href"):
            self.anchors.append(values)
        elif tag == "base" and self.base is None:
            self.base = values.get("href") or None
