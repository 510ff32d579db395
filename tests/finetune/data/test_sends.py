"""Training sees, token for token, what `chat` sends and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.model import Model
from localllm.engine.scheduler import SharedGenerator
from localllm.engine.session import Session
from localllm.engine.template import ChatTemplate, encode_prompt
from localllm.errors import UsageProblem
from localllm.finetune.data import ChatFilter, DataSpec, Dialect, Example, open_data, prepare
from localllm.generation import Message, Sampling
from localllm.library.find import find_gguf
from localllm.registry import Registry
from localllm.registry.chats import Chats
from tests.conftest import Done, arrival
from tests.finetune.data.conftest import TEMPLATES, Speak, Write, prepared
from tests.finetune.data.conftest import chat as chat_row
from tests.support.scripted import THINKING_CHATML, scripted
from tests.support.tiny_vocab import CHATML

Cli = Callable[..., Done]

TRICKY = [
    ("Hi", "Hello!"),
    ("  two  spaces ", " begins with a space"),
    ("x", "\nbegins with a newline"),
    ("ends with newlines\n\n", "\n\n  so does this\n\n"),
    ("日本語 🙂", "naïve Ünïcode 🙂 the"),
    ("say <|im_end|> please", "a < b [and] c"),
]


@dataclass
class Heard:
    """What the engine was asked, and the tokens it answered with."""

    prompt: list[int]
    stream: Any

    @property
    def said(self) -> list[int]:
        return list(self.stream.tokens)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Heard]:
    """Every request that reaches the engine's session."""
    found: list[Heard] = []
    before = Session.stream

    def listening(self: Session, prompt: Any, *args: Any, **more: Any) -> Any:
        stream = before(self, prompt, *args, **more)
        found.append(Heard(list(prompt), stream))
        return stream

    monkeypatch.setattr(Session, "stream", listening)
    return found


def test_a_kept_conversation_is_what_chat_sent(
    cli: Cli, registry: Registry, tmp_path: Path, heard: list[Heard]
) -> None:
    path = scripted(tmp_path / "s.gguf", {"\n": ["apples", " and", " pears"]})
    model = registry.add(arrival("fruit", path))
    assert cli("chat", "fruit", "which?", "--save", "--system", "Be brief.").exit_code == 0
    assert cli("chat", "fruit", "sure?", "--chat", "1").exit_code == 0
    assert len(heard) == 2
    data = open_data(DataSpec(from_chats=ChatFilter()), registry=registry)
    with Dialect.of(model) as dialect:
        (example,) = prepare(data, dialect).examples
        eot = dialect.tokenizer.eot
    # one sequence holds both: each request is the beginning of it, and its answer follows
    for one in heard:
        start, end = len(one.prompt), len(one.prompt) + len(one.said)
        assert example.ids[:start].tolist() == one.prompt
        assert example.ids[start:end].tolist() == one.said
        assert one.said[-1] == eot
        assert example.mask[start:end].all()
    assert example.mask.sum() == sum(len(one.said) for one in heard)
    assert len(example) == len(heard[1].prompt) + len(heard[1].said)


def test_a_template_that_forgets_thinking_gives_each_answer_its_own_request(
    cli: Cli, registry: Registry, tmp_path: Path, heard: list[Heard]
) -> None:
    chunks = ["<think>", "hm", "</think>", "yes", " indeed"]
    path = scripted(tmp_path / "t.gguf", {"\n": chunks}, chat_template=THINKING_CHATML)
    model = registry.add(arrival("thinker", path))
    assert cli("chat", "thinker", "is it?", "--save").exit_code == 0
    assert cli("chat", "thinker", "sure?", "--chat", "1").exit_code == 0
    data = open_data(DataSpec(from_chats=ChatFilter()), registry=registry)
    with Dialect.of(model) as dialect:
        examples = list(prepare(data, dialect).examples)
    # the second request does not hold the first answer's thinking
    assert [e.ids[: len(h.prompt)].tolist() for e, h in zip(examples, heard, strict=True)] == [
        h.prompt for h in heard
    ]
    assert all(targets(e)[-1] == h.said[-1] for e, h in zip(examples, heard, strict=True))
    # what was thought is learned, though the template never shows it again
    for example in examples:
        assert dialect_text(example, model.path) == "<think>\nhm\n</think>\n\nyes indeed<|im_end|>"


def test_a_preset_stands_before_every_row(
    cli: Cli, registry: Registry, tmp_path: Path, heard: list[Heard], write: Write
) -> None:
    path = scripted(tmp_path / "s.gguf", {"\n": ["fine"]})
    registry.add(arrival("base", path))
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM org/base\nSYSTEM Speak like a sailor.\nMESSAGE user ahoy\n"
                         "MESSAGE assistant aye\n")  # fmt: skip
    assert cli("create", "sailor", "-f", modelfile).exit_code == 0
    assert cli("chat", "sailor", "how are you?").exit_code == 0
    rows = write("a.jsonl", [chat_row("how are you?", "fine")])
    with Dialect.of(find_gguf("sailor", registry)) as dialect:
        (example,) = prepared(rows, dialect).examples
    assert example.ids.tolist() == heard[0].prompt + heard[0].said
    assert targets(example) == heard[0].said  # the preset's own answer is nothing to learn


def test_tools_are_shown_as_chat_shows_them(
    cli: Cli, registry: Registry, tmp_path: Path, heard: list[Heard], write: Write
) -> None:
    from localllm.chat.tools import open_tools
    from tests.chat.test_tools import HERMES, TOOLS

    call = '\n{"name": "weather", "arguments": {"city": "Paris"}}\n'
    path = scripted(
        tmp_path / "c.gguf",
        {"\n": ["I look. ", "<tool_call>", call, "</tool_call>"], "#": ["It is", " sunny."]},
        chat_template=HERMES,
    )
    model = registry.add(arrival("caller", path))
    file = tmp_path / "tools.py"
    file.write_text(TOOLS)
    done = cli("chat", "caller", "weather?", "--tool", f"{file}", "--yes-tools", "--save")
    assert done.exit_code == 0, done
    box = open_tools((str(file),), lambda call: pytest.fail("asked"), 5.0)
    assert box is not None
    tools = [tool.as_openai() for tool in box.tools]
    box.close()
    kept = Chats.of(registry).messages(1)
    messages = [{"role": m.role, "content": m.content, **m.data.get("extra", {})} for m in kept]
    with Dialect.of(model) as dialect:
        made = prepared(write("a.jsonl", [{"messages": messages, "tools": tools}]), dialect)
    requests = [one.prompt for one in heard]
    assert len(requests) == 2
    example = made.examples[len(made.examples) - 1]
    starts = [start for e in made.examples for start, _ in _spans(e)]
    assert starts == [len(one) for one in requests]
    assert example.ids[: len(requests[1])].tolist() == requests[1]
    assert targets(example)[-len(heard[1].said) :] == heard[1].said


def dialect_text(example: Example, path: Path) -> str:
    from localllm.engine.options import LoadOptions

    with Model.load(path, LoadOptions(vocab_only=True)) as model:
        return model.tokenizer.decode(targets(example), special=True)


def targets(example: Example) -> list[int]:
    return [int(i) for i in example.ids[example.mask]]


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_follows_the_very_tokens_of_its_request(
    name: str, vocab: str, speak: Speak, write: Write
) -> None:
    dialect = speak(vocab, TEMPLATES[name])
    said = [text for turn in TRICKY for text in turn]
    rows = write("a.jsonl", [chat_row(*said), *(chat_row(*turn) for turn in TRICKY)])
    made = prepared(rows, dialect)
    assert made.report.n_bad == 0, made.report.problems
    requests = _requests(dialect, said)
    talk = [e for e in made.examples if e.source.number == 1]
    found = [(e, span) for e in talk for span in _spans(e)]
    assert len(found) == len(TRICKY)
    for (example, (start, end)), request, (_, answer) in zip(found, requests, TRICKY, strict=True):
        assert example.ids[:start].tolist() == request
        ids = example.ids[start:end].tolist()
        assert dialect.tokenizer.is_eog(ids[-1])
        text = dialect.tokenizer.decode_bytes(ids[:-1], special=True).decode()
        assert text.split("</think>")[-1].strip() == answer.strip()
    # one sequence where the template only appends; SentencePiece may join what it did not say so
    assert (len(talk) == 1) or name in ("qwen3", "deepseek", "harmony") or vocab == "spm"
    assert (len(talk) > 1) or name not in ("qwen3", "deepseek", "harmony")
    # the rows of one turn say the same as the turns of the whole
    singles = [e for e in made.examples if e.source.number > 1]
    assert [len(_spans(e)) for e in singles] == [1] * len(TRICKY)
    assert singles[0].ids.tolist() == [*requests[0], *targets(singles[0])]


def _requests(dialect: Dialect, said: list[str]) -> list[list[int]]:
    """What the engine would be asked, by nothing but its own parts."""
    template = ChatTemplate.of(dialect.model)
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text) for i, text in enumerate(said)]  # type: ignore[arg-type]
    return [
        encode_prompt(dialect.model.tokenizer, template.render(messages[:k]).text)
        for k in range(1, len(messages), 2)
    ]


def _spans(example: Example) -> list[tuple[int, int]]:
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate(([0], example.mask.view(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def test_serve_asks_the_same(tmp_path: Path, write: Write) -> None:
    from localllm.engine.context import Context
    from localllm.engine.options import ContextOptions

    path = scripted(tmp_path / "s.gguf", {"\n": ["one", " two"]})
    rows = write("a.jsonl", [chat_row("count", "one two")])
    with Model.load(path) as model:
        context = Context(model, ContextOptions(n_ctx=256, n_threads=1))
        with SharedGenerator(context) as generator:
            request = generator.request([Message("user", "count")], Sampling(temperature=0))
            answer = generator.submit(request).results()[0]
        (example,) = prepared(rows, Dialect(model)).examples
        context.close()
    assert example.ids.tolist() == [*request.prompt, *answer.tokens]
    assert targets(example) == list(answer.tokens)


def test_a_template_without_a_place_for_answers_is_refused(speak: Speak) -> None:
    deaf = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(UsageProblem, match="no place for answers"):
        speak("bpe", deaf)


def test_thinking_goes_back_the_way_the_template_takes_it(speak: Speak, write: Write) -> None:
    row = chat_row("why?", "because")
    row["messages"][1]["reasoning_content"] = "let me see"
    rows = write("a.jsonl", [row])

    def learned(template: str) -> str:
        dialect = speak("bpe", template)
        (example,) = prepared(rows, dialect).examples
        return dialect.tokenizer.decode(targets(example)[:-1], special=True)

    assert learned(TEMPLATES["qwen3"]) == "<think>\nlet me see\n</think>\n\nbecause"
    assert learned(CHATML) == "<think>\nlet me see\n</think>\n\nbecause"


def test_the_way_of_asking_can_switch_thinking_off(speak: Speak, write: Write) -> None:
    rows = write("a.jsonl", [chat_row("why?", "because")])
    on, off = (speak("bpe", TEMPLATES["qwen3"], thinking=how) for how in ("auto", "off"))
    (thinks,), (answers,) = (prepared(rows, dialect).examples for dialect in (on, off))
    assert thinks.ids.tolist() == answers.ids.tolist()
    assert on.tokenizer.decode(targets(thinks)).startswith("<think>")
    assert off.tokenizer.decode(targets(answers)) == "because"
