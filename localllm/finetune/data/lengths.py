"""What is longer than an example may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.errors import UsageProblem
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.rows import Chat, RowAt
from localllm.finetune.data.spec import EncodeOptions, Overlong
from localllm.finetune.data.turns import Encoded, Limits, chat_sequences
from localllm.generation import Message

DEFAULT_LENGTH = 2048


@dataclass(frozen=True)
class Fitted:
    """`lost_tokens` were cut off, `lost_targets` of them would have counted. `dropped` are
    sequences that are left out whole."""

    sequences: tuple[Encoded, ...]
    lost_tokens: int = 0
    lost_targets: int = 0
    truncated: int = 0
    dropped: int = 0


def length_for(options: EncodeOptions, dialect: Dialect) -> int:
    """The longest example in tokens. Raises UsageProblem for more than the model has."""
    trained = dialect.n_ctx_train
    if options.max_length is None:
        return min(DEFAULT_LENGTH, trained or DEFAULT_LENGTH)
    if trained and options.max_length > trained:
        raise UsageProblem(
            f"{options.max_length} tokens are more than the {trained} that the model was made for",
            f"--max-length {trained}",
        )
    return options.max_length


def fit(found: Sequence[Encoded], limit: int, policy: Overlong, at: RowAt) -> Fitted:
    """`found` within `limit` tokens each; under "split" only what could not be split is long
    still, and is cut. Raises UsageProblem under "error"."""
    kept: list[Encoded] = []
    lost = targets = truncated = dropped = 0
    for one in found:
        if len(one.ids) <= limit:
            kept.append(one)
            continue
        if policy == "error":
            raise UsageProblem(
                f"{at} is {len(one.ids)} tokens, an example may be {limit}",
                "--max-length, or --overlong truncate, split or drop",
            )
        cut = _cut(one, limit)
        if policy == "drop" or not cut.spans:
            dropped += 1
            lost, targets = lost + len(one.ids), targets + one.n_targets
            continue
        kept.append(cut)
        truncated += 1
        lost, targets = lost + len(one.ids) - limit, targets + one.n_targets - cut.n_targets
    return Fitted(tuple(kept), lost, targets, truncated, dropped)


def _cut(one: Encoded, limit: int) -> Encoded:
    spans = [(start, min(end, limit)) for start, end in one.spans if start < limit]
    return Encoded(one.ids[:limit], spans)


def split_chat(chat: Chat, dialect: Dialect, limits: Limits) -> list[Encoded]:
    """A conversation that is too long, in parts of whole turns, each behind the system message;
    every answer counts in one of them. A turn that is too long alone stays so."""
    first = 1 if chat.messages and chat.messages[0].role == "system" else 0
    turns = _turns(chat.messages, first)
    found: list[Encoded] = []
    begin = 0
    held: list[Encoded] = []
    for n in range(len(turns)):
        part = _part(chat, first, turns[begin : n + 1])
        made = _sequences(part, dialect, limits)
        if n > begin and max((len(one.ids) for one in made), default=0) > limits.max_length:
            found += held
            begin = n
            made = _sequences(_part(chat, first, turns[n : n + 1]), dialect, limits)
        held = made
    return [*found, *held]


def _sequences(part: Chat, dialect: Dialect, limits: Limits) -> list[Encoded]:
    from localllm.finetune.data.rows import RowProblem

    try:
        return chat_sequences(part, dialect, limits)
    except RowProblem:  # these turns have nothing to learn in them
        return []


def _turns(messages: Sequence[Message], first: int) -> list[range]:
    """Places of each turn: what a user says and all until they say more."""
    starts = [k for k in range(first, len(messages)) if messages[k].role == "user"]
    if not starts or starts[0] > first:
        starts.insert(0, first)
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(messages)], strict=True)]


def _part(chat: Chat, first: int, turns: Sequence[range]) -> Chat:
    places = [*range(first), *(k for turn in turns for k in turn)]
    return Chat(
        tuple(chat.messages[k] for k in places), tuple(chat.counts[k] for k in places), chat.tools,
        chat.at,
    )  # fmt: skip
