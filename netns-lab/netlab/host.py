"""One host: its power, its disk, programs run on it, and its agent.

Programs are started with `nsenter` in all namespaces of the host's process 1, and in the host's control groups: what
the agent attaches to the root of these holds for all programs of the host, as on a machine of its own. The agent is
an ordinary daemon there: it reads its configuration from `/etc/netagent/netagent.toml` on the host's disk and uses
its default folders.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netlab import cgroups, programs
from netlab.daemon import Daemon
from netlab.errors import LabError
from netlab.fabric import Fabric, gateway_for
from netlab.keeper import CGROUP_ENTRANCES
from netlab.process import ProcessId, running_script
from netlab.programs import Finished
from netlab.runtimes import Docker, Podman
from netlab.state import HostState

KEEPER = Path(__file__).with_name("keeper.py")

JOIN_CGROUPS = f'while read -r file; do echo $$ >"$file"; done <{CGROUP_ENTRANCES} 2>/dev/null; exec "$@"'

AGENT_S = 20.0
"""An agent answers on its socket after about a second; a busy machine may need more. Its stop takes 15 s at most."""

BOOT_S = 15.0


class Host:
    """A host of the lab. `folder` holds its disk and its logs."""

    def __init__(self, name: str, state: HostState, fabric: Fabric, folder: Path) -> None:
        self.name = name
        self.address = state.address
        self.is_behind_nat = state.behind_nat
        self.log_file = folder / "agent.log"
        self._state = state
        self._fabric = fabric
        self._folder = folder
        self._disk = folder / "disk"
        self._agent = Daemon(
            self,
            f"the agent of {name}",
            "agent",
            self.log_file,
            answers_on="/run/netagent/netagent.sock",
            within_s=AGENT_S,
        )

    # ---- power

    @property
    def has_power(self) -> bool:
        """Whether its process 1 runs."""
        return self._state.init is not None and self._state.init.alive

    def boot(self) -> None:
        """Create cable, namespaces and file systems. Raises LabError; then only the disk is left."""
        if self.has_power:
            raise LabError(f"{self.name} already has power", exit_status=4)
        self._disk.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._fabric.unplug(self.name)  # remove the cable of a host that died by itself
        plug_in = self._fabric.plug_in_behind_nat if self.is_behind_nat else self._fabric.plug_in
        plug_in(self.name, self.address)
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
        """Cut the power: silence first, then death. Only the disk is left."""
        self._fabric.cut_cable(self.name)
        for keeper in keepers(self._fabric):
            if keeper.host == self.name:
                keeper.process.kill()
        self._state.init = None
        self._fabric.unplug(self.name)
        cgroups.remove(re.compile(re.escape(self._fabric.host_namespace(self.name))))

    # ---- programs

    def entering(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` on this host. Raises LabError when it has no power."""
        if self._state.init is None or not self.has_power:
            raise LabError(f"{self.name} has no power: `lab power {self.name} on`", exit_status=4)
        target = str(self._state.init.pid)
        return ["nsenter", "--target", target, "--all", "--", "sh", "-c", JOIN_CGROUPS, "sh", *argv]

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0) -> Finished:
        """Run a command to its end on this host; the caller checks the status."""
        return programs.run(self.entering(argv), stdin=stdin, timeout_s=timeout_s)

    def must(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0) -> str:
        """Run on this host, return standard output. Raises LabError with the program's complaint and its status."""
        done = self.run(argv, stdin=stdin, timeout_s=timeout_s)
        if done.status != 0:
            message = f"on {self.name}, `{' '.join(argv[:8])}`: {done.complaint}"
            raise LabError(message, exit_status=done.status if argv[0] == "netagent" else 5)
        return done.stdout

    def start(self, argv: Sequence[str], log: Path) -> None:
        """Start a daemon on this host and leave it running, with its log in `log` on the machine."""
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
        """Return the path on the machine of a file of this host, valid while the host has power."""
        self.entering([])
        assert self._state.init is not None
        return Path(f"/proc/{self._state.init.pid}/root{inside}")

    # ---- agent

    @property
    def agent_running(self) -> bool:
        """Whether the agent that we started is alive."""
        return self._agent.running

    def start_agent(self, *, wait: bool = True, program: Sequence[str] = ("netagent", "agent")) -> None:
        """Start it and, unless `wait` is False, return when it answers on its socket. `program`: in its place."""
        programs.require(["netagent"])
        self._agent.start([*program])
        self._state.agent_wanted = True
        if wait:
            self.wait_agent()

    def wait_agent(self) -> None:
        """Wait until it answers. Raises LabError with the end of its log if it dies or takes too long."""
        self._agent.wait()

    def stop_agent(self) -> None:
        """Send SIGTERM, and wait for a clean end."""
        self._state.agent_wanted = False
        self._agent.stop()

    def kill_agent(self) -> None:
        """Send SIGKILL to the agent alone; its resolver, its containers and the kernel continue."""
        self._state.agent_wanted = False
        self._agent.kill()

    def signal_agent(self, name: str) -> None:
        """Send the agent a signal, such as "HUP", without waiting."""
        self._agent.signal(name)

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the agent's log."""
        return self._agent.log_tail(lines)

    # ---- container runtimes

    @property
    def docker(self) -> Docker:
        """Return the dockerd of this host, which may not run."""
        return Docker(self, self._state, self._folder / "dockerd.log")

    @property
    def podman(self) -> Podman:
        """Return the podman of this host."""
        return Podman(self)

    def install(self, runtime: str) -> None:
        """Make the agent serve `docker` or `podman` from its next start on."""
        self.must(["netagent", "install", runtime])

    def _write_configuration(self) -> None:
        """Write it once per disk, so that a user's changes stay."""
        file = self.path("/etc/netagent/netagent.toml")
        if not file.exists():
            file.parent.mkdir(mode=0o755, exist_ok=True)
            file.write_text(f'name = "{self.name}"\ntiming = "local"\n')
            resolv_conf = self.path("/etc/resolv.conf")
            resolv_conf.unlink(missing_ok=True)  # often a link into the machine's /run
            resolv_conf.write_text(f"nameserver {gateway_for(self.address).ip}\n")


@dataclass(frozen=True, slots=True)
class Keeper:
    """A host's process 1 as found on the machine, whatever the state file says."""

    host: str
    process: ProcessId


def keepers(fabric: Fabric) -> list[Keeper]:
    """Return those of one lab."""
    found = []
    for process, (namespace, _disk, host) in running_script("netlab/keeper.py", 3):
        if process.alive and namespace == fabric.host_namespace(host):
            found.append(Keeper(host, process))
    return found


def replace_this_process(argv: Sequence[str]) -> None:
    """Become `argv`: signals, terminal and exit status are then the program's own. Never returns."""
    os.execvpe(argv[0], list(argv), programs.environment())
