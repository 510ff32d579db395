"""What judging a model found, as it is kept in the registry and printed as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from localllm.engine.quality.figures import Figures
from localllm.registry import Model, Registry

SCHEMA = 1
KIND = "quality"


@dataclass(frozen=True)
class Identity:
    """A model or a text by name and content. `sha256` None: not known (a loose file)."""

    name: str
    sha256: str | None


@dataclass(frozen=True)
class Settings:
    """What the figures depend on beside models and text. `limit` is `--chunks`, None for all;
    the rest are llama.cpp's own. `n_gpu_layers` None: what fits."""

    n_ctx: int
    limit: int | None
    type_k: str
    type_v: str
    flash_attn: str
    n_gpu_layers: int | None


@dataclass(frozen=True)
class Conditions:
    """What figures depend on beside the model that is judged: two rows with the same conditions
    may stand side by side."""

    base: Identity | None
    text: Identity
    settings: Settings
    build_commit: str


@dataclass(frozen=True)
class Quality:
    """The figures of one model on one text, against `base` where there is one.

    The first three repeat the main values of `figures`. `complete` false: interrupted after
    `figures.n_chunks` of `n_chunks` contexts. `measurement` is its number in the registry, None
    where it is not kept (loose files, incomplete figures); `reused`: it was measured before.
    `seconds` is the wall time of this model's own passes, the base's not included.
    """

    perplexity: float
    mean_kld: float | None
    same_top: float | None
    model: str
    sha256: str | None
    size_bytes: int
    bits_per_weight: float | None
    base: Identity | None
    text: Identity
    settings: Settings
    n_chunks: int
    complete: bool
    figures: Figures
    seconds: float
    build_commit: str
    backends: tuple[str, ...]
    localllm_version: str
    schema: int = SCHEMA
    measurement: int | None = None
    reused: bool = False


@dataclass(frozen=True)
class Failed:
    """A model that could not be judged, beside others that could."""

    model: str
    kind: str
    message: str


@dataclass(frozen=True)
class QualityReport:
    """All models of one command. `n_tokens_text` is the length of the text in tokens of the
    base, or of the first model; None where everything was measured before."""

    rows: tuple[Quality, ...]
    failed: tuple[Failed, ...]
    base: Identity | None
    text: Identity
    settings: Settings
    n_tokens_text: int | None


def keep(registry: Registry, model: Model, found: Quality) -> int:
    """Keep `found` as a measurement of `model`; its number."""
    data = asdict(found)
    del data["measurement"], data["reused"]
    return registry.record(model, KIND, data)


def earlier(registry: Registry, model: Model, wanted: Conditions) -> Quality | None:
    """The newest measurement of the same content under the same conditions, None without one."""
    if wanted.base is not None and wanted.base.sha256 is None:
        return None
    found = (row for row in stored(registry, model) if not differences(row, wanted))
    return next(found, None)


def stored(registry: Registry, model: Model) -> Iterator[Quality]:
    """Every measurement of this very content that this version reads, the newest first."""
    digest = model.digest
    if model.id is None or digest is None:
        return
    for measured in registry.measurements(model, KIND):
        data = measured.data
        if data.get("schema") == SCHEMA and data.get("sha256") == digest:
            yield quality_from(measured.data, measured.id)


def differences(row: Quality, wanted: Conditions) -> tuple[str, ...]:
    """In what `row` was taken under other conditions than `wanted`, in words; empty: in nothing."""
    own, other = row.settings, wanted.settings
    found = []
    if row.text.sha256 != wanted.text.sha256:
        found.append(f"text {row.text.name}")
    if (row.base and row.base.sha256) != (wanted.base and wanted.base.sha256):
        found.append(f"against {row.base.name}" if row.base else "without a base")
    if own.n_ctx != other.n_ctx:
        found.append(f"contexts of {own.n_ctx} tokens")
    if own.limit != other.limit:
        found.append(f"{row.n_chunks} contexts")
    if replace(own, n_ctx=other.n_ctx, limit=other.limit) != other:
        found.append("another cache type or placement")
    if row.build_commit != wanted.build_commit:
        found.append(f"llama.cpp {row.build_commit}")
    return tuple(found)


def quality_from(data: Mapping[str, Any], number: int) -> Quality:
    """From its JSON form, as measured before."""
    from localllm.library.quality.restore import figures_from

    base = data["base"]
    return Quality(
        **{
            **data,
            "base": None if base is None else Identity(**base),
            "text": Identity(**data["text"]),
            "settings": Settings(**data["settings"]),
            "figures": figures_from(data["figures"]),
            "backends": tuple(data["backends"]),
            "measurement": number,
            "reused": True,
        }
    )
