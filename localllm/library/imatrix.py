"""A model's importance matrix: found where it was made before, or made.

find_imatrix(model, registry)                      # a path, or None
make_imatrix(model, registry, progress, note)      # with the text that ships with the program

Any room that quantizes may call these; `localllm imatrix` is one client.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import texts
from localllm.errors import FileGone, LocalLLMError
from localllm.library.derive import require_plain, with_digest
from localllm.library.imatrix_job import (
    CalibrationText,
    ImatrixOptions,
    Job,
    MadeImatrix,
    QuietExperts,
    matrix_name,
    quiet_experts,
)
from localllm.library.imatrix_run import run
from localllm.library.textfile import read_utf8
from localllm.registry import Model, Registry
from localllm.registry.matrices import keep_matrix, matrices, matrix_path
from localllm.ui import Progress
from localllm.ui.progress import Silent

if TYPE_CHECKING:
    from localllm.formats.imatrix import Imatrix

__all__ = [
    "CalibrationText",
    "ImatrixOptions",
    "MadeImatrix",
    "QuietExperts",
    "builtin_text",
    "find_imatrix",
    "make_imatrix",
    "quiet_experts",
    "read_texts",
]


def find_imatrix(model: Model, registry: Registry) -> Path | None:
    """The newest whole matrix kept for this model, by its name and the digest of its weights.

    A file that is not registered is hashed for it, if there is any matrix under its name.
    """
    from localllm.formats.imatrix import read_imatrix

    kept = matrices(registry, matrix_name(model))
    digest = with_digest(model, Silent()).digest if kept else None
    for path in kept:
        try:
            facts = read_imatrix(path).facts
        except LocalLLMError:
            continue  # damaged, or no longer there
        if facts.get("model_sha256") == digest:
            return path
    return None


def expected_matrix(model: Model) -> tuple[Path, CalibrationText]:
    """The file name, of the right length at least, and the text of the matrix that `make_imatrix`
    would make now: for planning. The model is not hashed for it."""
    text = builtin_text()
    known = model.weights[0].sha256 if model.weights else None
    job = Job(model, known or "0" * 64, text, ImatrixOptions())
    return Path(f"{job.mark}.gguf"), text


def builtin_text() -> CalibrationText:
    """The multilingual text that ships with the program."""
    text = texts.calibration()
    return CalibrationText((text.name,), text.content, text.sha256)


def read_texts(paths: Sequence[Path]) -> CalibrationText:
    """The texts of these files, one after another. Raises FileGone, and UsageProblem for what is
    no UTF-8 text."""
    contents = [read_utf8(path) for path in paths]
    digests = [hashlib.sha256(content.encode()).hexdigest() for content in contents]
    names = tuple(path.name for path in paths)
    whole = "\n".join(content.removeprefix("\ufeff") for content in contents)
    return CalibrationText(names, whole, " ".join(digests))


def make_imatrix(
    model: Model,
    registry: Registry,
    progress: Progress,
    note: Callable[[str], None],
    text: CalibrationText | None = None,
    options: ImatrixOptions | None = None,
    *,
    out: Path | None = None,
    resume: bool = True,
) -> MadeImatrix:
    """Run `text` (default: the built-in one) through `model` and sum what goes into its weights.

    The result goes to `out`, or is kept in the registry for the model, where a matrix made the
    same way before is reused. Every few chunks the sums are saved: interrupted or killed, the
    same call goes on from there and ends with the same numbers; without `resume` it begins
    anew. Raises UsageProblem (text too short, a checkpoint of another model), DamagedFile,
    DiskFull, HomeUnwritable, EngineError, Interrupted, and what opening a model raises.
    """
    require_plain(model, "its importance matrix")
    text, options = text or builtin_text(), options or ImatrixOptions()
    begun = time.perf_counter()
    job = Job(model, with_digest(model, progress).digest, text, options)
    if out is not None:
        if not out.parent.is_dir():
            raise FileGone(f"there is no folder {out.parent}")
        return run(job, out, out.with_name(f"{out.name}.part"), progress, note, resume, begun)
    final = matrix_path(registry, job.name, job.mark)
    with registry.lock(job.key, lambda: note("another process is making this; waiting for it")):
        if resume and (kept := _kept(job, final)) is not None:
            return job.report(kept, final, kept.chunk_count, True, begun)
        partial = registry.partial(job.key, f"{job.name.replace('/', '-')}.imatrix")
        made = run(job, partial, partial, progress, note, resume, begun)
        return replace(made, path=keep_matrix(registry, partial, job.name, job.mark))


def _kept(job: Job, path: Path) -> Imatrix | None:
    """The matrix at `path` if it is there, whole, and this job's."""
    from localllm.formats.imatrix import read_imatrix

    try:
        found = read_imatrix(path)
    except LocalLLMError:
        return None
    return found if all(found.facts.get(k) == v for k, v in job.facts().items()) else None
