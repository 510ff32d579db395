"""A vocabulary made from the text itself: a byte-level BPE that llama.cpp cuts text by.

Learned by the `tokenizers` library on what is trained on; used by llama.cpp alone, so that a
model reads what it was trained on, token for token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from localllm import config
from localllm.errors import UsageProblem

if TYPE_CHECKING:
    from localllm.ui import Progress

END = "<|endoftext|>"  # begins and ends every document
TURNS = ("<|im_start|>", "<|im_end|>")  # of conversations: ChatML
SAMPLE_BYTES = 64 << 20  # of text: more changes hardly a merge
_LONGEST = 32  # characters of a token: a line of dashes is no word


def default_size(n_bytes: int) -> int:
    """How many tokens a text of so many bytes supports: each should come some hundred times.

    Of 4 MB of English 8192 make the text 6 % shorter than 4096, and each token of a model of 4
    layers take 16 % more time (measured).
    """
    for most, size in ((500_000, 2048), (20_000_000, 4096), (200_000_000, 8192)):
        if n_bytes < most:
            return size
    return 16384


def learn_words(
    texts: Iterable[str], size: int, *, is_chat: bool, named: bool, threads: int,
    progress: Progress,
) -> tuple[str, int]:  # fmt: skip
    """A `tokenizer.json` of at most `size` tokens, and how many it has.

    Raises UsageProblem where `size` was `named` and the text has no so many.
    """
    config.set_environment_default("RAYON_NUM_THREADS", str(threads))
    config.set_environment_default("TOKENIZERS_PARALLELISM", "true")
    import tokenizers as hf

    from localllm.finetune.model.scratch import QWEN2_WORDS

    made: Any = hf.Tokenizer(hf.models.BPE())
    made.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [
            hf.pre_tokenizers.Split(hf.Regex(QWEN2_WORDS), "isolated"),
            hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END, *(TURNS if is_chat else ())],
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST,
        show_progress=False,
    )
    with progress.bytes("learn words", None) as advance:
        made.train_from_iterator(_sample(texts, advance), trainer)
    found = int(made.get_vocab_size())
    if named and found < size:
        raise UsageProblem(
            f"the text has no {size} tokens that come more than once, it has {found}",
            f"--vocab-size {found}, or more text",
        )
    return made.to_str(), found


def _sample(texts: Iterable[str], advance: Any) -> Iterator[str]:
    """The first of `texts`, as much as words are learned from."""
    left = SAMPLE_BYTES
    for text in texts:
        advance(len(text))
        yield text
        left -= len(text)
        if left <= 0:
            return
