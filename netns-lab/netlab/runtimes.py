"""Docker and Podman on a host. Nothing is downloaded: both get an image `lab`, built here.

The image has busybox. Its /usr is empty and its /lib leads there, so that with `-v /usr:/usr:ro` every program of the
machine runs in a container. Its main process sleeps, and ends at once when the runtime stops it with SIGTERM; another
program does only if it handles that signal.

A dockerd is in the host's namespaces and control groups and starts a containerd of its own, so it, its shims and its
containers die with the host; images and containers are on the host's disk.
"""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from netlab import programs
from netlab.daemon import Daemon, Machine
from netlab.errors import LabError
from netlab.programs import Finished
from netlab.state import HostState

IMAGE = "lab"
DOCKER_PROGRAMS = ("dockerd", "docker", "runc", "iptables", "busybox")
PODMAN_PROGRAMS = ("podman", "runc", "busybox")

DOCKERD_S = 40.0
"""It answers after a second. It waits up to 15 s for a missing plug-in, and as long to stop containers."""

CHANGES = (
    # The kernel drops signals that a first process does not handle, and sleep handles none.
    """CMD ["sh", "-c", "trap 'exit 0' TERM; sleep 2147483647 & wait"]""",
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)

# No systemd runs on a host, so none manages the control groups, the logs and the events.
CONTAINERS_CONF = f"""\
[containers]
log_driver = "k8s-file"
default_capabilities = [  # podman's own and NET_RAW, which Docker gives too and busybox's ping needs
  "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID",
  "SETPCAP", "SETUID", "SYS_CHROOT",
]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "localhost/{IMAGE}"
infra_command = "sleep"
"""


class RuntimeHost(Machine, Protocol):
    """What a runtime needs from its host."""

    name: str

    def run(self, argv: Sequence[str], *, timeout_s: float = ...) -> Finished: ...  # noqa: D102


class Docker:
    """The dockerd of a host; run its client like any program there."""

    def __init__(self, host: RuntimeHost, state: HostState, log_file: Path) -> None:
        self._host = host
        self._state = state
        called = f"the dockerd of {host.name}"
        self._daemon = Daemon(
            host, called, "dockerd", log_file, answers_on="/run/docker.sock", within_s=DOCKERD_S
        )

    @property
    def running(self) -> bool:
        """Whether the one that we started is alive."""
        return self._daemon.running

    @property
    def options(self) -> list[str]:
        """The options of its last start, unless it has been stopped since."""
        return self._state.dockerd_wanted or []

    def start(self, options: Sequence[str]) -> None:
        """Start it and return when it accepts commands and has the image."""
        programs.require(DOCKER_PROGRAMS)
        self._daemon.start(["dockerd", *options])
        self._state.dockerd_wanted = list(options)
        self._daemon.wait()
        # It accepts connections before it is ready, and answers when it is.
        done = self._host.run(["docker", "version"], timeout_s=DOCKERD_S)
        if done.status != 0:
            raise LabError(f"dockerd of {self._host.name}: {done.complaint}:\n{self.log_tail()}")
        load_image(self._host, "docker")

    def stop(self) -> None:
        """Send SIGTERM: it stops its containers, unless configured to leave them running, and ends."""
        self._state.dockerd_wanted = None
        self._daemon.stop()

    def kill(self) -> None:
        """Send SIGKILL to dockerd; its containers continue."""
        self._state.dockerd_wanted = None
        self._daemon.kill()

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return self._daemon.log_tail(lines)


class Podman:
    """The podman of a host: a program that is run there, not a daemon."""

    def __init__(self, host: RuntimeHost) -> None:
        self._host = host

    def prepare(self) -> None:
        """Write configuration and image; existing files stay."""
        programs.require(PODMAN_PROGRAMS)
        file = self._host.path("/etc/containers/containers.conf")
        if not file.exists():
            file.parent.mkdir(mode=0o755, exist_ok=True)
            file.write_text(CONTAINERS_CONF)
        load_image(self._host, "podman")


def load_image(host: RuntimeHost, runtime: str) -> None:
    """Load the image into `docker` or `podman` on that host, unless it has one of that name."""
    if host.run([runtime, "image", "inspect", IMAGE]).status == 0:
        return
    file = f"/run/lab-image-{runtime}.tar"
    host.path(file).write_bytes(image())
    changes = [word for change in CHANGES for word in ("--change", change)]
    done = host.run([runtime, "import", *changes, file, IMAGE], timeout_s=60.0)
    host.path(file).unlink()
    if done.status != 0:
        raise LabError(f"{runtime} on {host.name} does not accept the image: {done.complaint}")


@functools.cache
def image() -> bytes:
    """Return the image's root as a tar archive, about 2 MB."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        links = {"lib": "usr/lib", "lib64": "usr/lib64"}
        applets = programs.must(["busybox", "--list"]).split()
        links |= {f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"}
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        files = {
            "bin/busybox": Path(programs.path_of("busybox")).read_bytes(),
            "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
            "etc/nsswitch.conf": b"hosts: files dns\n",
            "etc/passwd": b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        }
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return held.getvalue()
