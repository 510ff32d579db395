"""Prometheus' text format, by hand: a dozen lines of counters need no library.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from localllm.engine.scheduler import Load
from localllm.serve.resident.desk import Desk
from localllm.serve.web.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """Counts of what was at most so many seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_BUCKETS_S))
    n: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.n += 1
        self.total += seconds
        for i, bound in enumerate(_BUCKETS_S):
            if seconds <= bound:
                self.counts[i] += 1


class Metrics:
    """Counted on the event loop, one call a request."""

    def __init__(self) -> None:
        self._requests: dict[Labels, int] = defaultdict(int)
        self._tokens: dict[Labels, int] = defaultdict(int)
        self._first: dict[Labels, Histogram] = defaultdict(Histogram)
        self._took: dict[Labels, Histogram] = defaultdict(Histogram)

    def add(self, exchange: Exchange, endpoint: str, took_s: float) -> None:
        """`endpoint` is the route's pattern: a client's own words would make a series each."""
        at = ("endpoint", endpoint)
        self._requests[at, ("status", str(exchange.status))] += 1
        self._took[(at,)].add(took_s)
        usage = exchange.usage
        if not usage.prompt_tokens:
            return
        model = ("model", usage.model)
        for kind in ("prompt", "cached", "completion"):
            self._tokens[model, ("kind", kind)] += getattr(usage, f"{kind}_tokens")
        if usage.first_token_s:
            self._first[(model,)].add(usage.first_token_s)

    def text(self, desk: Desk, n_open: int) -> str:
        lines: list[str] = []
        _counter(lines, "localllm_requests", "Requests ended, by status.", self._requests)
        _counter(lines, "localllm_tokens", "Tokens of answered requests.", self._tokens)
        _histogram(lines, "localllm_request_seconds", "Time of requests.", self._took)
        _histogram(lines, "localllm_first_token_seconds", "Time to first token.", self._first)
        _gauge(lines, "localllm_requests_open", "Requests under way.", {(): n_open})
        for name, help, values in _gauges(desk):
            _gauge(lines, name, help, values)
        return "\n".join(lines) + "\n"


def _gauges(desk: Desk) -> Iterable[tuple[str, str, Mapping[Labels, float]]]:
    """How busy each resident model is now."""
    from localllm.hardware.processes import resident_bytes

    loads: dict[Labels, Load] = {}
    for one in desk.busy():
        if one.load is not None:
            loads[(("model", one.name),)] = one.load
    for name, field_name, help in (
        ("slots", "n_slots", "Conversations that run at once."),
        ("running", "n_running", "Samples being answered."),
        ("waiting", "n_waiting", "Requests waiting for a slot."),
        ("cells_used", "cells_used", "Tokens in the KV cache."),
        ("cells", "cells", "Tokens that the KV cache holds."),
        ("saved_bytes", "saved_bytes", "Main memory of sequences kept for reuse."),
    ):
        values = {labels: float(getattr(load, field_name)) for labels, load in loads.items()}
        yield f"localllm_{name}", help, values
    resident = resident_bytes()
    if resident is not None:
        yield "process_resident_memory_bytes", "Main memory in use.", {(): float(resident)}


def _head(lines: list[str], name: str, kind: str, help: str) -> None:
    lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]


def _counter(lines: list[str], name: str, help: str, values: Mapping[Labels, int]) -> None:
    _head(lines, f"{name}_total", "counter", help)
    lines += [f"{name}_total{_labels(labels)} {n}" for labels, n in sorted(values.items())]


def _gauge(lines: list[str], name: str, help: str, values: Mapping[Labels, float]) -> None:
    _head(lines, name, "gauge", help)
    lines += [f"{name}{_labels(labels)} {value:g}" for labels, value in sorted(values.items())]


def _histogram(lines: list[str], name: str, help: str, values: Mapping[Labels, Histogram]) -> None:
    _head(lines, name, "histogram", help)
    for labels, one in sorted(values.items(), key=lambda pair: pair[0]):
        for bound, count in zip(_BUCKETS_S, one.counts, strict=True):
            lines.append(f"{name}_bucket{_labels((*labels, ('le', f'{bound:g}')))} {count}")
        lines.append(f"{name}_bucket{_labels((*labels, ('le', '+Inf')))} {one.n}")
        lines.append(f"{name}_sum{_labels(labels)} {one.total:g}")
        lines.append(f"{name}_count{_labels(labels)} {one.n}")


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
