"""Calls that are JSON objects, alone or in a list, between marks or without any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localllm.grammars.nodes import (
    EMPTY,
    Node,
    Repeat,
    alt,
    optional,
    seq,
)
from localllm.grammars.strings import literal
from localllm.toolcalls.calls import Found, Tool
from localllm.toolcalls.forcing import Forcing
from localllm.toolcalls.reading import (
    Attempt,
    NoCall,
    Reading,
    as_object,
    call_of,
    elements,
    members,
)


@dataclass(frozen=True)
class JsonCalls:
    """`openers` then `{"name": ..., "arguments": {...}}`, or a list of them, then `close`.

    `gap` stands between a mark and the JSON where we write it; any white space is read.
    `close` may be missing at the end of an answer if `close_optional`. `bare`: nothing marks the
    call, so that only the very beginning of an answer may be one.
    """

    openers: tuple[str, ...]
    close: str = ""
    listed: bool = False
    gap: str = ""
    name_keys: tuple[str, ...] = ("name",)
    argument_keys: tuple[str, ...] = ("arguments", "parameters")
    id_keys: tuple[str, ...] = ("id",)
    close_optional: bool = False
    bare: bool = False
    keyed: bool = False  # {"name": {arguments}}: Apertus
    several: bool = True  # more than one call in an answer

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]:
        if self.bare and opener in "{[":
            attempt.at -= 1  # it is the JSON's own
        found: list[Found] = []
        while True:
            yield from attempt.space()
            written = yield from attempt.json()
            found += self._calls(written)
            if not self.close:
                return found
            yield from attempt.space()
            if attempt.source.final and attempt.at == len(attempt.text) and self.close_optional:
                return found
            if (yield from attempt.has(self.close)):
                return found
            yield from attempt.has(",")

    def _calls(self, written: str) -> list[Found]:
        entries = elements(written) if written.startswith("[") else [written]
        if not entries:
            raise NoCall
        if self.keyed:
            return [_keyed(entry) for entry in entries]
        keys = (self.name_keys, self.argument_keys, self.id_keys)
        return [call_of(entry, *keys) for entry in entries]

    def node(self, forcing: Forcing, begun: bool) -> Node:
        """The calls; with `begun` after an opener that was written already."""
        one = alt(*(self._node(forcing, name, n) for n, name in enumerate(forcing.names)))
        opener = "" if begun or self.bare else self.openers[0]
        more = self.several and forcing.parallel
        if self.listed:
            one = forcing.share("call", one) if more else one
            rest = Repeat(seq(", ", one), 0, None) if more else EMPTY
            return seq(opener, self.gap, "[", one, rest, "]", self._end())
        first = seq(opener, self.gap, one, self._end())
        if not more:
            return first
        whole = forcing.share("call", seq(self.openers[0], self.gap, one, self._end()))
        return seq(first, Repeat(seq(optional("\n"), whole), 0, None))

    def _end(self) -> str:
        return self.gap + self.close if self.close else ""

    def _node(self, forcing: Forcing, name: str, index: int) -> Node:
        arguments = forcing.arguments(index)
        if self.keyed:
            return seq("{", literal(name), ": ", arguments, "}")
        first, second = self.name_keys[0], self.argument_keys[0]
        call_id: Node = EMPTY
        if forcing.writes_ids:
            call_id = seq(', "id": "', forcing.call_id(), '"')
        return seq(f'{{"{first}": ', literal(name), f', "{second}": ', arguments, call_id, "}")


def _keyed(entry: str) -> Found:
    values = members(entry) if entry.startswith("{") else {}
    if len(values) != 1:
        raise NoCall
    ((name, arguments),) = values.items()
    return Found(name, as_object(arguments))


@dataclass(frozen=True)
class NamedJson:
    """`opener`, the name, `between`, the arguments as JSON, `close`: Mistral's new form,
    Functionary, DeepSeek, Kimi.

    `before_name` may stand in front of the name (`function<sep>`, `functions.`), `fence` around
    the JSON. `ignored` are names that are no function but a mark for text (`>>>all`).
    """

    openers: tuple[str, ...]
    between: str
    close: str = ""
    before_name: str = ""
    fence: tuple[str, str] = ("", "")
    section: tuple[str, str] = ("", "")  # marks around all calls
    call_id: str = ""  # the mark before an id, after the name
    index: str = ""  # the mark before a number after the name: Kimi's `name:0`, which is its id
    ignored: tuple[str, ...] = ()
    several: bool = True
    bare: bool = False

    def read(
        self, attempt: Attempt, opener: str, tools: Mapping[str, Tool]
    ) -> Reading[list[Found]]:
        if self.section[0] and opener == self.section[0]:
            return (yield from self._section(attempt))
        return [found] if (found := (yield from self._call(attempt))) else []

    def _section(self, attempt: Attempt) -> Reading[list[Found]]:
        found: list[Found] = []
        while True:
            yield from attempt.space()
            if (yield from attempt.has(self.section[1])):
                return found
            if attempt.source.final and attempt.at == len(attempt.text) and found:
                return found  # the mark is an end of turn in some vocabularies
            yield from attempt.literal(self.openers[0])
            call = yield from self._call(attempt)
            if call is not None:
                found.append(call)

    def _call(self, attempt: Attempt) -> Reading[Found | None]:
        if self.before_name:
            yield from attempt.space()
            yield from attempt.has(self.before_name)
        yield from attempt.space()
        name = yield from attempt.name()
        if name in self.ignored:
            yield from attempt.space()
            return None
        given: str | None = None
        if self.index and self.index in name:
            given = self.before_name + name
            name = name.partition(self.index)[0]
        if self.call_id and (yield from attempt.has(self.call_id)):
            given = yield from attempt.name()
        yield from attempt.space()
        yield from attempt.literal(self.between.strip())
        for mark in (self.fence[0], None, self.fence[1]):
            yield from attempt.space()
            if mark is None:
                arguments = yield from attempt.json()
            elif mark:
                yield from attempt.literal(mark.strip())
        if self.close:
            yield from attempt.space()
            ends = attempt.source.final and attempt.at == len(attempt.text)
            if not ends:
                yield from attempt.literal(self.close)
        if not arguments.startswith("{"):
            raise NoCall
        return Found(name, arguments, given)

    def node(self, forcing: Forcing, begun: bool) -> Node:
        """The calls; with `begun` after an opener that was written already."""
        calls = []
        for n, name in enumerate(forcing.names):
            ident: Node = seq(self.call_id, forcing.call_id()) if self.call_id else EMPTY
            number = f"{self.index}0" if self.index else ""
            head = seq(self.before_name, name, number, ident, self.between)
            calls.append(seq(head, self.fence[0], forcing.arguments(n), self.fence[1], self.close))
        one = alt(*calls)
        opener, end = self.openers[0], self.section[1]
        first = one if begun else seq(self.section[0], opener, one)
        if not (forcing.parallel and self.several):
            return seq(first, end)
        whole = forcing.share("call", seq(opener, one))
        return seq(first, Repeat(seq(optional("\n"), whole), 0, None), end)
