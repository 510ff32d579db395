"""Responses that were stored: in memory, the latest used, and nowhere else."""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.generation import Message
from localllm.serve.openai.responses_schemas import InputItem
from localllm.serve.web.problems import RequestProblem

_KEPT = 256  # responses...
_KEPT_CHARS = 32 << 20  # ...of so many characters together
_PREFIX = {"message": "msg", "function_call": "fc", "function_call_output": "fco",
           "reasoning": "rs"}  # fmt: skip


@dataclass(frozen=True)
class Items:
    """Items as JSON, a list: as objects they would take many times the room."""

    ids: tuple[str, ...] = ()
    raw: bytes = b"[]"

    @classmethod
    def of(cls, given: Sequence[InputItem]) -> Items:
        """Those that came without an id get one. Takes long for long ones."""
        own = secrets.token_hex(10)
        ids = tuple(
            one.id or f"{_PREFIX.get(one.type, 'item')}_{own}{i:04}" for i, one in enumerate(given)
        )
        shown = [_shown(id_, one) for id_, one in zip(ids, given, strict=True)]
        return cls(ids, json.dumps(shown).encode())

    def all(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.raw)
        return found


@dataclass(frozen=True)
class Stored:
    """One response: the conversation so far, what was asked last, and what was answered (JSON)."""

    id: str
    messages: tuple[Message, ...]
    inputs: Items = Items()
    response: bytes = b"{}"
    output_ids: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, messages: tuple[Message, ...], inputs: Items, response: Mapping[str, Any]
    ) -> Stored:
        ids = tuple(one["id"] for one in response["output"])
        return cls(response["id"], messages, inputs, json.dumps(response).encode(), ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of what a later request may refer to."""
        return (*self.inputs.ids, *self.output_ids)

    def items(self) -> dict[str, dict[str, Any]]:
        """What a later request may refer to, by id. Parses all of it."""
        return {
            one["id"]: one for one in (*self.inputs.all(), *json.loads(self.response)["output"])
        }

    @property
    def n_chars(self) -> int:
        return sum(map(_size, self.messages)) + len(self.inputs.raw) + len(self.response)


class Kept:
    """What later requests may go on from, retrieve, or refer to. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Stored] = OrderedDict()
        self._whose: dict[str, str] = {}  # the response that an item belongs to
        self._n_chars = 0

    def get(self, response_id: str) -> Stored:
        """Raises RequestProblem for one that is not (or no longer) here."""
        return self._of(response_id, "response_id", None)

    def conversation(self, response_id: str) -> tuple[Message, ...]:
        """Of `previous_response_id`. Raises RequestProblem."""
        code = "previous_response_not_found"
        return self._of(response_id, "previous_response_id", code).messages

    def _of(self, response_id: str, param: str, code: str | None) -> Stored:
        with self._lock:
            found = self._found.get(response_id)
            if found is None:
                raise RequestProblem(
                    f"there is no response {response_id!r} here; the last {_KEPT} are kept in "
                    "memory", param, status=404, code=code,
                )  # fmt: skip
            self._found.move_to_end(response_id)
            return found

    def add(self, stored: Stored) -> None:
        with self._lock:
            self._found[stored.id] = stored
            self._whose |= dict.fromkeys(stored.ids, stored.id)
            self._n_chars += stored.n_chars
            while len(self._found) > _KEPT or self._n_chars > _KEPT_CHARS:
                self._drop(next(iter(self._found)))

    def remove(self, response_id: str) -> None:
        """Raises RequestProblem for one that is not here."""
        self.get(response_id)
        with self._lock:
            if response_id in self._found:
                self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        stored = self._found.pop(response_id)
        self._n_chars -= stored.n_chars
        for id_ in stored.ids:
            if self._whose.get(id_) == response_id:
                del self._whose[id_]

    def resolved(self, given: str | Sequence[InputItem], most_chars: int) -> list[InputItem]:
        """The input as items, those it refers to in place of the references. Raises
        RequestProblem for one that is not here, and for more than a request could have sent."""
        if isinstance(given, str):
            return [InputItem(role="user", content=given)]
        parsed: dict[str, dict[str, dict[str, Any]]] = {}  # each response once
        known: dict[str, tuple[InputItem, int]] = {}
        items, n_chars = [], 0
        for i, one in enumerate(given):
            if not one.is_reference:
                items.append(one)
                continue
            name = one.id or ""
            if name not in known:
                stored = self._with(name, f"input[{i}]")
                if stored.id not in parsed:
                    parsed[stored.id] = stored.items()
                found = parsed[stored.id][name]
                known[name] = InputItem.model_validate(found), len(json.dumps(found))
            item, size = known[name]
            n_chars += size
            if n_chars > most_chars:
                raise RequestProblem(
                    f"the items that are referred to are longer than {most_chars} characters "
                    "together", "input", status=413,
                )  # fmt: skip
            items.append(item)
        return items

    def _with(self, item_id: str, where: str) -> Stored:
        with self._lock:
            stored = self._found.get(self._whose.get(item_id, ""))
        if stored is None:
            raise RequestProblem(
                f"{where}: there is no item {item_id!r} here; those of the last {_KEPT} responses "
                "are kept, unless store is false: send the item itself",
                where, status=404,
            )  # fmt: skip
        return stored


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
