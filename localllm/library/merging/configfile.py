"""A merge from a file: mergekit's YAML as it is, or the same keys in TOML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localllm.errors import DamagedFile, FileGone, UsageProblem
from localllm.library.merging.spec import Slice, Source, Spec, checked

_MOST_BYTES = 1 << 20
_KEYS = {
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name", "type", "seed",
}  # fmt: skip
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Given(dict[str, Any]):
    """The document's own keys beside the merge: `type`, `name`."""


def read_config(path: Path) -> tuple[Spec, Given]:
    """Raises FileGone, DamagedFile (no YAML or TOML), UsageProblem (keys, values or methods that
    are not known here)."""
    document = _document(path)
    if not isinstance(document, Mapping) or not document:
        raise UsageProblem(f"{path.name} says nothing of a merge", "merge_method, models ...")
    if unknown := sorted(str(key) for key in document if key not in _KEYS):
        more = "modules of multimodal models are not merged here" if "modules" in unknown else ""
        raise UsageProblem(f"{path.name}: {unknown[0]} is no key that is known here", more or None)
    method = document.get("merge_method")
    if not isinstance(method, str):
        raise UsageProblem(f"{path.name}: merge_method is missing")
    _check_tokenizer(document, path.name)
    slices = _slices(document, path.name)
    seed = document.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageProblem(f"{path.name}: seed is {seed!r}, not a whole number")
    spec = checked(
        Spec(
            method=method,  # type: ignore[arg-type]
            slices=slices,
            base=_model(document["base_model"], path.name) if document.get("base_model") else None,
            parameters=_parameters(document, path.name),
            dtype=_dtype(document, path.name),
            seed=seed,
            stacked="slices" in document,
        )
    )
    return spec, Given({key: document[key] for key in ("type", "name") if key in document})


def _document(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DamagedFile(f"{path.name} is too large for a configuration")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileGone(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UsageProblem(f"{path} is a folder, not a configuration") from None
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path.name} is no UTF-8 text (byte {error.start})") from None
    if path.suffix.lower() == ".toml":
        import tomllib

        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DamagedFile(f"{path.name} is no TOML: {error}") from None
    return _yaml(text, path.name)


def _yaml(text: str, name: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        # aliases can make a small file as large as memory when it is walked
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UsageProblem(f"{name} uses YAML aliases, which a configuration does not need")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise DamagedFile(f"{name} is no YAML: {line}") from None


def _slices(document: Mapping[str, Any], name: str) -> tuple[Slice, ...]:
    if ("models" in document) == ("slices" in document):
        raise UsageProblem(f"{name}: a configuration has models or slices, one of them")
    if "models" in document:
        return (Slice(tuple(_source(one, name) for one in _list(document, "models", name))),)
    found = []
    for one in _list(document, "slices", name):
        _check_keys(one, {"sources", "base_model", "parameters"}, "a slice", name)
        base = _model(one["base_model"], name) if one.get("base_model") else None
        sources = tuple(_source(s, name, ranged=True) for s in _list(one, "sources", name))
        found.append(Slice(sources, base, _parameters(one, name)))
    return tuple(found)


def _source(one: Any, name: str, *, ranged: bool = False) -> Source:
    keys = {"model", "parameters", *(("layer_range",) if ranged else ())}
    _check_keys(one, keys, "a model", name)
    if "model" not in one:
        raise UsageProblem(f"{name}: an entry names no model")
    first = last = None
    if ranged:
        span = one.get("layer_range")
        whole = isinstance(span, Sequence) and len(span) == 2 and all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in span
        )  # fmt: skip
        if not whole or not isinstance(span, Sequence) or span[0] >= span[1]:
            raise UsageProblem(f"{name}: layer_range is {span!r}, not [FROM, TO]")
        first, last = int(span[0]), int(span[1])
    return Source(_model(one["model"], name), first, last, _parameters(one, name))


def _model(value: Any, name: str) -> str:
    """A model's name or path; mergekit also has mappings, and LoRAs behind a +."""
    if isinstance(value, Mapping):
        lora, inner = value.get("lora"), value.get("model", value)
        if lora or not isinstance(inner, Mapping) or set(inner) - {"path", "revision"}:
            raise UsageProblem(f"{name}: this form of naming a model is not known here: {value!r}")
        revision = inner.get("revision")
        value = inner.get("path") if not revision else f"{inner.get('path')}@{revision}"
    if not isinstance(value, str) or not value:
        raise UsageProblem(f"{name}: {value!r} is no model's name")
    if "+" in value and not Path(value).exists():
        raise UsageProblem(
            f"{name}: {value} is a model with an adapter",
            "merge the adapter first: localllm merge MODEL --lora ADAPTER",
        )
    return value


def _parameters(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = holder.get("parameters") or {}
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise UsageProblem(f"{name}: parameters is {found!r}, not names with values")
    return found


def _dtype(document: Mapping[str, Any], name: str) -> str | None:
    found = document.get("out_dtype") or document.get("dtype")
    if found is None:
        return None
    if found not in _DTYPES:
        raise UsageProblem(f"{name}: dtype {found!r} is none of {', '.join(_DTYPES)}")
    return _DTYPES[found]


def _check_tokenizer(document: Mapping[str, Any], name: str) -> None:
    """All models must have one vocabulary here, so every source of it is the same."""
    tokenizer = document.get("tokenizer") or {}
    if not isinstance(tokenizer, Mapping) or set(tokenizer) - {"source"}:
        raise UsageProblem(f"{name}: tokenizer can only name its source here, not change tokens")
    if document.get("chat_template") not in (None, "auto"):
        raise UsageProblem(f"{name}: chat_template is not written by a merge; the base's is kept")


def _list(holder: Mapping[str, Any], key: str, name: str) -> Sequence[Any]:
    found = holder.get(key)
    if not isinstance(found, list) or not found:
        raise UsageProblem(f"{name}: {key} is no list of anything")
    return found


def _check_keys(one: Any, known: set[str], what: str, name: str) -> None:
    if not isinstance(one, Mapping):
        raise UsageProblem(f"{name}: {what} is {one!r}, not keys with values")
    if unknown := sorted(str(key) for key in one if key not in known):
        raise UsageProblem(
            f"{name}: {what} has no {unknown[0]!r}", f"one of {', '.join(sorted(known))}"
        )
