"""Tiny vocabularies as GGUF tokenizer metadata: byte-level BPE, SentencePiece, WordPiece.

Every byte has a token, so any text round-trips. All three carry ChatML's special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.gguf_writer import Arr, Val

# token types of llama.cpp (enum llama_token_type)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# merges in rank order; each side is a byte-level character or the result of an earlier merge
BPE_MERGES = (
    "Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "Ġ w", "Ġ o",
    "n d", "i t", "o r", "Ġ c", "e s", "i s", "Ġ b", "e d", "Ġ f", "in g", "Ġ p", "o u",
    "Ġa nd", "a l", "a r", "Ġt o", "Ġ m", "Ġo f", "Ġ in", "l l", "Ġ h", "l o", "Ġ d", "he ll",
    "hell o", "w or", "l d", "wor ld", "Ġwor ld" , "Ġ he",
)  # fmt: skip

# in order of score; each is two earlier pieces or characters, or it would never be reached
SPM_PIECES = (
    "▁t", "▁a", "he", "in", "re", "on", "▁the", "er", "▁s", "at", "▁w", "▁o", "nd", "it", "or",
    "▁c", "es", "is", "▁b", "ed", "▁f", "ing", "▁p", "ou", "▁and", "al", "ar", "▁to", "ll", "hell",
    "hello", "▁hello", "lo", "wor", "▁wor", "ld", "world", "▁world",
)  # fmt: skip

CHAT_SPECIALS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Vocab:
    """`tokens[id]` is the text in the file; `metadata` holds the tokenizer.* keys."""

    tokens: tuple[str, ...]
    metadata: Mapping[str, Any]
    bos: int
    eos: int
    eot: int  # <|im_end|>

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int:
        return self.tokens.index(token)


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte, indexed by the byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in visible else chr(next(others)) for b in range(256)]


def bpe_vocab(
    *, pre: str = "gpt-2", add_bos: bool = True, chat_template: str | None = CHATML
) -> Vocab:
    """Byte-level BPE: ids 0-255 are the bytes (id == byte), then merges, then specials."""
    merged = [merge.replace(" ", "") for merge in BPE_MERGES]
    specials = ["<|begin_of_text|>", "<|end_of_text|>", *CHAT_SPECIALS]
    tokens = [*byte_characters(), *merged, *specials]
    types = [NORMAL] * (256 + len(merged)) + [CONTROL] * len(specials)
    bos = 256 + len(merged)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": Arr("str", tokens),
        "tokenizer.ggml.token_type": Arr("i32", types),
        "tokenizer.ggml.merges": Arr("str", BPE_MERGES),
        **_ends(bos, bos + 1, bos + 3, add_bos, chat_template),
    }
    return Vocab(tuple(tokens), metadata, bos, bos + 1, bos + 3)


def spm_vocab(*, add_bos: bool = True, chat_template: str | None = CHATML) -> Vocab:
    """SentencePiece (llama): <unk> <s> </s>, 256 byte tokens (id == byte + 3), pieces, specials."""
    characters = ["▁", *(chr(c) for c in range(33, 127))]
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *SPM_PIECES, *characters, *CHAT_SPECIALS]
    n_normal = len(SPM_PIECES) + len(characters)
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * n_normal, CONTROL, CONTROL]
    scores = [0.0] * 259 + [-float(i) for i in range(n_normal)] + [0.0, 0.0]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": Arr("str", tokens),
        "tokenizer.ggml.scores": Arr("f32", scores),
        "tokenizer.ggml.token_type": Arr("i32", types),
        "tokenizer.ggml.unknown_token_id": Val("u32", 0),
        **_ends(1, 2, len(tokens) - 1, add_bos, chat_template),
    }
    return Vocab(tuple(tokens), metadata, 1, 2, len(tokens) - 1)


def wordpiece_vocab() -> Vocab:
    """WordPiece (BERT): specials, each ASCII character at a word's start and inside, some words."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(c) for c in range(33, 127)]
    words = ["▁the", "▁and", "▁hello", "▁world", "▁cat", "▁dog", "ing", "ed", "s"]
    inside = [c for c in characters if c not in words]
    tokens = [*specials, *("▁" + c for c in characters), *inside, *words]
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": Arr("str", tokens),
        "tokenizer.ggml.token_type": Arr("i32", [CONTROL] * 5 + [NORMAL] * (len(tokens) - 5)),
        "tokenizer.ggml.token_type_count": Val("u32", 2),
        "tokenizer.ggml.unknown_token_id": Val("u32", 1),
        "tokenizer.ggml.bos_token_id": Val("u32", 2),
        "tokenizer.ggml.eos_token_id": Val("u32", 3),
        "tokenizer.ggml.seperator_token_id": Val("u32", 3),  # sic: the format's own spelling
        "tokenizer.ggml.padding_token_id": Val("u32", 0),
        "tokenizer.ggml.cls_token_id": Val("u32", 2),
        "tokenizer.ggml.mask_token_id": Val("u32", 4),
    }
    return Vocab(tuple(tokens), metadata, 2, 3, 3)


def _ends(bos: int, eos: int, eot: int, add_bos: bool, template: str | None) -> dict[str, Any]:
    keys = {
        "tokenizer.ggml.bos_token_id": Val("u32", bos),
        "tokenizer.ggml.eos_token_id": Val("u32", eos),
        "tokenizer.ggml.eot_token_id": Val("u32", eot),
        "tokenizer.ggml.add_bos_token": Val("bool", add_bos),
        "tokenizer.ggml.add_eos_token": Val("bool", False),
    }
    return keys | ({"tokenizer.chat_template": Val("str", template)} if template else {})
