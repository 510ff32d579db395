"""Examples as people can read them: what counts in the loss, and what does not."""

from __future__ import annotations

from itertools import groupby

from localllm.engine.tokenizer import Tokenizer
from localllm.finetune.data.report import Piece, Rendered
from localllm.finetune.data.store import Example

_LONG = 1200  # tokens of an example that are shown from each end


def rendered(example: Example, tokenizer: Tokenizer, side: str = "") -> Rendered:
    """Pieces of `example` by whether they count; the middle of a very long one is left out."""
    ids = example.ids.tolist()
    marks = example.mask.tolist()
    pieces: list[Piece] = []
    place = 0
    for counts, group in groupby(marks):
        n = sum(1 for _ in group)
        pieces.append(Piece(_text(ids[place : place + n], tokenizer), n, bool(counts)))
        place += n
    return Rendered(str(example.source), side, tuple(pieces))


def _text(ids: list[int], tokenizer: Tokenizer) -> str:
    if len(ids) > 2 * _LONG:
        skipped = len(ids) - 2 * _LONG
        head, tail = (_text(part, tokenizer) for part in (ids[:_LONG], ids[-_LONG:]))
        return f"{head}\n[... {skipped} tokens ...]\n{tail}"
    # byte for byte as it stands there: not the text of a whole, which loses its first space
    raw = b"".join(tokenizer.special_piece(token) for token in ids)
    return raw.decode("utf-8", "replace")
