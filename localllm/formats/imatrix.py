"""Importance matrices as files: llama.cpp's GGUF layout, and the older .dat for reading.

A GGUF of general.type "imatrix" has for every weight tensor NAME the two tensors
`NAME.in_sum2` (float32, sums of the squared inputs: one row an expert) and `NAME.counts`
(float32, the tokens that went in: one number an expert, or one), and of the whole
`imatrix.datasets`, `imatrix.chunk_count` and `imatrix.chunk_size` (tools/imatrix/imatrix.cpp,
common/imatrix-loader.cpp). What else this program knows stands under `localllm.imatrix.*`,
which other programs pass over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import DamagedFile, DiskFull, FileGone, LocalLLMError, UsageProblem
from localllm.formats.gguf import GGUFHeader, ValueType, read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUMS, _COUNTS = ".in_sum2", ".counts"
_OWN = "localllm.imatrix."
MAKE_AGAIN = "make it again: localllm imatrix MODEL"
_ALIGNMENT = 32


@dataclass(frozen=True, eq=False)
class Entry:
    """One weight tensor's. `squares`: float32 [values], rows of inputs; `counts`: int64, as many
    as there are experts, or one."""

    squares: NDArray[np.float32]
    counts: NDArray[np.int64]

    def mean(self, legacy: bool) -> NDArray[np.float32]:
        """Sums over counts, as llama-quantize takes them. Without a count: all ones (GGUF), the
        sums (`legacy`, a .dat)."""
        import numpy as np

        counts = self.counts.astype(np.float32).reshape(-1, 1)
        rows = self.squares.reshape(counts.size, -1)
        silent = rows if legacy else np.ones_like(rows)
        return np.where(counts > 0, rows / np.where(counts > 0, counts, 1), silent).ravel()


@dataclass(frozen=True, eq=False)
class Imatrix:
    """`chunk_size` is in tokens, 0 in a .dat, which does not say. `facts` are what this program
    notes beside llama.cpp's own keys: the model, the text, versions."""

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    legacy: bool = False


def read_imatrix(path: Path, *, chunk_size: int = 512) -> Imatrix:
    """The matrix in `path`, a GGUF or a .dat.

    A .dat holds means instead of sums and calls instead of tokens: both are multiplied with
    `chunk_size`, as llama-imatrix does when it goes on from one. Raises FileGone, DamagedFile.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != b"GGUF":
                from localllm.formats.imatrix_legacy import read_legacy

                return read_legacy(magic + file.read(), path.name, chunk_size)
    except FileNotFoundError:
        raise FileGone(f"there is no importance matrix {path}") from None
    except IsADirectoryError:
        raise DamagedFile(f"{path} is a folder, not an importance matrix") from None
    header = read_header(path)
    if header.kind != "imatrix" and not any(name.endswith(_SUMS) for name in header.tensors):
        raise DamagedFile(f"{path.name} is no importance matrix but a {header.kind}", MAKE_AGAIN)
    return _from_header(header, path)


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write a GGUF that llama-quantize and llama-imatrix read: byte for byte what llama-imatrix
    writes, but for `facts`.

    The file appears under its name when it is complete and on the disk. Raises DiskFull, and
    LocalLLMError where `path` cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        _check_file(path)
        with temporary.open("wb") as file:
            file.write(_head(imatrix))
            for entry in _ordered(imatrix).values():
                for data in (entry.squares.astype("<f4"), entry.counts.astype("<f4")):
                    raw = data.tobytes()
                    file.write(raw + bytes(-len(raw) % _ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from None
    finally:
        _remove(temporary)


def check_writable(path: Path) -> None:
    """Raise now what `write_imatrix` would raise at the end of the work."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        _check_file(path)
        temporary.touch()
    except OSError as error:
        raise _unwritten(path, error) from None
    finally:
        _remove(temporary)


def _check_file(path: Path) -> None:
    """A file is replaced; a device or a pipe would be lost by that."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a device or a pipe")


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # where it could not even be made
        temporary.unlink()


def _unwritten(path: Path, error: OSError) -> LocalLLMError:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return DiskFull(f"no space left for {path}", "localllm prune, or free disk space")
    return LocalLLMError(f"{path} cannot be written: {error.strerror}", "another --out")


def merged(parts: Mapping[str, Imatrix]) -> Imatrix:
    """The sums and counts of several matrices of one model, by the name each has in messages.

    Raises UsageProblem where their shapes, tensors or models differ.
    """
    (first, start), *rest = parts.items()
    entries = dict(start.entries)
    for name, part in rest:
        _same_model(first, start, name, part)
        for key, entry in part.entries.items():
            entries[key] = _sum(entries[key], entry)
    return Imatrix(
        entries,
        tuple(dataset for part in parts.values() for dataset in part.datasets),
        sum(part.chunk_count for part in parts.values()),
        max(part.chunk_size for part in parts.values()),
        _common_facts([part.facts for part in parts.values()]),
    )


def _same_model(first: str, a: Imatrix, second: str, b: Imatrix) -> None:
    models = a.facts.get("model_sha256"), b.facts.get("model_sha256")
    if None not in models and models[0] != models[1]:
        names = a.facts.get("model", "another"), b.facts.get("model", "another")
        raise UsageProblem(
            f"{first} is of the model {names[0]} and {second} of {names[1]}, not of the same file"
        )
    for key in sorted({*a.entries, *b.entries}):
        if key not in a.entries or key not in b.entries:
            without = first if key not in a.entries else second
            raise UsageProblem(
                f"{first} and {second} are of different models: {without} has no {key}"
            )
        sizes = a.entries[key].squares.size, b.entries[key].squares.size
        if sizes[0] != sizes[1]:
            raise UsageProblem(
                f"{first} and {second} are of different models: {key} has {sizes[0]} values in "
                f"one and {sizes[1]} in the other"
            )


def _sum(a: Entry, b: Entry) -> Entry:
    """One count for all experts (an old file) counts for each of them."""
    import numpy as np

    n_counts = max(a.counts.size, b.counts.size)
    counts = [np.broadcast_to(e.counts, n_counts) for e in (a, b)]
    return Entry(a.squares + b.squares, counts[0] + counts[1])


def _common_facts(facts: list[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say, and the digests of all texts."""
    common = {k: v for k, v in facts[0].items() if all(f.get(k) == v for f in facts[1:])}
    texts = [f["text_sha256"] for f in facts if "text_sha256" in f]
    if texts:
        common["text_sha256"] = " ".join(texts)
    tokens = [f["tokens"] for f in facts if f.get("tokens", "").isdigit()]
    if len(tokens) == len(facts):
        common["tokens"] = str(sum(map(int, tokens)))
    return common


# --- reading ------------------------------------------------------------------------------


def _from_header(header: GGUFHeader, path: Path) -> Imatrix:
    import numpy as np

    data = np.memmap(path, np.uint8, "r", offset=header.data_offset) if header.tensors else None

    def numbers(name: str) -> Any:
        info = header.tensors.get(name)
        if info is None or info.type.name != "F32":
            raise DamagedFile(f"{path.name}: its {name} is missing, or no F32", MAKE_AGAIN)
        assert data is not None
        raw = data[info.offset : info.offset + info.size_bytes]
        return np.array(raw.view(">f4" if header.big_endian else "<f4"), np.float32)

    entries = {}
    names = [n.removesuffix(_SUMS) for n in header.tensors if n.endswith(_SUMS)]
    for name in names:
        squares, counts = numbers(name + _SUMS), numbers(name + _COUNTS)
        if not counts.size or squares.size % counts.size:
            raise DamagedFile(f"{path.name}: sums and counts of {name} do not fit", MAKE_AGAIN)
        if not (np.isfinite(squares).all() and np.isfinite(counts).all() and (counts >= 0).all()):
            raise DamagedFile(f"{path.name}: {name} holds numbers that are none", MAKE_AGAIN)
        entries[name] = Entry(squares, np.rint(counts).astype(np.int64))
    if not entries:
        raise DamagedFile(f"{path.name} holds no importance of any tensor", MAKE_AGAIN)
    datasets = header.metadata.get("imatrix.datasets", ())
    texts = [d for d in datasets if isinstance(d, str)] if isinstance(datasets, tuple) else []
    own = [key for key in header.metadata if key.startswith(_OWN)]
    return Imatrix(
        entries,
        tuple(texts),
        header.u32("imatrix.chunk_count", 0),
        header.u32("imatrix.chunk_size", 0),
        {key.removeprefix(_OWN): str(header.metadata[key]) for key in own},
    )


# --- writing ------------------------------------------------------------------------------


def _ordered(imatrix: Imatrix) -> dict[str, Entry]:
    """By name in the order of their bytes, as llama-imatrix sorts them."""
    return dict(sorted(imatrix.entries.items(), key=lambda item: item[0].encode()))


def _head(imatrix: Imatrix) -> bytes:
    pairs = [
        _pair("general.type", ValueType.STRING, _text("imatrix")),
        _pair("imatrix.datasets", ValueType.ARRAY, _texts(imatrix.datasets)),
        _pair("imatrix.chunk_count", ValueType.U32, struct.pack("<I", imatrix.chunk_count)),
        _pair("imatrix.chunk_size", ValueType.U32, struct.pack("<I", imatrix.chunk_size)),
    ]
    pairs += [_pair(_OWN + k, ValueType.STRING, _text(v)) for k, v in imatrix.facts.items()]
    infos, offset = bytearray(), 0
    for name, entry in _ordered(imatrix).items():
        n_counts = entry.counts.size
        rows = entry.squares.size // n_counts
        for suffix, shape in ((_SUMS, (rows, n_counts)), (_COUNTS, (1, n_counts))):
            infos += _tensor(name + suffix, shape, offset)
            size = 4 * shape[0] * shape[1]
            offset += size + -size % _ALIGNMENT
    start = b"GGUF" + struct.pack("<IQQ", 3, 2 * len(imatrix.entries), len(pairs))
    head = start + b"".join(pairs) + infos
    return head + bytes(-len(head) % _ALIGNMENT)


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _texts(values: tuple[str, ...]) -> bytes:
    return struct.pack("<IQ", ValueType.STRING, len(values)) + b"".join(map(_text, values))


def _pair(key: str, kind: ValueType, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _tensor(name: str, shape: tuple[int, int], offset: int) -> bytes:
    if len(name.encode()) > 63:
        raise UsageProblem(f"{name} is longer than the 63 bytes of a tensor's name in GGUF")
    used = shape if shape[1] > 1 else shape[:1]  # ggml writes no dimensions of 1 at the end
    dims = struct.pack(f"<I{len(used)}Q", len(used), *used)
    return _text(name) + dims + struct.pack("<IQ", 0, offset)
