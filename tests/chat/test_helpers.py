"""Models beside the model: one that drafts, one that sees, templates of one's own, switching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.chat.session import LoadWishes, Session, open_wished
from localllm.chat.settings import ChatSettings
from localllm.chat.switching import switch
from localllm.errors import DamagedFile, LocalLLMError
from localllm.placement import PlanOptions
from localllm.registry import Model, Registry
from localllm.registry.chats import Chats
from localllm.ui import Silent
from tests.conftest import Done, arrival
from tests.support.tiny_models import tiny_gemma3, tiny_llama

Cli = Callable[..., Done]
GREEDY = ("--temperature", "0", "--max-tokens", "24", "--json")


def test_a_draft_changes_no_answer(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    plain = cli("chat", "tiny", "hello", *GREEDY).data
    drafted = cli("chat", "tiny", "hello", *GREEDY, "--draft", "tiny").data
    assert drafted["text"] == plain["text"]
    assert 0 <= drafted["accepted"] <= drafted["drafted"]
    assert plain["drafted"] is None
    told = cli("chat", "tiny", "hello", *GREEDY[:-1], "--draft", "tiny", "--stats")
    assert "drafted tokens accepted" in told.err
    other = tiny_llama(tmp_path / "spm.gguf", vocab="spm")
    assert cli("chat", "tiny", "hello", "--draft", other).exit_code == 2
    assert cli("chat", "tiny", "hello", "--draft", "nothing").exit_code == 3


def test_an_image_reaches_the_model_and_is_kept(
    cli: Cli, registry: Registry, tmp_path: Path, tiny_model: Model
) -> None:
    support = pytest.importorskip("tests.support.tiny_mmproj")
    model = tiny_gemma3(tmp_path / "g.gguf")
    mmproj = support.gemma3_mmproj(tmp_path / "mmproj.gguf")
    answers = []
    for seed in (1, 2):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(support.picture(seed=seed))
        done = cli("chat", model, "what is it?", "--image", path, "--mmproj", mmproj, *GREEDY,
                   "--save")  # fmt: skip
        assert done.exit_code == 0, done
        answers.append(done.data)
    plain = cli("chat", model, "what is it?", *GREEDY).data
    assert answers[0]["prompt_tokens"] >= plain["prompt_tokens"] + 4
    assert answers[0]["text"] != answers[1]["text"]
    (question, _) = Chats.of(registry).messages(answers[1]["chat_id"])
    assert question.attachments == ((tmp_path / "2.png").read_bytes(),)
    again = cli("chat", model, "and now?", "--chat", answers[1]["chat_id"], "--mmproj", mmproj,
                *GREEDY)  # fmt: skip
    assert again.exit_code == 0, again
    (tmp_path / "no.png").write_text("text")
    for args, code in (
        (("--image", tmp_path / "no.png"), 2), (("--image", tmp_path / "gone.png"), 3),
        (("--image", tmp_path / "1.png"), 2),
    ):  # fmt: skip
        assert cli("chat", "tiny", "x", *args).exit_code == code


def test_a_template_of_ones_own(cli: Cli, tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    path.write_text("{{ messages[-1].content }}")
    short = cli("chat", "tiny", "hello", *GREEDY, "--template", path).data
    raw = cli("chat", "tiny", "hello", *GREEDY, "--raw").data
    assert short["text"] == raw["text"]
    assert short["prompt_tokens"] == raw["prompt_tokens"]
    path.write_text("{% broken")
    assert cli("chat", "tiny", "hello", "--template", path).exit_code == 1


def open_(model: Model) -> tuple[Session, LoadWishes]:
    wishes = LoadWishes(PlanOptions(n_ctx=256))
    return open_wished(model, wishes, Silent()), wishes


def test_a_switch_closes_the_old_model(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(arrival("one", tiny_llama(tmp_path / "1.gguf")))
    two = registry.add(arrival("two", tiny_llama(tmp_path / "2.gguf", seed=1)))
    session, wishes = open_(one)
    with switch(session, two, wishes, Silent(), ChatSettings()) as new:
        assert session.opened.model.closed
        assert not new.opened.model.closed
        assert new.model.name == "org/two"


def test_a_switch_that_fails_keeps_the_old_model(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = registry.add(arrival("one", tiny_llama(tmp_path / "1.gguf")))
    two = registry.add(arrival("two", tiny_llama(tmp_path / "2.gguf", seed=1)))
    session, wishes = open_(one)
    content = two.path.read_bytes()
    two.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFile):
        switch(session, two, wishes, Silent(), ChatSettings())
    assert not session.opened.model.closed

    # where both do not fit at once the old one goes first, and comes back
    from localllm.chat import switching

    plans = switching._plans

    def tight(model: Model, wishes: LoadWishes, session: Session) -> Any:
        from dataclasses import replace

        beside, alone = plans(one, wishes, session)
        return replace(beside, runs=False), alone

    monkeypatch.setattr(switching, "_plans", tight)
    with pytest.raises(LocalLLMError):
        switch(session, two, wishes, Silent(), ChatSettings())
    assert not session.opened.model.closed
    assert session.prompting.encode("hello")  # of the model that is loaded again
    session.close()
