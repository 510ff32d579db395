"""CUDA_VISIBLE_DEVICES, as CUDA reads it."""

from __future__ import annotations

import pytest

from localllm.hardware.machine import Gpu
from localllm.hardware.visibility import apply_visible_devices


def gpu(index: int, name: str = "NVIDIA L4", uuid: str = "", parent: int | None = None) -> Gpu:
    return Gpu(
        source="nvml",
        kind="gpu" if parent is None else "mig_instance",
        vendor="nvidia",
        index=index,
        name=name,
        uuid=uuid or f"GPU-{index}{index}aa",
        parent_index=parent,
    )


FOUR = [gpu(i) for i in range(4)]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", [0]),
        ("3,1", [1, 3]),
        (" 2 , 0 ", [0, 2]),
        ("1,-1,2", [1]),
        ("1,9,2", [1]),
        ("1,²,2", [1]),
        ("9" * 5000, []),
        ("GPU-22aa", [2]),
        ("GPU-3", [3]),  # a beginning is enough when it is unique
        ("GPU-", []),
        ("0,GPU-11aa", [0, 1]),
    ],
)
def test_what_is_seen(value: str | None, seen: list[int]) -> None:
    marked = apply_visible_devices(FOUR, value, None)
    assert [g.index for g in marked.gpus if g.usable] == seen


def test_a_name_that_is_no_gpu_is_a_finding() -> None:
    (finding,) = apply_visible_devices(FOUR, "1,x", None).findings
    assert finding.kind == "visible_devices_invalid"
    assert "'x'" in finding.message
    assert apply_visible_devices(FOUR, "1,-1", None).findings == ()


def test_indices_of_unlike_gpus_depend_on_the_order() -> None:
    mixed = [gpu(0, "NVIDIA GeForce RTX 3060"), gpu(1, "NVIDIA GeForce RTX 4090")]
    kinds = [f.kind for f in apply_visible_devices(mixed, "0", None).findings]
    assert kinds == ["visible_devices_order"]
    assert apply_visible_devices(mixed, "0", "PCI_BUS_ID").findings == ()
    assert apply_visible_devices(mixed, "GPU-00aa", None).findings == ()


def test_mig_instances_follow_their_uuid_or_their_parent() -> None:
    parent = gpu(0)
    slices = [gpu(i, uuid=f"MIG-{i}", parent=0) for i in range(2)]
    marked = apply_visible_devices([parent, *slices], "MIG-1", None).gpus
    assert [g.hidden_by is None for g in marked] == [False, False, True]
    marked = apply_visible_devices([parent, *slices], "0", None).gpus
    assert [g.hidden_by is None for g in marked] == [True, True, True]


def test_other_vendors_are_left_alone() -> None:
    radeon = Gpu(source="drm", kind="gpu", vendor="amd", index=0, name="AMD Radeon RX 7900 XTX")
    assert apply_visible_devices([radeon], "", None).gpus == (radeon,)
