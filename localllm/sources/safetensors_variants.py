"""Which files of a repository make a safetensors model, or a PEFT adapter, whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from localllm.sources.base import FileRole, RemoteFile, Variant
from localllm.sources.names import shard_name, split_of

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
# What conversion, tuning and inference read beside the weights
_COMPANIONS: tuple[tuple[FileRole, re.Pattern[str]], ...] = (
    (
        "tokenizer",
        re.compile(
            r"tokenizer\.(?:json|model)|tokenizer\.model\.v\d+|tokenizer_config\.json|tekken\.json"
            r"|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt"
            r"|(?:spiece|sentencepiece\.bpe)\.model|[^/]+\.tiktoken"
        ),
    ),
    ("template", re.compile(r"chat_template\.(?:jinja|json)|additional_chat_templates/[^/]+")),
    (
        "config",
        re.compile(
            r"config\.json|generation_config\.json|params\.json|(?:video_)?preprocessor_config\.json"
            r"|processor_config\.json|modules\.json|sentence_bert_config\.json"
            r"|config_sentence_transformers\.json|\d+_[A-Za-z]+/config\.json"
        ),
    ),
    ("text", re.compile(r"(?:LICEN[CS]E|NOTICE|USE_POLICY)(?:\.(?:txt|md))?", re.IGNORECASE)),
)


def safetensors_variants(
    files: Sequence[RemoteFile], alone: bool
) -> tuple[tuple[Variant, ...], tuple[Variant, ...]]:
    """The model's and the adapter's variants, complete ones and those that lack shards.

    A single one has no name where it is `alone` in its repository, else its format is its name.
    """
    by_name = {file.name: file for file in files}
    companions = tuple(replace(f, role=role) for f in files if (role := _role(f.name)))
    made: list[Variant] = []
    if _ADAPTER_WEIGHTS in by_name and "adapter_config.json" in by_name:
        weights = replace(by_name[_ADAPTER_WEIGHTS], role="adapter")
        config = replace(by_name["adapter_config.json"], role="config")
        made.append(Variant("adapter", "adapter", (weights, config, *companions)))
    if weights_names := _weights(list(by_name)):
        parts = tuple(replace(by_name[name], role="weights") for name in weights_names)
        index = tuple(
            replace(f, role="config") for n, f in by_name.items() if _is_index(n, weights_names)
        )
        missing = _missing(weights_names)
        extras = {"missing": missing} if missing else {}
        made.append(Variant("safetensors", "safetensors", (*parts, *index, *companions), extras))
    if alone and len(made) == 1:
        made = [replace(made[0], name=None)]
    complete = tuple(v for v in made if not v.extras)
    return complete, tuple(v for v in made if v.extras)


def _role(name: str) -> FileRole | None:
    return next((role for role, pattern in _COMPANIONS if pattern.fullmatch(name)), None)


def _weights(names: Sequence[str]) -> list[str]:
    """The weights among the names at the root: `model*`, else any set, else `consolidated*`.

    Mistral's repositories have the same weights twice, as `model*` and as `consolidated*`;
    `model.fp16` beside `model` is a second copy too.
    """
    stems = sorted(
        name[:-12]
        for name in names
        if name.endswith(".safetensors") and "/" not in name and name != _ADAPTER_WEIGHTS
    )
    for wanted in (r"model(?:-\d{5}-of-\d{5})?", r"model[-.].*", r"(?!consolidated).*", r".*"):
        if found := [stem for stem in stems if re.fullmatch(wanted, stem)]:
            shards = [stem for stem in found if split_of(stem)]
            if "model" in found:
                return ["model.safetensors"]
            return [f"{stem}.safetensors" for stem in (shards or found)]
    return []


def _is_index(name: str, weights: Sequence[str]) -> bool:
    split = split_of(weights[0][:-12])
    return name == f"{split.stem if split else weights[0][:-12]}.safetensors.index.json"


def _missing(weights: Sequence[str]) -> tuple[str, ...]:
    splits = [split for name in weights if (split := split_of(name[:-12]))]
    if not splits:
        return ()
    stem, count = splits[0].stem, splits[0].count
    wanted = [f"{shard_name(stem, i, count)}.safetensors" for i in range(1, count + 1)]
    return tuple(name for name in wanted if name not in weights)
