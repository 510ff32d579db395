"""OpenAI-compatible servers elsewhere (vLLM, llama-server, Ollama, another localllm, a cloud), as
Generators.

    endpoint = Endpoint("gpt", "http://10.0.0.7:8000/v1", model="Qwen/Qwen3-8B")
    with EndpointGenerator(endpoint) as generator:
        stream = generator.generate([Message("user", "Hi")], Sampling(max_tokens=64))
        for piece in stream:
            ...
        stream.accounting.cost, stream.accounting.model

For an event loop of one's own there is `EndpointClient`: the same without a thread. What a server
does wrong is one of the errors below; all of them but `ContextFull` and `RequestRefused` mean that
another member may do better.
"""

from localllm.endpoints.accounting import EndpointAccounting
from localllm.endpoints.client import EndpointClient
from localllm.endpoints.endpoint import KINDS, Endpoint, Patience, checked_name, checked_url
from localllm.endpoints.failures import (
    ContextFull,
    EndpointBroken,
    EndpointBusy,
    EndpointSilent,
    RequestRefused,
)
from localllm.endpoints.generator import EndpointGenerator, EndpointStream
from localllm.endpoints.keys import Key, KeySource, key_of
from localllm.endpoints.listing import Embedded, Listed, RemoteModel
from localllm.endpoints.reading import Delta, Ended
from localllm.endpoints.wanted import Wanted, unsent

__all__ = [
    "KINDS",
    "ContextFull",
    "Delta",
    "Embedded",
    "Ended",
    "Endpoint",
    "EndpointAccounting",
    "EndpointBroken",
    "EndpointBusy",
    "EndpointClient",
    "EndpointGenerator",
    "EndpointSilent",
    "EndpointStream",
    "Key",
    "KeySource",
    "Listed",
    "Patience",
    "RemoteModel",
    "RequestRefused",
    "Wanted",
    "checked_name",
    "checked_url",
    "key_of",
    "unsent",
]
