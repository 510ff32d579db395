"""Models of an Ollama registry: `ollama:llama3.2:1b`, `ollama:hf.co/org/repo:Q4_K_M`.

The registry speaks the container registries' protocol (OCI distribution): a manifest by tag
lists blobs by digest. Registries that ask for a token give anonymous ones for public models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from localllm.config import Settings
from localllm.errors import (
    AccessDenied,
    ChecksumMismatch,
    LocalLLMError,
    SourceFailed,
    SourceNotFound,
)
from localllm.refs import ModelRef
from localllm.sources.base import (
    Advance,
    Fetched,
    Listing,
    RemoteFile,
    Variant,
    require_online,
)
from localllm.sources.http import HttpFetcher, Page
from localllm.sources.ollama_manifest import (
    MANIFEST_LIMIT_BYTES,
    TEXT_LIMIT_BYTES,
    Layer,
    Manifest,
    file_stem,
    model_files,
    model_format,
    parse_manifest,
    text_extras,
)

T = TypeVar("T")

_MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.oci.image.manifest.v1+json;q=0.9"
)
_DEFAULT_TAG = "latest"
_DEFAULT_NAMESPACE = "library"
_TOKEN_LIMIT_BYTES = 1 << 16
_TAGS_LIMIT_BYTES = 8 << 20
_LOOPBACK = re.compile(r"localhost|127(?:\.\d+){3}|\[?::1\]?")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class OllamaSource:
    """A `Source` of Ollama models. A name without a host is looked for in the settings' one."""

    def __init__(self, settings: Settings, http: HttpFetcher | None = None) -> None:
        self._settings = settings
        self._http = http or HttpFetcher(explain=_challenged)
        self._tokens: dict[str, str] = {}  # Authorization by repository

    def locate(self, ref: ModelRef) -> Listing:
        """The model with this tag (`latest` where none is given), pinned to its manifest.

        Reads the manifest and the small layers (template, system, parameters, license,
        messages), each checked against its digest. Raises SourceNotFound, DamagedFile for a
        hostile manifest, SourceFailed for a model that has no weights to download.
        """
        place = _Place.of(ref, self._settings.ollama_registry)
        require_online(self._settings, place.name)
        manifest = self._manifest(place, ref.revision)
        files = model_files(manifest, place.name, file_stem(place.model, place.tag))
        extras = self._extras(place, manifest)
        variant = Variant(
            place.tag,
            model_format(manifest),
            tuple(replace(f, locator={**f.locator, "repository": place.repository}) for f in files),
            extras,
        )
        return Listing(
            ref=ref.at(manifest.revision).pick(place.tag),
            publisher=place.publisher,
            repo=place.model,
            variants=(variant,),
            page=place.page,
            license=_first_line(extras.get("license")),
        )

    def tags(self, ref: ModelRef) -> tuple[str, ...]:
        """Every tag of the model. Raises SourceNotFound where the registry lists none."""
        place = _Place.of(ref, self._settings.ollama_registry)
        require_online(self._settings, place.name)
        page = self._get(place.repository, f"{place.repository}/tags/list", {}, _TAGS_LIMIT_BYTES)
        try:
            tags = json.loads(page.body)["tags"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SourceFailed(f"{place.host} answers with no list of tags") from None
        return tuple(sorted(t for t in tags or () if isinstance(t, str)))

    def read_range(self, file: RemoteFile, start: int, length: int) -> bytes:
        """At most `length` bytes of a layer from `start`."""
        repository, url = _blob_of(file)
        return self._authorized(
            repository, lambda headers: self._http.read_range(url, start, length, headers)
        )

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        """Bring a layer to `partial`, verified by its digest; see `Source.fetch`."""
        repository, url = _blob_of(file)
        return self._authorized(
            repository,
            lambda headers: self._http.fetch(
                url,
                partial,
                expected_size=file.size_bytes,
                sha256=file.sha256,
                headers=headers,
                advance=advance,
            ),
        )

    def _manifest(self, place: _Place, revision: str | None) -> Manifest:
        wanted = revision.replace("sha256-", "sha256:", 1) if revision else place.tag
        url = f"{place.repository}/manifests/{quote(wanted, safe=':')}"
        try:
            page = self._get(
                place.repository, url, {"Accept": _MANIFEST_TYPES}, MANIFEST_LIMIT_BYTES
            )
        except SourceNotFound:
            raise self._not_found(place) from None
        manifest = parse_manifest(page.body, place.name)
        if revision and manifest.revision != revision.replace("sha256:", "sha256-", 1):
            raise ChecksumMismatch(f"{place.host} gave another manifest than {revision}")
        return manifest

    def _not_found(self, place: _Place) -> SourceNotFound:
        hint = f"models and their tags: {place.page}" if place.page else None
        try:
            tags = self.tags(ModelRef("ollama", f"{place.host}/{place.path}"))
        except (LocalLLMError, ValueError):  # few registries list tags: no list is no news
            tags = ()
        if tags:
            shown = ", ".join(tags[:8]) + (", ..." if len(tags) > 8 else "")
            hint = f"it has {shown}"
        return SourceNotFound(f"{place.host} has no model {place.path}:{place.tag}", hint)

    def _extras(self, place: _Place, manifest: Manifest) -> dict[str, Any]:
        texts = [(layer.kind, self._text(place, layer)) for layer in manifest.text_layers]
        return text_extras(texts, place.name)

    def _text(self, place: _Place, layer: Layer) -> bytes:
        if layer.size_bytes > TEXT_LIMIT_BYTES:
            raise SourceFailed(
                f"the {layer.kind} of {place.name} is {layer.size_bytes} bytes,"
                f" over {TEXT_LIMIT_BYTES}"
            )
        url = f"{place.repository}/blobs/{layer.digest}"
        body = self._get(place.repository, url, {}, TEXT_LIMIT_BYTES).body
        if hashlib.sha256(body).hexdigest() != layer.sha256:
            raise ChecksumMismatch(f"the {layer.kind} of {place.name} does not have its digest")
        return body

    def _get(self, repository: str, url: str, headers: Mapping[str, str], limit: int) -> Page:
        return self._authorized(
            repository,
            lambda login: self._http.get(url, {**headers, **login}, limit_bytes=limit),
        )

    def _authorized(self, repository: str, ask: Callable[[dict[str, str]], T]) -> T:
        """`ask` with the token for this repository; a challenge gets a new one, once."""
        token = self._tokens.get(repository)
        try:
            return ask({"Authorization": token} if token else {})
        except _Challenge as challenge:
            token = self._tokens[repository] = self._token(challenge, repository)
        try:
            return ask({"Authorization": token})
        except _Challenge as challenge:
            raise AccessDenied(challenge.message, challenge.hint) from None

    def _token(self, challenge: _Challenge, repository: str) -> str:
        """An anonymous bearer token, by the challenge's realm, service and scope."""
        realm = challenge.values.get("realm", "")
        secure = urlsplit(realm).scheme == "https" or urlsplit(repository).scheme == "http"
        if urlsplit(realm).scheme not in ("http", "https") or not secure:
            raise AccessDenied(challenge.message, challenge.hint)
        asked = {k: v for k in ("service", "scope") if (v := challenge.values.get(k))}
        mark = "&" if "?" in realm else "?"
        page = self._http.get(realm + mark + urlencode(asked), limit_bytes=_TOKEN_LIMIT_BYTES)
        try:
            answer = json.loads(page.body)
            token = answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, TypeError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise AccessDenied(challenge.message, challenge.hint)
        return f"Bearer {token}"


class _Challenge(AccessDenied):
    """401 with `Www-Authenticate: Bearer ...`: a token may be had."""

    values: dict[str, str]


def _challenged(status: int, headers: Mapping[str, str], url: str) -> LocalLLMError | None:
    kind, _, rest = headers.get("www-authenticate", "").partition(" ")
    if status != 401 or kind.lower() != "bearer":
        return None
    host = urlsplit(url).netloc.rpartition("@")[2]
    challenge = _Challenge(f"{host} wants a login for this model: it is private, or not there")
    challenge.values = {name.lower(): value for name, value in _CHALLENGE.findall(rest)}
    return challenge


class _Place:
    """Where a reference leads: registry, path and tag."""

    def __init__(self, base: str, path: str, tag: str, is_default: bool) -> None:
        self.host = urlsplit(base).netloc
        self.path = path  # library/llama3.2
        self.tag = tag
        self.publisher, _, self.model = path.rpartition("/")
        self.publisher = self.publisher.rpartition("/")[2]
        self.repository = f"{base}/v2/{path}"
        shown = path.removeprefix(f"{_DEFAULT_NAMESPACE}/")
        self.name = f"{shown if is_default else f'{self.host}/{path}'}:{tag}"
        self.page = _page_of(self.host, path, shown, tag)

    @classmethod
    def of(cls, ref: ModelRef, registry: str) -> _Place:
        head, _, rest = ref.name.partition("/")
        has_host = bool(rest) and ("." in head or ":" in head or head == "localhost")
        base, path = (_base(head), rest) if has_host else (registry, ref.name)
        if "/" not in path:
            path = f"{_DEFAULT_NAMESPACE}/{path}"
        return cls(base, path, ref.variant or _DEFAULT_TAG, not has_host)


def _base(host: str) -> str:
    """https, but plain http on this machine, where nobody listens in and few have TLS."""
    name = host.rpartition(":")[0] or host
    return f"http://{host}" if _LOOPBACK.fullmatch(name) else f"https://{host}"


def _page_of(host: str, path: str, shown: str, tag: str) -> str | None:
    if host == "registry.ollama.ai":
        where = shown if "/" in shown else f"library/{shown}"
        return f"https://ollama.com/{where}:{tag}"
    return f"https://huggingface.co/{path}" if host in ("hf.co", "huggingface.co") else None


def _blob_of(file: RemoteFile) -> tuple[str, str]:
    repository = str(file.locator["repository"])
    return repository, f"{repository}/blobs/{file.locator['digest']}"


def _first_line(text: str | None) -> str | None:
    lines = (line.strip() for line in (text or "").splitlines())
    return next((line[:100] for line in lines if line), None)
