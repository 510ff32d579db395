"""What the guard looks for, and what it says of a place where it found it.

A `Finding` has offsets and reasons and never the data itself, so that it may be printed,
logged and stored. Whoever holds the text can slice it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A kind of personal data or secret; its value is its name in policies and logs."""

    EMAIL = "email"
    PHONE = "phone"
    ADDRESS = "address"
    BIRTH_DATE = "birth_date"
    IP = "ip"
    CARD = "card"
    IBAN = "iban"
    BANK_ACCOUNT = "bank_account"
    MY_NUMBER = "my_number"
    SSN = "ssn"
    NINO = "nino"
    NHS_NUMBER = "nhs_number"
    NATIONAL_ID = "national_id"  # of any other country; the finding's `why` names which
    CORPORATE_NUMBER = "corporate_number"
    PASSPORT = "passport"
    DRIVING_LICENCE = "driving_licence"
    API_KEY = "api_key"
    JWT = "jwt"
    PRIVATE_KEY = "private_key"
    CONNECTION_STRING = "connection_string"
    PASSWORD = "password"
    SECRET = "secret"


CONTACT = frozenset({Kind.EMAIL, Kind.PHONE, Kind.ADDRESS, Kind.BIRTH_DATE, Kind.IP})
FINANCIAL = frozenset({Kind.CARD, Kind.IBAN, Kind.BANK_ACCOUNT})
IDENTITY = frozenset({
    Kind.MY_NUMBER, Kind.SSN, Kind.NINO, Kind.NHS_NUMBER, Kind.NATIONAL_ID,
    Kind.PASSPORT, Kind.DRIVING_LICENCE,
})  # fmt: skip
SECRETS = frozenset({
    Kind.API_KEY, Kind.JWT, Kind.PRIVATE_KEY, Kind.CONNECTION_STRING, Kind.PASSWORD, Kind.SECRET,
})  # fmt: skip
GROUPS: dict[str, frozenset[Kind]] = {
    "contact": CONTACT,
    "financial": FINANCIAL,
    "identity": IDENTITY,
    "secrets": SECRETS,
}


@dataclass(frozen=True)
class Finding:
    """`text[start:end]` is, with this confidence, data of this kind.

    `confidence` is from 0 to 1: 0.9 and more where a check digit or a vendor's own prefix
    and a label agree, 0.5 to 0.9 where the form alone speaks, below 0.5 where it is more
    likely something else. It orders the detectors' evidence; it is not a probability.
    `why` names the evidence, never the data.
    """

    kind: Kind
    start: int
    end: int
    confidence: float
    why: str


def resolve(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding for each stretch of text, in the order of the text.

    Findings that overlap become one that covers them all, of the kind with the strongest
    evidence (then the longest): dropping the weaker one would leave its tail in the clear.
    """
    resolved: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.start, -f.end)):
        if resolved and finding.start < resolved[-1].end:
            resolved[-1] = _joined(resolved[-1], finding)
        else:
            resolved.append(finding)
    return tuple(resolved)


def _joined(one: Finding, other: Finding) -> Finding:
    best = max(one, other, key=lambda f: (f.confidence, f.end - f.start))
    start, end = min(one.start, other.start), max(one.end, other.end)
    return Finding(best.kind, start, end, best.confidence, best.why)
