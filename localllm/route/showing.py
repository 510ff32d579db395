"""Routers as they are shown: what is told of each, and how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.route.pool.member import Cost
from localllm.route.sharing import Exported, Imported
from localllm.ui import Bytes, Fields, Heading, Moment, Note, Table, View
from localllm.ui.view import Part, Toned


@dataclass(frozen=True)
class ShownVersion:
    version: int
    made_at: float
    made_by: str
    trained: bool
    in_use: bool


@dataclass(frozen=True)
class ShownMember:
    """`problem` None: it is there."""

    name: str
    kind: str
    ref: str
    outside: bool
    cost: Cost
    problem: str | None


@dataclass(frozen=True)
class ShownRouter:
    """`description` is the whole of what its TOML says, as plain data; `privacy_laxer` what its
    policy lets leave this machine and the default one does not."""

    name: str
    version: int
    trained: bool
    members: tuple[ShownMember, ...]
    steps: tuple[str, ...]
    threshold: float | None
    versions: tuple[ShownVersion, ...]
    figures: Mapping[str, Any]
    description: Mapping[str, Any]
    privacy_laxer: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListedRouter:
    name: str
    version: int
    trained: bool
    members: tuple[str, ...]
    steps: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class RemovedRouters:
    names: tuple[str, ...]
    decisions: int


def list_view(found: Sequence[ListedRouter]) -> View:
    if not found:
        return Note("no router yet: localllm route create NAME --member MODEL --member MODEL")
    rows = [
        (one.name, one.version, ", ".join(one.members), ", ".join(one.steps),
         Toned(one.problem, "warn") if one.problem else "yes" if one.trained else "-")
        for one in found
    ]  # fmt: skip
    return Table(("router", "version", "members", "steps", "trained"), rows)


def router_view(shown: ShownRouter) -> View:
    members = [
        (m.name, m.kind, m.ref or "-", "outside" if m.outside else "here", _cost_text(m.cost),
         Toned(m.problem, "bad") if m.problem else "yes")
        for m in shown.members
    ]  # fmt: skip
    versions = [
        (v.version, Moment(v.made_at), v.made_by, "yes" if v.trained else "-",
         "in use" if v.in_use else "-")
        for v in shown.versions
    ]  # fmt: skip
    view: list[Part] = [
        Fields([("router", shown.name), ("version", shown.version),
                ("steps", ", then ".join(shown.steps)), ("threshold", shown.threshold),
                ("lets leave", Toned(", ".join(shown.privacy_laxer), "warn")
                 if shown.privacy_laxer else None)]),
        Heading("Members"),
        Table(("name", "kind", "model", "where", "cost", "there"), members),
        Heading("Versions"),
        Table(("version", "made", "by", "trained", "use"), versions),
    ]  # fmt: skip
    if shown.figures:
        rows = [(key.replace("_", " "), _cell(value)) for key, value in shown.figures.items()]
        view += [Heading("Figures of this version"), Fields(rows)]
    return view


def _cell(value: Any) -> str | int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return str(value)
    return value


def _cost_text(cost: Cost) -> str:
    parts = []
    if cost.input_per_mtok is not None or cost.output_per_mtok is not None:
        parts.append(f"{cost.input_per_mtok or 0:g}/{cost.output_per_mtok or 0:g} per Mtok")
    if cost.seconds_per_token is not None:
        parts.append(f"{cost.seconds_per_token:.3g} s/token")
    if cost.joules_per_token is not None:
        parts.append(f"{cost.joules_per_token:.3g} J/token")
    return ", ".join(parts) or "-"


def exported_view(done: Exported) -> View:
    return Fields([("router", done.router), ("version", done.version), ("file", str(done.path)),
                   ("size", Bytes(done.size_bytes))])  # fmt: skip


def imported_view(done: Imported) -> View:
    return Fields([("router", done.router), ("version", done.version),
                   ("trained", "yes" if done.trained else "no")])  # fmt: skip
