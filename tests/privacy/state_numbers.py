"""Numbers of states and their documents, made from the specifications: see `values`."""

from __future__ import annotations

from random import Random

from tests.privacy.values import (
    DIGITS,
    FIRST,
    LAST,
    UPPER,
    full_width,
    luhn_digit,
    some,
)  # fmt: skip


def my_number(r: Random) -> str:
    """Order 85 of the Ministry of Internal Affairs, 2014, article 5: 11 - (sum of Pn Qn mod 11),
    0 where the remainder is 0 or 1; Qn = n + 1 up to the sixth place from the right, n - 5 on."""
    body = some(r, DIGITS, 11)
    total = sum(int(p) * (n + 1 if n <= 6 else n - 5) for n, p in enumerate(reversed(body), 1))
    number = body + str(0 if total % 11 <= 1 else 11 - total % 11)
    if r.random() < 0.4:
        return r.choice(" -").join((number[:4], number[4:8], number[8:]))
    return full_width(number) if r.random() < 0.2 else number


def corporate_number(r: Random) -> str:
    """Order on corporate numbers, article 2: 9 - (sum of Pn Qn mod 9), Qn 1 in odd places."""
    body = some(r, "123456789", 1) + some(r, DIGITS, 11)
    total = sum(int(p) * (1 if n % 2 else 2) for n, p in enumerate(reversed(body), 1))
    return ("T" if r.random() < 0.3 else "") + str(9 - total % 9) + body


def ssn(r: Random) -> str:
    area = r.choice([a for a in range(1, 900) if a != 666])
    return f"{area:03}-{r.randint(1, 99):02}-{r.randint(1, 9999):04}"


def nino(r: Random) -> str:
    while True:
        prefix = r.choice("ABCEGHJKLMNOPRSTWXYZ") + r.choice("ABCEGHJKLMNPRSTWXYZ")
        if prefix not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ"):
            break
    n = some(r, DIGITS, 6)
    suffix = r.choice("ABCD")
    return r.choice([f"{prefix}{n}{suffix}", f"{prefix} {n[:2]} {n[2:4]} {n[4:]} {suffix}"])


def nhs(r: Random) -> str:
    """NHS data dictionary: weights 10 to 2, 11 minus the remainder of 11; 10 is not given."""
    while True:
        body = some(r, DIGITS, 9)
        check = 11 - sum(int(d) * w for d, w in zip(body, range(10, 1, -1), strict=True)) % 11
        if check != 10:
            number = body + str(0 if check == 11 else check)
            return r.choice([number, f"{number[:3]} {number[3:6]} {number[6:]}"])


def sin(r: Random) -> str:
    body = r.choice("1234567") + some(r, DIGITS, 7)
    number = body + luhn_digit(body)
    return r.choice(
        [
            number,
            f"{number[:3]} {number[3:6]} {number[6:]}",
            f"{number[:3]}-{number[3:6]}-{number[6:]}",
        ]
    )


def pps(r: Random) -> str:
    """Revenue of Ireland: weights 8 to 2 over seven digits, modulo 23, as a letter (W is 0)."""
    body = some(r, DIGITS, 7)
    return (
        body
        + "WABCDEFGHIJKLMNOPQRSTUV"[
            sum(int(d) * w for d, w in zip(body, range(8, 1, -1), strict=True)) % 23
        ]
    )


def nric(r: Random) -> str:
    first = r.choice("STFG")
    body = some(r, DIGITS, 7)
    total = sum(int(d) * w for d, w in zip(body, (2, 7, 6, 5, 4, 3, 2), strict=True)) + (
        4 if first in "TG" else 0
    )
    check = 10 - total % 11  # 11 - (remainder + 1), the place in the table
    return first + body + ("ABCDEFGHIZJ" if first in "ST" else "KLMNPQRTUWX")[check]


_D5 = [[0, 1, 2, 3, 4], [1, 2, 3, 4, 0], [2, 3, 4, 0, 1], [3, 4, 0, 1, 2], [4, 0, 1, 2, 3]]


def _dihedral(a: int, b: int) -> int:
    """The product in the dihedral group of the pentagon, which Verhoeff's code is over."""
    if a < 5 and b < 5:
        return (a + b) % 5
    if a < 5:
        return (a + b - 5) % 5 + 5
    if b < 5:
        return (a - 5 - b) % 5 + 5
    return (a - b) % 5


def _permuted(digit: int, times: int) -> int:
    for _ in range(times % 8):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit


def aadhaar(r: Random) -> str:
    body = r.choice("23456789") + some(r, DIGITS, 10)
    for check in DIGITS:
        total = 0
        for place, digit in enumerate(reversed(body + check)):
            total = _dihedral(total, _permuted(int(digit), place))
        if total == 0:
            return " ".join(((body + check)[:4], (body + check)[4:8], (body + check)[8:]))
    raise AssertionError("one of ten digits closes every Verhoeff sum")


def dni(r: Random) -> str:
    number = r.randint(1_000_000, 99_999_999)
    return f"{number:08}" + "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]


def cpf(r: Random) -> str:
    digits = [r.randint(0, 9) for _ in range(9)]
    for _ in range(2):
        total = sum(d * w for d, w in zip(digits, range(len(digits) + 1, 1, -1), strict=True))
        digits.append(total * 10 % 11 % 10)
    d = "".join(map(str, digits))
    return f"{d[:3]}.{d[3:6]}.{d[6:9]}-{d[9:]}"


def nir(r: Random) -> str:
    born = f"{r.choice('12')}{r.randint(30, 99)}{r.randint(1, 12):02}"
    body = f"{born}{r.randint(1, 19):02}{r.randint(1, 400):03}{r.randint(1, 999):03}"
    key = 97 - int(body) % 97
    return f"{body[0]} {body[1:3]} {body[3:5]} {body[5:7]} {body[7:10]} {body[10:]} {key:02}"


def mrz_check(field: str) -> str:
    """ICAO 9303: values 0 to 9, A = 10 on, `<` = 0; weights 7 3 1 over and over; modulo 10."""
    values = {c: n for n, c in enumerate(DIGITS + UPPER)} | {"<": 0}
    return str(sum(values[c] * w for c, w in zip(field, [7, 3, 1] * 20, strict=False)) % 10)


def mrz(r: Random) -> str:
    country = r.choice(["JPN", "GBR", "USA", "CAN"])
    names = f"{r.choice(LAST).replace('-', '').upper()}<<{r.choice(FIRST).replace('.', '').upper()}"
    number = (some(r, UPPER, 2) + some(r, DIGITS, 7))[:9]
    birth = f"{r.randint(40, 99)}{r.randint(1, 12):02}{r.randint(1, 28):02}"
    expiry = f"{r.randint(26, 35)}{r.randint(1, 12):02}{r.randint(1, 28):02}"
    personal = "<" * 14
    second = (number + mrz_check(number) + country + birth + mrz_check(birth) + r.choice("MF")
              + expiry + mrz_check(expiry) + personal + mrz_check(personal))  # fmt: skip
    whole = second[0:10] + second[13:20] + second[21:43]
    return f"P<{country}{names}".ljust(44, "<") + "\n" + second + mrz_check(whole)


def passport(r: Random, language: str) -> str:
    if language == "ja":
        return some(r, "TM", 1) + some(r, UPPER, 1) + some(r, DIGITS, 7)
    return r.choice([some(r, DIGITS, 9), some(r, UPPER, 1) + some(r, DIGITS, 8)])


def licence_gb(r: Random) -> str:
    surname = r.choice(LAST).replace("-", "").upper()[:5].ljust(5, "9")
    month = r.randint(1, 12) + r.choice([0, 50])
    year = r.randint(40, 99)
    return (f"{surname}{year // 10}{month:02}{r.randint(1, 28):02}{year % 10}"
            f"{some(r, UPPER, 1)}{r.choice(UPPER + '9')}{r.choice('9876')}"
            f"{some(r, UPPER, 2)}")  # fmt: skip


def licence_jp(r: Random) -> str:
    """Prefectural code, year, six digits, a check digit, times it was issued again."""
    body = (
        r.choice(["30", "45", "62", "54", "90", "10"])
        + f"{r.randint(0, 99):02}"
        + some(r, DIGITS, 6)
    )
    remainder = (
        sum(int(d) * w for d, w in zip(body, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2), strict=True)) % 11
    )
    return body + str(11 - remainder)[-1] + "0"
