"""What a kernel reports removed: from a host, its bridges and its firewall, and inside one of its containers.

A monitor says nothing until something happens, so one that does not work yet, or has ended, would miss all. `prove`
removes decoys until every monitor has reported one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.harness import Cluster
from netlab import programs

PROVEN_S = 10.0
_DECOY = "decoy"
_DELETION = re.compile(r"(delete|Deleted|\[.*\]Deleted) ")


class Monitor:
    """Of one host; `logs` has what each program says."""

    def __init__(self, cluster: Cluster, host: str, container: str, logs: Sequence[Path]) -> None:
        self._cluster = cluster
        self._host = host
        self._container = container
        self._logs = logs

    def prove(self) -> None:
        """That all monitors work now, and have reported what was removed until now. LabError when one does not."""
        before = [log.stat().st_size for log in self._logs]

        def tells(log: Path, size: int) -> bool:
            lines = log.read_bytes()[size:].decode(errors="replace").splitlines()
            return any(_DELETION.match(line) and _DECOY in line for line in lines)

        def all_tell() -> bool:
            self._remove_decoys()
            return all(map(tells, self._logs, before))

        self._cluster.wait(all_tell, PROVEN_S, f"a monitor of {self._host} misses what is removed")

    def deleted(self) -> list[str]:
        """A line for each thing, without the decoys."""
        lines = [line for log in self._logs for line in log.read_text().splitlines()]
        return [line for line in lines if _DELETION.match(line) and _DECOY not in line]

    def _remove_decoys(self) -> None:
        host = self._cluster.lab.host(self._host)
        for where in ([], ["-n", self._container]):
            commands = f"link add {_DECOY} type bridge\nlink del {_DECOY}\n"
            host.must(["ip", *where, "-batch", "-"], stdin=commands)
        host.must(["nft", f"add table inet {_DECOY}; delete table inet {_DECOY}"])


@contextmanager
def monitored(cluster: Cluster, host: str, container: str) -> Iterator[Monitor]:
    """While the block lasts; the container is one of that host."""
    commands = (
        "ip monitor link address neigh route",
        "bridge monitor fdb",
        "nft monitor",
        f"ip -n {container} monitor link address neigh route",
    )
    logs = []
    with ExitStack() as stack:
        for number, command in enumerate(commands):
            log = cluster.lab.folder / f"monitor-{host}-{number}.log"
            logs.append(log)
            process = subprocess.Popen(
                cluster.lab.host(host).entering(command.split()),
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("w")),
                env=programs.environment(),
                text=True,
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(programs.kill_group, process)
        yield Monitor(cluster, host, container, logs)
