"""Whole GGUF models merged: numbers, bytes, stacks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.errors import GateFailed, LocalLLMError, UsageProblem
from localllm.library.describe import loose_model
from localllm.library.merging.models import MergedModels, ModelsRequest, merge_models
from localllm.library.merging.spec import Slice, Source, Spec, checked
from localllm.registry import Registry
from localllm.ui.progress import Silent
from tests.library.merging import formulas
from tests.library.merging.reading import fields_of, raw_of, tensors_of, types_of
from tests.support.gguf_writer import F32, U32, Arr
from tests.support.tiny_models import llama_model, split, tiny_gemma3, tiny_llama, tiny_qwen2

Merge = Callable[..., MergedModels]


@pytest.fixture
def merge(registry: Registry) -> Merge:
    def run(
        spec: Spec, notes: list[str] | None = None, *, dry_run: bool = False, **options: Any
    ) -> MergedModels:
        found = {name: loose_model(Path(name)) for name in spec.models}
        return merge_models(
            checked(spec),
            found,
            ModelsRequest(**options),
            registry,
            Silent(),
            (notes if notes is not None else []).append,
            dry_run=dry_run,
        )

    return run


def spec(method: str, *models: Path, base: Path | None = None, **parameters: Any) -> Spec:
    own = parameters.pop("each", [{}] * len(models))
    sources = tuple(Source(str(m), parameters=p) for m, p in zip(models, own, strict=True))
    return Spec(method, (Slice(sources),), None if base is None else str(base), parameters)  # type: ignore[arg-type]


def stack(*ranges: tuple[Path, int, int], **parameters: Any) -> Spec:
    slices = tuple(Slice((Source(str(m), a, b),)) for m, a, b in ranges)
    return Spec("passthrough", slices, parameters=parameters, stacked=True)


def path_of(made: MergedModels) -> Path:
    assert made.model is not None
    return made.model.path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A base and two models near it, in F32."""
    return [nearby(tmp_path / f"m{i}.gguf", i) for i in range(3)]


def nearby(path: Path, seed: int, dtype: str = "F32") -> Path:
    """The model of seed 0, moved a little."""
    model = llama_model(seed=0, dtype="F32")
    other = llama_model(seed=seed + 100, dtype="F32")
    if seed:
        for i, ((tensor, data), (_, drift)) in enumerate(
            zip(model.tensors, other.tensors, strict=True)
        ):
            moved = np.frombuffer(data, np.float32) + np.float32(0.1) * np.frombuffer(
                drift, np.float32
            )
            model.tensors[i] = (tensor, moved.astype(np.float32).tobytes())
    return model.write(path)


def test_every_tensor_is_merged_and_the_metadata_is_the_bases(
    merge: Merge, three: list[Path]
) -> None:
    base, a, b = three
    each = [{"weight": 0.7, "density": 0.4}, {"weight": 0.5, "density": 0.6}]
    made = merge(spec("ties", a, b, base=base, each=each))
    x, y, z = map(tensors_of, (base, a, b))
    found = tensors_of(path_of(made))
    assert made.type == "F32"
    for name, values in found.items():
        expected = formulas.ties(x[name], [y[name], z[name]], [0.7, 0.5], [0.4, 0.6])
        np.testing.assert_allclose(values, expected, rtol=0, atol=4e-6, err_msg=name)
    before, after = fields_of(base), fields_of(path_of(made))
    assert before == {k: v for k, v in after.items() if not k.startswith("localllm.")}


def test_any_types_go_in_and_the_widest_float_comes_out(
    merge: Merge, three: list[Path], tmp_path: Path
) -> None:
    quantized = tiny_llama(tmp_path / "q.gguf", seed=4, dtype="Q5_K")
    half = tiny_llama(tmp_path / "h.gguf", seed=5, dtype="F16")
    each = [{"weight": 0.25}, {"weight": 0.75}]
    made = merge(spec("linear", quantized, half, each=each))
    assert made.type == "F16"
    x, y = tensors_of(quantized), tensors_of(half)
    for name, values in tensors_of(path_of(made)).items():
        np.testing.assert_allclose(values, 0.25 * x[name] + 0.75 * y[name], atol=3e-3, err_msg=name)
    assert merge(spec("linear", half, three[0], each=each)).type == "F32"
    b16 = tiny_llama(tmp_path / "b.gguf", seed=6, dtype="BF16")
    assert merge(spec("linear", half, b16, each=each), dry_run=True).type == "BF16"
    small = merge(spec("linear", quantized, half, each=each), type="Q4_K_M")
    assert {"Q4_K", "Q6_K"} <= set(types_of(path_of(small)).values())
    planned = merge(spec("linear", quantized, half, each=each), type="Q4_K_M", dry_run=True)
    assert planned.file_bytes == path_of(small).stat().st_size == small.file_bytes


def test_gradients_and_filters_by_either_name(merge: Merge, tmp_path: Path) -> None:
    """mergekit's filters are of Hugging Face's names; a GGUF's tensors answer to both."""
    a, b = (tiny_llama(tmp_path / f"{i}.gguf", seed=i, n_layer=3, dtype="F32") for i in (1, 2))
    t = [
        {"filter": "self_attn", "value": [0, 1]},
        {"filter": "ffn_up", "value": 0.25},
        {"value": 0.5},
    ]
    made = tensors_of(path_of(merge(spec("slerp", a, b, base=a, t=t))))
    x, y = tensors_of(a), tensors_of(b)
    for name, share in (
        ("blk.0.attn_q.weight", 0.0),
        ("blk.1.attn_k.weight", 0.5),
        ("blk.2.attn_v.weight", 1.0),
        ("blk.1.ffn_up.weight", 0.25),
        ("blk.2.ffn_down.weight", 0.5),
        ("token_embd.weight", 0.5),
    ):
        np.testing.assert_allclose(made[name], formulas.slerp(x[name], y[name], share), atol=4e-6)


def test_stacked_layers_are_byte_for_byte_and_run(merge: Merge, tmp_path: Path) -> None:
    a = tiny_llama(tmp_path / "a.gguf", seed=1, n_layer=3, dtype="Q4_K")
    b = tiny_llama(tmp_path / "b.gguf", seed=2, n_layer=4, dtype="Q8_0")
    made = merge(stack((a, 0, 2), (b, 1, 4), (a, 0, 1)))
    path = path_of(made)
    assert made.layers == (
        (str(a), 0),
        (str(a), 1),
        (str(b), 1),
        (str(b), 2),
        (str(b), 3),
        (str(a), 0),
    )
    x, y, found = raw_of(a), raw_of(b), raw_of(path)
    for out, (source, layer) in enumerate([(x, 0), (x, 1), (y, 1), (y, 2), (y, 3), (x, 0)]):
        for rest in ("attn_q.weight", "ffn_norm.weight", "ffn_down.weight"):
            assert found[f"blk.{out}.{rest}"] == source[f"blk.{layer}.{rest}"]
    assert found["token_embd.weight"] == x["token_embd.weight"]
    assert found["output.weight"] == x["output.weight"]
    from localllm.placement import PlanOptions, open_model

    with open_model(path, PlanOptions(n_ctx=128)) as opened:
        assert opened.model.info.n_layer == 6
    scaled = merge(stack((a, 0, 3), scale=[{"filter": "o_proj", "value": 0.5}]), name="s:F16")
    before, after = tensors_of(a), tensors_of(path_of(scaled))
    np.testing.assert_allclose(
        after["blk.1.attn_output.weight"], 0.5 * before["blk.1.attn_output.weight"], atol=1e-3
    )


def test_values_a_layer_move_with_their_layers(merge: Merge, tmp_path: Path) -> None:
    def uneven(path: Path, sizes: list[int]) -> Path:
        model = llama_model(n_layer=3)
        model.metadata["llama.feed_forward_length"] = Arr("u32", sizes)
        return model.write(path)

    a = uneven(tmp_path / "a.gguf", [512, 512, 512])
    import gguf

    made = path_of(merge(stack((a, 1, 3), (a, 0, 3))))
    field = gguf.GGUFReader(made).fields["llama.feed_forward_length"]
    assert field.contents() == [512] * 5


def test_split_sources(merge: Merge, tmp_path: Path) -> None:
    parts = split(llama_model, tmp_path, "big", n_shards=3, seed=1, dtype="F16")
    other = tiny_llama(tmp_path / "o.gguf", seed=2)
    made = path_of(merge(spec("linear", parts[0], other, weight=0.5)))
    assert not [key for key in fields_of(made) if key.startswith("split.")]
    whole = tiny_llama(tmp_path / "w.gguf", seed=1)
    again = path_of(merge(spec("linear", whole, other, weight=0.5), name="again:F16"))
    assert raw_of(made) == raw_of(again)


def test_a_seed_makes_the_same_again(merge: Merge, three: list[Path]) -> None:
    from dataclasses import replace

    base, a, b = three
    one = spec("dare_ties", a, b, base=base, weight=0.5, density=0.3)
    first = raw_of(path_of(merge(one, n_threads=1, name="one:F32")))
    again = raw_of(path_of(merge(one, n_threads=3, name="two:F32")))
    other = raw_of(path_of(merge(replace(one, seed=1), name="three:F32")))
    assert first == again
    assert first != other


def test_a_type_that_loses_the_difference_is_refused(merge: Merge, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base.gguf", dtype="Q4_0")
    other = tiny_llama(tmp_path / "other.gguf", seed=9, dtype="Q4_0")
    one = spec("task_arithmetic", other, base=base, weight=0.0005)
    with pytest.raises(GateFailed, match="of what was merged in is left") as failed:
        merge(one, type="Q4_0")
    assert "--allow-loss" in str(failed.value.hint)
    assert merge(one, type="Q4_0", allow_loss=True).survival is not None
    with pytest.raises(GateFailed):  # what was let through once is not let through for good
        merge(one, type="Q4_0")
    assert merge(one, type="Q4_0", allow_loss=True).reused
    kept = merge(one, type="F16").survival
    assert kept is not None
    assert kept.share == pytest.approx(1.0, abs=0.2)


Changed = Callable[[Any], None]


def keyed(key: str, value: Any) -> Changed:
    def change(model: Any) -> None:
        model.metadata[key] = value

    return change


def renamed_token(model: Any) -> None:
    tokens = list(model.metadata["tokenizer.ggml.tokens"].values)
    tokens[70] = "other"
    model.metadata["tokenizer.ggml.tokens"] = Arr("str", tokens)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (keyed("llama.rope.freq_base", F32(500.0)), "llama.rope.freq_base is .* and 500"),
        (keyed("llama.attention.layer_norm_rms_epsilon", F32(1e-3)), "layer_norm_rms_epsilon"),
        (keyed("llama.attention.head_count", U32(8)), "head_count is 4 and 8"),
        (keyed("tokenizer.ggml.pre", "llama-bpe"), "different tokenizers: tokenizer.ggml.pre"),
        (renamed_token, "different vocabularies: tokens 70 is 'F' and 'other'"),
    ],
)
def test_models_that_compute_differently(
    merge: Merge, tmp_path: Path, change: Changed, said: str
) -> None:
    a = tiny_llama(tmp_path / "a.gguf")
    model = llama_model(seed=2)
    change(model)
    b = model.write(tmp_path / "b.gguf")
    with pytest.raises(UsageProblem, match=said):
        merge(spec("linear", a, b, weight=0.5))


def test_models_of_other_kinds(merge: Merge, tmp_path: Path) -> None:
    a = tiny_llama(tmp_path / "a.gguf")
    for other, said in (
        (tiny_gemma3(tmp_path / "g.gguf"), "is of architecture llama, .*g.gguf of gemma3"),
        (tiny_qwen2(tmp_path / "q.gguf"), "of qwen2"),
        (tiny_llama(tmp_path / "deep.gguf", n_layer=3), "different depth"),
        (tiny_llama(tmp_path / "wide.gguf", n_ff=768), "feed_forward_length is 512 and 768"),
    ):
        with pytest.raises(UsageProblem, match=said):
            merge(spec("linear", a, other, weight=0.5))


def test_differences_that_are_only_said(merge: Merge, tmp_path: Path) -> None:
    a = tiny_llama(tmp_path / "a.gguf")
    model = llama_model(seed=2)
    model.metadata["llama.context_length"] = U32(4096)
    model.metadata["tokenizer.chat_template"] = "other"
    b = model.write(tmp_path / "b.gguf")
    notes: list[str] = []
    merge(spec("linear", a, b, weight=0.5), notes, dry_run=True)
    assert any("context_length" in note for note in notes)
    assert any("chat template" in note for note in notes)


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("ties", {"weight": 1}, "none is named"),
        ("linear", {}, "weight of .* is not set for"),
        ("linear", {"weight": "much"}, "not a number"),
        ("linear", {"weight": float("nan")}, "no finite number"),
        ("linear", {"weight": 1, "t": 0.5}, "linear has no parameter 't'"),
        ("linear", {"weight": []}, "empty list"),
        ("slerp", {}, "t is not set"),
        ("passthrough", {}, "one model a slice"),
        ("average", {}, "no method"),
        ("linear", {"weight": 1e38}, "overflows"),
    ],
)
def test_parameters_that_mean_nothing(
    merge: Merge, tmp_path: Path, method: str, parameters: Any, said: str
) -> None:
    a, b = (tiny_llama(tmp_path / f"{i}.gguf", seed=i) for i in (1, 2))
    with pytest.raises(LocalLLMError, match=said):
        merge(
            spec(
                method,
                a,
                b,
                **parameters,
                **({"normalize": False} if "1e+38" in str(parameters) else {}),
            )
        )


def test_the_same_model_twice_and_ranges(merge: Merge, tmp_path: Path) -> None:
    a = tiny_llama(tmp_path / "a.gguf")
    with pytest.raises(UsageProblem, match="merged with itself"):
        merge(spec("linear", a, a, weight=0.5))
    with pytest.raises(UsageProblem, match="has 2 layers; 1 to 5"):
        merge(stack((a, 1, 5)))
