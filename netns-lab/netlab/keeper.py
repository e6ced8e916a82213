"""Process 1 of a host: makes the host's namespaces, lays out its file systems, then only reaps orphans.

Run as a script, `python -I keeper.py NAMESPACE DISK HOSTNAME`, in a network namespace that exists already. It
writes `pid N`, the number of the new process 1 as the machine sees it, and `ready` or an error to standard output,
in any order, and closes it. Killing process 1 kills every process of the host in the same instant; then nothing
holds its mounts and the namespaces of its containers any more, and they vanish with it. Only the disk stays.

The host sees the machine's programs and files. Its own are:
  /etc, /var   overlays on the machine's, written to the disk, so they survive a power cut;
  /run         empty memory;
  /proc, /sys  of its own namespaces, with a boot id of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
# linux/sched.h; the os module has them from Python 3.12 on only


def main(namespace: str, disk: Path, hostname: str) -> None:
    """Never returns in process 1."""
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
        _lay_out(disk, hostname)
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


def _lay_out(disk: Path, hostname: str) -> None:
    # Slave, not private: what the machine unmounts must not live on in a host.
    _mount("--make-rslave", "/")
    for folder in ("etc", "var"):
        upper, work = disk / folder, disk / f".{folder}"
        upper.mkdir(mode=0o755, exist_ok=True)
        work.mkdir(mode=0o755, exist_ok=True)
        options = f"lowerdir=/{folder},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", options, "overlay", f"/{folder}")
    _mount("-t", "tmpfs", "-o", "mode=755,size=256m", "tmpfs", "/run")
    Path("/run/lock").mkdir(mode=0o1777)
    _mount("-t", "proc", "proc", "/proc")
    _fresh_sys()
    _own_identity(hostname)


def _fresh_sys() -> None:
    """/sys shows the devices of the namespace it was mounted in. Control groups are kept: runtimes need them."""
    shelf = Path("/run/.cgroup")
    shelf.mkdir()
    kept = os.path.ismount("/sys/fs/cgroup")
    if kept:
        _mount("--rbind", "/sys/fs/cgroup", str(shelf))
    _mount("-t", "sysfs", "sysfs", "/sys")
    if kept:
        _mount("--rbind", str(shelf), "/sys/fs/cgroup")


def _own_identity(hostname: str) -> None:
    """What tells one machine, and one start of it, from another."""
    boot_id = Path("/run/.boot_id")
    boot_id.write_text(f"{uuid.uuid4()}\n")
    _mount("--bind", str(boot_id), "/proc/sys/kernel/random/boot_id")
    marker = Path("/etc/netns-lab-host")
    if marker.exists():
        return  # this disk has been set up by an earlier boot
    _replace("/etc/machine-id", f"{uuid.uuid4().hex}\n")
    _replace("/etc/hostname", f"{hostname}\n")
    _replace("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n")
    marker.write_text(f"{hostname}\n")


def _replace(path: str, text: str) -> None:
    """Often such a file is a link into a folder that the host does not have."""
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
