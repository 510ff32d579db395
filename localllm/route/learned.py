"""What a router learned, as files beside its description: the predictor, what cross-validation
gave for every training prompt, and the prompts it knows.

`predictor.npz` is a router file. `tested.npz` holds numbers only (scores by a model that did not
see the prompt, qualities, digests), so thresholds can be set and figures given again without the
data. `known.npz` holds the beginnings of the prompts and how the members did: it is what an
explanation shows, and what an export leaves out unless it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from localllm.errors import DamagedFile
from localllm.route.contrast import Contrast, Floats
from localllm.route.measuring.crossval import HeldOut
from localllm.route.predictors.similarity import Similarity, train_neighbours
from localllm.route.router import Router
from localllm.route.routerfile import load, pack_arrays, packed, read_arrays
from localllm.route.text.sparse import Ints
from localllm.route.training import Trained, languages
from localllm.route.unpacking import CheckedArrays, Helper, predictor_from

PREDICTOR, TESTED, KNOWN = "predictor.npz", "tested.npz", "known.npz"
CASCADE = "cascade.npz"  # in place of a predictor: what the signals of a weak answer weigh
LESSONS = "lessons.npz"  # the training prompts whole, for retraining; never exported
_MAX_LESSONS = 64 << 20  # bytes of text, above which they are not kept
MAX_KNOWN = 20_000  # prompts that an explanation may name


@dataclass(frozen=True)
class Tested:
    """One row a training prompt; `held_out.scores` are by models that did not see it."""

    held_out: HeldOut
    weak: Floats
    strong: Floats
    chars: Ints
    benchmarks: tuple[str, ...]
    languages: tuple[str, ...]
    digests: Ints

    def __len__(self) -> int:
        return len(self.weak)

    @property
    def gap(self) -> Floats:
        return self.strong - self.weak


@dataclass(frozen=True)
class Known:
    """The training prompts' beginnings, and how the weak and the strong member did on each."""

    similar: Similarity
    weak: Floats
    strong: Floats


@dataclass(frozen=True)
class Neighbour:
    """A known prompt. `likeness` is the cosine of its words, qualities are 0 to 1."""

    prompt: str
    likeness: float
    weak: float
    strong: float


def nearest(known: Known, prompt: str, n: int = 5) -> tuple[Neighbour, ...]:
    """The known prompts most like this one, the nearest first; none without a common word."""
    cosine = known.similar.cosines(prompt)
    order = np.argsort(-cosine, kind="stable")[:n]
    return tuple(
        Neighbour(
            known.similar.excerpts[i], float(cosine[i]), float(known.weak[i]),
            float(known.strong[i]),
        )
        for i in order
        if cosine[i] > 0
    )  # fmt: skip


def tested_of(once: Contrast, trained: Trained) -> Tested:
    """`once` are the prompts that it was trained on, each once (`contrast.merged`)."""
    return Tested(
        trained.held_out, once.weak, once.strong,
        np.array([len(prompt) for prompt in once.prompts], dtype=np.int64),
        once.benchmarks, tuple(languages(once)), digests(once.prompts),
    )  # fmt: skip


def digests(prompts: Sequence[str]) -> Ints:
    """63 bits a prompt: whether a prompt was trained on can be told without keeping it."""
    found = [hashlib.sha256(p.encode("utf-8", "replace")).digest()[:8] for p in prompts]
    return np.array([int.from_bytes(d, "big") >> 1 for d in found], dtype=np.int64)


def pack(router: Router, tested: Tested, once: Contrast) -> dict[str, bytes]:
    """The files, by name."""
    files = {PREDICTOR: packed(router), TESTED: pack_tested(tested)}
    some = once
    if len(once) > MAX_KNOWN:
        chosen = np.random.default_rng(0).permutation(len(once))[:MAX_KNOWN]
        some = once.take(np.sort(chosen).astype(np.int64))
    lessons = _lessons_arrays(once)
    if lessons is not None:
        files[LESSONS] = pack_arrays(lessons)
    similar = train_neighbours(some)
    files[KNOWN] = pack_arrays({**similar.arrays(), "weak": some.weak, "strong": some.strong})
    return files


def pack_tested(tested: Tested) -> bytes:
    return pack_arrays(_tested_arrays(tested))


def open_router(folder: Path, helper: Helper | None = None) -> Router:
    """Raises FileGone, DamagedFile, UsageProblem: see routerfile."""
    return load(folder / PREDICTOR, helper)


def helper_of(folder: Path) -> str | None:
    """The name of the model that the predictor needs, None where it needs none."""
    arrays = read_arrays(folder / PREDICTOR)
    found = arrays.get("embedder", arrays.get("asker"))
    return None if found is None or found.dtype.kind != "U" or found.shape else str(found)


def open_tested(folder: Path) -> Tested | None:
    """None where the files have none. Raises DamagedFile."""
    path = folder / TESTED
    if not path.exists():
        return None
    try:
        return _tested(CheckedArrays(read_arrays(path)))
    except DamagedFile as problem:
        raise DamagedFile(f"{path}: {problem.message}") from problem


def open_known(folder: Path) -> Known | None:
    path = folder / KNOWN
    if not path.exists():
        return None
    arrays = read_arrays(path)
    try:
        similar = predictor_from(Similarity.kind, arrays)
        assert isinstance(similar, Similarity)
        held, n = CheckedArrays(arrays), len(similar.gap)
        return Known(similar, held.floats("weak", n), held.floats("strong", n))
    except DamagedFile as problem:
        raise DamagedFile(f"{path}: {problem.message}") from problem


def open_lessons(folder: Path) -> Contrast | None:
    """What it was trained on; None where that was not kept."""
    path = folder / LESSONS
    if not path.exists():
        return None
    held = CheckedArrays(read_arrays(path))
    weak = held.floats("weak", None)
    n = len(weak)
    text = held.counts("text", None, 256).astype(np.uint8).tobytes()
    start = held.counts("start", n + 1, len(text) + 1)
    domains, benchmarks = held.names("domains"), held.names("benchmarks")
    domain = held.counts("domain", n, max(len(domains), 1))
    benchmark = held.counts("benchmark", n, max(len(benchmarks), 1))
    return Contrast(
        tuple(text[a:b].decode("utf-8", "replace") for a, b in pairwise(start)), weak,
        held.floats("strong", n), tuple(domains[i] for i in domain),
        tuple(benchmarks[i] for i in benchmark),
    )  # fmt: skip


def _lessons_arrays(once: Contrast) -> Mapping[str, np.ndarray] | None:
    texts = [prompt.encode("utf-8", "replace") for prompt in once.prompts]
    if sum(map(len, texts)) > _MAX_LESSONS:
        return None
    # an array of texts has the longest one's room for every one
    text = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int16)
    start = np.concatenate([[0], np.cumsum([len(one) for one in texts])]).astype(np.int64)
    domains, domain = _coded(once.domains)
    benchmarks, benchmark = _coded(once.benchmarks)
    return {
        "text": text, "start": start, "weak": once.weak, "strong": once.strong,
        "domains": domains, "domain": domain, "benchmarks": benchmarks, "benchmark": benchmark,
    }  # fmt: skip


def _tested_arrays(tested: Tested) -> Mapping[str, np.ndarray]:
    benchmarks, benchmark = _coded(tested.benchmarks)
    scripts, language = _coded(tested.languages)
    return {
        "score": tested.held_out.scores.astype(np.float32),
        "fold": tested.held_out.folds.astype(np.int64),
        "weak": tested.weak.astype(np.float32),
        "strong": tested.strong.astype(np.float32),
        "chars": tested.chars,
        "digest": tested.digests,
        "benchmarks": benchmarks, "benchmark": benchmark,
        "languages": scripts, "language": language,
    }  # fmt: skip


def _tested(held: CheckedArrays) -> Tested:
    scores = held.floats("score", None)
    n = len(scores)
    weak, strong = held.floats("weak", n), held.floats("strong", n)
    if n and not (min(weak.min(), strong.min()) >= 0 and max(weak.max(), strong.max()) <= 1):
        raise DamagedFile("a quality is not from 0 to 1")
    names, scripts = held.names("benchmarks"), held.names("languages")
    benchmark = held.counts("benchmark", n, max(len(names), 1))
    language = held.counts("language", n, max(len(scripts), 1))
    if n and not (names and scripts):
        raise DamagedFile("its benchmarks and languages have no names")
    return Tested(
        HeldOut(scores, held.counts("fold", n, 1000)), weak, strong,
        held.counts("chars", n, 2**53),
        tuple(names[i] for i in benchmark), tuple(scripts[i] for i in language),
        held.counts("digest", n, 2**63 - 1),
    )  # fmt: skip


def _coded(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    known = sorted(set(names))
    number = {name: i for i, name in enumerate(known)}
    return np.array(known, dtype=np.str_), np.array([number[n] for n in names], dtype=np.int64)
