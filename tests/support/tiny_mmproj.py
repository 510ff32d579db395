"""Tiny projectors (mmproj) with random weights that llama.cpp's mtmd loads, and pictures.

    path = gemma3_mmproj(tmp_path / "mmproj.gguf")            # for a text model of n_embd 256
    path = qwen2vl_mmproj(tmp_path / "mmproj.gguf")           # M-RoPE, images of any size
    model = tiny_qwen2vl(tmp_path / "model.gguf")             # the text model for it
    png = picture("PNG", size=(32, 32), seed=1)

With `n_layer` 0 a Gemma 3 projector is a convolution, a pool, a norm and a matrix: `projected`
computes the same in numpy.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.gguf_writer import F32, U32, Arr
from tests.support.tiny_builder import TinyModel
from tests.support.tiny_models import llama_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MEAN, STD = 0.5, 0.25  # of pixel values, alike in all channels: others than 0 and 1, to be seen
EPS = 1e-6


def gemma3_mmproj(
    path: Path,
    *,
    seed: int = 0,
    n_layer: int = 2,
    n_embd: int = 64,
    n_embd_text: int = 256,
    image_size: int = 32,
    patch: int = 8,
    merge: int = 2,
) -> Path:
    """An image becomes (image_size / patch / merge)^2 tokens: 4 by default."""
    model = TinyModel(
        _keys("gemma3", n_layer, n_embd, n_embd_text, image_size, patch)
        | {"clip.vision.projector.scale_factor": U32(merge)},
        "F32",
        seed,
    )
    _embeddings(model, n_embd, image_size, patch)
    for i in range(n_layer):
        _layer(model, f"v.blk.{i}.", n_embd)
    model.matrix("mm.input_projection.weight", (n_embd_text, n_embd), std=n_embd**-0.5)
    model.norm("mm.soft_emb_norm.weight", n_embd)
    return model.write(path)


def qwen2vl_mmproj(
    path: Path,
    *,
    seed: int = 0,
    n_layer: int = 2,
    n_embd: int = 64,
    n_embd_text: int = 256,
    patch: int = 8,
) -> Path:
    """An image of w x h pixels becomes about w * h / (2 * patch)^2 tokens."""
    keys = _keys("qwen2vl_merger", n_layer, n_embd, n_embd_text, 64, patch)
    model = TinyModel(keys, "F32", seed)
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1"):
        model.matrix(name, (patch, patch, 3, n_embd), std=0.1)
    for i in range(n_layer):
        _layer(model, f"v.blk.{i}.", n_embd)
    model.norm("v.post_ln.weight", n_embd)
    model.norm("v.post_ln.bias", n_embd, 0.0)
    for name, n_in, n_out in (("mm.0", 4 * n_embd, 4 * n_embd), ("mm.2", 4 * n_embd, n_embd_text)):
        model.matrix(f"{name}.weight", (n_in, n_out))
        model.norm(f"{name}.bias", n_out, 0.0)
    return model.write(path)


def tiny_qwen2vl(path: Path, **options: Any) -> Path:
    """A text model with M-RoPE; options as `llama_model`'s."""
    model = llama_model("qwen2", **options)
    named = {key.replace("qwen2.", "qwen2vl."): value for key, value in model.metadata.items()}
    named["general.architecture"] = "qwen2vl"
    named["qwen2vl.rope.dimension_sections"] = Arr("i32", [8, 12, 12, 0])
    model.metadata = named
    return model.write(path)


def picture(
    form: str = "PNG", *, size: tuple[int, int] = (32, 32), seed: int = 0, **options: Any
) -> bytes:
    """A file of coloured noise. `options` go to Pillow's `save`."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels(size, seed)).save(out, form, **options)
    return out.getvalue()


def pixels(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """[height, width, 3]"""
    import numpy as np

    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def projected(path: Path, image: NDArray[np.uint8], *, patch: int = 8, merge: int = 2) -> Floats:
    """What a Gemma 3 projector without layers makes of `image`: float32 [tokens, n_embd_text].

    Patches as a convolution, plus position, averaged over merge x merge, normed, projected.
    """
    import numpy as np

    weights = tensors_of(path)
    grid = image.shape[0] // patch
    values = (image.astype(np.float32) / 255 - MEAN) / STD
    cut = values.reshape(grid, patch, grid, patch, 3).transpose(0, 2, 4, 1, 3)  # y x c py px
    kernel = weights["v.patch_embd.weight"]  # [n_embd, 3, py, px]
    found = np.einsum("yxcij,ecij->yxe", cut, kernel) + weights["v.patch_embd.bias"]
    found += weights["v.position_embd.weight"].reshape(grid, grid, -1)
    small = grid // merge
    pooled = found.reshape(small, merge, small, merge, -1).mean(axis=(1, 3)).reshape(small**2, -1)
    normed = pooled / np.sqrt((pooled**2).mean(axis=1, keepdims=True) + EPS)
    normed *= weights["mm.soft_emb_norm.weight"]
    return np.asarray(normed @ weights["mm.input_projection.weight"], dtype=np.float32)


def tensors_of(path: Path) -> dict[str, Floats]:
    """A float32 GGUF's tensors, by gguf's own reader, in numpy's order of axes."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    return {
        t.name: np.array(t.data, dtype=np.float32).reshape(tuple(reversed(t.shape)))
        for t in reader.tensors
    }


def _keys(
    projector: str, n_layer: int, n_embd: int, n_embd_text: int, image_size: int, patch: int
) -> dict[str, Any]:
    return {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": f"tiny-{projector}",
        "general.file_type": U32(0),
        "clip.has_vision_encoder": True,
        "clip.projector_type": projector,
        "clip.use_gelu": True,
        "clip.vision.embedding_length": U32(n_embd),
        "clip.vision.feed_forward_length": U32(2 * n_embd),
        "clip.vision.block_count": U32(n_layer),
        "clip.vision.projection_dim": U32(n_embd_text),
        "clip.vision.attention.head_count": U32(4),
        "clip.vision.attention.layer_norm_epsilon": F32(EPS),
        "clip.vision.image_size": U32(image_size),
        "clip.vision.patch_size": U32(patch),
        "clip.vision.image_mean": Arr("f32", [MEAN] * 3),
        "clip.vision.image_std": Arr("f32", [STD] * 3),
    }


def _embeddings(model: TinyModel, n_embd: int, image_size: int, patch: int) -> None:
    model.matrix("v.patch_embd.weight", (patch, patch, 3, n_embd), std=0.1)
    model.norm("v.patch_embd.bias", n_embd, 0.0)
    model.matrix("v.position_embd.weight", (n_embd, (image_size // patch) ** 2), std=0.3)


def _layer(model: TinyModel, block: str, n_embd: int) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        model.matrix(f"{block}{name}.weight", (n_embd, n_embd))
        model.norm(f"{block}{name}.bias", n_embd, 0.0)
    for name, n_in, n_out in (("ffn_up", n_embd, 2 * n_embd), ("ffn_down", 2 * n_embd, n_embd)):
        model.matrix(f"{block}{name}.weight", (n_in, n_out))
        model.norm(f"{block}{name}.bias", n_out, 0.0)
    for name in ("ln1", "ln2"):
        model.norm(f"{block}{name}.weight", n_embd)
        model.norm(f"{block}{name}.bias", n_embd, 0.0)
