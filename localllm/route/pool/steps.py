"""What chooses a member, one step after the other: the first that decides has decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from localllm.errors import UsageProblem
from localllm.route.text.languages import NAMES

Period = Literal["hour", "day", "month"]
PERIODS: tuple[str, ...] = get_args(Period)
Signal = Literal["logprobs", "agreement", "p_true"]
SIGNALS: tuple[str, ...] = get_args(Signal)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

CENTRE = 0.7  # of a signal, from which a combiner counts

MAX_RULES, MAX_DOMAINS, MAX_EXAMPLES = 200, 100, 500
MAX_PATTERN, MAX_SAMPLES, MAX_TITLE = 500, 16, 100


@dataclass(frozen=True)
class Rule:
    """`to` where all that is given holds; a rule that gives nothing always holds.

    `pattern` is searched in the prompt, whatever its case. `words` hold if one of them occurs.
    `languages` are those of `text.languages` ("german", "japanese", "latin" ...). Characters are
    of the whole conversation, and so are `attachments`: images, or files as `chat --file` and
    `/file` put them into a message (their name, and their text in a fence). `hours` is
    "22:00-06:00" in local time. `spent_over` holds once the router has spent that much in this
    hour, day or month.
    """

    to: str
    name: str = ""
    pattern: str | None = None
    words: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    min_chars: int | None = None
    max_chars: int | None = None
    attachments: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    hours: str | None = None
    days: tuple[str, ...] = ()
    spent_over: float | None = None
    per: Period = "day"

    def __post_init__(self) -> None:
        _check_title(self.name)
        where = f"rule {self.name or self.to!r}"
        if self.pattern is not None and len(self.pattern) > MAX_PATTERN:
            raise UsageProblem(f"{where}: its pattern is longer than {MAX_PATTERN} characters")
        unknown = [one for one in self.languages if one.casefold() not in NAMES]
        if unknown:
            raise UsageProblem(
                f"{where}: {unknown[0][:40]!r} is no language that can be told",
                f"known: {', '.join(NAMES)}",
            )
        if set(self.days) - set(DAYS):
            raise UsageProblem(f"{where}: days are {', '.join(DAYS)}")
        if self.per not in PERIODS:
            raise UsageProblem(f"{where}: per is none of {', '.join(PERIODS)}")
        if self.hours is not None:
            hours_of(self.hours)
        for n in (self.min_chars, self.max_chars, self.spent_over):
            if n is not None and not 0 <= n < 1e12:
                raise UsageProblem(f"{where}: {n} is no size")


@dataclass(frozen=True)
class RulesStep:
    use: ClassVar[str] = "rules"
    rules: tuple[Rule, ...]

    @property
    def members(self) -> Iterator[str]:
        return (rule.to for rule in self.rules)


@dataclass(frozen=True)
class Domain:
    """A field, by prompts that are of it."""

    name: str
    to: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class DomainsStep:
    """The field whose examples a prompt is most like; none where that is less than `abstain`
    (cosine, 0 to 1). `by` is what alike means: words, or the small embedding model."""

    use: ClassVar[str] = "domains"
    domains: tuple[Domain, ...]
    abstain: float = 0.2
    by: Literal["words", "embedding"] = "words"

    def __post_init__(self) -> None:
        _share("abstain", self.abstain)
        if self.by not in ("words", "embedding"):
            raise UsageProblem(f"domains: by is words or embedding, not {self.by!r}")
        names = [one.name for one in self.domains]
        if not names or len(set(names)) != len(names):
            raise UsageProblem("domains: none is named, or one twice")
        for one in self.domains:
            _check_title(one.name)
            if not one.examples or not all(text.strip() for text in one.examples):
                raise UsageProblem(f"domain {one.name!r} has no examples, or an empty one")

    @property
    def members(self) -> Iterator[str]:
        return (one.to for one in self.domains)


@dataclass(frozen=True)
class PairStep:
    """Steps between a cheaper and a better member."""

    weak: str
    strong: str

    def __post_init__(self) -> None:
        if self.weak == self.strong:
            raise UsageProblem(f"weak and strong are the same member, {self.weak}")

    @property
    def members(self) -> Iterator[str]:
        return iter((self.weak, self.strong))


@dataclass(frozen=True)
class PredictorStep(PairStep):
    """Strong where it is needed with at least `threshold` probability, by what was trained."""

    use: ClassVar[str] = "predictor"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _share("threshold", self.threshold)


@dataclass(frozen=True)
class Combiner:
    """P(the weak answer is good) = logistic(intercept + sum over the signals in use of
    weight x (signal - 0.7)); see answering.confidence for the signals, each from 0 to 1. These
    weights were set by hand: `route train` fits others to labelled answers (route.cascades)."""

    intercept: float = 0.5
    logprobs: float = 6.0
    agreement: float = 4.0
    p_true: float = 4.0

    def __post_init__(self) -> None:
        for value in (self.intercept, self.logprobs, self.agreement, self.p_true):
            if not abs(value) <= 1e4:
                raise UsageProblem("cascade: a weight of the combiner is no sane number")


@dataclass(frozen=True)
class CascadeStep(PairStep):
    """The weak member answers first; strong is asked where its answer is good with less than
    1 - `threshold` probability. `samples` are drawn together for `agreement`."""

    use: ClassVar[str] = "cascade"
    threshold: float = 0.5
    signals: tuple[Signal, ...] = ("logprobs",)
    samples: int = 1
    look_tokens: int = 24  # of the answer before a word of it is shown
    combiner: Combiner = field(default_factory=Combiner)

    def __post_init__(self) -> None:
        super().__post_init__()
        _share("threshold", self.threshold)
        if not self.signals or set(self.signals) - set(SIGNALS):
            raise UsageProblem(f"cascade: signals are some of {', '.join(SIGNALS)}")
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise UsageProblem(f"cascade: samples is 1 to {MAX_SAMPLES}, not {self.samples}")
        if "agreement" in self.signals and self.samples < 2:
            raise UsageProblem("cascade: agreement needs samples of at least 2")
        if not 1 <= self.look_tokens <= 4096:
            raise UsageProblem("cascade: look_tokens is 1 to 4096")


@dataclass(frozen=True)
class LengthStep(PairStep):
    """The honest baseline: strong from so many characters on."""

    use: ClassVar[str] = "length"
    chars: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.chars < 1e12:
            raise UsageProblem(f"length: {self.chars} is no number of characters")


@dataclass(frozen=True)
class RandomStep(PairStep):
    """The other baseline: strong for this share of prompts, the same for the same prompt."""

    use: ClassVar[str] = "random"
    strong_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _share("strong_share", self.strong_share)


@dataclass(frozen=True)
class AlwaysStep:
    """Whatever came here goes to this member."""

    use: ClassVar[str] = "always"
    to: str

    @property
    def members(self) -> Iterator[str]:
        return iter((self.to,))


Step = RulesStep | DomainsStep | PredictorStep | CascadeStep | LengthStep | RandomStep | AlwaysStep
STEPS: tuple[type[Step], ...] = get_args(Step)
DECIDING = (PredictorStep, CascadeStep, LengthStep, RandomStep, AlwaysStep)


def hours_of(text: str) -> tuple[int, int]:
    """ "22:00-06:00" as minutes of the day. Raises UsageProblem."""
    parts = [part.split(":") for part in text.split("-")]
    try:
        (first, last) = (int(h) * 60 + int(m) for h, m in parts)
        if not all(0 <= int(h) < 24 and 0 <= int(m) < 60 for h, m in parts):
            raise ValueError
    except ValueError:
        raise UsageProblem(f"hours {text[:40]!r} is not like 22:00-06:00") from None
    return first, last


def _check_title(name: str) -> None:
    """Names of rules and domains are printed wherever they chose, and files come from elsewhere:
    nothing in them may steer a terminal. Raises UsageProblem."""
    if len(name) > MAX_TITLE or not name.isprintable():
        raise UsageProblem(f"{name[:40]!r} is no name: it is one line, up to {MAX_TITLE} letters")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageProblem(f"{name} is from 0 to 1, not {value}")
