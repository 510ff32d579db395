"""A router file is data: the same decisions after a round trip, and no harm from a hostile one."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from localllm.errors import DamagedFile, FileGone, LocalLLMError, UsageProblem
from localllm.route import routerfile
from localllm.route.predictors.embedded import trainer
from localllm.route.training import TRAINERS, train_router
from tests.route.known import known
from tests.route.test_predictors import Hashed

PROMPTS = ["theorem and proof?", "garlic\nA. x\nB. y", "日本語", ""]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("router") / "router.npz"
    routerfile.save(train_router(known(120), "small", "large").router, path)
    return path


@pytest.mark.parametrize("kind", TRAINERS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    router = train_router(known(90), "small", "large", TRAINERS[kind]).router
    path = tmp_path / "router.npz"
    routerfile.save(router, path)
    again = routerfile.load(path)
    assert (again.weak, again.strong, again.n_trained) == ("small", "large", 90)
    assert again.probabilities(PROMPTS) == pytest.approx(router.probabilities(PROMPTS), abs=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_a_router_of_before_domains_had_slopes(saved: Path, tmp_path: Path) -> None:
    with np.load(saved, allow_pickle=False) as held:
        n = len(held["domains"])
    flat = rewrite(saved, tmp_path / "flat.npz", put("domain_slope", np.zeros(n)))
    old = rewrite(saved, tmp_path / "old.npz", lambda arrays: arrays.pop("domain_slope"))
    assert n > 0
    found, expected = (routerfile.load(path).probabilities(PROMPTS) for path in (old, flat))
    assert found == pytest.approx(expected)


def test_an_embedded_router_wants_its_own_embedder(tmp_path: Path) -> None:
    router = train_router(known(90), "small", "large", trainer(Hashed())).router
    path = tmp_path / "router.npz"
    routerfile.save(router, path)
    again = routerfile.load(path, Hashed())
    assert again.probabilities(PROMPTS[:2]) == pytest.approx(router.probabilities(PROMPTS[:2]))
    with pytest.raises(UsageProblem, match="hashed-64"):
        routerfile.load(path)
    other = Hashed()
    other.name = "another"
    with pytest.raises(UsageProblem, match="not of another"):
        routerfile.load(path, other)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (exec, ("raise SystemExit('code from a router file ran')",))


def rewrite(source: Path, target: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    with np.load(source, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    change(arrays)
    np.savez_compressed(target, **arrays)  # type: ignore[arg-type]
    return target


def about(change: Callable[[dict[str, object]], object]) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        held = json.loads(str(arrays["about"]))
        change(held)
        arrays["about"] = np.array(json.dumps(held))

    return edit


def put(name: str, value: object) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.update({name: np.array(value)})


def spoil(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays[name].flat[0] = value

    return edit


def no_characters(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        held = np.array(arrays[name])  # a copy that can be written
        held.reshape(-1).view(np.uint32)[0] = 0x7FFFFFFF
        arrays[name] = held

    return edit


HOSTILE: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "a weight that is NaN": spoil("word_weight", np.nan),
    "an infinite offset": spoil("offset", np.inf),
    "a slope that is NaN": spoil("domain_slope", np.nan),
    "slopes of other domains": lambda a: a.update(domain_slope=a["domain_slope"][:-1]),
    "an absurd weight": spoil("word_weight", 1e30),
    "trust over 1": spoil("trust", 2.0),
    "a negative deviation": spoil("cue_deviation", -1.0),
    "too few weights": lambda a: a.update(word_weight=a["word_weight"][:-1]),
    "a centroid turned round": lambda a: a.update(centroid=a["centroid"].T),
    "a missing part": lambda a: a.pop("slope"),
    "the same term twice": lambda a: a["terms"].__setitem__(0, a["terms"][1]),
    "text for numbers": put("average", "0.1"),
    "complex numbers": put("average", 1j),
    "a list for a number": put("average", [0.1, 0.2]),
    "terms of no characters": no_characters("terms"),
    "an about of no characters": no_characters("about"),
    "no JSON": put("about", "{"),
    "deep JSON": put("about", "[" * 20_000),
    "JSON of another kind": put("about", "[1]"),
    "no about": lambda a: a.pop("about"),
    "a long about": put("about", " " * 100_000),
    "an unknown kind": about(lambda held: held.update(kind="os.system")),
    "a kind that is no text": about(lambda held: held.update(kind=["lexical"])),
    "no members": about(lambda held: held.pop("weak")),
    "a slope of NaN": about(lambda held: held.update(slope=float("nan"))),
    "a slope of true": about(lambda held: held.update(slope=True)),
    "a huge slope": about(lambda held: held.update(slope=10**400)),
    "a slope that turns round": about(lambda held: held.update(slope=-1.0)),
    "a count that is none": about(lambda held: held.update(n_trained=-1)),
    "a schema that is none": about(lambda held: held.update(schema="1")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_contents_are_damage(saved: Path, tmp_path: Path, what: str) -> None:
    path = rewrite(saved, tmp_path / "bad.npz", HOSTILE[what])  # type: ignore[arg-type]
    with pytest.raises(DamagedFile, match=r"bad\.npz"):
        routerfile.load(path)


def test_pickles_are_never_opened(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    rewrite(saved, path, lambda a: a.update(average=np.array([Bomb()], dtype=object)))
    with pytest.raises(DamagedFile):
        routerfile.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedFile):
        routerfile.load(path)


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path: Path) -> None:
    bomb = _zip(tmp_path / "b.npz", {"a.npy": b"\0" * (routerfile.MAX_BYTES + 1)})
    assert bomb.stat().st_size < 2**20
    with pytest.raises(DamagedFile, match="unpacks to more"):
        routerfile.load(bomb)


def test_a_header_that_asks_for_terabytes_gets_nothing(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        held, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    with pytest.raises(DamagedFile, match="not an array"):
        routerfile.load(_zip(tmp_path / "t.npz", {"average.npy": held.getvalue()}))


@pytest.mark.parametrize("header", ["-" * 9000 + "1", "(" * 9000, "1+" * 4500 + "1", "[" * 150])
def test_a_header_that_breaks_the_parser_of_headers(tmp_path: Path, header: str) -> None:
    array = b"\x93NUMPY\x02\x00" + (len(header) + 1).to_bytes(4, "little") + header.encode() + b"\n"
    with pytest.raises(DamagedFile):
        routerfile.load(_zip(tmp_path / "t.npz", {"terms.npy": array}))


def test_a_million_million_empty_texts_are_not_counted(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        held, {"descr": "<U0", "fortran_order": False, "shape": (10**12,)}
    )
    with pytest.raises(DamagedFile, match="not an array"):
        routerfile.load(_zip(tmp_path / "t.npz", {"terms.npy": held.getvalue()}))


def test_other_packings_are_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "lzma.npz"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DamagedFile, match="unknown way"):
        routerfile.load(path)


@pytest.mark.parametrize("keep", [0, 3, 100, 2000, -1])
def test_cut_files_and_other_files(saved: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.npz"
    path.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(DamagedFile):
        routerfile.load(path)


def test_flipped_bytes_never_crash(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "flipped.npz"
    for place in random.integers(0, len(data), 150):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            routerfile.load(path)
        except LocalLLMError:
            continue


def test_a_newer_schema_and_no_file(saved: Path, tmp_path: Path) -> None:
    newer = rewrite(saved, tmp_path / "new.npz", about(lambda held: held.update(schema=2)))
    with pytest.raises(UsageProblem, match="schema 2"):
        routerfile.load(newer)
    with pytest.raises(FileGone):
        routerfile.load(tmp_path / "none.npz")
    with pytest.raises(FileGone):
        routerfile.load(tmp_path)
