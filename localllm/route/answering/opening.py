"""A Lender that opens models in this process, each once, when it is first asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.closing import Closing
from localllm.engine.adapter import Attached, LoraAdapter
from localllm.engine.options import ContextOptions
from localllm.engine.scheduler import SharedGenerator
from localllm.engine.template import ChatTemplate
from localllm.errors import DoesNotFit
from localllm.library.lending import Lent
from localllm.library.presets import Preset
from localllm.placement import Opened, PlanOptions, open_model
from localllm.registry import Model
from localllm.ui import Progress, Silent

if TYPE_CHECKING:
    from localllm.engine.load import Advance


@dataclass(frozen=True)
class LocalWishes:
    """How members are loaded. `samples` run at once; `n_ctx` None is the model's own default."""

    n_ctx: int | None = None
    threads: int | None = None
    samples: int = 1


class OwnLender(Closing):
    """The models of one router at the command line. One that does not fit beside the others takes
    their place: the answer that is asked for now goes before those that may be."""

    def __init__(self, wishes: LocalWishes, progress: Progress | None = None) -> None:
        self._wishes, self._progress = wishes, progress or Silent()
        self.quiet = False  # whose names are not to be told is loaded without a word
        self._open: dict[Path, _Loaded] = {}
        self._lock = threading.Lock()

    def lend(self, model: Model, adapters: tuple[tuple[Path, float], ...]) -> Lent:
        with self._lock:
            found = self._open.get(model.path)
            if found is None or not found.generator.alive:
                found = self._open[model.path] = self._opened(model)
            return found.lent(model, adapters)

    def _opened(self, model: Model) -> _Loaded:
        progress = Silent() if self.quiet else self._progress
        with progress.bytes(f"load {model.name}", model.size_bytes) as advance:
            try:
                return _Loaded(model, self._wishes, advance)
            except DoesNotFit:
                if not self._open:
                    raise
                self._close_all()
                return _Loaded(model, self._wishes, advance)

    def _close_all(self) -> None:
        for one in self._open.values():
            one.close()
        self._open.clear()

    def close(self) -> None:
        with self._lock:
            self._close_all()


class _Loaded(Closing):
    def __init__(self, model: Model, wishes: LocalWishes, advance: Advance) -> None:
        options = PlanOptions(
            n_ctx=wishes.n_ctx or Preset.of(model).n_ctx, n_parallel=wishes.samples,
            kv_unified=wishes.samples > 1,
        )  # fmt: skip
        context = ContextOptions(n_threads=wishes.threads or 0, n_outputs_max=wishes.samples)
        self.opened: Opened = open_model(model.path, options, context=context, advance=advance)
        try:
            self.generator = SharedGenerator(self.opened.context, model.name)
        except BaseException:
            self.opened.close()
            raise
        self._adapters: dict[Path, LoraAdapter] = {}
        self._templates: dict[str | None, ChatTemplate] = {None: self.generator.template}

    def lent(self, model: Model, adapters: tuple[tuple[Path, float], ...]) -> Lent:
        native = self.opened.model
        has_own = native.meta("tokenizer.chat_template") is not None
        preset = Preset.of(model, has_template=has_own)
        if preset.template not in self._templates:
            self._templates[preset.template] = ChatTemplate.of(native, preset.template)
        for path, _ in adapters:
            if path not in self._adapters:
                self._adapters[path] = LoraAdapter(native, path)
        attached = tuple(Attached(self._adapters[path], scale) for path, scale in adapters)
        return Lent(
            model, self.generator, self._templates[preset.template], preset,
            self.opened.context.n_ctx_seq, attached or None, native.metadata(),
        )  # fmt: skip

    def close(self) -> None:
        self.generator.close()
        self.opened.close()
