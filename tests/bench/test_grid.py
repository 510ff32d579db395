"""The option grammar and the order of a sweep, against llama-bench's own rows and by property."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.bench import grid
from localllm.bench.grid import Axes, cases, whole_numbers
from localllm.bench.options import axes, counts, share
from localllm.engine.options import FLASH_ATTENTION
from localllm.errors import UsageProblem
from localllm.library.bench.case import BenchTest, Case

RECORDED = json.loads(
    (Path(__file__).parent / "data" / "llama_bench_order.json").read_text(encoding="utf-8")
)
# llama-bench's letters and the parameter of ours that takes the text.
LETTERS = {
    "-p": "n_prompt", "-n": "n_gen", "-pg": "pg", "-d": "n_depth", "-b": "n_batch",
    "-ub": "n_ubatch", "-t": "threads", "-ngl": "n_gpu_layers", "-ncmoe": "n_cpu_moe",
    "-fa": "flash_attn", "-ctk": "type_k", "-ctv": "type_v", "-sm": "split_mode",
    "-mg": "main_gpu", "-ts": "tensor_split", "-nkvo": "no_kv_offload",
}  # fmt: skip


def read(arguments: str) -> tuple[Case, ...]:
    """The cases of a command line of llama-bench's."""
    texts: dict[str, Any] = dict.fromkeys([*LETTERS.values(), "mmap", "kv"])
    words = shlex.split(arguments)
    for option, text in zip(words[::2], words[1::2], strict=True):
        name = LETTERS[option]
        texts[name] = [*(texts[name] or []), text]
    return cases(axes(**texts))


def as_llama_bench_has_it(case: Case, fields: list[str]) -> list[Any]:
    setup, test = case.setup, case.test
    special = {
        "n_gpu_layers": -1 if setup.n_gpu_layers is None else setup.n_gpu_layers,
        "flash_attn": FLASH_ATTENTION[setup.flash_attn],
        "tensor_split": "/".join(f"{x:.2f}" for x in setup.tensor_split) or "0.00",
    }
    return [
        special[f] if f in special else getattr(test if hasattr(test, f) else setup, f)
        for f in fields
    ]


@pytest.mark.parametrize("recorded", RECORDED["runs"], ids=lambda r: r["arguments"][:20])
def test_the_order_is_llama_benchs(recorded: dict[str, Any]) -> None:
    ours = [as_llama_bench_has_it(c, RECORDED["fields"]) for c in read(recorded["arguments"])]
    assert ours == recorded["rows"]


def test_defaults_are_llama_benchs() -> None:
    assert [c.test.name for c in cases(Axes())] == ["pp512", "tg128"]
    # -pg alone does not switch the others off
    assert [c.test.name for c in read("-pg 512,128")] == ["pp512", "tg128", "pp512+tg128"]
    (case,) = read("-p 0 -n 8")
    assert (case.setup.n_batch, case.setup.n_ubatch, case.setup.type_k) == (2048, 512, "f16")
    assert (case.setup.flash_attn, case.setup.n_gpu_layers) == ("auto", None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("512", [512]), ("512,", [512]), ("1,2,2", [1, 2, 2]), ("2-5", [2, 3, 4, 5]),
        ("2-9+3", [2, 5, 8]), ("8-100*2", [8, 16, 32, 64]), ("3-3", [3]), ("0", [0]),
        ("1, 4-8+4 ,9", [1, 4, 8, 9]),
    ],
)  # fmt: skip
def test_ranges(text: str, values: list[int]) -> None:
    assert list(whole_numbers("-p", [text])) == values


def test_a_negative_start_is_for_gpu_layers() -> None:
    assert list(whole_numbers("-ngl", ["-1", "-1-1"], negative=True)) == [-1, -1, 0, 1]
    with pytest.raises(UsageProblem):
        whole_numbers("-ngl", ["-2"], negative=True)


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,,2", "a", "1-", "-5", "5-3", "1-5+0", "0-8*2", "1-8*1", "1-5|2", "1.5", "1e3",
     "99999999999", "1-99999999999", "1 2", "0x10", "٣"],
)  # fmt: skip
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        whole_numbers("-p", [text])
    assert "-p" in caught.value.message
    assert "\n" not in caught.value.message


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 60))
def test_a_stepped_range_is_pythons(first: int, more: int, step: int) -> None:
    last = first + more
    assert list(whole_numbers("-p", [f"{first}-{last}+{step}"])) == [
        n for n in range(first, last + 1) if (n - first) % step == 0
    ]


@given(st.integers(1, 50), st.integers(0, 5000), st.integers(2, 9))
def test_a_multiplied_range_grows_by_the_factor(first: int, more: int, factor: int) -> None:
    last = first + more
    found = list(whole_numbers("-p", [f"{first}-{last}*{factor}"]))
    assert found[0] == first
    assert all(b == a * factor for a, b in itertools.pairwise(found))
    assert found[-1] <= last < found[-1] * factor


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1))
def test_commas_and_repeated_flags_are_one_list(lists: list[list[int]]) -> None:
    texts = [",".join(map(str, one)) for one in lists]
    assert list(whole_numbers("-p", texts)) == [n for one in lists for n in one]


sizes = st.lists(st.integers(0, 3), min_size=1, max_size=3)


@given(sizes, sizes, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=2),
       sizes, st.lists(st.integers(1, 4), min_size=1, max_size=2))  # fmt: skip
def test_the_product_is_complete(
    prompts: list[int], gens: list[int], pg: list[tuple[int, int]], depths: list[int],
    threads: list[int],
) -> None:  # fmt: skip
    tests = [(n, 0) for n in prompts if n] + [(0, n) for n in gens if n]
    tests += [p for p in pg if p != (0, 0)]
    made = Axes(n_prompt=prompts, n_gen=gens, n_pg=pg, n_depth=depths, n_threads=threads)
    if not tests:
        with pytest.raises(UsageProblem):
            cases(made)
        return
    found = [(c.setup.n_threads, c.test) for c in cases(made)]
    assert found == [(t, BenchTest(*one, d)) for t in threads for d in depths for one in tests]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [("-p 1-1000000000 -n 0", "1,000,000,000"), ("-p 1-200 -n 0 -b 1-200 -ub 1-2", "80,000")],
)
def test_a_sweep_that_is_too_large_says_how_large(arguments: str, count: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        read(arguments)
    assert count in caught.value.message


def test_pairs_and_splits() -> None:
    assert grid.pairs("-pg", ["512,128;64,8", " 1 , 2 "]) == [(512, 128), (64, 8), (1, 2)]
    assert grid.splits("-ts", ["3/1,1;1", "0"]) == [(3.0, 1.0), (1.0, 1.0), ()]
    for text in ("512", "1,2,3", "a,b", "-1,5", ";", "99999999999,1"):
        with pytest.raises(UsageProblem):
            grid.pairs("-pg", [text])
    for text in ("a", "1/", "-1/2", "nan", "inf/1", "1//x"):
        with pytest.raises(UsageProblem):
            grid.splits("-ts", [text])


@pytest.mark.parametrize(
    "arguments",
    ["-fa maybe", "-ctk q99", "-ctv f16,,", "-sm diagonal", "-nkvo 2", "-b 0", "-t 0", "-ub 0"],
)
def test_unknown_words(arguments: str) -> None:
    with pytest.raises(UsageProblem):
        read(arguments)


def test_flash_attention_takes_llama_cpps_words() -> None:
    assert grid.flash_modes("-fa", ["1,0,auto,on,off,-1"]) == ["on", "off", "auto", "on", "off",
                                                               "auto"]  # fmt: skip


def test_shares_and_counts() -> None:
    assert share("-x", "2%") == pytest.approx(0.02)
    assert share("-x", " 0.05 ") == pytest.approx(0.05)
    with pytest.raises(UsageProblem):
        share("-x", "two")
    assert counts("-x", "1") == (1,)
    assert counts("-x", " 8 ") == (1, 2, 4, 8)
    assert counts("-x", "6") == (1, 2, 4, 6)
    assert counts("-x", "fit") == (0,)
    assert counts("-x", None) == ()


@pytest.mark.parametrize("text", ["", "0", "-1", "2.5", "four", "9" * 5000, "٣", "1,2"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="--batched"):
        counts("--batched", text)
