"""LoRA selection per request: each gets its own, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from localllm.engine.adapter import Attached, LoraAdapter, attach, attached
from localllm.engine.model import Model
from localllm.engine.session import Session
from localllm.generation import Sampling
from tests.engine.conftest import MakeContext
from tests.engine.scheduler.conftest import words
from tests.engine.scheduler.test_steps import Desk
from tests.support.tiny_models import tiny_lora

GREEDY = Sampling(temperature=0.0, max_tokens=24)


def alone(
    model: Model, make_context: MakeContext, prompt: list[int], adapters: tuple[Attached, ...]
) -> list[int]:
    context = make_context(model)
    attach(context, adapters)
    stream = Session(context).stream(prompt, GREEDY)
    for _ in stream:
        pass
    attach(context, [])
    return stream.tokens


def test_each_request_has_its_own_adapters(
    llama: Model, make_context: MakeContext, tmp_path: Path
) -> None:
    one = LoraAdapter(llama, tiny_lora(tmp_path / "one.gguf", seed=1))
    two = LoraAdapter(llama, tiny_lora(tmp_path / "two.gguf", seed=2))
    sets: list[tuple[Attached, ...]] = [
        (), (Attached(one),), (Attached(two, 0.5),), (Attached(one), Attached(two)), (),
    ]  # fmt: skip
    desk = Desk(make_context(llama, n_ctx=2048, n_seq_max=5, kv_unified=True))
    prompt = words(60)
    for _ in range(2):  # the second time from what is held
        numbers = [desk.join(prompt, adapters=adapters) for adapters in sets]
        desk.run()
    for number, adapters in zip(numbers, sets, strict=True):
        assert desk.tokens(number) == alone(llama, make_context, prompt, adapters)[:20]
        account = desk.last(number).accounting
        assert account is not None
        assert account.cached_tokens == 59
    answers = {tuple(desk.tokens(number)) for number in numbers}
    assert len(answers) == 4
    desk.loop.close()
    one.close()
    two.close()


def test_groups_take_turns(llama: Model, make_context: MakeContext, tmp_path: Path) -> None:
    adapter = LoraAdapter(llama, tiny_lora(tmp_path / "one.gguf"))
    desk = Desk(make_context(llama, n_ctx=2048, n_seq_max=2, kv_unified=True))
    long = replace(GREEDY, max_tokens=60)
    plain = desk.join([298, 104], long)
    tuned = desk.join([298, 104], long, adapters=(Attached(adapter),))
    order = desk.steps(40)
    assert order.count(plain) == 24  # 8 steps each in turn
    assert order.count(tuned) == 16
    assert len(set(order[:8])) == len(set(order[8:16])) == 1
    desk.loop.close()
    adapter.close()


def test_the_contexts_own_adapters_are_the_default_and_stay(
    llama: Model, make_context: MakeContext, tmp_path: Path
) -> None:
    adapter = LoraAdapter(llama, tiny_lora(tmp_path / "one.gguf"))
    own = (Attached(adapter),)
    context = make_context(llama, n_ctx=1024, n_seq_max=2, kv_unified=True)
    attach(context, own)
    desk = Desk(context)
    default, none = desk.join(words(30)), desk.join(words(30), adapters=())
    desk.run()
    assert desk.tokens(default) == alone(llama, make_context, words(30), own)[:20]
    assert desk.tokens(none) == alone(llama, make_context, words(30), ())[:20]
    desk.loop.close()
    assert attached(context) == own
    adapter.close()
