"""The texts that ship with the program: one to calibrate with, another to judge by.

Both mix the same languages, prose, code and talk, from different works: what was chosen with
the first can be judged on the second. SOURCES.md beside them says what they are made of.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

__all__ = ["Text", "calibration", "calibration_text", "evaluation", "evaluation_text"]


@dataclass(frozen=True)
class Text:
    """A text and what identifies it. `sha256` is of its UTF-8 bytes."""

    name: str
    content: str
    sha256: str


def calibration() -> Text:
    """About half a megabyte in thirty languages, for importance matrices. Any stretch of it
    holds every language and kind in proportion, so the first chunks are a fair sample."""
    return _load("calibration")


def evaluation() -> Text:
    """About 150 kB, for perplexity and KL divergence; none of it is in `calibration`."""
    return _load("evaluation")


def calibration_text() -> str:
    return calibration().content


def evaluation_text() -> str:
    return evaluation().content


def _load(name: str) -> Text:
    raw = resources.files(__name__).joinpath(f"{name}.txt").read_bytes()
    return Text(f"localllm:{name}", raw.decode("utf-8"), hashlib.sha256(raw).hexdigest())
