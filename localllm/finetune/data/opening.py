"""From what was asked for to data whose format is known."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from localllm import config
from localllm.config import Settings
from localllm.errors import DamagedFile, FileGone, NotFound, UsageProblem
from localllm.finetune.data.dataset import DataFile, Dataset, kind_of
from localllm.finetune.data.kept import chosen_chats, read_chats
from localllm.finetune.data.reading.folder import read_folder
from localllm.finetune.data.reading.packed import as_it_lies
from localllm.finetune.data.rows import BadRow, RawRow
from localllm.finetune.data.shapes.detect import Shape, detect
from localllm.finetune.data.spec import FORMAT_NAMES, DataSpec, Format
from localllm.finetune.data.voted import read_votes
from localllm.registry import Registry
from localllm.registry.chats import Chats
from localllm.ui import Progress, Silent

_LOOKED_AT = 1000  # rows by which a format is told
_BLOCK = 1 << 20
_CHATS = "kept conversations"


@dataclass
class _Found:
    paths: list[tuple[str, Path]] = field(default_factory=list)  # name, path
    refs: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def open_data(
    spec: DataSpec,
    *,
    registry: Registry | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Find the files, fetch what is on the Hub, and tell the format.

    Every file is read once for its sha256; memory does not grow with them. `registry` None is
    that of the settings. Raises FileGone, UsageProblem (no rows, several formats, columns that
    nobody can tell), DamagedFile, MissingExtra, and for references what sources raise.
    """
    settings = settings or config.load()
    registry = registry or Registry(settings.home)
    progress = progress or Silent()
    found = _Found()
    for text in spec.sources:
        _locate(text, found, registry, settings, progress)
    files = _hashed(found.paths, progress)
    chats = Chats.of(registry)
    chosen = chosen_chats(chats, spec.from_chats) if spec.from_chats is not None else ()
    votes = tuple(read_votes(registry)) if spec.from_votes else ()
    if spec.from_votes and not votes:
        raise NotFound("no answer of a router was judged good yet", "/good in localllm chat")
    format, shape, evidence = _told(spec, files, len(chosen), len(votes))
    return Dataset(
        spec, files, format, shape, evidence, tuple(found.refs), dict(found.left_out),
        lambda: chain(read_chats(chats, chosen), votes), len(chosen), len(votes),
    )  # fmt: skip


def _locate(
    text: str, found: _Found, registry: Registry, settings: Settings, progress: Progress
) -> None:
    if is_dataset(text):
        from localllm.finetune.data.remote import bring

        here = bring(text, registry, settings, progress)
        found.refs.append(here.ref)
        name = here.ref.partition("@")[0]
        found.paths += [(f"{name}/{file}", path) for file, path in here.files]
        return
    path = Path(text).expanduser()
    if path.is_dir():
        folder = read_folder(path)
        found.left_out.update(folder.left_out)
        inside = [(str(Path(text) / file.relative_to(path)), file) for file in folder.files]
        found.paths += inside
        return
    if not path.exists():
        raise FileGone(f"there is no file {text}", "--data FILE, a folder, or hf-dataset:org/name")
    if not path.is_file():
        raise UsageProblem(f"{text} is no file: data is read more than once", "save it in a file")
    found.paths.append((text, path))


def is_dataset(text: str) -> bool:
    """Whether `text` is a reference to a data set of the Hub."""
    # spelled out: to import the source takes a moment that a local file need not wait
    if not text.startswith("hf-dataset:") and "/datasets/" not in text:
        return False
    from localllm.sources.datasets import DatasetRef

    return DatasetRef.matches(text)


def unpruned(
    sources: Sequence[str], whose: str, registry: Registry,
    on_wait: Callable[[], None] | None = None,
) -> AbstractContextManager[None]:  # fmt: skip
    """While the block runs `prune` leaves the Hub's data sets alone: no model names yet what is
    being read. `whose` tells one run that reads `sources` from another; the same one waits for
    the other, after a call of `on_wait`."""
    if not any(map(is_dataset, sources)):
        return nullcontext()
    return registry.lock(f"data of {whose} {tuple(sources)}", on_wait)


def _hashed(paths: Sequence[tuple[str, Path]], progress: Progress) -> tuple[DataFile, ...]:
    files = []
    sizes = [path.stat().st_size for _, path in paths]
    with progress.bytes("read data", sum(sizes)) as advance:
        for (name, path), size in zip(paths, sizes, strict=True):
            kind = kind_of(path)
            digest = hashlib.sha256()
            with as_it_lies(path) as file:  # what is packed is hashed packed
                while block := file.read(_BLOCK):
                    digest.update(block)
                    advance(len(block))
            files.append(DataFile(name, path, size, digest.hexdigest(), kind))
    return tuple(files)


def _told(
    spec: DataSpec, files: Sequence[DataFile], n_chats: int, n_votes: int
) -> tuple[Format, Shape | None, tuple[str, ...]]:
    with_rows = [file for file in files if file.has_rows]
    texts = [file for file in files if not file.has_rows]
    kept = tuple(f"{n} {what}" for n, what in ((n_chats, _CHATS), (n_votes, "judged answers")) if n)
    if texts and (with_rows or kept):
        other = with_rows[0].name if with_rows else _CHATS
        raise UsageProblem(
            f"{texts[0].name} is a document, {other} holds rows: they are trained in two runs"
        )
    if texts:
        if spec.format not in (None, "text"):
            raise UsageProblem(
                f"{texts[0].name} is a document, not {FORMAT_NAMES[spec.format or 'text']}",
                "rows are read from .jsonl, .json, .csv, .tsv and .parquet",
            )
        return "text", None, (f"{len(texts)} text files, a document each",)
    if not with_rows:
        return "chat", None, kept
    rows = list(_sample(with_rows))
    if not rows and (bad := next(_unusable(with_rows), None)) is not None:
        raise DamagedFile(f"no row can be used: {bad.reason} ({bad.at})", "mend the data")
    found = detect(rows, spec.columns, spec.format)
    format = found.shape.format
    if kept and format in ("text", "preference"):
        raise UsageProblem(f"{_CHATS} do not go with {FORMAT_NAMES[format]}")
    return format, found.shape, (*found.evidence, *kept)


def _sample(files: Sequence[DataFile]) -> Iterator[RawRow]:
    """The first rows of the files, of each some."""
    each = max(20, _LOOKED_AT // len(files))
    for file in files[: _LOOKED_AT // 20]:
        yield from islice((row for row in file.rows() if isinstance(row, RawRow)), each)


def _unusable(files: Sequence[DataFile]) -> Iterator[BadRow]:
    return (row for file in files for row in file.rows() if isinstance(row, BadRow))
