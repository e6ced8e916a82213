"""One host: its power, its disk, programs run on it, and its agent.

Programs are started with `nsenter` in all namespaces of the host's process 1. The agent is an ordinary daemon there:
it gets its configuration from `/etc/netagent/netagent.toml` on the host's disk and uses its default folders.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netlab import programs
from netlab.errors import LabError
from netlab.fabric import GATEWAY, Fabric
from netlab.process import ProcessId, innermost_pid, running_script, wait_until
from netlab.programs import Finished
from netlab.state import HostState

KEEPER = Path(__file__).with_name("keeper.py")

AGENT_START_S = 15.0
"""A bound, not a delay: an agent answers on its socket after about a second; a busy machine may need more."""

AGENT_STOP_S = 15.0
"""The agent's own stop is bounded by less."""

BOOT_S = 15.0

NUM_THREADS = 17
"""Place of field 20 of /proc/PID/stat among those after the command's name, proc_pid_stat(5)."""

UCRED = struct.Struct("iII")
"""Process, user, group: who called listen(2), numbered as the asking process sees it, unix(7)."""


class Host:
    """A host of the lab. `folder` holds its disk and its logs."""

    def __init__(self, name: str, state: HostState, fabric: Fabric, folder: Path) -> None:
        self.name = name
        self.address = state.address
        self.log_file = folder / "agent.log"
        self._state = state
        self._fabric = fabric
        self._folder = folder
        self._disk = folder / "disk"

    # ---- power

    @property
    def has_power(self) -> bool:
        """Whether its process 1 runs."""
        return self._state.init is not None and self._state.init.alive

    def boot(self) -> None:
        """Cable, namespaces, file systems. Raises LabError; then nothing of it is left but the disk."""
        if self.has_power:
            raise LabError(f"{self.name} has power already", exit_status=4)
        self._disk.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._fabric.unplug(self.name)  # the cable of a host that died by itself
        self._fabric.plug_in(self.name, self.address)
        try:
            self._state.init = self._start_keeper()
            self._write_configuration()
        except BaseException:
            self.power_off()
            raise

    def _start_keeper(self) -> ProcessId:
        namespace = self._fabric.host_namespace(self.name)
        process = subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), namespace, str(self._disk), self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=programs.environment(),
            start_new_session=True,
        )
        with process:
            output, _ = process.communicate(timeout=BOOT_S)  # ends when process 1 closes its copy
        words = output.split()
        if "ready" not in words:
            raise LabError(f"{self.name} does not boot: {' '.join(words)}")
        return ProcessId.of(int(words[words.index("pid") + 1]))

    def power_off(self) -> None:
        """As by a cut cable: silence first, then death. Only the disk is left."""
        self._fabric.cut_cable(self.name)
        for keeper in keepers(self._fabric):
            if keeper.host == self.name:
                keeper.process.kill()
        self._state.init = None
        self._fabric.unplug(self.name)

    # ---- programs

    def entering(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on this host. Raises LabError when it has no power."""
        if self._state.init is None or not self.has_power:
            raise LabError(f"{self.name} has no power: `lab power {self.name} on`", exit_status=4)
        target = str(self._state.init.pid)
        return ["nsenter", "--target", target, "--mount", "--net", "--pid", "--uts", "--ipc", "--", *argv]

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0) -> Finished:
        """Run to the end on this host; the caller judges the status."""
        return programs.run(self.entering(argv), stdin=stdin, timeout_s=timeout_s)

    def must(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0) -> str:
        """Run on this host, return standard output. Raises LabError with the program's complaint and its status."""
        done = self.run(argv, stdin=stdin, timeout_s=timeout_s)
        if done.status != 0:
            message = f"on {self.name}, `{' '.join(argv[:8])}`: {done.complaint}"
            raise LabError(message, exit_status=done.status if argv[0] == "netagent" else 5)
        return done.stdout

    def start(self, argv: Sequence[str], log: Path) -> None:
        """Leave a daemon behind on this host, writing to `log` on the machine."""
        with log.open("ab") as sink:
            subprocess.run(
                self.entering(["setsid", "--fork", *argv]),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=programs.environment(),
                check=True,
                timeout=BOOT_S,
            )

    def path(self, inside: str) -> Path:
        """A file of this host as the machine reaches it while the host has power."""
        self.entering([])
        assert self._state.init is not None
        return Path(f"/proc/{self._state.init.pid}/root{inside}")

    # ---- agent

    @property
    def agent_running(self) -> bool:
        """Whether the agent that we started is alive."""
        return self.has_power and self._agent_pid() is not None

    def start_agent(self, *, wait: bool = True) -> None:
        """Start it and, unless told not to wait, return when it answers on its socket."""
        if self.agent_running:
            raise LabError(f"the agent of {self.name} is running already", exit_status=4)
        programs.require(["netagent"])
        self._state.agent_wanted = True
        keep_pid = 'echo $$ >/run/lab-agent.pid; exec "$@"'
        self.path("/run/lab-agent.pid").unlink(missing_ok=True)
        self.start(["sh", "-c", keep_pid, "sh", "netagent", "agent"], self.log_file)
        if wait:
            self.wait_agent()

    def wait_agent(self) -> None:
        """Until it answers. Raises LabError with the end of its log if it dies or takes too long."""

        def answers_or_dead() -> bool:
            return self._agent_answers() or self._agent_has_died()

        wait_until(answers_or_dead, AGENT_START_S, lambda: self._blame("does not answer"))
        if not self._agent_answers():
            raise LabError(self._blame("died at its start"))

    def stop_agent(self) -> None:
        """SIGTERM, and wait for a clean end."""
        self._signal_agent("TERM")
        self._state.agent_wanted = False
        wait_until(lambda: not self.agent_running, AGENT_STOP_S, lambda: self._blame("does not stop"))

    def kill_agent(self) -> None:
        """SIGKILL to the agent alone; its resolver, its containers and the kernel go on."""
        self._signal_agent("KILL")
        self._state.agent_wanted = False
        wait_until(lambda: not self.agent_running, AGENT_STOP_S, lambda: self._blame("does not die"))

    def log_tail(self, lines: int = 15) -> str:
        """The end of the agent's log."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal_agent(self, signal_name: str) -> None:
        pid = self._agent_pid() if self.has_power else None
        if pid is None:
            raise LabError(f"the agent of {self.name} is not running", exit_status=4)
        self.must(["sh", "-c", 'kill -s "$1" "$2"', "sh", signal_name, pid])

    def _agent_pid(self) -> str | None:
        """As the host numbers it; None once all of it is dead, for until then it may hold its lock and its socket."""
        try:
            pid = self.path("/run/lab-agent.pid").read_text().strip()
            fields = self.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # A killed process is a zombie while some of its threads still die, and with them its open files.
        is_dead = not fields or (fields[0] in "ZX" and fields[NUM_THREADS] in "01")
        return pid if pid and not is_dead else None

    def _agent_has_died(self) -> bool:
        return self.path("/run/lab-agent.pid").exists() and not self.agent_running

    def _agent_answers(self) -> bool:
        """The one that we started last: an earlier one may be dying with its socket still open."""
        pid = self._agent_pid()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.path("/run/netagent/netagent.sock")))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
            listener, _, _ = UCRED.unpack(credentials)
            return pid is not None and innermost_pid(listener) == pid
        return False

    def _blame(self, what: str) -> str:
        return f"the agent of {self.name} {what}; the end of its log:\n{self.log_tail()}\n"

    def _write_configuration(self) -> None:
        """Once for each disk, so that what a user changes there stays."""
        file = self.path("/etc/netagent/netagent.toml")
        if not file.exists():
            file.parent.mkdir(mode=0o755, exist_ok=True)
            file.write_text(f'name = "{self.name}"\nbind = "{self.address}"\ntiming = "local"\n')
            resolv_conf = self.path("/etc/resolv.conf")
            resolv_conf.unlink(missing_ok=True)  # often a link into the machine's /run
            resolv_conf.write_text(f"nameserver {GATEWAY}\n")


@dataclass(frozen=True, slots=True)
class Keeper:
    """A host's process 1 as it is found on the machine, whatever the state file says."""

    host: str
    process: ProcessId


def keepers(fabric: Fabric) -> list[Keeper]:
    """Those of one lab."""
    found = []
    for process, (namespace, _disk, host) in running_script("netlab/keeper.py", 3):
        if process.alive and namespace == fabric.host_namespace(host):
            found.append(Keeper(host, process))
    return found


def replace_this_process(argv: Sequence[str]) -> None:
    """Become `argv`: signals, terminal and exit status are then the program's own. Never returns."""
    os.execvpe(argv[0], list(argv), programs.environment())
