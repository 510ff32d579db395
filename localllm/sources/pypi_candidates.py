"""Which wheel of a project: pip's rules, without installing anything.

Newest version first, final releases before pre-releases, wheels whose tags and
requires-python fit this interpreter, yanked files only for an exact pin (PEP 592).
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from localllm.errors import InvalidConfig, InvalidReference, SourceNotFound
from localllm.sources.simple_index import ProjectFile


@dataclass(frozen=True)
class Wheel:
    """A wheel that fits this interpreter. `rank` 0 is the most specific tag."""

    name: str  # canonical (PEP 503)
    version: Version
    rank: int
    build: tuple[int, str] | tuple[()]
    file: ProjectFile


class Interpreter:
    """What wheels have to fit: tags in pip's order of preference, and the version."""

    def __init__(self, tags: Iterable[Tag] | None = None, version: str | None = None) -> None:
        found = sys_tags() if tags is None else tags
        self._ranks = {tag: rank for rank, tag in enumerate(found)}
        self._version = platform.python_version() if version is None else version

    def rank(self, tags: Iterable[Tag]) -> int | None:
        return min((self._ranks[tag] for tag in tags if tag in self._ranks), default=None)

    def runs(self, requires_python: str | None) -> bool:
        """False where `requires_python` excludes it; what cannot be read excludes nothing."""
        try:
            return SpecifierSet(requires_python or "").contains(self._version, prereleases=True)
        except InvalidSpecifier:
            return True


def choose(
    name: str,
    files: Sequence[ProjectFile],
    wanted: SpecifierSet,
    interpreter: Interpreter,
) -> Wheel:
    """The wheel of project `name` that pip would download for `wanted`.

    Raises SourceNotFound, saying what there is instead (only sdists, other platforms,
    other versions).
    """
    wheels = _wheels(name, files, interpreter)
    versions = sorted({wheel.version for wheel in wheels})
    allowed = set(wanted.filter(versions))
    fitting = [wheel for wheel in wheels if wheel.version in allowed]
    if not fitting:
        raise SourceNotFound(*_why_not(name, files, wanted, versions))
    # max keeps the first of equals: the order in which the indexes are configured
    return max(fitting, key=lambda wheel: (wheel.version, -wheel.rank, wheel.build))


def _wheels(name: str, files: Sequence[ProjectFile], interpreter: Interpreter) -> list[Wheel]:
    wheels = []
    for file in files:
        try:
            found, version, build, tags = parse_wheel_filename(file.filename)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        rank = interpreter.rank(tags)
        if found == name and rank is not None and interpreter.runs(file.requires_python):
            wheels.append(Wheel(name, version, rank, build, file))
    return wheels


def drop_yanked(files: Iterable[ProjectFile], wanted: SpecifierSet) -> list[ProjectFile]:
    """Without yanked files, unless `wanted` pins one version and nothing else is left."""
    all_files = list(files)
    kept = [file for file in all_files if not file.yanked]
    pinned = any(s.operator in ("==", "===") and not s.version.endswith(".*") for s in wanted)
    if not pinned:
        return kept
    matches = [file for file in kept if _version_of(file) in wanted]
    return kept if matches else all_files


def _version_of(file: ProjectFile) -> Version:
    try:
        return parse_wheel_filename(file.filename)[1]
    except (InvalidWheelFilename, InvalidVersion):
        return Version("0.dev0")


def _why_not(
    name: str, files: Sequence[ProjectFile], wanted: SpecifierSet, versions: list[Version]
) -> tuple[str, str | None]:
    if not files:
        return f"no index has a distribution {name}", "pip config list shows the indexes"
    if versions:
        known = ", ".join(str(v) for v in versions[-5:])
        return f"{name} has no version {wanted}", f"there is {known}: pypi:{name}@{versions[-1]}"
    if any(file.filename.endswith(".whl") for file in files):
        return f"{name} has no wheel for this Python ({platform.python_version()})", None
    return f"{name} has no wheel, only source packages", None


def exact(version: str) -> SpecifierSet:
    """`1.0` as the specifier ==1.0. Raises InvalidReference for what is no version."""
    try:
        return SpecifierSet(f"=={Version(version)}")
    except InvalidVersion:
        raise InvalidReference(f"{version!r} is no version of a package") from None


def read_constraints(places: Iterable[str]) -> dict[str, SpecifierSet]:
    """Version limits by project from pip's local constraint files.

    Lines other than `name<specifier>` (options, URLs, markers that do not hold) limit
    nothing, nor do constraint files on a server. Raises InvalidConfig for one that is unreadable.
    """
    limits: dict[str, SpecifierSet] = {}
    for place in places:
        path = local_path(place)
        if path is None or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as e:
            raise InvalidConfig(f"pip's constraints {path} cannot be read: {e.strerror}") from None
        for line in text.splitlines():
            if (limit := _constraint(re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip())) is None:
                continue
            key = canonicalize_name(limit.name)
            limits[key] = limits.get(key, SpecifierSet()) & limit.specifier
    return limits


def _constraint(line: str) -> Requirement | None:
    try:
        limit = Requirement(line)
        holds = limit.marker is None or limit.marker.evaluate({"extra": ""})
    except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
        return None
    return limit if holds and limit.url is None else None


def local_path(place: str) -> Path | None:
    """`place` (a path or a file: URL) as a path, None for any other URL."""
    if "://" not in place and not place.startswith("file:"):
        return Path(place).expanduser()
    parts = urlsplit(place)
    if parts.scheme != "file":
        return None
    # file://server/share is a UNC path on Windows; elsewhere the host can only be this one
    host = f"//{parts.netloc}" if parts.netloc not in ("", "localhost") else ""
    return Path(url2pathname(host + parts.path))
