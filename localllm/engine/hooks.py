"""The eval hook: Python that looks at the nodes of the compute graph as they are computed."""

from __future__ import annotations

from typing import Any

from localllm.engine import native
from localllm.engine.options import EvalHook


def native_hook(hook: EvalHook | None, errors: list[BaseException]) -> Any:
    """`hook` as C calls it. What it raises stops the computation and goes to `errors`."""
    if hook is None:
        return None

    @native.lib().ggml_backend_sched_eval_callback  # type: ignore[untyped-decorator]
    def on_eval(tensor: int | None, ask: bool, _user_data: int | None) -> bool:
        try:
            if not errors:
                return bool(hook(tensor or 0, ask))
        except BaseException as error:  # noqa: BLE001 - C cannot carry it; decode raises it
            errors.append(error)
        # To stop, ask for the next node's data and then refuse it.
        return ask

    return on_eval
