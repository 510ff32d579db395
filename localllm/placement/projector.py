"""What a projector (mmproj) takes beside its text model, and where it goes.

    need = projector_need(mmproj_path)
    target, use_gpu = beside_projector(this_machine(), need)
    with open_model(path, options, target=target) as opened:
        vision = Vision(opened.model, mmproj_path, use_gpu=use_gpu)

llama.cpp keeps the whole projector on one device, the first GPU or the CPU. Its compute buffer
holds the activations of one image. With flash attention, which it takes where it can, a layer of
the encoder has alive at once, for each patch, the feed-forward's middle and three states, in
float32; the projector after it two of its own widths. Measured with llama.cpp's own reservation:
exact for Gemma 3 and Idefics 3 (SmolVLM), 8 % too much for Qwen2-VL and 5 % for LLaVA 1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.errors import EngineError
from localllm.formats.gguf import GGUFView, read_model
from localllm.placement.drafting import taking
from localllm.placement.target import Target

_F32 = 4
_MARGIN = 1.1  # of the need, where it decides between devices

# Patches a side that become one token, where the file does not say (clip.cpp, load_hparams).
_MERGES = {"gemma3": 4, "qwen2vl_merger": 2, "qwen2.5vl_merger": 2, "qwen3vl_merger": 2}
# Images at their own size: llama.cpp reserves for so many tokens, and more when a larger one comes.
_RESERVED_TOKENS = {
    "qwen2vl_merger": 46 * 46, "qwen2.5vl_merger": 46 * 46, "qwen3vl_merger": 46 * 46
}  # fmt: skip


@dataclass(frozen=True)
class ProjectorNeed:
    """Bytes on the device that holds the projector. `compute_bytes` is for an image of the size
    that llama.cpp reserves for; of models that see images at their own size the largest ones
    take up to about twice that."""

    weights_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes


def projector_need(path: Path) -> ProjectorNeed:
    """Read a projector's header. Raises FileGone, DamagedFile, EngineError for another GGUF."""
    header = read_model(path)
    if header.text("general.architecture") != "clip":
        raise EngineError(f"{path.name} is no projector (mmproj)", "localllm show MODEL")
    return ProjectorNeed(header.weights_bytes, _compute_bytes(header))


def beside_projector(target: Target, need: ProjectorNeed) -> tuple[Target, bool]:
    """`target` with the projector's memory no longer free, and whether it goes to the GPU.

    Where the first GPU has no room for it, it goes to main memory: images take longer then, and
    the text model's layers keep the GPU.
    """
    first = target.gpus[0] if target.gpus else None
    if first is not None and (
        first.free_bytes - first.headroom_bytes >= _MARGIN * need.total_bytes
    ):
        return taking(target, {first.name: need.total_bytes}, 0), True
    return taking(target, {}, need.total_bytes), False


def _compute_bytes(header: GGUFView) -> int:
    kind = header.text("clip.projector_type") or header.text("clip.vision.projector_type") or ""
    patch = max(1, header.u32("clip.vision.patch_size", 14))
    n_embd = header.u32("clip.vision.embedding_length", 0)
    n_ff = header.u32("clip.vision.feed_forward_length", 0)
    width = header.u32("clip.vision.projection_dim", 0)
    merge = header.u32("clip.vision.projector.scale_factor") or _MERGES.get(kind, 1)
    merge = header.u32("clip.vision.spatial_merge_size") or merge
    n_patches = (header.u32("clip.vision.image_size", 0) // patch) ** 2
    n_patches = max(n_patches, _RESERVED_TOKENS.get(kind, 0) * merge**2)
    n_tokens = n_patches // merge**2
    return _F32 * max(n_patches * (n_ff + 3 * n_embd), n_tokens * (2 * width + 2 * n_embd))
