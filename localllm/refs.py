"""ModelRef: the grammar of a model reference, parsed once.

    reference = [scheme ":"] name ["@" revision] [":" variant]

    hf:org/repo@rev:Q4_K_M     a Hugging Face repository; the variant is a quantization
                               or a file name (`hf:org/repo:sub/model-Q4_K_M.gguf`)
    org/repo:Q4_K_M            the same: two words joined by a slash mean hf
    ollama:llama3.2:1b         [host[:port]/][namespace/]model, the variant is the tag
    pypi:some-package@1.0      a distribution, the revision is its version
    https://host/model.gguf    a URL, whole
    file:/models/a.gguf        a path, whole; so is text that starts with . / ~ or a drive
                               letter, or that ends in .gguf and names nothing else
    gemma3-270m:Q4_K_M         anything else is a name of the registry (scheme "local")

`ModelRef.parse(str(ref)) == ref` for every reference. Below the command line nobody sees
the text again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

from localllm.errors import InvalidReference

Scheme = Literal["hf", "ollama", "pypi", "http", "https", "file", "local"]
SCHEMES: tuple[str, ...] = get_args(Scheme)

# What a reference leads to, and what each of its files is for.
ModelFormat = Literal["gguf", "safetensors", "adapter", "mmproj"]
FileRole = Literal["weights", "mmproj", "adapter", "tokenizer", "config", "template", "text"]

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HF_NAME = re.compile(rf"(?:{_WORD}/)?{_WORD}")
_HF_PAIR = re.compile(rf"{_WORD}/{_WORD}")
_LOCAL_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*")
_PYPI_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]{1,5})?"
_OLLAMA = re.compile(
    rf"(?P<name>(?:{_HOST}/)?(?:{_WORD}/)?{_WORD})(?:@(?P<rev>[^:]*))?(?::(?P<var>.*))?"
)
_MANIFEST = re.compile(r"sha256-[0-9a-f]{64}")  # pins an Ollama model
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+!-]{0,199}")
_VARIANT = re.compile(r"[^\s/@\\:*?\"<>|\x00-\x1f\x7f][^\\:*?\"<>|\x00-\x1f\x7f]{0,250}")
_PATH_LIKE = re.compile(r"(?:[./~]|[A-Za-z]:[\\/])")
_HF_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_GRAMMAR = "a reference looks like org/repo:Q4_K_M, ollama:llama3.2:1b, pypi:package or ./file.gguf"


@dataclass(frozen=True)
class ModelRef:
    """One parsed reference. `revision` and `variant` are None where not given."""

    scheme: Scheme
    name: str
    revision: str | None = None
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse `text`. Raises InvalidReference, which names the part that is wrong."""
        if not text or text != text.strip() or any(c in text for c in "\x00\n\r\t"):
            raise InvalidReference(f"{text!r} is no model reference", _GRAMMAR)
        scheme, rest = _split_scheme(text)
        if scheme in ("http", "https"):
            return _parse_url(scheme, text)
        if not rest:
            raise InvalidReference(f"{text!r} names no model after {scheme}:", _GRAMMAR)
        if scheme == "file":
            return cls("file", rest)
        if scheme == "ollama":
            return _parse_ollama(text, rest)
        return _parse_parts(scheme, text, rest)

    def __str__(self) -> str:
        prefix = "" if self.scheme == "local" else f"{self.scheme}:"
        revision = "" if self.revision is None else f"@{self.revision}"
        variant = "" if self.variant is None else f":{self.variant}"
        return f"{prefix}{self.name}{revision}{variant}"

    def at(self, revision: str | None) -> ModelRef:
        """The same reference pinned to `revision`."""
        return replace(self, revision=revision)

    def pick(self, variant: str | None) -> ModelRef:
        """The same reference for another `variant`."""
        return replace(self, variant=variant)

    @property
    def is_remote(self) -> bool:
        """True where pulling needs a network."""
        return self.scheme in ("hf", "ollama", "pypi", "http", "https")


def _split_scheme(text: str) -> tuple[Scheme, str]:
    head, colon, rest = text.partition(":")
    if colon and len(head) > 1 and head.lower() in SCHEMES and head.lower() != "local":
        return head.lower(), rest  # type: ignore[return-value]
    if text.startswith(tuple(f"{host}/" for host in _HF_HOSTS)):
        return "https", text
    if text.split("/", 1)[0] in (".", "..") or _PATH_LIKE.match(text):
        return "file", text
    if text.lower().endswith(".gguf") and ":" not in text and "@" not in text:
        return "file", text
    return ("hf" if _HF_PAIR.match(text) and "/" in _name_of(text) else "local"), text


def _name_of(text: str) -> str:
    return re.split(r"[@:]", text, maxsplit=1)[0]


def _parse_url(scheme: Scheme, text: str) -> ModelRef:
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as e:
        raise InvalidReference(f"{text!r} is no URL: {e}", _GRAMMAR) from None
    if host in _HF_HOSTS:
        return _parse_hub_url(text, parts.netloc, unquote(parts.path))
    if not host or not parts.path.strip("/"):
        raise InvalidReference(f"{text!r} is no URL of a file", _GRAMMAR)
    return ModelRef(scheme, url.partition(":")[2])


def _parse_hub_url(text: str, netloc: str, path: str) -> ModelRef:
    """A page of the Hub, as people copy it from the address bar, is an hf reference."""
    match = re.fullmatch(
        r"/(?P<name>[^/:@]+/[^/:@]+)(?:@(?P<rev>[^:]+))?(?::(?P<var>[^/]+))?/?"
        r"(?:(?:blob|resolve|tree|raw)/(?P<at>[^/]+)/?(?P<file>.*))?",
        path,
    )
    if match is None:
        raise InvalidReference(f"{text!r} is no page of a model on {netloc}", _GRAMMAR)
    revision = match["rev"] or (match["at"] if match["at"] != "main" else None)
    variant = match["var"] or match["file"] or None
    return _checked("hf", text, match["name"], revision, variant)


def _parse_ollama(text: str, rest: str) -> ModelRef:
    match = _OLLAMA.fullmatch(rest)
    if match is None:
        raise InvalidReference(f"{text!r} is no Ollama model name", _GRAMMAR)
    if match["rev"] is not None and not _MANIFEST.fullmatch(match["rev"]):
        raise InvalidReference(
            f"{text!r}: an Ollama model has tags, and no @revision but @sha256-DIGEST", _GRAMMAR
        )
    return _checked("ollama", text, match["name"], match["rev"], match["var"])


def _parse_parts(scheme: Scheme, text: str, rest: str) -> ModelRef:
    name = _name_of(rest)
    tail = rest[len(name) :]
    revision: str | None = None
    if tail.startswith("@"):
        revision, colon, variant = tail[1:].partition(":")
        tail = colon + variant
    return _checked(scheme, text, name, revision, tail[1:] if tail else None)


def _checked(
    scheme: Scheme, text: str, name: str, revision: str | None, variant: str | None
) -> ModelRef:
    pattern = {"hf": _HF_NAME, "pypi": _PYPI_NAME, "local": _LOCAL_NAME}.get(scheme)
    if pattern is not None and not pattern.fullmatch(name):
        what = {"hf": "Hugging Face repository", "pypi": "package name"}.get(scheme, "model name")
        raise InvalidReference(f"{name!r} is no {what} (in {text!r})", _GRAMMAR)
    if scheme in ("hf", "local") and (".." in name or ("--" in name and scheme == "hf")):
        raise InvalidReference(f"{name!r} holds '..' or '--', which no repository may", _GRAMMAR)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InvalidReference(f"{revision!r} is no revision (in {text!r})", _GRAMMAR)
    if variant is not None and not _variant_ok(variant):
        raise InvalidReference(f"{variant!r} is no variant or file name (in {text!r})", _GRAMMAR)
    if scheme == "pypi":
        name = re.sub(r"[-_.]+", "-", name).lower()  # PEP 503
    return ModelRef(scheme, name, revision, variant)


def _variant_ok(variant: str) -> bool:
    segments = variant.split("/")
    return bool(_VARIANT.fullmatch(variant)) and not any(s in ("", ".", "..") for s in segments)
