"""A router by its name, ready to decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from localllm.registry import Registry
from localllm.registry.decisions import Decisions
from localllm.registry.routers import KeptRouter, KeptVersion, Routers
from localllm.route.asking import PREFIX, asker_named
from localllm.route.cascades.keeping import with_fitted
from localllm.route.deciding.decider import Decider
from localllm.route.embedding import embedder_named
from localllm.route.learned import CASCADE, helper_of, open_router
from localllm.route.naming import parse_named
from localllm.route.pool.reading import parse_spec
from localllm.route.pool.spec import Fallback, RouterSpec
from localllm.route.pool.standing import Standing, check_members, standings
from localllm.route.pool.steps import AlwaysStep
from localllm.route.router import Router
from localllm.route.unpacking import Helper


@dataclass(frozen=True)
class OpenRouter:
    """A version of a router with its members as they stand here. `priced` is its description with
    the prices that endpoints have of their own, for costs, and a cascade's fitted combiner; `spec`
    as it is kept."""

    kept: KeptRouter
    version: KeptVersion
    spec: RouterSpec
    priced: RouterSpec
    router: Router | None
    decider: Decider
    standings: dict[str, Standing]

    @property
    def name(self) -> str:
        return self.kept.name


def read_version(version: KeptVersion) -> RouterSpec:
    """Its description. Raises FileGone, UsageProblem."""
    return parse_spec(version.text(), str(version.path))[0]


def open_named(
    registry: Registry, text: str, *, number: int | None = None
) -> tuple[OpenRouter, float | None]:
    """The router and the threshold that `text` names, checked. Raises NotFound, UsageProblem,
    DamagedFile, MissingExtra."""
    named = parse_named(text)
    opened = open_router_named(registry, named.name, number=number)
    if named.threshold is not None:
        opened.decider.check_threshold(named.threshold)
    return opened, named.threshold


def open_router_named(
    registry: Registry, name: str, *, number: int | None = None, members: bool = True
) -> OpenRouter:
    """`members` False opens it whether its members are there or not: a decision needs none."""
    kept = Routers(registry).find(name)
    version = kept.current if number is None else kept.numbered(number)
    spec = read_version(version)
    found = check_members(spec, registry) if members else standings(spec, registry)
    priced = replace(spec, members=tuple(found[one.name].member for one in spec.members))
    priced = with_fitted(priced, version)
    router = learned_router(version, helper_for(registry))
    decisions = Decisions(registry)
    decider = Decider(
        priced, router, embedder=cache(lambda: embedder_named(None, registry)),
        spent=lambda since: decisions.spent(kept.name, since), name=kept.name,
    )  # fmt: skip
    return OpenRouter(kept, version, spec, priced, router, decider, found)


def open_members(registry: Registry, name: str) -> OpenRouter:
    """A router's members alone: it need not be trained, and always chooses the first."""
    kept = Routers(registry).find(name)
    spec = read_version(kept.current)
    found = check_members(spec, registry)
    priced = replace(spec, members=tuple(found[one.name].member for one in spec.members))
    first = replace(priced, steps=(AlwaysStep(spec.members[0].name),), fallback=Fallback())
    return OpenRouter(kept, kept.current, spec, priced, None, Decider(first, None), found)


def learned_router(version: KeptVersion, helper: Callable[[str], Helper]) -> Router | None:
    if version.learned is None or (version.learned / CASCADE).exists():
        return None
    return open_folder(version.learned, helper)


def open_folder(folder: Path, helper: Callable[[str], Helper]) -> Router:
    """Raises FileGone, DamagedFile, UsageProblem."""
    wanted = helper_of(folder)
    return open_router(folder, None if wanted is None else helper(wanted))


def helper_for(registry: Registry) -> Callable[[str], Helper]:
    """The models that predictors need by their names; each is loaded once."""
    known: dict[str, Helper] = {}

    def find(name: str) -> Helper:
        if name not in known:
            find_helper = asker_named if name.startswith(PREFIX) else embedder_named
            known[name] = find_helper(name, registry)
        return known[name]

    return find
