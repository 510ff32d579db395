"""Text to tokens and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from localllm.engine.model import Model
from localllm.errors import UsageProblem
from tests.support.gguf_writer import Val
from tests.support.tiny_models import tiny_llama
from tests.support.tiny_vocab import bpe_vocab, spm_vocab

TEXTS = [
    "",
    " ",
    "hello world",
    "  two  spaces ",
    "日本語のテキスト",
    "👩‍👩‍👧 family",
    "a\x00b",
    "\n\t\r\n",
    "ﷺ" * 50,
]


@pytest.mark.parametrize("text", TEXTS)
def test_bpe_round_trip_is_exact(llama: Model, text: str) -> None:
    tokenizer = llama.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=200)
def test_bpe_round_trip_of_any_text(llama: Model, text: str) -> None:
    tokenizer = llama.tokenizer
    tokens = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode_bytes(tokens) == text.encode("utf-8")
    assert b"".join(map(tokenizer.piece, tokens)) == text.encode("utf-8")


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=200)
@example(b"\xb4\x9d\xf5\xae\xa2\xac\xa5\x97\xff\xef\xae\xe9\xe2\x97\xf1m\x90\xb5\xc0")
def test_any_bytes_are_taken(llama: Model, spm: Model, bert: Model, raw: bytes) -> None:
    """llama.cpp throws on some invalid UTF-8, which nobody could catch."""
    for model in (llama, spm, bert):
        tokens = model.tokenizer.encode(raw)
        assert all(0 <= token < model.info.n_vocab for token in tokens)


@pytest.mark.parametrize("text", ["hello world", "x", "日本語 👍"])
def test_spm_round_trip(spm: Model, text: str) -> None:
    tokenizer = spm.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bpe_tokens_are_the_expected_ones(llama: Model) -> None:
    words = bpe_vocab()
    tokenizer = llama.tokenizer
    # merges go by rank: "Ġ w" and "o r" come before "Ġ world" could
    expected = [words.bos, *map(words.id, ["hello", "Ġw", "or", "ld"])]
    assert tokenizer.encode("hello world") == expected
    assert tokenizer.encode("hi", add_special=False) == [ord("h"), ord("i")]
    assert tokenizer.text(words.id("Ġworld")) == "Ġworld"
    assert tokenizer.piece(words.id("Ġworld")) == b" world"


def test_special_text_is_parsed_only_when_asked(llama: Model) -> None:
    tokenizer, words = llama.tokenizer, bpe_vocab()
    plain = tokenizer.encode("<|im_end|>", add_special=False)
    assert words.eot not in plain
    assert tokenizer.decode(plain) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>", add_special=False, parse_special=True) == [words.eot]
    assert tokenizer.decode([words.eot]) == ""
    assert tokenizer.decode([words.eot], special=True) == "<|im_end|>"
    assert tokenizer.piece(words.eot) == b""


def test_special_ids(llama: Model, spm: Model, bert: Model) -> None:
    for model, words in ((llama, bpe_vocab()), (spm, spm_vocab())):
        tokenizer = model.tokenizer
        assert (tokenizer.bos, tokenizer.eos, tokenizer.eot) == (words.bos, words.eos, words.eot)
        assert (tokenizer.adds_bos, tokenizer.adds_eos) == (True, False)
        assert {words.eos, words.eot} <= tokenizer.eog_tokens
        assert all(tokenizer.is_eog(token) for token in tokenizer.eog_tokens)
        assert not tokenizer.is_eog(5)
        assert tokenizer.is_control(words.eot)
    assert bert.tokenizer.sep is not None


def test_token_id_by_text_and_number(llama: Model) -> None:
    tokenizer = llama.tokenizer
    assert tokenizer.token_id("<|im_end|>") == bpe_vocab().eot
    assert tokenizer.token_id("<[42]>") == 42
    assert tokenizer.token_id("<[999999]>") is None
    assert tokenizer.token_id("<no such token>") is None


@pytest.mark.parametrize("token", [-1, 10**6, 2**31 - 1])
def test_ids_outside_the_vocabulary_do_not_crash(llama: Model, token: int) -> None:
    tokenizer = llama.tokenizer
    for use in (tokenizer.piece, tokenizer.text, tokenizer.is_eog, lambda t: tokenizer.decode([t])):
        with pytest.raises(UsageProblem, match="is no token"):
            use(token)


def test_a_file_that_adds_a_token_it_does_not_have(tmp_path: Path) -> None:
    path = tiny_llama(
        tmp_path / "x.gguf",
        metadata={
            "tokenizer.ggml.add_eos_token": Val("bool", True),
            "tokenizer.ggml.add_sep_token": Val("bool", True),
            "tokenizer.ggml.bos_token_id": Val("u32", 0xFFFFFFFF),
            "tokenizer.ggml.eos_token_id": Val("u32", 0xFFFFFFFF),
        },
    )
    with Model.load(path) as model:
        tokenizer = model.tokenizer
        assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
        assert (tokenizer.bos is None) <= (not tokenizer.adds_bos)


def test_a_long_text_takes_a_moment(llama: Model) -> None:
    text = "hello world " * 20_000
    assert len(llama.tokenizer.encode(text)) > 40_000
