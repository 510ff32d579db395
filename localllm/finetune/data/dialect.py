"""How one model is spoken to: its vocabulary and the chat template that inference will use.

    with Dialect.open(path, preset=Preset.of(model)) as dialect:
        seen = dialect.seen(messages, None)
        asked = dialect.ask(seen.messages[:k])           # what `chat` would send
        ids = dialect.answer(asked, seen, k).ids         # what must come back

The tokens of a request are those of the engine itself (render, then encode_prompt), so training
and inference agree by construction. An answer is what must follow the request token by token for
the conversation to come out as the template writes it, up to the token that ends the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from localllm.closing import Closing
from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.engine.template import ChatTemplate, encode_prompt
from localllm.errors import EngineError, UsageProblem
from localllm.finetune.data.templates import ChosenTemplate, choose
from localllm.finetune.data.thoughts import Thoughts
from localllm.finetune.data.words import Asked, Words
from localllm.generation import Message
from localllm.library.presets import Preset
from localllm.registry import Model as RegistryModel
from localllm.thinking import ThinkingFormat
from localllm.toolcalls import ToolFormat

_PROBE = "localllm-answer-7d2e"
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer's tokens. `known` is the request with it, where a longer one that begins with the
    same text begins with the same tokens."""

    ids: list[int]
    known: Asked | None


@dataclass(frozen=True, slots=True)
class Seen:
    """Messages as the template gets them, and what was thought at each ("" for nothing)."""

    messages: list[Message]
    thoughts: list[str]


@dataclass(frozen=True)
class Manner:
    """What makes a dialect, so that another process can make the same one."""

    path: Path
    chosen: ChosenTemplate
    preset: Preset | None
    day: str
    thinking: str


class Dialect(Closing):
    """Not safe to share between threads while it is closed; reading is."""

    def __init__(
        self, model: Model, *, preset: Preset | None = None,
        template: str | ChosenTemplate | None = None, day: str | None = None,
        thinking: str = "auto",
    ) -> None:  # fmt: skip
        """`model` stays its caller's to close. `template` is a name of `TEMPLATES`, a file of
        Jinja, or "none"; None takes that of the preset or the model, or suits one. `day` is the
        date that templates see (ISO, "2026-05-04"), today by default. `thinking` is "auto",
        "off" or "on", handed to the template as `chat --thinking` does.

        Raises UsageProblem for a template without a place for answers, and what ChatTemplate
        raises where it is broken.
        """
        if thinking not in ("auto", "off", "on"):
            raise UsageProblem(f"thinking is auto, off or on, not {thinking!r}")
        self.model, self.tokenizer = model, model.tokenizer
        self.words = Words(self.tokenizer)
        if isinstance(template, ChosenTemplate):
            self.chosen = template
        else:
            own = ChatTemplate.of(model).source
            preset_own = preset.template if preset else None
            self.chosen = choose(template, preset_own, own, self.tokenizer)
        self.day = _day(day)
        self.template = ChatTemplate.of(model, self.chosen.source, now=lambda: self.day)
        self.preset, self._thinking = preset, thinking
        self.thoughts = Thoughts(ThinkingFormat.of(self.chosen.source))
        switch = {"enable_thinking": thinking == "on", "thinking": thinking == "on"}
        self._variables: Mapping[str, Any] = {} if thinking == "auto" else switch
        self._owned = False
        if self.chosen.source is not None:
            self._check()

    @classmethod
    def open(
        cls, path: Path, *, preset: Preset | Callable[[bool], Preset] | None = None,
        template: str | ChosenTemplate | None = None, day: str | None = None,
        thinking: str = "auto",
    ) -> Dialect:  # fmt: skip
        """Of a GGUF, whose vocabulary alone is loaded; `close` frees it. `preset` may be asked for
        once it is known whether the file has a chat template. Raises as Model.load."""
        model = Model.load(path, LoadOptions(vocab_only=True))
        try:
            if callable(preset):
                preset = preset(ChatTemplate.of(model).source is not None)
            made = cls(model, preset=preset, template=template, day=day, thinking=thinking)
        except BaseException:
            model.close()
            raise
        made._owned = True
        return made

    @classmethod
    def of(
        cls, model: RegistryModel, *, template: str | None = None, day: str | None = None,
        thinking: str = "auto",
    ) -> Dialect:  # fmt: skip
        """Of a registered model, with its preset, as `chat` opens it."""
        return cls.open(
            model.path, preset=lambda has: Preset.of(model, has_template=has), template=template,
            day=day, thinking=thinking,
        )  # fmt: skip

    @classmethod
    def like(cls, manner: Manner) -> Dialect:
        """The same again, in another process. Raises as Model.load."""
        return cls.open(
            manner.path, preset=manner.preset, template=manner.chosen, day=manner.day,
            thinking=manner.thinking,
        )  # fmt: skip

    def close(self) -> None:
        if self._owned:
            self.model.close()

    # --- facts ---------------------------------------------------------------------------

    @property
    def manner(self) -> Manner:
        return Manner(
            self.model.path, self.chosen, self.preset, self.day.isoformat(), self._thinking
        )

    @cached_property
    def n_ctx_train(self) -> int:
        """Tokens that the model was trained on at once; 0 where it does not say."""
        arch = self.model.meta("general.architecture") or ""
        value = self.model.meta(f"{arch}.context_length") or ""
        return int(value) if value.isdigit() else 0

    @cached_property
    def eog(self) -> frozenset[int]:
        return self.tokenizer.eog_tokens

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template tells the model of tools; `chat` offers none where it does not."""
        source = self.template.named.get("tool_use", self.chosen.source)
        arch = self.model.meta("general.architecture") or ""
        return ToolFormat.of(source or "", arch).known

    @cached_property
    def reads_date(self) -> bool:
        """Whether the template writes the date into prompts."""
        return "strftime_now" in (self.chosen.source or "")

    @property
    def end(self) -> int:
        """The token that ends an answer where the template writes none. Raises UsageProblem."""
        found = self.tokenizer.eot if self.tokenizer.eot is not None else self.tokenizer.eos
        if found is None:
            raise UsageProblem(f"{self.model.path.name} has no token that ends an answer")
        return found

    # --- conversations -------------------------------------------------------------------

    def seen(self, messages: Sequence[Message], system: str | None) -> Seen:
        """`messages` as `chat` would show them to the model: behind the preset's own, with the
        system message of `system`, else of the preset, where they bring none."""
        preset = self.preset
        first = [messages[0]] if messages and messages[0].role == "system" else []
        rest = messages[len(first) :]
        if not first:
            text = system if system is not None else (preset.system if preset else None)
            first = [Message("system", text)] if text and text.strip() else []
        own = preset.messages if preset else ()
        shots = [m for m in own if m.role in ("user", "assistant")]
        apart = [self.thoughts.apart(m) for m in (*first, *shots, *rest)]
        return Seen([message for message, _ in apart], [thought for _, thought in apart])

    def ask(
        self, messages: Sequence[Message], tools: Tools = (), known: Asked | None = None
    ) -> Asked:
        """The request for the next answer. `known` is an earlier request with its answer (see
        `Answered`): where the request begins so, only the rest is tokenized. Raises UsageProblem
        where the template refuses."""
        text = self._render(messages, tools, True)
        if known is not None and text.startswith(known.text):
            rest = self.words.after_control(known, text)
            if rest is not None:
                return Asked(text, known.ids + rest)
        return Asked(text, encode_prompt(self.tokenizer, text))

    def whole(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """The tokens of a conversation as it stands, no answer asked for."""
        return encode_prompt(self.tokenizer, self._render(messages, tools, False))

    def answer(self, asked: Asked, seen: Seen, k: int, tools: Tools = ()) -> Answered:
        """What makes message `k` of the request `asked` for those before it, the end of the turn
        last. Raises UsageProblem where the template refuses."""
        answer, thought = seen.messages[k], seen.thoughts[k]
        whole = self._render(seen.messages[: k + 1], tools, False)
        if whole.startswith(asked.text):
            tail = whole[len(asked.text) :]
            if thought and thought.strip() not in tail:
                tail = self.thoughts.written(asked.text, thought) + self.thoughts.without(tail)
        else:
            tail = self.thoughts.after_opening(asked.text, whole, answer.content, thought)
        ids, as_whole = self.words.continued(asked, tail)
        for i in range(len(ids) - 1, -1, -1):
            if ids[i] in self.eog:
                ids = ids[: i + 1]
                return Answered(ids, self._known(asked, tail, ids) if as_whole else None)
        return Answered([*self.words.continued(asked, tail.rstrip())[0], self.end], None)

    def _known(self, asked: Asked, tail: str, ids: list[int]) -> Asked | None:
        """The request with its answer as text and tokens, if it ends with a control token."""
        mark = self.words.mark(ids[-1])
        end = tail.rfind(mark) + len(mark) if mark and mark in tail else None
        return None if end is None else Asked(asked.text + tail[:end], asked.ids + ids)

    def _render(self, messages: Sequence[Message], tools: Tools, asks: bool) -> str:
        return self.template.render(
            messages,
            add_generation_prompt=asks,
            tools=tools if self.knows_tools else (),
            variables=self._variables,
        ).text

    def _check(self) -> None:
        """A template that shows no answers teaches none."""
        probe = [Message("user", "x"), Message("assistant", _PROBE)]
        try:
            text = self._render(probe, (), False)
        except (UsageProblem, EngineError):
            return  # what it refuses is told of each row
        if _PROBE not in text:
            raise UsageProblem(
                f"the chat template of {self.model.path.name} has no place for answers",
                "give one that has: --chat-template chatml",
            )

    def raw(self, text: str) -> Asked:
        """A text to be continued as it stands, as `chat --raw` sends it."""
        return Asked(text, encode_prompt(self.tokenizer, text))


def _day(given: str | None) -> datetime:
    if given is None:
        return datetime.combine(date.today(), datetime.min.time())
    try:
        return datetime.fromisoformat(given)
    except ValueError:
        raise UsageProblem(f"{given!r} is no date", "--date 2026-05-04") from None
