"""Files as they lie on disk, or packed: gzip, bzip2, xz, Zstandard."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from localllm.errors import DamagedFile, FileGone, LocalLLMError, MissingExtra, UsageProblem

PACKED = (".gz", ".bz2", ".xz", ".zst")


def suffix_of(path: Path) -> str:
    """The suffix that tells the format: ".jsonl" of `a.jsonl.gz`, in lower case."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_packed(path: Path) -> bool:
    return path.suffix.lower() in PACKED


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """`path` as bytes, unpacked on the way.

    Raises FileGone, UsageProblem for a folder, DamagedFile for a packed file that is broken,
    LocalLLMError where it cannot be read. What is raised while the block reads is told so too.
    """
    try:
        with _open(path) as file:
            yield file
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UsageProblem(f"{path} is a folder") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DamagedFile(f"{path} is damaged: {_words(error)}") from None
    except OSError as error:
        # bz2 says what is damaged so, without an errno
        if error.errno is None and is_packed(path):
            raise DamagedFile(f"{path} is damaged: {_words(error)}") from None
        raise LocalLLMError(f"{path} cannot be read: {error.strerror or error}") from None


@contextmanager
def as_it_lies(path: Path) -> Iterator[IO[bytes]]:
    """`path` as bytes, not unpacked. Raises FileGone, LocalLLMError."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except OSError as error:
        raise LocalLLMError(f"{path} cannot be read: {error.strerror or error}") from None


def _open(path: Path) -> Any:
    kind = path.suffix.lower()
    if kind == ".gz":
        return gzip.open(path, "rb")
    if kind == ".bz2":
        return bz2.open(path, "rb")
    if kind == ".xz":
        return lzma.open(path, "rb")
    return _zstd(path) if kind == ".zst" else path.open("rb")


@contextmanager
def _zstd(path: Path) -> Iterator[IO[bytes]]:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra(
            f"{path.name} is packed with Zstandard, which needs the package zstandard",
            "pip install 'localllm[finetune]'",
        ) from None
    import io

    try:
        with path.open("rb") as raw:
            # Frames may follow one another, as `cat a.zst b.zst` makes them
            plain = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            # its own reader knows no readline
            yield cast(IO[bytes], io.BufferedReader(plain, 1 << 20))
    except zstandard.ZstdError as error:
        raise DamagedFile(f"{path} is damaged: {_words(error)}") from None


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
