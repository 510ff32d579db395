"""What data is wanted, and how it becomes tokens, as plain values that a recipe can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from localllm.errors import UsageProblem

Format = Literal["chat", "sharegpt", "alpaca", "completion", "qa", "text", "preference"]
Loss = Literal["assistant", "last", "all", "completion"]
Overlong = Literal["truncate", "drop", "split", "error"]
Role = Literal[
    "messages", "prompt", "answer", "context", "system", "text", "chosen", "rejected", "tools"
]

FORMATS: tuple[str, ...] = get_args(Format)
LOSSES: tuple[str, ...] = get_args(Loss)
OVERLONG: tuple[str, ...] = get_args(Overlong)
ROLES: tuple[str, ...] = get_args(Role)

# What each format is called where people read it.
FORMAT_NAMES: Mapping[str, str] = {
    "chat": "chat messages (OpenAI)",
    "sharegpt": "ShareGPT conversations",
    "alpaca": "Alpaca instructions",
    "completion": "prompt and completion",
    "qa": "question and answer",
    "text": "raw text",
    "preference": "preference pairs",
}


@dataclass(frozen=True)
class ChatFilter:
    """Which of the conversations that `chat` kept. Empty takes all.

    `models` and `titles` are parts of a name or title, in whatever case; `since` and `until`
    are seconds since the epoch, of the last message; `ids` are the numbers of `localllm chats`.
    """

    ids: tuple[int, ...] = ()
    models: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class DataSpec:
    """Where rows come from and what they are.

    `from_votes` takes the answers of routers that people judged good, and people's own.
    `sources` are paths of files and folders, and references `hf-dataset:org/name[@rev][:split]`.
    `format` None is detected. `columns` says which column plays a role (see `Role`) where names
    do not. `bad_rows` "error" refuses data with a row that cannot be used, "skip" counts it.
    `duplicates` "drop" keeps the first of rows that say the same. `limit` takes the first rows.
    """

    sources: tuple[str, ...] = ()
    format: Format | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    from_chats: ChatFilter | None = None
    from_votes: bool = False
    bad_rows: Literal["skip", "error"] = "skip"
    duplicates: Literal["keep", "drop"] = "keep"
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.sources and self.from_chats is None and not self.from_votes:
            raise UsageProblem("there is no data to learn from", "--data FILE")
        if self.format is not None and self.format not in FORMATS:
            raise UsageProblem(f"{self.format!r} is no data format", f"one of {_or(FORMATS)}")
        for role in self.columns:
            if role not in ROLES:
                raise UsageProblem(f"{role!r} is no role of a column", f"one of {_or(ROLES)}")
        if self.bad_rows not in ("skip", "error"):
            raise UsageProblem(f"bad rows are skipped or an error, not {self.bad_rows!r}")
        if self.duplicates not in ("keep", "drop"):
            raise UsageProblem(f"duplicates are kept or dropped, not {self.duplicates!r}")
        if self.limit is not None and self.limit < 1:
            raise UsageProblem(f"a limit of {self.limit} rows leaves nothing to learn from")


@dataclass(frozen=True)
class EncodeOptions:
    """How rows become tokens.

    `max_length` is in tokens, of one example; None takes 2048, or the model's context where
    that is shorter. `loss` says which tokens count: "assistant" every answer, "last" the last
    one, "completion" all that the model says after the last question, "all" every token.
    `system` stands in front of rows without a system message; None takes the model's own
    preset, "" none.
    """

    max_length: int | None = None
    overlong: Overlong = "truncate"
    loss: Loss = "assistant"
    system: str | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageProblem(f"{self.loss!r} is no choice of what to learn", _or(LOSSES))
        if self.overlong not in OVERLONG:
            raise UsageProblem(f"{self.overlong!r} is no way with long rows", _or(OVERLONG))
        if self.max_length is not None and self.max_length < 8:
            raise UsageProblem(f"{self.max_length} tokens are too few for an example", "512")


def parse_chat_filter(given: tuple[str, ...]) -> ChatFilter:
    """`model=`, `title=`, `id=`, `since=` and `until=` texts as a filter; dates are ISO, in local
    time. A key that comes again widens what it lets through. Raises UsageProblem."""
    found: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not value or key not in ("model", "title", "id", "since", "until"):
            raise UsageProblem(
                f"{text!r} chooses no conversations", "model=NAME, title=WORDS, since=2026-05-04"
            )
        found.setdefault(key, []).append(value)
    ids = found.get("id", [])
    if not all(text.isdigit() for text in ids):
        raise UsageProblem(f"{', '.join(ids)}: conversations have numbers", "localllm chats")
    return ChatFilter(
        tuple(map(int, ids)), tuple(found.get("model", ())), tuple(found.get("title", ())),
        *(_moment(found[key][-1]) if key in found else None for key in ("since", "until")),
    )  # fmt: skip


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageProblem(f"{text!r} is no date", "since=2026-05-04") from None


def parse_columns(given: tuple[str, ...]) -> dict[str, str]:
    """`role=name` texts as a mapping. Raises UsageProblem."""
    found: dict[str, str] = {}
    for text in given:
        role, equals, name = text.partition("=")
        if not equals or not name:
            raise UsageProblem(f"{text!r} is no role=column", "--column prompt=question")
        if role in found:
            raise UsageProblem(f"the role {role!r} is given to two columns")
        found[role] = name
    return found


def _or(words: tuple[str, ...]) -> str:
    return ", ".join(words)
