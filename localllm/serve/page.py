"""The pages: one file each, no other address asked, and a policy that says so."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from localllm import __version__

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class Page:
    """Served to everyone: they hold nothing but themselves, and ask with the user's own key."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._index = _page("index.html")
        self._docs = _page("docs.html")

    async def index(self, request: Request) -> Response:
        """For a browser the page; for a program that looks whether somebody is there, a word."""
        if "text/html" in request.headers.get("accept", ""):
            return self._answer(self._index)
        return PlainTextResponse(f"localllm {__version__} is running")

    async def docs(self, request: Request) -> Response:
        return self._answer(self._docs)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._document)

    @staticmethod
    def _answer(page: tuple[str, str]) -> Response:
        text, policy = page
        headers = {"content-security-policy": policy, "x-frame-options": "DENY"}
        return HTMLResponse(text, headers=headers)


def _page(name: str) -> tuple[str, str]:
    """The page and the policy that lets its own script and style run, and nothing else."""
    text = resources.files("localllm.serve").joinpath("assets", name).read_text("utf-8")
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, inside in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes['script'])}",
            f"style-src {' '.join(hashes['style'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return text, policy
