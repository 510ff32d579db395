"""What is told while a model from scratch learns: also what it writes by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localllm.finetune.curves import Curves
from localllm.finetune.training.records import EvalRecord
from localllm.finetune.watching import RunWatcher
from localllm.ui import Sink


class ScratchWatcher(RunWatcher):
    """Takes samples after every evaluation but the first: a small model is written and opened in
    a second."""

    def __init__(
        self, name: str, sink: Sink, sampler: Callable[[int], None] | None,
        curves: Sequence[Curves] = (),
    ) -> None:  # fmt: skip
        super().__init__(f"train {name}", sink.progress, sink.note, sampler, curves)

    def evaluated(self, record: EvalRecord) -> None:
        super().evaluated(record)
        if record.step:
            self.sample(record.step)
