"""The Registry: one folder of files and one index of what they are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from localllm import config
from localllm.errors import DiskFull, FileGone, ModelNotFound, UsageProblem
from localllm.refs import ModelRef
from localllm.registry import landing, manifest, removal, rows, work
from localllm.registry.database import Database, make_folder
from localllm.registry.landing import Arrival
from localllm.registry.measurements import Measurements
from localllm.registry.model import Model, StoredFile
from localllm.registry.resolve import pick, slot

Advance = Callable[[int], None]
_BLOCK = 8 << 20


class Registry(Measurements):
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

        A path that is not registered is refused with the command that registers it.
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
        """A file with this digest that is there: ours alone before links, and others' last."""
        with self.database.reading() as connection:
            found = rows.models(
                connection, self.home, "id IN (SELECT model_id FROM file WHERE sha256 = ?)", sha256
            )
        pairs = [(m, f) for m in found for f in m.files if f.sha256 == sha256 and f.path.exists()]
        order = [(not f.owned, m.source == "file", n) for n, (m, f) in enumerate(pairs)]
        return pairs[min(order)[2]] if pairs else None

    def children(self, model: Model) -> tuple[Model, ...]:
        """Models derived from `model`."""
        return tuple(
            m for m in self.models()
            if m.lineage is not None and model.name in (name for name, _ in m.lineage.parents)
        )  # fmt: skip

    # --- writing ------------------------------------------------------------------------

    def add(self, arrival: Arrival, same: Callable[[Model], bool] = lambda model: True) -> Model:
        """Give the files of `arrival` their final names and the index its rows, all at once.

        A model of the same name is replaced if it is the `same`, and files it alone had are
        removed; beside another one of that name, or an endpoint, the new one is called `name-2`,
        and so on.
        """
        ref = _readable(arrival.ref)
        with self.database.writing() as connection:
            models, others = rows.models(connection, self.home), rows.endpoints(connection)
            name, known = slot(models, arrival.name, same, others)
            files = landing.land(connection, arrival, self.home)
            model = Model(
                id=None,
                name=name,
                ref=ref,
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
                aliases=known.aliases if known else arrival.aliases,
                lineage=arrival.lineage,
                extras=_noted(known, files) | dict(arrival.extras),
            )
            model_id = rows.insert(connection, model, self.home)
            manifest.write(self.manifests, model, self.home)
            model = rows.models(connection, self.home, "id = ?", model_id)[0]
        self._discard(known.files if known else ())
        return model

    def take_back(self, arrival: Arrival) -> tuple[Path, ...]:
        """Where an earlier process was killed while it registered `arrival`, move its files
        back to where they were staged. Returns the paths that are there again."""
        missing = [f for f in arrival.files if not f.path.exists()]
        if not missing:
            return ()
        with self.database.writing() as connection:
            return tuple(
                f.path for f in missing if landing.take_back(connection, arrival, f, self.home)
            )

    def remove(self, model: Model) -> int:
        """Forget `model` and delete the files it alone owns. Returns the bytes freed: 0 where
        another process has removed it meanwhile.

        On a full disk, where the index has no room to change either, the files go first.
        """
        try:
            files = self._forget(model)
        except DiskFull:
            freed = self._make_room(model.files, but=model.id)
            if not freed:
                raise
            return freed + self._discard(self._forget(model))
        return self._discard(files)

    def _forget(self, model: Model) -> tuple[StoredFile, ...]:
        with self.database.writing() as connection:
            known = self._still(connection, model)
            if known is None:
                return ()
            connection.execute("DELETE FROM model WHERE id = ?", (model.id,))
            manifest.path_for(self.manifests, known.name).unlink(missing_ok=True)
            return known.files

    def _discard(self, files: tuple[StoredFile, ...]) -> int:
        """Delete those of `files` that no model has: when the rows are gone for good, and in a
        transaction, so that nobody lands a file under the same name."""
        if not files:
            return 0
        try:
            with self.database.writing() as connection:
                only = removal.unreferenced(connection, files, self.home)
                return removal.unlink(only, self.home)
        except DiskFull:
            return self._make_room(files)

    def _make_room(self, files: tuple[StoredFile, ...], but: int | None = None) -> int:
        """The same, `but` for that model's rows, on a full disk: no transaction has room there."""
        with self.database.reading() as connection:
            only = removal.unreferenced(connection, files, self.home, but)
        return removal.unlink(only, self.home)

    def set_alias(self, alias: str, model: Model) -> None:
        """Let `alias` name `model`. Raises UsageProblem where the name is taken."""
        ref = ModelRef.parse(alias)
        if ref.scheme not in ("local", "hf") or ref.revision is not None:
            raise UsageProblem(f"{alias!r} cannot be a name", "use letters, digits, . _ - and :")
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM model WHERE name = ?", (alias,)).fetchone():
                raise UsageProblem(f"{alias!r} is a model already", f"localllm rm {alias}")
            if alias.casefold() in rows.endpoints(connection):
                raise UsageProblem(f"{alias!r} is an endpoint", f"localllm endpoint rm {alias}")
            taken = connection.execute("SELECT model_id FROM alias WHERE name = ?", (alias,))
            if (row := taken.fetchone()) is not None and row["model_id"] != model.id:
                raise UsageProblem(f"{alias!r} names another model", f"localllm rm {alias}")
            if self._still(connection, model) is None:
                raise ModelNotFound(f"{model.name} has been removed", "localllm list")
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

    def note(self, model: Model, key: str, value: Any) -> Model:
        """Keep `value` (plain data; None forgets it) under `key` of the model's extras.

        Returns the model as it is then. Raises ModelNotFound where it was removed meanwhile.
        """
        with self.database.writing() as connection:
            now = self._still(connection, model)
            if now is None:
                raise ModelNotFound(f"{model.name} is no longer in the registry")
            extras = {k: v for k, v in now.extras.items() if k != key}
            if value is not None:
                extras[key] = value
            connection.execute(
                "UPDATE model SET extras = ? WHERE id = ?", (json.dumps(extras), now.id)
            )
            now = replace(now, extras=extras)
            manifest.write(self.manifests, now, self.home)
            return now

    def set_digest(self, model: Model, file: StoredFile, sha256: str) -> None:
        """Note the digest of a file that was registered without one."""
        with self.database.writing() as connection:
            if self._still(connection, model) is None:
                return
            connection.execute(
                "UPDATE file SET sha256 = ? WHERE model_id = ? AND name = ? AND sha256 IS NULL",
                (sha256, model.id, file.name),
            )
            self._rewrite_manifest(connection, model)

    # --- files --------------------------------------------------------------------------

    @property
    def manifests(self) -> Path:
        return self.home / "manifests"

    def partial(self, key: str, label: str, member: str = "") -> Path:
        """Where a file that is not complete yet lies: the same path for the same `key` and
        `member`. Who writes it holds the lock `key`, or else it is taken for abandoned."""
        path = work.partial_path(self.home, key, label, member)
        make_folder(path.parent)
        return path

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold `key` against every other process; the system frees it if we are killed.

        `waiting` is called once if somebody else holds it. Raises HomeUnwritable, DiskFull.
        """
        with work.locked(self.home, key, waiting):
            yield

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

    def _still(self, connection: Connection, model: Model) -> Model | None:
        """`model` as it is now, None where it is gone: its id may be another one's by then."""
        found = rows.models(connection, self.home, "id = ? AND name = ?", model.id, model.name)
        return found[0] if found else None

    def _rewrite_manifest(self, connection: Connection, model: Model) -> None:
        if (now := self._still(connection, model)) is not None:
            manifest.write(self.manifests, now, self.home)


def _noted(known: Model | None, files: tuple[StoredFile, ...]) -> dict[str, Any]:
    """What was noted of the model that is replaced, if the new one has the same content."""
    if known is None or {f.sha256 for f in known.files} != {f.sha256 for f in files}:
        return {}
    return dict(known.extras)


def _readable(ref: ModelRef) -> ModelRef:
    """`ref`, if its text can be read again: one row that cannot would spoil every listing."""
    if ModelRef.parse(str(ref)) != ref:
        raise UsageProblem(f"{ref} cannot be kept as a reference")
    return ref
