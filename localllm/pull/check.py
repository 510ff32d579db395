"""Before anything large is fetched: what the header says, and whether there is room."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.errors import DamagedFile, DiskFull, DoesNotFit, LocalLLMError
from localllm.library.candidates import Memory, candidates, largest_that_runs
from localllm.library.remote import is_gguf, remote_header
from localllm.pull.fetch import missing_bytes
from localllm.pull.wanted import Wanted
from localllm.registry import Registry
from localllm.sources.base import Source
from localllm.ui import Bytes

if TYPE_CHECKING:
    from localllm.formats.gguf import GGUFModel
    from localllm.placement import Plan


@dataclass(frozen=True)
class Checked:
    """`header` None: no GGUF. `plan` None: no language model, or one of a kind whose need
    nobody knows. `missing_bytes`: what there is still to fetch, where sizes are known."""

    header: GGUFModel | None
    plan: Plan | None
    missing_bytes: int


def check(
    wanted: Wanted,
    source: Source,
    registry: Registry,
    memory: Memory,
    warn: Callable[[str], None],
    *,
    force: bool = False,
) -> Checked:
    """Fetch the header alone and see whether memory and disk have room.

    Raises DamagedFile, DoesNotFit (not with `force`, and not for files of this machine, which
    need no download to be of use), DiskFull, and what the source raises.
    """
    header = remote_header(source, wanted.variant) if is_gguf(wanted.variant) else None
    plan = None if header is None or header.kind != "model" else _plan(header, memory, warn)
    if plan is not None and not plan.runs:
        problem = _does_not_fit(wanted, source, memory, header, plan)
        if wanted.ref.scheme == "file":
            warn(problem.message)
        elif not force:
            raise problem
    missing = missing_bytes(registry, wanted)
    if wanted.ref.scheme != "file":  # linked, as a rule; a copy looks for room itself
        _check_space(registry, missing)
    return Checked(header, plan, missing)


def _plan(header: GGUFModel, memory: Memory, warn: Callable[[str], None]) -> Plan | None:
    try:
        return memory.settled_plan(header)
    except DamagedFile as e:  # an image model, say: the file is whole, but nothing to plan for
        warn(f"its memory need is not known: {e.message}")
        return None


def _does_not_fit(
    wanted: Wanted, source: Source, memory: Memory, header: GGUFModel | None, plan: Plan
) -> DoesNotFit:
    """The error, with what would fit instead."""
    need = plan.total_bytes
    instead = []
    base = wanted.variant.extras.get("base")
    others = tuple(v for v in wanted.listing.variants if v.extras.get("base") == base)
    if header is not None and len(others) > 1:
        listing = replace(wanted.listing, variants=others)
        found = candidates(listing, source, memory, known=(wanted.variant, header))
        if best := largest_that_runs(found, need):
            ref = wanted.listing.ref.at(wanted.revision).pick(best.variant.name)
            instead.append(f"localllm pull {ref} ({Bytes(best.need_bytes or 0)} of memory)")
    if 0 < plan.largest_n_ctx < plan.n_ctx:
        instead.append(f"--ctx {plan.largest_n_ctx}")
    return DoesNotFit(
        f"{wanted.name} needs {Bytes(need)} at a context of {plan.n_ctx}, "
        f"{Bytes(plan.missing_bytes)} more than there is ({memory.room})",
        "; or ".join([*instead, "--force to fetch it all the same"]),
    )


def _check_space(registry: Registry, needed: int) -> None:
    """Raises DiskFull if the file system of the home has less than `needed` bytes free."""
    folder = registry.home
    while not folder.exists():
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as e:
        raise LocalLLMError(f"{folder} cannot be examined: {e.strerror}") from None
    if needed > free:
        raise DiskFull(
            f"{registry.home} has {Bytes(free)} free and {Bytes(needed)} more are needed",
            "localllm prune, or set LOCALLLM_HOME to a larger disk",
        )
