"""Published specifications of common GPUs: a row for each name, from the makers' data sheets.

Graphics memory is given as bus width times data rate, as the sheets do, so that a row can be
checked at sight: 384 bit at 21 Gbit/s a pin is 1008 GB/s. HBM and unified memory are given in
GB/s. Sizes are in GiB: what a GPU's box calls GB is 2^30 bytes. Left out: cards sold under one
name with different memory, where no driver tells them apart.
"""

from __future__ import annotations

from typing import NamedTuple

from localllm.hardware.machine import Vendor


class Row(NamedTuple):
    """`ecc`: the board ships with ECC that takes a sixteenth of its GDDR memory (HBM's is free).

    `drivers`: how drivers name it where that is more than maker and size around `name`.
    """

    name: str
    vendor: Vendor
    sizes_gib: tuple[int, ...]
    gb_s: float
    unified: bool = False
    ecc: bool = False
    drivers: tuple[str, ...] = ()


def _gddr(
    vendor: Vendor, name: str, sizes: tuple[int, ...], bits: int, gbit_s: float, ecc: bool = False
) -> Row:
    return Row(name, vendor, sizes, bits * gbit_s / 8, ecc=ecc)


def _nv(name: str, sizes: tuple[int, ...], bits: int, gbit_s: float, ecc: bool = False) -> Row:
    return _gddr("nvidia", name, sizes, bits, gbit_s, ecc)


def _hbm(name: str, sizes: tuple[int, ...], gb_s: float, *drivers: str) -> Row:
    return Row(name, "nvidia", sizes, gb_s, drivers=drivers)


def _amd(name: str, sizes: tuple[int, ...], bits: int, gbit_s: float) -> Row:
    return _gddr("amd", name, sizes, bits, gbit_s)


def _mi(name: str, sizes: tuple[int, ...], gb_s: float, unified: bool = False) -> Row:
    return Row(name, "amd", sizes, gb_s, unified=unified)


def _arc(name: str, sizes: tuple[int, ...], bits: int, gbit_s: float) -> Row:
    return _gddr("intel", name, sizes, bits, gbit_s)


def _apple(name: str, sizes: tuple[int, ...], gb_s: float) -> Row:
    return Row(name, "apple", sizes, gb_s, unified=True)


GEFORCE = (
    _nv("GTX 1050", (2,), 128, 7), _nv("GTX 1050 Ti", (4,), 128, 7),
    _nv("GTX 1060", (3, 6), 192, 8), _nv("GTX 1070", (8,), 256, 8),
    _nv("GTX 1070 Ti", (8,), 256, 8), _nv("GTX 1080", (8,), 256, 10),
    _nv("GTX 1080 Ti", (11,), 352, 11), _nv("Titan Xp", (12,), 384, 11.4),
    _nv("GTX 1650 SUPER", (4,), 128, 12), _nv("GTX 1660", (6,), 192, 8),
    _nv("GTX 1660 SUPER", (6,), 192, 14), _nv("GTX 1660 Ti", (6,), 192, 12),
    _nv("RTX 2060", (6, 12), 192, 14), _nv("RTX 2060 SUPER", (8,), 256, 14),
    _nv("RTX 2070", (8,), 256, 14), _nv("RTX 2070 SUPER", (8,), 256, 14),
    _nv("RTX 2080", (8,), 256, 14), _nv("RTX 2080 SUPER", (8,), 256, 15.5),
    _nv("RTX 2080 Ti", (11,), 352, 14), _nv("Titan RTX", (24,), 384, 14),
    _nv("RTX 3050", (8,), 128, 14), _nv("RTX 3050", (6,), 96, 14),
    _nv("RTX 3060", (12,), 192, 15), _nv("RTX 3060", (8,), 128, 15),
    _nv("RTX 3060 Ti", (8,), 256, 14), _nv("RTX 3070", (8,), 256, 14),
    _nv("RTX 3070 Ti", (8,), 256, 19), _nv("RTX 3080", (10,), 320, 19),
    _nv("RTX 3080", (12,), 384, 19), _nv("RTX 3080 Ti", (12,), 384, 19),
    _nv("RTX 3090", (24,), 384, 19.5), _nv("RTX 3090 Ti", (24,), 384, 21),
    _nv("RTX 4060", (8,), 128, 17), _nv("RTX 4060 Ti", (8, 16), 128, 18),
    _nv("RTX 4070", (12,), 192, 21), _nv("RTX 4070 SUPER", (12,), 192, 21),
    _nv("RTX 4070 Ti", (12,), 192, 21), _nv("RTX 4070 Ti SUPER", (16,), 256, 21),
    _nv("RTX 4080", (16,), 256, 22.4), _nv("RTX 4080 SUPER", (16,), 256, 23),
    _nv("RTX 4090", (24,), 384, 21), _nv("RTX 4090 D", (24,), 384, 21),
    _nv("RTX 5050", (8,), 128, 20), _nv("RTX 5060", (8,), 128, 28),
    _nv("RTX 5060 Ti", (8, 16), 128, 28), _nv("RTX 5070", (12,), 192, 28),
    _nv("RTX 5070 Ti", (16,), 256, 28), _nv("RTX 5080", (16,), 256, 30),
    _nv("RTX 5090", (32,), 512, 28), _nv("RTX 5090 D", (32,), 512, 28),
)  # fmt: skip

LAPTOP = (
    _nv("RTX 3060 Laptop", (6,), 192, 14), _nv("RTX 3070 Laptop", (8,), 256, 14),
    _nv("RTX 3070 Ti Laptop", (8,), 256, 14), _nv("RTX 3080 Laptop", (8, 16), 256, 14),
    _nv("RTX 3080 Ti Laptop", (16,), 256, 16), _nv("RTX 4050 Laptop", (6,), 96, 16),
    _nv("RTX 4060 Laptop", (8,), 128, 16), _nv("RTX 4070 Laptop", (8,), 128, 16),
    _nv("RTX 4080 Laptop", (12,), 192, 18), _nv("RTX 4090 Laptop", (16,), 256, 18),
    _nv("RTX 5060 Laptop", (8,), 128, 24), _nv("RTX 5070 Laptop", (8,), 128, 24),
    _nv("RTX 5070 Ti Laptop", (12,), 192, 28), _nv("RTX 5080 Laptop", (16,), 256, 28),
    _nv("RTX 5090 Laptop", (24,), 256, 28),
)  # fmt: skip

WORKSTATION = (
    _nv("Quadro RTX 4000", (8,), 256, 13), _nv("Quadro RTX 5000", (16,), 256, 14),
    _nv("Quadro RTX 6000", (24,), 384, 14), _nv("Quadro RTX 8000", (48,), 384, 14),
    _nv("RTX A2000", (6, 12), 192, 12), _nv("RTX A4000", (16,), 256, 14),
    _nv("RTX A4500", (20,), 320, 16), _nv("RTX A5000", (24,), 384, 16),
    _nv("RTX A5500", (24,), 384, 16), _nv("RTX A6000", (48,), 384, 16),
    _nv("RTX 2000 Ada", (16,), 128, 14), _nv("RTX 4000 Ada", (20,), 160, 18),
    _nv("RTX 4000 SFF Ada", (20,), 160, 14), _nv("RTX 4500 Ada", (24,), 192, 18),
    _nv("RTX 5000 Ada", (32,), 256, 18), _nv("RTX 5880 Ada", (48,), 384, 20),
    _nv("RTX 6000 Ada", (48,), 384, 20),
    _nv("RTX PRO 4000 Blackwell", (24,), 192, 28), _nv("RTX PRO 4500 Blackwell", (32,), 256, 28),
    _nv("RTX PRO 5000 Blackwell", (48,), 384, 28),
    Row("RTX PRO 6000 Blackwell", "nvidia", (96,), 1792, drivers=(
        "RTX PRO 6000 Blackwell Workstation Edition",
        "RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    )),
)  # fmt: skip

DATACENTRE = (
    _nv("P4", (8,), 256, 6, ecc=True), _nv("P40", (24,), 384, 7.2, ecc=True),
    _hbm("P100", (16,), 732, "P100-PCIE", "P100-SXM2"),
    _hbm("V100", (16, 32), 900, "V100-PCIE", "V100-SXM2", "V100-SXM3"),
    _nv("T4", (16,), 256, 10, ecc=True), _nv("A2", (16,), 128, 12.5, ecc=True),
    _nv("A10", (24,), 384, 12.5, ecc=True), _nv("A10G", (24,), 384, 12.5, ecc=True),
    _nv("A16", (16,), 128, 12.5, ecc=True), _hbm("A30", (24,), 933),
    _nv("A40", (48,), 384, 14.5, ecc=True),
    _hbm("A100 PCIe", (40,), 1555), _hbm("A100 PCIe", (80,), 1935),
    _hbm("A100 SXM", (40,), 1555, "A100-SXM4"), _hbm("A100 SXM", (80,), 2039, "A100-SXM4"),
    _nv("L4", (24,), 192, 12.5, ecc=True), _nv("L40", (48,), 384, 18, ecc=True),
    _nv("L40S", (48,), 384, 18, ecc=True),
    _hbm("H100 PCIe", (80,), 2039), _hbm("H100 SXM", (80,), 3352, "H100 HBM3"),
    _hbm("H100 NVL", (94,), 3938), _hbm("GH200", (96,), 4000, "GH200 480GB"),
    _hbm("H200", (141,), 4800), _hbm("H200 NVL", (141,), 4800), _hbm("B200", (180,), 8000),
    Row("GB10", "nvidia", (128,), 273, unified=True, drivers=("DGX Spark",)),
    Row("Jetson AGX Orin", "nvidia", (32, 64), 204.8, unified=True),
)  # fmt: skip

AMD = (
    _amd("RX 580", (8,), 256, 8), _amd("RX 5700 XT", (8,), 256, 14),
    _amd("RX 6600", (8,), 128, 14), _amd("RX 6600 XT", (8,), 128, 16),
    _amd("RX 6650 XT", (8,), 128, 17.5), _amd("RX 6700 XT", (12,), 192, 16),
    _amd("RX 6750 XT", (12,), 192, 18), _amd("RX 6800", (16,), 256, 16),
    _amd("RX 6800 XT", (16,), 256, 16), _amd("RX 6900 XT", (16,), 256, 16),
    _amd("RX 6950 XT", (16,), 256, 18), _amd("RX 7600", (8,), 128, 18),
    _amd("RX 7600 XT", (16,), 128, 18), _amd("RX 7700 XT", (12,), 192, 18),
    _amd("RX 7800 XT", (16,), 256, 19.5), _amd("RX 7900 GRE", (16,), 256, 18),
    _amd("RX 7900 XT", (20,), 320, 20), _amd("RX 7900 XTX", (24,), 384, 20),
    _amd("RX 9060 XT", (8, 16), 128, 20), _amd("RX 9070", (16,), 256, 20),
    _amd("RX 9070 XT", (16,), 256, 20), _mi("Radeon VII", (16,), 1024),
    _amd("PRO W6800", (32,), 256, 16), _amd("PRO W7600", (8,), 128, 18),
    _amd("PRO W7700", (16,), 256, 18), _amd("PRO W7800", (32,), 256, 18),
    _amd("PRO W7800", (48,), 384, 18), _amd("PRO W7900", (48,), 384, 18),
    _amd("AI PRO R9700", (32,), 256, 20),
    _mi("MI50", (16, 32), 1024), _mi("MI60", (32,), 1024), _mi("MI100", (32,), 1228.8),
    _mi("MI210", (64,), 1638.4), _mi("MI300X", (192,), 5300), _mi("MI325X", (256,), 6000),
    _mi("MI355X", (288,), 8000),
    # Two GPUs on one module: software sees each with its own half.
    _mi("MI250", (64,), 1638.4), _mi("MI250X", (64,), 1638.4),
    _mi("MI300A", (128,), 5300, unified=True),
    Row("Ryzen AI Max", "amd", (32, 64, 96, 128), 256, unified=True, drivers=(
        "Strix Halo", "Ryzen AI Max+ 395", "Radeon 8060S", "Radeon 8050S",
    )),
)  # fmt: skip

INTEL = (
    _arc("Arc A380", (6,), 96, 15.5), _arc("Arc A580", (8,), 256, 16),
    _arc("Arc A750", (8,), 256, 16), _arc("Arc A770", (8,), 256, 16),
    _arc("Arc A770", (16,), 256, 17.5), _arc("Arc B570", (10,), 160, 19),
    _arc("Arc B580", (12,), 192, 19), _arc("Arc Pro B50", (16,), 128, 14),
    _arc("Arc Pro B60", (24,), 192, 19),
)  # fmt: skip

APPLE = (
    _apple("M1", (8, 16), 68.25), _apple("M1 Pro", (16, 32), 200),
    _apple("M1 Max", (32, 64), 400), _apple("M1 Ultra", (64, 128), 800),
    _apple("M2", (8, 16, 24), 100), _apple("M2 Pro", (16, 32), 200),
    _apple("M2 Max", (32, 64, 96), 400), _apple("M2 Ultra", (64, 128, 192), 800),
    _apple("M3", (8, 16, 24), 100), _apple("M3 Pro", (18, 36), 150),
    _apple("M3 Max", (36, 96), 300), _apple("M3 Max", (48, 64, 128), 400),
    _apple("M3 Ultra", (96, 256, 512), 819), _apple("M4", (16, 24, 32), 120),
    _apple("M4 Pro", (24, 48, 64), 273), _apple("M4 Max", (36,), 410),
    _apple("M4 Max", (48, 64, 128), 546),
)  # fmt: skip

ROWS = (*GEFORCE, *LAPTOP, *WORKSTATION, *DATACENTRE, *AMD, *INTEL, *APPLE)
