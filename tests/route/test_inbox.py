"""`localllm route inbox`: a person's side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Model, Registry
from localllm.registry.decisions import Decisions
from localllm.registry.inbox import Inbox
from localllm.registry.routers import Routers
from localllm.route.making import create
from localllm.route.pool.member import Member
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.standing import standing_of
from localllm.route.pool.steps import AlwaysStep
from tests.conftest import Done

Cli = Callable[..., Done]
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "May I?"}]


@pytest.fixture
def waiting(registry: Registry, tiny_model: Model) -> tuple[int, int]:
    """(question, decision) of a router whose person has a draft by `small`."""
    members = (Member("small", "model", "tiny"), Member("me", "human", draft="small"))
    create(registry, "mine", RouterSpec(members, (AlwaysStep("me"),)))
    decision = Decisions(registry).record("mine", 1, member="", chosen="me", prompt="May I?")
    return Inbox(registry).ask("mine", ASKED, 60, decision, "Yes."), decision


def verdicts(registry: Registry, decision: int) -> list[str]:
    return [vote.verdict for vote in Decisions(registry).find(decision).votes]


def test_it_is_listed_and_answered_once(
    cli: Cli, registry: Registry, waiting: tuple[int, int]
) -> None:
    number, decision = waiting
    listed = cli("route", "inbox", "list")
    assert "May I?" in listed.out and "waiting" in listed.out
    shown = cli("route", "inbox", "show", number).out
    assert "Be kind." in shown and "proposed answer" in shown and "Yes." in shown
    assert cli("route", "inbox", "answer", number, "No, sorry.").exit_code == 0
    assert Inbox(registry).find(number).answer == "No, sorry."
    assert verdicts(registry, decision) == ["me"]  # the person was needed
    again = cli("route", "inbox", "answer", number, "Yes")
    assert again.exit_code == 2 and "is answered" in again.err
    assert cli("route", "inbox", "list", "--json").data == []
    assert len(cli("route", "inbox", "list", "--all", "--json").data) == 1


def test_a_draft_that_is_sent_was_good_enough(
    cli: Cli, registry: Registry, waiting: tuple[int, int]
) -> None:
    number, decision = waiting
    assert cli("route", "inbox", "approve", number).exit_code == 0
    assert Inbox(registry).find(number).answer == "Yes."
    assert verdicts(registry, decision) == ["small"]


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell script")
def test_a_draft_is_edited(
    cli: Cli, registry: Registry, waiting: tuple[int, int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    number, decision = waiting
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert "no editor" in cli("route", "inbox", "edit", number).err
    editor = tmp_path / "my editor.sh"
    editor.write_text('#!/bin/sh\nprintf " Of course." >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"'{editor}'")
    assert cli("route", "inbox", "edit", number).exit_code == 0
    assert Inbox(registry).find(number).answer == "Yes. Of course."
    assert verdicts(registry, decision) == ["me"]


def test_what_is_no_answer(cli: Cli, registry: Registry, waiting: tuple[int, int]) -> None:
    number, _ = waiting
    assert cli("route", "inbox", "answer", number, " ").exit_code == 2
    bare = Inbox(registry).ask("mine", ASKED, 60)
    assert cli("route", "inbox", "approve", bare).exit_code == 2
    gone = Inbox(registry).ask("mine", ASKED, 0.0)
    late = cli("route", "inbox", "answer", gone, "now?")
    assert late.exit_code == 2 and "expired" in late.err


def test_an_answer_that_was_sent_is_no_failure(
    cli: Cli, registry: Registry, waiting: tuple[int, int]
) -> None:
    """Its router is gone meanwhile, so nothing can be learned from it."""
    number, _ = waiting
    Routers(registry).remove("mine")
    done = cli("route", "inbox", "answer", number, "Yes.", "--json")
    assert done.exit_code == 0, done
    assert "nothing is learned" in done.json["warnings"][0]
    assert Inbox(registry).find(number).answer == "Yes."


def test_questions_go_with_their_router(
    cli: Cli, registry: Registry, waiting: tuple[int, int]
) -> None:
    other = Inbox(registry).ask("other", ASKED, 60)
    assert cli("route", "rm", "mine").exit_code == 0
    assert [one.id for one in Inbox(registry).list(every=True)] == [other]


def test_a_person_can_be_outside(registry: Registry) -> None:
    assert standing_of(Member("me", "human", outside=True), registry).outside
    assert not standing_of(Member("me", "human"), registry).outside
