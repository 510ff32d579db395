"""route train, route calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.errors import UsageProblem
from localllm.registry import Registry
from localllm.registry.routers import Routers
from localllm.route.calibrating import Calibrated, Target, calibrate_router, share_of
from localllm.route.cli import Name
from localllm.route.contrast import Contrast
from localllm.route.measuring.intervals import Figure
from localllm.route.naming import parse_named
from localllm.route.opening import open_router_named, read_version
from localllm.route.pool.spec import RouterSpec
from localllm.route.teaching import KINDS, Columns, Taught, read_material, teach
from localllm.route.training import DEFAULT
from localllm.ui import Count, Fields, Note, Percent, Sink, View
from localllm.ui.view import AnyCell, Part

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
        str, typer.Option("--predictor", metavar="|".join(KINDS), help="What learns.")
    ] = DEFAULT,
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder", metavar="MODEL", help="Of --predictor embedded: a GGUF that embeds."
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
    material = read_material(data or (), spec, Columns(weak, strong))
    with sink.progress.steps(f"train {version.router}", None):
        taught = teach(
            registry, version, spec, material, kind=predictor, embedder=embedder,
            files=[path.name for path in data or ()],
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
    if opened.router is None:
        raise UsageProblem(
            f"router {opened.name} was not trained",
            f"localllm route train {opened.name} --data FILE",
        )
    contrast = contrast_of(data, opened.spec, Columns(weak, strong))
    done = calibrate_router(
        registry, opened.version, opened.spec, opened.router, target, contrast, opened.priced
    )
    sink.show(done, _calibrated_view)


def contrast_of(data: list[Path] | None, spec: RouterSpec, columns: Columns) -> Contrast | None:
    """None without files."""
    return read_material(data, spec, columns).contrast if data else None


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
