"""Models of this process that somebody else holds, lent for one answer.

A router in a server answers with the models that the server has in memory anyway; one at the
command line opens its own. Either way who asks sees a Lent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from localllm.library.presets import Preset
from localllm.registry import Model

if TYPE_CHECKING:
    from localllm.engine.adapter import Attached
    from localllm.engine.scheduler import SharedGenerator
    from localllm.engine.template import ChatTemplate
    from localllm.engine.vision.vision import Vision


@dataclass(frozen=True)
class Lent:
    """A model in use. `adapters` None takes those that the context has attached; `vision` opens
    what sees images, None where the model sees none. Call `release` once the answer has ended."""

    model: Model
    generator: SharedGenerator
    template: ChatTemplate
    preset: Preset
    n_ctx: int  # of one conversation
    adapters: tuple[Attached, ...] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    vision: Callable[[], Vision] | None = None
    release: Callable[[], None] = lambda: None


class Lender(Protocol):
    """Lends models; from any thread."""

    def lend(self, model: Model, adapters: tuple[tuple[Path, float], ...]) -> Lent:
        """With all `adapters` that are to be attached, the model's own too. Loaded first if need
        be. Raises what loading raises, Busy, DoesNotFit."""

    def close(self) -> None: ...
