"""Modelfiles as Ollama's parser reads them, and back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.errors import UsageProblem
from localllm.modelfile import PARAMETERS, Modelfile, parse

WHOLE = '''
# comment before everything
FROM llama3.2:1b
parameter   temperature 0.7
PARAMETER num_ctx 4096
PARAMETER stop "<|eot_id|>"
 Parameter stop """User:
"""
PARAMETER use_mmap true
TEMPLATE """{{ if .System }}{{ .System }}
# no comment in here
{{ end }}"""
SYSTEM You are "Mario"   from Super Mario Bros.
ADAPTER ./lora dir/a.gguf
LICENSE """
MIT
"""
LICENSE Apache-2.0
MESSAGE user Is "Toad" nice?
message assistant """yes
and no"""
RENDERER qwen3-vl
PARSER qwen3-vl
REQUIRES 0.14.0
'''


def test_every_command() -> None:
    assert parse(WHOLE) == Modelfile(
        base="llama3.2:1b",
        parameters={"temperature": 0.7, "num_ctx": 4096, "stop": ["<|eot_id|>", "User:\n"],
                    "use_mmap": True},
        template="{{ if .System }}{{ .System }}\n# no comment in here\n{{ end }}",
        system='You are "Mario"   from Super Mario Bros.',
        adapters=("./lora dir/a.gguf",),
        licenses=("\nMIT\n", "Apache-2.0"),
        messages=(("user", 'Is "Toad" nice?'), ("assistant", "yes\nand no")),
        renderer="qwen3-vl",
        parser="qwen3-vl",
        requires="0.14.0",
    )  # fmt: skip


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    found = parse('\ufeffFROM a\r\nSYSTEM """x\r\ny"""\r\nPARAMETER top_k 1\r\n')
    assert (found.base, found.system, found.parameters) == ("a", "x\r\ny", {"top_k": 1})


def test_a_quotation_goes_on_to_the_line_that_ends_with_its_mark() -> None:
    found = parse('FROM a\nSYSTEM "one\ntwo "quoted" three\nfour"\nPARAMETER top_k 1')
    assert found.system == 'one\ntwo "quoted" three\nfour'


BAD = [
    ("", "the Modelfile: it has no FROM line"),
    ("SYSTEM x", "it has no FROM line"),
    ("FROM a\nFRM b", "line 2: 'FRM' is no command; there are FROM, PARAMETER"),
    ("FROM a\n{json: 1}", "line 2: '{json:' is no command"),
    ("FROM a\n\n# x\nSYSTEM\n", "line 4: SYSTEM without a value"),
    ('FROM a\nSYSTEM """x\ny\nz', "line 2: the quotation of SYSTEM is never closed"),
    ("FROM a\nPARAMETER", "line 2: PARAMETER without the name"),
    ("FROM a\nPARAMETER top_k", "line 2: PARAMETER without a value"),
    ("FROM a\nPARAMETER temprature 1", "line 2: unknown parameter 'temprature'; near: temperature"),
    ("FROM a\nPARAMETER top_k 1.5", "line 2: top_k '1.5' is not a whole number"),
    ("FROM a\nPARAMETER temperature hot", "line 2: temperature 'hot' is not a number"),
    ("FROM a\nPARAMETER temperature nan", "line 2: temperature 'nan' is not a number"),
    ("FROM a\nPARAMETER use_mmap maybe", "line 2: use_mmap 'maybe' is not true or false"),
    ("FROM a\nMESSAGE tool x", "line 2: MESSAGE tool: the role is one of system"),
    ("FROM a\nFROM b", "line 2: a second FROM"),
    ('FROM ""', "line 1: FROM names nothing"),
    ("FROM a\nREQUIRES soon", "line 2: REQUIRES 'soon' is no version"),
    ("FROM a\r\nSYSTEM x\r\nOOPS y", "line 3: 'OOPS' is no command"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_a_mistake_is_one_line_with_its_place(text: str, why: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse(text)
    assert why in caught.value.message
    assert "\n" not in caught.value.message


TEXT = st.text(max_size=40).filter(lambda s: "\r" not in s and "\0" not in s and "\ufeff" not in s)
VALUES = st.one_of(TEXT, st.sampled_from(['"', '""', '"""', 'a"', '"a', "a\n", " a ", "x # y", "\n",
                                          'one\n"two"\nthree', "{{ .System }}\n"]))  # fmt: skip


def holdable(text: str) -> bool:
    """A text with a line that ends in three quotation marks cannot be written, nor can an empty
    one be told from none."""
    return not any(line.endswith('"') for line in text.split("\n")) or '"' not in text


# loaded machines are slow, and that is no failure
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    system=st.none() | VALUES.filter(holdable),
    stops=st.lists(VALUES.filter(holdable), max_size=3),
    number=st.floats(-1e9, 1e9) | st.integers(-1000, 1000),
    messages=st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]),
                                VALUES.filter(holdable)), max_size=3),
    licenses=st.lists(VALUES.filter(holdable), max_size=2),
)  # fmt: skip
def test_what_is_written_reads_as_itself(
    system: str | None, stops: list[str], number: float, messages: list[tuple[str, str]],
    licenses: list[str],
) -> None:  # fmt: skip
    parameters = {"temperature": float(number), "use_mmap": False}
    made = Modelfile(
        "org/base:Q4_K_M", {**parameters, **({"stop": stops} if stops else {})}, system=system,
        template="{{ .Prompt }}", adapters=("a b.gguf",), messages=tuple(messages),
        licenses=tuple(licenses),
    )  # fmt: skip
    assert parse(made.text()) == made


def test_what_no_quotation_holds_is_refused() -> None:
    with pytest.raises(UsageProblem, match="cannot hold this value of SYSTEM"):
        Modelfile("a", system='x\n"""\ny').text()


def test_our_parameters_are_ollamas() -> None:
    assert {"num_ctx", "stop", "temperature", "min_p", "repeat_last_n", "seed"} <= PARAMETERS
