"""Folders of models on this machine: the Hugging Face cache, LM Studio's, any folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from localllm.refs import ModelRef
from localllm.sources.base import RemoteFile, Variant
from localllm.sources.found import FoundFile, FoundModel, Note
from localllm.sources.hub_variants import classify

_DEPTH = 48  # deeper than any tree of models; ends what loops in ways no system call shows
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Everything that classify() may take; the rest of a tree is not even remembered
_WEIGHTS = (".gguf", ".safetensors")
_RELEVANT = re.compile(
    r"\.(?:gguf|safetensors|json|jinja|model|txt|tiktoken|md|v\d+)$|^[^.]+$", re.IGNORECASE
)


def hf_cache(root: Path, note: Note) -> Iterator[FoundModel]:
    """models--<org>--<repo>/snapshots/<commit>/..., files being links into blobs/<digest>.

    A file that several snapshots share is given once, with the commit that a branch or tag
    points to where there is one.
    """
    for folder in _folders(root, note):
        kind, _, name = folder.name.partition("--")
        if kind != "models" or not name:
            continue
        publisher, _, repo = name.partition("--")
        name = f"{publisher}/{repo}" if repo else publisher
        seen: set[tuple[Path, ...]] = set()
        for snapshot in _snapshots(folder, note):
            files = _below(snapshot, note)
            for variant, whole in _variants(files):
                model = _found(
                    ModelRef("hf", name, snapshot.name, variant.name),
                    (publisher if repo else "huggingface", repo or publisher),
                    variant,
                    whole,
                )
                blobs = tuple(file.path.resolve() for file in model.files)
                if blobs not in seen:
                    seen.add(blobs)
                    yield model


def lmstudio(root: Path, note: Note) -> Iterator[FoundModel]:
    """<publisher>/<repo>/...: the files of one repository are looked at together."""
    for publisher in _folders(root, note):
        for repo in _folders(publisher, note):
            for variant, whole in _variants(_below(repo, note)):
                ref = _file_ref(variant, repo)
                yield _found(ref, (publisher.name, repo.name), variant, whole)


def any_folder(root: Path, note: Note) -> Iterator[FoundModel]:
    """Every model below `root`, folder by folder: memory grows with the models found only.

    A file with several names (links) is given once.
    """
    seen: set[tuple[int, int]] = set()
    for folder, entries in _walk(root, note):
        if not any(entry.name.lower().endswith(_WEIGHTS) for entry in entries):
            continue
        for variant, whole in _variants(_listed(entries, folder, folder)):
            first = Path(variant.files[0].locator["path"]).stat()
            if (first.st_dev, first.st_ino) in seen:
                continue
            seen.add((first.st_dev, first.st_ino))
            yield _found(_file_ref(variant, folder), ("local", folder.name), variant, whole)


def _variants(files: Sequence[RemoteFile]) -> Iterator[tuple[Variant, bool]]:
    """The variants among `files`, and whether each is complete."""
    variants = classify(files)
    yield from ((variant, True) for variant in variants.complete)
    yield from ((variant, False) for variant in variants.incomplete)


def _found(ref: ModelRef, place: tuple[str, str], variant: Variant, whole: bool) -> FoundModel:
    missing = () if whole else tuple(variant.extras.get("missing", ()))
    extras = {key: value for key, value in variant.extras.items() if key != "missing"}
    files = tuple(
        FoundFile(f.locator["path"], f.name, f.role, f.size_bytes or 0, f.sha256)
        for f in variant.files
    )
    return FoundModel(ref, *place, variant.name, variant.format, files, extras, missing)


def _file_ref(variant: Variant, folder: Path) -> ModelRef:
    """A GGUF by its (first) file, anything else by its folder."""
    path: Path = variant.files[0].locator["path"]
    return ModelRef("file", str(path if path.suffix.lower() == ".gguf" else folder))


def _snapshots(folder: Path, note: Note) -> list[Path]:
    """A repository's snapshots, those that a ref names first, `main` before others."""
    refs = folder / "refs"
    named: list[str] = []
    for ref in sorted(refs.rglob("*")) if refs.is_dir() else ():
        try:
            commit = ref.read_text(encoding="ascii").strip() if ref.is_file() else ""
        except (OSError, UnicodeDecodeError) as e:
            note(f"{ref}: cannot be read ({e})")
            continue
        named.insert(0 if ref == refs / "main" else len(named), commit)
    found = [s for s in _folders(folder / "snapshots", note) if _COMMIT.fullmatch(s.name)]
    order = {commit: rank for rank, commit in reversed(list(enumerate(named)))}
    return sorted(found, key=lambda s: (order.get(s.name, len(order)), s.name))


def _below(folder: Path, note: Note) -> list[RemoteFile]:
    """All files below `folder`, named by their path from it."""
    return [
        file for inner, entries in _walk(folder, note) for file in _listed(entries, inner, folder)
    ]


def _listed(entries: Sequence[os.DirEntry[str]], folder: Path, root: Path) -> list[RemoteFile]:
    files = []
    for entry in entries:
        path = folder / entry.name
        try:
            size = entry.stat().st_size
        except OSError:  # a link to nothing, or gone meanwhile
            continue
        name = path.relative_to(root).as_posix()
        files.append(RemoteFile(name, size, _digest_of(entry), "weights", {"path": path}))
    return files


def _digest_of(entry: os.DirEntry[str]) -> str | None:
    """The sha256 by which the Hugging Face cache names a large file's blob.

    Small ones are named by git's sha1, which is no digest of the bytes alone.
    """
    if not entry.is_symlink():
        return None
    target = Path(entry.path).readlink()
    is_blob = target.parent.name == "blobs" and _SHA256.fullmatch(target.name)
    return target.name if is_blob else None


def _folders(folder: Path, note: Note) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as e:
        note(f"{folder}: {e.strerror}")
        return []


def _walk(root: Path, note: Note) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Every folder below `root` with its files that may belong to a model, sorted.

    Links to folders are followed where they lead outside of what is walked anyway, each
    target once, so loops end. Unreadable folders are told to `note`.
    """
    roots = [root.resolve()]
    stack = [(root, 0)]
    while stack:
        folder, depth = stack.pop()
        files: list[os.DirEntry[str]] = []
        inner: list[Path] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        if depth < _DEPTH and _is_new(entry, roots):
                            inner.append(folder / entry.name)
                    elif _RELEVANT.search(entry.name) and _is_file(entry):
                        files.append(entry)
        except OSError as e:
            note(f"{folder}: {e.strerror}")
        stack += [(path, depth + 1) for path in sorted(inner, reverse=True)]
        if files:
            yield folder, sorted(files, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_new(entry: os.DirEntry[str], roots: list[Path]) -> bool:
    """False for a link to a folder that is walked already, or holds one that is."""
    if not entry.is_symlink():
        return True
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a link to itself, before Python 3.13
        return False
    if any(target.is_relative_to(root) or root.is_relative_to(target) for root in roots):
        return False
    roots.append(target)
    return True
