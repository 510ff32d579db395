"""Megabytes made to be slow: the time must grow with the length, not with its square."""

from __future__ import annotations

import time

import pytest

from localllm.privacy import find, mask

PIECES = {
    "letters": "a", "digits": "7", "spaced digits": "1 ", "dashes": "1-", "dots": "1.", "ats": "@",
    "mails": "a@a.",
    "local part": "a.", "jwt": "eyJ", "jwt dots": "eyJhbGciOiJI.",
    "begin": "-----BEGIN PRIVATE KEY-----", "begin end": "-----BEGIN PRIVATE KEY-----\n-----END ",
    "colons": ":", "hex": "ab:", "v6": "2001:", "password": "password=",
    "password quotes": 'password="', "secret": "secret: a1", "schemes": "://a:",
    "userinfo": "a://b:c", "cards": "4111 1111 1111 1112 ", "phones": "415-555-2671 ",
    "phone labels": "phone ", "tel": "tel 0", "japan": "東京都新宿区", "town": "住所東京市町村",
    "streets": "1 A A A A ", "street": "12 Main St ", "born": "born ", "born dates": "生年月日1",
    "sei": "1980年生", "passport": "passport number ", "iban": "GB82WEST",
    "iban groups": "GB82 WEST ",
    "angle": "<", "mrz": "P<GBR<<<<", "mrz digits": "<<<<1234567890", "brackets": "(0)",
    "full width": "１－", "zero width": "1\u200b", "prefix": "sk-", "slack": "xoxb-1",
    "aws": "AKIA", "newlines": "\n",
    "percent": "%40a.b", "bearer": "bearer aaaaaaaaaaaaaaaa", "curl": "curl -u a",
    "accounts": "account number 1234567 ", "licence": "driving licence a", "dl": "dl no ",
    "placeholders": "<EMAIL_1", "quotes": "\"'`", "box": "po box 1 ",
    "my number": "マイナンバー123456789012",
    "backslashes": "\\", "escapes": "\\u6771", "deep escapes": "\\\\\\\\n1", "of url": "%E6%9D",
    "pairs": "\\ud83d\\", "entities": "&#6", "escaped quotes": 'password: \\"',
}  # fmt: skip


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES.keys())
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    """Eight times the text may take twenty times as long, not sixty-four; no bound on the
    time itself, which depends on the machine. What is over in a fifth of a second passes."""
    small, large = 5_000, 40_000
    brief = _seconds(piece * (small // len(piece)))
    long = _seconds(piece * (large // len(piece)))
    assert long < 0.2 or long < 20 * brief


def test_a_prompt_full_of_placeholders_and_addresses_takes_no_longer_than_its_length() -> None:
    def text(count: int) -> str:
        return "".join(f"<EMAIL_{n}> u{n}@example.com U{n}@example.com " for n in range(count))

    brief, long = _seconds(text(100)), _seconds(text(800))
    assert long < 0.2 or long < 20 * brief


def _seconds(text: str) -> float:
    """The better of two, so that a pause of the machine is not taken for growth."""
    times = []
    for _ in range(2):
        began = time.process_time()
        masked = mask(text, find(text))
        masked.restore(masked.text)
        times.append(time.process_time() - began)
    return min(times)
