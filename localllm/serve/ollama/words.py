"""From Ollama's words to ours, and back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from localllm.engine.vision.chunks import MARKER
from localllm.errors import UsageProblem
from localllm.generation import Accounting, Message
from localllm.grammars import json_schema_grammar
from localllm.modelfile import chat_template
from localllm.serve.answering.whole import totals
from localllm.serve.ollama.schemas import Asked, KeepAlive, OllamaMessage, Options
from localllm.serve.openai.words import check_images
from localllm.serve.web.limits import Limits
from localllm.serve.web.problems import RequestProblem

_SEEDS = 0xFFFFFFFF
_FOREVER_S = 10 * 365 * 86400.0  # longer is as good as for ever, and clocks can count it
_TEMPLATE_CHARS = 64 << 10  # the longest of Ollama's library have about ten thousand
_PLACE = re.compile(r"\[img-[0-9]+\]")
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(given: KeepAlive | None) -> float | None:
    """`keep_alive`: a number of seconds, or a duration as Go writes it ("5m", "1h30m"); below 0
    for as long as there is room."""
    if given is None:
        return None
    if isinstance(given, int | float):
        return math.inf if not 0 <= given <= _FOREVER_S else float(given)
    text = given.strip()
    negative, text = text.startswith("-"), text.removeprefix("-")
    try:
        value = float(text)
    except ValueError:
        found = _DURATION.findall(text)
        if not found or "".join(a + b for a, b in found) != text:
            raise RequestProblem(f"keep_alive: {given!r} is no duration", "keep_alive") from None
        value = sum(float(number) * _UNITS[unit] for number, unit in found)
    return math.inf if negative or not 0 <= value <= _FOREVER_S else value


def sampling_of(body: Asked) -> dict[str, Any]:
    """The fields of Sampling that the request decides."""
    options = body.options or Options()
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n",
             "repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat",
             "mirostat_tau", "mirostat_eta")  # fmt: skip
    found = {name: getattr(options, name) for name in names}
    found = {name: value for name, value in found.items() if value is not None}
    if options.top_k is not None:
        found["top_k"] = max(0, options.top_k)  # below 1 it is off, there as here
    if options.seed is not None and options.seed >= 0:
        found["seed"] = options.seed % _SEEDS
    if options.num_predict is not None and options.num_predict > 0:  # else there is no limit
        found["max_tokens"] = options.num_predict
    if options.stop:
        stop = options.stop
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    schema = schema_of(body)
    return found if schema is None else found | {"grammar": json_schema_grammar(schema)}


def schema_of(body: Asked) -> Mapping[str, Any] | None:
    """The JSON schema that `format` stands for."""
    wanted = body.format
    if not wanted:
        return None
    return {"type": "object"} if isinstance(wanted, str) else wanted


def variables_of(body: Asked) -> dict[str, Any]:
    """`think` as chat templates call it."""
    if body.think is None:
        return {}
    if isinstance(body.think, str):
        return {"enable_thinking": True, "reasoning_effort": body.think}
    return {"enable_thinking": body.think}


def messages_of(given: Sequence[OllamaMessage], limits: Limits) -> tuple[Message, ...]:
    found = tuple(_message(one, f"messages[{i}]", limits) for i, one in enumerate(given))
    check_images(found, "messages", limits)
    return found


def _message(given: OllamaMessage, where: str, limits: Limits) -> Message:
    extra: dict[str, Any] = {}
    if given.tool_calls:
        extra["tool_calls"] = [
            {
                "id": one.id or f"call_{i}",
                "type": "function",
                "function": {
                    "name": one.function.name,
                    "arguments": json.dumps(one.function.arguments),
                },
            }
            for i, one in enumerate(given.tool_calls)
        ]
    if given.tool_name is not None:
        extra["name"] = given.tool_name
    if given.tool_call_id is not None:
        extra["tool_call_id"] = given.tool_call_id
    if given.thinking is not None:
        extra["reasoning_content"] = given.thinking
    images = images_of(given.images, where, limits)
    if images:
        extra["images"] = images
    return Message(given.role, given.content or "", extra)


def images_of(given: Sequence[str] | None, where: str, limits: Limits) -> tuple[bytes, ...]:
    """base64, as Ollama's clients send them."""
    if len(given or ()) > limits.images:
        raise RequestProblem(f"{where}: more than {limits.images} images", where)
    found = []
    for one in given or ():
        if len(one) * 3 // 4 > limits.image_bytes:
            raise RequestProblem(f"{where}: an image is larger than {limits.image_bytes} bytes")
        try:
            found.append(base64.b64decode(one, validate=True))
        except (binascii.Error, ValueError):
            raise RequestProblem(f"{where}: an image is no base64", where) from None
    return tuple(found)


def template_of(source: str | None) -> str | None:
    """A Go template as Jinja, in place of the model's. Raises RequestProblem for one with what is
    not understood here."""
    if not source:
        return None
    if len(source) > _TEMPLATE_CHARS:
        raise RequestProblem(f"template: longer than {_TEMPLATE_CHARS} characters", "template")
    try:
        return chat_template(source)
    except UsageProblem as error:
        raise RequestProblem(f"template: {error.message}", "template") from None


def with_places(prompt: str, n_images: int) -> str:
    """A raw prompt says where its images are as [img-0], [img-1] ..., in order."""
    return _PLACE.sub(MARKER, prompt, count=n_images) if n_images else prompt


# --- back ----------------------------------------------------------------------------------


def now() -> str:
    """RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def moment(seconds_since_epoch: float) -> str:
    return datetime.fromtimestamp(seconds_since_epoch, UTC).isoformat().replace("+00:00", "Z")


def digest_of(text: str) -> str:
    """64 hex digits: Ollama's own programs cut the first twelve out of every digest they get, and
    end where there are fewer."""
    return hashlib.sha256(text.encode()).hexdigest()


def parameter_size(n_params: int) -> str:
    """268.10M, 7.6B, 7B: clients read a number and a letter out of it."""
    for limit, unit, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if n_params >= limit:
            whole = n_params % limit == 0
            return f"{n_params / limit:.{0 if whole else digits}f}{unit}"
    return str(n_params)


def ns(value_s: float) -> int:
    return round(value_s * 1e9)


def timings(ended: Sequence[Accounting], total_s: float, load_s: float) -> dict[str, int]:
    """Times in nanoseconds. The first token belongs to the prompt's time."""
    prompt, completion, _ = totals(list(ended))
    return {
        "total_duration": ns(total_s),
        "load_duration": ns(load_s),
        "prompt_eval_count": prompt,
        "prompt_eval_duration": ns(max((one.prompt_s for one in ended), default=0.0)),
        "eval_count": completion,
        "eval_duration": ns(max((one.decode_s for one in ended), default=0.0)),
    }


def done_reason(account: Accounting) -> str:
    return "stop" if account.finish_reason == "stop" else "length"


def arguments_of(text: str) -> Any:
    """A tool call's arguments as the object that Ollama's clients want."""
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return {}
