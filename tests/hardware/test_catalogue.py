"""The catalogue: names as people write them, names as drivers report them, sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import UsageProblem
from localllm.hardware.catalogue import candidates, catalogue, match_gpu, parse_gpu_spec, parse_size

GIB = 1 << 30
MIB = 1 << 20

SPECS = [
    ("RTX 4060 Ti 16 GB:3", "RTX 4060 Ti 16 GB", 3),
    ("rtx4060ti 16gb", "RTX 4060 Ti 16 GB", 1),
    ("NVIDIA GeForce RTX 4060 Ti 8GB", "RTX 4060 Ti 8 GB", 1),
    ("RTX 4060 Ti 16", "RTX 4060 Ti 16 GB", 1),
    ("4090", "RTX 4090 24 GB", 1),
    ("4090 x2", "RTX 4090 24 GB", 2),
    ("RTX-3090", "RTX 3090 24 GB", 1),
    ("geforce gtx 1080 ti : 2", "GTX 1080 Ti 11 GB", 2),
    ("1080ti", "GTX 1080 Ti 11 GB", 1),
    ("RTX 4090 Laptop GPU", "RTX 4090 Laptop 16 GB", 1),
    ("RTX 3080 10GB", "RTX 3080 10 GB", 1),
    ("RTX 6000 Ada Generation", "RTX 6000 Ada 48 GB", 1),
    ("RTX PRO 6000", "RTX PRO 6000 Blackwell 96 GB", 1),
    ("A100 80GB PCIe", "A100 PCIe 80 GB", 1),
    ("A100 SXM 40 GB:8", "A100 SXM 40 GB", 8),
    ("Tesla T4", "T4 16 GB", 1),
    ("h200", "H200 141 GB", 1),
    ("L40S", "L40S 48 GB", 1),
    ("Radeon RX 7900 XTX", "RX 7900 XTX 24 GB", 1),
    ("7900 xtx", "RX 7900 XTX 24 GB", 1),
    ("AMD Instinct MI300X", "MI300X 192 GB", 1),
    ("Strix Halo 128 GB", "Ryzen AI Max 128 GB", 1),
    ("Arc A770 16GB", "Arc A770 16 GB", 1),
    ("Apple M2 Max 64 GB", "M2 Max 64 GB", 1),
    ("M4 Pro 48GB", "M4 Pro 48 GB", 1),
]


@pytest.mark.parametrize(("text", "name", "count"), SPECS)
def test_specs(text: str, name: str, count: int) -> None:
    model, found = parse_gpu_spec(text)
    assert (model.name, found) == (name, count)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("RTX 4060 Ti", ["RTX 4060 Ti 8 GB", "RTX 4060 Ti 16 GB"]),
        ("RTX 3080", ["RTX 3080 10 GB", "RTX 3080 12 GB"]),
        ("RTX 4090 16 GB", ["RTX 4090 24 GB"]),
        ("M2 Max", ["M2 Max 32 GB", "M2 Max 64 GB", "M2 Max 96 GB"]),
    ],
)
def test_a_name_that_fits_several_lists_them(text: str, choices: list[str]) -> None:
    with pytest.raises(UsageProblem) as problem:
        parse_gpu_spec(text)
    assert problem.value.hint is not None
    for choice in choices:
        assert f'"{choice}"' in problem.value.hint


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("RTX 4096", "RTX 4090 24 GB"),
        ("A100", "A100 SXM 80 GB"),
        ("RX 7900 XTZ", "RX 7900 XTX 24 GB"),
        ("H100", "H100 SXM 80 GB"),
    ],
)
def test_an_unknown_name_offers_near_ones(text: str, near: str) -> None:
    with pytest.raises(UsageProblem, match="catalogue") as problem:
        parse_gpu_spec(text)
    assert problem.value.hint is not None and near in problem.value.hint


@pytest.mark.parametrize("text", ["", ":", "   ", "16 GB", "NVIDIA", "zzzzzzzz", "\0", "(" * 50])
def test_nonsense_is_a_usage_problem(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_gpu_spec(text)


@pytest.mark.parametrize("count", ["0", "17", "9" * 20, "9" * 5000, "²"])
def test_absurd_counts(count: str) -> None:
    with pytest.raises(UsageProblem):
        parse_gpu_spec(f"RTX 4090:{count}")


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_usage_problem(text: str) -> None:
    try:
        model, count = parse_gpu_spec(text)
    except UsageProblem as problem:
        assert "\n" not in problem.message
    else:
        assert model in catalogue() and count >= 1


def test_every_row_is_found_by_its_own_name() -> None:
    for model in catalogue():
        assert parse_gpu_spec(model.name) == (model, 1), model.name
        assert parse_gpu_spec(model.name.lower().replace(" ", "")) == (model, 1), model.name


@pytest.mark.parametrize(
    ("name", "total_mib", "expected"),
    [
        # as drivers print them
        ("NVIDIA GeForce RTX 4090", 24564, "RTX 4090 24 GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "RTX 4060 Ti 16 GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, "RTX 4060 Ti 8 GB"),
        ("NVIDIA GeForce GTX 1080 Ti", 11264, "GTX 1080 Ti 11 GB"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 16384, "RTX 3080 Laptop 16 GB"),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100 SXM 80 GB"),
        ("NVIDIA A100-SXM4-40GB", 40960, "A100 SXM 40 GB"),
        ("NVIDIA A100 80GB PCIe", 81920, "A100 PCIe 80 GB"),
        ("NVIDIA H100 80GB HBM3", 81559, "H100 SXM 80 GB"),
        ("NVIDIA H100 PCIe", 81559, "H100 PCIe 80 GB"),
        ("NVIDIA H200", 143771, "H200 141 GB"),
        ("NVIDIA GH200 480GB", 97871, "GH200 96 GB"),
        ("NVIDIA L4", 23034, "L4 24 GB"),
        ("Tesla T4", 15360, "T4 16 GB"),
        ("Tesla V100-SXM2-32GB", 32768, "V100 32 GB"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "RTX 6000 Ada 48 GB"),
        ("Quadro RTX 6000", 24576, "Quadro RTX 6000 24 GB"),
        (
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            97887,
            "RTX PRO 6000 Blackwell 96 GB",
        ),
        ("NVIDIA GB10", None, "GB10 128 GB"),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", 24560, "RX 7900 XTX 24 GB"),
        ("Intel(R) Arc(TM) A770 Graphics", 16288, "Arc A770 16 GB"),
        ("NVIDIA GeForce RTX 9999", 1, None),
        ("NVIDIA GeForce RTX 4060 Ti", None, None),
        ("", None, None),
    ],
)
def test_driver_names(name: str, total_mib: int | None, expected: str | None) -> None:
    model = match_gpu(name, total_mib * MIB if total_mib else None)
    assert (model.name if model else None) == expected


def test_apple_sizes_are_told_apart_by_what_metal_allows() -> None:
    """M3 Max was sold with two memory widths; the size says which."""
    small, large = candidates("Apple M3 Max", 27 * GIB), candidates("Apple M3 Max", 96 * GIB)
    assert [m.name for m in small] == ["M3 Max 36 GB"]
    assert [(m.name, m.bandwidth_bytes_s) for m in large] == [("M3 Max 128 GB", 400 * 10**9)]
    everything = candidates("Apple M3 Max", 1)
    assert len(everything) == 5


@pytest.mark.parametrize(
    ("spec", "gb_s"),
    [  # the makers' data sheets, to a gigabyte a second
        ("GTX 1080 Ti", 484), ("RTX 3090", 936), ("RTX 4060 Ti 16 GB", 288), ("RTX 4090", 1008),
        ("RTX 5090", 1792), ("RTX 3060 12 GB", 360), ("RTX 4070 Ti SUPER", 672), ("T4", 320),
        ("L4", 300), ("L40S", 864), ("A10", 600), ("RTX A6000", 768), ("RTX 6000 Ada", 960),
        ("A100 SXM 80 GB", 2039), ("H100 SXM", 3352), ("RX 7900 XTX", 960), ("MI300X", 5300),
        ("RX 6800 XT", 512), ("Arc B580", 456), ("M2 Ultra 192 GB", 800), ("M4 Pro 24 GB", 273),
    ],
)  # fmt: skip
def test_published_bandwidths(spec: str, gb_s: int) -> None:
    assert abs(parse_gpu_spec(spec)[0].bandwidth_bytes_s / 1e9 - gb_s) < 1


@pytest.mark.parametrize(
    ("spec", "driver_total_mib"),
    [("L4", 23034), ("T4", 15360), ("A10", 23028), ("L40S", 46068), ("RTX 4090", 24564)],
)
def test_driver_totals(spec: str, driver_total_mib: int) -> None:
    """As nvidia-smi prints them: the model is right to 0.1 %, ECC included."""
    modelled = parse_gpu_spec(spec)[0].driver_total_bytes / MIB
    assert abs(modelled / driver_total_mib - 1) < 0.001


@pytest.mark.parametrize(
    ("spec", "free_mib"),
    [  # what llama.cpp printed as free on idle cards under Linux
        ("RTX 3090", 23982), ("RTX 4090", 23999), ("H100 SXM", 80565), ("RX 7900 XTX", 23737),
        ("RTX 5090", 31600), ("M2 Pro 16 GB", 10922),
    ],
)  # fmt: skip
def test_usable_memory_is_modelled_to_two_percent(spec: str, free_mib: int) -> None:
    assert abs(parse_gpu_spec(spec)[0].usable_bytes / MIB / free_mib - 1) < 0.02


def test_every_row_is_plausible() -> None:
    for model in catalogue():
        assert GIB <= model.vram_bytes <= 512 * GIB, model
        assert 50e9 <= model.bandwidth_bytes_s <= 8e12, model
        assert 0 < model.usable_bytes < model.vram_bytes, model
    assert len({m.name for m in catalogue()}) == len(catalogue())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * GIB), ("24G", 24 * GIB), ("16 GB", 16 * GIB), ("8192MiB", 8 * GIB),
        ("8192 mb", 8 * GIB), ("1.5g", 3 * GIB // 2), ("1TiB", 1024 * GIB), (" 512m ", 512 * MIB),
        ("1048576", MIB), ("25769803776b", 24 * GIB), ("2097152K", 2 * GIB),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "24", "G", "-1G", "1e9", "24GiBs", "24 G iB", "1.G", "9" * 5000, "1²G"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_size(text)


@given(st.integers(1, 10**6), st.sampled_from(["K", "MB", "GiB", "t"]))
def test_sizes_round_trip(number: int, unit: str) -> None:
    factor = {"K": 1 << 10, "MB": 1 << 20, "GiB": 1 << 30, "t": 1 << 40}[unit]
    assert parse_size(f"{number}{unit}") == number * factor
