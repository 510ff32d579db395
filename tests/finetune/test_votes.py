"""`--from-votes`, whole: judged answers of a router become a tuned adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from localllm.registry.chats import Chats, KeptMessage
from localllm.registry.decisions import Decisions
from localllm.registry.routers import Routers
from tests.conftest import Done

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")


def judged(registry: Registry, turns: list[tuple[str, str, str]]) -> None:
    """A router's answers in kept conversations of one turn each, and what was thought of them."""
    Routers(registry).add("mine", 'members = ["a", "b"]\n', made_by="create")
    decisions, chats = Decisions(registry), Chats.of(registry)
    for question, answer, verdict in turns:
        number = chats.begin("router:mine", "t")
        chats.write(number, 0, [KeptMessage("user", question)], model="router:mine")
        made = decisions.record("mine", 1, member="a", chosen="a", prompt=question)
        decisions.vote(made, verdict, "owner")
        chats.write(number, 1, [KeptMessage("assistant", answer)], model="router:mine")


def test_answers_judged_good_are_learned_and_bad_ones_are_not(
    cli: Callable[..., Done], tiny_gguf: Path, registry: Registry
) -> None:
    good = [(f"the cat sees {i}", f"Aye, {i}!", "good") for i in range(24)]
    bad = [(f"the dog sees {i}", "Never.", "bad") for i in range(6)]
    options = ["--from-votes", "--threads", 1, "--held-out", 4, "--batch-size", 4, "--samples", 0,
               "--precision", "f32", "--steps", 6, "--lr", 3e-3, "--progress", "none",
               "--json"]  # fmt: skip
    none = cli("finetune", tiny_gguf, *options)
    assert none.exit_code == 3, none
    assert "/good" in none.json["error"]["hint"]
    judged(registry, [*good, *bad])
    done = cli("finetune", tiny_gguf, *options)
    assert done.exit_code == 0, done
    assert (done.data["n_examples"], done.data["n_held_out"]) == (20, 4)
    after, before = done.data["judged"]["after"]["loss"], done.data["judged"]["before"]["loss"]
    assert after < before - 0.5
    made = registry.resolve(done.data["name"])
    assert made.lineage is not None
    assert "--from-votes" in made.lineage.command.split()
    assert made.lineage.parameters["from_votes"] is True
