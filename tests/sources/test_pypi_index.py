"""Index pages and the choice of a wheel, compared with what real pip downloads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag

from localllm.config import load
from localllm.errors import (
    AccessDenied,
    DamagedFile,
    InvalidReference,
    SourceNotFound,
    SourceUnreachable,
)
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi_candidates import (
    Interpreter,
    choose,
    drop_yanked,
    exact,
    local_path,
    read_constraints,
)
from localllm.sources.pypi_index import PackageIndex
from localllm.sources.simple_index import ProjectFile, parse_page
from tests.support.pypi_server import PypiServer, make_wheel

HEX = "ab" * 32


@pytest.fixture
def server() -> Iterator[PypiServer]:
    with PypiServer() as index:
        yield index


def index_of(*urls: str, find_links: tuple[str, ...] = ()) -> PackageIndex:
    return PackageIndex(PipConfig(indexes=urls, find_links=find_links), load({}), {})


def test_json_page() -> None:
    page = (
        b'{"meta": {"api-version": "1.1"}, "name": "x", "files": ['
        b'{"filename": "x-1-py3-none-any.whl", "url": "../f/x.whl#ignored", "size": 12,'
        b' "hashes": {"md5": "00", "sha256": "' + HEX.upper().encode() + b'"},'
        b' "requires-python": ">=3.9", "yanked": "bad"},'
        b'{"url": "https://cdn/y-2-py3-none-any.whl", "hashes": {}, "yanked": false, "size": -3},'
        b'{"url": 5}, "junk", {"url": "http://[bad"}]}'
    )
    first, second = parse_page(page, "application/vnd.pypi.simple.v1+json", "https://h/simple/x/")
    assert first == ProjectFile(
        "x-1-py3-none-any.whl", "https://h/simple/f/x.whl", {"sha256": HEX}, ">=3.9", True, 12
    )
    assert second == ProjectFile("y-2-py3-none-any.whl", "https://cdn/y-2-py3-none-any.whl")


def test_html_page() -> None:
    page = f"""<!DOCTYPE html><html><head><base href="https://cdn/root/"></head><body>
      <a href="x-1-py3-none-any.whl#sha256={HEX}" data-requires-python="&gt;=3.9">x</a>
      <A HREF='/abs/x%2D2-py3-none-any.whl' data-yanked>x2</A><a name="no-link">n</a>
      <a href="http://[bad">bad</a>""".encode()
    first, second = parse_page(page, "text/html; charset=utf-8", "https://h/simple/x/")
    assert first == ProjectFile(
        "x-1-py3-none-any.whl",
        "https://cdn/root/x-1-py3-none-any.whl",
        {"sha256": HEX},
        ">=3.9",
    )
    assert (second.filename, second.url, second.yanked) == (
        "x-2-py3-none-any.whl",
        "https://cdn/abs/x%2D2-py3-none-any.whl",
        True,
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'"x"', b"[" * 100_000, b'{"meta":{"api-version":"2.0"},"files":[]}'],
)
def test_a_json_page_that_is_none(body: bytes) -> None:
    with pytest.raises(DamagedFile):
        parse_page(body, "application/vnd.pypi.simple.v1+json", "https://h/simple/x/")


CASES = {  # project -> the version that has to win
    "plain": "1.10",
    "prerelease": "1.0",
    "only-pre": "2.0rc1",
    "yanked": "1.0",
    "python": "1.0",
    "platform": "1.0",
    "html.Name_x": "3",
}


def fill(index: PypiServer) -> None:
    for name, version in [
        ("plain", "1.9"),
        ("plain", "1.10"),
        ("plain", "1.2"),
        ("prerelease", "1.0"),
        ("prerelease", "2.0a1"),
        ("only-pre", "2.0rc1"),
        ("only-pre", "2.0.dev3"),
        ("yanked", "1.0"),
        ("python", "1.0"),
        ("platform", "1.0"),
        ("html.Name_x", "3"),
    ]:
        index.add(make_wheel(name, version, {f"{name}/{version}": b"1"}))
    index.add(make_wheel("yanked", "2.0", {"y": b"2"}), yanked="")
    index.add(make_wheel("python", "2.0", {"p": b"2"}), requires_python=">=4")
    index.add(make_wheel("platform", "2.0", {"p": b"2"}, tag="cp27-cp27m-irix_6_5_mips"))


def choice(index: PackageIndex, name: str, wanted: str = "") -> str:
    specifier = SpecifierSet(wanted)
    files = drop_yanked(index.files(name), specifier)
    return choose(name, files, specifier, Interpreter()).file.filename


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="no pip to compare with")
@pytest.mark.parametrize("html_only", [False, True])
def test_the_choice_is_pips(html_only: bool, tmp_path: Path) -> None:
    with PypiServer(html_only=html_only) as server:
        fill(server)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir"]
        asked = [*command, "--index-url", server.index_url, "-d", str(tmp_path)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        env = {**clean, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        wanted = [*CASES, "yanked2==2.0"]
        server.add(make_wheel("yanked2", "2.0", {"y": b"2"}), yanked="bad")
        subprocess.run([*asked, *wanted], env=env, check=True, capture_output=True)

        index = index_of(server.index_url)
        ours = {choice(index, n.lower().replace(".", "-").replace("_", "-")) for n in CASES}
        ours.add(choice(index, "yanked2", "==2.0"))
        assert ours == {path.name for path in tmp_path.iterdir()}
        assert {name.split("-")[1] for name in ours if "yanked2" not in name} == set(CASES.values())


def test_the_most_specific_tag_wins_then_the_first_index() -> None:
    tags = [Tag("cp311", "cp311", "linux_x86_64"), Tag("py3", "none", "any")]
    files = [
        ProjectFile("x-1-py3-none-any.whl", "https://a/1"),
        ProjectFile("x-1-cp311-cp311-linux_x86_64.whl", "https://a/2"),
        ProjectFile("x-1-cp311-cp311-linux_x86_64.whl", "https://b/2"),
        ProjectFile("x-1-1-cp311-cp311-linux_x86_64.whl", "https://c/3"),
    ]
    chosen = choose("x", files[:3], SpecifierSet(), Interpreter(tags, "3.11.7"))
    assert chosen.file.url == "https://a/2"
    assert choose("x", files, SpecifierSet(), Interpreter(tags, "3.11.7")).file.url == "https://c/3"


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        ([], "", "no index has a distribution x"),
        (["x-1.tar.gz"], "", "only source packages"),
        (["x-1-cp27-none-irix.whl"], "", "no wheel for this Python"),
        (["x-1-py3-none-any.whl"], ">2", "no version >2"),
        (["junk.whl", "y-1-py3-none-any.whl"], "", "no wheel for this Python"),
    ],
)
def test_why_there_is_nothing(names: list[str], wanted: str, message: str) -> None:
    files = [ProjectFile(name, f"https://h/{name}") for name in names]
    with pytest.raises(SourceNotFound, match=message):
        choose("x", files, SpecifierSet(wanted), Interpreter())


def test_a_version_that_is_none() -> None:
    assert "1.0" in exact("1.0")
    with pytest.raises(InvalidReference):
        exact("main")


def test_several_indexes_and_one_that_is_down(server: PypiServer, tmp_path: Path) -> None:
    fill(server)
    folder = tmp_path / "links with 日本"
    make_wheel("local", "1.0", {"x": b"1"}).write(folder)
    make_wheel("plain", "9", {"x": b"1"}).write(folder)
    down = "http://127.0.0.1:9/simple"  # the discard port: nobody answers
    index = index_of(server.index_url, server.url + "/nothing", find_links=(str(folder),))
    assert choice(index, "local") == "local-1.0-py3-none-any.whl"
    assert choice(index, "plain") == "plain-9-py3-none-any.whl"
    assert [f.filename for f in index.files("nothing")] == []

    partly = PackageIndex(PipConfig(indexes=(down, server.index_url), timeout_s=1), load({}), {})
    assert choice(partly, "python") == "python-1.0-py3-none-any.whl"
    with pytest.raises(SourceUnreachable):
        partly.files("nothing")


def test_file_indexes_and_link_pages(tmp_path: Path) -> None:
    root = tmp_path / "my index"
    wheel = make_wheel("loc-al", "1.0", {"x": b"1"}).write(root / "files")
    page = root / "simple/loc-al/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="../../files/{wheel.name}#sha256={HEX}">w</a>', encoding="utf-8")
    index = index_of((root / "simple").as_uri(), str(root / "simple"), (root / "none").as_uri())
    first, second = index.files("loc-al")
    assert first == second
    assert (local_path(first.url), first.hashes) == (wheel, {"sha256": HEX})
    assert index.archive(first).size_bytes == wheel.stat().st_size
    links = index_of(find_links=(page.as_uri(), str(wheel), str(wheel.parent)))
    assert len(links.files("loc-al")) == 3


def test_logins_come_from_the_index_url_and_netrc(tmp_path: Path) -> None:
    with PypiServer(login="me:p@ss") as server:
        wheel = server.add(make_wheel("secret", "1.0", {"x": b"1"}))
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password p@ss\n", encoding="utf-8")
        netrc.chmod(0o600)
        in_url = PipConfig(indexes=(server.index_url.replace("//", "//me:p%40ss@"),))
        by_netrc = PipConfig(indexes=(server.index_url,))
        for config, env in ((in_url, {}), (by_netrc, {"NETRC": str(netrc)})):
            index = PackageIndex(config, load({}), env)
            (file,) = index.files("secret")
            assert "@" not in file.url  # nothing that is shown or noted holds the password
            assert index.archive(file).size_bytes == len(wheel.data)
        with pytest.raises(AccessDenied) as caught:
            wrong = PipConfig(indexes=(server.index_url.replace("//", "//me:wrong@"),))
            PackageIndex(wrong, load({}), {}).files("secret")
        assert "wrong" not in caught.value.message


def test_constraints(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text(
        "# comment\nPlain<=1.9  # why\nplain!=1.9\n-r other.txt\nx @ https://h/x.whl\n"
        "gone==1; python_version<'3'\n\n",
        encoding="utf-8",
    )
    limits = read_constraints([str(path), "https://nowhere/c.txt", str(tmp_path / "missing")])
    assert limits == {"plain": SpecifierSet("<=1.9,!=1.9")}
