"""Numbers that states give to people, by their check digits and their forms.

Checks by python-stdnum where it has them; the rest here, each with its source. A form that
many other numbers share (nine digits, twelve digits) counts only after a label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import label, named
from localllm.privacy.plain import Plain

_EDGE = r"(?<![0-9A-Za-z])(?<![0-9][.\-/])"
_CLOSE = r"(?![0-9A-Za-z]|[.\-/][0-9])"
_MY_NUMBER_LABEL = label(
    r"my ?number(?: card)?|individual number"
    r"|マイナンバー(?:カード)?|個人番号(?:カード)?|マイナ(?!ス)"
)
_SSN_LABEL = label(
    r"(?<![a-z])(?:ssns?(?![a-z])|ss ?#|soc\.? sec)|social ?security"
    r"|(?<![a-z])(?:itin|tax ?id)(?![a-z])|社会保障番号"
)
# three groups of four are not the beginning or the end of a card's four
_FOURS = r"(?<![0-9]{4}[ -])[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}(?![ -][0-9]{2,4}(?![0-9]))"


@dataclass(frozen=True)
class NationalForm:
    """One number: its written form, its check, and how much each evidence says."""

    kind: Kind
    name: str
    form: re.Pattern[str]
    valid: Callable[[str], bool]
    label: re.Pattern[str]
    grouped: float  # confidence without a label, in the groups of print
    bare: float  # without a label, unbroken


def national(plain: Plain) -> Iterator[Finding]:
    for form in forms():
        for found in plain.numbers(form.form):
            if not form.valid(found.group()):
                continue
            name = named(plain, found.start(), form.label, reach=48)
            grouped = not found.group().isalnum()
            unlabelled = form.grouped if grouped else form.bare
            checked = form.valid is not _always
            confidence = (
                (0.97 if checked else 0.8) if name else 0.2 if name is False else unlabelled
            )
            why = f"{form.name}: form" + (" and check" if checked else "")
            yield Finding(form.kind, found.start(), found.end(), confidence, why)


@cache
def forms() -> tuple[NationalForm, ...]:
    digits = _pattern
    return (
        NationalForm(
            Kind.MY_NUMBER, "Japan's My Number", digits(_FOURS),
            _stdnum("jp.in_"),
            _MY_NUMBER_LABEL, 0.45, 0.3,
        ),
        NationalForm(
            Kind.CORPORATE_NUMBER, "Japan's corporate number",
            digits(r"[Tt]?(?:[0-9]{13}|[0-9]-[0-9]{4}-[0-9]{4}-[0-9]{4})"), _corporate,
            label(r"corporate (?:number|no)|法人番号|登録番号|インボイス|houjin"), 0.5, 0.3,
        ),
        NationalForm(
            Kind.SSN, "a US social security number", digits(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"),
            _ssn, _SSN_LABEL, 0.8, 0.8,
        ),
        NationalForm(
            Kind.SSN, "a US social security number", digits(r"[0-9]{3}( ?)[0-9]{2}\1[0-9]{4}"),
            _ssn, _SSN_LABEL, 0.3, 0.1,
        ),
        NationalForm(
            Kind.NINO, "a UK national insurance number",
            _pattern(r"[A-Za-z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-Da-d]"), _nino,
            label(r"national insurance|(?<![a-z])(?:nino|ni)(?![a-z])"), 0.85, 0.75,
        ),
        NationalForm(
            Kind.NHS_NUMBER, "a UK NHS number", digits(r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{4}"),
            _stdnum("gb.nhs"), label(r"(?<![a-z])nhs(?![a-z])"), 0.4, 0.1,
        ),
        *_others(),
    )  # fmt: skip


def _others() -> Iterator[NationalForm]:
    """Country, what it is called, its form, its check in python-stdnum, its labels, and the
    confidence without one: high where letters or check letters make the form its own."""
    three = r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{3}"
    for country, name, form, valid, words, grouped, bare in (
        ("CA", "social insurance number", three, _stdnum("ca.sin"),
         r"(?<![a-z])sin(?![a-z])|social insurance", 0.45, 0.1),
        ("AU", "tax file number", three, _stdnum("au.tfn"), r"(?<![a-z])tfn(?![a-z])|tax file", 0.3,
         0.1),
        ("AU", "Medicare number", r"[2-6][0-9]{3}([ -]?)[0-9]{5}\1[0-9]", _medicare, r"medicare",
         0.45, 0.1),
        ("NZ", "IRD number", r"[0-9]{2,3}([ -]?)[0-9]{3}\1[0-9]{3}", _stdnum("nz.ird"),
         r"(?<![a-z])ird(?![a-z])|inland revenue", 0.3, 0.1),
        ("IE", "PPS number", r"[0-9]{7}[A-Wa-w][ABHWabhw]?", _stdnum("ie.pps"),
         r"(?<![a-z])ppsn?(?![a-z])|personal public service", 0.6, 0.6),
        ("SG", "NRIC or FIN", r"[STFGMstfgm][0-9]{7}[A-Za-z]", _nric,
         r"(?<![a-z])(?:nric|fin)(?![a-z])", 0.85, 0.85),
        ("ZA", "identity number", r"[0-9]{6} ?[0-9]{4} ?[01][0-9]{2}", _stdnum("za.idnr"),
         r"(?<![a-z])id(?:entity)?(?: ?(?:number|no))?(?![a-z])|rsa id", 0.6, 0.45),
        ("IN", "Aadhaar", rf"(?=[2-9]){_FOURS}", _stdnum("in_.aadhaar"),
         r"aadhaa?r|uidai|(?<![a-z])uid(?![a-z])", 0.45, 0.2),
        ("IT", "codice fiscale",
         r"[A-Za-z]{6}[0-9LMNPQRSTUVlmnp-v]{2}[A-Za-z][0-9LMNPQRSTUVlmnp-v]{2}"
         r"[A-Za-z][0-9LMNPQRSTUVlmnp-v]{3}[A-Za-z]", _stdnum("it.codicefiscale"),
         r"codice fiscale|tax code", 0.95, 0.95),
        ("FR", "NIR", r"[12][ ]?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
         _stdnum("fr.nir"),
         r"s[ée]curit[ée] sociale|(?<![a-z])(?:nir|insee)(?![a-z])", 0.85, 0.6),
        ("ES", "DNI or NIE", r"[XYZxyz]?[0-9]{7,8}-?[A-Za-z]", _spanish,
         r"(?<![a-z])(?:dni|nie|nif)(?![a-z])", 0.75, 0.6),
        ("BR", "CPF", r"[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}", _stdnum("br.cpf"),
         r"(?<![a-z])cpf(?![a-z])", 0.9, 0.1),
        ("KR", "resident registration number", r"[0-9]{6}-[1-8][0-9]{6}", _stdnum("kr.rrn"),
         r"주민|resident registration|(?<![a-z])rrn(?![a-z])", 0.85, 0.3),
        ("CN", "resident identity number", r"[1-9][0-9]{16}[0-9Xx]", _stdnum("cn.ric"),
         r"身份证|身分証", 0.9, 0.9),
        ("PL", "PESEL", r"[0-9]{11}", _stdnum("pl.pesel"), r"pesel", 0.1, 0.1),
        ("DE", "tax identification number", r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
         _stdnum("de.idnr"),
         r"steuer-?(?:id|identifikation)|idnr|tax id", 0.4, 0.1),
        ("NL", "BSN", r"[0-9]{9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", _stdnum("nl.bsn"),
         r"(?<![a-z])bsn(?![a-z])|burgerservice", 0.4, 0.1),
        ("JP", "resident record code", r"[0-9]{11}", _always, r"住民票コード", 0.1, 0.1),
        ("JP", "basic pension number", r"[0-9]{4}-?[0-9]{6}", _always,
         r"基礎年金番号|年金番号|pension number", 0.1, 0.1),
        ("JP", "residence card", r"[A-Z]{2}[0-9]{8}[A-Z]{2}", _always, r"在留カード|residence card",
         0.7, 0.7),
        ("JP", "health insurance symbol", r"[0-9]{8}", _insurer, r"保険者番号", 0.1, 0.1),
    ):  # fmt: skip
        pattern = _pattern(form)
        yield NationalForm(
            Kind.NATIONAL_ID, f"{country} {name}", pattern, valid, label(words), grouped, bare
        )


@cache
def _pattern(form: str) -> re.Pattern[str]:
    return re.compile(rf"{_EDGE}(?:{form}){_CLOSE}")


def _stdnum(module: str) -> Callable[[str], bool]:
    """The check of `stdnum.<module>`, imported when the first number of this form appears."""

    def valid(number: str) -> bool:
        return bool(import_module(f"stdnum.{module}").is_valid(number))

    return valid


def _always(number: str) -> bool:
    return True


def _corporate(number: str) -> bool:
    from stdnum.jp import cn

    return cn.is_valid(number.upper().removeprefix("T"))


def _ssn(number: str) -> bool:
    """An SSN, or an ITIN: its area begins with 9 and its group is of an issued range."""
    from stdnum.us import itin, ssn

    dashed = re.sub("[ -]", "", number)
    dashed = f"{dashed[:3]}-{dashed[3:5]}-{dashed[5:]}"
    return ssn.is_valid(dashed) or itin.is_valid(dashed)


def _nino(number: str) -> bool:
    """Prefixes that are given out: HMRC's National Insurance Manual, NIM39110."""
    prefix = number[:2].upper()
    if prefix in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}:
        return False
    return prefix[0] not in "DFIQUV" and prefix[1] not in "DFIQUVO"


def _medicare(number: str) -> bool:
    """Services Australia: weights 1, 3, 7, 9 over eight digits, modulo 10, is the ninth."""
    digits = [int(c) for c in number if c.isdigit()]
    weighted = zip((1, 3, 7, 9, 1, 3, 7, 9), digits, strict=False)
    return sum(weight * digit for weight, digit in weighted) % 10 == digits[8]


def _nric(number: str) -> bool:
    """Singapore's check letter: weights 2 7 6 5 4 3 2, an offset for the century, modulo 11."""
    number = number.upper()
    total = sum(w * int(c) for w, c in zip((2, 7, 6, 5, 4, 3, 2), number[1:8], strict=True))
    total += {"S": 0, "F": 0, "T": 4, "G": 4, "M": 3}[number[0]]
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK"}
    if number[0] == "M":
        return "KLJNPQRTUWX"[10 - total % 11] == number[8]
    return letters[number[0]][total % 11] == number[8]


def _spanish(number: str) -> bool:
    from stdnum.es import dni, nie

    return dni.is_valid(number) or nie.is_valid(number)


def _insurer(number: str) -> bool:
    """保険者番号: weights 2 and 1 in turn, sums of digits, modulo 10 (厚生省保発第36号)."""
    total = sum(
        sum(divmod(int(c) * w, 10)) for c, w in zip(number[:7], (2, 1, 2, 1, 2, 1, 2), strict=True)
    )
    return -total % 10 == int(number[7])
