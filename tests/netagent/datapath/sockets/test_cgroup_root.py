"""Which mount shows the root of cgroup v2's tree."""

from __future__ import annotations

import os

from netagent.datapath.sockets.cgroup_root import CgroupMount, cgroup_mounts

HYBRID = """\
24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,name=systemd
"""
IN_A_CONTAINER = """\
40 1 0:26 /../../.. /host/sys/fs/my\\040group ro - cgroup2 cgroup2 rw
41 1 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw
42 1 0:26 /system.slice /mnt/part ro - cgroup2 cgroup2 rw
43 1 0:26 /../sibling /mnt/sibling ro - cgroup2 cgroup2 rw
"""


def test_controllers_of_version_1_are_no_matter() -> None:
    assert cgroup_mounts(HYBRID) == [CgroupMount("/", "/sys/fs/cgroup/unified", os.makedev(0, 27))]


def test_mounts_that_show_a_part_are_left_out() -> None:
    device = os.makedev(0, 26)
    assert cgroup_mounts(IN_A_CONTAINER, below="/proc/1/root") == [
        CgroupMount("/../../..", "/proc/1/root/host/sys/fs/my group", device),
        CgroupMount("/", "/proc/1/root/sys/fs/cgroup", device),
    ]


def test_where_nothing_is_mounted_there_is_none() -> None:
    assert cgroup_mounts("24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n") == []
    assert cgroup_mounts("") == []
