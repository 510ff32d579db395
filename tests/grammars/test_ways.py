"""Grammars that can be read in more ways than anybody has time for."""

from __future__ import annotations

import pytest

from localllm.errors import UsageProblem
from localllm.grammars import check_ways

NESTED = "root ::= r1\nr1 ::= r2 'a'?\n".replace("'", '"') + "\n".join(
    [f'r{i} ::= r{i + 1} "a"?' for i in range(2, 40)] + ['r40 ::= "b"']
)


@pytest.mark.parametrize(
    "text",
    [
        'root ::= ("a"?){1000}',
        "root ::= " + '"a"? ' * 30,
        'root ::= ten ten ten\nten ::= x x x x x x x x x x\nx ::= "a" | ""',
        'root ::= "b" (("a"?){40})',
        "root ::= " + "[a-z]* " * 6 + '"."',
        'root ::= ("aa"?){400}'.replace('"aa"?', '("aa")?'),
        NESTED,
        "root ::= " + "(" * 5000,
    ],
)
def test_what_takes_for_ever_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem):
        check_ways(text)


@pytest.mark.parametrize(
    "text",
    [
        "root ::= [^a]{1,1000}",
        "root ::= " + '("a" | "b") ' * 500,
        # parts that may be left out, and are told apart by what follows their first character
        "root ::= " + " ".join(f'("\\"k{i}\\":" [0-9]+ ",")?' for i in range(40)),
        'root ::= ("foo" | "fob" | "fox" | "fun" | "fix" | "fat")*',
        'root ::= ws "a" ws ws "b" ws\nws ::= [ \\t\\n]*  # spaces',
        'root ::= "-"? [0-9]{1,15} ("." [0-9]+)? ([eE] [+-]? [0-9]+)?',
        "root ::= " + " | ".join(f'"option {i}"' for i in range(500)),
        'root ::= expr ("=" expr)?\nexpr ::= term ([-+*/] term)*\nterm ::= "(" expr ")" | [0-9]+',
        "\n".join(f"r{i} ::= r{i + 1}" for i in range(90)) + '\nr90 ::= "x"\nroot ::= r0',
    ],
)
def test_what_people_write_is_let_pass(text: str) -> None:
    check_ways(text)


@pytest.mark.parametrize("text", ["", "root", 'root ::= "a', "root ::= [", "((", '?*{3}"'])
def test_what_is_no_grammar_is_left_to_who_reads_it(text: str) -> None:
    check_ways(text)
