"""route ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from localllm.errors import ExitCode, Interrupted, LocalLLMError
from localllm.generation import Message, Sampling
from localllm.registry import Registry
from localllm.route.answering.client import open_generator
from localllm.route.answering.routed_stream import RoutedStream
from localllm.route.answering.routing import Failed, Routing
from localllm.route.cli import Name
from localllm.route.decide_cli import Number, PromptText, Threshold, read_prompt
from localllm.route.deciding.guarding import told
from localllm.toolcalls import TextPart
from localllm.ui import AnswerView, Sink, answer_view, keys_unseen


@dataclass(frozen=True)
class AskedAnswer:
    """`routing` says who answered and why; times in seconds."""

    text: str
    thinking: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    routing: Routing


def ask_command(
    name: Name,
    prompt: PromptText = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    threshold: Threshold = None,
    number: Number = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", "-n", min=1)] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", "--temp", min=0.0)] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0)] = None,
    n_ctx: Annotated[
        int | None, typer.Option("--ctx", min=1, help="Context of members that run here.")
    ] = None,
    *,
    sink: Sink,
) -> None:
    """Ask through a router: the answer, and who gave it and why."""
    text = read_prompt(prompt)
    given: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    given = {key: value for key, value in given.items() if value is not None}
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", text))
    generator = open_generator(
        Registry.open(), name, number=number, threshold=threshold, n_ctx=n_ctx,
        progress=sink.progress, tell=sink.warn,
    )  # fmt: skip
    with generator:
        from localllm.endpoints import Wanted

        stream = generator.ask(
            Wanted(messages=tuple(messages), sampling=replace(Sampling(), **given),
                   given=frozenset(given))
        )  # fmt: skip
        view = answer_view(sink, thinking="show" if sink.is_terminal else "hide", markdown=True)
        try:
            said = _shown(stream, view)
        except LocalLLMError:
            _warn_of(stream.routing.failures[:-1], sink)  # the last one's is the error
            raise
    _say(stream.routing, sink)
    account = stream.accounting
    reason = "cancelled" if account is None else account.finish_reason
    answer = AskedAnswer(
        said, stream.thinking or None, reason,
        0 if account is None else account.prompt_tokens,
        0 if account is None else account.completion_tokens,
        0.0 if account is None else account.first_token_s, stream.routing,
    )  # fmt: skip
    cancelled = reason == "cancelled"
    sink.show(
        answer,
        ok=not cancelled,
        exit_code=ExitCode.INTERRUPTED,
        error=Interrupted("interrupted; the answer is not complete") if cancelled else None,
    )


def _shown(stream: RoutedStream, view: AnswerView) -> str:
    """The whole answer, shown as it comes. Ctrl-C ends it."""
    said: list[str] = []
    parts = stream.parts()
    try:
        with keys_unseen():
            while True:
                try:
                    part = next(parts, None)
                except KeyboardInterrupt:
                    stream.cancel()
                    continue
                if part is None:
                    break
                if isinstance(part, TextPart):
                    (view.thinking if part.thinking else view.answer)(part.text)
                    said.append("" if part.thinking else part.text)
    finally:
        view.end()
    return "".join(said)


def _warn_of(failures: Sequence[Failed], sink: Sink) -> None:
    for failure in failures:
        sink.warn(f"{failure.member} could not answer: {failure.message}")


def _say(routing: Routing, sink: Sink) -> None:
    """Who and why, on stderr."""
    _warn_of(routing.failures, sink)
    if routing.says is not None:
        sink.warn(f"{routing.member} says that it is {routing.says}, which was not asked for")
    if routing.doubt is not None:
        sink.warn(f"{routing.member} counts what cannot be ({routing.doubt}): tokens are estimated")
    about = "about " if routing.estimated else ""
    cost = "" if routing.cost is None else f"; cost {about}{routing.cost:.4g}"
    unit = {"money": "", "seconds": " s", "joules": " J"}[routing.cost_unit] if cost else ""
    where = ", outside this machine" if routing.outside else ""
    sink.note(f"{routing.member} ({routing.model}{where}) answered: {routing.why}{cost}{unit}")
    if found := told(routing.guard):
        sink.note(f"private data: {found}")
    if routing.decision is not None:
        sink.note(f"was it good? localllm route feedback {routing.decision} good|bad")
