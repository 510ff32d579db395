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
    """Bytes on the device that holds the projector, and `image_bytes` in main memory wherever it
    is: the pixels and the embeddings of one image at work. `compute_bytes` is an estimate, for an
    image of the size that llama.cpp reserves for; of models that see images at their own size the
    largest ones take up to about twice that."""

    weights_bytes: int
    compute_bytes: int
    image_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.compute_bytes

    @property
    def all_bytes(self) -> int:
        return self.total_bytes + self.image_bytes


def projector_need(path: Path) -> ProjectorNeed:
    """Read a projector's header. Raises FileGone, DamagedFile, EngineError for another GGUF."""
    header = read_model(path)
    if header.text("general.architecture") != "clip":
        raise EngineError(f"{path.name} is no projector (mmproj)", "localllm show MODEL")
    sizes = _sizes(header)
    return ProjectorNeed(header.weights_bytes, sizes.compute_bytes, sizes.image_bytes)


def beside_projector(target: Target, need: ProjectorNeed) -> tuple[Target, bool]:
    """`target` with the projector's memory no longer free, and whether it goes to the GPU.

    Where the first GPU has no room for it, it goes to main memory: images take longer then, and
    the text model's layers keep the GPU.
    """
    first = target.gpus[0] if target.gpus else None
    if first is not None and (
        first.free_bytes - first.headroom_bytes >= _MARGIN * need.total_bytes
    ):
        return taking(target, {first.name: need.total_bytes}, need.image_bytes), True
    return taking(target, {}, need.all_bytes), False


@dataclass(frozen=True)
class _Sizes:
    """Of the image that llama.cpp reserves for. Widths in elements."""

    n_patches: int
    n_tokens: int
    patch: int
    n_embd: int
    n_ff: int
    width: int  # of the text model's embeddings

    @property
    def compute_bytes(self) -> int:
        encoder = self.n_patches * (self.n_ff + 3 * self.n_embd)
        return _F32 * max(encoder, self.n_tokens * (2 * self.width + 2 * self.n_embd))

    @property
    def image_bytes(self) -> int:
        """Three channels as floats; embeddings as mtmd made them, kept, and in a batch."""
        return _F32 * (3 * self.n_patches * self.patch**2 + 3 * self.n_tokens * self.width)


def _sizes(header: GGUFView) -> _Sizes:
    kind = header.text("clip.projector_type") or header.text("clip.vision.projector_type") or ""
    patch = max(1, header.u32("clip.vision.patch_size", 14))
    n_embd = header.u32("clip.vision.embedding_length", 0)
    n_ff = header.u32("clip.vision.feed_forward_length", 0)
    width = header.u32("clip.vision.projection_dim", 0)
    merge = header.u32("clip.vision.projector.scale_factor") or _MERGES.get(kind, 1)
    merge = header.u32("clip.vision.spatial_merge_size") or merge
    n_patches = (header.u32("clip.vision.image_size", 0) // patch) ** 2
    n_patches = max(n_patches, _RESERVED_TOKENS.get(kind, 0) * merge**2)
    return _Sizes(n_patches, n_patches // merge**2, patch, n_embd, n_ff, width)
