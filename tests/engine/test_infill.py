"""Filling a gap: the marks of the vocabulary, in the order that models were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.engine.infill import CannotInfill, infill_prompt
from localllm.engine.model import Model
from tests.support.gguf_writer import U32
from tests.support.tiny_models import tiny_llama

MARKS = {f"tokenizer.ggml.fim_{name}_token_id": U32(i)
         for i, name in ((1, "pre"), (2, "suf"), (3, "mid"))}  # fmt: skip


def test_the_marks_stand_where_they_were_trained(tmp_path: Path) -> None:
    with Model.load(tiny_llama(tmp_path / "m.gguf", metadata=MARKS)) as model:
        tokenizer = model.tokenizer
        assert tokenizer.infill == (1, 2, 3)
        bos = [tokenizer.bos] if tokenizer.adds_bos and tokenizer.bos is not None else []
        x, y = ord("x"), ord("y")
        assert infill_prompt(tokenizer, "x", "y") == [*bos, 1, x, 2, y, 3]
        assert infill_prompt(tokenizer, [*bos, x], "y") == [*bos, 1, x, 2, y, 3]
        assert infill_prompt(tokenizer, "", "") == [*bos, 1, 2, 3]
        # a mark in a text is a text
        said = infill_prompt(tokenizer, "<|im_start|>", "")
        assert len(said) > len(bos) + 4


def test_other_models_say_so(llama: Model) -> None:
    assert llama.tokenizer.infill is None
    with pytest.raises(CannotInfill, match="fills no gaps"):
        infill_prompt(llama.tokenizer, "x", "y")
