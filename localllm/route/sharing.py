"""Routers as one file to give away, and files from elsewhere as routers.

The file is a zip of `router.toml` and NumPy archives: numbers and text, nothing that runs. What
comes in is read with bounded sizes and checked whole before any of it is kept.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from localllm.errors import DamagedFile, FileGone
from localllm.registry import Registry
from localllm.registry.routers import KeptRouter, KeptVersion, Routers
from localllm.route.cascades.keeping import check_combiner, open_combiner, with_fitted
from localllm.route.learned import (
    CASCADE,
    KNOWN,
    PREDICTOR,
    TESTED,
    open_known,
    open_tested,
)
from localllm.route.making import check_steps
from localllm.route.opening import helper_for, open_folder
from localllm.route.pool.member import Member, check_name, parse_member
from localllm.route.pool.reading import MAX_BYTES as MAX_SPEC
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.standing import standings
from localllm.route.pool.writing import as_toml
from localllm.route.routerfile import MAX_BYTES, NO_ZIP, pack_arrays, read_arrays
from localllm.ui.outfile import replace_file

SPEC = "router.toml"
SIMILARITIES = ("neighbours", "bradley-terry")  # predictors that are their training prompts
_FILES = {
    SPEC: MAX_SPEC, PREDICTOR: MAX_BYTES, TESTED: MAX_BYTES, KNOWN: MAX_BYTES, CASCADE: MAX_BYTES,
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """`by_prompt`: its predictor says of every training prompt which of the known words it has."""

    router: str
    version: int
    path: Path
    size_bytes: int
    with_prompts: bool
    by_prompt: bool = False


@dataclass(frozen=True)
class Imported:
    """`missing` are the members that are not here, with the reason. `privacy_laxer` is what its
    policy lets leave this machine and the default one does not."""

    router: str
    version: int
    trained: bool
    missing: Mapping[str, str]
    privacy_laxer: tuple[str, ...] = ()


def export_router(
    registry: Registry, version: KeptVersion, path: Path, *, with_prompts: bool = False
) -> Exported:
    """Writes `path` whole or not at all. The words that occur in two training prompts are in the
    predictor, digests and lengths of all prompts beside how the members did; the prompts'
    beginnings go along only `with_prompts`. A path that ends in .toml
    gets the description alone. Raises UsageProblem, FileGone, OSError."""
    spec, made = parse_spec(version.text(), str(version.path))
    own = {"name": version.router, "version": version.number, "by": version.made_by}
    how = _how_made(made)
    if path.suffix.lower() == ".toml":
        how.pop("target_share", None)  # the threshold there may be edited, and then counts
        spec = with_fitted(spec, version)  # four numbers, which have no file beside them there
        content = as_toml(spec, {**how, **own}).encode()
    else:
        content = _zipped(as_toml(spec, {**how, **own}), version.learned, with_prompts)
    replace_file(path, content)
    return Exported(
        version.router, version.number, path.absolute(), len(content), with_prompts,
        how.get("predictor") in SIMILARITIES,
    )  # fmt: skip


def _how_made(made: Mapping[str, Any]) -> dict[str, Any]:
    """What evaluating it again or training it again needs to know, as far as it is of its kind."""
    found = {name: made[name] for name in ("predictor", "embedder", "model")
             if isinstance(made.get(name), str)}  # fmt: skip
    share = made.get("target_share")
    if isinstance(share, int | float) and 0 <= share <= 1:
        return {**found, "target_share": float(share)}
    return found


def _zipped(text: str, learned: Path | None, with_prompts: bool) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(SPEC, text)
        for name in (PREDICTOR, CASCADE, TESTED, *((KNOWN,) if with_prompts else ())):
            if learned is not None and (learned / name).exists():
                content = (learned / name).read_bytes()
                if name == PREDICTOR and not with_prompts:
                    content = _without_excerpts(learned / name, content)
                archive.writestr(name, content)
    return held.getvalue()


def _without_excerpts(path: Path, content: bytes) -> bytes:
    """A predictor of known prompts holds their beginnings, for explanations: left empty."""
    arrays = read_arrays(path)
    if "excerpts" not in arrays:
        return content
    return pack_arrays({**arrays, "excerpts": np.zeros(len(arrays["excerpts"]), dtype="<U1")})


def import_router(
    registry: Registry, path: Path, name: str | None, members: tuple[str, ...] = ()
) -> Imported:
    """Keep the router of a file. `members` (`NAME=MODEL`) stand in place of its own of that name.

    Raises FileGone, DamagedFile, UsageProblem; nothing is kept then.
    """
    files = _read(path)
    spec, made = parse_spec(_decoded(files.pop(SPEC), path), str(path))
    spec = _replaced(spec, [parse_member(text) for text in members])
    check_steps(spec)
    own = made.get("name")
    name = name or (own if isinstance(own, str) else path.name.split(".")[0])
    check_name(name, "a router's name")
    _check_learned(registry, files, spec, path)
    kept: KeptRouter = Routers(registry).add(
        name, as_toml(spec, {**_how_made(made), "by": "import"}), made_by="import",
        learned=files or None, new=True,
    )  # fmt: skip
    found = standings(spec, registry)
    missing = {n: one.problem for n, one in found.items() if one.problem is not None}
    return Imported(kept.name, kept.version, bool(files), missing, spec.privacy.laxer)


def _check_learned(
    registry: Registry, files: Mapping[str, bytes], spec: RouterSpec, path: Path
) -> None:
    """Every array, by the readers that will read it later."""
    if not files:
        return
    if (PREDICTOR in files) == (CASCADE in files):
        raise DamagedFile(f"{path} has figures, and not the one thing that they are of")
    with tempfile.TemporaryDirectory(prefix="localllm-router-") as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            if (combiner := open_combiner(folder)) is not None:
                check_combiner(combiner, spec)
                open_tested(folder)
                return
            router = open_folder(folder, helper_for(registry))
            open_tested(folder)
            open_known(folder)
        except DamagedFile as problem:
            said = problem.message.replace(str(folder), str(path))
            raise DamagedFile(said) from None
    pair = spec.pair
    if pair is not None and pair != (router.weak, router.strong):
        raise DamagedFile(
            f"{path} was trained for {router.weak} and {router.strong}, "
            f"and routes between {pair[0]} and {pair[1]}"
        )


def _read(path: Path) -> dict[str, bytes]:
    """The parts by name, none larger than it may be."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start != b"PK\x03\x04":
                file.seek(0)
                return {SPEC: _limited(file.read(MAX_SPEC + 1), MAX_SPEC, path)}
        with zipfile.ZipFile(path) as archive:
            return _parts(archive, path)
    except FileNotFoundError as error:
        raise FileGone(f"there is no file {path}") from error
    except OSError as error:
        raise FileGone(f"{path} cannot be read: {error.strerror or error}") from error
    except NO_ZIP as error:
        raise DamagedFile(f"{path} is no router: {error}") from error


def _parts(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in archive.infolist():
        limit = _FILES.get(entry.filename)
        if limit is None or entry.filename in found:
            raise DamagedFile(f"{path} is no router: it holds {entry.filename[:60]!r}")
        if entry.file_size > limit:
            raise DamagedFile(f"{path}: {entry.filename} is larger than {limit} bytes")
        with archive.open(entry) as stream:
            found[entry.filename] = _limited(stream.read(limit + 1), limit, path)
    if SPEC not in found:
        raise DamagedFile(f"{path} is no router: it has no {SPEC}")
    return found


def _limited(content: bytes, limit: int, path: Path) -> bytes:
    if len(content) > limit:
        raise DamagedFile(f"{path} is no router: it is larger than {limit} bytes")
    return content


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DamagedFile(f"{path} is no router: it is neither a zip nor text") from None


def _replaced(spec: RouterSpec, members: list[Member]) -> RouterSpec:
    by_name = {one.name: one for one in members}
    for name in by_name:
        spec.member(name)
    if not by_name:
        return spec
    changed = tuple(
        _standing_in(one, by_name[one.name]) if one.name in by_name else one for one in spec.members
    )
    return replace(spec, members=changed)


def _standing_in(one: Member, by: Member) -> Member:
    """`one` with who answers from `by`. What is behind a tunnel stays outside; a model here is
    not, whatever stood in its place."""
    return replace(
        one, kind=by.kind, ref=by.ref, adapters=by.adapters,
        outside=one.outside and by.kind != "model", draft=one.draft if by.kind == "human" else "",
    )  # fmt: skip
