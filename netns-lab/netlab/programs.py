"""Run other programs, with time limits.

Each runs in a session of its own, so that a timeout ends the whole group: `nsenter --pid` forks, and killing only the
process that we started would leave its child behind, holding our pipe open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netlab.errors import LabError

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEBIAN_PACKAGE = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "mount": "mount",
    "curl": "curl",
    "ping": "iputils-ping",
    "redis-check-rdb": "redis-tools",
    "dockerd": "docker.io",
    "docker": "docker-cli",
    "iptables": "iptables",
    "podman": "podman",
    "runc": "runc",
    "busybox": "busybox-static",
}
"""The packages of missing programs."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a program."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """One line of its output for an error message: one that begins like an error, else the last."""
        lines = (self.stderr.strip() or self.stdout.strip() or f"exit status {self.status}").splitlines()
        return next((line for line in lines if "rror:" in line), lines[-1])


def environment() -> dict[str, str]:
    """Return our environment without variables that would mislead `netagent`, and with its commands in PATH."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("NETAGENT_", "NETLAB_"))}
    kept["PATH"] = ":".join(filter(None, (_netagent_dir(), os.environ.get("PATH"), SYSTEM_PATH)))
    kept.setdefault("LANG", "C.UTF-8")
    kept["PODMAN_IGNORE_CGROUPSV1_WARNING"] = "1"  # otherwise it precedes every answer on such a machine
    return kept


def _netagent_dir() -> str:
    ours = REPOSITORY / ".venv" / "bin"
    return str(ours) if (ours / "netagent").exists() else ""


def path_of(name: str) -> str:
    """Return the path of a program that `require` has found."""
    found = shutil.which(name, path=environment()["PATH"])
    assert found is not None
    return found


def require(names: Iterable[str]) -> None:
    """Raise LabError that names every missing program and its Debian package."""
    path = environment()["PATH"]
    missing = [name for name in names if shutil.which(name, path=path) is None]
    if "netagent" in missing:
        raise LabError(
            "the netagent command is not installed: run `make setup` in the repository", exit_status=4
        )
    if missing:
        packages = sorted({DEBIAN_PACKAGE.get(name, name) for name in missing})
        raise LabError(
            f"missing {', '.join(missing)}: run `make setup`, or `apt-get install {' '.join(packages)}`",
            exit_status=4,
        )


def require_root() -> None:
    """Raise LabError for any user but root."""
    if os.geteuid() != 0:
        raise LabError("the lab creates namespaces and needs root: run it with sudo", exit_status=4)


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = 30.0,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run to the end; the caller checks the status. Raises LabError after `timeout_s` or if it cannot be started."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=env if env is not None else environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise LabError(f"cannot run {argv[0]}: {error.strerror}") from None
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"`{' '.join(argv[:8])}` did not end within {timeout_s:g} s") from None
        finally:
            kill_group(process)
    return Finished(tuple(argv), process.returncode, stdout, stderr)


@contextlib.contextmanager
def started(argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run in the background for the length of the block; the output is dropped."""
    null = subprocess.DEVNULL
    with subprocess.Popen(
        argv, stdin=null, stdout=null, stderr=null, env=environment(), text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.poll()
            kill_group(process)


def must(argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0) -> str:
    """Run and return standard output. Raises LabError with the program's complaint if its status is not 0."""
    done = run(argv, stdin=stdin, timeout_s=timeout_s)
    if done.status != 0:
        raise LabError(f"`{' '.join(argv[:8])}` failed: {done.complaint}")
    return done.stdout


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a program and all processes that it forked, unless it has been waited for."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
