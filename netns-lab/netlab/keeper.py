"""Process 1 of a host: creates the host's namespaces and file systems, then only reaps orphans.

Run as a script, `python -I keeper.py NAMESPACE DISK HOSTNAME`, in an existing network namespace. It writes `pid N`,
the id of the new process 1 as the machine sees it, and `ready` or an error to standard output, in any order, and
closes it. Killing process 1 kills every process of the host in the same instant; then nothing holds its mounts and
the namespaces of its containers any more, and they vanish with it. Only the disk stays.

The host sees the machine's programs and files. Its own are:
  /etc, /opt, /usr/libexec, /var
               overlays on the machine's, written to the disk, so they survive a power cut;
  /var/lib/docker, /var/lib/containers
               plain folders of the disk, because the runtimes create overlays there, which cannot be on an overlay;
  /run         an empty file system in memory;
  /proc, /sys  of its own namespaces, with a boot id of its own and a control group tree of its own.

The control groups are one below ours in each hierarchy, named after the network namespace. Except for the disk, only
they outlive process 1; `cgroups.py` removes them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
# linux/sched.h; the os module has them from Python 3.12 on only

OVERLAID = ("etc", "opt", "usr/libexec", "var")
PLAIN = ("var/lib/docker", "var/lib/containers")
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_ENTRANCES = "/run/.cgroups"
"""Lists the files of the host by which a process started from outside enters the host's control groups."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A control group hierarchy as mounted on the machine, and our place in it."""

    mount_point: Path
    kind: str
    """`cgroup` (version 1) or `cgroup2`."""
    options: str
    """Options for `mount -o` to mount it again; empty for version 2."""
    ours: Path


def main(namespace: str, disk: Path, hostname: str) -> None:
    """Run as the host's process 1, where it never returns."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open("rb") as handle:
        _check(libc.setns(handle.fileno(), CLONE_NEWNET), "setns")
    _check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID), "unshare")
    first = os.fork()
    if first:
        print(f"pid {first}", flush=True)
        return
    try:
        socket.sethostname(hostname)
        hierarchies = _hierarchies()
        _move_to_own_cgroups(hierarchies, namespace)
        _check(libc.unshare(CLONE_NEWCGROUP), "unshare")
        _lay_out(disk, hostname, hierarchies)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", flush=True)
        os._exit(1)
    os.chdir("/")
    print("ready", flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    _reap_for_ever()


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, stdin=subprocess.DEVNULL)


def _hierarchies() -> list[Hierarchy]:
    """Return those mounted at the usual place: none, one of version 2, or also several of version 1."""
    places = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        places[controllers] = path
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, mount_point, kind, options, *_rest = line.split()
        if kind not in ("cgroup", "cgroup2") or not Path(mount_point).is_relative_to(CGROUPS):
            continue
        named = [name for name in places if name and set(name.split(",")) <= set(options.split(","))]
        place = "" if kind == "cgroup2" else named[0]
        again = f"none,{place}" if place.startswith("name=") else place
        found.append(Hierarchy(Path(mount_point), kind, again, Path(mount_point, places[place].lstrip("/"))))
    return found


def _move_to_own_cgroups(hierarchies: list[Hierarchy], name: str) -> None:
    for hierarchy in hierarchies:
        own = hierarchy.ours / name
        own.mkdir(exist_ok=True)
        if hierarchy.options == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty at first, and then no process may enter
                (own / file).write_text((hierarchy.ours / file).read_text())
        (own / "cgroup.procs").write_text("0")


def _mount_cgroups(hierarchies: list[Hierarchy]) -> None:
    """Mount the trees with our groups as roots. A root of version 2 that delegates controllers may hold no
    process."""
    if any(hierarchy.mount_point != CGROUPS for hierarchy in hierarchies):
        _mount("-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", str(CGROUPS))
    entrances = []
    for hierarchy in hierarchies:
        root = hierarchy.mount_point
        root.mkdir(exist_ok=True)
        options = ["-o", hierarchy.options] if hierarchy.options else []
        _mount("-t", hierarchy.kind, *options, hierarchy.kind, str(root))
        entrances.append(root / "init/cgroup.procs" if hierarchy.kind == "cgroup2" else root / "cgroup.procs")
        entrances[-1].parent.mkdir(exist_ok=True)
        entrances[-1].write_text("0")
    Path(CGROUP_ENTRANCES).write_text("".join(f"{file}\n" for file in entrances))


def _lay_out(disk: Path, hostname: str, hierarchies: list[Hierarchy]) -> None:
    # Slave, not private: file systems that the machine unmounts must not stay mounted in a host.
    _mount("--make-rslave", "/")
    for folder in OVERLAID:
        upper, work = disk / folder, disk / f".{folder.replace('/', '-')}"
        upper.mkdir(mode=0o755, parents=True, exist_ok=True)
        work.mkdir(mode=0o755, exist_ok=True)
        options = f"lowerdir=/{folder},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", options, "overlay", f"/{folder}")
    for folder in PLAIN:
        plain = disk / folder.replace("/", "-")
        plain.mkdir(mode=0o711, exist_ok=True)
        Path("/", folder).mkdir(mode=0o711, exist_ok=True)
        _mount("--bind", str(plain), f"/{folder}")
    _mount("-t", "tmpfs", "-o", "mode=755,size=256m", "tmpfs", "/run")
    Path("/run/lock").mkdir(mode=0o1777)
    _mount("-t", "proc", "proc", "/proc")
    _mount("-t", "sysfs", "sysfs", "/sys")  # shows the devices of the namespace it is mounted in
    _mount_cgroups(hierarchies)
    _own_identity(hostname)


def _own_identity(hostname: str) -> None:
    """Set what distinguishes one machine, and one boot of it, from another."""
    boot_id = Path("/run/.boot_id")
    boot_id.write_text(f"{uuid.uuid4()}\n")
    _mount("--bind", str(boot_id), "/proc/sys/kernel/random/boot_id")
    marker = Path("/etc/netns-lab-host")
    if marker.exists():
        return  # an earlier boot has set up this disk
    _replace("/etc/machine-id", f"{uuid.uuid4().hex}\n")
    _replace("/etc/hostname", f"{hostname}\n")
    _replace("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n")
    marker.write_text(f"{hostname}\n")


def _replace(path: str, text: str) -> None:
    """Replace a file, which is often a link into a folder that the host does not have."""
    Path(path).unlink(missing_ok=True)
    Path(path).write_text(text)


def _reap_for_ever() -> None:
    # The children's end wakes sigwait; the signal stays blocked, so none is lost between two rounds.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
