"""A local model as a Generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.errors import FileGone, UsageProblem
from localllm.generation import Generator, Message, Sampling
from tests.engine.conftest import ONE_THREAD, MakeContext, bare_greedy
from tests.support.tiny_models import tiny_chain, tiny_llama, tiny_lora
from tests.support.tiny_vocab import bpe_vocab

GREEDY = Sampling(temperature=0.0, max_tokens=12)
TALK = [Message("system", "Be brief."), Message("user", "hello world")]


def said(generator: LocalGenerator, *messages: Message, sampling: Sampling = GREEDY) -> str:
    return "".join(piece.text for piece in generator.generate(messages or TALK, sampling))


def test_it_is_a_generator_and_answers_the_rendered_prompt(llama_path: Path) -> None:
    with LocalGenerator.open(llama_path, context=ONE_THREAD) as generator:
        as_protocol: Generator = generator
        assert as_protocol.name == llama_path.stem
        words = bpe_vocab()
        start, end, line = words.id("<|im_start|>"), words.eot, ord("\n")
        encode = generator.session.tokenizer.encode

        def turn(role: str, text: str) -> list[int]:
            body = [*encode(role, add_special=False), line, *encode(text, add_special=False)]
            return [start, *body, end, line]

        prompt = [words.bos, *turn("system", "Be brief."), *turn("user", "hello world"), start]
        prompt += [*encode("assistant", add_special=False), line]
        assert generator.prompt(TALK) == prompt
        stream = generator.generate(TALK, GREEDY)
        list(stream)
        assert stream.tokens == bare_greedy(generator.context.model, prompt, 12)


def test_a_conversation_reuses_what_is_computed(llama_path: Path) -> None:
    with LocalGenerator.open(llama_path, context=ONE_THREAD) as generator:
        said(generator)
        longer = [*TALK, Message("assistant", "x"), Message("user", "more")]
        stream = generator.generate(longer, GREEDY)
        list(stream)
        assert stream.accounting is not None
        shared = len(generator.prompt(TALK))
        assert stream.accounting.cached_tokens >= shared - 2
        fresh = LocalGenerator.open(llama_path, context=ONE_THREAD)
        again = fresh.generate(longer, GREEDY)
        list(again)
        fresh.close()
        assert again.tokens == stream.tokens


def test_a_base_model_stops_at_the_next_turn(tmp_path: Path) -> None:
    following = dict(zip(b":Ok\nUser", b"Ok\nUser:", strict=True))
    path = tiny_chain(tmp_path / "base.gguf", following, chat_template=None)
    with LocalGenerator.open(path, context=ONE_THREAD) as generator:
        assert generator.template.is_plain
        stream = generator.generate([Message("user", "Hi")], Sampling(temperature=0))
        assert "".join(piece.text for piece in stream) == "Ok"
        assert stream.accounting is not None
        assert stream.accounting.finish_reason == "stop"


def test_complete_continues_a_text(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    generator = LocalGenerator(make_context(chain(b"abcdef")), name="mine")
    assert generator.name == "mine"
    stream = generator.complete("xa", Sampling(temperature=0))
    assert "".join(piece.text for piece in stream) == "bcdef"


def test_adapters_and_a_template_of_ones_own(llama_path: Path, tmp_path: Path) -> None:
    lora = tiny_lora(tmp_path / "lora.gguf")
    with LocalGenerator.open(
        llama_path, context=ONE_THREAD, template="{{ messages[0].content }}"
    ) as plain:
        assert plain.prompt([Message("user", "hi")]) == [bpe_vocab().bos, ord("h"), ord("i")]
        before = said(plain)
    with LocalGenerator.open(
        llama_path, context=ONE_THREAD, template="{{ messages[0].content }}", adapters=[(lora, 1.0)]
    ) as tuned:
        assert said(tuned) != before


def test_a_prompt_that_does_not_fit_is_never_shortened(llama_path: Path) -> None:
    with (
        LocalGenerator.open(llama_path, context=ONE_THREAD) as generator,
        pytest.raises(UsageProblem, match=r"the prompt is \d+ tokens, the context holds 512"),
    ):
        generator.generate([Message("user", "x y z " * 300)], GREEDY)


def test_a_failed_open_leaves_nothing(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(FileGone):
        LocalGenerator.open(path, context=ONE_THREAD, adapters=[(tmp_path / "no.gguf", 1.0)])
    path.unlink()  # on Windows this fails while the file is mapped
