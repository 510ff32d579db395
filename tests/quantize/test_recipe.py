"""The words of the command line, as llama-quantize would take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.errors import FileGone, UsageProblem
from localllm.quantize.recipe import (
    Recipe,
    parse_layers,
    parse_overrides,
    parse_tensor_type,
    read_tensor_types,
)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("attn_v=q6_K", ("attn_v", "q6_k")),
        ("BLK.0.ATTN_Q=Q8_0", ("blk.0.attn_q", "q8_0")),  # lower case, as llama-quantize does
        (r"^blk\.(0|1)\.=f16", (r"^blk\.(0|1)\.", "f16")),
    ],
)
def test_tensor_types(text: str, parsed: tuple[str, str]) -> None:
    assert parse_tensor_type(text) == parsed


@pytest.mark.parametrize("text", ["attn_v", "=q8_0", "attn_v=", "attn_v=q9_9", "a=b=q8_0"])
def test_what_is_no_tensor_type(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_tensor_type(text)


def test_a_file_of_tensor_types(tmp_path: Path) -> None:
    path = tmp_path / "types.txt"
    path.write_text("attn_v=q6_k  attn_k=Q8_0\n\n^output=f16\n")
    assert read_tensor_types(path) == (("attn_v", "q6_k"), ("attn_k", "q8_0"), ("^output", "f16"))
    with pytest.raises(FileGone):
        read_tensor_types(tmp_path / "nothing")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageProblem):
        read_tensor_types(path)


def test_layers() -> None:
    assert parse_layers("3, 1,5-7,6") == (1, 3, 5, 6, 7)
    for text in ("", "a", "-1", "3-1", "1,,2", "1.5"):
        with pytest.raises(UsageProblem):
            parse_layers(text)


def test_overrides() -> None:
    texts = ["a.b=int:7", "c=float:0.5", "d=bool:true", "e=str:x=y:z", "f=str:"]
    assert parse_overrides(texts) == {"a.b": 7, "c": 0.5, "d": True, "e": "x=y:z", "f": ""}


@pytest.mark.parametrize(
    "text",
    ["a", "a=7", "a=int:x", "a=int:-1", "a=int:4294967296", "a=bool:yes", "=int:1", "a=u8:1",
     f"a=str:{'x' * 128}", f"{'k' * 128}=int:1", "general.alignment=int:64",
     "localllm.lineage.0=str:x", "split.count=int:3"],
)  # fmt: skip
def test_what_is_no_override(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_overrides([text])


def test_a_recipe_is_checked() -> None:
    mixed = Recipe("q4_k", tensor_types=(("a", "Q8_0"),), prune_layers=(3, 1, 3)).checked()
    assert (mixed.type, mixed.tensor_types, mixed.prune_layers) == (
        "Q4_K_M",
        (("a", "q8_0"),),
        (1, 3),
    )
    for plain in ("F16", "bf16", "F32", "COPY"):  # llama.cpp would not look at the patterns
        with pytest.raises(UsageProblem, match="one type"):
            Recipe(plain, tensor_types=(("a", "q8_0"),)).checked()
    with pytest.raises(UsageProblem, match="no tensor type"):
        Recipe("Q4_0", output_tensor_type="q9").checked()
    assert Recipe("Q4_0").parameters() == {"type": "Q4_0"}
