"""show: what is known of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from localllm.errors import NotFound, UsageProblem
from localllm.library import ModelName, find_model
from localllm.library.presets import modelfile_of
from localllm.models.details import (
    Ancestor,
    MetadataValue,
    ShownModel,
    details,
    metadata_keys,
    metadata_value,
)
from localllm.registry import Measurement, Registry
from localllm.ui import Bytes, Count, Fields, Heading, Moment, Sink, Table, Text, Tree, View

_DIGITS = 12  # of a sha256


def show_command(
    name: ModelName,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="KEY", help="Print one metadata value.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every metadata key.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print the chat template.")] = False,
    license: Annotated[bool, typer.Option("--license", help="Print the license.")] = False,
    modelfile: Annotated[
        bool, typer.Option("--modelfile", help="Print a Modelfile for localllm create.")
    ] = False,
    *,
    sink: Sink,
) -> None:
    """Show what is known of a model."""
    if sum((metadata is not None, keys, template, license, modelfile)) > 1:
        raise UsageProblem(
            "choose one of --metadata, --keys, --template, --license and --modelfile"
        )
    registry = Registry.open()
    model = find_model(name, registry)
    if metadata is not None:
        sink.show(metadata_value(model, metadata), lambda v: Text(_text(v.value)))
    elif keys:
        sink.show(metadata_keys(model), _keys)
    elif modelfile:
        sink.show({"modelfile": modelfile_of(model).text()}, lambda v: Text(v["modelfile"]))
    elif template or license:
        shown = details(model, registry)
        what = "chat template" if template else "license"
        text = shown.chat_template if template else shown.license
        if text is None:
            raise NotFound(f"{model.name} has no {what}", f"localllm show {model.name}")
        sink.show({what.replace(" ", "_"): text}, lambda _: Text(text))
    else:
        sink.show(details(model, registry), _details)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _keys(values: tuple[MetadataValue, ...]) -> View:
    rows = []
    for v in values:
        text = _text(v.value).replace("\n", "\\n")
        if v.count is not None and v.count > 3:
            text = f"{text[:-1]}, …]"
        rows.append((v.key, v.type if v.count is None else f"{v.type}[{v.count}]", text[:60]))
    return Table(("key", "type", "value"), rows)


def _details(m: ShownModel) -> View:
    experts = f"{m.n_expert}, {m.n_expert_used} used" if m.n_expert else None
    heads = None if m.n_head is None else f"{m.n_head} ({', '.join(map(str, m.n_head_kv))} kv)"
    license = m.license if m.license and len(m.license) < 60 else m.license and "see --license"
    view: list[Any] = [
        Fields(
            [
                ("name", " = ".join((m.name, *m.aliases))),
                ("title", m.title),
                ("from", m.ref),
                ("architecture", m.architecture),
                ("type", m.file_type or m.format),
                ("parameters", None if m.n_params is None else Count(m.n_params)),
                ("bits per weight", m.bits_per_weight),
                ("trained context", None if m.n_ctx_train is None else m.n_ctx_train),
                ("layers", m.n_layer),
                ("embedding", m.n_embd),
                ("heads", heads),
                ("experts", experts),
                ("sliding window", m.sliding_window),
                ("vocabulary", None if m.n_vocab is None else Count(m.n_vocab)),
                ("chat template", "yes" if m.chat_template else "none"),
                ("system prompt", m.system and _short(m.system)),
                ("defaults", _pairs(m.defaults) or None),
                ("license", license),
                ("adapts", m.base_model),
                ("size", Bytes(m.size_bytes)),
                ("added", Moment(m.added_at)),
                ("page", m.page),
                ("made by", m.made_by),
                ("made with", _inputs(m.inputs) or None),
                ("versions", ", ".join(f"{k} {v}" for k, v in m.versions.items()) or None),
            ]
        )
    ]
    if m.tensor_types:
        rows = [(t.name, t.tensors, Count(t.elements), Bytes(t.size_bytes)) for t in m.tensor_types]
        view += [Heading("Tensors"), Table(("type", "tensors", "weights", "size"), rows)]
    files = [(f.name, f.role, Bytes(f.size_bytes), (f.sha256 or "-")[:12]) for f in m.files]
    view += [Heading("Files"), Table(("file", "role", "size", "sha256"), files)]
    if m.parents or m.children:
        tree = Tree(m.name, [*map(_branch, m.parents), *(Tree(f"child: {c}") for c in m.children)])
        view += [Heading("Family"), tree]
    if m.measurements:
        rows_ = [(r.id, r.kind, Moment(r.made_at), _summary(r)) for r in m.measurements[:10]]
        view += [Heading("Measurements"), Table(("id", "kind", "made", "figures"), rows_)]
    return view


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())


def _branch(parent: Ancestor) -> Tree:
    """How it was made and of what, as in `quantize Q4_K_M of org/tiny (sha256 1f3c5a7b9d02)`."""
    gone = "" if parent.present else ", no longer here"
    digest = f"sha256 {parent.sha256[:_DIGITS]}" if parent.sha256 else "of unknown content"
    kind = parent.parameters.get("type")
    what = f"{parent.operation} {kind}" if isinstance(kind, str) else str(parent.operation)
    label = f"{what} of {parent.name} ({digest}{gone})"
    if parent.inputs:
        label += f", with {_inputs(parent.inputs)}"
    return Tree(label, [_branch(p) for p in parent.parents])


def _inputs(inputs: Mapping[str, str]) -> str:
    """Digests of what went in beside the parents, cut as digests are shown elsewhere."""
    return ", ".join(f"{name.replace('_', ' ')} {d[:_DIGITS]}" for name, d in inputs.items())


def _summary(measurement: Measurement) -> str:
    """The rates of a benchmark, or the first few numbers of another measurement."""
    rows = measurement.data.get("rows")
    if measurement.kind == "bench" and isinstance(rows, list):
        good = [row for row in rows if row.get("failure") is None]
        rates = [f"{row.get('test')} {row.get('avg_ts', 0):.4g} t/s" for row in good]
        return ", ".join(rates[:4])
    numbers = [
        f"{key} {value:.4g}"
        for key, value in measurement.data.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(numbers[:4])
