"""A model parted among processes: torch's FSDP2 (`fully_shard`) on what transformers built.

Each process holds a part of every tensor, of the frozen ones too. A layer's tensors are gathered
when the layer computes and let go of behind it, forward and backward; gradients go to whoever
holds the part, and so do the optimizer's moments. The output (and an embedding that is the same)
is gathered for as long as a pack is computed. Bytes of a quantized file are parted as they are and
made into numbers where they are needed.

No process ever holds the whole model: it is built empty, parted, and then each tensor's part is
filled from the mapped file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from localllm.finetune.model.build import bare, tensor_of
from localllm.finetune.model.quantized import PartedRows
from localllm.finetune.training.batches import Pack
from localllm.finetune.training.forward import scorer
from localllm.finetune.training.group import Group
from localllm.finetune.training.whole import is_parted, parted

if TYPE_CHECKING:
    from localllm.finetune.model import LoadedModel
    from localllm.formats.hf import Slot


class ShardedScorer:
    """As `Scorer`, of a parted model: every process must ask at the same time, with `lend` where
    it has no pack of its own."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def losses(self, pack: Pack) -> Tensor:
        """Negative log-likelihood [n] of the pack's targets, in nats, differentiable."""
        found: Tensor = self._root(pack)
        return found

    def lend(self) -> None:
        """Take part in a round without a pack, forward and, where gradients are on, back."""
        total = self._root(_NOTHING).sum()
        if torch.is_grad_enabled():
            total.backward()

    def rest(self) -> None:
        """After a pass without gradients: let go of what is gathered still. What it was gathered
        from may change then."""
        self._root.reshard()


class _Losses(nn.Module):
    """Body and head as one module: what FSDP gathers for the whole of a pack hangs on it."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, pack: Pack) -> Tensor:
        # the output's tensor is another one at each pass
        return scorer(self.module, self.dtype).losses(pack)


CPU = torch.device("cpu")

# One token, and nothing that is predicted: a loss of no terms, gradients of zero.
_NOTHING = Pack(
    ids=torch.zeros(1, 1, dtype=torch.long), positions=torch.zeros(1, 1, dtype=torch.long),
    segments=(1,), rows=torch.zeros(0, dtype=torch.long),
    targets=torch.zeros(0, dtype=torch.long), owners=torch.zeros(0, dtype=torch.long), items=(),
)  # fmt: skip


def shard(
    loaded: LoadedModel, group: Group, dtype: torch.dtype, device: torch.device = CPU
) -> ShardedScorer:
    """Part `loaded` (built empty, adapters and all) among the processes of `group` and fill it, on
    `device`, each process's own. `dtype` is what is computed in. All processes must call it."""
    mesh = init_device_mesh(device.type, (group.size,))
    module: Any = loaded.module
    root: Any = _Losses(module, dtype)
    units = [*module.get_decoder().layers]
    if not loaded.tied:  # needed at the beginning only; what is tied at both ends
        units.append(module.get_input_embeddings())
    for one in (*units, root):
        fully_shard(one, mesh=mesh)
        # sums, divided by the step's count elsewhere; gloo has no other reduction
        one.set_gradient_divide_factor(1.0)
        one.set_force_sum_reduction_for_comms(True)
        if device.type == "cpu":
            one.register_forward_pre_hook(_gather, prepend=True)
            one.set_modules_to_backward_prefetch([one])  # nothing early: nothing overlaps
    for slot in loaded.slots:
        _fill(loaded, slot, mesh, device)
    if loaded.tied and "weight" in module.lm_head._parameters:
        module.lm_head.weight = module.get_input_embeddings().weight
    return ShardedScorer(root)


def _gather(module: Any, inputs: object) -> None:
    """Gather a module before FSDP would. FSDP keeps the buffer that it received into until the
    next module's is filled, for streams to overlap; on the CPU nothing does, and it is as large as
    the module. Gathered so it is let go of at once."""
    module.unshard()


def _fill(loaded: LoadedModel, slot: Slot, mesh: DeviceMesh, device: torch.device) -> None:
    """This process's part of a tensor, from the mapped file; one whole tensor at a time."""
    layer = bare(loaded.module.get_submodule(slot.module))
    leaf = slot.hf.rpartition(".")[2]
    stored = loaded.weights[slot.gguf]
    if leaf == "weight" and isinstance(getattr(layer, "rows", None), PartedRows):
        leaf, tensor = "packed", torch.from_numpy(stored.data)
    else:
        tensor = tensor_of(stored, slot.layout, layer.get_parameter(leaf).dtype)
    old = layer.get_parameter(leaf)
    own = parted(tensor, mesh, device)
    del tensor
    stored.let_go()
    setattr(layer, leaf, nn.Parameter(own, requires_grad=old.requires_grad))


def bytes_held(module: nn.Module) -> int:
    """Bytes of parameters that this process holds."""
    held = {id(p): p for p in module.parameters()}
    return sum(_local(p).numel() * p.element_size() for p in held.values())


def _local(parameter: Any) -> Tensor:
    found: Tensor = parameter.to_local() if is_parted(parameter) else parameter
    return found
