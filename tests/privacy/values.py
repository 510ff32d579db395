"""Personal data and secrets of nobody, made from the specifications of their formats.

Written from the standards and the vendors' pages, not from the detectors: every check digit
is computed here in its own way, and none of the detectors' patterns or libraries is imported.
Nothing here is anybody's: all of it comes out of a seeded random generator.
"""

from __future__ import annotations

import string
from random import Random

DIGITS = string.digits
UPPER = string.ascii_uppercase
LOWER = string.ascii_lowercase
BASE62 = DIGITS + UPPER + LOWER
BASE64URL = BASE62 + "-_"
HEX = "0123456789abcdef"

FIRST = ("taro", "hanako", "kenji", "yuki", "john", "mary", "olivia", "liam", "aoife", "priya",
         "wei", "carlos", "anna", "sven", "fatima", "o.brien", "j", "satoshi", "emma")  # fmt: skip
LAST = ("yamada", "suzuki", "sato", "tanaka", "smith", "jones", "murphy", "patel", "garcia",
        "mueller", "rossi", "nguyen", "kowalski", "de-vries", "ito", "brown")  # fmt: skip
HOSTS = ("gmail.com", "yahoo.co.jp", "outlook.com", "docomo.ne.jp", "ezweb.ne.jp", "proton.me",
         "keio.ac.jp", "ox.ac.uk", "acme-corp.com", "mail.startup.io", "softbank.jp", "bbc.co.uk",
         "sub.dept.university.edu", "company.museum", "x.ai", "tokyo.lg.jp")  # fmt: skip


def some(r: Random, alphabet: str, count: int) -> str:
    return "".join(r.choice(alphabet) for _ in range(count))


# --- contact --------------------------------------------------------------------------------


def email(r: Random) -> str:
    first, last = r.choice(FIRST), r.choice(LAST)
    local = r.choice([
        f"{first}.{last}", f"{first}{r.randint(1, 9999)}", f"{first[0]}{last}", f"{first}_{last}",
        f"{last}-{first}", f"{first}+{last}", f"{first}.{last}.{r.randint(60, 99)}", last,
    ])  # fmt: skip
    address = f"{local}@{r.choice(HOSTS)}"
    return address.upper() if r.random() < 0.05 else address


US_AREAS = ("201", "202", "206", "212", "213", "303", "305", "312", "404", "415", "503", "512",
            "602", "617", "702", "713", "718", "801", "808", "907", "416", "604",
            "514")  # fmt: skip


def _north_american(r: Random) -> tuple[str, str, str]:
    """Area code, exchange (never N11, not the fictitious 555), line."""
    exchange = "555"
    while exchange == "555" or exchange.endswith("11"):
        exchange = f"{r.randint(2, 9)}{r.randint(0, 99):02}"
    return r.choice(US_AREAS), exchange, some(r, DIGITS, 4)


def phone_us(r: Random) -> str:
    a, e, n = _north_american(r)
    return r.choice([f"({a}) {e}-{n}", f"{a}-{e}-{n}", f"{a}.{e}.{n}", f"+1 {a} {e} {n}",
                     f"+1-{a}-{e}-{n}", f"1-{a}-{e}-{n}", f"{a} {e} {n}",
                     f"+1{a}{e}{n}"])  # fmt: skip


def phone_uk(r: Random) -> str:
    tail = some(r, DIGITS, 4)
    mobile = f"{r.choice(['7700', '7712', '7825', '7911', '7456', '7581'])}"
    if mobile == "7700":
        mobile = "7701"
    rest = some(r, DIGITS, 6)
    london = f"{r.choice('378')}{some(r, DIGITS, 3)}"
    return r.choice([
        f"020 {london} {tail}", f"+44 20 {london} {tail}", f"(020) {london} {tail}",
        f"0{mobile} {rest}", f"+44 {mobile} {rest}", f"+44 (0){mobile} {rest}",
        f"0161 {r.randint(200, 999)} {tail}", f"0{mobile} {rest[:3]} {rest[3:]}",
    ])  # fmt: skip


def phone_jp(r: Random) -> str:
    tail, mid = some(r, DIGITS, 4), f"{r.randint(1, 9)}{some(r, DIGITS, 3)}"
    mobile = r.choice(["090", "080", "070"])
    number = r.choice([
        f"{mobile}-{mid}-{tail}", f"{mobile}-{mid}-{tail}", f"{mobile}{mid}{tail}",
        f"03-{r.choice('356')}{some(r, DIGITS, 3)}-{tail}", f"06-6{some(r, DIGITS, 3)}-{tail}",
        f"03({r.choice('356')}{some(r, DIGITS, 3)}){tail}", f"(03)3{some(r, DIGITS, 3)}-{tail}",
        f"045-{r.choice('23456789')}{some(r, DIGITS, 2)}-{tail}",
        f"+81 {mobile[1:]} {mid} {tail}", f"+81-{mobile[1:]}-{mid}-{tail}",
        f"0120-{some(r, DIGITS, 3)}-{some(r, DIGITS, 3)}",
    ])  # fmt: skip
    return full_width(number, r) if r.random() < 0.25 else number


def phone_world(r: Random) -> str:
    n = some(r, DIGITS, 3)
    return r.choice([
        f"04{r.randint(10, 19)} {some(r, DIGITS, 3)} {n}",
        f"(02) 9{some(r, DIGITS, 3)} {some(r, DIGITS, 4)}",
        f"+61 4{r.randint(10, 19)} {some(r, DIGITS, 3)} {n}",
        f"+64 21 {some(r, '23456789', 3)} {some(r, DIGITS, 4)}",
        f"+353 87 {some(r, '123456789', 3)} {some(r, DIGITS, 4)}",
        f"+49 151 {some(r, '12345679', 4)}{some(r, DIGITS, 4)}",
        f"+33 6 {r.randint(10, 89)} {r.randint(10, 99)} {r.randint(10, 99)} {r.randint(10, 99)}",
        f"+91 98{some(r, DIGITS, 3)} {some(r, DIGITS, 5)}",
        f"+65 9{some(r, '123456789', 3)} {some(r, DIGITS, 4)}",
    ])  # fmt: skip


def phone(r: Random, language: str) -> str:
    if language == "ja":
        return phone_jp(r)
    return r.choice([phone_us, phone_us, phone_uk, phone_world])(r)


def full_width(text: str, r: Random | None = None) -> str:
    dash = r.choice("－ー−‐―") if r else "－"
    return "".join(
        dash if c == "-" else chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text
    )


# --- payment --------------------------------------------------------------------------------


def luhn_digit(payload: str) -> str:
    """ISO/IEC 7812-1: double every second digit from the right, subtract 9 above 9."""
    total = 0
    for place, digit in enumerate(reversed(payload)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str((10 - total % 10) % 10)


def card_digits(r: Random) -> str:
    prefix, length = r.choice([
        ("4", 16), ("4", 16), (str(r.randint(51, 55)), 16), (str(r.randint(2221, 2720)), 16),
        (r.choice(["34", "37"]), 15), (str(r.randint(3528, 3589)), 16), ("6011", 16), ("65", 16),
        ("36", 14), (str(r.randint(300, 305)), 14), ("62", 16), ("62", 19),
    ])  # fmt: skip
    payload = prefix + some(r, DIGITS, length - len(prefix) - 1)
    return payload + luhn_digit(payload)


def card(r: Random, language: str = "en") -> str:
    number = printed_card(card_digits(r), r)
    return full_width(number, r) if language == "ja" and r.random() < 0.2 else number


def printed_card(digits: str, r: Random) -> str:
    """As it stands on the card: 4-4-4-4, 4-6-5 or 4-6-4, or with nothing between."""
    separator = r.choice([" ", " ", "-", ""])
    sizes = {15: (4, 6, 5), 14: (4, 6, 4), 19: (4, 4, 4, 4, 3)}.get(len(digits), (4, 4, 4, 4))
    parts, at = [], 0
    for size in sizes:
        parts.append(digits[at : at + size])
        at += size
    return separator.join(parts)


# country: the structure of its BBAN in the registry of SWIFT (a letter, n digit, c either)
IBANS = {
    "DE": "n18", "GB": "a4n14", "NL": "a4n10", "CH": "n5c12", "AT": "n16", "IE": "a4n14",
    "SE": "n20", "PL": "n24", "DK": "n14", "LU": "n3c13", "SA": "n2c18", "AE": "n19",
}  # fmt: skip


def iban(r: Random) -> str:
    country = r.choice(sorted(IBANS))
    bban, structure = "", IBANS[country]
    for piece in structure.replace("a", " a").replace("n", " n").replace("c", " c").split():
        bban += some(r, {"a": UPPER, "n": DIGITS, "c": DIGITS + UPPER}[piece[0]], int(piece[1:]))
    as_digits = "".join(str(int(c, 36)) for c in bban + country + "00")
    compact = f"{country}{98 - int(as_digits) % 97:02}{bban}"
    if r.random() < 0.5:
        return compact
    return " ".join(compact[at : at + 4] for at in range(0, len(compact), 4))


def bank_account(r: Random) -> str:
    return some(r, DIGITS, 7)


def ipv4(r: Random) -> str:
    return r.choice([
        f"{r.choice([13, 34, 52, 81])}.{r.randint(0, 255)}.{r.randint(0, 255)}.{r.randint(1, 254)}",
        f"192.168.{r.randint(0, 255)}.{r.randint(1, 254)}",
        f"10.{r.randint(0, 255)}.{r.randint(0, 255)}.{r.randint(1, 254)}",
    ])  # fmt: skip


def ipv6(r: Random) -> str:
    prefix = r.choice(["2400:cb00", "2a00:1450", "2606:4700", "fd12:3456"])
    return r.choice([
        f"{prefix}:{some(r, HEX, 4)}::{some(r, HEX, 4)}",
        f"{prefix}:" + ":".join(some(r, HEX, 4) for _ in range(6)),
    ])  # fmt: skip
