"""Responses that were stored: in memory, the latest used, and nowhere else."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm.generation import Message
from localllm.serve.openai.responses_schemas import InputImage, InputItem, InputText
from localllm.serve.web.problems import RequestProblem

_KEPT = 256  # responses...
_KEPT_CHARS = 32 << 20  # ...of so many characters together
_PREFIX = {"message": "msg", "function_call": "fc", "function_call_output": "fco",
           "reasoning": "rs"}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One response: the conversation so far, what was asked last, and what was answered."""

    messages: tuple[Message, ...]
    inputs: Sequence[InputItem] = ()
    response: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.response["id"])

    def input_items(self) -> list[dict[str, Any]]:
        """As they are listed, in order."""
        return [_shown(id_, one) for id_, one in self._named()]

    def items(self) -> Iterator[tuple[str, InputItem | Mapping[str, Any]]]:
        """What a later request may refer to, each with its id."""
        yield from self._named()
        for one in self.response.get("output", ()):
            yield one["id"], one

    def _named(self) -> Iterator[tuple[str, InputItem]]:
        """Those that came without an id have one by their place."""
        own = self.id.removeprefix("resp_")
        for i, one in enumerate(self.inputs):
            yield one.id or f"{_PREFIX.get(one.type, 'item')}_{own}{i:04}", one

    @property
    def n_chars(self) -> int:
        return sum(map(_size, self.messages)) + sum(map(_item_size, self.inputs)) + len(
            json.dumps(self.response)
        )  # fmt: skip


class Kept:
    """What later requests may go on from, retrieve, or refer to."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._items: dict[str, tuple[str, InputItem | Mapping[str, Any]]] = {}  # and whose
        self._n_chars = 0

    def get(self, response_id: str) -> Stored:
        """Raises RequestProblem for one that is not (or no longer) here."""
        if response_id not in self._found:
            raise _gone(response_id, "response_id", None)
        self._found.move_to_end(response_id)
        return self._found[response_id][0]

    def conversation(self, response_id: str) -> tuple[Message, ...]:
        """Of `previous_response_id`. Raises RequestProblem."""
        if response_id not in self._found:
            raise _gone(response_id, "previous_response_id", "previous_response_not_found")
        return self.get(response_id).messages

    def add(self, stored: Stored) -> None:
        n_chars = stored.n_chars
        self._found[stored.id] = stored, n_chars
        self._items |= {id_: (stored.id, one) for id_, one in stored.items()}
        self._n_chars += n_chars
        while len(self._found) > _KEPT or self._n_chars > _KEPT_CHARS:
            self._drop(next(iter(self._found)))

    def remove(self, response_id: str) -> None:
        """Raises RequestProblem for one that is not here."""
        self.get(response_id)
        self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        stored, n_chars = self._found.pop(response_id)
        self._n_chars -= n_chars
        for id_, _ in stored.items():
            if self._items.get(id_, ("", None))[0] == response_id:
                del self._items[id_]

    def resolved(self, given: str | Sequence[InputItem]) -> list[InputItem]:
        """The input as items, those it refers to in place of the references. Raises
        RequestProblem for one that is not here."""
        if isinstance(given, str):
            return [InputItem(role="user", content=given)]
        return [self._item(one, f"input[{i}]") for i, one in enumerate(given)]

    def _item(self, given: InputItem, where: str) -> InputItem:
        if not given.is_reference:
            return given
        _, found = self._items.get(given.id or "", ("", None))
        if found is None:
            raise RequestProblem(
                f"{where}: there is no item {given.id!r} here; those of the last {_KEPT} "
                "responses are kept, unless store is false: send the item itself",
                where, status=404,
            )  # fmt: skip
        return found if isinstance(found, InputItem) else InputItem.model_validate(found)


def _gone(response_id: str, param: str, code: str | None) -> RequestProblem:
    return RequestProblem(
        f"there is no response {response_id!r} here; the last {_KEPT} are kept in memory",
        param, status=404, code=code,
    )  # fmt: skip


def _shown(id_: str, item: InputItem) -> dict[str, Any]:
    found = item.model_dump(exclude_none=True)
    if item.type == "message" and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        found["content"] = [{"type": kind, "text": item.content}]
    return {**found, "id": id_, "status": "completed"}


def _size(message: Message) -> int:
    extra = message.extra
    return (
        len(message.content)
        + len(extra.get("reasoning_content", ""))
        + sum(map(len, extra.get("images", ())))
        + sum(len(call["function"]["arguments"]) for call in extra.get("tool_calls", ()))
    )


def _item_size(item: InputItem) -> int:
    n_chars = len(item.arguments or "") + len(item.encrypted_content or "")
    for given in (item.content, item.output):
        if isinstance(given, str):
            n_chars += len(given)
            continue
        for part in given or ():
            if isinstance(part, InputText):
                n_chars += len(part.text)
            elif isinstance(part, InputImage):
                n_chars += len(part.image_url or "")
            else:
                n_chars += len(str(part))
    return n_chars
