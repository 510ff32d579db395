"""macOS from the text that its sysctl prints."""

from __future__ import annotations

from localllm.hardware.detect import _catalogued
from localllm.hardware.macos import (
    cpu_from_sysctl,
    metal_working_set_bytes,
    parse_sysctl,
    unified_gpu,
)

GIB = 1 << 30
M2_MAX = f"""hw.ncpu: 12
hw.logicalcpu: 12
hw.physicalcpu: 12
hw.perflevel0.physicalcpu: 8
hw.perflevel1.physicalcpu: 4
hw.memsize: {64 * GIB}
hw.optional.neon: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
machdep.cpu.brand_string: Apple M2 Max
iogpu.wired_limit_mb: 0
"""
INTEL = """hw.logicalcpu: 8
hw.physicalcpu: 4
hw.memsize: 17179869184
machdep.cpu.brand_string: Intel(R) Core(TM) i7-8569U CPU @ 2.80GHz
machdep.cpu.vendor: GenuineIntel
machdep.cpu.features: FPU SSE4.2 AVX1.0 F16C FMA
machdep.cpu.leaf7_features: BMI1 AVX2 BMI2
"""


def test_apple_silicon() -> None:
    cpu = cpu_from_sysctl(parse_sysctl(M2_MAX))
    assert (cpu.model, cpu.vendor) == ("Apple M2 Max", "Apple")
    assert (cpu.physical_cores, cpu.performance_cores, cpu.threads) == (12, 8, 8)
    assert cpu.simd == ("NEON", "DOTPROD", "MATMUL_INT8", "BF16")
    gpu = unified_gpu(parse_sysctl(M2_MAX))
    assert gpu is not None
    assert (gpu.vendor, gpu.unified, gpu.total_bytes) == ("apple", True, 48 * GIB)


def test_the_catalogue_adds_the_bandwidth() -> None:
    gpu = unified_gpu(parse_sysctl(M2_MAX))
    assert gpu is not None
    assert _catalogued(gpu).bandwidth_bytes_s == 400 * 10**9


def test_a_raised_wired_limit_is_honoured() -> None:
    text = M2_MAX.replace("wired_limit_mb: 0", "wired_limit_mb: 57344")
    gpu = unified_gpu(parse_sysctl(text))
    assert gpu is not None and gpu.total_bytes == 56 * GIB


def test_intel_mac_has_no_unified_gpu() -> None:
    cpu = cpu_from_sysctl(parse_sysctl(INTEL))
    assert cpu.vendor == "GenuineIntel"
    assert cpu.simd == ("SSE4.2", "AVX", "AVX2", "F16C", "FMA", "BMI2")
    assert unified_gpu(parse_sysctl(INTEL)) is None


def test_metal_limits_as_llama_cpp_prints_them() -> None:
    """ "using device Metal (Apple M4) - 10922 MiB free" on 16 GB; 21845 on 32, 49152 on 64."""
    printed = {16: 10922, 32: 21845, 36: 27648, 64: 49152, 128: 98304}
    assert {g: metal_working_set_bytes(g * GIB) >> 20 for g in printed} == printed


def test_no_answer_is_still_a_cpu() -> None:
    cpu = cpu_from_sysctl({})
    assert cpu.model == "unknown"
    assert cpu.threads == 1
    assert unified_gpu({}) is None
