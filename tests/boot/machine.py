"""A host on which a whole systemd runs: this machine's own, in namespaces, over an overlay of this machine's disk.

Nothing it does is left behind: what it writes lies in memory and goes with it. It sees this machine's programs and
the checkout, none of this machine's services, and the network namespace of a lab host. It is ended by killing its
process 1.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETAGENT = str(Path(sys.executable).with_name("netagent"))
START_S = 60.0

# Masked, because this machine's services are none of the test's, and devices are shared with this machine.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "containerd.service", "cron.service",
    "docker.service", "docker.socket", "getty@tty1.service", "NetworkManager.service", "nftables.service",
    "podman.service", "podman.socket",
    "podman-auto-update.timer", "podman-restart.service", "ssh.service", "systemd-networkd.service",
    "systemd-udev-trigger.service", "systemd-udevd.service",
    "tmp.mount",  # the checkout may lie in /tmp
)  # fmt: skip

BOOT = """
set -eu
folder=$1; netns=$2; checkout=$3; shift 3
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/upper "$folder"/work "$folder"/root
root=$folder/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount --rbind "$checkout" "$root$checkout"
mount -t proc proc "$root"/proc
mount -t sysfs -o ro sysfs "$root"/sys  # as in any container: there is no udev
mount -t cgroup2 cgroup2 "$root"/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs "$root"/run
for unit in netagent netagent-shutdown; do  # wherever the checkout lies, also in what the units hide
  mkdir -p "$root/run/systemd/system/$unit.service.d"
  printf '[Service]\\nBindReadOnlyPaths=%s\\n' "$checkout" > "$root/run/systemd/system/$unit.service.d/checkout.conf"
done
mount -t tmpfs -o mode=755 tmpfs "$root"/dev
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root"/dev/net; touch "$root"/dev/net/tun; mount --bind /dev/net/tun "$root"/dev/net/tun
mkdir "$root"/dev/pts "$root"/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root"/dev/pts
mount -t tmpfs tmpfs "$root"/dev/shm
ln -s pts/ptmx "$root"/dev/ptmx; ln -s /proc/self/fd "$root"/dev/fd
units=$root/etc/systemd/system
rm -f "$root"/usr/sbin/policy-rc.d
rm -rf "$units"/*.wants "$root"/etc/netagent "$root"/var/lib/netagent "$root"/etc/netns
for unit in "$@"; do ln -sf /dev/null "$units/$unit"; done
ln -sf /usr/lib/systemd/system/multi-user.target "$units"/default.target
: >"$root"/etc/machine-id
mkdir "$root"/run/old
cd "$root"; pivot_root . run/old; umount -l /run/old; rmdir /run/old
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  /usr/lib/systemd/systemd --log-target=console --show-status=0
"""


class Machine:
    """Running, until the block of `booted` ends."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id

    def try_run(self, *argv: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command in it."""
        enter = ["nsenter", "--target", str(self.process_id), "--all", "--root", "--wdns=/", "--", *argv]
        return subprocess.run(
            enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        """A command in it that must succeed; what it printed."""
        done = self.try_run(*argv, timeout_s=timeout_s)
        assert done.returncode == 0, f"{shlex.join(argv)}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def type(self, line: str, *, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """What an operator types in a shell there, with the programs of that machine and not of the checkout."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return self.try_run("env", "-i", "HOME=/root", path, "sh", "-c", line, timeout_s=timeout_s)

    def netagent(self, *words: str) -> str:
        return self.run(NETAGENT, *words)

    def show(self, unit: str, field: str) -> str:
        return self.run("systemctl", "show", "--property", field, "--value", unit).strip()

    def write(self, path: str, text: str) -> None:
        # Through its root, so that no shell has to quote it; the root of another namespace is followed by the kernel.
        place = Path(f"/proc/{self.process_id}/root{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def wait(self, condition: str, within_s: float) -> None:
        """Until a shell command succeeds."""
        end = time.monotonic() + within_s
        while self.try_run("sh", "-c", condition).returncode != 0:
            assert time.monotonic() < end, f"not within {within_s:g} s: {condition}\n{self.journal()}"
            time.sleep(0.05)

    def journal(self) -> str:
        return self.run(
            "journalctl", "--unit", "netagent.service", "--lines", "200", "--no-pager", "--output", "cat"
        )

    @property
    def is_on(self) -> bool:
        return Path(f"/proc/{self.process_id}/root/usr").exists()


@contextlib.contextmanager
def booted(folder: Path, netns: str) -> Iterator[Machine]:
    """A machine in that named network namespace. `folder` is an empty one that it may mount something on."""
    with (
        _cgroup(f"netagent-boot-{os.getpid()}-{netns}") as cgroup,
        (folder.parent / "console").open("w+") as console,
    ):
        # systemd takes the cgroup that it finds itself in for all there is, so it is given one of its own.
        enter = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
        shell = ["bash", "-c", BOOT, "boot", str(folder), netns, str(ROOT), *MASKED]
        unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        inside = ["nsenter", f"--net=/run/netns/{netns}", *unshare, "--propagation", "private", *shell]
        with subprocess.Popen(
            ["sh", "-c", enter, "sh", *inside], stdin=subprocess.DEVNULL, stdout=console, stderr=console
        ) as process:
            try:
                yield _started(process, folder.parent / "console")
            finally:
                process.kill()  # and with it, by --kill-child, its process 1 and all below


def _started(process: subprocess.Popen[bytes], console: Path) -> Machine:
    end = time.monotonic() + START_S
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < end and process.poll() is None:
        if child := children.read_text().split():
            machine = Machine(int(child[0]))
            if Path(f"/proc/{child[0]}/comm").read_text() == "systemd\n":
                state = machine.try_run("systemctl", "is-system-running", "--wait", timeout_s=START_S)
                if state.stdout.strip() in {"running", "degraded"}:
                    return machine
        time.sleep(0.05)
    raise AssertionError(f"systemd does not start: {console.read_text()}")


@contextlib.contextmanager
def _cgroup(name: str) -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    (root, *_) = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    folder = root / name
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """With those below, once the last process is reaped."""
    end = time.monotonic() + 10
    while "populated 1" in (folder / "cgroup.events").read_text() and time.monotonic() < end:
        time.sleep(0.02)
    for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        below.rmdir()
    folder.rmdir()
