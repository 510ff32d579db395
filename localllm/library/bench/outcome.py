"""From a case and what came of it to the row that is kept and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from localllm import __version__
from localllm.engine.options import FLASH_ATTENTION
from localllm.engine.threads import default_threads
from localllm.library import header_of
from localllm.library.bench.case import Case
from localllm.library.bench.measuring.measure import Measured, rates
from localllm.library.bench.record import BenchRow, Failure
from localllm.library.bench.statistics import ci95, deviation, mean
from localllm.registry import Model

if TYPE_CHECKING:
    from localllm.engine.build import BuildInfo
    from localllm.placement import Plan


@dataclass(frozen=True)
class Subject:
    """What all rows of a run share, in llama-bench's words; known without loading the model."""

    model: Model
    model_type: str
    model_size: int
    model_n_params: int
    n_layers: int
    n_threads: int  # where nobody says how many
    sha256: str | None
    build_commit: str
    backends: str
    cpu_info: str
    gpu_info: str
    adapters: tuple[str, ...] = ()  # LoRA files that belong to the model


def subject_of(model: Model, build: BuildInfo, cpu_info: str) -> Subject:
    """Read off the model's header, the build and the processor. Raises DamagedFile, FileGone."""
    header = header_of(model)
    others = [name for name in build.backends if name != "CPU"]
    return Subject(
        model=model,
        model_type=" ".join(filter(None, (model.architecture, model.file_type))),
        model_size=sum(tensor.size_bytes for tensor in header.tensors.values()),
        model_n_params=header.n_params,
        n_layers=header.arch_u32("block_count", 0) + 1,
        n_threads=default_threads(),
        sha256=model.digest,
        build_commit=build.commit,
        backends=",".join(others) or "CPU",
        cpu_info=cpu_info,
        gpu_info=", ".join(device.description for device in build.gpu_devices),
        adapters=tuple(str(path) for path, _ in model.attached),
    )


def measured_row(subject: Subject, case: Case, plan: Plan, measured: Measured) -> BenchRow:
    """The row of a case that was measured."""
    samples_ts = rates(measured.samples_ns, case.test.n_tokens)
    interval, facts = ci95(samples_ts), measured.facts
    return BenchRow(
        **_common(subject, case, plan)
        | {
            "model_type": facts.model_type,
            "model_size": facts.model_size,
            "model_n_params": facts.model_n_params,
            "n_threads": facts.n_threads,
        },
        test_time=measured.test_time,
        **_timing(measured.samples_ns, samples_ts),
        failure=None,
        ci95_low_ts=interval.low if interval else None,
        ci95_high_ts=interval.high if interval else None,
        n_layers=facts.n_layers,
        n_layers_offloaded=facts.n_layers_offloaded,
        load_s=facts.load_s,
        memory=measured.memory,
        evidence=measured.evidence,
        bytes_per_token=measured.bandwidth.bytes_per_token,
        bandwidth_bytes_s=measured.bandwidth.bandwidth_bytes_s,
        peak_bandwidth_bytes_s=measured.bandwidth.peak_bandwidth_bytes_s,
        peak_basis=measured.bandwidth.peak_basis,
        bandwidth_efficiency=measured.bandwidth.bandwidth_efficiency,
    )


def failed_row(subject: Subject, case: Case, plan: Plan | None, failure: Failure) -> BenchRow:
    """The row of a case that was not: what was asked for, and why there are no figures."""
    return BenchRow(
        **_common(subject, case, plan),
        test_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **_timing((), ()),
        failure=failure,
        ci95_low_ts=None,
        ci95_high_ts=None,
        n_layers=subject.n_layers,
        n_layers_offloaded=plan.n_offloaded if plan else 0,
        load_s=0.0,
        memory=(),
        evidence=None,
    )


def _common(subject: Subject, case: Case, plan: Plan | None) -> dict[str, Any]:
    setup, test = case.setup, case.test
    return {
        "build_commit": subject.build_commit,
        "build_number": 0,  # llama.cpp's library does not tell its own
        "cpu_info": subject.cpu_info,
        "gpu_info": subject.gpu_info,
        "backends": subject.backends,
        "model_filename": str(subject.model.path),
        "model_type": subject.model_type,
        "model_size": subject.model_size,
        "model_n_params": subject.model_n_params,
        "n_batch": setup.n_batch,
        "n_ubatch": setup.n_ubatch,
        "n_threads": setup.n_threads or subject.n_threads,
        "type_k": setup.type_k,
        "type_v": setup.type_v,
        "n_gpu_layers": _n_gpu_layers(subject, case, plan),
        "n_cpu_moe": setup.n_cpu_moe,
        "split_mode": setup.split_mode,
        "main_gpu": setup.main_gpu,
        "no_kv_offload": setup.no_kv_offload,
        "flash_attn": FLASH_ATTENTION[setup.flash_attn],
        "tensor_split": "/".join(f"{share:.2f}" for share in setup.tensor_split) or "0.00",
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "n_depth": test.n_depth,
        "model": subject.model.name,
        "test": test.name,
        "sha256": subject.sha256,
        "localllm_version": __version__,
    }


def _n_gpu_layers(subject: Subject, case: Case, plan: Plan | None) -> int:
    """As asked for, else as planned; without a plan all, if there is a GPU."""
    if case.setup.n_gpu_layers is not None:
        return case.setup.n_gpu_layers
    if plan is not None:
        return plan.n_gpu_layers
    return -1 if subject.gpu_info else 0


def _timing(samples_ns: Sequence[int], samples_ts: Sequence[float]) -> dict[str, Any]:
    """llama-bench's statistics: the mean of the rates, sample deviations."""
    return {
        "avg_ns": mean(samples_ns),
        "stddev_ns": deviation(samples_ns),
        "avg_ts": mean(samples_ts),
        "stddev_ts": deviation(samples_ts),
        "samples_ns": tuple(samples_ns),
        "samples_ts": tuple(samples_ts),
    }
