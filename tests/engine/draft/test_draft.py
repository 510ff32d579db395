"""Speculative decoding: the answers stay the target's own, whatever drafts."""

from __future__ import annotations

import gc
import itertools
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.context import Context
from localllm.engine.draft.draft import DraftAccounting, DraftGenerator, DraftOptions
from localllm.engine.draft.pace import Pace
from localllm.engine.draft.session import DraftSession
from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.session import Session
from localllm.engine.stream import TokenStream
from localllm.errors import EngineError, FileGone, UsageProblem
from localllm.generation import Generator, Message, Sampling
from tests.engine.conftest import ONE_THREAD, MakeContext, ctrl_c
from tests.support.tiny_models import (
    tiny_bert,
    tiny_chain,
    tiny_gemma3,
    tiny_llama,
    tiny_mamba,
)

GREEDY = Sampling(temperature=0.0, max_tokens=40)
ALWAYS = DraftOptions(n_max=5, p_min=0.0)  # whatever it costs
NAMES = ["llama", "spm", "gemma", "mamba"]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    """Of each kind another model with other weights, whose guesses are no better than chance."""
    folder = tmp_path_factory.mktemp("strangers")
    models = {
        "llama": Model.load(tiny_llama(folder / "llama.gguf", seed=7, n_layer=1)),
        "spm": Model.load(tiny_llama(folder / "spm.gguf", vocab="spm", seed=7)),
        "gemma": Model.load(tiny_gemma3(folder / "gemma.gguf", seed=7)),
        "mamba": Model.load(tiny_mamba(folder / "mamba.gguf", seed=7)),
    }
    yield models
    for model in models.values():
        model.close()


def account(stream: TokenStream) -> DraftAccounting:
    assert isinstance(stream.accounting, DraftAccounting)
    return stream.accounting


def tokens_of(session: Session, prompt: Sequence[int], sampling: Sampling) -> list[int]:
    stream = session.stream(prompt, sampling)
    list(stream)
    return stream.tokens


def assert_same(
    context: Context, prompt: Sequence[int], found: list[int], wanted: list[int]
) -> None:
    """Equal, or different from where two logits lie closer than batches of different sizes may
    differ (see test_session: up to 0.02 where logits spread by 2 to 3)."""
    if found == wanted:
        return
    at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b)
    context.clear()
    context.prefill([*prompt, *wanted[:at]])
    logits = context.logits()
    assert abs(logits[found[at]] - logits[wanted[at]]) < 0.05, (at, found, wanted)


# --- the same answers ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("who", ["itself", "stranger", "lookup"])
def test_greedy_is_greedy_without_a_draft(
    name: str,
    who: str,
    request: pytest.FixtureRequest,
    strangers: dict[str, Model],
    make_context: MakeContext,
) -> None:
    model: Model = request.getfixturevalue(name)
    drafting = {"itself": model, "stranger": strangers[name], "lookup": None}[who]
    draft = make_context(drafting) if drafting else None
    plain = Session(make_context(model))
    session = DraftGenerator(make_context(model), draft, options=ALWAYS).session
    drafted = accepted = 0
    for text in ("hello world", "the cat and the dog and the cat and", "1 2 3 1 2 3 1 2", "x"):
        prompt = model.tokenizer.encode(text)
        wanted = tokens_of(plain, prompt, GREEDY)
        stream = session.stream(prompt, GREEDY)
        list(stream)
        assert_same(make_context(model), prompt, stream.tokens, wanted)
        drafted += account(stream).drafted
        accepted += account(stream).accepted
    assert 0 <= accepted <= drafted
    if who == "itself":
        assert accepted > 0.9 * drafted > 50
    if who == "stranger":
        assert accepted < 0.3 * drafted


def test_many_prompts_in_one_conversation_after_another(
    llama: Model, strangers: dict[str, Model], make_context: MakeContext
) -> None:
    plain = Session(make_context(llama))
    check = make_context(llama)
    good = DraftGenerator(make_context(llama), make_context(llama), options=ALWAYS).session
    bad = DraftGenerator(
        make_context(llama), make_context(strangers["llama"]), options=ALWAYS
    ).session
    rng = np.random.default_rng(5)
    short = replace(GREEDY, max_tokens=12)
    for _ in range(40):
        prompt = [int(t) for t in rng.integers(32, 127, int(rng.integers(1, 40)))]
        wanted = tokens_of(plain, prompt, short)
        for session in (good, bad):
            assert_same(check, prompt, tokens_of(session, prompt, short), wanted)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0),
        Sampling(temperature=0.7, top_k=20, repeat_penalty=1.3, frequency_penalty=0.2),
        Sampling(temperature=0.9, grammar='root ::= ([a-z] " ")*'),
        Sampling(temperature=0.0, presence_penalty=1.5, repeat_last_n=8),
    ],
    ids=["all", "penalties", "grammar", "greedy penalties"],
)
def test_seed_for_seed_the_same_answer(
    sampling: Sampling, tmp_path: Path, make_context: MakeContext
) -> None:
    """The chain, the grammar, the penalties and the random numbers go on as without a draft.

    All in float32, where batches of other sizes differ in the sixth digit only.
    """
    exact = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    model = Model.load(tiny_llama(tmp_path / "target.gguf", dtype="F32"))
    other = Model.load(tiny_llama(tmp_path / "other.gguf", dtype="F32", seed=7))
    plain = Session(make_context(model, **exact))
    sessions = [
        DraftGenerator(make_context(model, **exact), draft, options=ALWAYS).session
        for draft in (make_context(model, **exact), make_context(other, **exact), None)
    ]
    prompt = model.tokenizer.encode("hello the world")
    for seed in range(20):
        seeded = replace(sampling, seed=seed, max_tokens=24)
        wanted = tokens_of(plain, prompt, seeded)
        for session in sessions:
            assert tokens_of(session, prompt, seeded) == wanted
    model.close()
    other.close()


def chi_square_limit(n_free: int) -> float:
    """What chi-square with so many degrees of freedom exceeds once in 10,000 times (Wilson and
    Hilferty's approximation; 3.719 is that quantile of the normal distribution)."""
    spread = 2 / (9 * n_free)
    return n_free * (1 - spread + 3.719 * math.sqrt(spread)) ** 3


class Guesser:
    """Drafts any of the tokens that may come, wherever it is asked."""

    caught_up_s = 0.0

    def __init__(self, n_prompt: int, paths: dict[tuple[int, ...], float]) -> None:
        self.n_prompt, self.paths = n_prompt, sorted(paths)
        self.rng = np.random.default_rng(1)

    def propose(self, tokens: Sequence[int], n_max: int, pace: Pace) -> list[int]:
        said = tuple(tokens[self.n_prompt :])
        possible = [path for path in self.paths if path[: len(said)] == said]
        path = possible[int(self.rng.integers(len(possible)))]
        return list(path[len(said) :][:n_max])

    def begin(self, prompt: Sequence[int]) -> None: ...

    def verified(self, n_drafted: int, n_accepted: int) -> None: ...

    def abort(self) -> None: ...

    def arm(self) -> None: ...

    def reset(self) -> None: ...


@pytest.mark.parametrize("who", ["itself", "stranger", "guesser"])
def test_the_distribution_is_the_targets_own(
    who: str, tmp_path: Path, make_context: MakeContext
) -> None:
    """Thousands of draws of tokens that were verified in one batch, against the probabilities
    that numpy makes of the target's logits."""
    n_draws, k = 3000, 3
    small = {"n_layer": 1, "n_embd": 64, "n_ff": 64}
    model = Model.load(tiny_llama(tmp_path / "target.gguf", seed=1, dtype="F32", **small))
    other = Model.load(tiny_llama(tmp_path / "draft.gguf", seed=2, dtype="F32", **small))
    sampling = Sampling(
        temperature=1.4, top_k=k, top_p=1.0, min_p=0.0, repeat_penalty=1.2, max_tokens=4
    )
    prompt = model.tokenizer.encode("ab cd ab cd ab")
    reference = make_context(model)

    def choices(tokens: list[int]) -> dict[int, float]:
        """llama.cpp's chain by hand: penalty on the last 64 tokens, top k, softmax."""
        reference.clear()
        reference.prefill(tokens)
        logits = reference.logits().astype(np.float64)
        for seen in set(tokens[-64:]):
            logits[seen] = logits[seen] * 1.2 if logits[seen] <= 0 else logits[seen] / 1.2
        top = np.argsort(-logits)[:k]
        weights = np.exp((logits[top] - logits[top[0]]) / 1.4)
        return {int(t): float(w) for t, w in zip(top, weights / weights.sum(), strict=True)}

    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(4):
        expected = {
            (*path, token): p * q
            for path, p in expected.items()
            for token, q in choices([*prompt, *path]).items()
        }
    session: DraftSession
    if who == "guesser":
        guesser = Guesser(len(prompt), expected)
        session = DraftSession(make_context(model), guesser, 3, Pace(p_min=0.0))
    else:
        draft = make_context(model if who == "itself" else other)
        session = DraftGenerator(make_context(model), draft, options=ALWAYS).session
    counts: Counter[tuple[int, ...]] = Counter()
    drafted = accepted = 0
    for seed in range(n_draws):
        stream = session.stream(prompt, replace(sampling, seed=seed))
        list(stream)
        counts[tuple(stream.tokens)] += 1
        drafted, accepted = drafted + account(stream).drafted, accepted + account(stream).accepted
    model.close()
    other.close()
    assert set(counts) <= set(expected)
    assert drafted > n_draws / 2
    if who != "stranger":
        assert accepted > 0.2 * drafted
    often = [path for path, p in expected.items() if p * n_draws >= 5]
    rest = n_draws - sum(counts[path] for path in often)
    rest_expected = n_draws * (1 - sum(expected[path] for path in often))
    terms = [(counts[path] - expected[path] * n_draws) ** 2 / (expected[path] * n_draws)
             for path in often]  # fmt: skip
    if rest_expected >= 5:
        terms.append((rest - rest_expected) ** 2 / rest_expected)
    assert sum(terms) < chi_square_limit(len(terms) - 1)


def test_windows_and_states_go_back_rightly_over_a_long_answer(
    gemma: Model, mamba: Model, strangers: dict[str, Model], make_context: MakeContext
) -> None:
    """Past the window of 64 tokens, with the smallest cache llama.cpp makes, wrong drafts taken
    back at every step."""
    for name, model in (("gemma", gemma), ("mamba", mamba)):
        prompt = model.tokenizer.encode("the world " * 30)
        long = replace(GREEDY, max_tokens=150)
        wanted = tokens_of(Session(make_context(model, n_ubatch=16)), prompt, long)
        session = DraftGenerator(
            make_context(model, n_ubatch=16),
            make_context(strangers[name], n_ubatch=16),
            options=ALWAYS,
        ).session
        stream = session.stream(prompt, long)
        list(stream)
        assert_same(make_context(model), prompt, stream.tokens, wanted)
        assert account(stream).drafted > account(stream).accepted
        # and what is in memory is just what was said
        held = session.cached_tokens
        assert held == tuple([*prompt, *stream.tokens][: len(held)])
        assert len(held) >= len(prompt) + 149 - 1


# --- as a generator --------------------------------------------------------------------------


def test_a_draft_that_does_not_open_leaves_nothing_loaded(
    llama_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Model] = []
    load = Model.load

    def spy(*given: object) -> Model:
        loaded.append(load(*given))  # type: ignore[arg-type]
        return loaded[-1]

    monkeypatch.setattr(Model, "load", spy)
    for draft, error in ((tmp_path / "gone.gguf", FileGone), (tiny_llama(
        tmp_path / "spm.gguf", vocab="spm"), UsageProblem)):  # fmt: skip
        with pytest.raises(error):
            DraftGenerator.open(llama_path, context=ONE_THREAD, draft=draft)
    assert len(loaded) == 3
    assert all(model.closed for model in loaded)


def test_it_is_a_generator_whose_answers_are_the_models(llama_path: Path) -> None:
    talk = [Message("user", "hello world")]
    with (
        LocalGenerator.open(llama_path, context=ONE_THREAD) as plain,
        DraftGenerator.open(llama_path, context=ONE_THREAD, draft=llama_path) as generator,
    ):
        as_protocol: Generator = generator
        assert as_protocol.name == llama_path.stem
        wanted, found = plain.generate(talk, GREEDY), generator.generate(talk, GREEDY)
        assert "".join(p.text for p in found) == "".join(p.text for p in wanted)
        assert found.tokens == wanted.tokens


def test_an_exact_draft_saves_steps_and_the_account_says_so(
    tmp_path: Path, make_context: MakeContext
) -> None:
    said = bytes(range(33, 127))
    path = tiny_chain(tmp_path / "chain.gguf", dict(itertools.pairwise(said)))
    with Model.load(path) as model:
        context = make_context(model)
        batches: list[int] = []
        decode = context.decode

        def counted(batch: object) -> None:
            batches.append(batch.n_tokens)  # type: ignore[attr-defined]
            decode(batch)

        context.decode = counted  # type: ignore[method-assign]
        generator = DraftGenerator(context, make_context(model), options=ALWAYS)
        stream = generator.session.stream([said[0]], Sampling(temperature=0))
        text = "".join(piece.text for piece in stream)
        assert text == said[1:].decode()
        found = account(stream)
        assert found.finish_reason == "stop"
        assert found.completion_tokens == len(said)  # the end's token too
        # the prompt, a plain step to measure, then six tokens a step
        assert len(batches) <= 2 + math.ceil((len(said) - 2) / 6) + 1
        assert found.drafted == sum(n - 1 for n in batches)
        assert found.accepted == found.drafted
        assert found.acceptance == 1.0
        assert found.plain_step_s is not None
        assert found.speedup_estimate is not None
        assert found.speedup_estimate > 0
        assert found.draft_s <= found.computing_s <= found.decode_s


def test_a_repetitive_text_drafts_itself(tmp_path: Path, make_context: MakeContext) -> None:
    circle = b"abcdefghij"
    path = tiny_chain(
        tmp_path / "circle.gguf", dict(zip(circle, circle[1:] + circle[:1], strict=True))
    )
    with Model.load(path) as model:
        session = DraftGenerator(make_context(model), options=ALWAYS).session
        stream = session.stream([circle[0]], replace(GREEDY, max_tokens=100))
        assert "".join(piece.text for piece in stream) == (circle * 11)[1:101].decode()
        assert account(stream).accepted > 70
        assert account(stream).draft_s < 0.1 * account(stream).computing_s


def test_the_next_turn_costs_both_only_its_new_tokens(
    llama: Model, strangers: dict[str, Model], make_context: MakeContext
) -> None:
    draft = make_context(strangers["llama"])
    session = DraftGenerator(make_context(llama), draft, options=ALWAYS).session
    first = llama.tokenizer.encode("hello the world")
    answer = tokens_of(session, first, replace(GREEDY, max_tokens=8))
    second = [*first, *answer, *llama.tokenizer.encode(" and more", add_special=False)]
    computed: list[int] = []
    decode = draft.decode

    def counted(batch: object) -> None:
        computed.append(batch.n_tokens)  # type: ignore[attr-defined]
        decode(batch)

    draft.decode = counted  # type: ignore[method-assign]
    stream = session.stream(second, replace(GREEDY, max_tokens=1))
    list(stream)
    assert account(stream).cached_tokens == len(first) + 7
    assert sum(computed) <= len(second) - len(first) - 6


# --- ends and limits -------------------------------------------------------------------------


def test_stop_strings_max_tokens_and_the_end_in_the_middle_of_a_draft(
    chain: Callable[[bytes], Model], make_context: MakeContext
) -> None:
    model = chain(b"abcdefghijklmnop")
    session = DraftGenerator(make_context(model), make_context(model), options=ALWAYS).session
    for stop, limit, text, reason, n in (
        (("fgh",), None, "bcde", "stop", 7),
        ((), 4, "bcde", "length", 4),
        ((), 1, "b", "length", 1),
        ((), 0, "", "length", 0),
        ((), None, "bcdefghijklmnop", "stop", 16),
    ):
        stream = session.stream([ord("a")], Sampling(temperature=0, stop=stop, max_tokens=limit))
        assert "".join(piece.text for piece in stream) == text
        assert account(stream).finish_reason == reason
        assert account(stream).completion_tokens == n
        assert session.context.length() <= 1 + n


@pytest.mark.parametrize("who", ["itself", "lookup"])
def test_the_context_fills_up_to_the_last_place(
    llama: Model, make_context: MakeContext, who: str
) -> None:
    prompt = [llama.tokenizer.bos or 0] * 230
    plain = Session(make_context(llama, n_ctx=256))
    wanted = tokens_of(plain, prompt, Sampling(temperature=0))
    draft = make_context(llama, n_ctx=256) if who == "itself" else None
    session = DraftGenerator(make_context(llama, n_ctx=256), draft, options=ALWAYS).session
    stream = session.stream(prompt, Sampling(temperature=0))
    list(stream)
    assert len(stream.tokens) == len(wanted) == 27
    assert (account(stream).finish_reason, account(stream).truncated) == ("context", True)
    assert session.context.length() == 256


def test_a_draft_with_a_shorter_context_stops_drafting(
    llama: Model, make_context: MakeContext
) -> None:
    session = DraftGenerator(
        make_context(llama, n_ctx=1024), make_context(llama, n_ctx=256), options=ALWAYS
    ).session
    prompt = llama.tokenizer.encode("hello")
    long = replace(GREEDY, max_tokens=400)
    found = session.stream(prompt, long)
    list(found)
    assert 200 < account(found).accepted < 256
    wanted = tokens_of(Session(make_context(llama, n_ctx=1024)), prompt, long)
    assert_same(make_context(llama, n_ctx=1024), prompt, found.tokens, wanted)
    # a prompt that the draft cannot hold at all
    stream = session.stream([5] * 300, replace(GREEDY, max_tokens=6))
    list(stream)
    assert account(stream).drafted == 0
    # and it drafts again when one comes that it can
    again = session.stream(prompt, replace(GREEDY, max_tokens=20))
    list(again)
    assert again.tokens == found.tokens[:20]
    assert account(again).accepted > 10


def test_vocabularies_must_agree(
    llama: Model, spm: Model, tmp_path: Path, make_context: MakeContext
) -> None:
    target = make_context(llama)
    with pytest.raises(
        UsageProblem, match=r"cannot draft for .*: its vocabulary is of another kind"
    ):
        DraftGenerator(target, make_context(spm))
    changed = (tmp_path / "changed.gguf", tmp_path / "bos.gguf")
    raw = tiny_llama(changed[0], seed=3).read_bytes()
    at = raw.index("Ġworld".encode())
    changed[0].write_bytes(raw[:at] + "Ġwarld".encode() + raw[at + 7 :])
    with (
        Model.load(changed[0]) as model,
        pytest.raises(UsageProblem, match=r"its token \d+ is 'Ġwarld', not") as e,
    ):
        DraftGenerator(target, make_context(model))
    assert e.value.hint is not None
    path = tiny_llama(changed[1], metadata={"tokenizer.ggml.add_bos_token": False})
    with Model.load(path) as model, pytest.raises(UsageProblem, match="treats BOS differently"):
        DraftGenerator(target, make_context(model))


def test_what_cannot_draft(llama: Model, tmp_path: Path, make_context: MakeContext) -> None:
    context = make_context(llama)
    with pytest.raises(UsageProblem, match="cannot draft for itself"):
        DraftGenerator(context, context)
    with Model.load(tiny_bert(tmp_path / "bert.gguf")) as bert:
        embedder = Context(bert, replace(ONE_THREAD, n_ubatch=512, embeddings=True))
        with pytest.raises((EngineError, UsageProblem)):
            DraftGenerator(context, embedder)
    with pytest.raises(UsageProblem, match="a draft of 0 tokens"):
        DraftOptions(n_max=0)
    with pytest.raises(UsageProblem, match="p_min"):
        DraftOptions(p_min=1.5)


def test_another_architecture_may_draft(
    llama: Model, tmp_path: Path, make_context: MakeContext
) -> None:
    """A recurrent draft for an attention target, and the other way round."""
    with Model.load(tiny_mamba(tmp_path / "mamba.gguf", chat_template=None)) as mamba:
        prompt = llama.tokenizer.encode("hello world")
        for target, drafting in ((llama, mamba), (mamba, llama)):
            wanted = tokens_of(Session(make_context(target)), prompt, GREEDY)
            session = DraftGenerator(
                make_context(target), make_context(drafting), options=ALWAYS
            ).session
            for _ in range(2):
                found = tokens_of(session, prompt, GREEDY)
                assert_same(make_context(target), prompt, found, wanted)


# --- stopping it -----------------------------------------------------------------------------


def check_usable(session: Session, model: Model, make_context: MakeContext) -> None:
    prompt = model.tokenizer.encode("the hello world")
    wanted = tokens_of(Session(make_context(model)), prompt, replace(GREEDY, max_tokens=12))
    found = tokens_of(session, prompt, replace(GREEDY, max_tokens=12))
    assert_same(make_context(model), prompt, found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_cancel_and_leaving_in_the_middle_of_a_draft(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    session = DraftGenerator(make_context(model), make_context(model), options=ALWAYS).session
    stream = session.stream(model.tokenizer.encode("hello"), Sampling(temperature=0))
    said = 0
    for i, _ in enumerate(stream):
        if i == 4:
            stream.cancel()
            said = len(stream.tokens)
    assert len(stream.tokens) == said
    assert account(stream).finish_reason == "cancelled"
    check_usable(session, model, make_context)
    for _ in session.stream(model.tokenizer.encode("hello you"), Sampling(temperature=0)):
        break
    gc.collect()
    check_usable(session, model, make_context)


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_cancel_from_a_thread(
    name: str, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    for delay_s in (0.0, 0.003, 0.01, 0.03):
        session = DraftGenerator(
            make_context(model, n_ctx=8192), make_context(model, n_ctx=8192), options=ALWAYS
        ).session
        stream = session.stream([32 + i % 90 for i in range(600)], Sampling(temperature=0))
        threading.Timer(delay_s, stream.cancel).start()
        list(stream)
        assert account(stream).finish_reason == "cancelled"
        check_usable(session, model, make_context)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
@pytest.mark.parametrize("name", ["llama", "gemma", "mamba"])
@pytest.mark.parametrize("delay_s", [0.01, 0.025, 0.06])
def test_ctrl_c_leaves_a_usable_session(
    name: str, delay_s: float, request: pytest.FixtureRequest, make_context: MakeContext
) -> None:
    model: Model = request.getfixturevalue(name)
    session = DraftGenerator(
        make_context(model, n_ctx=4096), make_context(model, n_ctx=4096), options=ALWAYS
    ).session
    stream = session.stream(model.tokenizer.encode("hello"), Sampling(temperature=0))
    with ctrl_c(delay_s), pytest.raises(KeyboardInterrupt):
        for _ in stream:
            pass
        time.sleep(5)  # the model ran out of context first
    check_usable(session, model, make_context)


def test_closing_either_context_while_it_generates(llama: Model) -> None:
    for which in ("target", "draft"):
        contexts = [Context(llama, replace(ONE_THREAD, n_ctx=8192)) for _ in range(2)]
        session = DraftGenerator(*contexts, options=ALWAYS).session
        stream = session.stream(llama.tokenizer.encode("hello"), Sampling(temperature=0))
        ended: list[str] = []

        def read(stream: TokenStream = stream, ended: list[str] = ended) -> None:
            with pytest.raises(EngineError) as caught:
                list(stream)
            ended.append(caught.value.message)

        thread = threading.Thread(target=read)
        thread.start()
        while len(stream.tokens) < 5:
            time.sleep(0.001)
        contexts[which == "draft"].close()
        thread.join(5)
        assert ended == ["this context is closed"]
        for context in contexts:
            context.close()
