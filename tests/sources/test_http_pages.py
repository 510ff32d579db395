"""HttpFetcher's small requests: head, get, ranges; redirects, proxies and names."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from localllm.errors import AccessDenied, SourceFailed, SourceNotFound, SourceUnreachable
from localllm.sources.http import Head, HttpFetcher, file_name_of
from localllm.sources.retry import Patience
from tests.support.http_server import Answer, Fault, FileServer, Request

DATA = bytes(range(256)) * 1000
HASTE = Patience(attempts=3, first_wait_s=0.01, stall_s=0.5)


class Maze(FileServer):
    """`/to/<where>` redirects; `/circle` to itself."""

    def respond(self, request: Request) -> Answer:
        if request.path == "/circle":
            return Answer.redirect("/circle")
        if request.path == "/elsewhere":
            return Answer.redirect(self.other_url + "/f", status=307)
        if request.path == "/near":
            return Answer.redirect("f?x=1", status=308)
        if request.path == "/utf8":
            return Answer.redirect("/モデル.gguf".encode().decode("latin-1"))
        if request.target.startswith("http://nowhere.test"):
            return Answer(200, b"by proxy")
        return super().respond(request)


@pytest.fixture
def server() -> Iterator[Maze]:
    with Maze() as running:
        running.add("/f", DATA, etag="tag")
        running.add("/モデル.gguf", DATA)
        yield running


@pytest.fixture
def fetcher() -> HttpFetcher:
    return HttpFetcher(patience=HASTE)


def test_head(server: Maze, fetcher: HttpFetcher) -> None:
    head = fetcher.head(server.url + "/f")
    assert (head.size_bytes, head.etag, head.accepts_ranges) == (len(DATA), '"tag"', True)
    assert [r.method for r in server.requests] == ["HEAD"]


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_head_where_only_get_is_answered(server: Maze, fetcher: HttpFetcher, status: int) -> None:
    server.fail("/f", Fault(status=status), method="HEAD")
    head = fetcher.head(server.url + "/f")
    assert (head.size_bytes, head.accepts_ranges) == (len(DATA), True)
    assert server.requests[1].headers["range"] == "bytes=0-0"


def test_head_of_a_server_without_head_ranges_or_file(server: Maze, fetcher: HttpFetcher) -> None:
    server.add("/plain", DATA, ranges=False)
    server.fail("/plain", Fault(status=405), method="HEAD", times=-1)
    head = fetcher.head(server.url + "/plain")
    assert (head.size_bytes, head.accepts_ranges) == (len(DATA), False)
    with pytest.raises(SourceNotFound, match="has no /missing"):
        fetcher.head(server.url + "/missing")


def test_ranges(server: Maze, fetcher: HttpFetcher) -> None:
    url = server.url + "/f"
    assert fetcher.read_range(url, 10, 5) == DATA[10:15]
    assert fetcher.read_range(url, len(DATA) - 3, 100) == DATA[-3:]
    assert fetcher.read_range(url, len(DATA), 100) == b""
    assert fetcher.read_range(url, 5, 0) == b""
    server.fail("/f", Fault(cut_after=3))
    server.fail("/f", Fault(status=503))
    assert fetcher.read_range(url, 100, 1000) == DATA[100:1100]


def test_ranges_of_a_server_without_them(server: Maze, fetcher: HttpFetcher) -> None:
    url = server.add("/plain", DATA, ranges=False)
    assert fetcher.read_range(url, 1000, 50) == DATA[1000:1050]
    with pytest.raises(SourceFailed, match="serves no ranges"):
        fetcher.read_range(url, 1 << 40, 50)


def test_get_gives_small_pages_and_statuses_asked_for(server: Maze, fetcher: HttpFetcher) -> None:
    page = fetcher.get(server.url + "/f", {"X-One": "1"})
    assert (page.status, page.body) == (200, DATA)
    assert server.requests[0].headers["x-one"] == "1"
    assert fetcher.get(server.url + "/gone", accept=frozenset((404,))).status == 404
    with pytest.raises(SourceFailed, match="more than 1000 bytes"):
        fetcher.get(server.url + "/f", limit_bytes=1000)


def test_redirects(server: Maze, fetcher: HttpFetcher) -> None:
    assert fetcher.get(server.url + "/near").body == DATA
    assert fetcher.get(server.url + "/utf8").body == DATA
    assert fetcher.head(server.url + "/near").url == server.url + "/f?x=1"
    with pytest.raises(SourceFailed, match="circle"):
        fetcher.get(server.url + "/circle")


def test_secrets_stay_with_their_host(server: Maze, fetcher: HttpFetcher) -> None:
    secrets = {"Authorization": "Bearer s", "cookie": "c=1", "X-Plain": "p"}
    assert fetcher.get(server.url + "/elsewhere", secrets).body == DATA
    assert fetcher.get(server.url + "/near", secrets).body == DATA
    sent = [
        (r.target, "authorization" in r.headers, "cookie" in r.headers) for r in server.requests
    ]
    assert sent == [
        ("/elsewhere", True, True),
        ("/f", False, False),
        ("/near", True, True),
        ("/f?x=1", True, True),
    ]
    assert all(r.headers["x-plain"] == "p" for r in server.requests)


def test_a_user_in_the_url_is_sent_as_credentials(server: Maze, fetcher: HttpFetcher) -> None:
    url = server.url.replace("http://", "http://me:p%40ss@") + "/elsewhere"
    assert fetcher.get(url).body == DATA
    sent = server.requests[0].headers["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"me:p@ss"
    assert "authorization" not in server.requests[1].headers
    with pytest.raises(SourceNotFound) as caught:
        fetcher.get(url.replace("elsewhere", "x"))
    assert "p%40ss" not in caught.value.message


def test_addresses_are_encoded_once(server: Maze, fetcher: HttpFetcher) -> None:
    server.add("/a b/c.gguf", b"spaces")
    assert fetcher.get(server.url + "/a b/c.gguf").body == b"spaces"
    assert fetcher.get(server.url + "/a%20b/c.gguf").body == b"spaces"
    assert fetcher.get(server.url + "/モデル.gguf").body == DATA


def test_connections_are_kept_and_renewed(server: Maze, fetcher: HttpFetcher) -> None:
    from localllm.sources.connect import Session

    with Session(Patience()) as session:
        for _ in range(3):
            assert session.request(server.url + "/f", {}).read(1 << 20) == DATA
        (connection,) = session._open.values()
        connection.sock.close()  # as if the server had closed it meanwhile
        connection.sock = None
        assert session.request(server.url + "/f", {}).read(1 << 20) == DATA


def test_proxies_come_from_the_environment(
    server: Maze, fetcher: HttpFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = server.url.replace("http://", "http://user:word@")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    assert fetcher.get("http://nowhere.test/page").body == b"by proxy"
    request = server.requests[0]
    assert request.target == "http://nowhere.test/page"
    assert request.headers["host"] == "nowhere.test"
    secret = request.headers["proxy-authorization"].removeprefix("Basic ")
    assert base64.b64decode(secret) == b"user:word"
    monkeypatch.setenv("no_proxy", "nowhere.test")
    with pytest.raises(SourceUnreachable, match=r"nowhere\.test cannot be found"):
        HttpFetcher(patience=HASTE).get("http://nowhere.test/page")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(SourceUnreachable, match="proxy") as caught:
        HttpFetcher(patience=HASTE).get("http://nowhere.test/page")
    assert caught.value.hint is not None


def test_a_source_may_name_its_own_errors(server: Maze) -> None:
    def explain(status: int, headers: object, url: str) -> AccessDenied | None:
        return AccessDenied(f"{status}: ask first") if status == 404 else None

    with pytest.raises(AccessDenied, match="404: ask first"):
        HttpFetcher(explain=explain).get(server.url + "/missing")


@pytest.mark.parametrize("url", ["ftp://host/f", "http://", "http://host:x/f", "nonsense"])
def test_what_is_no_url(fetcher: HttpFetcher, url: str) -> None:
    with pytest.raises(SourceFailed):
        fetcher.get(url)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("attachment; filename=a.gguf", "a.gguf"),
        ('attachment; filename="a \\"b\\".gguf"', 'a "b".gguf'),
        ("attachment; filename*=UTF-8''%E3%83%A2.gguf; filename=x.gguf", "モ.gguf"),
        ("attachment; filename=x.gguf; filename*=nonsense''%ff", "x.gguf"),
        ('inline; filename="../../etc/passwd"', "../../etc/passwd"),
        ("inline", None),
        ("", None),
    ],
)
def test_names_by_content_disposition(value: str, name: str | None) -> None:
    head = Head("http://host/", None, None, False, {"content-disposition": value})
    assert file_name_of(head) == name
