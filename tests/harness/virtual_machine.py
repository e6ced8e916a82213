"""A virtual machine with a kernel of another Debian release, in which tests of this checkout run.

The kernel is Debian's package for clouds; apt downloads it, with lists of packages of its own, so that the host's are
left alone. The machine's memory is its disk: an archive (cpio, newc) with this host's Python, PROGRAMS, and the
folders that are asked for, at the same paths as here. QEMU computes every instruction (TCG), so it needs no right and
no module of the host, and is some twenty times slower.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.pgp"
PACKAGE = "linux-image-cloud-amd64"
"""Depends on the release's newest kernel."""
COMMAND_S = 300.0
MEMORY_MB = 2048
MODULES = (
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "drivers/net/veth",
    "net/ipv4/inet_diag",
    "net/ipv4/tcp_diag",
    "net/ipv4/udp_diag",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
)
"""In the order in which they depend on each other; those that are part of the kernel are left out."""
TUNNEL_MODULES = (
    "lib/crypto/libcurve25519-generic",
    "net/ipv4/udp_tunnel",
    "net/ipv6/ip6_udp_tunnel",
    "arch/x86/crypto/poly1305-x86_64",
    "lib/crypto/libchacha",
    "arch/x86/crypto/chacha-x86_64",
    "lib/crypto/libchacha20poly1305",
    "arch/x86/crypto/curve25519-x86_64",
    "drivers/net/wireguard/wireguard",
    "drivers/net/tun",
)
"""Further ones, for WireGuard and for the tun of wireguard-go."""
PROGRAMS = ("busybox", "sh", "ip", "tc", "unshare", "setpriv", "nsenter")
TOOLS = ("mount", "insmod", "sysctl", "ping", "kill", "sleep", "poweroff", "cat", "mkdir", "env")
"""Of busybox, by their own names. Its shell would take its own `ip` before the real one."""
LEFT_OUT = {"test", "idlelib", "ensurepip", "tkinter", "lib2to3", "turtledemo", "pip", "pydoc_data"}
"""Parts of Python that no test here needs."""
ENDED = re.compile(r"^machine: exit status (\d+)\r?$", re.MULTILINE)

INIT = """#!/bin/sh
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
mount -t tmpfs none /run; mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/netns
for module in {modules}; do insmod $module; done
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin PYTHONDONTWRITEBYTECODE=1 HOME=/tmp PYTHONPATH={path}
cd {folder}
{command}
echo "machine: exit status $?"
poweroff -f
"""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    release: str
    image: Path
    modules: Path


def fetch_kernel(debian: str, folder: Path) -> Kernel:
    """Download and unpack the kernel of a release of Debian, by its name."""
    apt = _apt(debian, folder)
    _run(["apt-get", *apt, "update"])
    depends = _run(["apt-cache", *apt, "depends", PACKAGE])
    names = re.findall(r"Depends: (linux-image-\S+)", depends)
    assert names, depends
    _run(["apt-get", *apt, "download", names[0]], folder)
    (package,) = folder.glob("linux-image-*.deb")
    tree = folder / "tree"
    _run(["dpkg-deb", "--extract", str(package), str(tree)])
    package.unlink()
    (image,) = tree.glob("boot/vmlinuz-*")
    (modules,) = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
    return Kernel(modules.name, image, modules)


def _apt(debian: str, folder: Path) -> list[str]:
    sources = folder / "sources.list"
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    sources.write_text(f"deb [signed-by={KEYRING}] {MIRROR} {debian} main\n", "utf-8")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",  # `_apt` may not read a test's folder
        "Acquire::Check-Valid-Until": "false",  # old releases are not signed anew
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _run(words: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False, cwd=folder)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def run_in_machine(
    kernel: Kernel,
    scratch: Path,
    *,
    folder: Path,
    contents: Iterable[Path],
    python_path: Sequence[Path],
    command: Sequence[str],
    limit_s: float,
    modules: Sequence[str] = MODULES,
) -> tuple[int, str]:
    """Boot the kernel and run Python with these arguments in `folder`; return its exit status and all that the
    machine's console showed. `contents`: files and folders that it needs beside Python's own."""
    archive = scratch / "initrd"
    unpacked = _unpack_modules(kernel, scratch, modules)
    init = INIT.format(
        modules=" ".join(map(str, unpacked)),
        path=":".join(map(str, python_path)),
        folder=folder,
        command=" ".join([os.path.realpath(sys.executable), *command]),
    )
    programs = [Path(found) for found in map(shutil.which, PROGRAMS) if found is not None]
    assert len(programs) == len(PROGRAMS), f"{PROGRAMS} are needed"
    python = Path(os.path.realpath(sys.executable))
    stdlib = Path(sysconfig.get_path("stdlib"))
    wanted = [python, stdlib, *programs, *contents]
    with Archive(archive) as initrd:
        initrd.add_octets(Path("/init"), init.encode(), 0o755)
        for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc", "bin", "sbin"):
            initrd.add_folder(Path("/", name))
        for name in TOOLS:
            initrd.add_link(Path("/bin", name), str(programs[0]))
        initrd.add_link(Path("/bin/sh"), str(programs[1]))
        for path in [*wanted, *unpacked]:
            initrd.add(path)
        libraries = [python, *programs, *stdlib.glob("lib-dynload/*.so"), *_extensions(contents)]
        for library in _libraries(libraries):
            initrd.add(library)
    console = scratch / "console"
    with console.open("wb") as output:
        subprocess.run(
            [
                "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
                "-m", str(MEMORY_MB), "-nographic", "-no-reboot", "-nic", "none",
                "-kernel", str(kernel.image), "-initrd", str(archive),
                "-append", "console=ttyS0 quiet panic=-1",
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=limit_s, check=True,
        )  # fmt: skip
    archive.unlink()
    text = console.read_text("utf-8", "replace")
    ended = ENDED.search(text)
    assert ended is not None, text
    return int(ended[1]), text


def _unpack_modules(kernel: Kernel, scratch: Path, modules: Sequence[str]) -> list[Path]:
    """insmod of busybox reads no compressed ones."""
    unpacked = []
    for name in modules:
        for found in kernel.modules.glob(f"kernel/{name}.ko*"):
            octets = found.read_bytes()
            target = scratch / f"{Path(name).name}.ko"
            target.write_bytes(lzma.decompress(octets) if found.suffix == ".xz" else octets)
            unpacked.append(target)
    return unpacked


def _extensions(contents: Iterable[Path]) -> Iterator[Path]:
    for path in contents:
        yield from path.rglob("*.so") if path.is_dir() else [path]


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that these need, with the one that loads them."""
    found: set[Path] = set()
    for binary in binaries:
        done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            match = re.search(r"(/\S+) \(0x", line)
            if match is not None:
                found.add(Path(match[1]))
    return found


class Archive:
    """Writes files to a cpio archive of the newc format (the kernel's Documentation/driver-api/early-userspace)."""

    def __init__(self, path: Path) -> None:
        self._output = path.open("wb")
        self._names: set[Path] = set()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("TRAILER!!!", 0, 0, b"")
        self._output.close()

    def add(self, path: Path) -> None:
        """Add a file or a folder with all that is in it, at its own path; what a link leads to in its place."""
        if path.is_dir():
            self.add_folder(path)
            for one in sorted(path.iterdir()):
                if one.name not in LEFT_OUT and not one.name.startswith("config-3"):
                    self.add(one)
        elif path.is_file():
            status = path.stat()
            self.add_octets(path, path.read_bytes(), stat.S_IMODE(status.st_mode), int(status.st_mtime))

    def add_folder(self, path: Path) -> None:
        if path != path.parent and path not in self._names:
            self.add_folder(path.parent)
            self._names.add(path)
            self._write(str(path)[1:], stat.S_IFDIR | 0o755, 0, b"")

    def add_link(self, path: Path, target: str) -> None:
        self._names.add(path)
        self._write(str(path)[1:], stat.S_IFLNK | 0o777, 0, target.encode())

    def add_octets(self, path: Path, octets: bytes, mode: int, changed_at: int = 0) -> None:
        if path not in self._names:
            self.add_folder(path.parent)
            self._names.add(path)
            self._write(str(path)[1:], stat.S_IFREG | mode, changed_at, octets)

    def _write(self, name: str, mode: int, changed_at: int, octets: bytes) -> None:
        encoded = name.encode() + b"\0"
        fields = (len(self._names), mode, 0, 0, 1, changed_at, len(octets), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self._output.write(head + bytes(-len(head) % 4) + octets + bytes(-len(octets) % 4))
