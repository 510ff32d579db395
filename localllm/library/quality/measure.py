"""Judge models by a text: perplexity, and what they lost against the model they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import __version__
from localllm.errors import (
    DiskFull,
    HomeUnwritable,
    Interrupted,
    LocalLLMError,
    RegistryBroken,
    UsageProblem,
)
from localllm.library import header_of
from localllm.library.derive import with_digest
from localllm.library.quality.judging import HowToRun, Judged, Judging
from localllm.library.quality.record import (
    Conditions,
    Failed,
    Identity,
    Quality,
    QualityReport,
    Settings,
    earlier,
    keep,
)
from localllm.library.quality.text import JudgedBy
from localllm.placement import Advice, PlanOptions
from localllm.registry import Model, Registry
from localllm.ui import Progress


@dataclass(frozen=True)
class Outcome:
    """`error`: the first failure among several models, or the interrupt; the report has the
    figures all the same. `advice` is how the models ran. `unkept`: why the registry did not take
    the figures, which are no less true for it."""

    report: QualityReport
    error: LocalLLMError | None
    advice: tuple[Advice, ...]
    unkept: str | None = None


def quality(
    models: Sequence[Model],
    base: Model | None,
    text: JudgedBy,
    registry: Registry,
    progress: Progress,
    *,
    plan: PlanOptions,
    chunks: int | None = None,
    threads: int | None = None,
    require_gpu: bool = False,
    force: bool = False,
    again: bool = False,
    base_cache: Path | None = None,
) -> Outcome:
    """Judge `models` by `text`, in contexts of `plan.n_ctx` tokens, the first `chunks` of them.

    With `base` each is compared with it, and it is computed once for all of them. A measurement
    that the registry has is taken from there unless `again`; new ones of registered models are
    kept. `base_cache` is a file that holds the base's figures between commands: it is made, or
    taken in place of the base's pass. Ctrl-C gives the figures of the chunks so far.
    Raises UsageProblem (different vocabularies, a text that is too short), DamagedFile (NaN),
    and what loading raises; of several models, one that fails leaves the others to go on.
    """
    plan = batched(plan)
    wanted = conditions(base, text, plan, chunks, progress)
    known = {model.name: None if again else earlier(registry, model, wanted) for model in models}
    if len(known) < len(models):
        raise UsageProblem("a model is named twice")
    judging = Judging(
        [model for model in models if known[model.name] is None], base, wanted.base, text,
        wanted.settings,
        HowToRun(plan, threads, require_gpu, force), base_cache, registry, progress,
    )  # fmt: skip
    if judging.models:
        judging.run()
    rows = {found.model.name: _row(found, judging) for found in judging.judged}
    unkept = None
    for found in judging.judged:
        row = rows[found.model.name]
        if not row.complete or found.model.id is None:
            continue
        try:
            rows[row.model] = replace(row, measurement=keep(registry, found.model, row))
        except (HomeUnwritable, DiskFull, RegistryBroken) as error:
            unkept = error.message
    ordered = [known[model.name] or rows.get(model.name) for model in models]
    report = QualityReport(
        tuple(row for row in ordered if row is not None),
        tuple(Failed(model.name, error.kind, error.message) for model, error in judging.failed),
        wanted.base, wanted.text, wanted.settings, judging.n_tokens,
    )  # fmt: skip
    return Outcome(report, _error(judging), tuple(judging.advice), unkept)


def batched(plan: PlanOptions) -> PlanOptions:
    """`plan` (its context is that of one chunk, 512 by default) with as many chunks at once as
    one physical batch takes."""
    from localllm.engine.quality.chunks import batch_size

    n_ctx = plan.n_ctx or 512
    size = batch_size(n_ctx)
    return replace(
        plan, n_ctx=n_ctx, n_parallel=size.n_parallel, n_batch=size.n_batch, n_ubatch=size.n_ubatch
    )


def conditions(
    base: Model | None, text: JudgedBy, plan: PlanOptions, chunks: int | None, progress: Progress
) -> Conditions:
    """What the figures of a measurement depend on. Hashes a base that nobody hashed yet."""
    from localllm.engine.build import build_info

    settings = Settings(
        plan.n_ctx or 512, chunks, plan.type_k, plan.type_v, plan.flash_attn, plan.n_gpu_layers
    )
    identity = None
    if base is not None:
        base = with_digest(base, progress)
        identity = Identity(base.name, base.digest)
    return Conditions(identity, Identity(text.name, text.sha256), settings, build_info().commit)


def _row(found: Judged, judging: Judging) -> Quality:
    from localllm.engine.build import build_info

    build, figures, model = build_info(), found.figures, found.model
    against = figures.divergence
    return Quality(
        perplexity=figures.perplexity.value,
        mean_kld=None if against is None else against.mean_kld.value,
        same_top=None if against is None else against.same_top.value,
        model=model.name,
        sha256=model.digest,
        size_bytes=model.size_bytes,
        bits_per_weight=header_of(model).bits_per_weight,
        base=judging.base_identity,
        text=Identity(judging.text.name, judging.text.sha256),
        settings=judging.settings,
        n_chunks=found.n_chunks,
        complete=figures.n_chunks == found.n_chunks,
        figures=figures,
        seconds=found.seconds,
        build_commit=build.commit,
        backends=build.backends,
        localllm_version=__version__,
    )


def _error(judging: Judging) -> LocalLLMError | None:
    if judging.interrupted is not None:
        return Interrupted(f"interrupted {judging.interrupted}")
    if judging.failed:
        model, error = judging.failed[0]
        return type(error)(f"{model.name}: {error.message}", error.hint)
    return None
