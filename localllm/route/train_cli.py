"""route train, route calibrate."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from localllm.errors import UsageProblem
from localllm.library.arguments import complete_model
from localllm.registry import Registry
from localllm.registry.routers import Routers
from localllm.route.calibrating import Calibrated, calibrate_cascade, calibrate_router, share_of
from localllm.route.cascades.rows import read_signals
from localllm.route.cascades.teaching import TaughtCascade, teach_cascade
from localllm.route.cli import Name
from localllm.route.contrast import Contrast
from localllm.route.expecting import Target
from localllm.route.measuring.intervals import Figure
from localllm.route.naming import parse_named
from localllm.route.opening import open_router_named, read_version
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.steps import SIGNALS, CascadeStep
from localllm.route.teaching import EMBEDDED, KINDS, LLM, Columns, Taught, read_material, teach
from localllm.route.training import DEFAULT
from localllm.ui import Count, Fields, Heading, Note, Percent, Sink, Table, View
from localllm.ui.view import AnyCell, Part

_FAR = 0.05  # from the share that was asked for, from which on it is told

Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="JSON lines of prompts and how models did, RouteLLM's .csv, AlpacaEval's "
        "annotations.json; repeat it.",
    ),
]
WeakColumn = Annotated[
    str | None, typer.Option("--weak", metavar="MODEL", help="What the data call the weak member.")
]
StrongColumn = Annotated[
    str | None,
    typer.Option("--strong", metavar="MODEL", help="What the data call the strong member."),
]


def train_command(
    name: Name,
    data: Data = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            "--predictor", metavar="|".join(KINDS), help=f"What learns; {DEFAULT} if not said."
        ),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder", metavar="MODEL", help="Of --predictor embedded: a GGUF that embeds."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL[+ADAPTER]",
            autocompletion=complete_model,
            help="Of --predictor llm: a small language model that is asked.",
        ),
    ] = None,
    weak: WeakColumn = None,
    strong: StrongColumn = None,
    *,
    sink: Sink,
) -> None:
    """Teach a router which prompts need the strong member."""
    registry = Registry.open()
    version = Routers(registry).find(parse_named(name).name).current
    spec = read_version(version)
    if isinstance(spec.last, CascadeStep):
        if predictor is not None or embedder is not None or model is not None:
            raise UsageProblem("a cascade reads answers, not prompts: it has no predictor")
        fitted = teach_cascade(registry, version, spec, data or (), Columns(weak, strong))
        sink.show(fitted, _cascade_view)
        return
    material = read_material(data or (), spec, Columns(weak, strong))
    kind = predictor or DEFAULT
    if (embedder and kind != EMBEDDED) or (model and kind != LLM):
        given = "--embedder" if embedder and kind != EMBEDDED else "--model"
        raise UsageProblem(f"{given} is not for --predictor {kind}")
    # whoever asks a model about every prompt says how far it is
    steps = nullcontext() if kind == LLM else sink.progress.steps(f"train {version.router}", None)
    with steps:
        taught = teach(
            registry, version, spec, material, kind=kind, helper=embedder or model,
            progress=sink.progress, files=[path.name for path in data or ()],
        )  # fmt: skip
    _warn(taught, sink)
    sink.show(taught, _taught_view)


def calibrate_command(
    name: Name,
    strong_share: Annotated[
        str | None,
        typer.Option("--strong-share", metavar="30%", help="So many prompts to the strong one."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option("--quality", metavar="95%", help="So much of the gap is to be recovered."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="COST", help="What a prompt may cost.")
    ] = None,
    data: Data = None,
    weak: WeakColumn = None,
    strong: StrongColumn = None,
    *,
    sink: Sink,
) -> None:
    """Set the threshold for a share, a quality or a budget, and say what it will bring."""
    target = Target(
        None if strong_share is None else share_of(strong_share, "--strong-share"),
        None if quality is None else share_of(quality, "--quality"),
        budget,
    )
    registry = Registry.open()
    opened = open_router_named(registry, parse_named(name).name, members=False)
    step = opened.spec.last
    if isinstance(step, CascadeStep):
        rows = read_signals(data, step, weak, strong) if data else None
        done = calibrate_cascade(registry, opened.version, opened.spec, target, rows, opened.priced)
        _warn_of_share(done, target, sink)
        sink.show(done, _calibrated_view)
        return
    if opened.router is None:
        raise UsageProblem(
            f"router {opened.name} was not trained",
            f"localllm route train {opened.name} --data FILE",
        )
    contrast = contrast_of(data, opened.spec, Columns(weak, strong))
    done = calibrate_router(
        registry, opened.version, opened.spec, opened.router, target, contrast, opened.priced
    )
    _warn_of_share(done, target, sink)
    sink.show(done, _calibrated_view)


def contrast_of(data: list[Path] | None, spec: RouterSpec, columns: Columns) -> Contrast | None:
    """None without files."""
    return read_material(data, spec, columns).contrast if data else None


def _warn_of_share(done: Calibrated, target: Target, sink: Sink) -> None:
    found = done.expected.strong_share.value
    if target.strong_share is not None and abs(found - target.strong_share) > _FAR:
        sink.warn(
            f"no threshold sends {target.strong_share:.0%} to the strong member: too many prompts "
            f"have the same probability; the nearest share is {found:.0%}"
        )


def _warn(taught: Taught, sink: Sink) -> None:
    if taught.n_contradicting:
        sink.warn(
            f"{taught.n_contradicting} prompts have labels that contradict each other: they count "
            "as uncertain"
        )
    if taught.quality_strong <= taught.quality_weak:
        sink.warn(
            f"{taught.strong} is no better than {taught.weak} on these prompts: are they the right "
            "way round?"
        )


def _taught_view(taught: Taught) -> View:
    view: list[Part] = [
        Fields(
            [
                ("router", taught.router),
                ("version", taught.version),
                ("predictor", taught.predictor),
                ("prompts", Count(taught.n_prompts)),
                (f"quality of {taught.weak}", Percent(taught.quality_weak)),
                (f"quality of {taught.strong}", Percent(taught.quality_strong)),
                ("APGR", taught.apgr),
                ("calibration error", Percent(taught.calibration_error)),
                ("threshold", taught.threshold),
                ("strong share", Percent(taught.strong_share)),
            ]
        ),
        Note("figures are cross-validated; set the threshold with localllm route calibrate"),
    ]
    return view


def _cascade_view(taught: TaughtCascade) -> View:
    r = taught.reliability
    weights = {"intercept": taught.combiner.intercept, **{
        name: getattr(taught.combiner, name) for name in SIGNALS
        if getattr(taught.combiner, name)}}  # fmt: skip
    bins = [(n, Percent(p), Percent(o))
            for n, p, o in zip(r.n, r.predicted, r.observed, strict=True)]  # fmt: skip
    view: list[Part] = [
        Fields(
            [
                ("router", taught.router),
                ("version", taught.version),
                ("judged answers", Count(taught.n_prompts)),
                ("left out", taught.n_left_out or None),
                (f"quality of {taught.weak}", Percent(taught.quality_weak)),
                (f"quality of {taught.strong}", Percent(taught.quality_strong)),
                ("AUC, good from bad", taught.auc),
                ("AUC of the hand-set weights", taught.auc_by_hand),
                ("calibration error", Percent(r.error)),
                ("of the hand-set weights", Percent(taught.error_by_hand)),
                ("APGR", taught.apgr),
                ("threshold", taught.threshold),
                ("strong share", Percent(taught.strong_share)),
            ]
        ),
        Heading("Weights"),
        Table(("signal", "weight"), list(weights.items())),
        Heading(f"P({taught.weak}'s answer is good): predicted, and what was so"),
        Table(("answers", "predicted", "good"), bins),
        Note("figures are cross-validated; set the threshold with localllm route calibrate"),
    ]
    return view


def _calibrated_view(done: Calibrated) -> View:
    e = done.expected
    unit = {"money": "", "seconds": " s", "joules": " J"}[done.cost_unit]
    rows: list[tuple[str, AnyCell]] = [
        ("router", done.router),
        ("version", done.version),
        ("threshold", e.threshold),
        ("strong share", percent(e.strong_share)),
        ("quality", f"{percent(e.quality)}; weak alone {e.quality_weak:.1%}, strong alone "
                    f"{e.quality_strong:.1%}"),
        ("of the gap", None if e.recovered is None else percent(e.recovered)),
        ("cost a prompt", None if e.cost is None else cost_text(e.cost, unit)),
        ("weak, strong alone", None if e.cost_weak is None or e.cost_strong is None
         else f"{e.cost_weak:.4g}{unit}, {e.cost_strong:.4g}{unit}"),
    ]  # fmt: skip
    said = f"expected, on {e.n_prompts} prompts, {done.on}"
    if done.n_left_out:
        said += f" ({done.n_left_out} that trained it are left out)"
    return [Fields(rows), Note(said)]


def percent(figure: Figure) -> str:
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"


def cost_text(figure: Figure, unit: str) -> str:
    return f"{figure.value:.4g}{unit} ({figure.low:.4g} to {figure.high:.4g})"
