"""What is known of a server elsewhere. No key is in it, only where the key is."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from localllm.endpoints.keys import KeySource
from localllm.errors import DamagedFile, InvalidReference, UsageProblem
from localllm.refs import ModelRef

Kind = Literal["openai", "llama.cpp", "vllm", "localllm", "ollama"]
KINDS: tuple[str, ...] = get_args(Kind)

_LONGEST_NAME = 128
_PATHS = ("/chat/completions", "/completions", "/embeddings", "/models")
_RESERVED = ("router", "human")  # names of other things that answer


@dataclass(frozen=True)
class Patience:
    """Times in seconds, sizes in bytes. A server must take the connection within `connect_s`,
    bring the first piece of an answer within `first_s`, some byte every `idle_s` after it, and
    the end within `total_s`. `tries` counts from 1 and is for what brought nothing yet; a
    server that asks for more than `longest_wait_s` of waiting is not waited for."""

    connect_s: float = 10.0
    first_s: float = 300.0
    idle_s: float = 60.0
    total_s: float = 3600.0
    tries: int = 3
    longest_wait_s: float = 20.0
    answer_bytes: int = 64 << 20
    event_bytes: int = 8 << 20


@dataclass(frozen=True)
class Endpoint:
    """`model` is the server's own name of the one that answers. Prices are per million tokens, in
    whatever currency; None is unknown. `n_ctx` is the context of one conversation, where known.
    `timeout_s` is how long the server may be silent: before the first piece of an answer, and
    (a minute at most) between two."""

    name: str
    url: str
    model: str
    kind: Kind = "openai"
    key: KeySource | None = None
    price_in: float | None = None
    price_out: float | None = None
    n_ctx: int | None = None
    timeout_s: float | None = None
    total_s: float | None = None
    added_at: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageProblem(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        for name in ("price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageProblem(f"{name} {value} is no price per million tokens")
        for name in ("timeout_s", "total_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageProblem(f"{name} {value} is no time in seconds")

    @property
    def host(self) -> str:
        """Host and port, as messages name the server."""
        return urlsplit(self.url).netloc

    @property
    def is_this_machine(self) -> bool:
        """Whether what is said to it stays here, as far as its address tells: a tunnel behind a
        loopback address cannot be seen."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def patience(self) -> Patience:
        usual = Patience()
        silent = self.timeout_s or usual.first_s
        total = self.total_s or max(usual.total_s, 2 * silent)
        return Patience(first_s=silent, idle_s=min(usual.idle_s, silent), total_s=total)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        if self.price_in is None and self.price_out is None:
            return None
        paid = prompt_tokens * (self.price_in or 0) + completion_tokens * (self.price_out or 0)
        return paid / 1e6

    # --- as the registry keeps it -----------------------------------------------------------

    def as_data(self) -> dict[str, Any]:
        """Plain data without the name. There is no key in it."""
        values = asdict(self)
        del values["name"], values["added_at"]
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_data(cls, name: str, data: Mapping[str, Any], added_at: float = 0.0) -> Self:
        """Back again. Raises DamagedFile for what no version wrote."""
        known = {f.name for f in fields(cls)} - {"name", "added_at"}
        values = {key: value for key, value in data.items() if key in known}
        try:
            key = values.get("key")
            if key is not None:
                values["key"] = KeySource(**key)
            return cls(name, added_at=added_at, **values)
        except (TypeError, UsageProblem):
            raise DamagedFile(
                f"the endpoint {name} is not readable", f"localllm endpoint rm {name}"
            ) from None


def checked_name(text: str) -> str:
    """A name that an endpoint may have: what a model could be called too. Raises UsageProblem."""
    hint = "letters, digits, . _ - and one slash: gpt, openai/gpt-4o"
    try:
        ref = ModelRef.parse(text)
    except InvalidReference:
        raise UsageProblem(f"{text!r} cannot be the name of an endpoint", hint) from None
    plain = ref.scheme in ("local", "hf") and ref.revision is None and ref.variant is None
    if not plain or ref.name != text or len(text) > _LONGEST_NAME:
        raise UsageProblem(f"{text!r} cannot be the name of an endpoint", hint)
    if re.split(r"[/:]", text)[0].casefold() in _RESERVED:
        raise UsageProblem(f"{text!r}: names that begin with {text.split('/')[0]} are not free")
    return text


def checked_url(text: str) -> str:
    """The base of the API's addresses (".../v1"). Raises UsageProblem.

    A bare host means its /v1; the address of one call means the base it belongs to.
    """
    hint = "--url http://host:8000/v1"
    given = text.strip()
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageProblem(f"{text!r} is no URL: {error}", hint) from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageProblem(f"{text!r} is no http or https URL", hint)
    if not given.isascii() or not given.isprintable() or " " in given:
        raise UsageProblem(f"{text!r} is no URL: it holds characters that none may", hint)
    if parts.username is not None or parts.password is not None:
        raise UsageProblem(
            "a key or password in the URL would be written to disk", "--key-env NAME, or --keyring"
        )
    if parts.query or parts.fragment:
        raise UsageProblem("the URL of an endpoint ends with its path, without ? and #", hint)
    path = parts.path.rstrip("/")
    for call in _PATHS:
        path = path.removesuffix(call)
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/') or '/v1'}"


def is_loopback(host: str) -> bool:
    """Whether this host is this machine by its name."""
    name = host.casefold().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
