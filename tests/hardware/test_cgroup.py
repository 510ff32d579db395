"""Control groups as real systems lay them out: v2, v1, hybrid, nested, inside containers."""

from __future__ import annotations

from localllm.hardware.cgroup import cpu_quota, memory_levels, swap_limit
from localllm.hardware.linux import read_memory
from tests.hardware.conftest import Plant

GIB = 1 << 30
MEMINFO = """MemTotal:       65536000 kB
MemFree:         1000000 kB
MemAvailable:   50000000 kB
Buffers:          200000 kB
Cached:         40000000 kB
SwapTotal:       8388608 kB
SwapFree:        8000000 kB
"""
V2_MOUNT = (
    "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    "32 23 0:29 / /proc rw - proc proc rw\n"
)
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "33 31 0:29 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd\n"
    "34 31 0:30 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
    "35 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct\n"
)
V1_NO_LIMIT = "9223372036854771712\n"


def test_v2_max_everywhere_is_no_limit(plant: Plant) -> None:
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/user.slice/session-2.scope\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/session-2.scope/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/session-2.scope/memory.current": "123456\n",
        }
    )
    assert memory_levels(root) == ()
    assert cpu_quota(root) is None
    memory = read_memory(root)
    assert memory.total_bytes == 65536000 * 1024
    assert memory.available_bytes == memory.host_available_bytes == 50000000 * 1024
    assert memory.limit_bytes is None
    assert memory.usable_total_bytes == memory.total_bytes


def test_v2_nested_smallest_limit_wins_and_cache_is_not_used_memory(plant: Plant) -> None:
    pods = "sys/fs/cgroup/kubepods.slice"
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/kubepods.slice/pod7.slice/app.scope\n",
            "proc/self/mountinfo": V2_MOUNT,
            f"{pods}/memory.max": f"{32 * GIB}\n",
            f"{pods}/memory.current": f"{20 * GIB}\n",
            f"{pods}/memory.stat": f"anon {15 * GIB}\ninactive_file {4 * GIB}\nactive_file {GIB}\n",
            f"{pods}/pod7.slice/memory.max": f"{8 * GIB}\n",
            f"{pods}/pod7.slice/memory.current": f"{7 * GIB}\n",
            f"{pods}/pod7.slice/memory.stat": (
                f"anon {2 * GIB}\nfile {5 * GIB}\nshmem {GIB // 2}\n"
                f"inactive_file {3 * GIB}\nactive_file {GIB}\nslab_reclaimable {GIB // 4}\n"
            ),
            f"{pods}/pod7.slice/app.scope/memory.max": "max\n",
            f"{pods}/pod7.slice/app.scope/memory.current": f"{6 * GIB}\n",
            f"{pods}/pod7.slice/cpu.max": "150000 100000\n",
            f"{pods}/pod7.slice/app.scope/cpu.max": "400000 100000\n",
        }
    )
    memory = read_memory(root)
    assert memory.limit_bytes == 8 * GIB
    assert memory.limit_source == "/sys/fs/cgroup/kubepods.slice/pod7.slice/memory.max"
    assert memory.limit_used_bytes == 7 * GIB - 3 * GIB - GIB - GIB // 4  # shmem stays counted
    assert memory.available_bytes == 8 * GIB - memory.limit_used_bytes
    assert memory.usable_total_bytes == 8 * GIB
    quota = cpu_quota(root)
    assert quota is not None
    assert quota.cores == 1.5
    assert quota.source.endswith("pod7.slice/cpu.max")


def test_a_parent_with_the_larger_limit_can_have_less_room(plant: Plant) -> None:
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/batch/job\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/batch/memory.max": f"{16 * GIB}\n",
            "sys/fs/cgroup/batch/memory.current": f"{15 * GIB}\n",  # its other jobs
            "sys/fs/cgroup/batch/job/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/batch/job/memory.current": f"{1 * GIB}\n",
        }
    )
    memory = read_memory(root)
    assert memory.limit_bytes == 8 * GIB
    assert memory.available_bytes == 1 * GIB


def test_v2_memory_high_throttles_and_so_counts(plant: Plant) -> None:
    root = plant(
        {
            "proc/self/cgroup": "0::/jobs\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/jobs/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/jobs/memory.high": f"{6 * GIB}\n",
            "sys/fs/cgroup/jobs/memory.current": "0\n",
        }
    )
    (level,) = memory_levels(root)
    assert (level.limit_bytes, level.source) == (6 * GIB, "/sys/fs/cgroup/jobs/memory.high")


def test_v2_container_with_its_own_namespace_sees_its_limit_at_the_mount(plant: Plant) -> None:
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/memory.stat": f"inactive_file {GIB // 2}\nactive_file 0\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
        }
    )
    assert read_memory(root).available_bytes == 4 * GIB - GIB // 2
    quota = cpu_quota(root)
    assert quota is not None and quota.cores == 2.0


def test_v2_without_mountinfo_uses_the_usual_place(plant: Plant) -> None:
    root = plant(
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/job/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/job/memory.current": "0\n",
        }
    )
    assert [level.limit_bytes for level in memory_levels(root)] == [GIB]


def test_v1_docker_mounts_the_groups_root_elsewhere(plant: Plant) -> None:
    """Without a cgroup namespace the path in /proc/self/cgroup is the host's, and mountinfo
    says that just this part of the hierarchy is mounted."""
    group = "/docker/0123abc"
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": (
                f"12:cpu,cpuacct:{group}\n11:memory:{group}\n1:name=systemd:{group}\n0::/system.slice\n"
            ),
            "proc/self/mountinfo": (
                f"900 800 0:30 {group} /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
                f"901 800 0:31 {group} /sys/fs/cgroup/cpu,cpuacct ro - cgroup x rw,cpu,cpuacct\n"
            ),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": (
                f"cache {GIB // 2}\ninactive_file 1\ntotal_inactive_file {GIB // 4}\n"
                f"total_active_file {GIB // 8}\nhierarchical_memory_limit {2 * GIB}\n"
            ),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        }
    )
    memory = read_memory(root)
    assert memory.limit_bytes == 2 * GIB
    assert memory.limit_used_bytes == GIB - GIB // 4 - GIB // 8
    quota = cpu_quota(root)
    assert quota is not None and quota.cores == 0.5


def test_v1_walks_up_and_no_limit_is_a_huge_number(plant: Plant) -> None:
    memory = "sys/fs/cgroup/memory"
    cpu = "sys/fs/cgroup/cpu,cpuacct"
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/slurm/job_9/step_0\n3:cpu,cpuacct:/slurm/job_9\n",
            "proc/self/mountinfo": V1_MOUNTS,
            f"{memory}/memory.limit_in_bytes": V1_NO_LIMIT,
            f"{memory}/slurm/memory.limit_in_bytes": V1_NO_LIMIT,
            f"{memory}/slurm/job_9/memory.limit_in_bytes": f"{10 * GIB}\n",
            f"{memory}/slurm/job_9/memory.usage_in_bytes": f"{3 * GIB}\n",
            f"{memory}/slurm/job_9/step_0/memory.limit_in_bytes": V1_NO_LIMIT,
            f"{cpu}/cpu.cfs_quota_us": "-1\n",
            f"{cpu}/cpu.cfs_period_us": "100000\n",
            f"{cpu}/slurm/job_9/cpu.cfs_quota_us": "300000\n",
            f"{cpu}/slurm/job_9/cpu.cfs_period_us": "100000\n",
        }
    )
    read = read_memory(root)
    assert read.limit_source == "/sys/fs/cgroup/memory/slurm/job_9/memory.limit_in_bytes"
    assert read.available_bytes == 7 * GIB
    quota = cpu_quota(root)
    assert quota is not None and quota.cores == 3.0


def test_v1_limit_of_an_ancestor_that_is_not_mounted(plant: Plant) -> None:
    root = plant(
        {
            "proc/self/cgroup": "4:memory:/outer/inner\n",
            "proc/self/mountinfo": (
                "1 0 0:1 /outer/inner /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
            ),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_NO_LIMIT,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"hierarchical_memory_limit {5 * GIB}\n",
        }
    )
    (level,) = memory_levels(root)
    assert (level.limit_bytes, level.room_bytes) == (5 * GIB, 4 * GIB)


def test_hybrid_keeps_the_memory_controller_in_v1(plant: Plant) -> None:
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/box\n1:cpu:/\n0::/box.slice\n",
            "proc/self/mountinfo": (
                V1_MOUNTS + "38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            ),
            "sys/fs/cgroup/unified/box.slice/cgroup.procs": "1\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB}\n",
        }
    )
    assert read_memory(root).limit_bytes == 3 * GIB


def test_hybrid_with_limits_in_both_takes_the_smaller(plant: Plant) -> None:
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/box\n0::/box.slice\n",
            "proc/self/mountinfo": (
                V1_MOUNTS + "38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            ),
            "sys/fs/cgroup/unified/box.slice/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{3 * GIB}\n",
        }
    )
    assert read_memory(root).limit_bytes == 2 * GIB


def test_a_group_outside_the_namespace_falls_back_to_the_mount(plant: Plant) -> None:
    root = plant(
        {
            "proc/self/cgroup": "0::/../../elsewhere\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/elsewhere/memory.max": "1\n",
        }
    )
    assert [level.limit_bytes for level in memory_levels(root)] == [GIB]


def test_mount_points_with_spaces_are_unescaped(plant: Plant) -> None:
    root = plant(
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": "1 0 0:1 / /my\\040groups rw - cgroup2 none rw\n",
            "my groups/memory.max": f"{GIB}\n",
        }
    )
    assert [level.source for level in memory_levels(root)] == ["/my groups/memory.max"]


def test_a_limit_above_the_hosts_memory_is_no_limit(plant: Plant) -> None:
    root = plant(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/memory.max": f"{1024 * GIB}\n",
        }
    )
    assert read_memory(root).limit_bytes is None


def test_swap_stays_within_its_limit(plant: Plant) -> None:
    v2 = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/job\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/job/memory.swap.max": "0\n",
    }
    memory = read_memory(plant(v2))
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (0, 0)


def test_v1_swap_limit_is_what_both_allow_above_memory(plant: Plant) -> None:
    root = plant(
        {
            "proc/self/cgroup": "4:memory:/job\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.memsw.limit_in_bytes": f"{5 * GIB}\n",
        }
    )
    assert swap_limit(root) == GIB


def test_garbage_and_absence_are_no_limit(plant: Plant) -> None:
    assert memory_levels(plant({"proc/meminfo": MEMINFO})) == ()
    root = plant(
        {
            "proc/self/cgroup": "nonsense\n::::\n0::/a\n",
            "proc/self/mountinfo": "x y z\n1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n",
            "sys/fs/cgroup/a/memory.max": "lots\n",
            "sys/fs/cgroup/a/cpu.max": "100000 0\n",
        }
    )
    assert memory_levels(root) == ()
    assert cpu_quota(root) is None
