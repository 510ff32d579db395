"""Routers on disk: `routers/<name>/`, a description a version and what the versions learned.

    store = Routers(registry)
    kept = store.add("mine", text, made_by="create")           # version 1
    kept = store.add("mine", text, made_by="train", learned={"predictor.npz": data, ...})

A version is never changed: to change a router is to add one. `N.toml` holds it whole, with who
made it when, so the index can be made again from the files. What was learned lies in a folder
named by its digest, which versions that differ in a threshold only share.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import FileGone, NotFound, UsageProblem
from localllm.registry.database import make_folder, unwritable
from localllm.registry.landing import safe_component
from localllm.registry.store import Registry

_HEAD = re.compile(
    r"# router (?P<name>\S+) version (?P<number>\d+) by (?P<by>\w+) at (?P<at>[\d.]+)"
    r" learned (?P<digest>[0-9a-f]{64}|-)$"
)


@dataclass(frozen=True)
class KeptVersion:
    """`path` is the description; `learned` the folder of what it learned, None where it learned
    nothing. `made_at` in seconds since the epoch."""

    router: str
    number: int
    made_at: float
    made_by: str
    sha256: str | None
    path: Path
    learned: Path | None

    def text(self) -> str:
        """The description, TOML. Raises FileGone."""
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileGone(
                f"router {self.router}: {self.path} cannot be read: {error}",
                f"localllm route rm {self.router}",
            ) from None


@dataclass(frozen=True)
class KeptRouter:
    """A router and its versions, the first first. `version` is the number of the one in use."""

    name: str
    version: int
    added_at: float
    versions: tuple[KeptVersion, ...]

    @property
    def current(self) -> KeptVersion:
        return self.numbered(self.version)

    def numbered(self, number: int) -> KeptVersion:
        """Raises NotFound."""
        for one in self.versions:
            if one.number == number:
                return one
        raise NotFound(
            f"router {self.name} has no version {number}", f"localllm route show {self.name}"
        )


class Routers:
    """The routers of one home. Reading never writes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._home = registry.home / "routers"

    # --- reading ------------------------------------------------------------------------

    def list(self) -> tuple[KeptRouter, ...]:
        """All of them, by name."""
        with self._registry.database.reading() as connection:
            return self._read(connection)

    def find(self, name: str) -> KeptRouter:
        """Raises NotFound with the nearest name."""
        with self._registry.database.reading() as connection:
            found = self._read(connection)
        for one in found:
            if one.name.casefold() == name.casefold():
                return one
        import difflib

        near = difflib.get_close_matches(name, [one.name for one in found], n=1)
        hint = f"; near: {near[0]}" if near else ""
        raise NotFound(f"no router {name[:80]!r} here{hint}", "localllm route list")

    def _read(self, connection: sqlite3.Connection) -> tuple[KeptRouter, ...]:
        versions: dict[str, list[KeptVersion]] = {}
        for row in connection.execute("SELECT * FROM router_version ORDER BY router, number"):
            versions.setdefault(row["router"].casefold(), []).append(self._version(row))
        return tuple(
            KeptRouter(
                row["name"], row["version"], row["added_at"],
                tuple(versions.get(row["name"].casefold(), ())),
            )
            for row in connection.execute("SELECT * FROM router ORDER BY name")
        )  # fmt: skip

    def _version(self, row: sqlite3.Row) -> KeptVersion:
        folder = self._folder(row["router"])
        digest = row["sha256"]
        return KeptVersion(
            row["router"], row["number"], row["made_at"], row["made_by"], digest,
            folder / f"{row['number']}.toml", None if digest is None else folder / digest[:16],
        )  # fmt: skip

    def _folder(self, name: str) -> Path:
        return self._home / safe_component(name.casefold())

    # --- writing ------------------------------------------------------------------------

    def add(
        self,
        name: str,
        text: str,
        *,
        made_by: str,
        learned: Mapping[str, bytes] | None = None,
        like: KeptVersion | None = None,
        new: bool = False,
        use: bool = True,
    ) -> KeptRouter:
        """A new version of `name`, in use at once where `use` says so.

        `learned` are files by name; without any it has learned what the version `like` has. With
        `new` there must be no such router yet. Raises UsageProblem, HomeUnwritable, DiskFull.
        """
        digest = _digest(learned) if learned else like.sha256 if like is not None else None
        with self._registry.database.writing() as connection:
            row = connection.execute("SELECT name FROM router WHERE name = ?", (name,)).fetchone()
            if new and row is not None:
                raise UsageProblem(
                    f"there is a router {row['name']} already", f"localllm route rm {row['name']}"
                )
            name = row["name"] if row is not None else name
            last = connection.execute(
                "SELECT max(number) FROM router_version WHERE router = ?", (name,)
            ).fetchone()[0]
            number, now = (last or 0) + 1, time.time()
            folder = self._folder(name)
            make_folder(folder)
            if learned and digest is not None:
                self._write_folder(folder / digest[:16], learned)
            head = _head(name, number, made_by, now, digest)
            _write(folder / f"{number}.toml", f"{head}\n{text}".encode())
            connection.execute(
                "INSERT OR IGNORE INTO router (name, version, added_at) VALUES (?, ?, ?)",
                (name, number, now),
            )
            connection.execute(
                "INSERT INTO router_version VALUES (?, ?, ?, ?, ?)",
                (name, number, now, made_by, digest),
            )
            if use:
                connection.execute("UPDATE router SET version = ? WHERE name = ?", (number, name))
        return self.find(name)

    def use(self, name: str, number: int) -> KeptRouter:
        """Let `name` be its version `number`: forth or back. Raises NotFound."""
        self.find(name).numbered(number)
        with self._registry.database.writing() as connection:
            connection.execute("UPDATE router SET version = ? WHERE name = ?", (number, name))
        return self.find(name)

    def remove(self, name: str) -> None:
        """Forget a router with all its versions, and delete their files. Raises NotFound."""
        found = self.find(name)
        with self._registry.database.writing() as connection:
            connection.execute("DELETE FROM router WHERE name = ?", (found.name,))
        shutil.rmtree(self._folder(found.name), ignore_errors=True)

    def _write_folder(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Under its name only when it is whole."""
        if folder.is_dir():
            return
        try:
            staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".learned-"))
        except OSError as error:
            raise unwritable(folder, error) from None
        try:
            for name, content in files.items():
                _write(staged / safe_component(name), content)
            staged.rename(folder)
        except OSError as error:
            raise unwritable(folder, error) from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def restore(connection: sqlite3.Connection, home: Path) -> int:
    """Rows for the versions whose files lie in `home`, into an index that lost them; how many.
    The last version of each is the one in use."""
    found = []
    for path in sorted((home / "routers").glob("*/*.toml")):
        try:
            with path.open(encoding="utf-8") as file:
                match = _HEAD.match(file.readline())
        except (OSError, UnicodeDecodeError):
            continue
        if match is None:
            continue
        digest = None if match["digest"] == "-" else match["digest"]
        if digest is None or (path.parent / digest[:16]).is_dir():
            found.append((match["name"], int(match["number"]), float(match["at"]), match["by"],
                          digest))  # fmt: skip
    for name, number, at, made_by, digest in found:
        connection.execute(
            "INSERT INTO router VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET version = max(version, excluded.version)",
            (name, number, at),
        )
        connection.execute(
            "INSERT OR IGNORE INTO router_version VALUES (?, ?, ?, ?, ?)",
            (name, number, at, made_by, digest),
        )
    return len(found)


def _head(name: str, number: int, made_by: str, at: float, digest: str | None) -> str:
    """The first line of a description: what the index says of it, should that be lost."""
    return f"# router {name} version {number} by {made_by} at {at:.3f} learned {digest or '-'}"


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name]).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and for its owner alone: descriptions hold example prompts."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise unwritable(path, error) from None
