"""route create, list, show, rm, export, import: routers as objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from localllm.errors import FileGone, LocalLLMError, UsageProblem
from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.routers import KeptRouter, Routers
from localllm.route.making import STRATEGIES, Wish, create, make_spec
from localllm.route.naming import parse_named
from localllm.route.opening import read_version
from localllm.route.pool.member import COST_UNITS
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.standing import standings
from localllm.route.pool.writing import as_data
from localllm.route.sharing import export_router, import_router
from localllm.route.showing import (
    ListedRouter,
    RemovedRouters,
    ShownMember,
    ShownRouter,
    ShownVersion,
    exported_view,
    imported_view,
    list_view,
    router_view,
)
from localllm.ui import Sink


def complete_router(incomplete: str) -> list[str]:
    """Names of routers that begin so. Never fails: the shell is waiting."""
    try:
        names = [one.name for one in Routers(Registry.open()).list()]
    except LocalLLMError:
        return []
    return [name for name in names if name.casefold().startswith(incomplete.casefold())]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A router's name.", autocompletion=complete_router)
]
Members = Annotated[
    list[str] | None,
    typer.Option(
        "--member",
        metavar="[NAME=]MODEL[+LORA[:SCALE]]",
        help="Who may answer, the cheapest first; also NAME=endpoint:ENDPOINT and NAME=human. "
        "Repeat it.",
    ),
]
_STRATEGIES = "|".join(STRATEGIES)


def create_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.")],
    member: Members = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE.toml", help="All of it from a description."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            metavar=_STRATEGIES,
            help="How it chooses; predictor, always with one member.",
        ),
    ] = None,
    weak: Annotated[str | None, typer.Option("--weak", help="The cheaper of the two.")] = None,
    strong: Annotated[str | None, typer.Option("--strong", help="The better of the two.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="Strong from this probability on."),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option("--cost", metavar="NAME=IN/OUT", help="Price of a million tokens; repeat it."),
    ] = None,
    cost_unit: Annotated[
        str | None,
        typer.Option("--cost-unit", metavar="|".join(COST_UNITS), help="What costs are in; money."),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option("--fallback", metavar="NAME,...", help="Who is asked when one fails."),
    ] = None,
    description: Annotated[str | None, typer.Option("--description", help="For yourself.")] = None,
    *,
    sink: Sink,
) -> None:
    """Make a router: who may answer, and how one of them is chosen."""
    registry = Registry.open()
    if source is not None:
        given = (strategy, weak, strong, threshold, cost_unit, fallback, description)
        if member or cost or any(one is not None for one in given):
            raise UsageProblem("--from says all of it: nothing else can be given with it")
        spec = _spec_from(source)
    else:
        cost_unit = cost_unit or "money"
        if cost_unit not in COST_UNITS:
            raise UsageProblem(f"--cost-unit {cost_unit!r} is none of {', '.join(COST_UNITS)}")
        order = None if fallback is None else tuple(n for n in fallback.split(",") if n)
        spec = make_spec(
            Wish(tuple(member or ()), strategy, weak, strong, threshold, tuple(cost or ()), order,
                 cost_unit, description or "")  # type: ignore[arg-type]
        )  # fmt: skip
    kept = create(registry, name, spec)
    sink.show(_shown(kept, registry), router_view)
    if spec.predictor is not None:
        sink.note(f"it must be trained: localllm route train {kept.name} --data FILE")


def list_command(*, sink: Sink) -> None:
    """List the routers."""
    registry = Registry.open()
    sink.show(tuple(_listed(one, registry) for one in Routers(registry).list()), list_view)


def show_command(
    name: Name,
    number: Annotated[
        int | None, typer.Option("--version", min=1, help="Another version than the one in use.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Show a router: members, steps, versions, figures."""
    registry = Registry.open()
    kept = Routers(registry).find(parse_named(name).name)
    sink.show(_shown(kept, registry, number), router_view)


def rm_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=complete_router)],
    *,
    sink: Sink,
) -> None:
    """Remove routers, with what they learned and decided."""
    registry = Registry.open()
    store, decisions = Routers(registry), Decisions(registry)
    found = [store.find(parse_named(name).name) for name in dict.fromkeys(names)]
    n_decisions = 0
    for kept in found:
        store.remove(kept.name)
        n_decisions += decisions.forget(kept.name)
    sink.note(f"removed: {', '.join(kept.name for kept in found)}")
    sink.show(RemovedRouters(tuple(kept.name for kept in found), n_decisions))


def export_command(
    name: Name,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .zip with all, or a .toml to read and edit.")
    ],
    with_prompts: Annotated[
        bool,
        typer.Option(
            "--with-prompts", help="The beginnings of the training prompts too, for explanations."
        ),
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Write a router to a file: data, never code."""
    registry = Registry.open()
    kept = Routers(registry).find(parse_named(name).name)
    done = export_router(registry, kept.current, path, with_prompts=with_prompts)
    if kept.current.learned is not None and path.suffix.lower() != ".toml":
        sink.note("it holds every word that stands in two training prompts, and digests of all")
        if done.by_prompt and not with_prompts:
            sink.warn(
                "its predictor knows which of those words each training prompt has: much of "
                "a prompt can be put together from that (--predictor lexical holds no such)"
            )
    sink.show(done, exported_view)


def import_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .zip or .toml of a router.")],
    name: Annotated[
        str | None, typer.Option("--name", help="What it will be called; its own name.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="NAME=MODEL", help="Who stands in for its member NAME."),
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Keep a router from a file, every number in it checked first."""
    done = import_router(Registry.open(), path, name, tuple(member or ()))
    for who, why in done.missing.items():
        sink.warn(f"member {who} is not here: {why}")
    if done.privacy_laxer:
        sink.warn(
            f"its own [privacy] lets {', '.join(done.privacy_laxer)} leave this machine, which the "
            "default does not"
        )
    sink.show(done, imported_view)


def _spec_from(path: Path) -> RouterSpec:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{path} cannot be read: {error}") from None
    return parse_spec(text, str(path))[0]


def _listed(kept: KeptRouter, registry: Registry) -> ListedRouter:
    """One that cannot be read is listed too: it is there."""
    trained = kept.current.sha256 is not None
    try:
        spec = read_version(kept.current)
    except LocalLLMError as error:
        return ListedRouter(kept.name, kept.version, trained, (), (), error.message)
    problem = next((one.problem for one in standings(spec, registry).values() if one.problem), None)
    members = tuple(one.name for one in spec.members)
    steps = tuple(step.use for step in spec.steps)
    if problem is None and spec.predictor is not None and not trained:
        problem = "not trained yet"
    return ListedRouter(kept.name, kept.version, trained, members, steps, problem)


def _shown(kept: KeptRouter, registry: Registry, number: int | None = None) -> ShownRouter:
    version = kept.current if number is None else kept.numbered(number)
    spec, made = parse_spec(version.text(), str(version.path))
    found = standings(spec, registry)
    members = tuple(
        ShownMember(m.name, m.kind, m.ref, found[m.name].outside, found[m.name].member.cost,
                    found[m.name].problem)
        for m in spec.members
    )  # fmt: skip
    versions = tuple(
        ShownVersion(v.number, v.made_at, v.made_by, v.sha256 is not None, v.number == kept.version)
        for v in kept.versions
    )
    figures = made.get("figures", {})
    return ShownRouter(
        kept.name, version.number, version.sha256 is not None, members,
        tuple(step.use for step in spec.steps), spec.threshold, versions,
        figures if isinstance(figures, Mapping) else {}, as_data(spec), spec.privacy.laxer,
    )  # fmt: skip
