"""A dockerd in a network namespace of its own, with nothing of the machine's but its kernel.

/run is private, data and sockets are in a folder of the test; its name server would be 192.0.2.53. The image `lab` is
a static busybox. For tests that need Docker beside us on one host, and no cluster; whole hosts with Docker are the
lab's (netns-lab).
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

START_S = 40.0
STOP_S = 20.0


class LoneDocker:
    """`run` runs a program beside dockerd: in its network and mount namespace. `folder` must be on a real disk."""

    def __init__(self, netns: str, folder: Path, *options: str) -> None:
        self.netns = netns
        self.folder = folder
        self.socket = folder / "docker.sock"
        (folder / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        self._log = (folder / "dockerd.log").open("wb")
        self._options = options
        mounts = f"mount -t tmpfs tmpfs /run && mount --bind {folder}/resolv.conf /etc/resolv.conf"
        self._keeper = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{netns}", "unshare", "-m", "--propagation", "private", "sh", "-c",
             f"{mounts} && exec sleep infinity"],
        )  # fmt: skip
        self._daemon: subprocess.Popen[bytes] | None = None
        # The last of what the keeper does before it sleeps.
        self._wait(
            lambda: (
                self._enter("cmp", f"{folder}/resolv.conf", "/etc/resolv.conf", check=False).returncode == 0
            ),
            START_S,
        )

    def start(self) -> None:
        """Start dockerd and return when it answers."""
        self._daemon = subprocess.Popen(
            [*self._entrance(), "dockerd", f"--data-root={self.folder}/data", "--exec-root=/run/docker-exec",
             "--pidfile=/run/dockerd.pid", f"--host=unix://{self.socket}", *self._options],
            stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._wait(lambda: self._enter(*self._client, "version", check=False).returncode == 0, START_S)
        if self.docker("images", "-q", "lab") == "":
            self._enter(*self._client, "import", "-", "lab", data=_image())

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End dockerd."""
        if self._daemon is not None:
            self._daemon.send_signal(number)
            self._daemon.wait(STOP_S)
            self._daemon = None

    def close(self) -> None:
        """End everything: containers first."""
        try:
            if self._daemon is not None:
                ids = self.docker("ps", "-aq").split()
                if ids:
                    self.docker("rm", "-f", *ids)
            self.stop()
        finally:
            self._keeper.kill()
            self._keeper.wait(STOP_S)
            self._log.close()

    def docker(self, *arguments: str) -> str:
        """What the client says; CalledProcessError when it fails."""
        return self._enter(*self._client, *arguments).stdout.decode().strip()

    def run(self, command: str) -> str:
        """Run a program beside dockerd."""
        return self._enter(*command.split()).stdout.decode()

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program beside dockerd, and leave it to the caller."""
        return subprocess.Popen([*self._entrance(), *command])

    def pid(self, container: str) -> int:
        """The container's first process."""
        return int(json.loads(self.docker("inspect", container))[0]["State"]["Pid"])

    @property
    def _client(self) -> Sequence[str]:
        return "docker", f"--host=unix://{self.socket}"

    def _entrance(self) -> Sequence[str]:
        return "nsenter", f"--target={self._keeper.pid}", "--mount", "--net", "--"

    def _enter(
        self, *command: str, check: bool = True, data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self._entrance(), *command], input=data, capture_output=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.decode() or done.stdout.decode()}")
        return done

    def _wait(self, condition: Callable[[], bool], within_s: float) -> None:
        end = time.monotonic() + within_s
        while not condition():
            died = self._daemon is not None and self._daemon.poll() is not None
            if died or time.monotonic() > end:
                raise AssertionError((self.folder / "dockerd.log").read_text()[-3000:])
            time.sleep(0.05)


def _image() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add(os.path.realpath("/usr/bin/busybox"), "bin/busybox")
        for applet in ("sh", "sleep", "nslookup", "wget", "httpd", "ping", "cat"):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return held.getvalue()
