"""One row of a llama-bench file as a BenchRow, whatever its version wrote."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from localllm.bench.files.fields import FIELDS, Field
from localllm.errors import DamagedFile, UsageProblem
from localllm.library.bench.case import BenchTest
from localllm.library.bench.record import BenchRow
from localllm.library.bench.restore import value_from
from localllm.library.bench.statistics import ci95

_LARGEST = 2**63  # of the integers that SQLite and llama.cpp have
_MOST_SAMPLES = 100_000
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# Before `backends` there was a switch for each.
_BACKENDS = (
    ("cuda", "CUDA"), ("cublas", "CUDA"), ("metal", "Metal"), ("vulkan", "Vulkan"),
    ("sycl", "SYCL"), ("kompute", "Kompute"), ("opencl", "OpenCL"), ("clblast", "OpenCL"),
    ("hipblas", "HIP"), ("rpc", "RPC"), ("blas", "BLAS"),
)  # fmt: skip
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no", "")


def row_from(raw: Mapping[str, Any], origin: str) -> tuple[BenchRow, str]:
    """The row, and the options it was run with that a BenchRow has no field for, as
    llama-bench's arguments ("--poll 0"). `origin` names the row in errors.

    Missing fields take llama-bench's defaults, unknown ones are passed over; `n_prompt` and
    `n_gen` must be there, and a rate or a time. Raises DamagedFile.
    """
    try:
        values = {f.name: _value(f, raw) for f in FIELDS}
        row = BenchRow(**_kept(values), **_measured(raw, values), **_ours(raw, values))
    except (ValueError, TypeError, KeyError, OverflowError, UsageProblem) as e:
        raise DamagedFile(f"{origin}: {e}") from None
    return row, _more_options(values)


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    measured = ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts")
    return {f.name: values[f.name] for f in FIELDS if f.is_kept and f.name not in measured}


def _value(field: Field, raw: Mapping[str, Any]) -> Any:
    given = raw.get(field.name)
    if given is None:
        if field.name in ("n_prompt", "n_gen"):
            raise KeyError(f"{field.name} is missing")
        given = _legacy(field, raw)
    if field.kind == "text":
        return _text(given, field.name)
    if field.kind == "bool" or isinstance(given, bool) or field.name == "flash_attn":
        return _switch(given, field)
    if field.kind == "float":
        return _number(given, field.name)
    return _integer(given, field.name)


def _legacy(field: Field, raw: Mapping[str, Any]) -> Any:
    """What older versions called it."""
    if field.name == "backends":
        on = (name for key, name in _BACKENDS if str(raw.get(key, "")).lower() in _TRUE)
        return next(on, field.default)
    if field.name == "load_mode" and raw.get("use_mmap") is not None:
        return "auto" if str(raw["use_mmap"]).lower() in _TRUE else "none"
    if field.name == "flash_attn":
        return 0  # it was off before it could be chosen
    return field.default


def _text(given: Any, name: str) -> str:
    if not isinstance(given, str | int | float) or isinstance(given, bool):
        raise TypeError(f"{name} is {_shown(given)}, not a text")
    if len(text := str(given)) > 4096:
        raise ValueError(f"{name} is longer than 4096 characters")
    return text


def _switch(given: Any, field: Field) -> Any:
    """A bool, or for the integers that are switches -1, 0, 1."""
    text = str(given).strip().lower()
    if field.kind == "int":
        if text in ("-1", "auto"):
            return -1
        if text not in _TRUE and text not in _FALSE:
            return _integer(given, field.name)
        return int(text in _TRUE)
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{field.name} is {_shown(given)}, neither true nor false")


def _integer(given: Any, name: str) -> int:
    number = _number(given, name)
    if number != int(number) or abs(number) >= _LARGEST:
        raise ValueError(f"{name} is {_shown(given)}, not a whole number of 64 bits")
    # Not through float where it can be had exactly.
    exact = int(given) if isinstance(given, int | str) and _is_whole(str(given)) else int(number)
    if exact < 0 and name not in ("n_gpu_layers", "main_gpu", "flash_attn", "poll"):
        raise ValueError(f"{name} is negative")
    return exact


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"\s*[-+]?[0-9]{1,20}\s*", text) is not None


def _number(given: Any, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise TypeError(f"{name} is {_shown(given)}, not a number")
    try:
        number = float(given)
    except ValueError:
        raise ValueError(f"{name} is {_shown(given)}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is not finite")
    return number


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _measured(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Times and rates. The rates are made from the samples, which have all their digits."""
    n_tokens = BenchTest(values["n_prompt"], values["n_gen"], values["n_depth"]).n_tokens
    samples_ns = _samples(raw.get("samples_ns"))
    if raw.get("failure") is not None:
        return {
            "avg_ns": 0.0, "stddev_ns": 0.0, "avg_ts": 0.0, "stddev_ts": 0.0,
            "samples_ns": (), "samples_ts": (),
        }  # fmt: skip
    rates = tuple(n_tokens * 1e9 / ns for ns in samples_ns)
    avg_ns, avg_ts = float(values["avg_ns"]), float(values["avg_ts"])
    if rates:
        avg_ts, avg_ns = statistics.fmean(rates), avg_ns or statistics.fmean(samples_ns)
    elif not avg_ts and avg_ns:
        avg_ts = n_tokens * 1e9 / avg_ns
    if not avg_ts > 0:
        raise ValueError("it has no rate, time or samples")
    spread = statistics.stdev(rates) if len(rates) > 1 else float(values["stddev_ts"])
    return {
        "avg_ns": avg_ns or n_tokens * 1e9 / avg_ts,
        "stddev_ns": float(values["stddev_ns"]),
        "avg_ts": avg_ts,
        "stddev_ts": spread,
        "samples_ns": samples_ns,
        "samples_ts": rates,
    }


def _samples(given: Any) -> tuple[int, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > _MOST_SAMPLES:
        raise TypeError("samples_ns is no list of times")
    samples = tuple(_integer(ns, "samples_ns") for ns in given)
    if any(ns <= 0 for ns in samples):
        raise ValueError("samples_ns has a time of 0 or less")
    return samples


def _ours(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of ours says beside llama-bench's fields; for llama-bench's rows, what can
    be told from those."""
    test = BenchTest(values["n_prompt"], values["n_gen"], values["n_depth"])
    known: dict[str, Any] = {
        "model": model_name(values["model_filename"]), "test": test.name, "sha256": None,
        "failure": None, "ci95_low_ts": None, "ci95_high_ts": None, "n_layers": 0,
        "n_layers_offloaded": 0, "load_s": 0.0, "memory": (), "evidence": None,
    }  # fmt: skip
    if isinstance(raw.get("memory"), list):  # json of ours, every field with its type
        numbers = {f.name: values[f.name] for f in FIELDS if f.is_kept}
        samples = {"samples_ns": (), "samples_ts": ()}
        whole = value_from(BenchRow, {**known, **raw, **numbers, **samples})
        return {name: getattr(whole, name) for name in (*known, *_OPTIONAL)}
    for name in ("model", "sha256"):
        if raw.get(name):
            known[name] = _text(raw[name], name)
    interval = ci95(_measured(raw, values)["samples_ts"])
    if interval is not None:
        known |= {"ci95_low_ts": interval.low, "ci95_high_ts": interval.high}
    return known


_OPTIONAL = (
    "bytes_per_token", "bandwidth_bytes_s", "peak_bandwidth_bytes_s", "peak_basis",
    "bandwidth_efficiency", "localllm_version",
)  # fmt: skip


def model_name(filename: str) -> str:
    """A model's name from its path on any system, without the number of a shard."""
    stem = PureWindowsPath(filename).stem
    return _SHARD.sub("", stem) or "unknown"


def _more_options(values: Mapping[str, Any]) -> str:
    given = [
        f"--{f.name.replace('_', '-')} {int(v) if isinstance(v := values[f.name], bool) else v}"
        for f in FIELDS
        if not f.is_kept and values[f.name] != f.default
    ]
    return " ".join(given)
