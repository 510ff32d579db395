"""Offsets, labels and overlaps: what the score by kind does not show."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from localllm.privacy import Finding, Kind, Masker, find, resolve


def one(text: str) -> tuple[Kind, str]:
    (finding,) = find(text)
    return finding.kind, text[finding.start : finding.end]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (
            "マイナンバーは１２３４　５６７８　９０１８です",
            Kind.MY_NUMBER,
            "１２３４　５６７８　９０１８",
        ),
        ("電話番号０９０ー１２３４ー５６７８まで", Kind.PHONE, "０９０ー１２３４ー５６７８"),
        ("メールはｔａｒｏ＠ｅｘａｍｐｌｅ．ｊｐへ", Kind.EMAIL, "ｔａｒｏ＠ｅｘａｍｐｌｅ．ｊｐ"),
        (
            "card 4111\u200b1111\u200b1111\u200b1111 ok",
            Kind.CARD,
            "4111\u200b1111\u200b1111\u200b1111",
        ),
        ("\ufeff\u200bmail a.b@example.org", Kind.EMAIL, "a.b@example.org"),
        ("カード番号4111111111111111で", Kind.CARD, "4111111111111111"),
        ("paid 4111.1111.1111.1111.", Kind.CARD, "4111.1111.1111.1111"),
        ("4111\t1111\t1111\t1111", Kind.CARD, "4111\t1111\t1111\t1111"),
        ("an josé.muñoz@example.com", Kind.EMAIL, "josé.muñoz@example.com"),
        ("連絡先はtaro@example.comです", Kind.EMAIL, "taro@example.com"),
        ("İİİ taro@example.com", Kind.EMAIL, "taro@example.com"),
        ("call ٠٩٠ or 090\u20111234\u20115678", Kind.PHONE, "090\u20111234\u20115678"),
        ("https://example.com/?mail=taro%40example.com&x=1", Kind.EMAIL, "taro%40example.com"),
    ],
)
def test_offsets_are_those_of_the_text_as_it_was_given(text: str, kind: Kind, value: str) -> None:
    assert one(text) == (kind, value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("個人番号 123456789018", Kind.MY_NUMBER),
        ("card 4111 1111 1111 1111", Kind.CARD),  # its first twelve digits are a My Number
        ("NHS number 943 476 5919", Kind.NHS_NUMBER),
        ("phone 212-476-5919", Kind.PHONE),
        ("パスワード：hunter22", Kind.PASSWORD),
    ],
)
def test_the_nearest_label_decides_what_digits_are(text: str, kind: Kind) -> None:
    assert one(text)[0] is kind


@pytest.mark.parametrize(
    "text",
    [
        "注文番号 123456789018", "order 4111111111111111", "123456789018", "ISBN 978-4-06-519981-7",
        "マイナンバー 123456789012", "4111 1111 1111 1112", "GB82 WEST 1234 5698 7654 33",
        "000-12-3456", "666-12-3456",
    ],
)  # fmt: skip
def test_numbers_of_something_else_and_wrong_check_digits_are_left_alone(text: str) -> None:
    assert find(text) == ()


def test_a_value_at_both_ends_and_alone_is_found() -> None:
    assert one("a@example.com") == (Kind.EMAIL, "a@example.com")
    assert [f.start for f in find("a@example.com b@example.com")] == [0, 14]
    assert find("") == ()


def test_findings_that_overlap_become_one_that_covers_both() -> None:
    weak, strong = Finding(Kind.PHONE, 0, 12, 0.6, "a"), Finding(Kind.CARD, 8, 20, 0.9, "b")
    assert resolve([strong, weak]) == (Finding(Kind.CARD, 0, 20, 0.9, "b"),)
    assert resolve([strong, Finding(Kind.IP, 20, 24, 0.9, "c")])[0] == strong  # they only touch


def test_kinds_that_are_not_asked_for_do_not_hide_others() -> None:
    text = "postgres://app:taro@example.com@db.internal/x"
    kinds = {f.kind for f in find(text)}
    assert kinds == {Kind.CONNECTION_STRING}
    assert find(text, kinds=(Kind.CARD,)) == ()


def test_one_prompt_with_everything_has_each_kind_once() -> None:
    text = (
        "From: jane.doe@example.co.uk\n電話 03-3123-4567\nIBAN GB82 WEST 1234 5698 7654 32\n"
        "SSN 536-90-4399\n生年月日 昭和55年3月5日\npassword = \"hunter2!\"\nhost 81.2.69.142\n"
        "postgres://app:s3cr3tpw@db/prod\nAKIAQYLPMN5HHHFPZAM2\n"
    )  # fmt: skip
    assert [f.kind for f in find(text)] == [
        Kind.EMAIL, Kind.PHONE, Kind.IBAN, Kind.SSN, Kind.BIRTH_DATE, Kind.PASSWORD, Kind.IP,
        Kind.CONNECTION_STRING, Kind.API_KEY,
    ]  # fmt: skip


def test_a_finding_never_shows_the_data() -> None:
    text = "password = 'tr0ub4dor&3' for jane@example.com"
    for finding in find(text):
        assert "tr0ub4dor" not in repr(finding) and "jane" not in repr(finding)


def test_surrogates_and_control_characters_do_no_harm() -> None:
    assert one("\ud800\x00 a@example.com \udfff") == (Kind.EMAIL, "a@example.com")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        # published examples of the forms that the synthetic set does not have
        ("TFN 123 456 782", "AU tax file number"),
        ("IRD number 49-091-850", "NZ IRD number"),
        ("identity number 7503305044089", "ZA identity number"),
        ("codice fiscale RCCMNL83S18D969H", "IT codice fiscale"),
        (
            "주민등록번호 971013-1019901",
            "KR resident registration number",
        ),
        ("身份证 360426199101010071", "CN resident identity number"),
        ("PESEL 44051401359", "PL PESEL"),
        ("BSN 111222333", "NL BSN"),
        ("Steuer-ID 36 574 261 809", "DE tax identification number"),
        ("保険者番号 33120015", "JP health insurance symbol"),
    ],
)
def test_numbers_of_other_states(text: str, named: str) -> None:
    findings = find(text)
    assert [(f.kind, f.why.split(":")[0]) for f in findings] == [(Kind.NATIONAL_ID, named)], (
        findings
    )


def test_what_json_and_urls_write_in_other_characters() -> None:
    text = (
        "電話は０３−１２３４−５６７８\n住所：東京都千代田区丸の内1-2-3\nマイナンバー:\n123456789018"
    )
    kinds = ["phone", "address", "my_number"]
    written = text
    for _ in range(4):  # a JSON document within one, as in the arguments of a call
        found = find(written)
        assert [one.kind for one in found] == kinds
        if written != text:  # a document stays one
            assert "1234" not in json.loads(Masker().mask(written, found).text)
        values = [written[one.start : one.end] for one in found]
        for _ in range(3):
            values = [json.loads(f'"{one}"') if "\\" in one else one for one in values]
        assert values == ["０３−１２３４−５６７８", "東京都千代田区丸の内1-2-3", "123456789018"]
        written = json.dumps(written)  # with \uXXXX for all that is not ASCII
    link = (
        f"https://maps.example/?q={quote('東京都千代田区丸の内1-2-3')}&tel=%2B81%203%201234%205678"
    )
    assert [one.kind for one in find(link)] == ["address", "phone"]
    assert [one.kind for one in find("mail bob&#64;example.org or b&#x40;example.org")] == [
        "email"
    ] * 2


@pytest.mark.parametrize("text", [
    r"C:\new\users\temp", r"\ud800 \udfff \u12", "100% of 50%ab %zz %",
    "&#xffffffff; &#0; &#; &amp;",
    "%e6%9d %ff%fe %f0%9f%99", "\\" * 5000 + "u", "%ff" * 5000, r"\alpha \nu \rho",
])  # fmt: skip
def test_what_looks_like_an_escape_keeps_its_place(text: str) -> None:
    mail = "bob@example.org"
    (found,) = find(f"{text} {mail} {text}")
    assert (found.start, found.end) == (len(text) + 1, len(text) + 1 + len(mail))


@pytest.mark.parametrize(
    "value", ["hunter2!x9", 'hun"ter2\\x!9Q', "Xk9\nTq2!pw", "C0rrect\\horse'9"]
)
def test_a_password_of_a_document_is_found_whole_however_deep_it_stands(value: str) -> None:
    written = json.dumps({"user": "bob", "password": value, "n": 1})
    for _ in range(3):
        (found,) = find(written)
        wanted = value
        while wanted not in written:
            wanted = json.dumps(wanted)[1:-1]
        at = written.index(wanted)
        assert found.kind is Kind.PASSWORD
        assert found.start <= at and at + len(wanted) <= found.end
        written = json.dumps(written)


def test_an_escape_before_a_value_stays_whole() -> None:
    written = json.dumps({"text": "line\nbob@example.org\t4111 1111 1111 1111"})
    assert [written[one.start : one.end] for one in find(written)] == [
        "bob@example.org", "4111 1111 1111 1111",
    ]  # fmt: skip
