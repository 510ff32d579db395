"""What a model is shown of a conversation, and what is kept of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from localllm.chat.conversation import Conversation, Entry
from localllm.chat.defaults import first_entries
from localllm.chat.kept import Keeper, entry, kept
from localllm.chat.prompting import Prompting
from localllm.chat.room import Room
from localllm.chat.session import Session, open_session
from localllm.chat.settings import ChatSettings
from localllm.errors import DamagedFile, UsageProblem
from localllm.generation import Message, Sampling
from localllm.library.sampling import model_sampling
from localllm.placement import PlanOptions
from localllm.registry import Registry
from localllm.registry.chats import Chats, KeptMessage
from localllm.ui import Silent
from tests.conftest import Done, arrival
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]


def talk(n_turns: int, words: int = 10) -> Conversation:
    entries = [Entry("system", "Be brief.")]
    for n in range(n_turns):
        entries.append(Entry("user", f"question {n} " + "the " * words))
        entries.append(Entry("assistant", f"answer {n}", thinking="hm", model="m"))
    return Conversation(entries)


@pytest.fixture
def session(tiny_model: object, registry: Registry) -> Session:
    opened = open_session(registry.models()[0], PlanOptions(n_ctx=512), Silent())
    yield opened  # type: ignore[misc]
    opened.close()


def room(
    prompting: Prompting, settings: ChatSettings, n_ctx: int = 512, said: str = "A summary.",
) -> tuple[Room, list[str], list[Sequence[Message]]]:  # fmt: skip
    told: list[str] = []
    asked: list[Sequence[Message]] = []

    def write(messages: Sequence[Message], max_tokens: int) -> str:
        asked.append(messages)
        return said

    return Room(prompting, settings, n_ctx, write, told.append), told, asked


def test_thinking_goes_back_only_where_the_template_takes_it() -> None:
    plain = talk(1).messages()[-1]
    assert plain.extra == {}
    assert "hm" not in plain.content
    assert talk(1).messages("reasoning_content")[-1].extra == {"reasoning_content": "hm"}


def test_turns_are_hidden_summed_up_and_taken_back() -> None:
    conversation = talk(3)
    conversation.hide(conversation.turns()[:1], "dropped")
    assert [m.content.split()[:2] for m in conversation.messages()[:2]] == [
        ["Be", "brief."], ["question", "1"],
    ]  # fmt: skip
    conversation.summarize(conversation.seen_turns()[:1], "They asked twice.")
    shown = conversation.messages()
    assert shown[0].content == (
        "Be brief.\n\nSummary of the conversation so far:\nThey asked twice."
    )
    assert [m.role for m in shown] == ["system", "user", "assistant"]
    question = conversation.undo()
    assert question is not None
    assert question.content.startswith("question 2")
    assert len(conversation.turns()) == 2
    conversation.set_system("")
    assert conversation.system is None
    assert conversation.messages()[0].content.startswith("Summary")


def test_stop_drops_nothing_and_says_what_would(session: Session) -> None:
    conversation = talk(20, words=30)
    made, told, _ = room(session.prompting, ChatSettings())
    with pytest.raises(UsageProblem) as raised:
        made.ask(conversation, None)
    assert "--overflow" in (raised.value.hint or "")
    assert made.dropped == []
    assert told == []
    assert all(e.sight == "seen" for e in conversation.entries)


def test_shift_drops_the_fewest_oldest_turns(session: Session) -> None:
    conversation = talk(20, words=20)
    whole = session.prompting.count(conversation)
    made, told, _ = room(session.prompting, ChatSettings(overflow="shift"))
    asked = made.ask(conversation, 100)
    assert len(asked.tokens) + 100 <= 512
    (dropped,) = made.dropped
    assert dropped.how == "turns"
    assert dropped.n_tokens == whole - len(asked.tokens)
    hidden = [n for n, e in enumerate(conversation.entries) if e.sight == "dropped"]
    assert hidden == list(range(1, 1 + dropped.n_messages))  # the oldest, the system message stays
    assert "out of the model's sight" in told[0]
    back = Conversation(conversation.entries)  # with one turn more it would not fit
    first = back.turns()[dropped.n_messages // 2 - 1]
    for place in first:
        entry_ = back.entries[place]
        back.entries[place] = Entry(entry_.role, entry_.content, model=entry_.model)
    assert session.prompting.count(back) + 100 > 512


@pytest.mark.parametrize("keep", [-1, 40])
def test_what_is_to_be_kept_stays(session: Session, keep: int) -> None:
    conversation = talk(20, words=20)
    made, _, _ = room(session.prompting, ChatSettings(overflow="shift", keep=keep))
    made.ask(conversation, 100)
    sights = [conversation.entries[turn.start].sight for turn in conversation.turns()]
    assert sights[0] == "seen"
    assert sights[1 if keep == -1 else 3] == "dropped"
    assert sights[-1] == "seen"


def test_summarize_asks_the_model_part_by_part(session: Session) -> None:
    conversation = talk(20, words=20)
    made, told, asked = room(session.prompting, ChatSettings(overflow="summarize"))
    made.ask(conversation, 100)
    (dropped,) = made.dropped
    assert (dropped.how, dropped.summary) == ("summarized", "A summary.")
    assert told[-1] == "summary: A summary."
    assert len(asked) > 1  # more than the context holds at once
    assert "The conversation before it was: A summary." in asked[1][0].content
    for messages in asked:
        assert len(session.prompting.render(messages).tokens) + 64 <= 512
    text = "".join(messages[0].content for messages in asked)
    for n in range(dropped.n_messages // 2):
        assert f"question {n} " in text.replace("\n", " ")
    assert "A summary." in conversation.messages()[0].content


def test_a_model_that_sums_up_nothing_still_makes_room(session: Session) -> None:
    conversation = talk(20, words=20)
    made, _, _ = room(session.prompting, ChatSettings(overflow="summarize"), said=" ")
    made.ask(conversation, 100)
    assert made.dropped[0].how == "turns"


def test_entries_are_kept_and_come_back() -> None:
    for one in (
        Entry("user", "x", images=(b"\x89",)),
        Entry("assistant", "y", "hm", extra={"tool_calls": [{"id": "1"}]}, model="m", finish="stop",
              sight="dropped"),
        Entry("system", "s", is_summary=True),
        Entry("tool", "42", extra={"tool_call_id": "1"}),
    ):  # fmt: skip
        assert entry(kept(one)) == one
    assert kept(Entry("user", "x")).data == {}


def test_only_what_changed_is_written(registry: Registry) -> None:
    told: list[str] = []
    keeper = Keeper(Chats.of(registry), told.append, on=True)
    conversation = Conversation([Entry("system", "s")])
    keeper.save(conversation, "m")
    assert keeper.number is None  # nothing was said
    conversation.entries.append(Entry("user", "hello there"))
    keeper.save(conversation, "m")
    number = keeper.number
    assert number is not None
    conversation.entries.pop()
    keeper.save(conversation, "m")  # the question was taken back
    assert Chats.of(registry).list() == ()
    conversation.entries.append(Entry("user", "again"))
    keeper.save(conversation, "m")
    Chats.of(registry).remove(keeper.number or 0)
    conversation.entries.append(Entry("assistant", "yes"))
    keeper.save(conversation, "m")  # removed by another process: kept anew
    assert [m.content for m in Chats.of(registry).messages(keeper.number or 0)] == [
        "s", "again", "yes",
    ]  # fmt: skip
    assert told == []


def test_going_on_leaves_the_times_of_what_was_said(registry: Registry) -> None:
    chats = Chats.of(registry)
    number = chats.begin("m", "x")
    said = [KeptMessage("user", "one", made_at=7.0), KeptMessage("assistant", "two", made_at=8.0)]
    chats.write(number, 0, said, model="m")
    keeper = Keeper(chats, lambda text: None, on=True)
    conversation = keeper.resume(number)
    conversation.entries.append(Entry("user", "three"))
    keeper.save(conversation, "m")
    assert [m.made_at for m in chats.messages(number)][:2] == [7.0, 8.0]


def test_two_programs_in_one_conversation_each_keep_their_own(registry: Registry) -> None:
    chats, told = Chats.of(registry), list[str]()
    first = Keeper(chats, told.append, on=True)
    mine = Conversation([Entry("user", "one"), Entry("assistant", "two")])
    first.save(mine, "m")
    assert first.number is not None
    second = Keeper(chats, told.append, on=True)
    theirs = second.resume(first.number)
    theirs.entries.append(Entry("user", "theirs"))
    second.save(theirs, "m")
    mine.entries.append(Entry("user", "mine"))
    first.save(mine, "m")
    assert told == ["conversation 1 went on in another program: this one is kept apart, as 2"]
    mine.entries.append(Entry("assistant", "more of mine"))
    first.save(mine, "m")
    said = {c.id: [m.content for m in chats.messages(c.id)] for c in chats.list()}
    assert said == {1: ["one", "two", "theirs"], 2: ["one", "two", "mine", "more of mine"]}
    again = Keeper(chats, told.append, on=True)
    emptied = again.resume(1)
    second.save(Conversation([*theirs.entries, Entry("assistant", "late")]), "m")
    emptied.entries.clear()
    again.save(emptied, "m")  # nothing is left of it here, but there is
    assert [m.content for m in chats.messages(1)][-1] == "late"
    assert len(told) == 1


def test_a_home_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[str] = []
    keeper = Keeper(Chats.of(Registry(tmp_path / "file" / "home")), told.append, on=True)
    for _ in range(2):
        keeper.save(Conversation([Entry("user", "x")]), "m")
    assert len(told) == 1
    assert "not kept" in told[0]


def test_settings_are_read_from_text() -> None:
    settings = ChatSettings()
    for name, text, key, value in (
        ("temp", "0.5", "temperature", 0.5), ("num_predict", "7", "max_tokens", 7),
        ("top-k", "3", "top_k", 3), ("stop", "END", "stop", ("END",)),
        ("stop", '["a", "b"]', "stop", ("a", "b")),
    ):  # fmt: skip
        assert settings.set(name, text) == key
        assert settings.given[key] == value
    assert settings.sampling(Sampling(stop=("own",))).stop == ("own", "a", "b")
    assert settings.set("overflow", "SHIFT") == "overflow"
    assert settings.overflow == "shift"
    for name, text in (
        ("temperature", "hot"), ("temperature", "-1"), ("top_p", "2"), ("overflow", "drop"),
        ("keep", "-2"), ("grammar", "x"), ("nothing", "1"), ("stats", "maybe"), ("stop", "[1]"),
    ):  # fmt: skip
        with pytest.raises(UsageProblem):
            settings.set(name, text)
    assert settings.given["temperature"] == 0.5
    settings.unset("temp")
    assert "temperature" not in settings.given


def test_what_a_model_brings(registry: Registry, tmp_path: Path) -> None:
    extras = {
        "parameters": {"temperature": 0.1, "num_predict": 9, "mirostat": 2, "top_k": "x",
                       "top_p": 7.0, "repeat_penalty": 1.3},
        "system": "S",
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                     {"role": "judge", "content": "c"}, "d"],
    }  # fmt: skip
    path = tiny_llama(tmp_path / "m.gguf")
    model = registry.add(arrival("m", path, extras=extras))
    gguf = {"general.sampling.temp": "0.9", "general.sampling.top_k": "7",
            "general.sampling.min_p": "nan", "general.sampling.penalty_last_n": "33"}  # fmt: skip
    sampling = model_sampling(model, gguf)
    assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0.1, 7, 9)
    assert (sampling.mirostat, sampling.repeat_last_n, sampling.repeat_penalty) == (2, 33, 1.3)
    assert (sampling.top_p, sampling.min_p) == (Sampling().top_p, Sampling().min_p)
    first = first_entries(model, None)
    assert [(e.role, e.content) for e in first] == [
        ("system", "S"), ("user", "a"), ("assistant", "b"),
    ]  # fmt: skip
    assert first_entries(model, "mine")[0].content == "mine"


def test_chats_are_listed_shown_exported_and_removed(
    cli: Cli, tiny_model: object, tmp_path: Path
) -> None:
    import json

    for n in range(2):
        cli("chat", "tiny", f"question {n}", "-n", 3, "--save")
    listed = cli("chats", "--json").data
    assert [chat["title"] for chat in listed] == ["question 1", "question 0"]
    newest, oldest = (chat["id"] for chat in listed)
    assert "question 1" in cli("chats").out
    assert [c["id"] for c in cli("chats", "--find", "TION 0", "--json").data] == [oldest]
    assert "in no conversation" in cli("chats", "--find", "nowhere").err
    shown = cli("chats", "show", newest, "--json").data
    assert [m["role"] for m in shown["messages"]] == ["user", "assistant"]
    assert cli("chats", "show", newest).out.startswith("question 1 (org/tiny)")
    exported = cli("chats", "export", newest, tmp_path / "c.json", "--json")
    assert exported.exit_code == 0, exported
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["messages"] == shown["messages"]
    assert cli("chats", "export", newest, tmp_path / "c.json").exit_code == 2
    assert cli("chats", "rm", newest, 99).exit_code == 3
    assert len(cli("chats", "--json").data) == 2  # none goes where one is not there
    assert cli("chats", "rm").exit_code == 2
    assert cli("chats", "rm", "--all").exit_code == 0
    assert cli("chats", "--json").data == []


def test_one_question_is_kept_only_when_told(
    cli: Cli, tiny_model: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("chat", "tiny", "x", "-n", 2)
    assert cli("chats", "--json").data == []
    kept_ = cli("chat", "tiny", "x", "-n", 2, "--save", "--json").data
    assert cli("chats", "--json").data[0]["id"] == kept_["chat_id"]
    monkeypatch.setenv("LOCALLLM_SAVE_CHATS", "0")
    again = cli("chat", "tiny", "y", "-n", 2, "--chat", kept_["chat_id"], "--json")
    assert again.exit_code == 0
    assert cli("chats", "--json").data[0]["n_messages"] == 2
    assert cli("chat", "tiny", "y", "--chat", 99).exit_code == 3
    assert cli("chat").exit_code == 2


def test_openai_messages_are_read(tmp_path: Path) -> None:
    from localllm.chat.transcript import read_file

    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    data = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    image = {"type": "image_url", "image_url": {"url": data}}
    (tmp_path / "x.json").write_text(json.dumps([
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    ]))  # fmt: skip
    asked, called, result = read_file(tmp_path / "x.json").entries
    assert (asked.content, asked.images) == ("look", (b"\x89PNG",))
    assert (called.content, called.extra["tool_calls"]) == ("", [call])
    assert (result.content, result.extra) == ("5", {"tool_call_id": "c1"})


def test_a_file_that_is_no_conversation(tmp_path: Path) -> None:
    from localllm.chat.transcript import read_file

    for text in ("{", "[1]", '{"messages": 1}', '[{"role": "judge", "content": ""}]',
                 '[{"role": "user", "content": "x", "images": ["?"]}]',
                 '[{"role": "user", "content": "x", "images": 5}]',
                 '[{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]',
                 '[{"role": "user", "content": null}]'):  # fmt: skip
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DamagedFile):
            read_file(tmp_path / "x.json")
