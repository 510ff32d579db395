"""Figures from their JSON form, as the registry keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.engine.quality.figures import AgainstBase, Divergence, Figures, Spread
from localllm.engine.quality.interval import Estimate


def figures_from(data: Mapping[str, Any]) -> Figures:
    divergence = data["divergence"]
    return Figures(
        n_chunks=data["n_chunks"],
        n_tokens=data["n_tokens"],
        perplexity=Estimate(**data["perplexity"]),
        divergence=None if divergence is None else _divergence(divergence),
        chunk_nll=tuple(data["chunk_nll"]),
        chunk_kld=tuple(data["chunk_kld"]),
    )


def _divergence(data: Mapping[str, Any]) -> Divergence:
    return Divergence(
        perplexity=_against(data["perplexity"]),
        as_stored=_against(data["as_stored"]),
        mean_kld=Estimate(**data["mean_kld"]),
        kld=Spread(**data["kld"]),
        mean_p_diff=Estimate(**data["mean_p_diff"]),
        p_diff=Spread(**data["p_diff"]),
        rms_p_diff=Estimate(**data["rms_p_diff"]),
        same_top=Estimate(**data["same_top"]),
    )


def _against(data: Mapping[str, Any]) -> AgainstBase:
    return AgainstBase(
        base_perplexity=Estimate(**data["base_perplexity"]),
        correlation=data["correlation"],
        ln_ratio=Estimate(**data["ln_ratio"]),
        ratio=Estimate(**data["ratio"]),
        difference=Estimate(**data["difference"]),
    )
