"""Languages by their small words; what is not clear is a script."""

from __future__ import annotations

import pytest

from localllm.errors import UsageProblem
from localllm.route.contrast import MIN_PROMPTS
from localllm.route.pool.steps import Rule
from localllm.route.text.languages import LATIN_LANGUAGES, NAMES, is_in, language
from localllm.route.training import languages
from tests.route.known import known


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Prove that 17 is prime.", "english"),
        ("Let a and e be elements of a group. If a = e, what is o(a)?", "english"),
        ("Erkläre mir die Relativitätstheorie", "german"),
        ("Qu'est-ce que c'est ?", "french"),
        ("Escribe un poema sobre el otoño", "spanish"),
        ("Qual è la capitale d'Italia?", "italian"),
        ("Como você está?", "portuguese"),
        ("Schrijf een gedicht over de herfst", "dutch"),
        ("Jaka jest stolica Polski?", "polish"),
        ("Vad är huvudstaden i Sverige?", "swedish"),
        ("Hvad er hovedstaden i Danmark?", "danish"),
        ("Jak se máš?", "czech"),
        ("Bu nedir ve nasıl çalışır?", "turkish"),
        ("Bagaimana cara membuat kue?", "indonesian"),
        ("Thủ đô của Việt Nam là gì?", "vietnamese"),
        ("Mikä on Suomen pääkaupunki?", "finnish"),
        ("Care este capitala României?", "romanian"),
        ("Hogy vagy?", "hungarian"),
        ("これは日本語です", "japanese"),
        ("Где ты живёшь?", "cyrillic"),
        ("def f(x): return x + 1", "latin"),
        ("a b c d e i o u v w x y z", "latin"),
        ("lorem ipsum dolor", "latin"),
        ("", "latin"),
    ],
)
def test_what_is_told(text: str, named: str) -> None:
    assert language(text) == named


def test_every_name_is_one_that_a_rule_takes() -> None:
    assert {"english", "japanese", "latin", "han", "chinese", "korean"} <= set(NAMES)
    for name in NAMES:
        assert Rule(to="x", languages=(name, name.title())).languages
    with pytest.raises(UsageProblem, match="'klingon' is no language"):
        Rule(to="x", languages=("german", "klingon"))


def test_the_languages_names_are_of_their_scripts_too() -> None:
    assert is_in("你好吗", ("Chinese",)) == "han"
    assert is_in("Wie geht es dir?", ("french", "latin")) == "latin"
    assert is_in("Wie geht es dir?", ("french",)) is None


def test_a_megabyte_is_read_at_its_beginning() -> None:
    assert language("Wie geht es dir? " + "what is the " * 100_000) == "english"
    assert language("und der die das " * 100_000) == "german"


def test_few_prompts_of_a_language_are_measured_with_its_script() -> None:
    data = known(2 * MIN_PROMPTS)
    german = (*["Was ist das für ein Tier?"] * (MIN_PROMPTS - 1),)
    prompts = (*german, *data.prompts[len(german) :])
    from dataclasses import replace

    names = languages(replace(data, prompts=prompts))
    assert "german" not in names and names[0] == "latin"
    more = (*german, german[0], *data.prompts[len(german) + 1 :])
    assert languages(replace(data, prompts=more))[:MIN_PROMPTS] == ["german"] * MIN_PROMPTS
    assert "english" in LATIN_LANGUAGES
