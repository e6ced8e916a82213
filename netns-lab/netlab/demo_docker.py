"""The Docker part of the demo, shown where Docker is installed: its containers join the network by themselves.

Nothing is downloaded: the dockerds run on the lab's hosts, and their image is built on the spot (`runtimes.py`).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from netlab.errors import LabError
from netlab.lab import Lab
from netlab.process import wait_until
from netlab.programs import environment
from netlab.runtimes import DOCKER_PROGRAMS, IMAGE

HOSTS = ("h1", "h2")
REPLICA = "web-docker"
FETCHES = 30
MIRROR_S = 10.0

VERDICT_S = 15.0
"""Docker checks each second, and on a busy machine a check itself takes seconds. This is not part of our promise."""
HEALTH_S = 2.0
"""Our promise, counted from Docker's verdict."""

REPLICA_OPTIONS = [
    *("--name", REPLICA, "--hostname", REPLICA),
    *("--label", "netagent.service=web", "--link", "db:database"),
    *("--health-cmd", "test ! -e /tmp/ill", "--health-interval", "1s", "--health-retries", "1"),
    *("-v", "/usr:/usr:ro", "-v", f"{Path(__file__).parent}:/demo:ro"),
]


def docker_is_installed() -> bool:
    """Return whether this part can be shown."""
    path = environment()["PATH"]
    return all(shutil.which(program, path=path) for program in DOCKER_PROGRAMS)


class DockerPart:
    """The steps. `fetch` gets http://web/ so many times from the demo's client and counts the answers by replica."""

    def __init__(self, lab: Lab, fetch: Callable[[int], Counter[str]]) -> None:
        self._lab = lab
        self._fetch = fetch

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Return steps like the demo's own."""
        return [
            ("`netagent install docker` on h1 and h2, and start their dockerds", self._install),
            ("h2: `docker run --network app --label netagent.service=web …`, a third replica", self._run),
            ("h1: `docker run --rm --network app …` fetches http://web/ as its first action", self._first),
            ("let the HEALTHCHECK of Docker's replica fail, then recover", self._fall_ill),
            ("h2: `docker rm -f`", self._remove),
        ]

    def _install(self) -> str:
        for name in HOSTS:
            with self._lab.changing(name) as host:
                host.install("docker")
                host.stop_agent()
                host.start_agent()
                host.docker.start([])
        for name in HOSTS:
            mirrored = partial(self._has_network, name)
            wait_until(mirrored, MIRROR_S, f"Docker on {name} has no network app")
        return "`docker network ls` shows app on both"

    def _has_network(self, name: str) -> bool:
        listing = ["docker", "network", "ls", "--filter", "driver=netagent", "--format", "{{.Name}}"]
        return self._lab.host(name).must(listing).split() == ["app"]

    def _run(self) -> str:
        options = ["--network", "app", *REPLICA_OPTIONS]
        command = ["/usr/bin/python3", "/demo/demo_web.py"]
        self._lab.host("h2").must(["docker", "run", "-d", *options, IMAGE, *command])
        took_s = self._until_answers({"h1", "h3", REPLICA}, 10.0)
        return f"all three replicas answer the client on h1, {took_s:.1f} s later"

    def _first(self) -> str:
        fetch = ["wget", "-q", "-T", "5", "-O", "-", "http://web/"]
        page = self._lab.host("h1").must(["docker", "run", "--rm", "--network", "app", IMAGE, *fetch])
        if not page.startswith("hello from "):
            raise LabError(f"it saw {page!r}")
        return page.rstrip()

    def _fall_ill(self) -> str:
        self._inside("touch", "/tmp/ill")
        self._until_docker_says("unhealthy")
        ill_s = self._until_answers({"h1", "h3"}, HEALTH_S)
        self._inside("rm", "/tmp/ill")
        self._until_docker_says("healthy")
        well_s = self._until_answers({"h1", "h3", REPLICA}, HEALTH_S)
        return f"out of the names {ill_s:.1f} s after Docker had noticed, and back {well_s:.1f} s after"

    def _remove(self) -> str:
        self._lab.host("h2").must(["docker", "rm", "-f", REPLICA])
        took_s = self._until_answers({"h1", "h3"}, 2.0)
        return f"withdrawn; {took_s:.1f} s later the two other replicas answer, and none fails"

    def _until_docker_says(self, health: str) -> None:
        inspect = ["docker", "inspect", "--format", "{{.State.Health.Status}}", REPLICA]
        host = self._lab.host("h2")
        wait_until(
            lambda: host.must(inspect).strip() == health, VERDICT_S, f"Docker does not report it as {health}"
        )

    def _inside(self, *command: str) -> None:
        self._lab.host("h2").must(["docker", "exec", REPLICA, *command])

    def _until_answers(self, expected: set[str], within_s: float) -> float:
        """Wait until exactly these replicas answer. Raises LabError for a wrong answer as well as for a late one."""
        seen: Counter[str] = Counter()

        def so() -> bool:
            nonlocal seen
            seen = self._fetch(FETCHES)
            return seen.keys() == expected

        return wait_until(so, within_s, lambda: f"expected answers by {sorted(expected)}, saw {dict(seen)}")
