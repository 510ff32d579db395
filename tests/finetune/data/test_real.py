"""The real model's vocabulary: what training sees is what it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.engine.template import ChatTemplate, encode_prompt
from localllm.finetune.data import Dialect
from localllm.generation import Message
from localllm.texts import calibration_text
from tests.finetune.data.conftest import Write, chat, prepared
from tests.finetune.data.test_sends import _spans


@pytest.mark.model
def test_gemma_is_taught_what_it_will_be_asked(real_gguf: Path, write: Write) -> None:
    text = calibration_text()
    step = len(text) // 60
    said = [text[i * step : i * step + 40 + 7 * i] for i in range(60)]  # thirty languages, code
    rows = [chat(*said[i : i + 4]) for i in range(0, 60, 4)]
    with Model.load(real_gguf, LoadOptions(vocab_only=True)) as model:
        dialect = Dialect(model)
        made = prepared(write("a.jsonl", rows), dialect)
        template = ChatTemplate.of(model, dialect.chosen.source)
        tokenizer = model.tokenizer
        assert dialect.chosen.name == "gemma"
        spans = [(e, span) for e in made.examples for span in _spans(e)]
        assert len(spans) == 30
        for n, (example, (start, end)) in enumerate(spans):
            k = 2 * n + 1
            before = [Message("user" if i % 2 == 0 else "assistant", said[i])
                      for i in range(k - k % 4, k)]  # fmt: skip
            asked = encode_prompt(tokenizer, template.render(before).text)
            assert example.ids[:start].tolist() == asked
            answer = tokenizer.decode_bytes(example.ids[start : end - 1].tolist(), special=True)
            assert answer.decode() == said[k].strip()
            assert example.ids[end - 1] == tokenizer.token_id("<end_of_turn>")
