"""The loss on text that was not trained on: of the base, with adapters attached, and merged.

Computed by the engine that serves the model, on the same contexts each time; the differences are
paired context by context, which takes most of the text's own noise out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import DoesNotFit, GateFailed, UsageProblem
from localllm.library.merging.result import AdapterRequest, Losses, LossRequest
from localllm.library.quality.measure import batched
from localllm.library.quality.text import JudgedBy, read_texts
from localllm.placement import PlanOptions, open_model
from localllm.ui import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from localllm.engine.quality.chunks import Chunk
    from localllm.placement import Opened
    from localllm.ui.progress import Meter

_N_CTX = 512
_LEAST_CTX = 16
_LEAST_CHUNKS = 4
_BEYOND_NOISE = 2.0  # standard errors
# The merged file must keep at least this share of what the adapters gain on a text that they
# were trained for.
_KEPT_LOSS = 0.5


def judged(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    merged: Path,
    request: AdapterRequest,
    progress: Progress,
    note: Callable[[str], None],
) -> Losses | None:
    """What `held_out` finds, None where that was not asked for, or is for information and does not
    fit. Raises GateFailed where the gain on given texts is lost, DoesNotFit where that cannot be
    told."""
    if request.loss is None:
        return None
    gate = bool(request.loss.texts) and not request.allow_loss
    try:
        found = held_out(base, adapters, merged, request.loss, progress)
    except DoesNotFit as error:
        what = f"the held-out loss is not measured: {error.message}"
        if gate:
            raise DoesNotFit(what, "--allow-loss merges all the same") from None
        note(what)
        return None
    if gate and found.kept is not None and found.kept < _KEPT_LOSS:
        raise GateFailed(
            f"merged, {found.kept * 100:.3g} % of what the adapter gains on {found.text} is "
            f"left (loss {found.base:.4f} -> {found.with_adapters:.4f}, merged "
            f"{found.merged:.4f})",
            "a wider --type, or --allow-loss",
        )
    return found


def held_out(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    merged: Path,
    request: LossRequest,
    progress: Progress,
) -> Losses:
    """The three losses. `adapters` empty: llama.cpp cannot run them on this base (an embedding
    that is its output too), and the middle one is left out.

    Raises DoesNotFit, EngineError, DamagedFile (NaN), UsageProblem (a text too short).
    """
    text = read_texts(request.texts)
    with _open(base, request) as opened:
        chunks = _chunks(opened, text, request.n_chunks)
        runs = 2 if adapters else 1
        with progress.steps("held-out loss", runs * len(chunks)) as advance:
            own = _losses(opened, chunks, advance)
            tuned = _attached(opened, adapters, chunks, advance) if adapters else None
    with _open(merged, request) as opened, progress.steps("of the result", len(chunks)) as advance:
        after = _losses(opened, chunks, advance)
    why = None if adapters else "llama.cpp cannot run this adapter beside the base"
    return compared(text, chunks, own, tuned, after, why)


def compared(
    text: JudgedBy,
    chunks: Sequence[Chunk],
    base: NDArray[np.float64],
    tuned: NDArray[np.float64] | None,
    merged: NDArray[np.float64],
    why: str | None,
) -> Losses:
    """Mean losses a token from those a context, and the share of the gain that was kept."""
    import numpy as np

    gain_error = kept = None
    if tuned is not None:
        gain = base - tuned
        if len(gain) > 1:
            gain_error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
        if gain_error is not None and gain.mean() > _BEYOND_NOISE * gain_error:
            kept = float((base - merged).mean() / gain.mean())
    return Losses(
        text=text.name,
        text_sha256=text.sha256,
        n_tokens=sum(chunk.n_scored for chunk in chunks),
        n_chunks=len(chunks),
        base=float(base.mean()),
        with_adapters=None if tuned is None else float(tuned.mean()),
        merged=float(merged.mean()),
        gain_error=gain_error,
        kept=kept,
        why=why,
    )


def _open(path: Path, request: LossRequest) -> Opened:
    from localllm.engine.options import ContextOptions

    options = batched(PlanOptions(n_ctx=_N_CTX))
    context = ContextOptions(n_threads=request.n_threads or 0)
    return open_model(path, options, context=context)


def _chunks(opened: Opened, text: JudgedBy, n_chunks: int) -> tuple[Chunk, ...]:
    """The first contexts of the text."""
    from localllm.engine.quality.chunks import chunks_of

    tokenizer = opened.model.tokenizer
    tokens = tokenizer.encode(text.content)
    bos = tokenizer.bos if tokenizer.adds_bos else None
    if len(tokens) < 2 * _LEAST_CTX:
        raise UsageProblem(
            f"{text.name} has {len(tokens)} tokens; the loss needs {2 * _LEAST_CTX} at least",
            "--text FILE with a longer text",
        )
    n_ctx = _N_CTX
    # a short text is cut into more and shorter contexts, so that there are some to pair
    while n_ctx > _LEAST_CTX and len(tokens) // n_ctx < _LEAST_CHUNKS:
        n_ctx //= 2
    return chunks_of(tokens, n_ctx, bos, limit=n_chunks)


def _losses(opened: Opened, chunks: Sequence[Chunk], advance: Meter) -> NDArray[np.float64]:
    """The mean loss a token of each context."""
    import numpy as np

    from localllm.engine.quality.quality import Judge

    found = []
    with Judge(opened.context) as judge:
        for chunk in chunks:
            (scored,) = judge.scores([chunk])
            found.append(float(scored.nll.mean()))
            advance(1)
    return np.array(found)


def _attached(
    opened: Opened,
    adapters: Sequence[tuple[Path, float]],
    chunks: Sequence[Chunk],
    advance: Meter,
) -> NDArray[np.float64]:
    from localllm.engine.adapter import attach_files

    attach_files(opened.context, adapters)
    return _losses(opened, chunks, advance)
