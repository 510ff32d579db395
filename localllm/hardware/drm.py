"""Linux: AMD, Intel and driverless NVIDIA GPUs from sysfs, without any vendor library."""

from __future__ import annotations

import re
from pathlib import Path

from localllm.hardware.machine import Finding, Gpu, Vendor, canonical_pci_id

PCI_VENDORS: dict[str, Vendor] = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
PCI_ID_FILES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


def read_drm(root: Path) -> tuple[Gpu, ...]:
    """The display and compute GPUs below /sys/class/drm, NVIDIA's among them, by card number.

    amdgpu tells its memory (`mem_info_*`); i915 and xe do not, so Intel's `total_bytes` is None.
    """
    gpus = []
    for card in sorted(root.glob("sys/class/drm/card[0-9]*"), key=lambda p: (len(p.name), p.name)):
        device = card / "device"
        vendor = PCI_VENDORS.get(_read(device / "vendor"))
        if vendor is None or not card.name.removeprefix("card").isdecimal():  # card0-HDMI-A-1
            continue
        gpus.append(_gpu(root, device, vendor, int(card.name.removeprefix("card"))))
    return tuple(gpus)


def nvidia_on_bus(root: Path) -> bool:
    """Whether an NVIDIA display or compute controller is on the PCI bus, driver or none."""
    for device in root.glob("sys/bus/pci/devices/*"):
        display = _read(device / "class").startswith(("0x0300", "0x0302"))
        if display and PCI_VENDORS.get(_read(device / "vendor")) == "nvidia":
            return True
    return any(gpu.vendor == "nvidia" for gpu in read_drm(root))


def without_driver() -> Finding:
    """An NVIDIA GPU that no NVIDIA driver serves (nouveau cannot compute)."""
    return Finding(
        "nvidia_without_driver",
        "NVIDIA driver",
        "an NVIDIA GPU is on the bus but no NVIDIA driver is installed",
        "install the driver (Debian: sudo apt install nvidia-driver; Ubuntu: sudo ubuntu-drivers "
        "install), or in a container start it with --gpus all",
    )


def _gpu(root: Path, device: Path, vendor: Vendor, index: int) -> Gpu:
    total = _number(device / "mem_info_vram_total")
    used = _number(device / "mem_info_vram_used")
    address = canonical_pci_id(device.resolve().name)
    return Gpu(
        source="drm",
        kind="gpu",
        vendor=vendor,
        index=index,
        name=_name(root, device, vendor),
        uuid=_read(device / "unique_id") or None,
        pci_bus_id=address,
        total_bytes=total,
        free_bytes=max(0, total - used) if total is not None and used is not None else None,
        used_bytes=used,
        shared_bytes=_number(device / "mem_info_gtt_total"),
        # Intel's integrated GPU has had this one address since there are any.
        unified=vendor == "intel" and address == "0000:00:02.0",
        pcie_width=_number(device / "current_link_width"),
    )


def _name(root: Path, device: Path, vendor: Vendor) -> str:
    """The product name: amdgpu's own, else from the machine's list of PCI ids, else the ids."""
    maker = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}[vendor]
    if product := _read(device / "product_name"):
        return product if maker.lower() in product.lower() else f"{maker} {product}"
    model = _read(device / "device")
    listed = _listed_name(root, _read(device / "vendor"), model)
    return f"{maker} {listed}" if listed else f"{maker} GPU {model}"


def _listed_name(root: Path, vendor_id: str, device_id: str) -> str | None:
    """The name in pci.ids: vendors at column 0, their devices after one tab."""
    if not (vendor_id.startswith("0x") and device_id.startswith("0x")):
        return None
    for name in PCI_ID_FILES:
        text = _read(root / name)
        vendor = re.search(rf"^{vendor_id[2:]}  .*\n((?:[\t#].*\n?)*)", text, re.MULTILINE)
        if vendor:
            found = re.search(rf"^\t{device_id[2:]}  (.+)$", vendor[1], re.MULTILINE)
            return found[1] if found else None
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdecimal() else None
