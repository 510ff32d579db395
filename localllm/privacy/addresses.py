"""Postal addresses in the forms of Japan, the US, Great Britain, Canada and Australia.

Only what a postal service's own form carries: a prefecture and a municipality with a number,
or a house number, a street word and a state or postcode. Addresses written freely are not
found, and neither are the names of people: without a model of language, a list of names finds
every Mark, Rose and 森 of ordinary text and still misses most people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import occurrences
from localllm.privacy.plain import Plain

_PREFECTURES = frozenset({
    "北海道", "東京都", "大阪府", "京都府",
    "青森県", "岩手県", "宮城県", "秋田県", "山形県", "福島県", "茨城県", "栃木県", "群馬県",
    "埼玉県", "千葉県", "神奈川県", "新潟県", "富山県", "石川県", "福井県", "山梨県", "長野県",
    "岐阜県", "静岡県", "愛知県", "三重県", "滋賀県", "兵庫県", "奈良県", "和歌山県", "鳥取県",
    "島根県", "岡山県", "広島県", "山口県", "徳島県", "香川県", "愛媛県", "高知県", "福岡県",
    "佐賀県", "長崎県", "熊本県", "大分県", "宮崎県", "鹿児島県", "沖縄県",
})  # fmt: skip
_KANJI = "一-鿿ぁ-んァ-ヶー々〆"
_NUMBER = r"(?:[0-9]{1,5}|[一二三四五六七八九十]{1,3})"
_BLOCK = (
    rf"{_NUMBER}(?:丁目|番地?|号|(?=-[0-9]))"
    rf"(?:[-の ]?{_NUMBER}(?:丁目|番地?の?|号室?|(?=[^0-9]|\Z))){{0,4}}"
    rf"(?:-[0-9]{{1,5}}){{0,3}}"
)
_ROOM = (
    rf"(?: ?[{_KANJI}A-Za-z]{{2,16}} ?"
    r"(?:[0-9]{1,4}号室|[0-9]{3,4}(?![0-9])|[0-9]{1,2}(?:階|F)))?"
)
_TOWN = rf"[{_KANJI}]{{1,8}}?[市区町村郡][{_KANJI} ]{{0,20}}?"
_AFTER_PREFECTURE = re.compile(rf" ?{_TOWN}{_BLOCK}{_ROOM}")
_LABELS = ("住所", "所在地", "届け先", "届先", "送付先", "配送先", "自宅", "実家", "〒")
_LABELLED = re.compile(
    rf"(?:(?<=〒) ?[0-9]{{3}}-?[0-9]{{4}})?[はがの]?[: \n]{{0,3}}(?P<value>{_TOWN}{_BLOCK}{_ROOM})"
)
_POSTCODE = re.compile(r"〒? ?[0-9]{3}-?[0-9]{4}[ \n]{0,2}\Z")

_STREET = (
    "street|st|avenue|ave|road|rd|boulevard|blvd|drive|dr|lane|ln|court|ct|place|pl|square|sq"
    "|terrace|ter|parkway|pkwy|highway|hwy|circle|cir|way|close|crescent|cres|gardens|grove|mews|hill"
    "|row|walk|trail|trl|parade|pde"
)
_STATES = (
    "A[LKZRAEP]|C[AOT]|DE|DC|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]"
    "|UT|V[TAI]|W[AVIY]|PR|GU|AS|MP|MH|FM|PW"
)
_TAIL = (
    rf"(?:(?:{_STATES}),? +[0-9]{{5}}(?:-[0-9]{{4}})?"  # United States
    r"|(?P<uk>[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][ABD-HJLNP-UW-Z]{2})"  # United Kingdom
    r"|(?:AB|BC|MB|N[BLSTU]|ON|PE|QC|SK|YT),? +[A-Z][0-9][A-Z] ?[0-9][A-Z][0-9]"  # Canada
    r"|(?:NSW|VIC|QLD|WA|SA|TAS|ACT|NT),? +[0-9]{4})(?![0-9A-Za-z])"  # Australia
)
_WORD = r"[A-Z0-9][A-Za-z0-9.'’]{0,20}"
_STREET_LINE = re.compile(
    r"(?<![0-9A-Za-z.,/-])[0-9]{1,6}[A-Za-z]?(?:[-/][0-9]{1,5})?"
    rf",? (?:[NSEW]{{1,2}}\.? )?(?:{_WORD} ){{1,4}}(?i:{_STREET})(?![A-Za-z])\.?"
)
# without a street word: then the line must end there, and a state or postcode follow
_ANY_LINE = re.compile(
    rf"(?<![0-9A-Za-z.,/-])[0-9]{{1,6}}[A-Za-z]?(?:[-/][0-9]{{1,5}})?(?: {_WORD}){{1,4}}"
    r"(?=[,\n]| (?:Apt|Suite|Unit)(?![a-z]))"
)
_REST = re.compile(rf"(?:[^\n;]{{0,45}}?\n){{0,3}}?[^\n;]{{0,50}}?(?<![A-Za-z0-9]){_TAIL}")
_FLAT = re.compile(r"(?i:flat|apt\.?|apartment|unit|suite|studio|level)(?: [0-9A-Za-z]{1,5},?)? \Z")
_ONLY_FLAT = re.compile(r"(?i:flat|studio) [0-9]{1,4}[A-Za-z]?(?=[,\n])")
_BOX = re.compile(r"(?<![A-Za-z])(?i:p\.?o\.? ?box|(?:unit|psc|cmr) [0-9]{1,6},? box) [0-9]{1,6}")
_ADDRESS_WORD = re.compile(r"address|lives? at|ship(?:ping|ped)? to|deliver|mail to|resid")


def addresses(plain: Plain) -> Iterator[Finding]:
    if not plain.text.isascii():
        yield from _japanese(plain)
    for found in _STREET_LINE.finditer(plain.text):
        yield from _with_tail(plain, found)
    for found in _ANY_LINE.finditer(plain.text):
        yield from _with_tail(plain, found, street=False)
    for at in (at for word in ("flat ", "studio ") for at in occurrences(plain.lower, word)):
        if flat := _ONLY_FLAT.match(plain.text, at):
            yield from _with_tail(plain, flat, street=False)
    for at in occurrences(plain.lower, "box "):
        if box := _BOX.search(plain.text, max(0, at - 11), at + 12):
            yield from _with_tail(plain, box)


def _japanese(plain: Plain) -> Iterator[Finding]:
    text = plain.text
    for end in (at + 1 for last in "県都府道" for at in occurrences(text, last)):
        lengths = (n for n in (4, 3) if n <= end and text[end - n : end] in _PREFECTURES)
        start = end - next(lengths, end + 1)
        rest = _AFTER_PREFECTURE.match(text, end, end + 90)
        if start < 0 or rest is None:
            continue
        if code := _POSTCODE.search(text, max(0, start - 12), start):
            start = code.start()
        why = "a prefecture, a municipality and a number"
        yield Finding(Kind.ADDRESS, start, rest.end(), 0.9, why)
    for word in _LABELS:
        for at in occurrences(text, word):
            if found := _LABELLED.match(text, at + len(word), at + 90):
                why = "a municipality and a number, after the word for an address or a postcode"
                yield Finding(Kind.ADDRESS, *found.span("value"), 0.8, why)


def _with_tail(plain: Plain, found: re.Match[str], street: bool = True) -> Iterator[Finding]:
    rest = _REST.match(plain.text, found.end(), found.end() + 130)
    flat = _FLAT.search(plain.text, max(0, found.start() - 14), found.start())
    start = flat.start() if flat else found.start()
    # "12 May, booking H5C6BB": without a street word a British postcode must have its space
    if rest and (street or rest["uk"] is None or " " in rest["uk"]):
        why = "a house number, a street, and a state or postcode"
        yield Finding(Kind.ADDRESS, start, rest.end(), 0.9, why)
    elif street and _ADDRESS_WORD.search(plain.before(found.start(), 30)):
        why = "a house number and a street, after the word address"
        yield Finding(Kind.ADDRESS, start, found.end(), 0.7, why)
