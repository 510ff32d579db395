"""What judging a model found, as it is kept in the registry and printed as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from localllm.engine.quality_figures import Figures
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


def earlier(
    registry: Registry,
    model: Model,
    base: Identity | None,
    text: Identity,
    settings: Settings,
    build_commit: str,
) -> Quality | None:
    """The newest measurement of the same content by the same build, None without one."""
    digest = model.weights[0].sha256 if model.weights else None
    if model.id is None or digest is None or (base is not None and base.sha256 is None):
        return None
    for measured in registry.measurements(model, KIND):
        data = measured.data
        if (
            measured.sha256 == digest
            and data.get("schema") == SCHEMA
            and data.get("build_commit") == build_commit
            and data.get("settings") == asdict(settings)
            and (data.get("text") or {}).get("sha256") == text.sha256
            and (data.get("base") or {}).get("sha256") == (base.sha256 if base else None)
        ):
            return quality_from(data, measured.id)
    return None


def quality_from(data: Mapping[str, Any], number: int) -> Quality:
    """From its JSON form, as measured before."""
    from localllm.quality.restore import figures_from

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
