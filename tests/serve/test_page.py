"""The pages, in a real browser: nothing from elsewhere, no error, answers that stream."""

from __future__ import annotations

from pathlib import Path

from tests.serve.conftest import HI, Server
from tests.support.browser import Page, browser


def go(page: Page, url: str) -> None:
    page.call("Page.navigate", url=url)
    page.wait("document.readyState === 'complete'")


def say(page: Page, text: str) -> None:
    page.evaluate(f"document.getElementById('text').value = {text!r}")
    page.evaluate("document.getElementById('send').click()")
    page.wait("!document.getElementById('send').disabled")


def texts(page: Page, lane: int, kind: str) -> list[str]:
    found = page.evaluate(
        f"[...document.querySelectorAll('#lane{lane} .{kind}')].map(e => e.textContent)"
    )
    assert isinstance(found, list)
    return found


def choose(page: Page, lane: int, model: str) -> None:
    page.evaluate(f"document.querySelector('#lane{lane} select').value = {model!r}")


def test_chat_two_models_and_what_is_loaded(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        go(page, server.url)
        page.wait("document.querySelector('#lane0 select').options.length === 5")
        choose(page, 0, "hi")
        say(page, "hello <b>you</b>")
        assert texts(page, 0, "user") == ["hello <b>you</b>"]
        assert texts(page, 0, "assistant") == [HI]
        (speed,) = texts(page, 0, "speed")
        assert speed.startswith(f"{len(HI) + 1} tokens, ")
        page.wait("document.getElementById('loaded').textContent.includes('hi')")
        assert "MiB" in page.evaluate("document.getElementById('loaded').textContent")
        page.evaluate("document.getElementById('two').click()")
        choose(page, 1, "tiny")
        page.evaluate("document.getElementById('num_predict').value = 4")
        say(page, "again")
        assert texts(page, 0, "assistant") == [HI, HI[:4]]
        assert len(texts(page, 1, "assistant")) == 1
        assert page.evaluate("lanes[0].messages.length") == 4
        assert page.problems == []
        assert all(one.startswith((server.url, "data:")) for one in page.requests)


def test_stop_and_errors(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        go(page, server.url)
        page.wait("document.querySelector('#lane0 select').options.length === 5")
        choose(page, 0, "bert")
        say(page, "hello")
        (error,) = texts(page, 0, "error")
        assert "vectors" in error
        page.evaluate("document.getElementById('fresh').click()")
        assert texts(page, 0, "turn") == []
        choose(page, 0, "loop")
        page.evaluate("document.getElementById('text').value = 'x'")
        page.evaluate("document.getElementById('send').click()")
        page.wait("(document.querySelector('#lane0 .assistant') || {}).textContent > 'ab'")
        page.evaluate("document.getElementById('stop').click()")
        page.wait("!document.getElementById('send').disabled")
        page.problems.clear()  # the browser tells of the 400 above
        server.wait(lambda: server.metric("localllm_running") == 0)


def test_the_api_page(server: Server, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        go(page, f"{server.url}/docs")
        page.wait("document.querySelectorAll('details').length > 15")
        text = page.evaluate("document.body.textContent")
        assert "/v1/chat/completions" in text
        assert "response_format" in text
        one = "[...document.querySelectorAll('details')].find(d => d.textContent.includes(%r))"
        page.evaluate(one % "/api/version" + ".querySelector('button').click()")
        page.wait("document.body.textContent.includes('\"version\"')")
        assert page.problems == []
        assert all(one.startswith((server.url, "data:")) for one in page.requests)


def test_headers_and_a_program_that_looks(server: Server) -> None:
    page = server.get("/", Accept="text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert b"http://" not in page.body and b"https://" not in page.body
    assert "is running" in server.get("/").body.decode()
    assert server.ask("HEAD", "/").status == 200
    document = server.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert "messages" in document["components"]["schemas"][name]["properties"]
