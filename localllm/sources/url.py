"""A GGUF at an http or https URL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from localllm.config import Settings
from localllm.errors import DamagedFile, SourceNotFound, UsageProblem
from localllm.refs import ModelRef
from localllm.sources.base import (
    Advance,
    Fetched,
    Listing,
    RemoteFile,
    Variant,
    require_online,
)
from localllm.sources.http import Head, HttpFetcher, file_name_of
from localllm.sources.ledger import Tuning
from localllm.sources.names import quant_of, safe_component, shard_name, split_of
from localllm.sources.retry import Patience
from localllm.sources.urls import host_of

_MAGIC = b"GGUF"


class UrlSource:
    """The Source for URLs. `sha256` (hex) is what the user says the file has.

    A shard (`-00002-of-00003.gguf`) stands for its whole family, found beside it.
    """

    def __init__(
        self,
        settings: Settings,
        sha256: str | None = None,
        *,
        patience: Patience | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._settings = settings
        self._sha256 = _digest(sha256)
        self._http = HttpFetcher(patience=patience, tuning=tuning)

    def locate(self, ref: ModelRef) -> Listing:
        """The one variant at the URL; its size is known where the server tells it.

        Raises DamagedFile (7) where there is something else than a GGUF, such as a web page.
        """
        require_online(self._settings, str(ref))
        url = f"{ref.scheme}:{ref.name}"
        head = self._http.head(url)
        start = self._http.read_range(url, 0, len(_MAGIC))
        if start != _MAGIC:
            kind = head.headers.get("content-type", "something else").partition(";")[0]
            raise DamagedFile(f"{url} is no GGUF file but {kind}", _hint(kind))
        name = _file_name(url, head)
        files = tuple(self._files(url, name, head))
        split = split_of(name[:-5])
        stem = split.stem if split else name[:-5]
        quant = quant_of(stem)[0]
        extras = {} if quant is None else {"quant": quant}
        return Listing(
            ref=ref,
            publisher=safe_component(host_of(url)),
            repo=stem,
            variants=(Variant(None, "gguf", files, extras),),
            page=url,
        )

    def read_range(self, file: RemoteFile, start: int, length: int) -> bytes:
        require_online(self._settings, file.name)
        return self._http.read_range(file.locator["url"], start, length)

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        require_online(self._settings, file.name)
        return self._http.fetch(
            file.locator["url"],
            partial,
            expected_size=file.size_bytes,
            sha256=file.sha256,
            advance=advance,
        )

    def _files(self, url: str, name: str, head: Head) -> Iterable[RemoteFile]:
        family = _family(url, name)
        if len(family) > 1 and self._sha256:
            raise UsageProblem(f"--sha256 is one digest, and {name} is one of {len(family)} shards")
        for sibling in family:
            there = head if sibling.url == url else self._sibling(sibling, name)
            locator = {"url": sibling.url, "stamp": _stamp(there)}
            yield RemoteFile(sibling.name, there.size_bytes, self._sha256, "weights", locator)

    def _sibling(self, sibling: _Named, name: str) -> Head:
        try:
            return self._http.head(sibling.url)
        except SourceNotFound:
            raise SourceNotFound(
                f"{host_of(sibling.url)} lacks {sibling.name}, which belongs to {name}"
            ) from None


@dataclass(frozen=True)
class _Named:
    url: str
    name: str


def _family(url: str, name: str) -> list[_Named]:
    """The file, or all shards of its family in order, where its URL itself says the number."""
    split = split_of(name[:-5])
    parts = urlsplit(url)
    folder, _, last = parts.path.rpartition("/")
    if split is None or safe_component(unquote(last)) != name:
        return [_Named(url, name)]
    family = []
    for index in range(1, split.count + 1):
        shard = shard_name(split.stem, index, split.count) + name[-5:]
        here = url
        if index != split.index:
            here = urlunsplit(parts._replace(path=f"{folder}/{quote(shard)}"))
        family.append(_Named(here, shard))
    return family


def _file_name(url: str, head: Head) -> str:
    """A safe name that ends in .gguf: the path's, the server's, or the redirected path's."""
    own = unquote(urlsplit(url).path).rpartition("/")[2]
    led = unquote(urlsplit(head.url).path).rpartition("/")[2]
    told = (file_name_of(head) or "").replace("\\", "/").rpartition("/")[2]
    candidates = [own, told, led]
    best = next((n for n in candidates if n.lower().endswith(".gguf")), None)
    name = best or f"{next((n for n in (told, own, led) if n), 'model')}.gguf"
    return safe_component(name)


def _stamp(head: Head) -> str | None:
    """What changes with the content, as far as the server tells anything of the kind."""
    return head.etag or head.headers.get("last-modified")


def _digest(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    text = sha256.lower().removeprefix("sha256:").strip()
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise UsageProblem(f"{sha256!r} is no sha256: 64 hexadecimal digits")
    return text


def _hint(kind: str) -> str | None:
    return "this is a page for people: give the address of the file" if "html" in kind else None
