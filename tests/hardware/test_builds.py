"""Setting the machine's GPUs against what a build of llama.cpp offers."""

from __future__ import annotations

from dataclasses import replace

from localllm.hardware.builds import BackendDevice, match_build, rebuild_command, rebuilds_for
from localllm.hardware.machine import Gpu, Vendor, canonical_pci_id

GIB = 1 << 30


def nvidia(index: int, name: str = "NVIDIA GeForce RTX 4090") -> Gpu:
    return Gpu(
        source="nvml",
        kind="gpu",
        vendor="nvidia",
        index=index,
        name=name,
        pci_bus_id=f"0000:0{index + 1}:00.0",
        total_bytes=24 * GIB,
        free_bytes=23 * GIB,
    )


def from_sysfs(vendor: Vendor, name: str, total: int | None = None) -> Gpu:
    return Gpu(source="drm", kind="gpu", vendor=vendor, index=0, name=name, total_bytes=total)


def offered(name: str, description: str, device_id: str | None = None) -> BackendDevice:
    return BackendDevice(name, description, "gpu", 24 * GIB, 23 * GIB, device_id)


CPU = BackendDevice("CPU", "AMD Ryzen 9", "cpu", 64 * GIB, 60 * GIB)


def test_a_cpu_build_on_a_machine_with_a_gpu() -> None:
    match = match_build([nvidia(0)], [CPU], system="Linux")
    assert match.usable == () and match.others == ()
    (unused,) = match.unused
    assert unused.reason == "no_backend"
    assert [r.backend for r in unused.rebuilds] == ["CUDA", "Vulkan"]
    assert unused.rebuilds[0].command == (
        'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-deps --no-cache-dir '
        "'llama-cpp-python>=0.3.36,<0.4'"
    )


def test_the_command_for_powershell() -> None:
    assert rebuild_command("CUDA", "Windows") == (
        '$env:CMAKE_ARGS="-DGGML_CUDA=on"; pip install --force-reinstall --no-deps --no-cache-dir '
        "'llama-cpp-python>=0.3.36,<0.4'"
    )


def test_each_vendor_has_its_builds() -> None:
    assert [r.backend for r in rebuilds_for("amd", "Linux")] == ["HIP", "Vulkan"]
    assert [r.backend for r in rebuilds_for("amd", "Windows")] == ["Vulkan", "HIP"]
    assert [r.backend for r in rebuilds_for("intel", "Linux")] == ["SYCL", "Vulkan"]
    assert [r.backend for r in rebuilds_for("apple", "Darwin")] == ["Metal"]
    assert "-DGGML_METAL=on" in rebuilds_for("apple", "Darwin")[0].command


def test_the_pci_address_decides_between_like_cards() -> None:
    gpus = [nvidia(0), nvidia(1)]
    devices = [
        CPU,
        offered("CUDA0", "NVIDIA GeForce RTX 4090", "0000:02:00.0"),
        offered("CUDA1", "NVIDIA GeForce RTX 4090", "0000:01:00.0"),
    ]
    match = match_build(gpus, devices)
    assert [(u.gpu.index, u.devices[0].name) for u in match.usable] == [(0, "CUDA1"), (1, "CUDA0")]
    assert match.unused == ()


def test_like_cards_without_addresses_go_in_order() -> None:
    devices = [offered(f"CUDA{i}", "NVIDIA GeForce RTX 4090") for i in range(2)]
    match = match_build([nvidia(0), nvidia(1)], devices)
    assert [u.devices[0].name for u in match.usable] == ["CUDA0", "CUDA1"]


def test_one_gpu_offered_by_two_backends() -> None:
    devices = [
        offered("CUDA0", "NVIDIA GeForce RTX 4090"),
        offered("Vulkan0", "NVIDIA GeForce RTX 4090"),
    ]
    match = match_build([nvidia(0)], devices)
    assert [d.name for d in match.usable[0].devices] == ["CUDA0", "Vulkan0"]
    assert match.others == ()


def test_vulkan_adds_the_drivers_name_in_brackets() -> None:
    radeon = from_sysfs("amd", "AMD Radeon RX 7900 XTX", 24 * GIB)
    match = match_build([radeon], [offered("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)")])
    assert len(match.usable) == 1


def test_a_chips_name_matches_by_vendor() -> None:
    chip = from_sysfs("amd", "AMD Navi 31 [Radeon RX 7900 XT/7900 XTX]", 24 * GIB)
    match = match_build([chip], [offered("ROCm0", "AMD Radeon RX 7900 XTX")])
    assert match.usable[0].devices[0].backend == "HIP"


def test_different_cards_of_one_vendor_do_not_match() -> None:
    gpus = [nvidia(0, "NVIDIA GeForce RTX 4090")]
    match = match_build(gpus, [offered("CUDA0", "NVIDIA GeForce RTX 3060")])
    assert match.usable == ()
    assert [d.name for d in match.others] == ["CUDA0"]
    elsewhere = offered("CUDA0", "NVIDIA GeForce RTX 4090", "0000:99:00.0")
    assert match_build(gpus, [elsewhere]).usable == ()


def test_a_backend_that_is_built_in_but_does_not_offer_the_gpu() -> None:
    match = match_build([nvidia(0)], [CPU], backends=["CUDA", "CPU"])
    (unused,) = match.unused
    assert unused.reason == "not_offered"
    assert unused.rebuilds == ()


def test_a_hidden_gpu_needs_no_build() -> None:
    hidden = replace(nvidia(0), hidden_by="CUDA_VISIBLE_DEVICES")
    (unused,) = match_build([hidden], [CPU]).unused
    assert (unused.reason, unused.rebuilds) == ("hidden", ())


def test_a_mig_parent_is_not_asked_for() -> None:
    parent = replace(nvidia(0), kind="mig_parent")
    match = match_build([parent], [CPU])
    assert match.usable == () and match.unused == ()


def test_metal_says_how_much_memory_there_really_is() -> None:
    apple = Gpu(
        source="apple",
        kind="gpu",
        vendor="apple",
        index=0,
        name="Apple M2 Max",
        total_bytes=48 * GIB,
        unified=True,
    )
    device = BackendDevice("MTL0", "Apple M2 Max", "gpu", 50 * GIB, 49 * GIB)
    (usable,) = match_build([apple], [device], system="Darwin").usable
    assert (usable.gpu.total_bytes, usable.gpu.free_bytes) == (50 * GIB, 49 * GIB)


def test_memory_that_sysfs_does_not_tell_comes_from_the_backend() -> None:
    arc = from_sysfs("intel", "Intel DG2 [Arc A770]")
    (usable,) = match_build([arc], [offered("SYCL0", "Intel(R) Arc(TM) A770 Graphics")]).usable
    assert usable.gpu.total_bytes == 24 * GIB


def test_remote_and_unknown_devices_are_others() -> None:
    remote = offered("RPC0[10.0.0.2:50052]", "NVIDIA GeForce RTX 4090")
    match = match_build([nvidia(0)], [remote])
    assert match.usable == ()
    assert match.others == (remote,)


def test_pci_addresses_in_every_spelling() -> None:
    assert canonical_pci_id("00000000:0A:00.0") == "0000:0a:00.0"
    assert canonical_pci_id("0000:0a:00.0") == "0000:0a:00.0"
    assert canonical_pci_id("0a:00.0") == "0000:0a:00.0"
    assert canonical_pci_id("00010000:C1:1f.7") == "10000:c1:1f.7"
    assert canonical_pci_id("usb1") is None
