"""Tensors that may be parted among processes, as whole ones.

Without `torch.distributed.tensor`, which takes seconds to import: a parted tensor is told by what
it can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from localllm.finetune.training.group import Group


def is_parted(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a parted one a new whole one: all processes must ask."""
    found = tensor.detach()
    if is_parted(found):
        full: Any = found
        found = full.full_tensor()
    return found.cpu()


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


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with whole tensors: all processes must ask."""
    state = optimizer.state_dict()
    held = {
        key: {name: whole(v) if isinstance(v, Tensor) else v for name, v in own.items()}
        for key, own in state["state"].items()
    }
    return {**state, "state": held}


def load_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any] | None, group: Group
) -> None:
    """Take what `whole_state` gave, which the first process has, each process its part."""
    own = state["state"] if state is not None else {}
    flat = {f"{key} {name}": value for key, one in own.items() for name, value in one.items()}
    tensors = {key: value for key, value in flat.items() if isinstance(value, Tensor)}
    plain = {key: value for key, value in flat.items() if key not in tensors}
    parameters = [p for part in optimizer.param_groups for p in part["params"]]
    found: dict[int, dict[str, Any]] = {}
    for key, value in (*group.told(plain).items(), *group.each_told(tensors)):
        number, name = key.split(" ", 1)
        is_tensor = isinstance(value, Tensor)
        part = parted_like(parameters[int(number)], value) if is_tensor else value
        found.setdefault(int(number), {})[name] = part
    groups = group.told(state["param_groups"] if state is not None else [])
    optimizer.load_state_dict({"state": found, "param_groups": groups})
