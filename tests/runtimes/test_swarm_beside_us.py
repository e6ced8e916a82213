"""A real swarm works under a loop of requests while we are installed beside it, are used, and go again."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from lab.harness import Cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

HOSTS = ("h1", "h2")
ASK = "while true; do wget -q -T 2 -O /dev/null http://site/passwd && echo good || echo bad; sleep 0.05; done"
SETTLED_S = 40.0
"""It takes a second or two."""
ROUNDS = 10
MEASURED = (
    "nf_conntrack_count",
    "random",
    "file-nr",
    "inode-nr",
    "inode-state",
    "dentry-state",
    "pty.nr",
    "ns_last_pid",
)
"""Settings that are measurements."""
OUR_DEVICES = (".na-", ".nx-", ".nv")
"""The agents are members when the first look is taken, and not when the last is."""
OUR_TABLE = re.compile(r"table \w+ netagent[\w-]* \{.*")
"""The same: only the first look may see these."""


class Site:
    """Two hosts, each with a dockerd and an agent that knows nothing of it yet; the dockerds are a swarm."""

    def __init__(self, lab: Lab, pool: ThreadPoolExecutor) -> None:
        self.cluster = Cluster(lab, pool)
        self.lab = lab
        for host in HOSTS:
            with lab.changing(host) as changed:
                changed.docker.start([])
        h1, h2 = lab.host("h1"), lab.host("h2")
        self.docker("h1", "swarm", "init", "--advertise-addr", h1.address)
        token = self.docker("h1", "swarm", "join-token", "-q", "worker")
        self.docker(
            "h2", "swarm", "join", "--advertise-addr", h2.address, "--token", token, f"{h1.address}:2377"
        )
        self.docker("h1", "network", "create", "-d", "overlay", "--attachable", "theirs")
        self.docker(
            "h1", "run", "-d", "--network", "theirs", "--name", "site", "lab", "httpd", "-f", "-h", "/etc"
        )
        self.docker("h2", "run", "-d", "--network", "theirs", "--name", "asker", "lab", "sleep", "1000000")
        settled = [
            "docker",
            "exec",
            "asker",
            "wget",
            "-q",
            "-T",
            "2",
            "-O",
            "/dev/null",
            "http://site/passwd",
        ]
        self.wait(lambda: h2.run(settled).status == 0, "the swarm does not settle")
        for host in HOSTS:  # what `docker swarm join` does not wait for
            self.wait(lambda: self.has_ingress(host), f"{host} lacks the swarm's own network")
        self.docker("h2", "run", "-d", "--network", "theirs", "--name", "loop", "lab", "sh", "-c", ASK)

    def docker(self, host: str, *arguments: str) -> str:
        return self.lab.host(host).must(["docker", *arguments]).strip()

    def has_ingress(self, host: str) -> bool:
        look = ["docker", "network", "inspect", "-f", "{{json .Containers}}", "ingress"]
        return "ingress-sbox" in self.lab.host(host).run(look).stdout

    def wait(self, condition: Callable[[], bool], complaint: str | Callable[[], str]) -> None:
        self.cluster.wait(condition, SETTLED_S, complaint)

    def swarm_goes_on(self) -> None:
        """Wait for some more rounds of the loop, and see that none has ever failed."""
        before = self.docker("h2", "logs", "loop").split().count("good")
        done: list[str] = []

        def is_seen() -> bool:
            done[:] = self.docker("h2", "logs", "loop").split()
            return "bad" in done or done.count("good") >= before + ROUNDS

        self.wait(is_seen, "the loop stands still")
        assert "bad" not in done, f"{done.count('bad')} of {len(done)} requests failed"

    def traces(self, host: str) -> list[str]:
        """The ruleset of all programs, without its counters, and all settings of the network."""
        # Its status is no matter: a device may go while it reads.
        settings = self.lab.host(host).run(["sysctl", "-a", "--pattern", "^net"]).stdout.splitlines()
        kept = [line for line in settings if not any(word in line for word in (*MEASURED, *OUR_DEVICES))]
        return [*self.lab.host(host).must(["nft", "--stateless", "list", "ruleset"]).splitlines(), *kept]

    def first_traces(self, host: str) -> list[str]:
        """As if the agents were no members yet."""
        kept, ours = [], False
        for line in self.traces(host):
            ours = ours or OUR_TABLE.fullmatch(line) is not None
            if not ours:
                kept.append(line)
            ours = ours and line != "}"
        return kept

    def is_as(self, host: str, before: list[str]) -> bool:
        return self.traces(host) == before

    def difference(self, host: str, before: list[str]) -> str:
        return "\n".join([f"{host} is not as it was:", *difflib.unified_diff(before, self.traces(host), n=1)])

    def restart_agent(self, host: str) -> None:
        with self.lab.changing(host) as changed:
            changed.stop_agent()
            changed.start_agent()

    def networks(self, host: str) -> list[str]:
        return self.docker(
            host, "network", "ls", "--filter", "driver=netagent", "--format", "{{.Name}}"
        ).split()


def test_a_swarm_notices_nothing_of_install_use_and_uninstall(new_lab: Callable[[], Lab]) -> None:
    lab = new_lab()
    lab.up(of_hosts(len(HOSTS)))
    with ThreadPoolExecutor(4) as pool:
        site = Site(lab, pool)
        site.swarm_goes_on()
        before = {host: site.first_traces(host) for host in HOSTS}

        for host in HOSTS:
            lab.host(host).must(["netagent", "install", "docker"])
            site.restart_agent(host)
        site.swarm_goes_on()

        lab.host("h1").must(["netagent", "network", "create", "app"])
        for host in HOSTS:
            site.wait(lambda: site.networks(host) == ["app"], f"no network app on {host}")
        site.docker(
            "h1", "run", "-d", "--network", "app", "--name", "web", "lab", "httpd", "-f", "-h", "/etc"
        )
        page = [
            "run",
            "--rm",
            "--network",
            "app",
            "lab",
            "wget",
            "-q",
            "-T",
            "5",
            "-O",
            "-",
            "http://web/passwd",
        ]
        site.wait(lambda: "root" in lab.host("h2").run(["docker", *page]).stdout, "web does not answer")
        site.docker("h1", "network", "connect", "theirs", "web")
        site.swarm_goes_on()
        site.docker("h1", "rm", "-f", "web")
        lab.host("h1").must(["netagent", "network", "rm", "app"])
        for host in HOSTS:
            site.wait(lambda: site.networks(host) == [], f"the network app stays on {host}")
        site.swarm_goes_on()

        for host in HOSTS:
            lab.host(host).must(["netagent", "uninstall", "docker"])
            site.restart_agent(host)
            lab.host(host).must(["netagent", "uninstall", "docker"])  # now no agent puts its rules back
            lab.host(host).must(["netagent", "leave"])
        site.swarm_goes_on()
        for host in HOSTS:
            site.wait(partial(site.is_as, host, before[host]), partial(site.difference, host, before[host]))
