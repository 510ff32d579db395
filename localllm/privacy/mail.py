"""E-mail addresses: what RFC 5321 allows and people have, around each "@"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from localllm.privacy.finding import Finding, Kind
from localllm.privacy.labels import occurrences
from localllm.privacy.plain import Plain

_LATIN = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"  # letters with accents (RFC 6531)
_LOCAL = re.compile(rf"[A-Za-z0-9_+{_LATIN}][A-Za-z0-9._%+'\-{_LATIN}]*\Z")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.){{1,8}}(?:[A-Za-z]{{2,24}}|xn--[A-Za-z0-9-]{{2,59}})")
# ends that are file names and not domains: logo@2x.png, app@1.min.js
_FILES = frozenset({
    "png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico", "bmp", "pdf", "css", "js", "mjs",
    "cjs", "ts", "tsx", "jsx", "map", "json", "yaml", "yml", "toml", "html", "htm", "xml", "txt",
    "md", "csv", "log", "py", "rb", "go", "java", "class", "jar", "dll", "exe", "so", "tar", "gz",
    "tgz", "zip", "whl", "lock",
    "service", "socket", "target", "timer", "mount",  # units of systemd: getty@tty1.service
})  # fmt: skip
_USERINFO = re.compile(r"[a-z][a-z0-9+.\-]{1,20}://[^\s/@]{0,64}:[^\s/]{0,128}\Z")


def emails(plain: Plain) -> Iterator[Finding]:
    for at in occurrences(plain.text, "@"):
        yield from _around(plain, at, at + 1)
    for at in occurrences(plain.lower, "%40"):  # an address inside a URL
        yield from _around(plain, at, at + 3)


def _around(plain: Plain, at: int, after: int) -> Iterator[Finding]:
    domain = _DOMAIN.match(plain.text, after, after + 255)
    if domain is None:
        return
    before = plain.text[max(0, at - 65) : at]
    local = _LOCAL.search(before[_first_allowed(before) :])
    if local is None or len(local.group()) > 64 or not _dots_in_place(local.group()):
        return
    start, end = at - len(local.group()), domain.end()
    if domain.group().rsplit(".", 1)[1].lower() in _FILES:
        return
    following = plain.text[end : end + 2]
    if local.group() == "git" and following[:1] in (":", "/"):
        return  # a repository, nobody's address
    if _USERINFO.search(plain.lower[max(0, start - 220) : at]):
        return  # the password of a connection string, which has its own detector
    scp = following[:1] == ":" and following[1:2] in ("/", "~")
    why = "a name, an @ and a host name"
    yield Finding(Kind.EMAIL, start, end, 0.45 if scp else 0.95, why)


def _first_allowed(before: str) -> int:
    """Where the run of characters that may stand in a local part begins.

    Walked backwards by hand: a pattern that searches for its end tries every start."""
    at = len(before)
    while at and (
        before[at - 1] <= "\u024f" and (before[at - 1].isalpha() or before[at - 1] in _MARKS)
    ):
        at -= 1
    while at < len(before) and before[at] in ".%'-":
        at += 1
    return at


_MARKS = "0123456789._%+'-"


def _dots_in_place(local: str) -> bool:
    return not local.endswith(".") and ".." not in local
