"""Images among a scheduler's requests: each answered as it would be alone, nobody harmed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.adapter import Attached, LoraAdapter
from localllm.engine.batching import TokenBatch
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.scheduler import (
    Answer,
    Busy,
    DeadlinePassed,
    Holding,
    Request,
    Scheduler,
    SchedulerOptions,
    SharedGenerator,
)
from localllm.engine.scheduler.loop import StepLoop
from localllm.engine.scheduler.slot import Job
from localllm.engine.template import ChatTemplate
from localllm.engine.vision import native as vision_native
from localllm.engine.vision.vision import Vision
from localllm.errors import EngineError, UsageProblem
from localllm.generation import Message, Sampling
from tests.engine.conftest import MakeContext
from tests.engine.scheduler.conftest import MakeScheduler, assert_greedy, words
from tests.support.tiny_mmproj import gemma3_mmproj, picture, qwen2vl_mmproj, tiny_qwen2vl
from tests.support.tiny_models import CHATML, tiny_gemma3, tiny_lora, tiny_mamba

GREEDY = Sampling(temperature=0.0, max_tokens=10)
ENDLESS = replace(GREEDY, max_tokens=None)
CAT, DOG = picture(seed=1), picture(seed=2)
WIDE = picture(size=(256, 160), seed=3)  # 160 cells and 16 positions for qwen2vl, 4 for gemma3


@pytest.fixture(scope="module")
def visions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Vision]]:
    """One whose image tokens see each other and whose text has sliding windows; one with M-RoPE,
    where an image has more cells than positions; one whose memory is a state."""
    folder = tmp_path_factory.mktemp("vision")
    gemma = Model.load(tiny_gemma3(folder / "gemma3.gguf"))
    qwen = Model.load(tiny_qwen2vl(folder / "qwen2vl.gguf"))
    mamba = Model.load(tiny_mamba(folder / "mamba.gguf", chat_template=CHATML))
    projector = gemma3_mmproj(folder / "mmproj-gemma3.gguf")
    yield {
        "gemma3": Vision(gemma, projector, n_threads=1),
        "mamba": Vision(mamba, projector, n_threads=1),
        "qwen2vl": Vision(qwen, qwen2vl_mmproj(folder / "mmproj-qwen2vl.gguf"), n_threads=1),
    }
    for model in (gemma, qwen, mamba):
        model.close()


@pytest.fixture(params=["gemma3", "qwen2vl", "mamba"])
def vision(request: pytest.FixtureRequest, visions: dict[str, Vision]) -> Iterator[Vision]:
    one = visions[request.param]
    one._encoded.clear()
    yield one
    one._mtmd = vision_native.lib()


class Encoder:
    """The projector's library with what the tests want of its encoder: counted, and told of."""

    def __init__(self, vision: Vision, before: Callable[[], None] = lambda: None) -> None:
        self.n, self.fails, self._before = 0, False, before
        vision._mtmd = self

    def __getattr__(self, name: str) -> Any:
        return getattr(vision_native.lib(), name)

    def mtmd_encode_chunk(self, handle: int, chunk: int) -> int:
        self.n += 1
        self._before()
        return 1 if self.fails else int(vision_native.lib().mtmd_encode_chunk(handle, chunk))


def ask(text: str, *images: bytes) -> list[Message]:
    return [Message("user", text, {"images": images} if images else {})]


def request(
    vision: Vision, messages: Sequence[Message], sampling: Sampling = GREEDY, **more: Any
) -> Request:
    _, media = vision.render(ChatTemplate.of(vision.model), messages)
    return Request(media.tokens, sampling, media=media, **more)


def assert_seen(
    vision: Vision, make_context: MakeContext, messages: Sequence[Message], answer: Sequence[int],
    **sizes: object,
) -> None:  # fmt: skip
    """Each token has the largest logit at its place, or as good as: image by image and token by
    token, in a context of its own."""
    context: Context = make_context(vision.model, **{"n_ctx": 2048} | sizes)
    _, media = vision.render(ChatTemplate.of(vision.model), messages)
    media.fill(context, 0)
    for i, token in enumerate(answer):
        row = context.logits()
        assert row[token] >= row.max() - 0.06, f"token {i} of {list(answer)}"
        with TokenBatch(1) as batch:
            batch.add(token, len(media.tokens) + i, 0, output=True)
            context.decode(batch.native)


def no_cells(vision: Vision) -> None:
    if vision.model.info.is_recurrent:
        pytest.skip("a state takes no cells")


def finished(answer: Answer) -> tuple[int, ...]:
    (one,) = answer.results()
    return one.tokens


# --- beside others ---------------------------------------------------------------------------


@pytest.mark.parametrize("unified", [True, False])
def test_images_and_texts_together_get_what_they_would_get_alone(
    vision: Vision, unified: bool, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=4096, kv_unified=unified)
    talks = [
        ask("What is it?", CAT),
        ask("What is that?", DOG),
        ask("Compare them", CAT, DOG),
        ask("A wide one", WIDE),
        ask("The same", CAT),
        [*ask("First", WIDE), Message("assistant", "Yes"), *ask("And?", DOG)],
    ]
    prompts = [words(20 + 30 * i, 9 * i) for i in range(6)]
    seen = [scheduler.submit(request(vision, talk)) for talk in talks]
    said = [scheduler.submit(Request(prompt, GREEDY)) for prompt in prompts]
    for talk, answer in zip(talks, seen, strict=True):
        tokens = finished(answer)
        assert len(tokens) == 10
        assert_seen(vision, make_context, talk, tokens)
    for prompt, answer in zip(prompts, said, strict=True):
        assert_greedy(vision.model, prompt, finished(answer))
    assert scheduler.idle


def test_texts_go_on_between_images(vision: Vision, make_context: MakeContext) -> None:
    loop = StepLoop(make_context(vision.model, n_ctx=2048, n_seq_max=4, kv_unified=True))
    steps: list[str] = []
    Encoder(vision, lambda: steps.append("image"))

    def join(wanted: Request, name: str) -> None:
        job = Job(wanted, lambda event: steps.append(name) if event.token is not None else None)
        loop.check(wanted)
        assert loop.may_admit(job)
        loop.admit(job, loop.samples(job))

    join(Request(words(8), ENDLESS), "text")
    loop.step()
    for seed in (11, 12, 13):
        join(request(vision, ask("What?", picture(seed=seed)), replace(GREEDY, max_tokens=1)), "x")
    while steps.count("x") < 3:
        loop.step()
    first, second, third = (i for i, step in enumerate(steps) if step == "image")
    assert "text" in steps[first:second]
    assert "text" in steps[second:third]
    loop.close()


def test_what_images_take_is_counted_in_cells(
    vision: Vision, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=1024)
    wanted = request(vision, ask("A wide one", WIDE))
    n_text = sum(token >= 0 for token in wanted.prompt)
    n_image = 4 if vision.path.name == "mmproj-gemma3.gguf" else (256 // 16) * (160 // 16)
    (one,) = scheduler.submit(wanted).results()
    assert one.accounting.prompt_tokens == n_text + n_image == wanted.n_cells
    load = scheduler.load
    assert load.counters.prompt_tokens == n_text + n_image
    assert load.cells_used == n_text + n_image + 9  # the last token is in nobody's memory
    # asked again: all but the last token of the prompt is there
    (again,) = scheduler.submit(request(vision, ask("A wide one", WIDE))).results()
    assert again.tokens == one.tokens
    assert again.accounting.cached_tokens == n_text + n_image - 1


def test_an_answer_ends_where_the_cells_do(
    visions: dict[str, Vision], make_scheduler: MakeScheduler
) -> None:
    """M-RoPE: the positions would reach much further."""
    vision = visions["qwen2vl"]
    scheduler = make_scheduler(vision.model, n_ctx=256, n_seq_max=1)
    wanted = request(vision, ask("A wide one", WIDE), replace(ENDLESS, repeat_penalty=1.0))
    (one,) = scheduler.submit(replace(wanted, ignore_eog=True)).results()
    assert one.accounting.finish_reason == "context"
    assert wanted.n_cells + len(one.tokens) == 256 + 1
    large = picture(size=(512, 512), seed=5)
    with pytest.raises(UsageProblem, match="tokens with its images, the context holds 256"):
        scheduler.submit(request(vision, ask("Too large", large)))


# --- computed once ---------------------------------------------------------------------------


def test_a_long_conversation_keeps_its_picture(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    encoder = Encoder(vision)
    talk, n_before = ask("What is it?", WIDE), 0
    for turn in range(5):
        wanted = request(vision, talk)
        (one,) = scheduler.submit(wanted).results()
        assert one.accounting.cached_tokens >= n_before - 4  # the template's own last tokens
        assert_seen(vision, make_context, talk, one.tokens)
        n_before = wanted.n_cells
        talk = [*talk, Message("assistant", "Yes."), *ask(f"And what of {turn}? " + "x" * 40)]
    assert encoder.n == 1


def test_two_users_with_the_same_picture(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    """At once, and with other questions after it: it is encoded once, and computed once where
    it is long enough to wait for."""
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    encoder = Encoder(vision)
    talks = [ask(f"{text} of this? ", WIDE) for text in ("What", "Who", "Where")]
    wanted = [request(vision, talk) for talk in talks]
    answers = [scheduler.submit(one) for one in wanted]
    for talk, answer in zip(talks, answers, strict=True):
        assert_seen(vision, make_context, talk, finished(answer))
    assert encoder.n == 1
    if vision.uses_mrope:
        computed = scheduler.load.counters.prompt_tokens
        assert computed < sum(one.n_cells for one in wanted) - 2 * 150


def test_another_picture_is_not_taken_for_it(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    for image in (CAT, DOG, CAT, picture("BMP", seed=1)):
        talk = ask("What is it?", image)
        assert_seen(vision, make_context, talk, finished(scheduler.submit(request(vision, talk))))


def test_a_text_with_the_same_words_shares_nothing_of_the_image(
    vision: Vision, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    seen = request(vision, ask("What is it?", CAT))
    scheduler.submit(seen).results()
    template, tokenizer = ChatTemplate.of(vision.model), vision.model.tokenizer
    prompt = tokenizer.encode(template.render(ask("What is it?")).text, parse_special=True)
    assert_greedy(vision.model, prompt, finished(scheduler.submit(Request(prompt, GREEDY))))


@pytest.mark.parametrize("unified", [True, False])
def test_cells_that_left_for_main_memory_and_came_back(
    vision: Vision, unified: bool, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    """Positions in two dimensions go with them."""
    no_cells(vision)
    holding = Holding(cells_share=0.1, active_share=0.0, save_worth=1e9)
    scheduler = make_scheduler(
        vision.model, SchedulerOptions(holding=holding), n_ctx=1024, n_seq_max=2,
        kv_unified=unified,
    )  # fmt: skip
    talks = [ask(f"{name} picture, {'far ' * 20}", image) for name, image in
             (("First", WIDE), ("Second", DOG), ("Third", CAT))]  # fmt: skip
    wanted = [request(vision, talk) for talk in talks]
    for one in wanted:
        scheduler.submit(one).results()
    for talk, one in zip(talks, wanted, strict=True):
        (again,) = scheduler.submit(request(vision, talk)).results()
        assert again.accounting.cached_tokens >= one.n_cells - 1
        assert_seen(vision, make_context, talk, again.tokens)


def test_who_gives_way_computes_its_images_again(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    no_cells(vision)
    scheduler = make_scheduler(vision.model, n_ctx=512, n_seq_max=3)
    talks = [ask(f"Picture {i} {'word ' * 14}", picture(size=(160, 96), seed=i)) for i in range(3)]
    longer = replace(GREEDY, max_tokens=200)
    wanted = [replace(request(vision, talk, longer), ignore_eog=True) for talk in talks]
    answers = [scheduler.submit(one) for one in wanted]
    for talk, answer in zip(talks, answers, strict=True):
        tokens = finished(answer)
        assert len(tokens) == 200
        assert_seen(vision, make_context, talk, tokens)
    assert scheduler.load.counters.preemptions > 0
    assert scheduler.load.n_running == 0


# --- what goes wrong -------------------------------------------------------------------------


def test_cancelled_before_while_and_after_it_is_encoded(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    prompt = words(30)
    beside = scheduler.submit(Request(prompt, replace(GREEDY, max_tokens=60)))
    answers: list[Answer] = []
    encoder = Encoder(vision, lambda: answers[-1].cancel())
    ready = threading.Event()

    def late() -> None:
        ready.wait(10)
        answers[-1].cancel()

    encoder._before = late
    answers.append(scheduler.submit(request(vision, ask("What?", CAT))))
    ready.set()
    (one,) = answers[-1].results()
    assert (one.tokens, one.accounting.finish_reason) == ((), "cancelled")
    assert encoder.n == 1
    encoder._before = lambda: None
    answers.append(scheduler.submit(request(vision, ask("What?", DOG))))
    answers[-1].cancel()
    (one,) = answers[-1].results()
    assert one.accounting.finish_reason == "cancelled"
    answer = scheduler.submit(request(vision, ask("What?", WIDE), ENDLESS))
    for event in answer.events():
        if event.token is not None:
            answer.cancel()
    assert answer.accounting is not None
    assert answer.accounting.finish_reason == "cancelled"
    assert_greedy(vision.model, prompt, finished(beside))
    talk = ask("What is it?", CAT)  # and what comes after is right
    assert_seen(vision, make_context, talk, finished(scheduler.submit(request(vision, talk))))
    assert scheduler.idle


def test_a_deadline_counts_what_encoding_takes(
    vision: Vision, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=1024)
    Encoder(vision, lambda: time.sleep(0.3))
    answer = scheduler.submit(request(vision, ask("What?", CAT), deadline_s=0.2))
    with pytest.raises(DeadlinePassed):
        answer.results()
    assert scheduler.load.counters.completion_tokens == 0


def test_an_image_that_cannot_be_encoded_fails_alone(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    encoder = Encoder(vision)
    encoder.fails = True
    beside = scheduler.submit(Request(words(30), GREEDY))
    with pytest.raises(EngineError, match="could not encode an image"):
        scheduler.submit(request(vision, ask("What?", CAT))).results()
    assert_greedy(vision.model, words(30), finished(beside))
    encoder.fails = False
    talk = ask("What?", CAT)
    assert_seen(vision, make_context, talk, finished(scheduler.submit(request(vision, talk))))
    assert scheduler.alive


def test_refusals(visions: dict[str, Vision], make_scheduler: MakeScheduler) -> None:
    vision = visions["gemma3"]
    scheduler = make_scheduler(vision.model, n_ctx=512)
    wanted = request(vision, ask("What?", CAT))
    with pytest.raises(UsageProblem, match="no tokens of this model"):
        scheduler.submit(replace(wanted, media=None))
    with pytest.raises(UsageProblem, match="not that of its images"):
        scheduler.submit(replace(wanted, prompt=[*wanted.prompt, 5]))
    with pytest.raises(UsageProblem, match="read for another model"):
        scheduler.submit(request(visions["qwen2vl"], ask("What?", CAT)))
    small = make_scheduler(vision.model, n_ctx=512, n_ubatch=2, n_batch=64)
    with pytest.raises(UsageProblem, match=r"an image is 4 tokens .* the micro-batch holds 2"):
        small.submit(wanted)


def test_images_that_wait_are_bounded(visions: dict[str, Vision], make_scheduler: Any) -> None:
    vision = visions["gemma3"]
    options = SchedulerOptions(max_waiting_images=3)
    scheduler: Scheduler = make_scheduler(vision.model, options, n_ctx=1024, n_seq_max=1)
    first = scheduler.submit(Request(words(5), ENDLESS))
    many = scheduler.submit(request(vision, ask("Many", *[CAT] * 5)))  # the only one: let in
    with pytest.raises(Busy):
        scheduler.submit(request(vision, ask("One more", CAT)))
    text = scheduler.submit(Request(words(6), GREEDY))  # texts may wait all the same
    first.cancel()
    assert finished(many)
    assert finished(text)


# --- with everything else --------------------------------------------------------------------


def test_samples_logprobs_and_a_grammar(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    talk = ask("What is it?", WIDE)
    sampling = Sampling(temperature=1.0, seed=5, max_tokens=6)
    three = scheduler.submit(request(vision, talk, sampling, n=3)).results()
    for i, one in enumerate(three):  # as each would be alone, by its seed
        alone = scheduler.submit(request(vision, talk, replace(sampling, seed=5 + i))).results()
        assert len(one.tokens) == len(alone[0].tokens)
    events = list(scheduler.submit(request(vision, talk, logprobs=2)).events())
    tops = [event.logprobs for event in events if event.logprobs is not None]
    assert len(tops) == 10
    assert all(top.chosen == top.top[0] for top in tops)
    grammar = replace(GREEDY, grammar='root ::= "yes" | "no"', max_tokens=20)
    (one,) = scheduler.submit(request(vision, talk, grammar)).results()
    assert one.text in ("yes", "no")
    biased = request(vision, talk, logit_bias={tops[0].chosen.token: float("-inf")})
    assert finished(scheduler.submit(biased))[0] != tops[0].chosen.token


def test_with_an_adapter(
    visions: dict[str, Vision], make_scheduler: MakeScheduler, tmp_path: Path
) -> None:
    vision = visions["qwen2vl"]
    adapter = LoraAdapter(vision.model, tiny_lora(tmp_path / "lora.gguf", arch="qwen2vl"))
    scheduler = make_scheduler(vision.model, n_ctx=2048)
    plain = request(vision, ask("What?", CAT))
    tuned = replace(plain, adapters=(Attached(adapter, 3.0),))
    alone = finished(scheduler.submit(tuned))
    answers = [scheduler.submit(one) for one in (plain, tuned, plain, tuned)]
    found = [finished(answer) for answer in answers]
    assert found[1] == found[3] == alone
    assert found[0] == found[2] != alone


def test_a_generator_that_sees(vision: Vision, make_context: MakeContext) -> None:
    context = make_context(vision.model, n_ctx=1024, n_seq_max=2, kv_unified=True)
    with SharedGenerator(context, vision=vision) as generator:
        talk = ask("What is it?", CAT)
        answer = generator.generate(talk, GREEDY)
        list(answer)
        assert_seen(vision, make_context, talk, answer.tokens)
        with pytest.raises(UsageProblem, match="cannot be read"):
            generator.generate(ask("What?", b"no picture"), GREEDY)
    blind = SharedGenerator(make_context(vision.model, kv_unified=True))
    with blind, pytest.raises(UsageProblem, match="cannot see images"):
        blind.generate(talk, GREEDY)


def test_many_of_all_kinds(
    vision: Vision, make_scheduler: MakeScheduler, make_context: MakeContext
) -> None:
    """Turns that go on, pictures that come back, some cancelled, in too little room for all."""
    options = SchedulerOptions(chunk=48, max_waiting_images=100)
    scheduler = make_scheduler(vision.model, options, n_ctx=768, n_seq_max=4)
    rng = random.Random(3)
    images = [picture(size=(32 * rng.randint(1, 4), 32), seed=i) for i in range(4)]
    asked: list[tuple[list[Message], Answer]] = []
    for i in range(40):
        talk = ask(f"Question {rng.randint(0, 3)} {'more ' * rng.randint(0, 12)}",
                   *rng.sample(images, rng.randint(0, 2)))  # fmt: skip
        if rng.random() < 0.4:
            talk += [Message("assistant", "Ok"), *ask(f"So {i % 3}?", *rng.sample(images, 1))]
        answer = scheduler.submit(request(vision, talk, replace(GREEDY, max_tokens=4 + i % 9)))
        if rng.random() < 0.2:
            answer.cancel()
        asked.append((talk, answer))
    for talk, answer in asked:
        assert_seen(vision, make_context, talk, finished(answer), n_ctx=1024)
    assert scheduler.idle
    assert scheduler.load.cells_used <= 768


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_comes_while_an_image_is_being_computed_shares_it(
    visions: dict[str, Vision], make_context: MakeContext, when: str
) -> None:
    """Before: the text in front of it is computed, and what is left to share are few places, but
    many cells. After: with M-RoPE all of an image's cells have the position where it begins, so
    the memory's length does not tell that it is there."""
    vision = visions["qwen2vl"]
    loop = StepLoop(make_context(vision.model, n_ctx=1024, n_seq_max=4, kv_unified=True))
    told: dict[str, list[int]] = {"first": [], "second": []}

    def join(wanted: Request, name: str) -> None:
        job = Job(wanted, lambda e: told[name].append(e.token) if e.token is not None else None)
        loop.admit(job, loop.samples(job))

    first, second = (request(vision, ask(f"{text} of this? ", WIDE)) for text in ("What", "Who"))
    join(first, "first")
    assert first.media is not None
    (image,) = [run for run in first.media._runs if run.chunk is not None]
    at = image.start if when == "before" else image.start + image.n_pos
    while loop.running[0].fed < at:
        loop.step()
    assert loop.running[0].fed == at
    if when == "after":
        assert loop.memory.sequences.length(loop.running[0].sequence or 0) == image.start + 1
    join(second, "second")
    while loop.busy:
        loop.step()
    assert loop.counters.prompt_tokens < first.n_cells + second.n_cells - image.n_cells
    for name, text in (("first", "What"), ("second", "Who")):
        assert_seen(vision, make_context, ask(f"{text} of this? ", WIDE), told[name])
    loop.close()
