"""Containers: a named network namespace on a host, the host's files, and a resolv.conf of its own.

`ip netns exec` does exactly that: it binds the files in `/etc/netns/NAME/` over `/etc`, and `netagent attach` writes
the resolv.conf there. A container may have a main process, started after attaching, as a runtime would.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from netlab.errors import LabError
from netlab.host import Host
from netlab.programs import Finished
from netlab.state import ContainerState

KILL_SCRIPT = 'for pid in $(ip netns pids "$1"); do kill -KILL "$pid"; done'


class Container:
    """A container of the lab on `host`. `folder` takes its log."""

    def __init__(self, name: str, state: ContainerState, host: Host, folder: Path) -> None:
        self.name = name
        self.host = host
        self.log_file = folder / f"container-{name}.log"
        self._state = state

    @property
    def target(self) -> str:
        """Its name for `netagent attach`."""
        return f"netns:{self.name}"

    @property
    def exists(self) -> bool:
        """Whether its namespace exists; on a host without power it does not."""
        return self.host.has_power and self.host.path(f"/run/netns/{self.name}").exists()

    def start(self) -> str:
        """Create the namespace, attach, start the main process. Return attach's output. LabError; then nothing is
        left."""
        self.host.must(["ip", "netns", "add", self.name])
        try:
            printed = self._attach() if self._state.attach else ""
            if self._state.command:
                self.host.start(["ip", "netns", "exec", self.name, *self._state.command], self.log_file)
        except BaseException:
            self.vanish()
            raise
        return printed

    def _attach(self) -> str:
        named = [] if "--name" in self._state.attach else ["--name", self.name]
        return self.host.must(["netagent", "attach", self.target, *named, *self._state.attach])

    def detach(self) -> None:
        """Detach it from all networks, including those attached by hand."""
        listed = json.loads(self.host.must(["netagent", "endpoints", "--local", "--json"]))
        for endpoint in listed["items"]:
            if endpoint["local"] and endpoint["target"] == self.target:
                self.host.must(["netagent", "detach", endpoint["id"]])

    def vanish(self) -> None:
        """Kill its processes and remove the namespace, without telling the agent."""
        self.host.run(["sh", "-c", KILL_SCRIPT, "sh", self.name])
        done = self.host.run(["ip", "netns", "delete", self.name])
        if done.status != 0:
            raise LabError(f"{self.name} cannot be removed: {done.complaint}")

    def entering(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` inside. Raises LabError when it does not run."""
        if not self.exists:
            raise LabError(f"container {self.name} is not running on {self.host.name}", exit_status=4)
        return self.host.entering(["ip", "netns", "exec", self.name, *argv])

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 30.0) -> Finished:
        """Run a command inside to its end; the caller checks the status."""
        return self.host.run(["ip", "netns", "exec", self.name, *argv], stdin=stdin, timeout_s=timeout_s)
