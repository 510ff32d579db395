"""The limit that was asked for, and that there is something to choose within it: known before a
matrix is computed or an error looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from localllm.engine.ftypes import WEIGHTED_TYPES
from localllm.engine.ggml_types import row_type
from localllm.errors import DoesNotFit, UsageProblem
from localllm.quantize.importance import pending_importance
from localllm.quantize.plan import Request
from localllm.quantize.plan_checks import LEFT_OUT
from localllm.quantize.quantize import preview
from localllm.quantize.size.fit import FitAssumed
from localllm.quantize.size.ground import Ground, ground_of, types_for
from localllm.quantize.size.request import SizeAsked
from localllm.quantize.source import Source
from localllm.ui import Bytes, Sink

if TYPE_CHECKING:
    from localllm.quantize.result import Quantized

_MIB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """What must not be exceeded: bytes of the files, or of the tensors in them."""

    of: Literal["files", "tensors"]
    n_bytes: int
    fit: FitAssumed | None = None

    def taken(self, made: Quantized) -> int:
        return made.file_bytes if self.of == "files" else made.after_bytes


def asked_limit(asked: SizeAsked, ground: Ground) -> Limit | None:
    """None with --fit: what fits this machine takes more to know."""
    if asked.bpw is not None:
        return Limit("tensors", int(asked.bpw * ground.n_params / 8))
    return None if asked.size_bytes is None else Limit("files", asked.size_bytes)


def check_before_matrix(source: Source, request: Request, asked: SizeAsked, sink: Sink) -> None:
    """`check_limit` for the importance matrix that `--imatrix auto` will make: minutes of work
    that a limit no types can keep would waste. Raises what planning raises too."""
    from localllm.engine.quantize.quantize import Quantizer

    request = replace(request, importance=pending_importance(source))
    with Quantizer() as quantizer:
        ground = ground_of(source, request, quantizer)
    check_limit(source, ground, asked, lambda name: name not in LEFT_OUT, sink)


def check_limit(
    source: Source, ground: Ground, asked: SizeAsked, weighted: Callable[[str], bool], sink: Sink
) -> None:
    """Raise DoesNotFit where even the smallest types exceed the limit asked for, naming the
    least there is, and UsageProblem where the source itself keeps it. `weighted` says which
    tensors the importance matrix knows."""
    limit = asked_limit(asked, ground)
    if limit is None:
        return
    check_not_kept(source, ground, limit)
    types = types_for(source, ground.free)
    least = {name: _smallest(ground, name, types, weighted(name)) for name in ground.free}
    taken = limit.taken(preview(source, ground.with_types(least), sink.progress))
    if taken <= limit.n_bytes:
        return
    if asked.bpw is not None:
        bits = taken * 8 / ground.n_params
        said, hint = f"{bits:.3f} bits a weight", f"--bpw {bits + 0.01:.2f}"
    else:
        said, hint = str(Bytes(taken)), f"--size {-(-taken * 10 // _MIB) / 10 + 0.1:.1f}MiB"
    name = source.model.name
    raise DoesNotFit(f"{name} takes at least {said} in the types there are for it", hint)


def check_not_kept(source: Source, ground: Ground, limit: Limit) -> None:
    """Raise UsageProblem where the source keeps the limit as it is."""
    own = sum(f.size_bytes for f in source.model.weights)
    if limit.of == "tensors":
        own = sum(t.before_bytes for t in ground.tensors.values())
    if own <= limit.n_bytes:
        kind = "is no larger than asked for" if limit.fit is None else "fits this machine"
        raise UsageProblem(
            f"{source.model.name} {kind} as it is ({Bytes(own)})", "nothing has to be done"
        )


def _smallest(ground: Ground, name: str, types: Sequence[str], weighted: bool) -> str:
    """The type of fewest bits that the tensor's rows and its importance allow."""
    kinds = [row_type(text) for text in types]
    allowed = [
        kind for kind in kinds
        if not ground.tensors[name].shape[0] % kind.block_elements
        and (weighted or kind.name.lower() not in WEIGHTED_TYPES)
    ]  # fmt: skip
    return min(allowed, key=lambda k: k.block_bytes / k.block_elements).name.lower()
