"""Conversations that chat kept, and templates by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.engine.model import Model
from localllm.errors import FileGone, NotFound, UsageProblem
from localllm.finetune.data import (
    TEMPLATES,
    ChatFilter,
    Dataset,
    DataSpec,
    Dialect,
    open_data,
    prepare,
)
from localllm.finetune.data.rows import BadRow, Chat
from localllm.finetune.data.templates import suited
from localllm.registry import Registry
from localllm.registry.chats import Chats, KeptMessage
from tests.finetune.data.conftest import Speak, Write, chat, prepared
from tests.finetune.data.test_sends import targets


def keep(registry: Registry, model: str, *said: str, **data: object) -> int:
    chats = Chats.of(registry)
    number = chats.begin(model, said[0])
    roles = ("user", "assistant")
    messages = [KeptMessage(roles[i % 2], t) for i, t in enumerate(said)]
    messages[-1] = KeptMessage(messages[-1].role, messages[-1].content, data)
    chats.write(number, 0, messages, model=model)
    return number


def opened(registry: Registry, **wanted: object) -> Dataset:
    spec = DataSpec(from_chats=ChatFilter(**wanted))  # type: ignore[arg-type]
    return open_data(spec, registry=registry)


def numbers(data: Dataset) -> list[int]:
    return [row.at.number for row in data.records()]


def test_conversations_are_chosen(registry: Registry) -> None:
    first = keep(registry, "org/a", "about cats", "meow")
    second = keep(registry, "org/b", "about dogs", "woof")
    third = keep(registry, "other", "about Cats", "purr")
    assert numbers(opened(registry)) == [first, second, third]
    assert numbers(opened(registry, models=("ORG/",))) == [first, second]
    assert numbers(opened(registry, titles=("cats",))) == [first, third]
    assert numbers(opened(registry, ids=(third, first))) == [first, third]
    changed = {c.id: c.changed_at for c in Chats.of(registry).list()}
    assert numbers(opened(registry, since=changed[second])) == [second, third]
    assert numbers(opened(registry, until=changed[second])) == [first]
    for wanted in ({"ids": (99,)}, {"models": ("none",)}):
        with pytest.raises(NotFound):
            opened(registry, **wanted)


def test_nothing_kept(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no conversation is kept"):
        opened(registry)


def test_answers_that_were_cut_off_are_context(registry: Registry, speak: Speak) -> None:
    keep(registry, "m", "a", "whole", "b", "cut o", finish="length")
    (row,) = opened(registry).records()
    assert isinstance(row, Chat)
    assert row.counts == (True, True, True, False)
    (example,) = prepare(opened(registry), speak()).examples
    assert speak().tokenizer.decode(targets(example), special=True) == "whole<|im_end|>"
    assert str(example.source) == "chats, chat 1"


def test_summaries_are_no_words_of_it_and_pictures_are_refused(registry: Registry) -> None:
    chats = Chats.of(registry)
    number = chats.begin("m", "t")
    chats.write(number, 0, [
        KeptMessage("user", "a", {"sight": "summarized"}),
        KeptMessage("assistant", "b", {"sight": "summarized", "thinking": "hm"}),
        KeptMessage("system", "they talked", {"is_summary": True}),
        KeptMessage("user", "c"), KeptMessage("assistant", "d")], model="m")  # fmt: skip
    seeing = chats.begin("m", "t")
    chats.write(seeing, 0, [KeptMessage("user", "see", {}, (b"png",)),
                            KeptMessage("assistant", "a cat")], model="m")  # fmt: skip
    row, refused = opened(registry).records()
    assert isinstance(row, Chat)
    assert [m.content for m in row.messages] == ["a", "b", "c", "d"]
    assert row.messages[1].extra == {"thinking": "hm"}
    assert isinstance(refused, BadRow)
    assert refused.kind == "not only text"


def test_kept_conversations_and_a_file_together(
    registry: Registry, write: Write, speak: Speak
) -> None:
    keep(registry, "m", "Hi", "Hello")
    rows = write("a.jsonl", [{"prompt": "a", "completion": "b"}])
    spec = DataSpec((str(rows),), from_chats=ChatFilter())
    made = prepare(open_data(spec, registry=registry), speak())
    assert (made.report.n_examples, made.report.n_chats) == (2, 1)
    texts = DataSpec((str(write("a.txt", "text")),), from_chats=ChatFilter())
    with pytest.raises(UsageProblem, match="two runs"):
        open_data(texts, registry=registry)


# --- templates ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_every_named_template_teaches_answers(
    name: str, vocab: str, vocabulary: Callable[..., Model], write: Write
) -> None:
    dialect = Dialect(vocabulary(vocab, None), template=name)
    row = chat("Hi", "Hello", "And?", "Bye", system="Be brief.")
    made = prepared(write("a.jsonl", [row]), dialect)
    assert made.template.is_new
    tokenizer = dialect.tokenizer
    learned = [tokenizer.decode(targets(e), special=True) for e in made.examples]
    assert "".join(learned).count("Hello") == "".join(learned).count("Bye") == 1
    assert all(e.mask[-1] and tokenizer.is_eog(int(e.ids[-1])) for e in made.examples)
    whole = tokenizer.decode(made.examples[len(made.examples) - 1].ids.tolist(), special=True)
    assert "Be brief." in whole


def test_a_base_without_a_template_gets_one_that_suits_it(
    vocabulary: Callable[..., Model], write: Write
) -> None:
    model = vocabulary("bpe", None)
    made = prepared(write("a.jsonl", [chat("Hi", "Hello")]), Dialect(model))
    assert (made.template.name, made.template.origin) == ("chatml", "chosen")
    assert made.report.template == "chatml"
    assert any("chatml is used" in warning for warning in made.report.warnings)
    assert Dialect(vocabulary("bpe")).chosen.origin == "model"
    assert not Dialect(vocabulary("bpe")).chosen.is_new
    marks = {"<start_of_turn>", "<end_of_turn>", "<|user|>"}
    assert suited(marks.__contains__).name == "gemma"
    assert suited(lambda mark: False).name == "vicuna"


def test_templates_from_files(
    vocabulary: Callable[..., Model], tmp_path: Path, write: Write
) -> None:
    source = TEMPLATES["chatml"].source.replace("user", "human")
    path = write("own.jinja", source)
    dialect = Dialect(vocabulary("bpe"), template=str(path))
    assert (dialect.chosen.source, dialect.chosen.origin) == (source, "file")
    with pytest.raises(FileGone, match="there is no template nothing"):
        Dialect(vocabulary("bpe"), template="nothing")


def test_the_date_in_prompts_can_be_fixed(vocabulary: Callable[..., Model], write: Write) -> None:
    dated = "{{ strftime_now('%d %b %Y') }}\n" + TEMPLATES["chatml"].source
    model = vocabulary("bpe", dated)
    rows = write("a.jsonl", [chat("Hi", "Hello")])
    made = prepared(rows, Dialect(model, day="2024-07-26"))
    assert made.report.date == "2024-07-26"
    assert "26 Jul 2024" in made.report.samples[0].pieces[0].text
    with pytest.raises(UsageProblem, match="no date"):
        Dialect(model, day="yesterday")


# --- votes -------------------------------------------------------------------------------


def test_answers_that_were_judged_good_are_learned(registry: Registry, speak: Speak) -> None:
    from localllm.registry.decisions import Decisions
    from localllm.registry.routers import Routers

    spec = DataSpec(from_votes=True)
    with pytest.raises(NotFound, match="judged good"):
        open_data(spec, registry=registry)
    Routers(registry).add("mine", 'members = ["a", "b"]\n', made_by="create")
    decisions, chats = Decisions(registry), Chats.of(registry)
    number = chats.begin("router:mine", "t")
    said = (("one?", "first", "good"), ("two?", "second", "bad"), ("three?", "third", "a"),
            ("four?", "fourth", None), ("five?", "fifth", "b"))  # fmt: skip
    for turn, (question, answer, verdict) in enumerate(said):
        chats.write(number, 2 * turn, [KeptMessage("user", question)], model="router:mine")
        made = decisions.record("mine", 1, member="a", chosen="a", prompt=question)
        if verdict:
            decisions.vote(made, verdict, "owner")
        chats.write(number, 2 * turn + 1, [KeptMessage("assistant", answer)], model="router:mine")
    (row,) = open_data(spec, registry=registry).records()
    assert isinstance(row, Chat)
    learned = [m.content for m, counts in zip(row.messages, row.counts, strict=True) if counts]
    assert learned == ["first", "third"]  # the last names another member as better
    assert row.messages[-1].content == "third"
    decisions.vote(1, "bad", "another")
    (row,) = open_data(spec, registry=registry).records()
    assert isinstance(row, Chat)
    assert [m.content for m, c in zip(row.messages, row.counts, strict=True) if c] == ["third"]
    made = prepare(open_data(spec, registry=registry), speak())
    assert (made.report.n_votes, made.report.n_examples) == (1, 1)


def test_the_answer_preferred_in_a_comparison_is_learned(registry: Registry) -> None:
    from localllm.registry.decisions import TIE, Decisions
    from localllm.registry.routers import Routers

    Routers(registry).add("mine", 'members = ["a", "b"]\n', made_by="create")
    decisions, chats = Decisions(registry), Chats.of(registry)
    for question, preferred in (("which?", "b"), ("and this?", "")):
        # as `/compare` and `/vote` do: settled first, what was preferred is kept then
        made = decisions.record(
            "mine", 1, member="", chosen="", prompt=question, data={"compared": ["a", "b"]}
        )
        decisions.settle(made, member=preferred, data={"answers": ["no", "yes"]})
        decisions.vote(made, preferred or TIE, "owner")
        said = [KeptMessage("user", question), KeptMessage("assistant", "yes")]
        chats.write(chats.begin("router:mine", "t"), 0, said, model="router:mine")
    (row,) = open_data(DataSpec(from_votes=True), registry=registry).records()
    assert [m.content for m in row.messages] == ["which?", "yes"]  # type: ignore[union-attr]


def test_the_same_words_at_another_time_are_another_question(registry: Registry) -> None:
    from localllm.registry.decisions import Decisions
    from localllm.registry.routers import Routers

    Routers(registry).add("mine", 'members = ["a", "b"]\n', made_by="create")
    chats = Chats.of(registry)
    early = chats.begin("m", "t")
    said = [KeptMessage("user", "same?", made_at=1000.0),
            KeptMessage("assistant", "early", made_at=1001.0)]  # fmt: skip
    chats.write(early, 0, said, model="m")
    keep_late = chats.begin("router:mine", "t")
    chats.write(keep_late, 0, [KeptMessage("user", "same?")], model="m")
    number = Decisions(registry).record("mine", 1, member="a", chosen="a", prompt="same?")
    Decisions(registry).vote(number, "good", "owner")
    chats.write(keep_late, 1, [KeptMessage("assistant", "late")], model="m")
    (row,) = open_data(DataSpec(from_votes=True), registry=registry).records()
    assert [m.content for m in row.messages] == ["same?", "late"]  # type: ignore[union-attr]


def test_what_a_person_answered_is_learned(registry: Registry) -> None:
    from localllm.registry.inbox import Inbox

    inbox = Inbox(registry)
    messages = [{"role": "user", "content": "who?"}]
    number = inbox.ask("mine", messages, 60.0)
    inbox.answer(number, "Ann")
    (row,) = open_data(DataSpec(from_votes=True), registry=registry).records()
    assert isinstance(row, Chat)
    assert [(m.role, m.content) for m in row.messages] == [("user", "who?"), ("assistant", "Ann")]
    assert row.counts == (False, True)


def test_conversations_are_chosen_in_words() -> None:
    from datetime import datetime

    from localllm.finetune.data import parse_chat_filter

    words = ("model=gemma", "title=a b", "id=3", "id=5", "since=2026-05-04", "until=2026-06-01T12")
    assert parse_chat_filter(words) == ChatFilter(
        (3, 5), ("gemma",), ("a b",), datetime(2026, 5, 4).timestamp(),
        datetime(2026, 6, 1, 12).timestamp(),
    )  # fmt: skip
    assert parse_chat_filter(()) == ChatFilter()
    for wrong in ("gemma", "model=", "who=me", "id=x", "since=yesterday"):
        with pytest.raises(UsageProblem):
            parse_chat_filter((wrong,))
