"""Parquet, by pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localllm.errors import DamagedFile, FileGone, LocalLLMError, MissingExtra
from localllm.finetune.data.reading.jsonvalue import NOT_UTF8
from localllm.finetune.data.rows import BadRow, RawRow, RowAt

_BATCH = 1000  # rows in memory at a time


def read_parquet(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Rows of `path` by their numbers, a batch at a time.

    Raises MissingExtra without pyarrow, FileGone, DamagedFile.
    """
    arrow, parquet = _pyarrow(path)
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                for i in range(batch.num_rows):
                    number += 1
                    yield _row(batch, i, RowAt(name, number, "row"))
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except arrow.ArrowException as error:
        raise DamagedFile(f"{path} is no whole Parquet file: {_short(error)}") from None
    except OSError as error:
        if error.errno is None:  # what pyarrow says of pages that cannot be unpacked
            raise DamagedFile(f"{path} is damaged: {_short(error)}") from None
        raise LocalLLMError(f"{path} cannot be read: {error.strerror}") from None


def _row(batch: Any, i: int, at: RowAt) -> RawRow | BadRow:
    try:
        return RawRow({k: batch.column(k)[i].as_py() for k in batch.schema.names}, at)
    except UnicodeDecodeError:
        return BadRow(NOT_UTF8, "a text of it is no UTF-8", at)
    except (ValueError, OverflowError) as error:  # a date that Python has no value for
        return BadRow("no value", _short(error), at)


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(
            f"{path.name} is a Parquet file, which needs pyarrow",
            "pip install 'localllm[finetune]'",
        ) from None
    return pyarrow, pyarrow.parquet


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
