"""The texts that ship with the program: what they hold, and that they do not overlap."""

from __future__ import annotations

import re
import unicodedata
from importlib import resources

import pytest

from localllm import texts

# A word of each language that is in no other text by chance, and a script's share.
_WORDS = {
    "en": "everyone", "de": "Menschenrechte", "fr": "droits", "es": "derechos", "pt": "direitos",
    "it": "diritti", "ru": "человека", "zh": "人人", "ja": "すべて", "ar": "الحق", "hi": "अधिकार",
    "ko": "권리", "nl": "rechten", "pl": "prawo", "tr": "herkes", "vi": "quyền", "uk": "людини",
    "el": "δικαίωμα", "he": "אדם", "th": "สิทธิ", "bn": "অধিকার", "ta": "உரிமை",
}  # fmt: skip


_SCRIPTS = {"LATIN", "CYRILLIC", "CJK", "ARABIC", "DEVANAGARI", "HANGUL"}


def _paragraphs(text: str) -> set[str]:
    return {p.strip() for p in re.split(r"\n\s*\n", text) if len(p.strip()) >= 60}


def _scripts(text: str) -> set[str]:
    """The scripts of letters that make up 0.3 % of the text at least."""
    counts: dict[str, int] = {}
    for char in text:
        if char.isalpha():
            script = unicodedata.name(char, "?").split()[0]
            counts[script] = counts.get(script, 0) + 1
    return {s for s, n in counts.items() if n >= 0.003 * len(text)}


@pytest.mark.parametrize(("language", "word"), sorted(_WORDS.items()))
def test_calibration_speaks(language: str, word: str) -> None:
    assert word.casefold() in texts.calibration_text().casefold(), language


@pytest.mark.parametrize("name", ["calibration", "evaluation"])
def test_scripts_code_and_talk(name: str) -> None:
    text = getattr(texts, f"{name}_text")()
    assert _scripts(text) >= _SCRIPTS | {"HIRAGANA"}
    assert "static int " in text  # C
    assert "def " in text
    assert "\nAssistant: " in text


def test_no_passage_stands_in_both() -> None:
    both = _paragraphs(texts.calibration_text()) & _paragraphs(texts.evaluation_text())
    assert both == set()


def test_any_tenth_of_the_calibration_text_is_a_fair_sample() -> None:
    text = texts.calibration_text()
    for tenth in range(10):
        part = text[tenth * len(text) // 10 : (tenth + 1) * len(text) // 10]
        assert _scripts(part) >= _SCRIPTS


def test_digests_stand_in_the_sources() -> None:
    sources = resources.files(texts).joinpath("SOURCES.md").read_text(encoding="utf-8")
    for text in (texts.calibration(), texts.evaluation()):
        assert text.sha256 in sources
        assert f"| {len(text.content.encode())} |" in sources
        assert "\r" not in text.content
