"""Images, over every API that takes them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from localllm.engine.context import Context
from localllm.engine.generator import LocalGenerator
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
from localllm.engine.vision import Vision
from localllm.generation import Message, Sampling
from localllm.registry import Registry
from tests.conftest import arrival
from tests.serve.conftest import Server, start
from tests.support.tiny_mmproj import gemma3_mmproj, picture
from tests.support.tiny_models import tiny_gemma3

pytest.importorskip("PIL", reason="the tests draw their pictures with Pillow")
TEXT = "What is this?"
CAT, DOG = picture(seed=1), picture(seed=2)


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
    assert "vision" in seeing.post("/api/show", {"model": "eyes"}).json["capabilities"]


def test_text_beside_images(seeing: Server) -> None:
    plain = {"model": "eyes", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 4}
    assert seeing.post("/v1/chat/completions", plain).status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (openai_body(b"not a picture"), "image"),
        (openai_body(CAT, n=2), "one sample"),
        (openai_body(CAT, logprobs=True), "logprobs"),
        (openai_body(*[CAT] * 17), "images"),
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
