"""The language model that predictors.llm asks: a GGUF of the registry, or an adapter on one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import UsageProblem
from localllm.generation import Message
from localllm.library.find import find_adapter, find_runnable
from localllm.registry import Model, Registry
from localllm.route.predictors.llm import NO, YES, question
from localllm.ui import Progress, Silent

if TYPE_CHECKING:
    from localllm.engine.adapter import Attached
    from localllm.route.contrast import Floats

PREFIX = "llm/"
_TOKENS = 1024  # of a prompt, of which a longer one's two ends are read
_N_CTX = 2048  # with the question around it and the template's own words
_DIGEST = 12
_SHOWN = 8  # prompts, from which on it is told how far it is

Adapters = tuple[tuple[Path, float], ...]


class RegistryAsker:
    """Safe from several threads, one at a time. The question's beginning, which all prompts have
    in common, is computed once. Raises what loading raises."""

    def __init__(
        self, name: str, model: Model, adapters: Adapters, progress: Progress | None = None
    ) -> None:
        from localllm.engine.session import Session
        from localllm.engine.template import ChatTemplate
        from localllm.library.presets import Preset
        from localllm.placement import PlanOptions, open_model

        self.name, self._progress = name, progress or Silent()
        self._lock = threading.Lock()
        self._opened = open_model(model.path, PlanOptions(n_ctx=_N_CTX))
        try:
            self._attached = self._attach(adapters)
            self._session = Session(self._opened.context)
        except BaseException:
            self._opened.close()
            raise
        native = self._opened.model
        has_own = native.meta("tokenizer.chat_template") is not None
        source = Preset.of(model, has_template=has_own).template
        self._template = ChatTemplate.of(native, source)

    def _attach(self, adapters: Adapters) -> list[Attached]:
        from localllm.engine.adapter import Attached, LoraAdapter, attach

        loaded = [Attached(LoraAdapter(self._opened.model, p), scale) for p, scale in adapters]
        if loaded:
            attach(self._opened.context, loaded)
        return loaded

    def log_odds(self, prompts: Sequence[str]) -> Floats:
        import numpy as np

        progress = self._progress if len(prompts) >= _SHOWN else Silent()
        found = np.zeros(len(prompts))
        with self._lock, progress.steps("ask about prompts", len(prompts)) as advance:
            for i, prompt in enumerate(prompts):
                found[i] = self._one(prompt)
                advance(1)
        return found

    def _one(self, prompt: str) -> float:
        before, yes, no = self._answers(self._short(prompt))
        self._session.process(before)
        self._opened.context.check_logits()
        logits = self._opened.context.logits_view()
        return float(logits[yes]) - float(logits[no])  # what both are divided by falls out

    def _answers(self, prompt: str) -> tuple[list[int], int, int]:
        """(the tokens before the answer, that of Yes, that of No): the first in which the two
        answers differ, whatever the vocabulary makes of them."""
        from localllm.engine.template import encode_prompt

        rendered = self._template.render(
            [Message("user", question(prompt))], variables={"enable_thinking": False}
        ).text
        lead = "" if rendered[-1:].isspace() else " "
        tokenizer = self._session.tokenizer
        first, second = (
            list(encode_prompt(tokenizer, f"{rendered}{lead}{answer}")) for answer in (YES, NO)
        )
        n = 0
        while n < min(len(first), len(second)) and first[n] == second[n]:
            n += 1
        if n == 0 or n >= min(len(first), len(second)):
            raise UsageProblem(f"{self.name} has no words for {YES} and {NO}: it cannot be asked")
        return first[:n], first[n], second[n]

    def _short(self, prompt: str) -> str:
        """Of a long prompt the first two thirds and the last third of what is read."""
        text, tokenizer = prompt, self._session.tokenizer
        limit = min(_TOKENS, self._session.context.n_ctx_seq // 2)
        while (n := len(tokenizer.encode(text[: 32 * limit]))) > limit or len(text) > 32 * limit:
            kept = min(len(text) - 1, 32 * limit, int(len(text) * limit / n * 0.9))
            text = f"{prompt[: kept * 2 // 3]} … {prompt[len(prompt) - kept // 3 :]}"
        return text


def asker_named(
    text: str, registry: Registry, progress: Progress | None = None
) -> RegistryAsker:  # fmt: skip
    """`MODEL[+ADAPTER[:SCALE]]...`, an adapter's own name, or a name that an asker gave. Raises
    ModelNotFound, and UsageProblem where what it names has changed since."""
    bare, _, digest = text.removeprefix(PREFIX).rpartition("#")
    wanted = bare if text.startswith(PREFIX) and digest else text
    name, *more = wanted.split("+")
    model = find_runnable(name, registry)
    own = tuple((file.path, 1.0) for file in model.with_role("adapter"))
    adapters = (*own, *(find_adapter(one, registry) for one in more))
    found = f"{PREFIX}{wanted}#{_digest_of(model, adapters)}"
    if text.startswith(PREFIX) and digest and found != text:
        raise UsageProblem(
            f"{wanted} is not the model that this router was trained with",
            "train it again: localllm route train NAME --data FILE",
        )
    return RegistryAsker(found, model, adapters, progress)


def _digest_of(model: Model, adapters: Adapters) -> str:
    """Of the weights, the adapters with their scales, and the question that is asked."""
    weights = [file.sha256 for file in model.weights]
    if not weights or None in weights:
        raise UsageProblem(f"{model.name} has no digest yet", f"localllm verify {model.name}")
    digest = hashlib.sha256(question("").encode())
    for one in weights:
        digest.update(str(one).encode())
    for path, scale in adapters:
        digest.update(hashlib.sha256(path.read_bytes()).digest() + f"{scale:g}".encode())
    return digest.hexdigest()[:_DIGEST]
