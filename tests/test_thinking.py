"""Thinking told apart from the answer, however the text is cut."""

from __future__ import annotations

import pytest

from localllm.thinking import ThinkingFormat

PLAIN = "{{ messages }}"
HARMONY = "<|start|>assistant<|channel|>final<|message|>{{ message.thinking }}"
# template, end of the prompt, answer of the model, what was thought, what was said
CASES = {
    "qwen": (
        "<think> {{ message.reasoning_content }}", "<|im_start|>assistant\n",
        "<think>\nhm, 2 < 3\n</think>\n\nYes.", "hm, 2 < 3", "Yes.",
    ),
    "opened by the prompt": (
        "<think>", "<|Assistant|><think>\n", "a\n\nb\n</think>\n\nc", "a\n\nb", "c",
    ),
    "switched off": ("<think>", "assistant\n<think>\n\n</think>\n\n", "c <think>", "", "c <think>"),
    "a template that says nothing of it": (PLAIN, "", " <think>a</think> b", "a", "b"),
    "only at the beginning": (PLAIN, "", "use <think>a</think>", "", "use <think>a</think>"),
    "magistral": ("[THINK]", "[/INST]", "[THINK]a[/THINK]b", "a", "b"),
    "granite 3.3": (
        "<think></think> <response></response>", "",
        "<think>a</think>\n<response>b < c</response>", "a", "b < c",
    ),
    "granite 3.2": (
        "Here is my thought process: Here is my response:", "",
        "Here is my thought process: a\n\nHere is my response:\nb", "a", "b",
    ),
    "command": (
        "<|START_THINKING|>", "", "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b"
        "<|END_RESPONSE|>", "a", "b",
    ),
    "command, not thinking": (
        "<|START_THINKING|>", "<|START_THINKING|><|END_THINKING|>",
        "<|START_RESPONSE|>b<|END_RESPONSE|>", "", "b",
    ),
    "gemma 4": ("<|channel>thought", "", "<|channel>thought\na<channel|>b", "a", "b"),
    "seed": ("<seed:think>", "", "<seed:think>a</seed:think>b", "a", "b"),
    "gpt-oss": (
        HARMONY, "<|start|>assistant",
        "<|channel|>analysis<|message|>a < b<|end|><|start|>assistant<|channel|>final<|message|>c",
        "a < b", "c",
    ),
    "gpt-oss without its end token": (
        HARMONY, "<|start|>assistant",
        "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>c", "a", "c",
    ),
    "gpt-oss, a channel that the prompt opened": (
        HARMONY, "<|start|>assistant<|channel|>final<|message|>", "just <| this", "",
        "just <| this",
    ),
    "gpt-oss, a word before a call": (
        HARMONY, "<|start|>assistant",
        "<|channel|>commentary<|message|>I look it up.<|end|>", "", "I look it up.",
    ),
    "never closed": ("<think>", "", "<think>a b", "a b", ""),
    "nothing": ("<think>", "", "", "", ""),
    "what only looks like a mark": ("<think>", "", "<thin", "", "<thin"),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", sorted(CASES))
def test_thinking_and_answer_are_told_apart(name: str, size: int) -> None:
    template, prompt, text, thought, said = CASES[name]
    splitter = ThinkingFormat.of(template).splitter(prompt)
    parts = []
    for at in range(0, len(text), size):
        parts += splitter.feed(text[at : at + size])
    parts += splitter.finish()
    assert "".join(t for kind, t in parts if kind == "thinking").strip() == thought
    assert "".join(t for kind, t in parts if kind == "answer") == said


def test_an_answer_is_told_as_it_comes() -> None:
    splitter = ThinkingFormat.of("<think>").splitter()
    assert splitter.feed("Hello") == [("answer", "Hello")]
    assert splitter.feed(" <") == [("answer", " <")]


def test_a_call_in_a_channel_is_handed_on_whole() -> None:
    splitter = ThinkingFormat.of(HARMONY).splitter("<|start|>assistant")
    text = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}'
    parts = [*splitter.feed(text), *splitter.finish()]
    assert "".join(t for kind, t in parts if kind == "answer") == text


def test_where_thinking_goes_back() -> None:
    assert ThinkingFormat.of("{{ message.reasoning_content }}").replay == "reasoning_content"
    assert ThinkingFormat.of(HARMONY).replay == "thinking"
    assert ThinkingFormat.of(PLAIN).replay is None
    assert ThinkingFormat.of(None).replay is None
