"""A digest taken while a file is written is the digest of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from localllm.library.growing import GrowingDigest

HEAD, BODY = b"the head, known before", bytes(range(256)) * 100


def written(path: Path, head: bytes, hashed: GrowingDigest) -> None:
    """As llama.cpp writes: zeros, the rest in pieces, the head at last."""
    hashed.follow()  # nothing there yet
    with path.open("wb", buffering=0) as file:
        for piece in (bytes(5), bytes(len(head) - 5), BODY[:1000], BODY[1000:]):
            file.write(piece)
            hashed.follow()
        file.seek(0)
        file.write(head)


@pytest.mark.parametrize("head", [HEAD, HEAD[:-1] + b"?", b"longer " + HEAD, HEAD[:-6]])
def test_the_head_foretold_and_another(tmp_path: Path, head: bytes) -> None:
    path, told = tmp_path / "file", list[int]()
    hashed = GrowingDigest(path, HEAD)
    written(path, head, hashed)
    assert hashed.finish(told.append) == hashlib.sha256(head + BODY).hexdigest()
    assert sum(told) == len(head + BODY)


def test_a_head_alone_that_is_no_head(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(HEAD[:3])
    assert GrowingDigest(path, HEAD).finish(lambda n: None) == hashlib.sha256(HEAD[:3]).hexdigest()
