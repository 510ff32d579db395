"""Images in prompts: the right pixels at the right places, computed once, refused plainly."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.engine import native
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.engine.draft.draft import DraftAccounting, DraftGenerator, DraftOptions
from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.template import ChatTemplate
from localllm.engine.vision import native as vision_native
from localllm.engine.vision.prompt import place_codes, whole_images
from localllm.engine.vision.vision import MARKER, Vision
from localllm.errors import DamagedFile, EngineError, FileGone, UsageProblem
from localllm.generation import Message, Sampling
from tests.engine.conftest import ONE_THREAD, MakeContext, ctrl_c
from tests.support.tiny_mmproj import (
    gemma3_mmproj,
    picture,
    pixels,
    projected,
    qwen2vl_mmproj,
    tiny_qwen2vl,
)
from tests.support.tiny_models import tiny_gemma3

GREEDY = Sampling(temperature=0.0, max_tokens=8)
CAT, DOG = picture(seed=1), picture(seed=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Vision]]:
    """A projector with its text model, of two kinds: one whose image tokens see each other, one
    with positions in two dimensions and images of any size."""
    folder = tmp_path_factory.mktemp("vision")
    gemma = Model.load(tiny_gemma3(folder / "gemma3.gguf"))
    qwen = Model.load(tiny_qwen2vl(folder / "qwen2vl.gguf"))
    yield {
        "gemma3": Vision(gemma, gemma3_mmproj(folder / "mmproj-gemma3.gguf"), n_threads=1),
        "qwen2vl": Vision(qwen, qwen2vl_mmproj(folder / "mmproj-qwen2vl.gguf"), n_threads=1),
    }
    gemma.close()
    qwen.close()


@pytest.fixture(params=["gemma3", "qwen2vl"])
def vision(request: pytest.FixtureRequest, models: dict[str, Vision]) -> Vision:
    return models[request.param]


@pytest.fixture
def generator(vision: Vision, make_context: MakeContext) -> LocalGenerator:
    return LocalGenerator(make_context(vision.model), vision=vision)


def ask(text: str, *images: bytes) -> list[Message]:
    return [Message("user", text, {"images": images} if images else {})]


def answer(generator: LocalGenerator, messages: Sequence[Message], **more: Any) -> list[int]:
    stream = generator.generate(messages, replace(GREEDY, **more))
    list(stream)
    return stream.tokens


def logits_of(generator: LocalGenerator, messages: Sequence[Message]) -> Any:
    """After the whole prompt."""
    list(generator.generate(messages, replace(GREEDY, max_tokens=1)))
    return generator.context.logits()


def cached(generator: LocalGenerator, messages: Sequence[Message]) -> int:
    stream = generator.generate(messages, replace(GREEDY, max_tokens=1))
    list(stream)
    assert stream.accounting is not None
    return stream.accounting.cached_tokens


def by_mtmd(vision: Vision, context: Context, messages: Sequence[Message], images: Any) -> Any:
    """Logits after a prompt that llama.cpp's own helpers read, mark, cut up and compute."""
    mtmd = vision_native.lib()
    marked = [Message(m.role, m.content) for m in messages]
    text = ChatTemplate.of(vision.model).render(marked).text.encode()
    bitmaps = []
    for data in images:
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmaps.append(
            mtmd.mtmd_helper_bitmap_init_from_buf(vision.handle, buffer, len(data), False)
        )
    chunks = mtmd.mtmd_input_chunks_init()
    given = mtmd.mtmd_input_text(text, len(text), True, True)
    array = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
    assert mtmd.mtmd_tokenize(vision.handle, chunks, given, array, len(bitmaps)) == 0
    past = ctypes.c_int32(0)
    failed = mtmd.mtmd_helper_eval_chunks(
        vision.handle, context.handle, chunks, 0, 0, context.n_batch, True, ctypes.byref(past)
    )
    assert failed == 0
    mtmd.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
    return context.logits()


# --- the right computation -------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_the_projector_sees_the_pixels(
    tmp_path: Path, models: dict[str, Vision], seed: int
) -> None:
    """A projector without layers, against numpy."""
    path = gemma3_mmproj(tmp_path / "flat.gguf", n_layer=0, seed=seed)
    with Vision(models["gemma3"].model, path, n_threads=1) as vision:
        _, pictures = vision.marked(ask("x", picture(seed=seed)))
        prompt = vision.read(f"a {pictures.mark} b", pictures)
        (run,) = [run for run in prompt._runs if run.chunk is not None]
        found = vision.encode(run)
    wanted = projected(path, pixels((32, 32), seed))
    assert found.shape == wanted.shape == (4, 256)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())
    other = projected(path, pixels((32, 32), seed + 10))
    assert np.abs(found - other).max() > 0.3 * np.abs(wanted).max()


def test_a_prompt_is_what_llama_cpps_own_helpers_compute(
    generator: LocalGenerator, vision: Vision, make_context: MakeContext
) -> None:
    messages = [
        Message("user", f"{MARKER}What is it? And {MARKER} this?", {"images": (CAT, DOG)}),
        Message("assistant", "A cat."),
        Message("user", f"{MARKER}And now?", {"images": (picture(size=(48, 32), seed=3),)}),
    ]
    found = logits_of(generator, messages)
    images = [CAT, DOG, picture(size=(48, 32), seed=3)]
    wanted = by_mtmd(vision, make_context(vision.model), messages, images)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert int(found.argmax()) == int(wanted.argmax())


def test_images_matter_and_so_does_their_order(generator: LocalGenerator) -> None:
    def alone(*messages: Message) -> Any:
        generator.session.reset()
        return logits_of(generator, messages)

    cat, dog = alone(*ask("What?", CAT)), alone(*ask("What?", DOG))
    np.testing.assert_array_equal(cat, alone(*ask("What?", CAT)))
    assert np.abs(cat - dog).max() > 0.1
    assert np.abs(cat - alone(*ask("What?"))).max() > 0.1
    both, reverse = alone(*ask("What?", CAT, DOG)), alone(*ask("What?", DOG, CAT))
    assert np.abs(both - reverse).max() > 0.1
    # the same pixels in another file format are the same picture
    np.testing.assert_array_equal(cat, alone(*ask("What?", picture("BMP", seed=1))))


def test_markers_place_images_and_the_rest_is_a_text(generator: LocalGenerator) -> None:
    def prompt(text: str, *images: bytes) -> list[int]:
        return generator.prompt(ask(text, *images))

    codes = [t for t in prompt("x", CAT) if t < 0]
    assert codes
    placed = prompt(f"before {MARKER} after", CAT)
    assert [t for t in placed if t < 0] == codes
    assert placed != prompt("before  after", CAT)  # there it stands before the text
    first = placed.index(codes[0])
    decode = generator.session.tokenizer.decode
    assert "before" in decode(placed[:first])
    assert "after" in decode(placed[first + len(codes) :])
    # one image, two markers: the second is just what the user typed
    text = decode([t for t in prompt(f"{MARKER} and {MARKER}", CAT) if t >= 0])
    assert text.count(MARKER) == 1
    assert decode(prompt(f"no image {MARKER}")).count(MARKER) == 1


# --- the cache -------------------------------------------------------------------------------


def test_an_image_is_computed_once(generator: LocalGenerator, vision: Vision) -> None:
    encoded: list[int] = []
    encode = vision._mtmd.mtmd_encode_chunk
    vision._encoded.clear()

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(vision_native.lib(), name)

        def mtmd_encode_chunk(self, handle: int, chunk: int) -> int:
            encoded.append(chunk)
            return int(encode(handle, chunk))

    vision._mtmd = Counted()
    try:
        first = ask("What is it?", CAT)
        n_prompt = len(generator.prompt(first))
        said = answer(generator, first)
        assert len(encoded) == 1
        assert cached(generator, first) >= n_prompt - 1
        turn = [*first, Message("assistant", "x"), *ask("And?")]
        assert cached(generator, turn) >= n_prompt - 3
        assert len(encoded) == 1
        # another picture is not taken for it, though it has the same size
        before = cached(generator, ask("What is it?", DOG))
        assert before <= next(i for i, t in enumerate(generator.prompt(first)) if t < 0)
        assert len(encoded) == 2
        # back to the first: its cells are gone, its embeddings are not
        assert answer(generator, first) == said
        assert len(encoded) == 2
        # and the same picture twice is encoded once
        vision._encoded.clear()
        answer(generator, ask("Twice", CAT, CAT))
        assert len(encoded) == 3
    finally:
        vision._mtmd = vision_native.lib()


def test_what_is_reused_changes_nothing(
    vision: Vision, generator: LocalGenerator, make_context: MakeContext
) -> None:
    """Turns that go on, part ways inside the text, at an image, and after it."""
    fresh = LocalGenerator(make_context(vision.model), vision=vision)
    talk = ask("What is it?", CAT)
    turns = [
        talk,
        [*talk, Message("assistant", "A cat"), *ask("Sure?")],
        [*talk, Message("assistant", "A dog"), *ask("Sure?", DOG)],
        ask("What is that?", CAT),
        ask("What is it?", CAT, DOG),
        ask("What is it?", DOG, CAT),
        [*talk, Message("assistant", "A cat"), *ask("Sure?", DOG, CAT)],
        ask("No image at all"),
        talk,
    ]
    for messages in turns:
        found = logits_of(generator, messages)
        fresh.session.reset()
        np.testing.assert_allclose(found, logits_of(fresh, messages), atol=0.08)


def test_prompt_tokens_count_images_as_the_cells_they_take(
    generator: LocalGenerator, vision: Vision
) -> None:
    wide = picture(size=(96, 64), seed=4)
    stream = generator.generate(ask("What?", wide), GREEDY)
    list(stream)
    account = stream.accounting
    assert account is not None
    tokens = generator.prompt(ask("What?", wide))
    n_text = sum(token >= 0 for token in tokens)
    n_cells = 4 if vision.path.name == "mmproj-gemma3.gguf" else (96 // 16) * (64 // 16)
    assert account.prompt_tokens == n_text + n_cells
    if vision.uses_mrope:
        assert len(tokens) == n_text + 96 // 16  # positions: the longer side


def test_a_scheduler_may_fill_any_sequence_and_feed_the_last_token_itself(
    vision: Vision, generator: LocalGenerator, make_context: MakeContext
) -> None:
    """As an exclusive step: others' sequences stay as they are."""
    messages = ask("What?", CAT, DOG)
    wanted = logits_of(generator, messages)
    context = make_context(vision.model, n_seq_max=4, kv_unified=True, n_ctx=1024)
    context.prefill(vision.model.tokenizer.encode("someone else's text"))
    before = context.length(0)
    _, media = vision.render(generator.template, messages)
    n = len(media.tokens)
    part = whole_images(media.tokens, n // 2)
    media.fill(context, 0, sequence=2, end=part)
    media.fill(context, part, sequence=2, end=n - 1)
    with TokenBatch(2) as batch:
        batch.add(40, before, 0, output=True)
        batch.add(media.tokens[-1], n - 1, 2, output=True)
        context.decode(batch.native)
        np.testing.assert_allclose(context.logits(1), wanted, atol=0.08)
    assert context.length(0) == before + 1
    assert media.cells(n) == media.n_cells


def test_an_images_places_stand_for_it_alone() -> None:
    one, other = place_codes(b"one", 300), place_codes(b"other", 300)
    assert place_codes(b"one", 300) == one
    assert all(-(2**31) <= code < 0 for code in one)  # C ints
    assert [code % 2 for code in one] == [0, *[1] * 299]  # only the first is even
    assert sum(a == b for a, b in zip(one, other, strict=True)) == 0
    assert len(set(one)) == 300
    tokens = [1, 2, *one[:4], 3, *other[:4], 4]
    assert [whole_images(tokens, n) for n in range(13)] == [0, 1, 2, 2, 2, 2, 6, 7, 7, 7, 7, 11, 12]


# --- limits and refusals ---------------------------------------------------------------------


def test_a_model_without_a_projector_says_so(vision: Vision, make_context: MakeContext) -> None:
    blind = LocalGenerator(make_context(vision.model))
    for call in (lambda m: blind.generate(m, GREEDY), blind.prompt):
        with pytest.raises(UsageProblem, match="cannot see images") as caught:
            call(ask("What?", CAT))
        assert "--mmproj" in (caught.value.hint or "")


def test_an_image_that_cannot_be_read_names_its_message(generator: LocalGenerator) -> None:
    talk = [*ask("a", CAT), Message("assistant", "b"), *ask("c", CAT, b"no picture")]
    with pytest.raises(UsageProblem, match="image 2 of message 3 cannot be read: it is no PNG"):
        generator.generate(talk, GREEDY)


def test_closing_waits_for_who_is_inside(tmp_path: Path, models: dict[str, Vision]) -> None:
    one = Vision(models["gemma3"].model, gemma3_mmproj(tmp_path / "p.gguf"), n_threads=1)
    entered, leave, steps = threading.Event(), threading.Event(), []

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(vision_native.lib(), name)

        def mtmd_encode_chunk(self, handle: int, chunk: int) -> int:
            entered.set()
            leave.wait(10)
            done = int(vision_native.lib().mtmd_encode_chunk(handle, chunk))
            steps.append("encoded")
            return done

    one._mtmd = Slow()
    _, pictures = one.marked(ask("x", CAT))
    prompt = one.read(f"a {pictures.mark} b", pictures)
    (run,) = [run for run in prompt._runs if run.chunk is not None]
    inside = threading.Thread(target=one.encode, args=(run,))
    inside.start()
    assert entered.wait(10)

    def close() -> None:
        one.close()
        steps.append("closed")

    closing = threading.Thread(target=close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    leave.set()
    for thread in (inside, closing):
        thread.join(10)
    assert steps == ["encoded", "closed"]
    with pytest.raises(EngineError, match="closed"):
        one.encode(run)
    one.close()


def test_pixels_are_bounded_together(
    generator: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localllm.engine.vision.chunks.MAX_ALL_PIXELS", 2 * 32 * 32)
    assert generator.prompt(ask("What?", CAT, DOG))
    with pytest.raises(UsageProblem, match="with image 3 of message 1 the images have more than"):
        generator.generate(ask("What?", CAT, DOG, CAT), GREEDY)


def test_templates_that_lose_or_repeat_an_image(vision: Vision, make_context: MakeContext) -> None:
    for source, n in (("x {{ bos_token }}", 0), ("{{ messages[0].content * 2 }}", 2)):
        template = ChatTemplate(source, tokens={"bos_token": ""})
        generator = LocalGenerator(make_context(vision.model), template=template, vision=vision)
        with pytest.raises(UsageProblem, match=f"keeps {n} of 1 images"):
            generator.generate(ask("What?", CAT), GREEDY)


def test_a_template_that_ends_with_an_image(vision: Vision, make_context: MakeContext) -> None:
    generator = LocalGenerator(
        make_context(vision.model), template=ChatTemplate("{{ messages[0].content }}"),
        vision=vision,
    )  # fmt: skip
    begins = ask(f"{MARKER}text", CAT)
    assert generator.prompt(begins)[0] == vision.model.tokenizer.bos
    assert len(answer(generator, begins)) == 8


def test_images_that_do_not_fit(models: dict[str, Vision], make_context: MakeContext) -> None:
    gemma, qwen = models["gemma3"], models["qwen2vl"]
    small = LocalGenerator(make_context(gemma.model, n_ubatch=2), vision=gemma)
    with pytest.raises(UsageProblem, match=r"an image is 4 tokens .* the micro-batch holds 2"):
        small.generate(ask("What?", CAT), GREEDY)
    wide = picture(size=(512, 512), seed=5)  # 1024 tokens, and 32 positions
    tight = LocalGenerator(make_context(qwen.model, n_ctx=512), vision=qwen)
    with pytest.raises(UsageProblem, match=r"\d+ tokens with its images, the context holds 512"):
        tight.generate(ask("What?", wide), GREEDY)
    roomy = LocalGenerator(make_context(qwen.model, n_ctx=2048), vision=qwen)
    assert len(answer(roomy, ask("What?", wide))) == 8


def test_a_context_that_fills_up_with_images_in_it_ends_the_answer(
    models: dict[str, Vision], make_context: MakeContext
) -> None:
    """With M-RoPE an image has fewer positions than cells: the cells run out first."""
    qwen = models["qwen2vl"]
    generator = LocalGenerator(make_context(qwen.model, n_ctx=512), vision=qwen)
    stream = generator.generate(
        ask("What?", picture(size=(256, 256), seed=6)), Sampling(temperature=0)
    )
    list(stream)
    assert stream.accounting is not None
    assert (stream.accounting.finish_reason, stream.accounting.truncated) == ("context", True)
    assert stream.accounting.prompt_tokens + stream.accounting.completion_tokens <= 513
    assert len(answer(generator, ask("What?", CAT))) == 8


def test_files_that_are_no_projector_of_this_model(
    tmp_path: Path, models: dict[str, Vision]
) -> None:
    model = models["gemma3"].model
    good = gemma3_mmproj(tmp_path / "good.gguf")
    with pytest.raises(FileGone, match="there is no file"):
        Vision(model, tmp_path / "none.gguf")
    with pytest.raises(EngineError, match=r"^gemma3.gguf is no projector \(mmproj\)$"):
        Vision(model, model.path)
    with pytest.raises(EngineError, match=r"other.gguf.*mismatch between text model"):
        Vision(model, gemma3_mmproj(tmp_path / "other.gguf", n_embd_text=128))
    whole = good.read_bytes()
    for name, raw, error, why in (
        ("short.gguf", whole[:-100_000], DamagedFile, "is damaged: failed to seek"),
        ("head.gguf", whole[:600], DamagedFile, "is damaged"),
        ("text.gguf", b"hello world " * 100, DamagedFile, "is damaged: invalid magic"),
        ("empty.gguf", b"", DamagedFile, "is damaged"),
        ("kind.gguf", whole.replace(b"gemma3", b"gemmaX"), EngineError, "projector type: gemmaX"),
        ("lacks.gguf", whole.replace(b"soft_emb_norm", b"soft_emb_morm"), EngineError, "unable to"),
    ):
        path = tmp_path / name
        path.write_bytes(raw)
        with pytest.raises(error, match=f"{name}.*{why}") as caught:
            Vision(model, path)
        assert str(tmp_path) not in caught.value.message


def test_shapes_that_nobody_thought_of_end_no_process(generator: LocalGenerator) -> None:
    for size in ((1, 1), (2, 300), (300, 2), (1, 2000), (37, 91)):
        messages = ask("What?", picture(size=size))
        try:
            assert answer(generator, messages)
        except EngineError as error:
            assert "\n" not in error.message
        assert answer(generator, ask("What?", CAT))


# --- with everything else --------------------------------------------------------------------


def test_penalties_and_grammars_see_no_images(generator: LocalGenerator) -> None:
    sampling = Sampling(
        temperature=0, max_tokens=6, repeat_penalty=1.5, repeat_last_n=64, grammar='root ::= "a"+'
    )
    stream = generator.generate(ask("What?", CAT), sampling)
    assert "".join(piece.text for piece in stream).strip("a") == ""


def test_a_text_drafts_itself_beside_images(vision: Vision, make_context: MakeContext) -> None:
    plain = LocalGenerator(make_context(vision.model), vision=vision)
    drafting = DraftGenerator(
        make_context(vision.model), options=DraftOptions(p_min=0.0), vision=vision
    )
    by_model = DraftGenerator(
        make_context(vision.model), make_context(vision.model), options=DraftOptions(p_min=0.0),
        vision=vision,
    )  # fmt: skip
    messages = ask("one two one two one two", CAT)
    wanted = answer(plain, messages, max_tokens=40)
    for generator in (drafting, by_model):
        stream = generator.generate(messages, replace(GREEDY, max_tokens=40))
        list(stream)
        account = stream.accounting
        assert isinstance(account, DraftAccounting)
        n = next(
            (i for i, (a, b) in enumerate(zip(stream.tokens, wanted, strict=True)) if a != b), 40
        )
        assert n > 8  # equal but for rounding
        assert (account.drafted == 0) == (generator is by_model)  # that one is blind


def test_cancelling_in_the_prompt_leaves_a_usable_session(
    vision: Vision, generator: LocalGenerator, make_context: MakeContext
) -> None:
    fresh = LocalGenerator(make_context(vision.model), vision=vision)
    long = ask("word " * 60, *[picture(seed=i) for i in range(10, 16)])
    wanted = logits_of(fresh, ask("What?", CAT))
    for delay_s in (0.0, 0.002, 0.005, 0.01, 0.02):
        stream = generator.generate(long, Sampling(temperature=0))
        threading.Timer(delay_s, stream.cancel).start()
        list(stream)
        assert stream.accounting is not None
        assert stream.accounting.finish_reason in ("cancelled", "context")
        np.testing.assert_allclose(logits_of(generator, ask("What?", CAT)), wanted, atol=0.08)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
def test_ctrl_c_in_the_prompt(generator: LocalGenerator) -> None:
    long = ask("word " * 60, *[picture(size=(64, 64), seed=i) for i in range(30, 36)])
    stream = generator.generate(long, Sampling(temperature=0))
    with ctrl_c(0.01), pytest.raises(KeyboardInterrupt):
        list(stream)
    assert len(answer(generator, ask("What?", CAT))) == 8


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with Model.load(tiny_gemma3(tmp_path / "m.gguf")) as model:
        context = Context(model, ONE_THREAD)
        vision = Vision(model, gemma3_mmproj(tmp_path / "p.gguf"), n_threads=1)
        generator = LocalGenerator(context, vision=vision)
        stream = generator.generate(ask("What?", CAT), GREEDY)
        next(iter(stream))
    assert vision.closed
    with pytest.raises(EngineError, match="closed"):
        generator.generate(ask("What?", CAT), GREEDY)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Model.load(tiny_gemma3(tmp_path / "m.gguf")) as model:
        generator = LocalGenerator(
            Context(model, ONE_THREAD), vision=Vision(model, gemma3_mmproj(tmp_path / "p.gguf"))
        )
        answer(generator, ask("What?", CAT))
        with pytest.raises(UsageProblem):
            answer(generator, ask("What?", b"RIFF0000WEBP"))
    native.lib()
    out, err = capfd.readouterr()
    assert out + err == ""
