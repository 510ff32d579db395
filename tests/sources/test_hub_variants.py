"""From file names to variants: what publishers really call their files."""

from __future__ import annotations

import pytest

from localllm.errors import AmbiguousModel, SourceNotFound
from localllm.refs import ModelRef
from localllm.sources.base import Listing, RemoteFile
from localllm.sources.choose import matching
from localllm.sources.hub_variants import Variants, classify


def _classified(*names: str) -> Variants:
    return classify(RemoteFile(name, 100 + i, None, "text") for i, name in enumerate(names))


def _names(variants: Variants) -> dict[str | None, list[str]]:
    return {v.name: [f.name for f in v.files] for v in variants.complete}


def test_each_quantization_is_a_variant() -> None:
    found = _classified(
        "README.md", ".gitattributes", "m-Q4_K_M.gguf", "m-IQ2_XS.gguf", "m-UD-Q4_K_XL.gguf",
        "imatrix.dat", "m.imatrix.gguf", "imatrix_unsloth.gguf", "config.json",
    )  # fmt: skip
    assert _names(found) == {
        "Q4_K_M": ["m-Q4_K_M.gguf"],
        "IQ2_XS": ["m-IQ2_XS.gguf"],
        "UD-Q4_K_XL": ["m-UD-Q4_K_XL.gguf"],
    }
    assert {f.role for v in found.complete for f in v.files} == {"weights"}


def test_shards_are_one_variant_in_order() -> None:
    shards = [f"Q4_K_M/m-Q4_K_M-0000{i}-of-00003.gguf" for i in (3, 1, 2)]
    found = _classified(*shards, "BF16/m-BF16-00001-of-00002.gguf", "m-Q2_K.gguf")
    assert _names(found) == {"Q4_K_M": sorted(shards), "Q2_K": ["m-Q2_K.gguf"]}
    (broken,) = found.incomplete
    assert broken.name == "BF16"
    assert broken.extras["missing"] == ("BF16/m-BF16-00002-of-00002.gguf",)


def test_the_label_may_be_in_the_folder_only() -> None:
    found = _classified("Q8_0/model.gguf", "Q4_0/model.gguf")
    assert _names(found) == {"Q8_0": ["Q8_0/model.gguf"], "Q4_0": ["Q4_0/model.gguf"]}


def test_the_projector_comes_with_every_variant_f16_first() -> None:
    projectors = ["mmproj-BF16.gguf", "mmproj-F32.gguf", "mmproj-F16.gguf"]
    found = _classified("g-Q4_K_M.gguf", "g-Q8_0.gguf", *projectors)
    assert _names(found) == {
        "Q4_K_M": ["g-Q4_K_M.gguf", "mmproj-F16.gguf"],
        "Q8_0": ["g-Q8_0.gguf", "mmproj-F16.gguf"],
    }
    assert [f.role for f in found.complete[0].files] == ["weights", "mmproj"]
    found = _classified("g-Q4_K_M.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf")
    assert _names(found)["Q4_K_M"] == ["g-Q4_K_M.gguf", "mmproj-BF16.gguf"]
    found = _classified("g-Q4_K_M.gguf", "mmproj-model-f32.gguf")
    assert _names(found)["Q4_K_M"] == ["g-Q4_K_M.gguf", "mmproj-model-f32.gguf"]


def test_with_several_models_the_projector_goes_to_its_own() -> None:
    found = _classified(
        "alpha-Q4_K_M.gguf", "beta-Q4_K_M.gguf", "mmproj-alpha-f16.gguf", "gamma-Q8_0.gguf"
    )
    assert _names(found) == {
        "alpha-Q4_K_M": ["alpha-Q4_K_M.gguf", "mmproj-alpha-f16.gguf"],
        "beta-Q4_K_M": ["beta-Q4_K_M.gguf"],
        "Q8_0": ["gamma-Q8_0.gguf"],
    }


def test_a_repository_of_projectors_only() -> None:
    (variant,) = _classified("mmproj-F16.gguf").complete
    assert (variant.format, variant.name) == ("mmproj", "F16")


def test_gguf_adapters() -> None:
    found = _classified("Llama-3-8B-LoRA-f16.gguf", "adapter_config.json", "README.md")
    (variant,) = found.complete
    assert (variant.format, [f.role for f in variant.files]) == ("adapter", ["adapter"])
    assert _classified("m-lora-merged-Q4_K_M.gguf").complete[0].format == "gguf"
    assert _classified("explora-Q4_K_M.gguf").complete[0].format == "gguf"


def test_peft_adapters_are_kept_with_config_and_tokenizer() -> None:
    found = _classified(
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
        "tokenizer.json", "README.md", "optimizer.pt",
    )  # fmt: skip
    (variant,) = found.complete
    assert (variant.name, variant.format) == (None, "adapter")
    assert [(f.name, f.role) for f in variant.files] == [
        ("adapter_model.safetensors", "adapter"),
        ("adapter_config.json", "config"),
        ("tokenizer.json", "tokenizer"),
    ]


def test_safetensors_repositories_are_kept_whole_and_nothing_twice() -> None:
    found = _classified(
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "config.json", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
        "chat_template.jinja", "LICENSE", "README.md", ".gitattributes",
        "pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack",
        "original/consolidated.00.pth", "original/params.json", "onnx/model.onnx",
        "consolidated.safetensors", "tf_model.h5", "onnx/model.safetensors",
    )  # fmt: skip
    (variant,) = found.complete
    assert (variant.name, variant.format) == (None, "safetensors")
    assert {f.name: f.role for f in variant.files} == {
        "model-00001-of-00002.safetensors": "weights",
        "model-00002-of-00002.safetensors": "weights",
        "model.safetensors.index.json": "config",
        "config.json": "config",
        "generation_config.json": "config",
        "tokenizer.json": "tokenizer",
        "tokenizer_config.json": "tokenizer",
        "tokenizer.model": "tokenizer",
        "special_tokens_map.json": "tokenizer",
        "chat_template.jinja": "template",
        "LICENSE": "text",
    }
    assert [f.name for f in variant.weights] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_safetensors_of_other_makes() -> None:
    assert _names(_classified("consolidated.safetensors", "params.json")) == {
        None: ["consolidated.safetensors", "params.json"]
    }
    found = _classified("model.safetensors", "model.fp16.safetensors", "config.json")
    assert _names(found) == {None: ["model.safetensors", "config.json"]}
    broken = _classified("model-00001-of-00002.safetensors", "config.json")
    assert broken.complete == ()
    assert broken.incomplete[0].extras["missing"] == ("model-00002-of-00002.safetensors",)


def test_a_repository_with_both() -> None:
    found = _classified("model.safetensors", "config.json", "m-Q8_0.gguf")
    assert [(v.name, v.format) for v in found.complete] == [
        ("Q8_0", "gguf"),
        ("safetensors", "safetensors"),
    ]


def _listing(*names: str) -> Listing:
    found = _classified(*names)
    ref = ModelRef("hf", "org/repo", "c0ffee")
    return Listing(ref, "org", "repo", found.complete, incomplete=found.incomplete)


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("m-Q4_K_M.gguf", "m-Q4_K_M.gguf"),
        ("M-Q4_K_M", "m-Q4_K_M.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("ud-q4_k_xl", "m-UD-Q4_K_XL.gguf"),
        ("Q5_K_M", "m.i1-Q5_K_M.gguf"),
        ("fp16", "m-F16.gguf"),
        ("Q8_0", "Q8_0/m-Q8_0-00001-of-00002.gguf"),
        ("Q8_0/m-Q8_0-00002-of-00002.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf"),
        ("m-Q8_0", "Q8_0/m-Q8_0-00001-of-00002.gguf"),
        ("Q8_0/m-Q8_0", "Q8_0/m-Q8_0-00001-of-00002.gguf"),
        ("safetensors", "model.safetensors"),
    ],
)
def test_what_a_user_may_write_for_a_variant(wanted: str, file: str) -> None:
    listing = _listing(
        "m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m.i1-Q5_K_M.gguf", "m-F16.gguf",
        "Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf",
        "model.safetensors",
    )  # fmt: skip
    assert matching(listing, wanted).files[0].name == file


def test_the_exact_label_comes_before_its_relatives() -> None:
    listing = _listing("m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf")
    assert matching(listing, "Q4_K_XL").name == "Q4_K_XL"
    assert matching(listing, "UD-Q4_K_XL").name == "UD-Q4_K_XL"


def test_a_label_of_several_models_is_asked_back() -> None:
    listing = _listing("alpha-Q4_K_M.gguf", "beta-Q4_K_M.gguf", "alpha-Q8_0.gguf")
    with pytest.raises(AmbiguousModel) as caught:
        matching(listing, "Q4_K_M")
    assert caught.value.hint == "name one: alpha-Q4_K_M, beta-Q4_K_M"
    assert matching(listing, "beta-Q4_K_M").files[0].name == "beta-Q4_K_M.gguf"


def test_a_variant_that_lacks_a_shard() -> None:
    listing = _listing("m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf")
    with pytest.raises(SourceNotFound, match=r"hf:org/repo lacks m-Q8_0-00002-of-00002\.gguf"):
        matching(listing, "Q8_0")


def test_a_variant_that_is_not_there() -> None:
    listing = _listing("m-Q4_K_M.gguf", "m-Q8_0.gguf")
    with pytest.raises(SourceNotFound) as caught:
        matching(listing, "Q4_K_L")
    assert caught.value.message == "hf:org/repo has no variant 'Q4_K_L'"
    assert caught.value.hint == "did you mean Q4_K_M?"
    with pytest.raises(SourceNotFound) as caught:
        matching(listing, "whatever")
    assert caught.value.hint == "it has: Q4_K_M, Q8_0"
