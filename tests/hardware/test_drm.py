"""GPUs from sysfs: amdgpu with its memory, Intel without, NVIDIA without a driver."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from localllm.hardware.detect import detect
from localllm.hardware.drm import nvidia_on_bus, read_drm
from tests.hardware.conftest import Plant

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sysfs names hold colons")
GIB = 1 << 30
PCI_IDS = (
    "# pci.ids\n"
    "1002  Advanced Micro Devices, Inc. [AMD/ATI]\n"
    "\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]\n"
    "\t\t1002 0e3b  RX 7900 GRE [XFX]\n"
    "8086  Intel Corporation\n"
    "\t56a0  DG2 [Arc A770]\n"
)


def card(root: Path, number: int, address: str, files: dict[str, str]) -> None:
    """A card as sysfs has it: /sys/class/drm/cardN/device -> the PCI device's folder."""
    device = root / "sys/devices/pci0000:00" / address
    device.mkdir(parents=True)
    for name, text in files.items():
        (device / name).write_text(text + "\n")
    link = root / f"sys/class/drm/card{number}"
    link.mkdir(parents=True)
    (link / "device").symlink_to(device)
    bus = root / "sys/bus/pci/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / address).symlink_to(device)


@pytest.fixture
def radeon(plant: Plant) -> Path:
    root = plant({"usr/share/misc/pci.ids": PCI_IDS})
    files = {
        "vendor": "0x1002",
        "device": "0x744c",
        "mem_info_vram_total": str(24 * GIB - (16 << 20)),
        "mem_info_vram_used": str(GIB),
        "mem_info_gtt_total": str(31 * GIB),
        "current_link_width": "16",
    }
    card(root, 1, "0000:03:00.0", files)
    (root / "sys/class/drm/card1-DP-1").mkdir()
    return root


def test_an_amdgpu_tells_its_memory(radeon: Path) -> None:
    (gpu,) = read_drm(radeon)
    assert (gpu.vendor, gpu.index, gpu.pci_bus_id) == ("amd", 1, "0000:03:00.0")
    assert gpu.name == "AMD Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]"
    assert gpu.total_bytes == 24 * GIB - (16 << 20)
    assert gpu.free_bytes == 23 * GIB - (16 << 20)
    assert gpu.shared_bytes == 31 * GIB
    assert gpu.unified is False


def test_a_product_name_is_better_than_the_list(radeon: Path) -> None:
    device = radeon / "sys/devices/pci0000:00/0000:03:00.0"
    (device / "product_name").write_text("AMD Radeon PRO W7900\n")
    (gpu,) = read_drm(radeon)
    assert gpu.name == "AMD Radeon PRO W7900"


def test_intel_integrated_and_arc(plant: Plant) -> None:
    root = plant({"usr/share/hwdata/pci.ids": PCI_IDS})
    card(root, 0, "0000:00:02.0", {"vendor": "0x8086", "device": "0xa780"})
    card(root, 1, "0000:04:00.0", {"vendor": "0x8086", "device": "0x56a0"})
    card(root, 10, "0000:05:00.0", {"vendor": "0x1a03", "device": "0x2000"})  # a server's BMC
    integrated, arc = read_drm(root)
    assert (integrated.name, integrated.unified) == ("Intel GPU 0xa780", True)
    assert (arc.name, arc.unified, arc.total_bytes) == ("Intel DG2 [Arc A770]", False, None)


def test_nvidia_without_a_driver(plant: Plant) -> None:
    root = plant({})
    assert nvidia_on_bus(root) is False
    card(root, 0, "0000:01:00.0", {"vendor": "0x10de", "device": "0x2684", "class": "0x030000"})
    assert nvidia_on_bus(root) is True


def test_nvidias_audio_function_is_no_gpu(plant: Plant) -> None:
    root = plant(
        {
            "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
        }
    )
    assert nvidia_on_bus(root) is False


@pytest.mark.skipif(sys.platform != "linux", reason="sysfs is Linux's")
def test_detect_lists_the_radeon_with_its_bandwidth(radeon: Path) -> None:
    device = radeon / "sys/devices/pci0000:00/0000:03:00.0"
    (device / "product_name").write_text("AMD Radeon RX 7900 XTX\n")
    gpu = next(g for g in detect(root=radeon).gpus if g.vendor == "amd")
    assert gpu.bandwidth_bytes_s == 960_000_000_000
    assert gpu.bandwidth_basis == "catalogue"
