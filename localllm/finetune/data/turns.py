"""A conversation as token sequences, with the tokens that count.

For each answer the request is made as `chat` makes it for the messages before. Most templates
only ever append: then the next request begins with the last one and its answer, and the whole
conversation is one sequence. Where a template rewrites what was said before (thinking that is
taken out of earlier answers, an end token that becomes another), the next request does not begin
so, and the answer gets a sequence of its own: what is learned is always what will be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.finetune.data.dialect import Dialect, Seen, Tools
from localllm.finetune.data.rows import Chat, Preference, RowProblem
from localllm.finetune.data.spec import Loss
from localllm.finetune.data.words import Asked
from localllm.generation import Message

_FAR = 8  # times the longest example: beyond it answers are not even looked at


@dataclass
class Encoded:
    """`spans` are the places of the tokens that count, in order, each end excluded."""

    ids: list[int]
    spans: list[tuple[int, int]]

    @property
    def n_targets(self) -> int:
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True)
class Limits:
    """`max_length` in tokens; a conversation is looked at no further than `_FAR` times that."""

    loss: Loss
    max_length: int
    system: str | None = None


def chat_sequences(chat: Chat, dialect: Dialect, limits: Limits) -> list[Encoded]:
    """Raises RowProblem where nothing of it can be learned, UsageProblem where the template
    refuses it."""
    seen = dialect.seen(chat.messages, limits.system)
    shift = len(seen.messages) - len(chat.messages)
    wanted = _wanted(chat, limits.loss)
    if dialect.chosen.source is None:
        return [_raw(chat.messages, dialect, limits.loss)]
    targets = [k + shift for k in wanted]
    found = sequences(seen, targets, chat.tools, dialect, limits)
    if limits.loss == "all":
        found = [Encoded(one.ids, [(1, len(one.ids))]) for one in found[-1:]]
    return found


def sequences(
    seen: Seen, targets: Sequence[int], tools: Tools, dialect: Dialect, limits: Limits
) -> list[Encoded]:
    """Of the answers at `targets` (places in `seen`), in order."""
    found: list[Encoded] = []
    known: Asked | None = None
    for k in targets:
        asked = dialect.ask(seen.messages[:k], tools, known)
        answered = dialect.answer(asked, seen, k, tools)
        ids, known = asked.ids + answered.ids, answered.known
        start, end = len(asked.ids), len(ids)
        if found and asked.ids[: len(found[-1].ids)] == found[-1].ids:
            found[-1].ids = ids
            found[-1].spans.append((start, end))
        else:
            found.append(Encoded(ids, [(start, end)]))
        if start > _FAR * limits.max_length:
            break
    return found


def _wanted(chat: Chat, loss: Loss) -> list[int]:
    """Places of the answers to learn. Raises RowProblem where there are none."""
    messages = chat.messages
    answers = [k for k, m in enumerate(messages) if m.role == "assistant" and _asked(messages, k)]
    if not answers:
        raise RowProblem("no answer", "it has no answer to a question")
    said = [k for k in answers if not _is_empty(messages[k])]
    if not said:
        raise RowProblem("empty", "its answers are empty")
    counted = [k for k in said if chat.counts[k]]
    if not counted:
        raise RowProblem("nothing counts", "none of its answers counts (weight 0, or cut off)")
    if loss == "last":
        return [k for k in counted if k == said[-1]] or _not_last()
    if loss == "completion":
        question = max((k for k in range(said[-1]) if messages[k].role == "user"), default=-1)
        return [k for k in counted if k > question] or _not_last()
    return counted


def _not_last() -> list[int]:
    raise RowProblem("nothing counts", "its last answer does not count (weight 0, or cut off)")


def _asked(messages: Sequence[Message], k: int) -> bool:
    """Whether anything but instructions stands before it: nobody asked for the rest."""
    return any(m.role != "system" for m in messages[:k])


def _is_empty(message: Message) -> bool:
    return not message.content.strip() and not message.extra.get("tool_calls")


def _raw(messages: Sequence[Message], dialect: Dialect, loss: Loss) -> Encoded:
    """Without a template: the prompt as it stands, and what follows it."""
    roles = [m.role for m in messages]
    if roles != ["user", "assistant"]:
        raise RowProblem("needs a template", "without a chat template a row is prompt and answer")
    asked = dialect.raw(messages[0].content)
    answer = messages[1].content
    ids = asked.ids + dialect.words.continued(asked, answer)[0] + _ending(dialect)
    start = 1 if loss == "all" else len(asked.ids)
    return Encoded(ids, [(start, len(ids))])


def _ending(dialect: Dialect) -> list[int]:
    eos = dialect.tokenizer.eos
    return [] if eos is None else [eos]


def pair_sequences(pair: Preference, dialect: Dialect, limits: Limits) -> tuple[Encoded, Encoded]:
    """Both answers after the same request; what comes after it counts. Raises as above."""
    chosen, rejected = (_side(pair, side, dialect, limits) for side in (pair.chosen, pair.rejected))
    if chosen.ids == rejected.ids:
        raise RowProblem("no preference", "chosen and rejected are the same in tokens")
    return chosen, rejected


def _side(pair: Preference, side: Sequence[Message], dialect: Dialect, limits: Limits) -> Encoded:
    if dialect.chosen.source is None:
        return _raw((*pair.prompt, *side), dialect, "assistant")
    seen = dialect.seen((*pair.prompt, *side), limits.system)
    first, end = len(seen.messages) - len(side), len(seen.messages)
    targets = [k for k in range(first, end) if seen.messages[k].role == "assistant"]
    found = sequences(seen, targets, pair.tools, dialect, limits)
    if len(found) != 1:
        raise RowProblem(
            "rewritten", "the template rewrites earlier answers: a pair needs one answer a side"
        )
    return found[0]
