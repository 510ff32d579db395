"""From the command line's words to a server's options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.config import Settings
from localllm.errors import UsageProblem
from localllm.library.answering import find_answerer
from localllm.library.find import find_adapter
from localllm.placement import PlanOptions
from localllm.registry import Model, Registry
from localllm.serve.listener import is_loopback
from localllm.serve.ollama.words import seconds
from localllm.serve.options import ServeOptions, check_reach, keys_of
from localllm.serve.resident.catalog import Alias, FarAlias
from localllm.serve.resident.planner import LoadPolicy
from localllm.serve.web.guard import Rules
from localllm.serve.web.limits import Limits

_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Given:
    """As typed; see the command's help."""

    models: Sequence[str]
    host: str
    port: int
    api_keys: Sequence[str]
    api_key_file: Path | None
    no_key: bool
    hosts: Sequence[str]
    origins: Sequence[str]
    manage: bool | None
    aliases: Sequence[str]
    only: bool
    slots: int | None
    keep_alive: str
    max_loaded: int | None
    memory_gib: float | None
    max_waiting: int
    max_connections: int
    max_body_mib: int
    timeout_s: float | None
    grace_s: float
    log_requests: bool
    threads: int | None
    require_gpu: bool
    force: bool
    plan: PlanOptions
    said: frozenset[str]

    def options(self, settings: Settings, registry: Registry) -> ServeOptions:
        """Raises UsageProblem, and what finding the models raises."""
        own = [settings.api_key] if settings.api_key else []
        keys = keys_of([*self.api_keys, *own], self.api_key_file)
        check_reach(self.host, keys, open_to_all=self.no_key)
        given = [_alias(text, registry) for text in self.aliases]
        given += (named_ones := [_named(text, registry) for text in self.models])
        named = [one for one in named_ones if isinstance(one, Alias)]
        for origin in self.origins:
            if origin != "*" and "://" not in origin:
                raise UsageProblem(f"--cors {origin!r} is no origin", "--cors https://host:port")
        if self.only and not given:
            raise UsageProblem("--only serves what is named, and nothing is", "name a model")
        manage = is_loopback(self.host) if self.manage is None else self.manage
        return ServeOptions(
            host=self.host,
            port=self.port,
            rules=Rules(keys, _lower(self.hosts, self.host), frozenset(self.origins)),
            policy=self._policy(),
            limits=Limits(
                body_bytes=self.max_body_mib * _MIB,
                bodies_bytes=max(256, 2 * self.max_body_mib) * _MIB,
                answer_s=self.timeout_s,
                connections=self.max_connections,
            ),
            aliases=tuple(one for one in given if isinstance(one, Alias)),
            far=tuple(one for one in given if isinstance(one, FarAlias)),
            preload=tuple(one.name for one in named),
            only=self.only,
            manage=manage and not self.only,
            keep_alive_s=seconds(self.keep_alive),
            grace_s=self.grace_s,
            log_requests=self.log_requests,
        )

    def _policy(self) -> LoadPolicy:
        memory = None if self.memory_gib is None else int(self.memory_gib * _GIB)
        return LoadPolicy(
            plan=self.plan,
            slots=self.slots,
            threads=self.threads,
            said=self.said,
            require_gpu=self.require_gpu,
            force=self.force,
            max_loaded=self.max_loaded,
            memory_bytes=memory,
            max_waiting=self.max_waiting,
        )


def _lower(hosts: Sequence[str], host: str) -> frozenset[str]:
    """Names are compared in lower case; the one that it listens by is its own."""
    return frozenset(name.casefold() for name in (*hosts, host))


def _named(text: str, registry: Registry) -> Alias | FarAlias:
    """A model to load now. A path is served under the file's name."""
    model = find_answerer(text, registry)
    if not isinstance(model, Model):
        return FarAlias(model.name, model)
    return Alias(_short(model) if model.id is None else model.name, model)


def _short(model: Model) -> str:
    return model.path.stem


def _alias(text: str, registry: Registry) -> Alias | FarAlias:
    """`NAME=MODEL[+ADAPTER[:SCALE]]...`"""
    name, equals, rest = text.partition("=")
    base, *adapters = rest.split("+")
    if not equals or not name.strip() or not base:
        raise UsageProblem(f"--alias {text!r} is not NAME=MODEL", "--alias sql=gemma+sql-lora:0.8")
    model = find_answerer(base, registry)
    if not isinstance(model, Model):
        if adapters:
            raise UsageProblem(f"--alias {text!r}: {model.name} is elsewhere and takes no adapters")
        return FarAlias(name.strip(), model)
    found = tuple(find_adapter(one, registry) for one in adapters)
    return Alias(name.strip(), model, found)
