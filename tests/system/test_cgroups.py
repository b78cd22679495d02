"""What control groups allow, read from trees of files as kernels show them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.config.settings import Settings
from penstock.config.worker_count import WORKER_BYTES, count_workers
from penstock.system.cgroups import Cgroups, resident_memory

MIB = 1 << 20
TOP = "sys/fs/cgroup"
UNIFIED = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
NO_LIMIT_1 = "9223372036854771712\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def version_2(root: Path, files: dict[str, str], group: str = "/a/b") -> Cgroups:
    """Return what is seen of a process in ``group``; ``files`` are relative to the top."""
    own = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": UNIFIED}
    return Cgroups(tree(root, own | {f"{TOP}/{name}": text for name, text in files.items()}))


def test_version_2_has_quota_limit_use_and_kills_in_one_place(tmp_path: Path) -> None:
    found = version_2(
        tmp_path,
        {
            "a/b/cpu.max": "350000 100000\n",
            "a/b/memory.max": f"{512 * MIB}\n",
            "a/b/memory.high": "max\n",
            "a/b/memory.current": "4096\n",
            "a/b/memory.events": "low 0\nhigh 4\nmax 5\noom 2\noom_kill 3\noom_group_kill 0\n",
        },
    )
    assert found.cpu_quota() == 3.5
    assert found.memory_limit() == 512 * MIB
    assert found.memory_current() == 4096
    assert found.oom_kills() == 3


def test_a_limit_of_any_group_above_counts(tmp_path: Path) -> None:
    found = version_2(
        tmp_path,
        {
            "a/b/cpu.max": "max 100000\n",
            "a/cpu.max": "150000 100000\n",
            "cpu.max": "400000 100000\n",
            "a/b/memory.max": "max\n",
            "a/memory.max": f"{300 * MIB}\n",
            "a/memory.high": f"{200 * MIB}\n",
            "memory.current": "7\n",
        },
    )
    assert found.cpu_quota() == 1.5
    assert found.memory_limit() == 200 * MIB
    assert found.memory_current() is None, "the use of others is not this group's"


def test_max_everywhere_is_no_limit(tmp_path: Path) -> None:
    found = version_2(tmp_path, {"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n"})
    assert (found.cpu_quota(), found.memory_limit()) == (None, None)


@pytest.mark.parametrize("content", ["", "\n", "100000\n", "0 0\n", "a b\n", "-1 100000\n"])
def test_a_quota_that_cannot_be_read_limits_nothing(tmp_path: Path, content: str) -> None:
    assert version_2(tmp_path, {"a/b/cpu.max": content}).cpu_quota() is None


def test_where_nothing_is_mounted_nothing_is_limited(tmp_path: Path) -> None:
    found = Cgroups(tmp_path)
    said = (found.cpu_quota(), found.memory_limit(), found.memory_current(), found.oom_kills())
    assert said == (None, None, None, None)


def test_in_a_namespace_the_own_group_is_the_root(tmp_path: Path) -> None:
    found = version_2(tmp_path, {"cpu.max": "50000 100000\n", "memory.max": "1048576\n"}, "/")
    assert (found.cpu_quota(), found.memory_limit()) == (0.5, MIB)


@pytest.mark.parametrize("group", ["/../../other", "/kubepods/pod1/c1", "/a:b"])
def test_a_path_from_outside_of_what_is_mounted_means_the_mounted_group(
    tmp_path: Path, group: str
) -> None:
    """A container without a namespace of its own sees the host's path and its own group."""
    assert version_2(tmp_path, {"memory.max": "1048576\n"}, group).memory_limit() == MIB


def test_a_group_that_was_deleted_is_looked_for_above(tmp_path: Path) -> None:
    found = version_2(tmp_path, {"a/memory.max": "1048576\n"}, "/a/b (deleted)")
    assert found.memory_limit() == MIB


def test_names_with_colons_and_blanks_are_found(tmp_path: Path) -> None:
    own = {
        "proc/self/cgroup": "0::/a:b c\n",
        "proc/self/mountinfo": UNIFIED.replace("/sys/fs/cgroup", "/sys/my\\040groups"),
        "sys/my groups/a:b c/memory.max": "1048576\n",
    }
    assert Cgroups(tree(tmp_path, own)).memory_limit() == MIB


def test_without_a_table_of_mounts_the_usual_places_are_read(tmp_path: Path) -> None:
    own = {"proc/self/cgroup": "0::/a\n", f"{TOP}/a/cpu.max": "200000 100000\n"}
    assert Cgroups(tree(tmp_path, own)).cpu_quota() == 2.0


VERSION_1_GROUPS = """\
11:memory:/docker/c1
7:cpu,cpuacct:/docker/c1
1:name=systemd:/docker/c1
0::/system.slice
"""


def version_1(root: Path, mounted_root: str, folder: str) -> Cgroups:
    """Return what a container sees of a host whose controllers are mounted one by one."""
    mounts = "".join(
        f"{number} 30 0:{number} {mounted_root} /sys/fs/cgroup/{place}"
        f" ro - cgroup cgroup rw,{which}\n"
        for number, place, which in (
            (40, "memory", "memory"),
            (41, "cpu,cpuacct", "cpu,cpuacct"),
            (42, "systemd", "xattr,name=systemd"),
        )
    )
    memory, cpu = f"{TOP}/memory/{folder}", f"{TOP}/cpu,cpuacct/{folder}"
    files = {
        "proc/self/cgroup": VERSION_1_GROUPS,
        "proc/self/mountinfo": mounts,
        f"{memory}/memory.limit_in_bytes": NO_LIMIT_1,
        f"{memory}/memory.usage_in_bytes": "8192\n",
        f"{memory}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n",
        f"{memory}/memory.stat": f"cache 1\nhierarchical_memory_limit {64 * MIB}\n",
        f"{cpu}/cpu.cfs_quota_us": "250000\n",
        f"{cpu}/cpu.cfs_period_us": "100000\n",
    }
    return Cgroups(tree(root, files))


@pytest.mark.parametrize(("mounted_root", "folder"), [("/docker/c1", "."), ("/", "docker/c1")])
def test_version_1_is_read_from_inside_and_from_outside_a_container(
    tmp_path: Path, mounted_root: str, folder: str
) -> None:
    found = version_1(tmp_path, mounted_root, folder)
    assert found.cpu_quota() == 2.5
    assert found.memory_limit() == 64 * MIB
    assert found.memory_current() == 8192
    assert found.oom_kills() == 6


def test_version_1_without_limits_has_none(tmp_path: Path) -> None:
    root = tmp_path
    version_1(root, "/", "docker/c1")
    tree(
        root,
        {
            f"{TOP}/memory/docker/c1/memory.stat": f"hierarchical_memory_limit {NO_LIMIT_1}",
            f"{TOP}/cpu,cpuacct/docker/c1/cpu.cfs_quota_us": "-1\n",
        },
    )
    found = Cgroups(root)
    assert (found.cpu_quota(), found.memory_limit()) == (None, None)


def test_both_versions_at_a_time_are_both_read(tmp_path: Path) -> None:
    version_1(tmp_path, "/", "docker/c1")
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text() + UNIFIED.replace("cgroup rw", "cgroup/unified rw"))
    tree(tmp_path, {f"{TOP}/unified/system.slice/cpu.max": "100000 100000\n"})
    assert Cgroups(tmp_path).cpu_quota() == 1.0


def test_of_several_mounts_of_one_hierarchy_all_count(tmp_path: Path) -> None:
    inner = "50 29 0:26 /a/b /mnt/inner ro - cgroup2 none rw\n"
    found = version_2(tmp_path, {"a/b/memory.max": "max\n", "a/memory.max": f"{9 * MIB}\n"})
    assert found.memory_limit() == 9 * MIB
    (tmp_path / "proc/self/mountinfo").write_text(inner + UNIFIED)
    tree(tmp_path, {"mnt/inner/memory.max": f"{5 * MIB}\n"})
    assert Cgroups(tmp_path).memory_limit() == 5 * MIB


def test_this_process_can_be_asked_whatever_the_system() -> None:
    found = Cgroups()
    for amount in (found.memory_limit(), found.memory_current(), found.available_memory()):
        assert amount is None or amount > 0
    assert found.cpu_quota() is None or found.cpu_quota()


def test_resident_memory_is_that_of_the_process() -> None:
    own = resident_memory(os.getpid())
    assert own is not None
    assert 4 * MIB < own < 1 << 40
    assert resident_memory(1 << 30) is None


# How many workers that means


AUTO = replace(Settings(), workers="auto")


def test_a_number_is_taken_as_it_is() -> None:
    settings = replace(Settings(), workers=7, sources={"workers": "--workers"})
    assert str(count_workers(settings)) == "7 workers: workers from --workers"


def test_the_quota_is_rounded_up_and_the_line_tells_all_reasons(tmp_path: Path) -> None:
    found = version_2(
        tmp_path, {"a/b/cpu.max": "350000 100000\n", "a/b/memory.max": f"{2048 * MIB}\n"}
    )
    counted = count_workers(AUTO, found, cpus=8)
    assert str(counted) == ("4 workers: CPU quota 3.5, 8 CPUs allowed, memory 2 GiB for about 15")


def test_a_small_quota_still_means_a_worker(tmp_path: Path) -> None:
    found = version_2(tmp_path, {"a/b/cpu.max": "20000 100000\n"})
    assert str(count_workers(AUTO, found, cpus=1)) == "1 worker: CPU quota 0.2, 1 CPU allowed"


def test_the_affinity_mask_bounds_where_there_is_no_quota(tmp_path: Path) -> None:
    assert count_workers(AUTO, version_2(tmp_path, {}), cpus=3).number == 3


def test_memory_bounds_the_number(tmp_path: Path) -> None:
    found = version_2(tmp_path, {"a/b/memory.max": f"{5 * WORKER_BYTES}\n"})
    counted = count_workers(AUTO, found, cpus=64)
    assert counted.number == 4
    assert "memory 640 MiB for about 4" in counted.because
    tree(tmp_path, {f"{TOP}/a/b/memory.max": f"{MIB}\n"})
    assert count_workers(AUTO, found, cpus=64).number == 1


def test_the_machines_memory_bounds_where_the_container_has_no_limit(tmp_path: Path) -> None:
    found = version_2(tmp_path, {})
    tree(tmp_path, {"proc/meminfo": f"MemTotal:       {3 * WORKER_BYTES // 1024} kB\n"})
    assert count_workers(AUTO, found, cpus=64).number == 2


def test_this_process_never_gets_more_than_it_may_run_on() -> None:
    counted = count_workers(AUTO)
    assert 1 <= counted.number <= len(os.sched_getaffinity(0))


def test_the_time_without_a_processor_is_that_of_the_own_group(tmp_path: Path) -> None:
    stat = "nr_periods 9\nnr_throttled 3\nthrottled_usec 1500000\n"
    found = version_2(tmp_path / "2", {"a/b/cpu.stat": stat, "a/cpu.stat": "throttled_usec 1\n"})
    assert found.throttled_seconds() == 1.5
    assert version_2(tmp_path / "none", {}).throttled_seconds() is None
