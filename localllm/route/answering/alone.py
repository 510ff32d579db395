"""One member of a router alone: asked whatever the steps would choose, under the privacy guard."""

from __future__ import annotations

from dataclasses import replace

from localllm.registry import Registry
from localllm.route.answering.members import Members
from localllm.route.answering.routed import RoutedGenerator
from localllm.route.deciding.decider import Decider
from localllm.route.opening import OpenRouter
from localllm.route.pool.spec import Fallback
from localllm.route.pool.steps import AlwaysStep


def alone(registry: Registry, opened: OpenRouter, doors: Members, member: str) -> RoutedGenerator:
    """Nothing of it is kept. `doors` are closed with it: they are the caller's to close."""
    spec = replace(opened.priced, steps=(AlwaysStep(member),), fallback=Fallback())
    only = replace(opened, spec=spec, priced=spec, decider=Decider(spec, None))
    return RoutedGenerator(only, None, registry, doors, keep=False)
