"""Images, over every API that takes them."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.vision.vision import Vision
from localllm.generation import Message, Sampling
from localllm.registry import Registry
from tests.conftest import arrival
from tests.serve.conftest import Server, start
from tests.support.tiny_mmproj import gemma3_mmproj, picture
from tests.support.tiny_models import tiny_gemma3

pytest.importorskip("PIL", reason="the tests draw their pictures with Pillow")
TEXT = "What is this?"
# For these no two tokens are nearly as likely (0.1 apart, where batches of other shapes make 0.02).
CAT, DOG = picture(seed=5), picture(seed=8)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, str]:
    """What the engine alone says of each picture."""
    folder = tmp_path_factory.mktemp("eyes")
    found = {}
    with Model.load(tiny_gemma3(folder / "m.gguf")) as model:
        vision = Vision(model, gemma3_mmproj(folder / "p.gguf"), n_threads=1)
        for image in (CAT, DOG):
            with Context(model, ContextOptions(n_ctx=512, n_threads=1)) as context:
                generator = LocalGenerator(context, vision=vision)
                asked = [Message("user", TEXT, {"images": (image,)})]
                sampling = Sampling(temperature=0, max_tokens=8)
                found[image] = "".join(p.text for p in generator.generate(asked, sampling))
    assert found[CAT] != found[DOG]
    return found


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("seeing")
    made = arrival("eyes", tiny_gemma3(folder / "eyes.gguf"), architecture="gemma3")
    projector = arrival("p", gemma3_mmproj(folder / "mmproj.gguf")).files[0]
    files = (*made.files, replace(projector, role="mmproj"))
    Registry(folder / "home").add(replace(made, name="eyes", files=files))
    server = start(folder / "home", "--ctx", "512", "--threads", "1")
    yield server
    assert server.stop() == (0, "")


def url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def talk(*images: bytes) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url(one)}} for one in images]
    return [{"role": "user", "content": parts}]


def openai_body(*images: bytes, **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url(one)}} for one in images]
    content = [*parts, {"type": "text", "text": TEXT}]
    return {"model": "eyes", "messages": [{"role": "user", "content": content}],
            "temperature": 0, "max_tokens": 8, **more}  # fmt: skip


@pytest.mark.parametrize("image", [CAT, DOG])
def test_openai(seeing: Server, expected: dict[bytes, str], image: bytes) -> None:
    done = seeing.post("/v1/chat/completions", openai_body(image))
    assert done.status == 200, done.body
    assert done.json["choices"][0]["message"]["content"] == expected[image]
    events = seeing.post("/v1/chat/completions", openai_body(image, stream=True)).events
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    assert text == expected[image]


def test_responses_and_ollama(seeing: Server, expected: dict[bytes, str]) -> None:
    content = [{"type": "input_image", "image_url": url(CAT)}, {"type": "input_text", "text": TEXT}]
    body = {"model": "eyes", "input": [{"role": "user", "content": content}], "temperature": 0,
            "max_output_tokens": 8}  # fmt: skip
    found = seeing.post("/v1/responses", body).json
    assert found["output"][0]["content"][0]["text"] == expected[CAT]
    raw = base64.b64encode(DOG).decode()
    options = {"temperature": 0, "num_predict": 8}
    chat = {"model": "eyes", "messages": [{"role": "user", "content": TEXT, "images": [raw]}],
            "stream": False, "options": options}  # fmt: skip
    assert seeing.post("/api/chat", chat).json["message"]["content"] == expected[DOG]
    ask = {"model": "eyes", "prompt": TEXT, "images": [raw], "stream": False, "options": options}
    assert seeing.post("/api/generate", ask).json["response"] == expected[DOG]
    raw_ask = ask | {"raw": True, "prompt": f"[img-0]{TEXT} [img-1]"}
    assert seeing.post("/api/generate", raw_ask).status == 200  # the second is just a text
    assert "context" not in seeing.post("/api/generate", ask).json
    assert "vision" in seeing.post("/api/show", {"model": "eyes"}).json["capabilities"]


def test_text_beside_images(seeing: Server) -> None:
    plain = {"model": "eyes", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 4}
    assert seeing.post("/v1/chat/completions", plain).status == 200


def test_many_at_once(seeing: Server, expected: dict[bytes, str]) -> None:
    """Images and texts share the slots; nobody gets another's answer."""
    found: dict[int, str] = {}

    def ask(i: int) -> None:
        image = (CAT, DOG, None)[i % 3]
        body = openai_body(*([image] if image else []))
        done = seeing.post("/v1/chat/completions", body).json
        found[i] = done["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found[i] for i in range(0, 12, 3)} == {expected[CAT]}
    assert {found[i] for i in range(1, 12, 3)} == {expected[DOG]}
    assert not {found[i] for i in range(2, 12, 3)} & set(expected.values())


def test_samples_logprobs_and_usage(seeing: Server, expected: dict[bytes, str]) -> None:
    done = seeing.post("/v1/chat/completions", openai_body(CAT, n=2, logprobs=True)).json
    texts = [choice["message"]["content"] for choice in done["choices"]]
    assert texts == [expected[CAT]] * 2
    assert all(choice["logprobs"]["content"] for choice in done["choices"])
    plain = openai_body(CAT)
    plain["messages"] = [{"role": "user", "content": TEXT}]
    n_text = seeing.post("/v1/chat/completions", plain).json["usage"]["prompt_tokens"]
    assert done["usage"]["prompt_tokens"] > n_text + 3  # four places, and what marks them


def test_the_second_turn_computes_only_what_is_new(seeing: Server) -> None:
    body = openai_body(CAT)
    first = seeing.post("/v1/chat/completions", body).json
    said = first["choices"][0]["message"]["content"]
    body["messages"] += [{"role": "assistant", "content": said}, {"role": "user", "content": "Eh?"}]
    usage = seeing.post("/v1/chat/completions", body).json["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["prompt_tokens"] - 1


def test_a_client_that_leaves_ends_its_request(seeing: Server, expected: dict[bytes, str]) -> None:
    body = openai_body(DOG, stream=True) | {"max_tokens": 400, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", seeing.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    connection.getresponse().read(10)
    connection.close()
    seeing.wait(lambda: all(one["running"] == 0 for one in seeing.get("/api/ps").json["models"]))
    done = seeing.post("/v1/chat/completions", openai_body(CAT)).json
    assert done["choices"][0]["message"]["content"] == expected[CAT]


def test_unloaded_and_loaded_again(seeing: Server, expected: dict[bytes, str]) -> None:
    done = seeing.post("/v1/chat/completions", openai_body(CAT))
    assert done.json["choices"][0]["message"]["content"] == expected[CAT]
    unload = {"model": "eyes", "keep_alive": 0}
    assert seeing.post("/api/generate", unload).json["done_reason"] == "unload"
    seeing.wait(lambda: not seeing.get("/api/ps").json["models"])
    done = seeing.post("/v1/chat/completions", openai_body(CAT))
    assert done.json["choices"][0]["message"]["content"] == expected[CAT]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (openai_body(b"not a picture"), "image"),
        (openai_body(*[CAT] * 17), "images"),
        (openai_body(*[CAT] * 12, messages=talk(*[CAT] * 11) * 3), "33 images"),
    ],
)
def test_what_cannot_be(seeing: Server, body: dict[str, Any], says: str) -> None:
    done = seeing.post("/v1/chat/completions", body)
    assert done.status == 400, done.body
    assert says in done.json["error"]["message"]


def test_a_model_that_sees_nothing_says_so(server: Server) -> None:
    done = server.post("/v1/chat/completions", openai_body(CAT) | {"model": "hi"})
    assert done.status == 400
    assert "images" in done.json["error"]["message"]
