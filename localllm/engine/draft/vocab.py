"""Whether two models speak of the same tokens, so that one may draft for the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localllm.engine import native
from localllm.engine.model import Model
from localllm.errors import UsageProblem

# llama.cpp's common/speculative.cpp: the sizes may differ by so much (padding), and the texts of
# the first few tokens too (<s>, <unk> and the like)
_MAX_SIZE_DIFFERENCE = 128
_FIRST_CHECKED = 5


def check_vocabularies(target: Model, draft: Model) -> None:
    """Raise UsageProblem unless `draft` may propose tokens to `target`: llama.cpp's own rule,
    same kind of vocabulary, same BOS and EOS, same texts, sizes within 128 of each other."""
    if target is draft:
        return
    why = _difference(target, draft)
    if why:
        raise UsageProblem(
            f"{draft.path.name} cannot draft for {target.path.name}: {why}",
            "use a smaller model of the same family, or --draft ngram",
        )


def _difference(target: Model, draft: Model) -> str | None:
    llama = native.lib()
    one, other = target.tokenizer, draft.tokenizer
    left, right = one.vocab_handle, other.vocab_handle
    if llama.llama_vocab_type(left) != llama.llama_vocab_type(right):
        return "its vocabulary is of another kind"
    for name in ("bos", "eos"):
        adds: Callable[[int], bool] = getattr(llama, f"llama_vocab_get_add_{name}")
        token: Callable[[int], int] = getattr(llama, f"llama_vocab_{name}")
        if adds(left) != adds(right) or (adds(left) and token(left) != token(right)):
            return f"it treats {name.upper()} differently"
    sizes = one.n_vocab, other.n_vocab
    if abs(sizes[0] - sizes[1]) > _MAX_SIZE_DIFFERENCE:
        return f"it has {sizes[1]} tokens, not {sizes[0]}"
    text: Any = llama.llama_vocab_get_text
    for token_id in range(_FIRST_CHECKED, min(sizes)):
        if text(left, token_id) != text(right, token_id):
            return f"its token {token_id} is {other.text(token_id)!r}, not {one.text(token_id)!r}"
    return None
