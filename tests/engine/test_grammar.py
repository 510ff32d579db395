"""GBNF is checked before llama.cpp sees it: with the line, in bounded time, nothing printed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.grammar import check_grammar
from localllm.engine.model import Model
from localllm.engine.sampling import Sampler
from localllm.errors import UsageProblem
from localllm.generation import Sampling

GOOD = [
    'root ::= "yes" | "no"',
    'root ::= [a-z]+ ("," [^\\]x-z]{2,5})* "."?',
    'root ::= item{3} item{2,} item{0,4}\nitem ::= "- " [^\\n]+ "\\n"',
    '# a comment\nroot ::= (\n  "a" # inside\n  | "b"\n)\n',
    'root ::= "\\x41\\u00e9\\U0001F44D\\t\\"\\\\"',
    "root ::= .",
    'root ::= ""',
    "root ::= []",
    "root ::= <|im_end|> | !<[3]>",
    'root ::= "日本" ws\nws ::= [ \\t\\n]*',
    'root ::= "a"\r\n\r\nb-2 ::= "c"\r\n',
    'root ::= "a"{2} {3}',
]

GOOD.append(
    "\n".join(["root ::= r0", *(f"r{i} ::= r{i + 1}" for i in range(9999)), 'r9999 ::= "a"'])
)

BAD = [
    ("", "defines no rule 'root'"),
    ('other ::= "a"', "defines no rule 'root'"),
    ("root := x", "line 1: expected ::="),
    ('root ::= "a', "line 1: unexpected end"),
    ("root ::= [a", "line 1: unexpected end"),
    ('root ::= "a"\nb ::= c', "line 2: rule 'c' is used but not defined"),
    ('root ::= ("a"', r"line 1: expected \)"),
    ('root ::= "a")', "line 1: expected a new line"),
    ("root ::= *", "line 1: nothing in front to repeat"),
    ('root ::= "" +', "nothing in front"),
    ('root ::= "a"{3,1}', "a repetition of 3 to 1"),
    ('root ::= "a"{x}', "expected a repetition"),
    ('root ::= "a"{99999}', "repeats more than 2000"),
    ('root ::= (("a"{0,100}){100}){100}', "repeats more than 2000"),
    ('root ::= "\\q"', "expected an escape"),
    ('root ::= "\\x4"', "expected an escape"),
    ("root ::= <no such token>", "is no single token"),
    ("root ::= <[99999999]>", "is no single token"),
    ("root ::= <oops", "expected a token"),
    ("root ::= " + "(" * 5000, "nest deeper than 200"),
    ('root ::= "\0"', "NUL"),
    ("root ::= " + '"x"' * 200_000, "at most 262144"),
    ("%%%", "expected a rule name"),
    ('root ::= root "a" | "b"', "left recursion"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good_grammars_pass_here_and_in_llama_cpp(
    llama: Model, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Sampler(llama.tokenizer, Sampling(grammar=text)).close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_bad_grammars_are_one_line_and_nothing_is_printed(
    llama: Model, text: str, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    with pytest.raises(UsageProblem, match=expected) as caught:
        Sampler(llama.tokenizer, Sampling(grammar=text or "\n"))
    assert "\n" not in caught.value.message
    assert time.monotonic() - begun < 2
    assert capfd.readouterr() == ("", "")


PIECES = st.sampled_from(
    ["root", "::=", '"a"', "[a-z]", "[^b]", "(", ")", "|", "*", "+", "?", "{2}", "{1,3}", "{2,}",
     "x", "\n", " ", ".", "#c\n", '"', "[", "]", "\\n", "<[1]>", "!", "{", "}", "-", "0"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=14))
@settings(deadline=None, max_examples=400)
def test_whatever_passes_here_passes_in_llama_cpp_or_is_refused_quietly(
    llama: Model, parts: list[str]
) -> None:
    text = "root ::= " + " ".join(parts)
    try:
        check_grammar(text, llama.tokenizer.token_id)
    except UsageProblem:
        return
    try:
        Sampler(llama.tokenizer, Sampling(grammar=text)).close()
    except UsageProblem as refused:
        assert "left recursion" in refused.message, text
