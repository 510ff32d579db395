"""Card numbers, IBANs and bank accounts.

Cards: ISO/IEC 7812 (the Luhn digit) and the networks' published number ranges and lengths.
IBANs: ISO 13616 by python-stdnum, which knows each country's structure and national check
digits, not only the remainder of 97.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import label, named
from localllm.privacy.plain import Plain

# network, (first, last) leading digits of equal length, lengths of the whole number
_RANGES: tuple[tuple[str, str, str, range], ...] = (
    ("Visa", "4", "4", range(13, 20, 3)),
    ("Mastercard", "51", "55", range(16, 17)),
    ("Mastercard", "2221", "2720", range(16, 17)),
    ("American Express", "34", "34", range(15, 16)),
    ("American Express", "37", "37", range(15, 16)),
    ("Diners Club", "300", "305", range(14, 20)),
    ("Diners Club", "3095", "3095", range(14, 20)),
    ("Diners Club", "36", "36", range(14, 20)),
    ("Diners Club", "38", "39", range(14, 20)),
    ("JCB", "3528", "3589", range(16, 20)),
    ("Discover", "6011", "6011", range(16, 20)),
    ("Discover", "644", "659", range(16, 20)),
    ("UnionPay", "62", "62", range(16, 20)),
    ("UnionPay", "81", "82", range(16, 20)),
    ("RuPay", "60", "60", range(16, 17)),
    ("RuPay", "508", "508", range(16, 17)),
    ("Mir", "2200", "2204", range(16, 20)),
    ("Maestro", "5018", "5018", range(12, 20)),
    ("Maestro", "5020", "5020", range(12, 20)),
    ("Maestro", "5038", "5038", range(12, 20)),
    ("Maestro", "5893", "5893", range(12, 20)),
    ("Maestro", "6304", "6304", range(12, 20)),
    ("Maestro", "6759", "6763", range(12, 20)),
)
# unbroken, or in the groups that are printed on cards, with one separator throughout
_CARD = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][.\-])(?:[0-9]{12,19}"
    r"|[0-9]{4}([ .\t-])[0-9]{4}\1[0-9]{4}\1[0-9]{2,4}(?:\1[0-9]{1,3})?"
    r"|3[0-9]{3}([ .\t-])[0-9]{6}\2[0-9]{4,5}|[0-9]{6}([ -])[0-9]{10,13})"
    r"(?![0-9A-Za-z_]|[.\-][0-9])"
)
_CARD_LABEL = label(
    r"card|credit|debit|visa|master ?card|amex|american express|jcb|diners|discover|unionpay"
    r"|(?<![a-z])pan(?![a-z])|pa(?:y|id|yment) with|カード|クレカ|クレジット|デビット"
)
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,4})?"
    r"(?![A-Za-z0-9])"
)
_ACCOUNT = re.compile(r"(?<![0-9A-Za-z.\-])[0-9]{6,17}(?![0-9A-Za-z]|[.\-][0-9])")
_ACCOUNT_LABEL = label(
    r"口座(?:番号)?(?:[は:、→\s]|[普当]通?座?)*|(?:銀行|金庫|振込)[^\n]{0,20}(?:普通|当座)"
    r"|(?<![a-z])(?:acct|a/c)|(?:my|bank) account is"
    r"|(?:sort ?code|routing|bsb|bank)[^\n]{0,40}account"
    r"|(?:bank|checking|savings|current)?\s?(?:account|a/c|acct)\.?\s?(?:number|no\.?|num|#)(?:\s(?:is|was))?"
    r"|普通預金|当座預金",
    last=True,
)


def cards(plain: Plain) -> Iterator[Finding]:
    for found in plain.numbers(_CARD):
        digits = re.sub(r"[ .\t-]", "", found.group())
        name = named(plain, found.start(), _CARD_LABEL, reach=60)
        # after its label a number outside the ranges counts too: store cards, new ranges
        network = card_network(digits) or ("no network" if name else None)
        if network is None or not luhn(digits):
            continue
        # a tenth of all numbers pass Luhn: with no label and no groups the range alone
        # speaks, and 13 digits that begin with 4 are more often an article number (JAN, EAN)
        bare = len(digits) == len(found.group())
        weak = name is False or (bare and name is None and len(digits) not in (14, 15, 16, 19))
        confidence = 0.95 if name else 0.3 if weak else 0.65 if bare else 0.85
        why = f"a number range of {network}, and the Luhn digit"
        yield Finding(Kind.CARD, found.start(), found.end(), confidence, why)


def card_network(digits: str) -> str | None:
    """The network whose published ranges hold this number, None for none of them."""
    for network, first, last, lengths in _RANGES:
        if len(digits) in lengths and first <= digits[: len(first)] <= last:
            return network
    return None


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, annex B."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(doubled[v] for v in values[1::2])) % 10 == 0


def ibans(plain: Plain) -> Iterator[Finding]:
    from stdnum import iban

    for found in _IBAN.finditer(plain.text):
        # the next word in capitals may have been taken for a last group: try without it
        text = found.group()
        ends = [m.start() for m in re.finditer("[ -]", text)]
        for end in [len(text), *reversed(ends)]:
            if end >= 15 and iban.is_valid(text[:end].upper()):
                why = "an IBAN of its country's structure, remainder of 97 right"
                start = found.start()
                yield Finding(Kind.IBAN, start, start + end, 0.97, why)
                break


def accounts(plain: Plain) -> Iterator[Finding]:
    """Account numbers have no form of their own: only the label right before tells."""
    if not any(
        hint in plain.lower
        for hint in ("account", "acct", "a/c", "口座", "預金", "銀行", "金庫", "振込")
    ):
        return
    for found in plain.numbers(_ACCOUNT):
        if _ACCOUNT_LABEL.search(plain.before(found.start(), 64)):
            why = "digits right after the words for an account number"
            yield Finding(Kind.BANK_ACCOUNT, found.start(), found.end(), 0.8, why)
