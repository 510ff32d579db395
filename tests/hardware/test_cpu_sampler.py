"""The processor's samplers on planted /proc and /sys trees, and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from localllm.hardware import cgroup
from localllm.hardware.cpu_sampler import CpuSampler
from localllm.hardware.cpu_times import CpuTimes, cpu_times, cpu_use
from localllm.hardware.rapl import packages
from tests.hardware.conftest import Plant

CPU = "sys/devices/system/cpu"
POWERCAP = "sys/class/powercap"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def rapl(folder: str, name: str, energy: int, span: int = 1_000_000) -> dict[str, str]:
    base = f"{POWERCAP}/{folder}"
    return {
        f"{base}/name": f"{name}\n",
        f"{base}/energy_uj": f"{energy}\n",
        f"{base}/max_energy_range_uj": f"{span}\n",
    }


# --- energy ------------------------------------------------------------------------------


def test_packages_are_summed_and_nothing_is_counted_twice(plant: Plant) -> None:
    root = plant(
        rapl("intel-rapl:0", "package-0", 500_000)
        | rapl("intel-rapl:1", "package-1", 100_000)
        | rapl("intel-rapl:2", "psys", 7)
        | rapl("intel-rapl:0:0", "core", 7)
        | rapl("intel-rapl:0:1", "dram", 7)
        | rapl("intel-rapl-mmio:0", "package-0", 7)
    )
    found = packages(root)
    assert [p.name for p in found.packages] == ["package-0", "package-1"]
    before = found.read()
    assert before == (500_000, 100_000)
    plant(rapl("intel-rapl:0", "package-0", 800_000) | rapl("intel-rapl:1", "package-1", 150_000))
    after = found.read()
    assert after is not None
    assert found.joules(before, after) == pytest.approx(0.35)


def test_a_counter_that_turned_over(plant: Plant) -> None:
    found = packages(plant(rapl("intel-rapl:0", "package-0", 999_990)))
    # From 999,990 to the last value 1,000,000, to 0, to 89: 100 steps.
    assert found.joules((999_990,), (89,)) == pytest.approx(100e-6)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file permissions of Unix")
def test_no_permission_is_a_reason_and_not_zero() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in rapl("intel-rapl:0", "package-0", 1).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        root.chmod(0o755)
        (root / POWERCAP / "intel-rapl:0/energy_uj").chmod(0)
        with ordinary_user():
            found = packages(root)
        assert found.read() is None
        assert "root" in (found.refused or "")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """The superuser reads everything: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_machine_without_counters_says_so(plant: Plant) -> None:
    with CpuSampler(0.01, root=plant({"proc/stat": ""})) as sampler:
        pass
    assert sampler.load is not None
    assert sampler.load.energy_j is None and sampler.load.mean_power_w is None
    assert "no energy counters" in (sampler.load.energy_refused or "")


# --- time --------------------------------------------------------------------------------


def test_busy_time_is_of_the_cpus_that_may_be_used(plant: Plant) -> None:
    #       user nice system idle iowait irq softirq steal guest guest_nice
    stat = (
        "cpu  999 999 999 999 999 999 999 999 0 0\n"
        "cpu0 100 20 30 5000 70 4 6 50 90 0\n"
        "cpu1 200 0 0 5000 0 0 0 0 0 0\n"
        "cpu2 7000 0 0 5000 0 0 0 0 0 0\n"
        "intr 5\n"
    )
    root = plant({"proc/stat": stat})
    times = cpu_times(root, frozenset({0, 1}))
    assert times.busy_s == pytest.approx((160 + 200) / TICKS)  # without idle, iowait and steal
    assert times.stolen_s == pytest.approx(50 / TICKS)
    assert cpu_times(root).busy_s == pytest.approx((160 + 200 + 7000) / TICKS)


def test_the_load_between_two_readings() -> None:
    use = cpu_use(CpuTimes(10, 5, 100, 1), CpuTimes(14, 11, 108, 1.4))
    assert (use.measured_s, use.own_cores) == (4, 1.5)
    assert use.other_cores == 0.5  # 8 s of everyone's, 6 of them our own
    assert use.stolen_cores == pytest.approx(0.1)


BUSY = "import time; t = time.perf_counter()\nwhile time.perf_counter() - t < {}: pass"


def test_a_child_is_our_own_while_it_runs_and_after() -> None:
    before = cpu_times()
    child = subprocess.Popen([sys.executable, "-c", BUSY.format(30)])
    try:
        deadline = time.monotonic() + 20
        while cpu_times().own_s - before.own_s < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
        running = cpu_times()
    finally:
        child.kill()
        child.wait()
    ended = cpu_times()
    assert running.own_s - before.own_s >= 0.3
    assert ended.own_s >= running.own_s - 0.02  # of the kernel's ticks


def test_native_threads_are_counted() -> None:
    """hashlib hashes long input without the GIL: two threads are two cores' work."""
    import hashlib
    import threading

    data = bytes(64 << 20)
    before = cpu_times()
    threads = [threading.Thread(target=hashlib.sha256, args=(data,)) for _ in range(2)]
    single = time.thread_time()
    hashlib.sha256(data)
    single = time.thread_time() - single
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # three in all; the one alone may have met a slower clock
    assert cpu_times().own_s - before.own_s > 1.6 * single


# --- the sampler -------------------------------------------------------------------------


def machine(plant: Plant, **more: str) -> Path:
    files = {
        "proc/stat": "cpu0 0 0 0 0 0 0 0 0 0 0\n",
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
        f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "2000000\n",
        "sys/class/hwmon/hwmon0/name": "nvme\n",
        "sys/class/hwmon/hwmon0/temp1_input": "99000\n",
        "sys/class/hwmon/hwmon1/name": "k10temp\n",
        "sys/class/hwmon/hwmon1/temp1_input": "61500\n",
        "sys/class/hwmon/hwmon1/temp3_input": "72250\n",
        f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "4\n",
        f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "0\n",
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/fs/cgroup/job/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_usec 5\n",
    }
    return plant(files | more | rapl("intel-rapl:0", "package-0", 100_000, 10**9))


def test_only_what_is_watched_counts(plant: Plant) -> None:
    root = machine(plant)
    with CpuSampler(0.01, root=root) as sampler:
        plant(rapl("intel-rapl:0", "package-0", 5_000_000, 10**9))  # not watched
        for joules in (6, 8):
            with sampler.watch():
                plant(rapl("intel-rapl:0", "package-0", joules * 10**6, 10**9))
                time.sleep(0.05)
    load = sampler.load
    assert load is not None
    assert load.energy_j == pytest.approx(3.0)  # 5 to 6 and 6 to 8
    assert 0.1 <= load.measured_s < 2
    assert load.mean_power_w == pytest.approx(3.0 / load.measured_s)
    assert load.mean_clock_hz == load.min_clock_hz == 3_000_000_000  # the other CPU is idle
    assert load.max_temperature_c == 72.25
    assert load.throttled == ()


def test_throttling_during_the_run_is_named(plant: Plant) -> None:
    root = machine(plant)
    with CpuSampler(0.01, root=root) as sampler, sampler.watch():
        machine(
            plant,
            **{
                f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "5\n",
                "sys/fs/cgroup/job/cpu.stat": "nr_periods 12\nnr_throttled 4\n",
            },
        )
    assert sampler.load is not None
    assert sampler.load.throttled == ("thermal", "quota")


def test_without_watching_the_whole_block_counts(plant: Plant) -> None:
    root = machine(plant)
    with CpuSampler(0.01, root=root) as sampler:
        plant(rapl("intel-rapl:0", "package-0", 300_000, 10**9))
    assert sampler.load is not None
    assert sampler.load.energy_j == pytest.approx(0.2)


def test_clocks_of_cpuinfo_where_there_is_no_cpufreq(plant: Plant) -> None:
    blocks = "processor\t: 0\ncpu MHz\t\t: 1500.5\n\nprocessor\t: 1\ncpu MHz\t\t: 2500.5\n\n"
    with CpuSampler(0.01, root=plant({"proc/cpuinfo": blocks, "proc/stat": ""})) as sampler:
        pass
    assert sampler.load is not None
    assert sampler.load.mean_clock_hz == 2_500_500_000


def test_the_sampler_is_idle_nearly_all_the_time() -> None:
    """Its own cost, as a share of the time: what it measures must not be itself."""
    with CpuSampler() as sampler:
        begun = time.process_time()
        time.sleep(1.5)
        spent = time.process_time() - begun
    assert spent / 1.5 < 0.05
    assert sampler.load is not None and sampler.load.own_cores < 0.1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="counts /proc/stat")
def test_another_process_is_seen_as_other_load() -> None:
    # Started by a process that ends at once, so that it is no child of ours.
    spin = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BUSY.format(2)!r}])"
    subprocess.run([sys.executable, "-c", spin], check=True)
    with CpuSampler() as sampler:
        time.sleep(1)
    assert sampler.load is not None
    assert sampler.load.other_cores > 0.25


def test_quota_stops_of_both_versions(plant: Plant) -> None:
    v2 = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/cgroup.controllers": "cpu\n",
        "sys/fs/cgroup/a/b/cpu.stat": "usage_usec 5\nnr_throttled 2\n",
        "sys/fs/cgroup/a/cpu.stat": "nr_throttled 7\n",
    }
    assert cgroup.quota_stops(plant(v2)) == 9


def test_quota_stops_of_version_1(plant: Plant) -> None:
    v1 = {
        "proc/self/cgroup": "3:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu/job/cpu.stat": "nr_periods 5\nnr_throttled 4\nthrottled_time 9\n",
    }
    assert cgroup.quota_stops(plant(v1)) == 4
    assert cgroup.quota_stops(plant({"proc/self/cgroup": ""})) == 0
