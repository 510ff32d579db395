"""Dates and postal addresses of nobody, as people write them in each country."""

from __future__ import annotations

from random import Random

from tests.privacy.values import full_width, some

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip


def birth_date(r: Random, language: str) -> str:
    year, month, day = r.randint(1931, 2018), r.randint(1, 12), r.randint(1, 28)
    if language == "en":
        return r.choice([
            f"{year}-{month:02}-{day:02}", f"{month:02}/{day:02}/{year}",
            f"{day:02}/{month:02}/{year}",
            f"{MONTHS[month - 1]} {day}, {year}", f"{day} {MONTHS[month - 1]} {year}",
            f"{MONTHS[month - 1][:3]} {day} {year}", f"{month}/{day}/{year % 100:02}",
            f"{day}.{month}.{year}",
        ])  # fmt: skip
    date = r.choice([
        f"{year}年{month}月{day}日", f"{year}/{month}/{day}", f"{year}-{month:02}-{day:02}",
        _era(year, month, day),
        f"{year}.{month}.{day}",
    ])  # fmt: skip
    return full_width(date) if r.random() < 0.15 else date


def _era(year: int, month: int, day: int) -> str:
    """Years that lie whole in one era; the others in the western calendar."""
    for name, first, last in (("昭和", 1927, 1988), ("平成", 1990, 2018)):
        if first <= year <= last:
            return f"{name}{year - first + 2}年{month}月{day}日"
    return f"{year}年{month}月{day}日"


TOWNS = (
    ("東京都", "新宿区", "西新宿"), ("東京都", "世田谷区", "三軒茶屋"),
    ("神奈川県", "横浜市中区", "本町"),
    ("大阪府", "大阪市北区", "梅田"), ("北海道", "札幌市中央区", "大通西"),
    ("福岡県", "福岡市博多区", "博多駅前"),
    ("愛知県", "名古屋市中村区", "名駅"), ("沖縄県", "那覇市", "泉崎"),
    ("長野県", "北佐久郡軽井沢町", "軽井沢"),
    ("京都府", "京都市左京区", "吉田本町"), ("三重県", "四日市市", "諏訪町"),
    ("岩手県", "盛岡市", "内丸"),
)  # fmt: skip
STREETS = (
    "Maple",
    "Oak Hill",
    "Martin Luther King",
    "5th",
    "Washington",
    "Elm",
    "Sunset",
    "Lake Shore",
    "Church",
    "Station",
)
US_TOWNS = (("Springfield", "IL", "62704"), ("Austin", "TX", "73301"), ("Portland", "OR", "97201"),
            ("Boston", "MA", "02108"), ("San Jose", "CA", "95112-1234"),
            ("Miami", "FL", "33101"))  # fmt: skip
UK_TOWNS = (
    ("London", "SW1A 2AA"),
    ("Manchester", "M1 1AE"),
    ("Leeds", "LS1 4DY"),
    ("Cardiff", "CF10 1EP"),
    ("London", "EC1A 1BB"),
)
AU_TOWNS = (("Sydney", "NSW", "2000"), ("Melbourne", "VIC", "3000"), ("Perth", "WA", "6000"))
CA_TOWNS = (("Toronto", "ON", "M5V 2T6"), ("Vancouver", "BC", "V6B 1A1"))


def address(r: Random, language: str) -> str:
    return _japanese(r) if language == "ja" else _english(r)


def _japanese(r: Random) -> str:
    prefecture, city, town = r.choice(TOWNS)
    a, b, c = r.randint(1, 9), r.randint(1, 40), r.randint(1, 30)
    block = r.choice(
        [f"{a}-{b}-{c}", f"{a}丁目{b}番{c}号", f"{a}丁目{b}-{c}", f"{a}-{b}", f"{b * 31}番地"]
    )
    building = r.choice(
        ["", "", f" コーポ青葉{r.randint(101, 909)}号室", f"　メゾン桜{r.randint(101, 909)}"]
    )
    code = r.choice(["", "", f"〒{some(r, '0123456789', 3)}-{some(r, '0123456789', 4)} "])
    text = f"{prefecture}{city}{town}{block}"
    return code + (full_width(text) if r.random() < 0.2 else text) + building


def _english(r: Random) -> str:
    number, street = r.randint(1, 9999), r.choice(STREETS)
    kind = r.choice(["us", "us", "uk", "au", "ca"])
    if kind == "us":
        town, state, code = r.choice(US_TOWNS)
        unit = r.choice(["", "", f" Apt {r.randint(1, 40)}", f", Suite {r.randint(100, 900)}"])
        suffix = r.choice(["Street", "St", "Ave", "Avenue", "Blvd", "Dr.", "Lane", "Rd"])
        return f"{number} {street} {suffix}{unit}, {town}, {state} {code}"
    if kind == "uk":
        town, code = r.choice(UK_TOWNS)
        flat = r.choice(["", "", f"Flat {r.randint(1, 30)}, "])
        suffix = r.choice(["Road", "Street", "Lane", "Close", "Gardens", "Avenue"])
        return f"{flat}{number % 300 + 1} {street} {suffix}, {town} {code}"
    town, state, code = r.choice(AU_TOWNS if kind == "au" else CA_TOWNS)
    suffix = r.choice(["Street", "Road", "Avenue", "Drive"])
    return f"{number % 900 + 1} {street} {suffix}, {town} {state} {code}"
