"""The vocabulary: llama.cpp cuts every text as the library did that learned it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("tokenizers", reason="the extra `finetune` is not installed")

from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.errors import UsageProblem
from localllm.finetune.scratch.model import write_words
from localllm.finetune.scratch.shape import Shape
from localllm.finetune.scratch.words import END, default_size, learn_words
from localllm.ui import Silent
from tests.finetune.scratch.conftest import toy

NASTY = [
    "It's I'LL we'Ve DON'T 'tis ''s '",
    "東京タワー ラマ 漢字かな交じり文、句読点。　全角　空白",
    "🙂😀👩‍👩‍👧‍👦🇩🇪 ☺️ e\u0301 \u200b\ufeff\u00a0\u2028\u2029\u0085|",
    "1234567890 3.14159 1,000,000 ١٢٣ ½ ² Ⅷ ①",
    "    four\t\ttabs \n\n\n  \r\n\r\n end   ",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x1c\x1d",
    "def f(x):\n\treturn x**2  # done\n\n\nclass A(B): pass",
    "<|endoftext|> <|im_start|>user\n[INST] </s> are words here",
    "Größe naïve ÀÉÎ Привет мир مرحبا بالعالم שלום हिन्दी ไทย 한국어",
    "-" * 100 + "=" * 77 + "a" * 300 + " " * 90 + "\n" * 40,
    "\ud7ff\ue000\ufffd\U0001f600\U0010ffff",
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("words")
    texts = [toy(300), *NASTY * 3]
    made, n_vocab = learn_words(texts, 900, is_chat=True, named=False, threads=1, progress=Silent())
    (folder / "tokenizer.json").write_text(made, "utf-8")
    shape = Shape(n_vocab, 64, 32, 1, 2, 2, 64)
    write_words(shape, folder / "tokenizer.json", folder / "words.gguf", None)
    return made, folder / "words.gguf"


def cases() -> list[str]:
    draw = random.Random(7)
    pieces = [*"abZ9 \n\r\t'.!?-_(){}é東🙂\u3000\u00a0\x00\u0301", "'s", "'LL", "  ", "12", "\r\n"]
    mixed = ["".join(draw.choices(pieces, k=draw.randint(1, 20))) for _ in range(3000)]
    codes = [chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x30000)]))
             for _ in range(3000)]  # fmt: skip
    return [*NASTY, toy(50, seed=9), *mixed, *(f"a{c}b {c}1{c}" for c in codes)]


def test_llama_cpp_reads_every_text_as_it_was_learned(learned: tuple[str, Path]) -> None:
    import tokenizers

    made, path = learned
    theirs = tokenizers.Tokenizer.from_str(made)
    # what looks like a control token in a text is words: that is how training reads it
    theirs.encode_special_tokens = True
    differ = []
    with Model.load(path, LoadOptions(vocab_only=True)) as model:
        ours = model.tokenizer
        for case in cases():
            ids = ours.encode(case, add_special=False)
            assert ours.decode_bytes(ids) == case.encode(), case
            if ids != theirs.encode(case, add_special_tokens=False).ids:
                differ.append(case)
        assert ours.bos == ours.eos == 0
        assert ours.adds_bos
        assert ours.text(0) == END
        assert ours.is_control(0) and ours.is_control(1)
        assert ours.eog_tokens == {0, ours.token_id("<|im_end|>")}
    # letters that one of the two libraries' Unicode does not know yet are all that may differ
    assert [c for c in differ if c.isascii() or c in NASTY] == []
    assert len(differ) <= 3, differ


def test_the_same_text_gives_the_same_words() -> None:
    texts = [toy(200), *NASTY]
    one, two = (
        learn_words(texts, 500, is_chat=False, named=False, threads=n, progress=Silent())
        for n in (1, 2)
    )
    assert one == two


def test_more_words_than_the_text_has(learned: tuple[str, Path]) -> None:
    texts = ["ab " * 50]
    with pytest.raises(UsageProblem, match=r"no 4000 tokens.*it has 2\d\d") as problem:
        learn_words(texts, 4000, is_chat=False, named=True, threads=1, progress=Silent())
    assert "--vocab-size 2" in str(problem.value.hint)
    _, found = learn_words(texts, 4000, is_chat=False, named=False, threads=1, progress=Silent())
    assert 257 <= found < 300


def test_larger_texts_get_more_words() -> None:
    sizes = [default_size(n) for n in (10**4, 10**6, 10**8, 10**9)]
    assert sizes == sorted(sizes) == [2048, 4096, 8192, 16384]
