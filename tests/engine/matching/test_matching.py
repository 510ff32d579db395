"""Our own matcher of grammars: what llama.cpp's sampler lets through, without its hangs."""

from __future__ import annotations

import ctypes
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine import native
from localllm.engine.grammar import read_grammar
from localllm.engine.matching.desk import Desk, desk_of
from localllm.engine.matching.positions import Positions
from localllm.engine.matching.rules import LAST_CODE, ranges
from localllm.engine.matching.stacks import STEP_WORK, Machine, Stacks, TooManyWays
from localllm.engine.matching.vocabulary import span
from localllm.engine.matching.walker import Walker
from localllm.engine.model import Model
from localllm.errors import UsageProblem
from localllm.grammars import json_schema_grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["yes", "no", "nothing"]}, "maxItems": 3},
        "child": {"$ref": "#"},
    },
    "required": ["name"],
}
ORDINARY = [
    'root ::= (expr "=" ws term "\\n")+\nexpr ::= term ([-+*/] term)*\n'
    'term ::= ident | num | "(" ws expr ")" ws\nident ::= [a-z] [a-z0-9_]* ws\n'
    "num ::= [0-9]+ ws\nws ::= [ \\t\\n]*",
    'root ::= ("- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n")+',
    'root ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")+\n'
    'move ::= ([NBKQR]? [a-h]? [1-8]? "x"? [a-h] [1-8] ("=" [NBKQR])? | "O-O" "-O"?) [+#]?',
    "root ::= jp+ ([ \\t\\n] jp+)*\njp ::= [ぁ-ん] | [ァ-ヺ] | [、-〾] | [一-龯]",
    'root ::= ("a"? "b"? [0-9]{0,3})* "."',
    'root ::= "a"{2,5} ("bc"){0,2} . !<[40]> <[41]> [^x-z]+',
    json_schema_grammar(PERSON),
    json_schema_grammar({}),
]


class Reference:
    """llama.cpp's own sampler over the whole vocabulary."""

    def __init__(self, model: Model, text: str) -> None:
        self._llama = llama = native.lib()
        self._handle = llama.llama_sampler_init_grammar(
            model.tokenizer.vocab_handle, text.encode(), b"root"
        )
        assert self._handle
        self._n = model.tokenizer.n_vocab

    def choices(self) -> set[int]:
        rows = (self._llama.llama_token_data * self._n)(*((t, 1.0, 0.0) for t in range(self._n)))
        array = self._llama.llama_token_data_array(rows, self._n, -1, False)
        self._llama.llama_sampler_apply(self._handle, ctypes.byref(array))
        return {int(one.id) for one in rows if one.logit != -math.inf}

    def accept(self, token: int) -> None:
        self._llama.llama_sampler_accept(self._handle, token)

    def close(self) -> None:
        self._llama.llama_sampler_free(self._handle)


def walker(model: Model, text: str, desk: Desk | None = None) -> Walker:
    tokenizer = model.tokenizer
    return Walker(tokenizer, (desk or desk_of(tokenizer)).engage(tokenizer, text))


def excused(model: Model, token: int) -> bool:
    """What differs on purpose: bytes that no UTF-8 holds, which llama.cpp takes for the beginning
    of a character, and beginnings of characters of which a negated set leaves some: it refuses."""
    raw = model.tokenizer.special_piece(token)
    return raw >= b"\x80" and (raw[0] >= 0xF5 or len(raw) == 1)


@pytest.mark.parametrize("kind", ["bpe", "spm"])
@pytest.mark.parametrize("text", ORDINARY)
def test_the_same_tokens_may_follow_as_in_llama_cpp(
    llama: Model, spm: Model, kind: str, text: str
) -> None:
    model = {"bpe": llama, "spm": spm}[kind]
    rng = random.Random(len(text))
    eog = model.tokenizer.eog_tokens
    for _ in range(3):
        ours, theirs = walker(model, text), Reference(model, text)
        for _ in range(30):
            mine, wanted = set(ours.choices().tolist()), theirs.choices()
            assert all(excused(model, token) for token in mine ^ wanted)
            assert all(ours.fits(token) for token in rng.sample(sorted(mine), min(9, len(mine))))
            both = [t for t in sorted(mine & wanted) if t not in eog and not excused(model, t)]
            if not both:
                break
            token = rng.choice(both)
            theirs.accept(token)
            assert ours.take(token)
        theirs.close()


UNITS = st.sampled_from(['"a"', '"b"', "[ab]", "x", "y", '"ab"', "[^a]", '""'])
ITEMS = st.tuples(UNITS, st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{0,2}"])).map("".join)
BODIES = st.lists(st.lists(ITEMS, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=3)


@given(BODIES, BODIES, BODIES)
@settings(deadline=None, max_examples=150)
def test_any_small_grammar_reads_the_same_texts(
    llama: Model, root: list[str], x: list[str], y: list[str]
) -> None:
    """Rules of rules, repetitions of what may be empty: every text of up to four characters. `x`
    and `y` stand behind a character, so that llama.cpp does not run for ever."""
    text = f"root ::= {' | '.join(root)}\n"
    text += f'x ::= "a" ({" | ".join(x)}) | "b"\ny ::= "b" ({" | ".join(y)})\n'
    text = text.replace('""*', '""').replace('""+', '""').replace('""?', '""')
    text = text.replace('""{2}', '""').replace('""{0,2}', '""')
    eos, piece = llama.tokenizer.eos, llama.tokenizer.piece
    single = {p: t for t in reversed(range(llama.tokenizer.n_vocab)) if len(p := piece(t)) == 1}
    letters = [single[b"a"], single[b"b"], single[b"c"]]
    waiting: list[list[int]] = [[]]
    while waiting:
        prefix = waiting.pop()
        ours, theirs = walker(llama, text, Desk()), Reference(llama, text)
        for token in prefix:
            assert ours.take(token)
            theirs.accept(token)
        allowed = theirs.choices()
        assert {t for t in (*letters, eos) if t is not None and ours.fits(t)} == (
            allowed & {*letters, eos}
        ), (text, prefix)
        theirs.close()
        if len(prefix) < 4:
            waiting += [[*prefix, t] for t in letters if t in allowed]


def after(machine: Machine, text: str) -> tuple[Stacks | None, int]:
    """What `text` leads to, and the most work that a character of it took."""
    stacks: Stacks | None = machine.start
    most = 0
    for char in text:
        assert stacks is not None
        machine.begin_step()
        stacks = machine.move(stacks, machine.positions.codes.of(ord(char)))
        if stacks is not None:
            machine.open(stacks)
        most = max(most, STEP_WORK - machine._work)
    return stacks, most


def machine(text: str) -> Machine:
    return Machine(Positions(read_grammar(text, lambda word: int(word[2:-2]))))


@pytest.mark.parametrize(
    "text",
    [
        'root ::= ("a"|"a")*',
        "root ::= " + '("a"|"a") ' * 400,
        "root ::= " + '"a"? ' * 300,
        'root ::= ("a"?){1000}',
        'root ::= b\nb ::= "a" b "y" | "a" b "z" | ""',
        "root ::= " + "[a-z]* " * 60,
        'root ::= s\ns ::= "a" s s | "a" | ""',
        "root ::= r0\n" + "\n".join(f'r{i} ::= r{i + 1} "a"? | r{i + 1} "a"?' for i in range(60))
        + '\nr60 ::= "a"',
        "root ::= (" + "|".join(['"aa"'] * 2000) + ")*",
    ],
)  # fmt: skip
def test_ways_are_not_counted(text: str) -> None:
    """Of each of these `aaaa...` can be read in millions of ways and more, most of them 2^60. Work
    is counted, not timed: a tenth of a step's."""
    stacks, work = after(machine(text), "a" * 60)
    assert stacks is not None
    assert work < STEP_WORK / 10


def test_what_grows_all_the_same_is_refused_with_a_word() -> None:
    """Ambiguous and ever deeper: the graph grows with the square of the text."""
    with pytest.raises(TooManyWays, match="too many ways"):
        after(machine("root ::= " + "[a-z]{0,190} " * 12), "a" * 2000)


def test_a_token_of_many_characters_is_refused_at_once(llama: Model) -> None:
    """llama.cpp asks 2^n times about a token of n characters whose last does not fit."""
    text = 'root ::= ("a"|"a")* "b"'
    found = walker(llama, text)
    pieces = {llama.tokenizer.piece(t) for t in found.choices().tolist()}
    assert pieces
    assert all(set(piece.decode()) <= {"a", "b"} for piece in pieces)


def test_stacks_that_are_equal_are_one_object() -> None:
    one = machine('root ::= ("x" | "x" "y"?)*')
    first, _ = after(one, "x")
    second, _ = after(one, "xxxxxxxx")
    assert first is second


@pytest.mark.parametrize(
    "text",
    ['root ::= root "a" | "b"', 'root ::= n root "b" | "a"\nn ::= m\nm ::= "" | "a"',
     'root ::= a "x" | "y"\na ::= b\nb ::= ("z"?) root "w"'],
)  # fmt: skip
def test_left_recursion_is_refused_where_it_hides(text: str) -> None:
    """Behind what may be empty llama.cpp does not see it, and fills the memory."""
    with pytest.raises(UsageProblem, match="left recursion"):
        machine(text)


@pytest.mark.parametrize("text", ['root ::= ("a"?)* "b"', 'root ::= (("a"?)*)* "b"'])
def test_repeating_what_may_be_empty_is_none(text: str) -> None:
    stacks, _ = after(machine(text), "aaab")
    assert stacks is not None
    assert stacks.empty


@pytest.mark.parametrize(
    "text", ['root ::= "' + "a" * 3000 + '"{2000}', "root ::= " + '"a"{2000} ' * 3000]
)
def test_repetitions_of_long_texts_take_no_memory(text: str) -> None:
    try:
        rules = read_grammar(text, lambda _: None)
    except UsageProblem as refused:
        assert "elements" in refused.message
    else:
        assert sum(len(s) for rule in rules.alternatives for s in rule) < 10_000


def test_a_thousand_brackets_deep(llama: Model) -> None:
    """Nothing in it calls itself, so depth is bounded by memory alone."""
    stacks, work = after(machine(json_schema_grammar({})), "[" * 5000 + "]" * 5000)
    assert stacks is not None
    assert stacks.empty
    assert work < 2000


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=6), st.booleans())
def test_ranges_hold_what_was_given(pairs: list[tuple[int, int]], negated: bool) -> None:
    held = ranges(pairs, negated=negated)
    inside = {c for low, high in pairs for c in range(low, high + 1)}
    assert all(any(a <= c <= b for a, b in held) == ((c in inside) != negated) for c in range(302))
    assert any(a <= LAST_CODE <= b for a, b in held) == negated


@given(st.characters(min_codepoint=128, exclude_categories=["Cs"]), st.integers(1, 3))
def test_the_span_of_a_begun_character_holds_it(char: str, n: int) -> None:
    begun = char.encode()[:n]
    if begun != char.encode():
        low, high = span(begun)
        assert low <= ord(char) <= high
        assert (
            chr(max(low, 0xE000 if 0xD800 <= low < 0xE000 else low)).encode()[: len(begun)] == begun
        )


def test_a_grammar_is_read_once_for_many_answers(llama: Model) -> None:
    desk: Any = Desk()
    first = desk.engage(llama.tokenizer, 'root ::= "a"')
    assert desk.engage(llama.tokenizer, 'root ::= "a"') is first
    for i in range(40):
        desk.engage(llama.tokenizer, f'root ::= "{i}"')
    assert desk.engage(llama.tokenizer, 'root ::= "a"') is not first
