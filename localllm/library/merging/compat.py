"""Whether models mean the same by a token, a tensor and a number in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import DamagedFile, UsageProblem
from localllm.library.merging.safetensors import SafeTensors
from localllm.library.merging.tensors import GGUFTensors

if TYPE_CHECKING:
    from localllm.formats.gguf import Metadata

Note = Callable[[str], None]
_MOST_JSON = 256 << 20
_TEXT = "text_config."

# What two models with the same weights may say differently. A context that was extended by
# training alone is one; the base's value holds for the result.
_GGUF_FREE = ("context_length", "block_count", "vocab_size")
_VOCABULARY = ("tokens", "token_type", "scores", "merges")
_HF_FREE = {
    "_name_or_path", "architectures", "auto_map", "bos_token_id", "dtype", "eos_token_id",
    "max_position_embeddings", "model_max_length", "num_hidden_layers", "num_layers", "n_layer",
    "pad_token_id", "torch_dtype", "transformers_version", "unsloth_version", "use_cache",
    "initializer_range", "attention_dropout", "_attn_implementation_autoset",
    "unsloth_fixed", "tokenizer_class", "max_window_layers", "cache_implementation",
}  # fmt: skip
_HF_SAID = ("max_position_embeddings", "eos_token_id")  # free too, but worth a note


def check_gguf(models: Sequence[GGUFTensors], note: Note) -> None:
    """Raise UsageProblem, naming the reason, where `models` cannot be merged with the first."""
    first, *others = models
    for other in others:
        _check_keys(first, other, note)
        _check_vocabulary(first, other, note)


def _check_keys(first: GGUFTensors, other: GGUFTensors, note: Note) -> None:
    own, its = first.model, other.model
    if own.architecture != its.architecture:
        raise UsageProblem(
            f"{first.name} is of architecture {own.architecture}, {other.name} of "
            f"{its.architecture}: they cannot be merged"
        )
    prefix = f"{own.architecture}."
    keys = [k for k in (*own.metadata, *its.metadata) if k.startswith(prefix)]
    for key in dict.fromkeys(keys):
        ours, theirs = _plain(own.metadata, key), _plain(its.metadata, key)
        if ours == theirs or (isinstance(ours, tuple) and isinstance(theirs, tuple)
                              and len(ours) != len(theirs)):  # fmt: skip
            continue  # a value a layer, of models of different depth
        if key.removeprefix(prefix) in _GGUF_FREE:
            if not key.endswith("block_count"):
                note(f"{key} is {ours} in {first.name} and {theirs} in {other.name}: {ours} holds")
            continue
        raise UsageProblem(
            f"{first.name} and {other.name} compute differently: {key} is {_said(ours)} and "
            f"{_said(theirs)}"
        )


def _plain(metadata: Metadata, key: str) -> Any:
    return metadata.get(key)


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_vocabulary(first: GGUFTensors, other: GGUFTensors, note: Note) -> None:
    own, its = first.model.metadata, other.model.metadata
    for part in ("model", "pre"):
        key = f"tokenizer.ggml.{part}"
        if own.get(key) != its.get(key):
            raise UsageProblem(
                f"{first.name} and {other.name} have different tokenizers: {key} is "
                f"{_said(own.get(key))} and {_said(its.get(key))}"
            )
    for part in _VOCABULARY:
        key = f"tokenizer.ggml.{part}"
        same = (key in own) == (key in its) and (key not in own or own.raw(key) == its.raw(key))
        if not same:
            raise UsageProblem(
                f"{first.name} and {other.name} have different vocabularies: "
                f"{_first_difference(part, own.get(key), its.get(key))}"
            )
    for key in own:
        named = key.startswith("tokenizer.ggml.") and key.endswith("token_id")
        if named and key in its and own[key] != its[key]:
            note(f"{key} is {own[key]} in {first.name} and {its[key]} in {other.name}: "
                 f"{own[key]} holds")  # fmt: skip
    if own.get("tokenizer.chat_template") != its.get("tokenizer.chat_template"):
        note(f"{other.name} has another chat template: that of {first.name} holds")


def _first_difference(part: str, ours: Any, theirs: Any) -> str:
    if not isinstance(ours, Sequence) or not isinstance(theirs, Sequence):
        return f"only one of them has {part}"
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)} {part}"
    pairs = enumerate(zip(ours, theirs, strict=True))
    number, (own, its) = next(((n, p) for n, p in pairs if p[0] != p[1]), (0, ("", "")))
    return f"{part} {number} is {own!r} and {its!r}"


# --- safetensors --------------------------------------------------------------------------


def check_folders(models: Sequence[SafeTensors], note: Note) -> None:
    """The same for safetensors folders, by config.json and tokenizer files."""
    first, *others = models
    own = _vocabulary_of(first.folder)
    for other in others:
        _check_config(first, other, note)
        its = _vocabulary_of(other.folder)
        if own is None or its is None:
            if (own is None) != (its is None):
                note(f"only one of {first.name} and {other.name} has a tokenizer: not compared")
        elif own != its:
            raise UsageProblem(
                f"{first.name} and {other.name} have different vocabularies: "
                f"{_vocabulary_difference(own, its)}"
            )


def _check_config(first: SafeTensors, other: SafeTensors, note: Note) -> None:
    own, its = _flat(first.model.config), _flat(other.model.config)
    if first.model.architecture != other.model.architecture:
        raise UsageProblem(
            f"{first.name} is a {first.model.architecture}, {other.name} a "
            f"{other.model.architecture}: they cannot be merged"
        )
    for key in dict.fromkeys([*own, *its]):
        ours, theirs = own.get(key), its.get(key)
        name = key.removeprefix(_TEXT)
        if ours == theirs or (not ours and not theirs):
            continue
        if name in _HF_SAID:
            note(f"{key} is {_said(ours)} in {first.name} and {_said(theirs)} in {other.name}: "
                 f"{_said(ours)} holds")  # fmt: skip
        if name in _HF_FREE or name == "vocab_size":  # the embeddings' shapes say that one
            continue
        if name == "layer_types" and not _as_many(ours, theirs):
            continue  # older configurations have none; of another depth, each layer brings its own
        raise UsageProblem(
            f"{first.name} and {other.name} compute differently: {key} is {_said(ours)} and "
            f"{_said(theirs)}"
        )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its values, with those of the language model in one that sees or hears."""
    found = dict(config)
    inner = found.get("text_config")
    if isinstance(inner, Mapping):
        found.pop("text_config")
        found |= {f"{_TEXT}{key}": value for key, value in inner.items()}
    return found


def _as_many(ours: Any, theirs: Any) -> bool:
    return isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs)


def _vocabulary_of(folder: Path) -> Mapping[str, int] | str | None:
    """Token -> number, from tokenizer.json or vocab.json; of a tokenizer.model its digest."""
    for name in ("tokenizer.json", "vocab.json"):
        path = folder / name
        if path.is_file():
            return _tokens_of(_json(path), path)
    path = folder / "tokenizer.model"
    if path.is_file():
        from localllm.library.growing import digest_of

        return digest_of(path, lambda n_bytes: None)
    return None


def _tokens_of(document: Any, path: Path) -> Mapping[str, int]:
    if path.name == "vocab.json":
        return document if isinstance(document, dict) else {}
    model = document.get("model") if isinstance(document, dict) else None
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # Unigram: pairs of a piece and its score
        found = {str(pair[0]): i for i, pair in enumerate(vocab) if isinstance(pair, list)}
    elif isinstance(vocab, dict):
        found = dict(vocab)
    else:
        raise DamagedFile(f"{path} has no vocabulary")
    for added in document.get("added_tokens") or ():
        if isinstance(added, dict) and isinstance(added.get("id"), int):
            found[str(added.get("content"))] = added["id"]
    return found


def _json(path: Path) -> Any:
    if path.stat().st_size > _MOST_JSON:
        raise DamagedFile(f"{path} is too large for a tokenizer")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is no JSON: {str(error)[:100]}") from None


def _vocabulary_difference(own: Any, its: Any) -> str:
    if isinstance(own, str) or isinstance(its, str):
        return "their tokenizer.model files differ"
    if len(own) != len(its):
        return f"{len(own)} and {len(its)} tokens"
    token = next(token for token, number in own.items() if its.get(token) != number)
    there = its.get(token)
    return f"{token!r} is number {own[token]} and " + ("not there" if there is None else str(there))
