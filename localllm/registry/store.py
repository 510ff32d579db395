"""The Registry: one folder of files and one index of what they are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from localllm import config
from localllm.errors import FileGone, ModelNotFound, UsageProblem
from localllm.refs import ModelRef
from localllm.registry import landing, manifest, rows
from localllm.registry.database import Database, make_folder
from localllm.registry.landing import Arrival
from localllm.registry.model import Measurement, Model, StoredFile
from localllm.registry.resolve import pick

Advance = Callable[[int], None]
_BLOCK = 8 << 20


class Registry:
    """Everything below one home folder. Opening it touches nothing.

    Reads never write. Several processes may use one home at once; a writer holds the index
    for as long as a rename takes.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = Database(home / "registry.db")

    @classmethod
    def open(cls, settings: config.Settings | None = None) -> Registry:
        """The registry of the settings (LOCALLLM_HOME)."""
        return cls((settings or config.load()).home)

    # --- reading ------------------------------------------------------------------------

    def models(self) -> tuple[Model, ...]:
        """All models, by name."""
        with self.database.reading() as connection:
            return tuple(rows.models(connection, self.home))

    def names(self) -> tuple[str, ...]:
        """Names and aliases, for completion: one query."""
        with self.database.reading() as connection:
            found = connection.execute("SELECT name FROM model UNION SELECT name FROM alias")
            return tuple(sorted(row[0] for row in found))

    def resolve(self, text: str | ModelRef) -> Model:
        """The model that `text` names. Raises ModelNotFound, AmbiguousModel, InvalidReference,
        FileGone where the index has the model and the disk does not.

        A path to a model file that is not registered is refused with the command that
        registers it: see `placement.opening` for using one as it is.
        """
        ref = ModelRef.parse(text) if isinstance(text, str) else text
        if ref.scheme == "file":
            return self._by_path(Path(ref.name).expanduser())
        model = pick(self.models(), ref)
        for file in model.files:
            if not file.path.exists():
                raise FileGone(
                    f"{model.name}: its file {file.path} is gone", f"localllm rm {model.name}"
                )
        return model

    def _by_path(self, path: Path) -> Model:
        wanted = path.resolve()
        for model in self.models():
            if any(f.path == path.absolute() or f.path.resolve() == wanted for f in model.files):
                return model
        if not path.exists():
            raise FileGone(f"there is no file {path}")
        raise ModelNotFound(f"{path} is not in the registry", f"localllm pull --in-place {path}")

    def with_digest(self, sha256: str) -> tuple[Model, StoredFile] | None:
        """A registered file with this digest that is still there."""
        with self.database.reading() as connection:
            found = rows.models(
                connection, self.home, "id IN (SELECT model_id FROM file WHERE sha256 = ?)", sha256
            )
        for model in found:
            for file in model.files:
                if file.sha256 == sha256 and file.path.exists():
                    return model, file
        return None

    def children(self, model: Model) -> tuple[Model, ...]:
        """Models derived from `model`."""
        return tuple(
            m for m in self.models()
            if m.lineage is not None and model.name in (name for name, _ in m.lineage.parents)
        )  # fmt: skip

    def measurements(self, model: Model, kind: str | None = None) -> tuple[Measurement, ...]:
        """What was measured on `model`, newest first."""
        with self.database.reading() as connection:
            found = connection.execute(
                "SELECT * FROM measurement WHERE model_name = :name"
                " AND (:kind IS NULL OR kind = :kind) ORDER BY made_at DESC, id DESC",
                {"name": model.name, "kind": kind},
            ).fetchall()
        return tuple(rows.measurement(row) for row in found)

    # --- writing ------------------------------------------------------------------------

    def add(self, arrival: Arrival) -> Model:
        """Register `arrival`: its files get their final names and the index its rows in one
        transaction. A model of the same name is replaced; files it alone had are removed."""
        with self.database.writing() as connection:
            known = rows.models(connection, self.home, "name = ?", arrival.name)
            files = landing.land(connection, arrival, self.home)
            model = Model(
                id=None,
                name=known[0].name if known else arrival.name,
                ref=arrival.ref,
                format=arrival.format,
                source=arrival.source,
                publisher=arrival.publisher,
                repo=arrival.repo,
                variant=arrival.variant,
                architecture=arrival.architecture,
                file_type=arrival.file_type,
                n_params=arrival.n_params,
                n_ctx_train=arrival.n_ctx_train,
                files=files,
                added_at=time.time(),
                aliases=known[0].aliases if known else arrival.aliases,
                lineage=arrival.lineage,
                extras=arrival.extras,
            )
            model_id = rows.insert(connection, model, self.home)
            manifest.write(self.manifests, model, self.home)
            model = rows.models(connection, self.home, "id = ?", model_id)[0]
            stale = self._unreferenced(connection, [f for old in known for f in old.files])
        self._unlink(stale)
        return model

    def remove(self, model: Model) -> int:
        """Forget `model` and delete the files it alone owns. Returns the bytes freed."""
        with self.database.writing() as connection:
            connection.execute("DELETE FROM model WHERE id = ?", (model.id,))
            manifest.path_for(self.manifests, model.name).unlink(missing_ok=True)
            stale = self._unreferenced(connection, model.files)
        return self._unlink(stale)

    def set_alias(self, alias: str, model: Model) -> None:
        """Let `alias` name `model`. Raises UsageProblem where the name is taken."""
        ref = ModelRef.parse(alias)
        if ref.scheme not in ("local", "hf") or ref.revision is not None:
            raise UsageProblem(f"{alias!r} cannot be a name", "use letters, digits, . _ - and :")
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM model WHERE name = ?", (alias,)).fetchone():
                raise UsageProblem(f"{alias!r} is a model already", f"localllm rm {alias}")
            taken = connection.execute("SELECT model_id FROM alias WHERE name = ?", (alias,))
            if (row := taken.fetchone()) is not None and row["model_id"] != model.id:
                raise UsageProblem(f"{alias!r} names another model", f"localllm rm {alias}")
            connection.execute("INSERT OR IGNORE INTO alias VALUES (?, ?)", (alias, model.id))
            self._rewrite_manifest(connection, model)

    def remove_alias(self, alias: str) -> bool:
        """Forget the second name `alias`. False where there is none."""
        with self.database.writing() as connection:
            row = connection.execute(
                "SELECT name, model_id FROM alias WHERE name = ?", (alias,)
            ).fetchone()
            if row is None:
                return False
            connection.execute("DELETE FROM alias WHERE name = ?", (alias,))
            self._rewrite_manifest(
                connection, rows.models(connection, self.home, "id = ?", row["model_id"])[0]
            )
            return True

    def record(self, model: Model, kind: str, data: Mapping[str, Any]) -> int:
        """Keep a measurement of `model`. Returns its id."""
        digest = model.weights[0].sha256 if model.weights else None
        with self.database.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO measurement (model_name, sha256, kind, made_at, data)"
                " VALUES (?, ?, ?, ?, ?)",
                (model.name, digest, kind, time.time(), json.dumps(dict(data))),
            )
            return int(cursor.lastrowid or 0)

    def set_digest(self, model: Model, file: StoredFile, sha256: str) -> None:
        """Note the digest of a file that was registered without one."""
        with self.database.writing() as connection:
            connection.execute(
                "UPDATE file SET sha256 = ? WHERE model_id = ? AND name = ? AND sha256 IS NULL",
                (sha256, model.id, file.name),
            )
            self._rewrite_manifest(connection, model)

    # --- files --------------------------------------------------------------------------

    @property
    def manifests(self) -> Path:
        return self.home / "manifests"

    def partial(self, key: str, label: str) -> Path:
        """Where a file that is not complete yet lies: the same path for the same `key`."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        folder = self.home / "partial"
        make_folder(folder)
        return folder / f"{landing.safe_component(label)[:80]}.{digest}.part"

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold `key` against every other process; the system frees it if we are killed.

        `waiting` is called once if somebody else holds it.
        """
        from filelock import FileLock, Timeout

        folder = self.home / "locks"
        make_folder(folder)
        lock = FileLock(folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def digest(self, file: StoredFile, advance: Advance) -> str:
        """sha256 of a file as it is on disk, in blocks of 8 MiB. Raises FileGone."""
        try:
            with file.path.open("rb", buffering=0) as stream:
                digest = hashlib.sha256()
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    advance(len(block))
        except FileNotFoundError:
            raise FileGone(f"{file.path} is gone") from None
        return digest.hexdigest()

    def _rewrite_manifest(self, connection: Any, model: Model) -> None:
        now = rows.models(connection, self.home, "id = ?", model.id)
        if now:
            manifest.write(self.manifests, now[0], self.home)

    def _unreferenced(self, connection: Any, files: Any) -> list[StoredFile]:
        """Those of `files` that are ours and no row names any more."""
        return [
            f for f in files
            if f.owned and connection.execute(
                "SELECT 1 FROM file WHERE path = ? AND owned", (rows.stored_path(f, self.home),)
            ).fetchone() is None
        ]  # fmt: skip

    def _unlink(self, files: list[StoredFile]) -> int:
        freed = 0
        for file in files:
            try:
                last_name = file.path.stat().st_nlink == 1
                file.path.unlink()
            except FileNotFoundError:
                continue
            freed += file.size_bytes if last_name else 0
            self._remove_empty(file.path.parent)
        return freed

    def _remove_empty(self, folder: Path) -> None:
        top = self.home / "models"
        while folder != top and top in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or another process is landing a file in it
            folder = folder.parent
