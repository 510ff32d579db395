"""What a number is called by the words before it.

Most numbers say nothing by themselves: twelve digits are a My Number in one sentence and an
order number in the next. A label is searched only in the few words before the number, so the
cost does not grow with the text. Japanese has no word boundaries, and its labels need none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from localllm.privacy.plain import Plain

# Numbers that are called something harmless. The nearest label wins: "order 12 of phone 0123".
_OTHER = re.compile(
    r"(?<![a-z])(?:p/n|s/n|order|invoice|tracking|parcel|part|model|serial|ticket|case|sku|isbn"
    r"|issn|ean|upc|jan|imei|version|build|commit|revision|rev|release|timestamp|epoch|section|chapter"
    r"|product|item|batch|lot|receipt|transaction|request|session|port|pid|po)"
    r"(?: ?(?:number|num|no\.?|id|code|#))?(?![a-z])"
    r"|注文|受注|請求書|伝票|追跡|問い?合わ?せ番号|型番|品番|製造番号|商品|管理番号|整理番号|受付番号"
    r"|バージョン|版|価格|金額|ジャンコード|シリアル"
)

# Numbers of people that are called something else: they end the reach of an earlier label.
_OF_OTHER_KINDS = re.compile(
    r"(?<![a-z])(?:cards?|phone|tel|mobile|fax|account|iban|ssn|nhs|nino|passport|licen[cs]e|zip"
    r"|post ?code|date|dob|born|e-?mail)(?![a-z])"
    r"|マイナンバー|個人番号|電話|携帯|口座|カード|免許|旅券|法人番号|生年月日|郵便番号|メール|住所"
)


def label(words: str, last: bool = False) -> re.Pattern[str]:
    """A pattern for `Labelled`: alternatives in lower case."""
    return re.compile(rf"(?:{words})" + (r"[^a-z0-9]{0,12}$" if last else ""))


def named(plain: Plain, start: int, pattern: re.Pattern[str], reach: int = 40) -> bool | None:
    """True where the nearest label before `start` is one of `pattern`, False where it is that
    of something harmless, None where there is none or one of another kind."""
    context = plain.before(start, reach)
    ours, harmless = _last(pattern, context), _last(_OTHER, context)
    others = _last(_OF_OTHER_KINDS, context)
    nearest = max(ours, harmless, others)
    if nearest < 0 or (ours < nearest and harmless < nearest):
        return None
    return ours == nearest


def occurrences(text: str, literal: str) -> Iterator[int]:
    """Every offset of `literal`; a plain search, many times as fast as a pattern."""
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + len(literal))


def _last(pattern: re.Pattern[str], context: str) -> int:
    end = -1
    for found in pattern.finditer(context):
        end = found.end()
    return end
