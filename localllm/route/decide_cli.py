"""route decide, route explain."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from localllm import config
from localllm.errors import UsageProblem
from localllm.generation import Message
from localllm.registry import Registry
from localllm.route.cascades.keeping import open_combiner
from localllm.route.cli import Name
from localllm.route.deciding.asked import Asked
from localllm.route.deciding.explaining import (
    CascadeExplained,
    Explained,
    explain_cascade,
    explained,
    heaviest,
)
from localllm.route.deciding.guarding import told
from localllm.route.deciding.verdict import DecidedNow, decided
from localllm.route.learned import open_known
from localllm.route.naming import parse_named
from localllm.route.opening import OpenRouter, open_router_named
from localllm.route.pool.steps import CascadeStep
from localllm.route.text.cues import read
from localllm.ui import Fields, Heading, Note, Percent, Sink, Table, View
from localllm.ui.marked import Mark, Marked, clean_lines
from localllm.ui.view import Part

PromptText = Annotated[
    str | None, typer.Argument(metavar="[PROMPT]", help="What is asked; - or none is stdin.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", min=0.0, max=1.0, help="In place of the router's own."),
]
Number = Annotated[
    int | None, typer.Option("--version", min=1, help="Another version than the one in use.")
]
_SHOWN_CHARS = 4000  # of a prompt, where its words are marked


def decide_command(
    name: Name,
    prompt: PromptText = None,
    threshold: Threshold = None,
    number: Number = None,
    image: Annotated[int, typer.Option("--images", min=0, help="As if with so many.")] = 0,
    tools: Annotated[bool, typer.Option("--tools", help="As if with tools.")] = False,
    *,
    sink: Sink,
) -> None:
    """Say which member a prompt would go to. Nobody is asked, nothing is kept."""
    asked, messages = _asked(prompt, image, tools)
    opened, limit = _opened(name, threshold, number)
    choice = opened.decider.decide(asked, limit)
    found = decided(opened, choice, messages)
    sink.show(found, _decided_view)


def explain_command(
    name: Name,
    prompt: PromptText = None,
    threshold: Threshold = None,
    number: Number = None,
    nearest: Annotated[
        int, typer.Option("--nearest", min=0, max=100, help="So many known prompts.")
    ] = 5,
    run: Annotated[
        bool,
        typer.Option("--run", help="Of a cascade: its weak member answers, and that is judged."),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", min=1, help="Of that answer, at most.")
    ] = 256,
    *,
    sink: Sink,
) -> None:
    """Say why a prompt goes where it goes: words, features, rules, nearest known prompts."""
    asked, messages = _asked(prompt, 0, False)
    opened, limit = _opened(name, threshold, number)
    choice = opened.decider.decide(asked, limit)
    found = decided(opened, choice, messages)
    known = None if opened.version.learned is None else open_known(opened.version.learned)
    shown = explained(
        opened.name, opened.version.number, opened.decider, asked, replace(choice, cost=found.cost),
        found.guard, found.member, known, nearest,
    )  # fmt: skip
    step = opened.decider.spec.last
    n_tokens = max_tokens if run else None
    if isinstance(step, CascadeStep):
        shown = replace(shown, signals=_cascade(opened, step, messages, n_tokens, sink))
    elif run:
        raise UsageProblem("--run is for a cascade: nobody's answer decides here")
    sink.show(shown, lambda e: _explained_view(e, asked.prompt))


def _cascade(
    opened: OpenRouter, step: CascadeStep, messages: list[Message], max_tokens: int | None,
    sink: Sink,
) -> CascadeExplained:  # fmt: skip
    """With `max_tokens` by an answer that is asked for now."""
    learned = opened.version.learned
    kept = None if learned is None else open_combiner(learned)
    if max_tokens is None:
        return explain_cascade(step, kept)
    from localllm.route.answering.measuring import measure_weak
    from localllm.route.answering.members import Members
    from localllm.route.answering.opening import LocalWishes, OwnLender

    settings = config.load()
    wishes = LocalWishes(settings.n_ctx, settings.threads, step.samples)
    lender = OwnLender(wishes, sink.progress)
    registry = Registry.open()
    with Members(opened.name, opened.priced, opened.standings, registry, lender) as doors:
        found = measure_weak(doors, step, messages, max_tokens)
    return explain_cascade(step, kept, found.signals, found.text)


def read_prompt(prompt: str | None) -> str:
    """What was typed, or stdin. Raises UsageProblem for nothing."""
    if prompt is None or prompt == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageProblem("nothing is asked", "localllm route ask NAME 'a prompt'")
        raw = getattr(sys.stdin, "buffer", None)
        prompt = raw.read().decode("utf-8", "replace") if raw is not None else sys.stdin.read()
    return prompt.encode("utf-8", "replace").decode("utf-8")


def _asked(prompt: str | None, images: int, tools: bool) -> tuple[Asked, list[Message]]:
    text = read_prompt(prompt)
    messages = [Message("user", text)]
    asked = Asked.of(messages, tools=tools)
    return replace(asked, images=images), messages


def _opened(
    name: str, threshold: float | None, number: int | None
) -> tuple[OpenRouter, float | None]:
    named = parse_named(name)
    opened = open_router_named(Registry.open(), named.name, number=number, members=False)
    return opened, named.threshold if threshold is None else threshold


def _decided_view(found: DecidedNow) -> View:
    rows = [
        ("member", found.member),
        ("model", found.model),
        ("where", "outside this machine" if found.outside else "here"),
        ("probability", None if found.probability is None else Percent(found.probability)),
        ("threshold", found.threshold),
        ("expected cost", None if found.cost is None else f"{found.cost:.4g} ({found.cost_unit})"),
        ("why", found.why),
        ("guard", told(found.guard)),
    ]
    view: list[Part] = [Fields(rows)]
    if found.member != found.chosen and found.chosen not in found.members_missing:
        view.append(Note(f"{found.chosen} was chosen, and may not see it", "warn"))
    view += [Note(f"{n} is not here: {why}", "warn") for n, why in found.members_missing.items()]
    return view


def _explained_view(found: Explained, prompt: str) -> View:
    view: list[Part] = [
        Fields(
            [
                ("member", found.member),
                ("probability", None if found.probability is None else Percent(found.probability)),
                ("threshold", found.threshold),
                ("why", found.why),
                ("guard", told(found.guard)),
            ]
        ),
        Heading("Steps"),
        Table(("step", "chose", "why"), [(s.use, s.to or "-", s.why) for s in found.steps]),
    ]
    if found.score is not None:
        view += _score_view(found, prompt)
    if found.signals is not None:
        view += cascade_parts(found.signals, str(found.weak), str(found.strong))
    if found.neighbours:
        rows = [(f"{n.likeness:.2f}", Percent(n.weak), Percent(n.strong), _short(n.prompt))
                for n in found.neighbours]  # fmt: skip
        columns = ("likeness", str(found.weak), str(found.strong), "prompt")
        view += [Heading("Nearest known prompts, and how the members did"), Table(columns, rows)]
    return view


def _score_view(found: Explained, prompt: str) -> list[Part]:
    score = found.score
    assert score is not None
    text = read(prompt).text
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
    marks = [Mark(w.start, w.end, w.amount) for w in score.words if w.end <= len(shown)]
    rows = [(part.what, _short(part.name) or "-", part.amount) for part in heaviest(score.parts)]
    rows.append(("sum", "", score.score))
    said = (f"P({found.strong} is needed) = logistic({score.slope:.3g} x {score.score:.4f} "
            f"{score.intercept:+.3g}) = {score.probability:.3f}")  # fmt: skip
    view: list[Part] = [
        Heading("Words"),
        Marked(shown, marks, f"towards {found.strong}", f"towards {found.weak}"),
        Heading("What adds up to the score"),
        Table(("kind", "name", "amount"), rows),
        Note(said),
    ]
    if score.method == "occlusion":
        view.append(Note("a sentence's weight is what the score loses without it"))
    if not found.score_decided:
        view.append(Note("a step before the predictor chose: this is what it would have said"))
    return view


def cascade_parts(found: CascadeExplained, weak: str, strong: str) -> list[Part]:
    """The weights of the signals, and of an answer that was asked for what each came to."""
    told = "set by hand, not fitted: localllm route label, then train, fits them to judged answers"
    if found.n_fitted:
        told = f"fitted to {found.n_fitted} judged answers"
    by_name = {part.name: part.amount for part in found.parts}
    rows = [
        (name, weight, found.means.get(name), found.measured.get(name), by_name.get(name))
        for name, weight in found.weights.items()
    ]
    rows.append(("intercept", found.intercept, None, None, by_name.get("")))
    columns = ("signal", "weight", "usually", "here", f"towards {strong}")
    view: list[Part] = [Heading(f"How {weak}'s answer is judged"), Table(columns, rows), Note(told)]
    if found.score is None or found.probability is None:
        view.append(Note(f"{weak}'s own answer decides; --run lets it answer, and judges that"))
    else:
        view.append(Note(f"P({strong} is needed) = logistic({found.score:.3f}) = "
                         f"{found.probability:.3f}"))  # fmt: skip
    return view


def _short(text: str) -> str:
    line = " ".join(clean_lines(text).split())
    return line if len(line) <= 80 else line[:79] + "…"
