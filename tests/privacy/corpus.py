"""The synthetic set: texts in English and Japanese, and where in them the data stands.

    python -m tests.privacy.corpus        prints it as JSON lines, to read or to use elsewhere

The same seed gives the same set wherever the same Python runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from localllm.privacy import Kind
from tests.privacy import fresh, held_out, keys, places, state_numbers, values
from tests.privacy.negatives import hard_negatives
from tests.privacy.templates import EN, JA, NATIONAL

SEED = 20240607
EACH = 150  # positive texts of each kind and language
NEGATIVE_ROUNDS = 150  # texts of each family of negatives


@dataclass(frozen=True)
class Gold:
    """`text[start:end]` is data of this kind; `sort` is its vendor or country."""

    kind: Kind
    start: int
    end: int
    sort: str


@dataclass(frozen=True)
class Sample:
    text: str
    language: str
    family: str  # of a text without data
    gold: tuple[Gold, ...]


def positives(seed: int = SEED, each: int = EACH) -> list[Sample]:
    """`each` texts for every kind and language; every tenth in the middle of other text."""
    return _filled(Random(seed), {"en": EN, "ja": JA}, each)


def held_out_positives(seed: int = SEED + 2, each: int = EACH) -> list[Sample]:
    return _filled(Random(seed), {"en": held_out.EN, "ja": held_out.JA}, each)


def negatives(seed: int = SEED, rounds: int = NEGATIVE_ROUNDS) -> list[Sample]:
    return _of_families(Random(seed + 1), hard_negatives, rounds)


def held_out_negatives(seed: int = SEED, rounds: int = NEGATIVE_ROUNDS) -> list[Sample]:
    return _of_families(Random(seed + 3), held_out.hard_negatives, rounds)


def fresh_positives(seed: int = SEED + 4, each: int = EACH) -> list[Sample]:
    return _filled(Random(seed), {"en": fresh.EN, "ja": fresh.JA}, each, fresh.careless)


def fresh_negatives(seed: int = SEED, rounds: int = NEGATIVE_ROUNDS) -> list[Sample]:
    return _of_families(Random(seed + 5), fresh.hard_negatives, rounds)


def _of_families(r: Random, texts: Callable[[Random], dict[str, str]], rounds: int) -> list[Sample]:
    rows = (texts(r) for _ in range(rounds))
    return [Sample(text, "", family, ()) for row in rows for family, text in row.items()]


def _filled(
    r: Random,
    languages: dict[str, dict[str, tuple[str, ...]]],
    each: int,
    typed: Callable[[Random, str, str], str] | None = None,
) -> list[Sample]:
    return [
        _sample(r, language, name, templates[name], typed)
        for language, templates in languages.items()
        for name in templates
        for _ in range(each)
    ]


def _sample(
    r: Random,
    language: str,
    name: str,
    templates: tuple[str, ...],
    typed: Callable[[Random, str, str], str] | None,
) -> Sample:
    kind, sort, value = _value(r, language, name)
    if typed is not None:
        value = typed(r, value, name)
    template = r.choice(NATIONAL[sort] if name == "national_id" else templates)
    before, after = template.format("\0").split("\0")
    if r.random() < 0.1:
        before = (
            "Some words first.\n" + before if language == "en" else "はじめに説明です。\n" + before
        )
        after += "\nAnd 3 more lines follow." if language == "en" else "\n以上、3点です。"
    text = before + value + after
    return Sample(text, language, "", (Gold(kind, len(before), len(before) + len(value), sort),))


def _value(r: Random, language: str, name: str) -> tuple[Kind, str, str]:
    """The kind, its vendor or country, and a value."""
    plain = {
        "email": values.email, "iban": values.iban, "bank_account": values.bank_account,
        "ssn": state_numbers.ssn,
        "nino": state_numbers.nino, "nhs_number": state_numbers.nhs,
        "my_number": state_numbers.my_number,
        "corporate_number": state_numbers.corporate_number, "jwt": keys.jwt,
        "private_key": keys.private_key,
        "password": keys.password, "secret": keys.secret,
    }  # fmt: skip
    spoken = {"phone": values.phone, "card": values.card, "passport": state_numbers.passport,
              "address": places.address, "birth_date": places.birth_date}  # fmt: skip
    if name in plain:
        return Kind(name), name, plain[name](r)
    if name in spoken:
        return Kind(name), name, spoken[name](r, language)
    if name == "national_id":
        sort = r.choice(sorted(NATIONAL))
        return Kind.NATIONAL_ID, sort, getattr(state_numbers, sort)(r)
    if name == "api_key":
        return (Kind.API_KEY, *keys.api_key(r))
    if name == "connection_string":
        # in a URL these would have to be percent-encoded
        return Kind.CONNECTION_STRING, name, keys.password(r).replace("#", "-").replace("%", "-")
    if name == "ip":
        return Kind.IP, name, r.choice([values.ipv4, values.ipv4, values.ipv6])(r)
    papers = {
        "mrz": state_numbers.mrz, "licence_gb": state_numbers.licence_gb,
        "licence_jp": state_numbers.licence_jp,
    }  # fmt: skip
    return Kind.PASSPORT if name == "mrz" else Kind.DRIVING_LICENCE, name, papers[name](r)


def main() -> None:
    for sample in positives() + negatives():
        gold = [vars(gold) for gold in sample.gold]
        row = {"text": sample.text, "family": sample.family, "gold": gold}
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
