"""Tensors that may be parted among processes, as whole ones.

Without `torch.distributed.tensor`, which takes seconds to import: a parted tensor is told by what
it can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def is_parted(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a parted one a new whole one: all processes must ask."""
    found = tensor.detach()
    if is_parted(found):
        full: Any = found
        found = _by_rows(full) if _is_rows_on_cpu(full) else full.full_tensor()
    return found.cpu()


def _is_rows_on_cpu(tensor: Any) -> bool:
    (placement, *more) = tensor.placements
    return not more and placement.is_shard(0) and tensor.device.type == "cpu"


def _by_rows(tensor: Any) -> Tensor:
    """Each process's rows straight into their place: `full_tensor` has three times the whole in
    memory on the way."""
    import torch.distributed as dist

    mesh = tensor.device_mesh
    found = torch.empty(tensor.shape, dtype=tensor.dtype)
    for rank, rows in enumerate(torch.chunk(found, mesh.size(), 0)):
        if rank == mesh.get_local_rank():
            rows.copy_(tensor.to_local())
        dist.broadcast(rows, group=mesh.get_group(), group_src=rank)
    return found


def parted_like(tensor: Tensor, value: Tensor) -> Tensor:
    """A whole `value` parted as `tensor` is; itself where that is whole."""
    if not is_parted(tensor) or value.shape != tensor.shape:
        return value
    like: Any = tensor
    return parted(value.to(tensor.dtype), like.device_mesh, tensor.device)


def parted(tensor: Tensor, mesh: DeviceMesh, device: torch.device) -> Tensor:
    """This process's part of a whole tensor, which every process has, on `device`: nothing is sent
    to others. Parts are rows, as even as `torch.chunk` (and FSDP) parts them, and no part keeps the
    whole alive."""
    from torch.distributed.tensor import DTensor, Shard

    parts = torch.chunk(tensor, mesh.size(), 0)
    rank = mesh.get_local_rank()
    own = parts[rank] if rank < len(parts) else tensor[:0]
    return DTensor.from_local(
        own.to(device, copy=True, memory_format=torch.contiguous_format), mesh, [Shard(0)],
        run_check=False, shape=tensor.shape, stride=tensor.stride(),
    )  # fmt: skip


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state but for its tensors, which are empty here."""
    state = optimizer.state_dict()
    held = {
        key: {name: v for name, v in own.items() if not isinstance(v, Tensor)}
        for key, own in state["state"].items()
    }
    return {**state, "state": held}


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Its tensors whole, one at a time, as "parameter's number, name": all processes must ask."""
    for key, own in optimizer.state_dict()["state"].items():
        for name, value in own.items():
            if isinstance(value, Tensor):
                yield f"{key} {name}", whole(value)


def load_state(
    optimizer: torch.optim.Optimizer, plain: Mapping[str, Any],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:  # fmt: skip
    """Take what `plain_state` and `state_tensors` gave: each process its part of whole tensors."""
    parameters = [p for part in optimizer.param_groups for p in part["params"]]
    found: dict[int, dict[str, Any]] = {key: dict(own) for key, own in plain["state"].items()}
    for place, value in tensors:
        key, name = place.split(" ", 1)
        found.setdefault(int(key), {})[name] = parted_like(parameters[int(key)], value)
    optimizer.load_state_dict({"state": found, "param_groups": plain["param_groups"]})
