"""The index file: opened for reading without a trace, or for writing in one transaction.

What is promised after a crash: a transaction is there whole or not at all (SQLite's
journal), and files are moved to their final names only inside one.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from localllm.errors import DiskFull, HomeUnwritable, LocalLLMError, RegistryBroken
from localllm.registry import schema

_BUSY_S = 60.0
_NO_SHARED_MEMORY = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_FULL", "SQLITE_IOERR_SHM")
_REBUILD = "localllm rebuild"


class Database:
    """`path` need not exist: reading then sees an empty index and creates nothing."""

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str] = schema.MIGRATIONS,
        *,
        private: bool = False,
        mend: str = _REBUILD,
        flushed: bool = True,
    ) -> None:
        """`private` makes the file readable for its owner alone; `mend` is the hint where it is
        damaged. Without `flushed` a transaction does not wait for the disk: a power cut may take
        the last ones, a killed process none."""
        self.path = path
        self._migrations, self._private, self._mend = migrations, private, mend
        self._flushed = flushed

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write. Raises RegistryBroken."""
        with self._translated(), closing(self._open_to_read()) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction: committed at the end, rolled back on any exception."""
        with self._translated(), closing(self._open_to_write()) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN IMMEDIATE")
            try:
                schema.migrate(connection, self._migrations)
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")

    def _open_to_read(self) -> sqlite3.Connection:
        if not self.path.is_file():
            return _empty(self._migrations)
        connection = self._connect("mode=ro")
        try:
            version = schema.version_of(connection)
        except sqlite3.OperationalError as e:
            connection.close()
            if not self._readable_alone(e):
                raise
            connection = self._connect("mode=ro&immutable=1")
            version = schema.version_of(connection)
        self._check(version)
        if version == 0:
            connection.close()
            return _empty(self._migrations)
        if version < len(self._migrations):
            connection.close()
            with self.writing():
                pass
            connection = self._connect("mode=ro")
        return connection

    def _readable_alone(self, error: sqlite3.OperationalError) -> bool:
        """Whether the index can be read as the one file it is.

        Even to read it, SQLite wants a -shm file beside an index in WAL mode, for which a
        read-only or a full file system has no room. Without anything in the -wal file the
        index alone is all there is.
        """
        if not _name(error).startswith(_NO_SHARED_MEMORY):
            return False
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size == 0
        except FileNotFoundError:
            return True

    def _open_to_write(self) -> sqlite3.Connection:
        make_folder(self.path.parent)
        if self._private:
            _make_private(self.path)
        try:
            connection = self._connect("mode=rwc")
        except sqlite3.OperationalError as e:
            raise HomeUnwritable(
                f"the registry at {self.path.parent} cannot be written: {e}",
                "set LOCALLLM_HOME to a folder you may write",
            ) from None
        try:
            self._check(schema.version_of(connection))
            # Where the file system has no shared memory SQLite keeps its rollback journal.
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._flushed else 'NORMAL'}")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)

    def _check(self, version: int) -> None:
        if version > len(self._migrations):
            raise RegistryBroken(
                f"{self.path} was written by a newer localllm (schema {version})",
                "pip install --upgrade localllm",
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as e:
            text = str(e)
            if _name(e).startswith("SQLITE_BUSY"):
                raise LocalLLMError(
                    f"another process has been writing to {self.path} for {_BUSY_S:.0f} s",
                    "try again when it is done",
                ) from None
            if "readonly" in text or "unable to open" in text:
                raise HomeUnwritable(
                    f"the registry at {self.path.parent} cannot be written: {text}",
                    "set LOCALLLM_HOME to a folder you may write",
                ) from None
            if "disk is full" in text or "disk I/O" in text:
                raise DiskFull(f"no space left for {self.path}", "localllm prune") from None
            raise RegistryBroken(f"{self.path} is not usable: {text}", self._mend) from None
        except sqlite3.DatabaseError as e:
            raise RegistryBroken(f"{self.path} is damaged: {e}", self._mend) from None


def _name(error: sqlite3.Error) -> str:
    """SQLite's own name for what went wrong; empty where Python's module found it."""
    return getattr(error, "sqlite_errorname", "")


def make_folder(folder: Path) -> None:
    """Make `folder` below the home. Raises HomeUnwritable, DiskFull."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable(folder, e) from None


def unwritable(path: Path, error: OSError) -> LocalLLMError:
    """The error for a place below the home that cannot be made or written."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return DiskFull(f"no space left for {path}", "localllm prune, or free disk space")
    return HomeUnwritable(
        f"{path} cannot be written: {error.strerror}", "set LOCALLLM_HOME to a folder you may write"
    )


def _make_private(path: Path) -> None:
    """An empty file that only its owner may read; SQLite's -wal and -shm take its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as e:
        raise unwritable(path, e) from None


def _empty(migrations: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection, migrations)
    return connection
