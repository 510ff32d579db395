"""From carriers to variants: parts in order, checksums, license."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from localllm.errors import DamagedFile
from localllm.sources.base import RemoteFile
from localllm.sources.gguf_members import (
    CHECKSUM_LIMIT_BYTES,
    PartName,
    agreed,
    check_numbers,
    is_checksum_file,
    shipped_sums,
)
from localllm.sources.names import safe_component
from localllm.sources.pypi_carriers import Carrier
from localllm.sources.wheel import Archive, Member

_SUM_FILES_LIMIT = 16  # per wheel
_LICENSE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """A piece of a model file: one member of one wheel. `hashes` are the index's of the wheel.

    `sha256` is the member's own, by RECORD or a shipped checksum.
    """

    wheel: str
    url: str
    wheel_bytes: int
    hashes: Mapping[str, str]
    member: Member
    sha256: str | None


def parts_of(file: RemoteFile) -> tuple[Part, ...]:
    """The parts of a file that this source listed, in order."""
    parts: tuple[Part, ...] = file.locator["parts"]
    return parts


def model_files(carriers: Sequence[Carrier]) -> tuple[RemoteFile, ...]:
    """Every GGUF that the carriers hold, whole or in parts.

    Raises DamagedFile for missing parts, ChecksumMismatch where checksums contradict.
    """
    sums = _all_sums(carriers)
    groups: dict[str, list[tuple[PartName, Part]]] = {}
    for carrier in carriers:
        if not carrier.models:
            continue
        record = carrier.archive.record()
        for name, member in carrier.models:
            part = _part(carrier, member, record, sums)
            groups.setdefault(name.file, []).append((name, part))
    return tuple(_file(name, found, sums) for name, found in sorted(groups.items()))


def _part(
    carrier: Carrier, member: Member, record: Mapping[str, str], sums: Mapping[str, set[str]]
) -> Part:
    base = member.name.rpartition("/")[2]
    given = {record.get(member.name), *sums.get(base, ())}
    return Part(
        carrier.wheel.file.filename,
        carrier.wheel.file.url,
        carrier.archive.size_bytes,
        carrier.wheel.file.hashes,
        member,
        agreed(base, given),
    )


def _file(
    name: str, found: list[tuple[PartName, Part]], sums: Mapping[str, set[str]]
) -> RemoteFile:
    whole = [part for part_of, part in found if part_of.number is None]
    if len(whole) > 1 and len({part.sha256 for part in whole}) > 1:
        raise DamagedFile(f"the distribution holds two different files {name}")
    parts = tuple(whole[:1])
    if not whole:
        check_numbers(name, (part_of for part_of, _ in found))
        parts = tuple(part for _, part in sorted(found, key=lambda pair: pair[0].number or 0))
    own = parts[0].sha256 if whole else None
    size = sum(part.member.size_bytes for part in parts)
    sha256 = agreed(name, {own, *sums.get(name, ())})
    return RemoteFile(safe_component(name), size, sha256, "weights", {"parts": parts})


def _all_sums(carriers: Sequence[Carrier]) -> dict[str, set[str]]:
    """Every sha256 that a shipped checksum file gives, by file name."""
    sums: dict[str, set[str]] = {}
    for carrier in carriers:
        names = [m.name for m in carrier.archive.members if is_checksum_file(m.name)]
        small = [n for n in names if _size(carrier.archive, n) <= CHECKSUM_LIMIT_BYTES]
        for name in small[:_SUM_FILES_LIMIT]:
            body = carrier.archive.read(name, CHECKSUM_LIMIT_BYTES)
            for file, sha256 in shipped_sums(name, body).items():
                sums.setdefault(file, set()).add(sha256)
    return sums


def _size(archive: Archive, name: str) -> int:
    return next(member.size_bytes for member in archive.members if member.name == name)


def license_text(archive: Archive) -> str | None:
    """The license texts of a wheel's dist-info, joined by a blank line."""
    texts = []
    for member in archive.members:
        folder, _, rest = member.name.partition("/")
        name = rest.rpartition("/")[2].upper()
        if folder.endswith(".dist-info") and (
            rest.startswith("licenses/") or name.startswith(("LICENSE", "LICENCE", "COPYING"))
        ):
            with suppress(DamagedFile):  # a text is not worth failing for
                body = archive.read(member.name, _LICENSE_LIMIT_BYTES)
                texts.append(body.decode("utf-8", "replace").strip())
    return "\n\n".join(texts) or None
