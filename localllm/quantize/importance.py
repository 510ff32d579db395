"""An importance matrix as quantization takes it: read, thinned out, and checked on the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import UsageProblem
from localllm.library.growing import digest_of

if TYPE_CHECKING:
    from localllm.engine.quantize.quantize import ImportanceFile, TensorPlan
    from localllm.quantize.source import Source

Vectors = Mapping[str, Any]  # tensor name -> float32 array of rows times experts


@dataclass(frozen=True, eq=False)
class Importance:
    """Mean squared activations per tensor. `quiet` are experts that no token reached, by
    tensor: their importance is taken as even."""

    path: Path
    sha256: str
    vectors: Vectors
    datasets: tuple[str, ...]
    n_chunks: int
    quiet: Mapping[str, int]
    inputs: Mapping[str, str] = field(default_factory=dict)  # digests of what it was made from
    chosen: tuple[str, ...] = ()  # the options that thinned it out, as on the command line
    pending: bool = False  # it is not made yet: good for planning alone

    def metadata(self) -> dict[str, int | float | bool | str]:
        """What llama-quantize writes of a matrix; of its path the name alone."""
        found: dict[str, int | float | bool | str] = {"quantize.imatrix.file": _cut(self.path.name)}
        if self.datasets:
            found["quantize.imatrix.dataset"] = _cut(Path(self.datasets[0]).name)
        found["quantize.imatrix.entries_count"] = len(self.vectors)
        if self.n_chunks > 0:
            found["quantize.imatrix.chunks_count"] = self.n_chunks
        return found


def load_importance(path: Path) -> Importance:
    """llama.cpp's GGUF imatrix or its older .dat, averaged as llama-quantize does it.

    Raises FileGone, DamagedFile.
    """
    from localllm.formats.imatrix import read_imatrix

    found = read_imatrix(path, chunk_size=1)
    quiet = {name: int((e.counts == 0).sum()) for name, e in found.entries.items()}
    text = found.facts.get("text_sha256")
    return Importance(
        path=path,
        sha256=digest_of(path, lambda n_bytes: None),
        vectors={name: e.mean(found.legacy) for name, e in found.entries.items()},
        datasets=found.datasets,
        n_chunks=found.chunk_count,
        quiet={name: n for name, n in quiet.items() if n},
        inputs={} if text is None else {"calibration_text": text},
    )


def pending_importance(source: Source, chosen: tuple[str, ...] = ()) -> Importance:
    """What stands, in a dry run, for the matrix that `--imatrix auto` would make now: types and
    sizes come out as with it, since only that there is one decides them."""
    from localllm.library.imatrix import expected_matrix

    path, text = expected_matrix(source.runnable)
    return Importance(
        path=path, sha256="0" * 64, vectors={}, datasets=text.names, n_chunks=1, quiet={},
        inputs={"calibration_text": text.sha256}, chosen=chosen, pending=True,
    )  # fmt: skip


def thinned(
    importance: Importance, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Importance:
    """Only entries whose name holds one of `include`, or none of `exclude`."""
    if include and exclude:
        raise UsageProblem("--include-weights and --exclude-weights cannot be used together")
    kept = {
        name: vector
        for name, vector in importance.vectors.items()
        if (not include or any(part in name for part in include))
        and not any(part in name for part in exclude)
    }
    if not kept:
        raise UsageProblem("--include-weights or --exclude-weights leaves no entry")
    return replace(importance, vectors=kept, chosen=chosen_words(include, exclude))


def chosen_words(include: Sequence[str] = (), exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """The options that say so, as on the command line."""
    words = [w for part in include for w in ("--include-weights", part)]
    words += [w for part in exclude for w in ("--exclude-weights", part)]
    return tuple(words)


def check_importance(importance: Importance, source: Source) -> None:
    """Raise UsageProblem where the matrix is of another model: a name that this one does not
    have, or a vector of another length."""
    tensors = source.gguf.tensors
    name = importance.path.name
    unknown = [entry for entry in importance.vectors if entry not in tensors]
    if unknown:
        raise UsageProblem(
            f"{name} is of another model: {source.model.name} has no {unknown[0]}"
            + (f" (nor {len(unknown) - 1} more of its tensors)" if unknown[1:] else ""),
            f"localllm imatrix {source.model.name}",
        )
    for entry, vector in importance.vectors.items():
        shape = (*tensors[entry].shape, 1, 1)
        if vector.size != shape[0] * shape[2] and entry not in _EMBEDDINGS:
            raise UsageProblem(
                f"{name} is of another model: it has {vector.size} values for {entry}, "
                f"{source.model.name} has rows of {shape[0] * shape[2]}",
                f"localllm imatrix {source.model.name}",
            )


_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")  # llama.cpp ignores these


def unweighted(
    importance: Importance, tensors: Sequence[TensorPlan], pruned: Sequence[int]
) -> tuple[str, ...]:
    """Tensors that lose precision and of which the matrix says nothing; the embedding and the
    output apart, which llama-imatrix leaves out."""
    from localllm.quantize.plan import is_quantized

    if importance.pending:
        return ()
    return tuple(
        t.name
        for t in tensors
        if t.from_type != t.to_type
        and is_quantized(t.to_type)
        and t.name not in (*_EMBEDDINGS, "output.weight")
        and _original(t.name, pruned) not in importance.vectors
    )


def _original(name: str, pruned: Sequence[int]) -> str:
    """What a tensor was called before layers were left out."""
    match = re.match(r"blk\.(\d+)(\..+)", name)
    if match is None or not pruned:
        return name
    layer = int(match[1])
    for gone in sorted(pruned):
        if gone <= layer:
            layer += 1
    return f"blk.{layer}{match[2]}"


@contextmanager
def importance_file(importance: Importance | None) -> Iterator[ImportanceFile | None]:
    """The vectors as a file that the quantizing process maps, for as long as the block runs."""
    if importance is None:
        yield None
        return
    import tempfile

    from localllm.engine.quantize.quantize import ImportanceFile, ImportanceVector

    with tempfile.TemporaryDirectory(prefix="localllm-imatrix-") as folder:
        path, vectors, offset = Path(folder) / "vectors.f32", [], 0
        with path.open("wb") as file:
            for name, vector in importance.vectors.items():
                file.write(vector.astype("<f4").tobytes())
                vectors.append(ImportanceVector(name, offset, vector.size))
                offset += vector.size
        yield ImportanceFile(path, tuple(vectors))


def _cut(text: str) -> str:
    """At most the 127 bytes that llama.cpp takes for a value."""
    return text.encode()[:127].decode("utf-8", "ignore")
