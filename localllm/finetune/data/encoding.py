"""One row as tokens. Nothing is kept between rows, so several threads and processes may
work at them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from localllm.errors import EngineError, UsageProblem
from localllm.finetune.data.dialect import Dialect
from localllm.finetune.data.lengths import split_chat
from localllm.finetune.data.rows import BadRow, Chat, Record, RowProblem, Text
from localllm.finetune.data.spec import Overlong
from localllm.finetune.data.turns import Encoded, Limits, chat_sequences, pair_sequences
from localllm.generation import Message


@dataclass(slots=True)
class Made:
    """What became of a row: sequences (of a pair two), the tokens of a piece of text, or what is
    wrong with it. `parts` are sequences that were split to fit; `has_marks` says that the row's
    words hold what the vocabulary reads as control tokens."""

    record: Record | BadRow
    sequences: list[Encoded] = field(default_factory=list)
    parts: list[Encoded] | None = None
    tokens: array[int] | None = None
    has_marks: bool = False
    bad: BadRow | None = None


def make(record: Record | BadRow, dialect: Dialect, limits: Limits, overlong: Overlong) -> Made:
    """Raises nothing of a row: what is wrong with it is in the result."""
    if isinstance(record, BadRow):
        return Made(record, bad=record)
    if isinstance(record, Text):
        ids = dialect.words.text(record.text, first=record.first)
        return Made(record, tokens=array("i", ids))
    made = Made(record)
    try:
        if isinstance(record, Chat):
            made.sequences = chat_sequences(record, dialect, limits)
            if overlong == "split" and any(len(s.ids) > limits.max_length for s in made.sequences):
                made.parts = split_chat(record, dialect, limits)
        else:
            made.sequences = list(pair_sequences(record, dialect, limits))
        made.has_marks = any(dialect.words.marks_in(m.content) for m in _messages(record))
    except RowProblem as problem:
        made.bad = BadRow(problem.kind, problem.reason, record.at)
    except (UsageProblem, EngineError) as error:
        made.bad = BadRow("refused by the template", error.message, record.at)
    return made


def _messages(record: Record) -> tuple[Message, ...]:
    if isinstance(record, Chat):
        return record.messages
    return () if isinstance(record, Text) else (*record.prompt, *record.chosen, *record.rejected)


def size_of(record: Record | BadRow) -> int:
    """Characters of a row, about."""
    if isinstance(record, BadRow):
        return 0
    if isinstance(record, Text):
        return len(record.text)
    return sum(len(m.content) for m in _messages(record))
