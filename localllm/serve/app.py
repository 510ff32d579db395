"""The routes, and what stands around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from localllm import __version__
from localllm.serve.metrics import CONTENT_TYPE, Metrics
from localllm.serve.ollama.chat import OllamaChat
from localllm.serve.ollama.embed import OllamaEmbed, OllamaEmbeddings
from localllm.serve.ollama.generate import OllamaGenerate
from localllm.serve.ollama.listing import Ps, Show, Tags
from localllm.serve.ollama.manage import Blobs, Copy, Create, Delete, Manager, Pull, Push
from localllm.serve.ollama.schemas import (
    CopyBody,
    CreateBody,
    NameBody,
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
)
from localllm.serve.openai.chat import ChatCompletions
from localllm.serve.openai.completions import Completions
from localllm.serve.openai.embeddings import Embeddings
from localllm.serve.openai.models import Models
from localllm.serve.openai.responses import Responses
from localllm.serve.openai.responses_kept import Kept
from localllm.serve.openai.responses_schemas import ResponsesBody
from localllm.serve.openai.responses_stored import Forget, InputItems, InputTokens, Retrieve
from localllm.serve.openai.routing import Decide, DecideBody, Feedback, FeedbackBody
from localllm.serve.openai.schemas import ChatBody, CompletionBody, EmbeddingsBody
from localllm.serve.openapi import document
from localllm.serve.page import Page
from localllm.serve.service import Service
from localllm.serve.web.boundary import Boundary, Finished
from localllm.serve.web.exchange import Exchange
from localllm.serve.web.guard import Guard, Rules

Handler = Callable[[Request], Awaitable[Response]]
OLLAMA_API = "0.12.11"  # Ollama's release whose API this is: the first with logprobs
_LOST = "other"  # the endpoint of requests that no route takes, for the metrics


@dataclass(frozen=True)
class Endpoint:
    """One line of the API. `body` is what a request brings along."""

    method: str
    path: str
    handler: Handler
    help: str
    group: str
    body: type[BaseModel] | None = None


def endpoints(service: Service, manager: Manager, status: Status) -> tuple[Endpoint, ...]:
    """Everything that is answered, as the page at /docs lists it."""
    openai, ollama, server = "OpenAI", "Ollama", "Server"
    kept = Kept()
    return (
        Endpoint("POST", "/v1/chat/completions", ChatCompletions(service).answer,
                 "Answer a conversation.", openai, ChatBody),
        Endpoint("POST", "/v1/responses", Responses(service, kept).answer,
                 "Answer a conversation, in the newer form.", openai, ResponsesBody),
        Endpoint("POST", "/v1/responses/input_tokens", InputTokens(service, kept).answer,
                 "Count the tokens of a request.", openai, ResponsesBody),
        Endpoint("GET", "/v1/responses/{id}", Retrieve(kept).answer,
                 "A stored response.", openai),
        Endpoint("DELETE", "/v1/responses/{id}", Forget(kept).answer,
                 "Forget a stored response.", openai),
        Endpoint("GET", "/v1/responses/{id}/input_items", InputItems(kept).answer,
                 "What a stored response was asked.", openai),
        Endpoint("POST", "/v1/completions", Completions(service).answer,
                 "Continue texts as they stand.", openai, CompletionBody),
        Endpoint("POST", "/v1/embeddings", Embeddings(service).answer,
                 "Texts to vectors.", openai, EmbeddingsBody),
        Endpoint("POST", "/v1/routing/decide", Decide(service).answer,
                 "Say which member of a router would answer.", openai, DecideBody),
        Endpoint("POST", "/v1/routing/feedback", Feedback(service).answer,
                 "Say what you think of a routed answer.", openai, FeedbackBody),
        Endpoint("GET", "/v1/models", Models(service).answer, "What is served.", openai),
        Endpoint("GET", "/v1/models/{name:path}", Models(service).answer, "One model.", openai),
        Endpoint("POST", "/api/chat", OllamaChat(service).answer,
                 "Answer a conversation.", ollama, OllamaChatBody),
        Endpoint("POST", "/api/generate", OllamaGenerate(service).answer,
                 "Answer or continue a prompt.", ollama, OllamaGenerateBody),
        Endpoint("POST", "/api/embed", OllamaEmbed(service).answer,
                 "Texts to vectors.", ollama, OllamaEmbedBody),
        Endpoint("POST", "/api/embeddings", OllamaEmbeddings(service).answer,
                 "One text to a vector (the older form).", ollama, OllamaEmbeddingsBody),
        Endpoint("GET", "/api/tags", Tags(service).answer, "What is served.", ollama),
        Endpoint("POST", "/api/show", Show(service).answer, "One model.", ollama, NameBody),
        Endpoint("GET", "/api/ps", Ps(service).answer, "What is in memory.", ollama),
        Endpoint("POST", "/api/pull", Pull(manager).answer, "Download a model.", ollama, NameBody),
        Endpoint("DELETE", "/api/delete", Delete(manager).answer,
                 "Remove a model.", ollama, NameBody),
        Endpoint("POST", "/api/copy", Copy(manager).answer,
                 "Give a second name.", ollama, CopyBody),
        Endpoint("POST", "/api/create", Create(manager).answer,
                 "Make a preset of a model.", ollama, CreateBody),
        Endpoint("POST", "/api/blobs/{digest}", Blobs(manager).answer,
                 "Refused: files are not taken here.", ollama),
        Endpoint("POST", "/api/push", Push(manager).answer,
                 "Refused: models are not published from here.", ollama),
        Endpoint("GET", "/api/version", status.version, "Which Ollama's API this is.", ollama),
        Endpoint("GET", "/health", status.health, "200 while it takes requests.", server),
        Endpoint("GET", "/metrics", status.metrics, "Figures for Prometheus.", server),
    )  # fmt: skip


class Status:
    """What the server says of itself."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service, self._metrics = service, metrics
        self.n_open: Callable[[], int] = lambda: 0

    async def health(self, request: Request) -> Response:
        if self._service.draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok", "version": __version__})

    async def version(self, request: Request) -> Response:
        """Clients of Ollama refuse servers that are too old for them: what counts for them is which
        of its APIs is spoken here."""
        return JSONResponse({"version": OLLAMA_API, "localllm": __version__})

    async def metrics(self, request: Request) -> Response:
        text = await self._service.work(
            lambda: self._metrics.text(self._service.desk, self.n_open())
        )
        return PlainTextResponse(text, media_type=CONTENT_TYPE)


def build(service: Service, manager: Manager, rules: Rules, finished: Finished) -> Boundary:
    """The application. `finished` is told of each request at its end."""
    metrics = Metrics()
    status = Status(service, metrics)
    table = endpoints(service, manager, status)
    page = Page(document(table))
    routes = [Route(one.path, one.handler, methods=[one.method]) for one in table]
    routes += [
        Route("/", page.index, methods=["GET"]),
        Route("/docs", page.docs, methods=["GET"]),
        Route("/openapi.json", page.openapi, methods=["GET"]),
    ]
    router = Router(routes, redirect_slashes=False)

    def counted(exchange: Exchange, took_s: float, bug: BaseException | None) -> None:
        route = exchange.scope.get("route")
        metrics.add(exchange, getattr(route, "path", _LOST), took_s)
        finished(exchange, took_s, bug)

    boundary = Boundary(Guard(router, rules), service.limits, counted)
    status.n_open = lambda: len(boundary.open)
    return boundary
