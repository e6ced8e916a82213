"""What the lab tests share: a cluster of lab hosts, and short ways to ask it things."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from netlab.host import Host
from netlab.lab import Lab
from netlab.process import wait_until
from netlab.programs import Finished

P = ParamSpec("P")
T = TypeVar("T")

STREAM = str(Path(__file__).with_name("stream.py"))
DIG = ("dig", "+search", "+tries=1", "+time=1", "+noall", "+comments", "+answer")
COUNT_JOURNALLED = """
import sqlite3
base = sqlite3.connect("file:/var/lib/netagent/state.db?mode=ro", uri=True)
tables = base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%endpoint%'").fetchall()
assert tables
print(sum(base.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in tables))
"""
OURS = re.compile(r"(na|nx|nv)-?[0-9a-f]+|nx-probe")


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What dig saw: a response code such as NOERROR, or NO-ANSWER, and the data of the answer section."""

    status: str
    data: list[str]


@dataclass(frozen=True, slots=True)
class Pings:
    """What came of a stream of pings."""

    sent: int
    lost: int
    silent_s: float
    """For how long at most no answer came; 0 where none is missing."""


class Cluster:
    """A lab, driven as a person would: through `netagent` on its hosts and programs in its containers."""

    def __init__(self, lab: Lab, pool: ThreadPoolExecutor) -> None:
        self.lab = lab
        self._pool = pool

    @property
    def hosts(self) -> list[str]:
        return [host.name for host in self.lab.hosts]

    # ---- commands

    def netagent(self, host: str, *arguments: str, stdin: str = "") -> Any:
        """The JSON of a command that must succeed; for a list its items."""
        done = self.try_netagent(host, *arguments, "--json", stdin=stdin)
        assert done.status == 0, (
            f"netagent {' '.join(arguments)} on {host}: {done.status} {done.stderr}"
            f"the end of its agent's log:\n{self.lab.host(host).log_tail()}"
        )
        answer = json.loads(done.stdout)
        assert answer["schema"] == 1
        return answer.get("items", answer)

    def try_netagent(self, host: str, *arguments: str, stdin: str = "", timeout_s: float = 30.0) -> Finished:
        done = self.lab.host(host).run(["netagent", *arguments], stdin=stdin, timeout_s=timeout_s)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def attach(self, host: str, name: str, *options: str, command: Sequence[str] = ()) -> dict[str, Any]:
        """A new container; the endpoint as its host shows it. Its network is `app` unless an option names another."""
        network = [] if "--network" in options else ["--network", "app"]
        answer: dict[str, Any] = json.loads(
            self.lab.add_container(name, host, [*network, *options, "--json"], command)
        )
        return answer

    def remove(self, *names: str) -> None:
        """Containers in good order; back when no host has anything of them any more."""
        for name in names:
            self.lab.remove_container(name)
        for host in self.hosts:
            self.wait(partial(self._has_none_of, host, names), 10.0, f"{host} keeps one of {names}")

    def _has_none_of(self, host: str, names: Sequence[str]) -> bool:
        return not {*names} & {*self.endpoint_names(host)}

    def inside(self, container: str, *argv: str, timeout_s: float = 30.0) -> Finished:
        return self.lab.container(container).run(argv, timeout_s=timeout_s)

    def in_background(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
        return self._pool.submit(work, *arguments, **options)

    def all_at_once(self, work: Callable[[str], T]) -> list[T]:
        """The same on every host at the same instant."""
        return [future.result() for future in [self._pool.submit(work, host) for host in self.hosts]]

    @contextmanager
    def agent_of(self, host: str) -> Iterator[Host]:
        with self.lab.changing(host) as changing:
            yield changing

    @contextmanager
    def reached_elsewhere(self, host: str) -> Iterator[Path]:
        """Let the agent of a host listen on its underlay address as well; yields its authority's certificate."""
        address = self.lab.host(host).address
        file = self.lab.host(host).path("/etc/netagent/conf.d/http.toml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'http = "{address}:7958"\n')
        try:
            self._restart(host)
            authority = self.lab.host(host).path("/run/netagent/http-ca.crt")
            self.wait(authority.exists, 30.0, f"{host} has no certificate")
            greets = ["curl", "-s", "-o", "/dev/null", f"http://{address}:7958/healthz"]
            self.wait(lambda: self.lab.host(host).run(greets).status == 0, 30.0, f"{host} does not listen")
            yield authority
        finally:
            file.unlink()
            self._restart(host)

    def _restart(self, host: str) -> None:
        with self.agent_of(host) as agent:
            agent.stop_agent()
            agent.start_agent()

    # ---- looking

    def ask(self, container: str, name: str, rtype: str = "A") -> DnsAnswer:
        """One query with one try, through the container's own resolv.conf and its search list."""
        done = self.inside(container, *DIG, name, rtype)
        status = re.search(r"status: ([A-Z]+)", done.stdout)
        answers = [
            line.split(None, 4) for line in done.stdout.splitlines() if line and not line.startswith(";")
        ]
        data = sorted(fields[4] for fields in answers if fields[3] == rtype)
        return DnsAnswer(status[1] if status else "NO-ANSWER", data)

    def finds(self, container: str, *names: str) -> bool:
        """Whether each of the names has an IPv4 address, by one query each with one try."""
        done = self.inside(container, *DIG, *names)
        return re.findall(r"status: ([A-Z]+)", done.stdout) == ["NOERROR"] * len(names)

    def answers(self, container: str, name: str) -> list[str]:
        """IPv4 and IPv6 addresses, sorted."""
        return sorted(self.ask(container, name, "A").data + self.ask(container, name, "AAAA").data)

    def pings(self, container: str, address: str) -> bool:
        """One packet, no second try."""
        return self.inside(container, "ping", "-c", "1", "-W", "1", address).status == 0

    def await_pings(self, container: str, address: str, within_s: float = 10.0) -> None:
        """Until one comes back: after a cut, or when a host had no power. The kernel asks for a MAC three times, a
        second apart; where all three were lost, a packet sent later is refused with the ones that waited."""
        self.wait(lambda: self.pings(container, address), within_s, f"{container} does not reach {address}")

    def await_listening(self, container: str, port: int) -> None:
        """Until a program that was started there serves TCP at this port."""
        command = ("ss", "-Hltn", f"sport = :{port}")
        self.wait(lambda: self.inside(container, *command).stdout != "", 10.0, f"{container} does not listen")

    def ping_stream(self, container: str, address: str, seconds: float) -> Pings:
        """Up to 100 pings a second for so long; fewer where nothing answers.

        The last one counts for nothing when it has no answer: ping ends by the clock and not by what is under way.
        """
        begun = time.time()
        done = self.inside(
            container, "ping", "-D", "-i", "0.01", "-w", f"{seconds:.0f}", address, timeout_s=seconds + 20
        )
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
        assert counts, done
        answers = re.findall(r"^\[([\d.]+)\] .*seq=(\d+) ", done.stdout, re.MULTILINE)
        sent, lost = int(counts[1]), int(counts[1]) - int(counts[2])
        if sent > 1 and lost and all(int(seq) != sent for _, seq in answers):
            sent, lost = sent - 1, lost - 1
        moments = [(0, begun), *((int(seq), float(at)) for at, seq in answers), (sent + 1, time.time())]
        silences = [after[1] - before[1] for before, after in pairwise(moments) if after[0] - before[0] > 1]
        return Pings(sent, lost, max(silences, default=0.0))

    def tcp_stream(self, container: str, address: str, seconds: float) -> dict[str, Any]:
        """An exchange of 100 lines a second with `stream.py serve`; see there."""
        done = self.inside(
            container, "python3", STREAM, "send", address, str(seconds), timeout_s=seconds + 30
        )
        assert done.status == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def datagram_stream(self, container: str, address: str, seconds: float) -> dict[str, Any]:
        """1000 datagrams a second to `stream.py serve`; see there."""
        done = self.inside(
            container, "python3", STREAM, "flood", address, str(seconds), timeout_s=seconds + 30
        )
        assert done.status == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def agents(self, host: str) -> dict[str, str]:
        """Host name -> agent state, as this host sees them."""
        return {member["name"]: member["agent"] for member in self.netagent(host, "members")}

    def endpoint(self, name: str) -> dict[str, Any]:
        """The one of that name, as the first host shows it."""
        (found,) = (one for one in self.held(self.hosts[0]) if one["name"] == name)
        return dict(found)

    def endpoint_names(self, host: str) -> list[str]:
        return sorted(endpoint["name"] for endpoint in self.held(host))

    def held(self, host: str) -> list[dict[str, Any]]:
        """The endpoints whose records the host has itself, without asking others."""
        found: list[dict[str, Any]] = self.netagent(host, "endpoints", "--local")
        return found

    def devices(self, host: str) -> set[tuple[int, str]]:
        """Number and name of each network device: one made anew has another number."""
        listed = json.loads(self.lab.host(host).must(["ip", "-json", "link"]))
        return {(device["ifindex"], device["ifname"]) for device in listed}

    def paths(self, host: str) -> set[str]:
        """Neighbour and forwarding entries on our devices, as text without ages and states that change by use."""
        found = set()
        for command in (["ip", "neigh", "show", "nud", "permanent"], ["bridge", "fdb", "show"]):
            for line in self.lab.host(host).must(command).splitlines():
                device = re.search(r"dev (\S+)", line)
                if (
                    device
                    and OURS.fullmatch(device[1])
                    and ("permanent" in line.lower() or "extern_learn" in line)
                ):
                    found.add(" ".join(line.split()))
        return found

    def journal_endpoints(self, host: str) -> int:
        """Rows in the journal's tables of endpoints."""
        return int(self.lab.host(host).must(["python3", "-c", COUNT_JOURNALLED]))

    def traces(self) -> dict[str, Any]:
        """All that a refused command must leave as it was, on every host."""
        return {
            host: (
                self.devices(host),
                self.paths(host),
                self.journal_endpoints(host),
                [endpoint["id"] for endpoint in self.held(host)],
                [network["id"] for network in self.netagent(host, "network", "ls")],
            )
            for host in self.hosts
        }

    def wait(
        self, condition: Callable[[], bool], within_s: float, otherwise: str | Callable[[], str]
    ) -> float:
        """Seconds it took; LabError with `otherwise` when the time is up."""
        return wait_until(condition, within_s, otherwise)
