"""An answer as the items of /v1/responses, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from localllm.generation import Message
from localllm.serve.answering.answer import Called, Ended, Part, Said, Thinking
from localllm.serve.openai.chunks import chat_logprobs, new_id
from localllm.serve.openai.responses_schemas import sealed
from localllm.toolcalls import CallArguments, CallEnd, CallStart

# "summary" is a reasoning item that is told as its summary
Kind = Literal["message", "reasoning", "summary", "function_call"]
Event = dict[str, Any]


@dataclass
class _Item:
    """One item under way; `text` is what it says, or a call's arguments."""

    kind: Kind
    index: int
    id: str
    text: str = ""
    status: str = "in_progress"
    call_id: str = ""
    name: str = ""
    namespace: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    seal: bool = False

    def shown(self, status: str) -> dict[str, Any]:
        if self.kind == "function_call":
            within = {} if self.namespace is None else {"namespace": self.namespace}
            return {
                "type": self.kind, "id": self.id, "call_id": self.call_id, "name": self.name,
                **within, "arguments": self.text, "status": status,
            }  # fmt: skip
        content = [self.part()] if self.text or status != "in_progress" else []
        if self.kind in ("reasoning", "summary"):
            told: dict[str, Any] = {"summary": content} if self.kind == "summary" else {
                "summary": [], "content": content
            }  # fmt: skip
            if self.seal and status != "in_progress":
                told["encrypted_content"] = sealed(self.text)
            return {"type": "reasoning", "id": self.id, **told, "status": status}
        return {"type": self.kind, "id": self.id, "role": "assistant", "content": content,
                "status": status}  # fmt: skip

    def part(self) -> dict[str, Any]:
        if self.kind in ("reasoning", "summary"):
            return {"type": f"{self.kind}_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [],
                "logprobs": list(self.logprobs)}  # fmt: skip

    def at(self) -> dict[str, Any]:
        where: dict[str, Any] = {"item_id": self.id, "output_index": self.index}
        if self.kind == "function_call":
            return where
        return where | {"summary_index" if self.kind == "summary" else "content_index": 0}


_PREFIX: dict[Kind, str] = {
    "message": "msg", "reasoning": "rs", "summary": "rs", "function_call": "fc"
}  # fmt: skip
_TEXT: dict[Kind, str] = {
    "message": "output_text", "reasoning": "reasoning_text", "summary": "reasoning_summary_text",
    "function_call": "function_call_arguments",
}  # fmt: skip
_PART: dict[Kind, str] = {
    "message": "content_part", "reasoning": "content_part", "summary": "reasoning_summary_part"
}  # fmt: skip


@dataclass
class Output:
    """Takes parts, gives events, keeps the items."""

    tokenizer: Any  # the model's
    summary: bool = False  # the thinking is told as a summary
    seal: bool = False  # and given to be sent back
    namespaces: Mapping[str, str] = field(default_factory=dict)  # of functions, by name
    done: list[_Item] = field(default_factory=list)
    open: _Item | None = None
    ended: Ended | None = None
    _logprobs: list[dict[str, Any]] = field(default_factory=list)  # of text that is to come

    def take(self, part: Part) -> list[Event]:
        if isinstance(part, Said):
            if part.logprobs:
                self._logprobs += chat_logprobs(self.tokenizer, part.logprobs)
            return self._text("message", part.text) if part.text else []
        if isinstance(part, Thinking):
            self._logprobs.clear()  # those of the thinking are not told
            return self._text("summary" if self.summary else "reasoning", part.text)
        if isinstance(part, Ended):
            self.ended = part
            if self.open is not None and part.accounting.finish_reason != "stop":
                return self._close("incomplete")
            return self._close()
        assert isinstance(part, Called)  # only completions ask for what a prompt scores
        return self._call(part)

    def _call(self, part: Called) -> list[Event]:
        made = part.part
        if isinstance(made, CallStart):
            events = self._close()
            item = self._new("function_call")
            item.call_id, item.name = made.id, made.name
            item.namespace = self.namespaces.get(made.name)
            return [*events, self._added(item)]
        if isinstance(made, CallArguments):
            return self._delta(made.text)
        assert isinstance(made, CallEnd)
        return self._close()

    def _text(self, kind: Kind, text: str) -> list[Event]:
        events: list[Event] = []
        if self.open is None or self.open.kind != kind:
            events += self._close()
            item = self._new(kind)
            events += [
                self._added(item),
                {"type": f"response.{_PART[kind]}.added", **item.at(), "part": item.part()},
            ]
        return [*events, *self._delta(text)]

    def _new(self, kind: Kind) -> _Item:
        name = new_id(_PREFIX[kind]).replace("-", "_")
        self.open = _Item(kind, len(self.done), name, seal=self.seal)
        return self.open

    @staticmethod
    def _added(item: _Item) -> Event:
        return {
            "type": "response.output_item.added", "output_index": item.index,
            "item": item.shown("in_progress"),
        }  # fmt: skip

    def _delta(self, text: str) -> list[Event]:
        item = self.open
        assert item is not None
        item.text += text
        event = {"type": f"response.{_TEXT[item.kind]}.delta", **item.at(), "delta": text}
        if item.kind == "message":
            event["logprobs"], self._logprobs = self._logprobs, []
            item.logprobs += event["logprobs"]
        return [event]

    def _close(self, status: str = "completed") -> list[Event]:
        item, self.open = self.open, None
        if item is None:
            return []
        item.status = status
        self.done.append(item)
        said = {"arguments": item.text, "name": item.name}
        if item.kind != "function_call":
            said = {"text": item.text}
        events: list[Event] = [{"type": f"response.{_TEXT[item.kind]}.done", **item.at(), **said}]
        if item.kind == "message":
            events[0]["logprobs"] = list(item.logprobs)
        if item.kind != "function_call":
            kind = f"response.{_PART[item.kind]}.done"
            events.append({"type": kind, **item.at(), "part": item.part()})
        return [
            *events,
            {
                "type": "response.output_item.done", "output_index": item.index,
                "item": item.shown(status),
            },
        ]  # fmt: skip

    def items(self) -> list[dict[str, Any]]:
        return [item.shown(item.status) for item in self.done]

    def message(self) -> Message:
        """What was thought, said and called, as a turn of the conversation."""
        text = "\n".join(item.text for item in self.done if item.kind == "message")
        calls = [
            {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": item.text},
            }
            for item in self.done
            if item.kind == "function_call"
        ]
        thoughts = [item.text for item in self.done if item.kind in ("reasoning", "summary")]
        extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if thoughts:
            extra["reasoning_content"] = "\n".join(thoughts)
        return Message("assistant", text, extra)
