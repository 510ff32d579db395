"""Which format rows have, and what they come down to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localllm.errors import UsageProblem
from localllm.finetune.data import Dataset, DataSpec, open_data, parse_columns
from localllm.finetune.data.rows import BadRow, Chat, Preference, Text
from tests.finetune.data.conftest import Write, chat

CALL = {"name": "weather", "arguments": {"city": "Paris"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def opened(write: Write, rows: list[Any], **spec: Any) -> Dataset:
    return open_data(DataSpec((str(write("rows.jsonl", rows)),), **spec))


def only(data: Dataset) -> Any:
    (row,) = data.records()
    return row


def turns(data: Dataset) -> list[tuple[str, str]]:
    row = only(data)
    assert isinstance(row, Chat), row
    return [(m.role, m.content) for m in row.messages]


ONE = [("user", "Hi"), ("assistant", "Hello")]
SYSTEM = [("system", "Be brief."), *ONE]


@pytest.mark.parametrize(
    ("format", "row", "said"),
    [
        ("chat", chat("Hi", "Hello"), ONE),
        ("chat", chat("Hi", "Hello", system="Be brief."), SYSTEM),
        ("chat", chat("Hi", "Hello", prompt="Hi", id=3), ONE),
        ("chat", chat("Hi", "Hello")["messages"], ONE),
        ("chat", {"conversation": chat("Hi", "Hello")["messages"]}, ONE),
        ("chat", {"messages": [{"role": "developer", "content": "Be brief."},
                               {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                               {"role": "assistant", "content": "Hello"}]}, SYSTEM),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"},
                                        {"from": "gpt", "value": "Hello"}]}, ONE),
        ("sharegpt", {"conversations": [{"from": "system", "value": "Be brief."},
                                        {"from": "human", "value": "Hi"},
                                        {"from": "gpt", "value": "Hello"}]}, SYSTEM),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}, ONE),
        ("alpaca", {"instruction": "Sum up", "input": "a text", "output": "short", "text": "all"},
         [("user", "Sum up\n\na text"), ("assistant", "short")]),
        ("alpaca", {"instruction": "Hi", "output": "Hello", "system": "Be brief.",
                    "history": [["a", "b"]]},
         [("system", "Be brief."), ("user", "a"), ("assistant", "b"), *ONE]),
        ("completion", {"prompt": "Hi", "completion": "Hello"}, ONE),
        ("qa", {"question": "Hi", "answer": "Hello"}, ONE),
        ("qa", {"Question": "Hi", "Response": "Hello", "source": "x"}, ONE),
        ("qa", {"question": "Who?", "context": "Ann did.", "answer": "Ann"},
         [("user", "Who?\n\nAnn did."), ("assistant", "Ann")]),
    ],
)  # fmt: skip
def test_formats_are_told_by_their_columns(
    format: str, row: Any, said: list[tuple[str, str]], write: Write
) -> None:
    data = opened(write, [row])
    assert (data.format, turns(data)) == (format, said)
    assert "rows.jsonl, line 1" in data.evidence[0]


def test_raw_text_is_one_column(write: Write) -> None:
    data = opened(write, [{"text": "a document", "id": 1}])
    assert only(data) == Text("a document", only(data).at)
    assert data.format == "text"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"question": "Hi", "chosen": "good", "rejected": "bad"},
        {"prompt": [{"role": "user", "content": "Hi"}],
         "chosen": [{"role": "assistant", "content": "good"}],
         "rejected": [{"role": "assistant", "content": "bad"}]},
        {"prompt": "Hi", "chosen": chat("Hi", "good")["messages"],
         "rejected": chat("Hi", "bad")["messages"], "messages": chat("Hi", "good")["messages"]},
        {"chosen": chat("Hi", "good")["messages"], "rejected": chat("Hi", "bad")["messages"]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: good",
         "rejected": "\n\nHuman: Hi\n\nAssistant: bad"},
        {"prompt": "Hi", "chosen": {"role": "assistant", "content": "good"},
         "rejected": {"role": "assistant", "content": "bad"}},
    ],
)  # fmt: skip
def test_preferences_come_down_to_one_prompt_and_two_answers(row: Any, write: Write) -> None:
    data = opened(write, [row])
    pair = only(data)
    assert isinstance(pair, Preference), pair
    sides = [
        [(m.role, m.content) for m in side] for side in (pair.prompt, pair.chosen, pair.rejected)
    ]
    assert sides == [[("user", "Hi")], [("assistant", "good")], [("assistant", "bad")]]
    assert data.format == "preference"


def test_a_long_preference_keeps_what_both_sides_share(write: Write) -> None:
    row = {"chosen": chat("a", "b", "c", "good")["messages"],
           "rejected": chat("a", "b", "c", "bad")["messages"], "system": "Be brief."}  # fmt: skip
    pair = only(opened(write, [row]))
    assert [m.content for m in pair.prompt] == ["Be brief.", "a", "b", "c"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "unknown role"),
        ({"messages": [{"role": "user"}]}, "no content"),
        ({"messages": ["Hi"]}, "bad message"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
         "not only text"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, "bad weight"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "bad tool call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",
          "arguments": "no json"}}]}]}, "bad tool call"),
        ({**chat("a", "b"), "tools": [{"type": "function"}]}, "bad tools"),
    ],
)  # fmt: skip
def test_conversations_that_are_none_say_why(row: Any, kind: str, write: Write) -> None:
    rows = list(opened(write, [chat("Hi", "Hello"), row], format="chat").records())
    assert isinstance(rows[1], BadRow)
    assert (rows[1].kind, rows[1].at.number) == (kind, 2)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"chosen": "same", "rejected": "same", "prompt": "x"}, "no preference"),
        ({"chosen": "", "rejected": "b", "prompt": "x"}, "empty"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
    ],
)
def test_preferences_that_are_none_say_why(row: Any, kind: str, write: Write) -> None:
    good = {"prompt": "Hi", "chosen": "good", "rejected": "bad"}
    rows = list(opened(write, [good, row]).records())
    assert isinstance(rows[1], BadRow)
    assert rows[1].kind == kind


def test_tool_calls_are_read_in_every_spelling(write: Write) -> None:
    ask = {"role": "user", "content": "weather?"}
    openai = [ask, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call00000", "type": "function",
         "function": {"name": "weather", "arguments": json.dumps(CALL["arguments"])}}]},
        {"role": "tool", "tool_call_id": "call00000", "name": "weather",
         "content": "sunny"}]  # fmt: skip
    older = [ask, {"role": "assistant", "content": None, "function_call": {
        "name": "weather", "arguments": json.dumps(CALL["arguments"])}},
        {"role": "function", "name": "weather", "content": "sunny"}]  # fmt: skip
    sharegpt = [{"from": "human", "value": "weather?"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "sunny"}]  # fmt: skip
    read = [
        only(opened(write, [{"messages": openai, "tools": [TOOL]}])),
        only(opened(write, [{"messages": older, "functions": [TOOL["function"]]}])),
        only(opened(write, [{"conversations": sharegpt, "tools": json.dumps([TOOL])}])),
    ]
    assert read[0].messages == read[1].messages == read[2].messages
    call = read[0].messages[1].extra["tool_calls"][0]
    assert call == {"id": "call00000", "type": "function", "function": CALL}
    assert read[0].messages[2].extra == {"tool_call_id": "call00000", "name": "weather"}
    assert read[0].tools == read[1].tools == read[2].tools
    assert read[0].tools[0]["function"]["description"] == ""  # as serve hands it on


def test_weights_of_messages(write: Write) -> None:
    row = chat("a", "b", "c", "d")
    row["messages"][1]["weight"] = 0
    row["messages"][3]["weight"] = 1
    assert only(opened(write, [row])).counts == (True, False, True, True)


def test_columns_can_be_named(write: Write) -> None:
    row = {"anfrage": "Hi", "antwort": "Hello", "rolle": "Be brief.", "text": "other"}
    given = parse_columns(("prompt=anfrage", "answer=antwort", "system=rolle"))
    assert turns(opened(write, [row], columns=given)) == SYSTEM
    assert opened(write, [row], columns={"text": "antwort"}).format == "text"
    with pytest.raises(UsageProblem, match="no column 'frage'"):
        opened(write, [row], columns={"prompt": "frage", "answer": "antwort"}, format="qa")
    for wrong in (("prompt",), ("prompt=",), ("prompt=a", "prompt=b")):
        with pytest.raises(UsageProblem):
            parse_columns(wrong)
    with pytest.raises(UsageProblem, match="no role of a column"):
        DataSpec(("x",), columns={"bild": "x"})


def test_a_format_can_be_named(write: Write) -> None:
    both = {**chat("Hi", "Hello"), "chosen": "good", "rejected": "bad", "prompt": "Hi"}
    assert opened(write, [both]).format == "preference"
    assert turns(opened(write, [both], format="chat")) == ONE
    assert opened(write, [{"prompt": "Hi", "answer": "Hello"}], format="completion").format == (
        "completion"
    )
    with pytest.raises(UsageProblem, match="not rows of raw text"):
        opened(write, [chat("Hi", "Hello")], format="text")
    with pytest.raises(UsageProblem, match="no data format"):
        DataSpec(("x",), format="word")  # type: ignore[arg-type]


def test_mixed_formats_are_refused_with_their_lines(write: Write) -> None:
    rows = [chat("Hi", "Hello")] * 3 + [{"instruction": "Hi", "output": "Hello"}]
    with pytest.raises(UsageProblem) as told:
        opened(write, rows)
    assert "rows.jsonl, line 1" in told.value.message
    assert "rows.jsonl, line 4" in told.value.message
    # so far down that they are met only while reading
    far = opened(write, [chat("Hi", "Hello")] * 1100 + [{"instruction": "Hi", "output": "Hello"}])
    with pytest.raises(UsageProblem, match="line 1101"):
        list(far.records())


def test_unknown_columns_are_listed(write: Write) -> None:
    with pytest.raises(UsageProblem, match="columns spalte, other are not a known format"):
        opened(write, [{"spalte": 1, "other": 2}])
    rows = list(opened(write, [chat("Hi", "Hello"), {"spalte": 1}]).records())
    assert isinstance(rows[1], BadRow)
    assert rows[1].reason == "its columns are spalte"
