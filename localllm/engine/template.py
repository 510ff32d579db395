"""From a conversation to a prompt, by the model's own chat template.

The template is Jinja in the GGUF metadata (`tokenizer.chat_template`, and named variants
such as `tokenizer.chat_template.tool_use`), run as Hugging Face runs it but in a bounded
sandbox. A base model without one gets a plain dialogue:

    You are terse.

    User: Hi
    Assistant:
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from localllm.engine.sandbox import compile_template, render_bounded
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Message

if TYPE_CHECKING:
    from localllm.engine.model import Model
    from localllm.engine.tokenizer import Tokenizer

_KEY = "tokenizer.chat_template"
_MAX_TEMPLATE_CHARS = 128 * 1024
_PLAIN_STOP = ("\nUser:",)
_PLAIN_ROLES = {"user": "User", "assistant": "Assistant", "tool": "Tool"}
_PROBE = "localllm-probe-3c1f"


@dataclass(frozen=True)
class Rendered:
    """A prompt as text. `stop` are strings that end a turn where no token does."""

    text: str
    stop: tuple[str, ...] = ()


class ChatTemplate:
    """One model's template. Compiled on first use; safe to use from threads.

    Rendering raises UsageProblem when the template refuses the conversation (its own
    words), EngineError when it is broken or does too much work.
    """

    def __init__(
        self,
        source: str | None,
        *,
        named: Mapping[str, str] | None = None,
        tokens: Mapping[str, str] | None = None,
        owner: str = "this model",
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`source` None is the plain dialogue; `tokens` maps bos_token, eos_token, ... to text."""
        self.source = source
        self.named = dict(named or {})
        self._tokens = dict(tokens or {})
        self._owner = owner
        self._now = now
        self._compiled: dict[str, Any] = {}
        self._argument_text: dict[str, bool] = {}  # by source

    @classmethod
    def of(
        cls,
        model: Model,
        source: str | None = None,
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> ChatTemplate:
        """The model's own templates; `source` replaces the main one."""
        metadata = model.metadata()
        named = {
            key.removeprefix(_KEY + "."): text
            for key, text in metadata.items()
            if key.startswith(_KEY + ".")
        }
        return cls(
            source if source is not None else metadata.get(_KEY),
            named=named,
            tokens=_special_tokens(model.tokenizer),
            owner=model.path.name,
            now=now,
        )

    @property
    def is_plain(self) -> bool:
        """Whether the model has no template, so that the plain dialogue is used."""
        return self.source is None

    @cached_property
    def supports_system(self) -> bool:
        """Whether a system message reaches the prompt: some templates refuse it, some drop it."""
        if self.source is None:
            return True
        probe = [_plain_dict(Message("system", _PROBE)), _plain_dict(Message("user", "x"))]
        try:
            return _PROBE in self._run(self.source, probe, (), True, {})
        except UsageProblem:
            return False

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The prompt for `messages`, opened for the assistant's answer.

        With `tools`, the variant named tool_use is used if the model has one. `variables`
        are handed to the template (enable_thinking, documents, ...). A system message
        that the template does not take is put in front of the first user message.
        """
        if not messages:
            raise UsageProblem("there are no messages to answer")
        source = self.named.get("tool_use", self.source) if tools else self.source
        if source is None:
            return Rendered(_plain(messages, add_generation_prompt), _PLAIN_STOP)
        if any(message.role == "system" for message in messages) and not self.supports_system:
            messages = merge_system(messages)
        dicts = [_plain_dict(message) for message in messages]
        if any(message.get("tool_calls") for message in dicts):
            dicts = with_arguments(dicts, as_text=self._wants_argument_text(source))
        return Rendered(
            self._run(source, dicts, tools, add_generation_prompt, dict(variables or {}))
        )

    def _wants_argument_text(self, source: str) -> bool:
        """Whether the arguments of tool calls go in as JSON text: where the template fails on an
        object, or writes it as Python would."""
        if source not in self._argument_text:
            call = {"name": "f", "arguments": {"k": _PROBE}}
            calls = [{"type": "function", "id": "localllm0", "function": call}]
            probe = [_plain_dict(Message("user", "x")),
                     {"role": "assistant", "content": "", "tool_calls": calls}]  # fmt: skip
            try:
                text = self._run(source, probe, (), False, {})
                wants = f"{{'k': '{_PROBE}'" in text
            except (UsageProblem, EngineError):
                wants = True
            self._argument_text[source] = wants
        return self._argument_text[source]

    def _run(
        self,
        source: str,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        variables: dict[str, Any],
    ) -> str:
        import jinja2

        from localllm.engine.budget import OverBudget

        given = self._tokens | variables
        given |= {
            "messages": messages,
            "tools": [dict(tool) for tool in tools] or None,
            "documents": variables.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        functions = {"raise_exception": _refuse, "strftime_now": self._strftime}
        try:
            template = self._template(source)
            template.globals.update(functions)
            return render_bounded(template, given)
        except Refusal as refusal:
            raise UsageProblem(
                f"the chat template of {self._owner} refuses this conversation: {refusal}"
            ) from None
        except OverBudget as error:
            raise EngineError(f"the chat template of {self._owner} was stopped: {error}") from None
        except jinja2.TemplateSyntaxError as error:
            where = f"line {error.lineno}"
            raise self._broken(f"{where}: {error.message}") from None
        except (jinja2.TemplateError, *_EXPRESSION_ERRORS) as error:
            raise self._broken(f"{type(error).__name__}: {error}") from None

    def _template(self, source: str) -> Any:
        if len(source) > _MAX_TEMPLATE_CHARS:
            raise EngineError(
                f"the chat template of {self._owner} has {len(source)} characters; "
                f"at most {_MAX_TEMPLATE_CHARS} are taken"
            )
        found = self._compiled.get(source)
        if found is None:
            found = self._compiled[source] = compile_template(source)
        return found

    def _strftime(self, form: str) -> str:
        # C's strftime pads to any width it is told
        if not isinstance(form, str) or len(form) > 256 or re.search("[0-9]{3,}", form):
            raise Refusal("it asks for a date in an unreasonable form")
        return self._now().strftime(form)

    def _broken(self, why: str) -> EngineError:
        line = " ".join(why.split())[:300]
        return EngineError(
            f"the chat template of {self._owner} fails: {line}",
            "give another one with --template FILE",
        )


class Refusal(Exception):
    """The template called raise_exception."""


# What expressions of a template may raise: they are Python's.
_EXPRESSION_ERRORS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip


def with_arguments(messages: list[dict[str, Any]], *, as_text: bool) -> list[dict[str, Any]]:
    """`messages` with the arguments of their tool calls as JSON text or as the objects that it
    is; what is no JSON stays as it is."""
    return [
        message | {"tool_calls": [_with_arguments(call, as_text) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list | tuple)
        else message
        for message in messages
    ]


def _with_arguments(call: Any, as_text: bool) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
    return {**call, "function": {**function, "arguments": arguments}}


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """System texts in front of the first user message, a blank line between; nothing is lost."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first = next((i for i, message in enumerate(rest) if message.role == "user"), None)
    if not system:
        return rest
    if first is None:
        return [Message("user", "\n\n".join(system)), *rest]
    user = rest[first]
    merged = Message("user", "\n\n".join([*system, user.content]), user.extra)
    return [*rest[:first], merged, *rest[first + 1 :]]


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a rendered prompt, with one BOS where the vocabulary wants one.

    Most templates write BOS themselves, some leave it to the tokenizer; never both. EOS is
    never added: the answer is still to come.
    """
    tokens = tokenizer.encode(text, add_special=False, parse_special=True)
    bos = tokenizer.bos
    if tokenizer.adds_bos and bos is not None and tokens[:1] != [bos]:
        return [bos, *tokens]
    return tokens


def _special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    ids = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos, "pad_token": tokenizer.pad}
    return {name: tokenizer.text(token) if token is not None else "" for name, token in ids.items()}


def _plain_dict(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, **message.extra}


def _plain(messages: Sequence[Message], add_generation_prompt: bool) -> str:
    turns = []
    for message in messages:
        role = _PLAIN_ROLES.get(message.role)
        # System text stands alone, in front, as a base model would meet it in a document.
        turns.append(f"{role}: {message.content}\n" if role else f"{message.content}\n\n")
    return "".join(turns) + ("Assistant:" if add_generation_prompt else "")


def _refuse(message: object = "") -> str:
    raise Refusal(" ".join(str(message).split())[:300])
