"""Planned work on a host fails no request: names go first, everywhere, and requests under way come to their end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = pytest.mark.lab

REQUESTS = str(Path(__file__).with_name("requests.py"))


@pytest.fixture
def web(app: Cluster) -> Cluster:
    """The service `web` has a replica on h2 and one on h3."""
    for host in ("h2", "h3"):
        app.attach(host, f"web-{host}", "--service", "web", command=("python3", REQUESTS, "serve"))
        app.wait(
            lambda: app.inside(f"web-{host}", "ss", "-Hltn", "sport = :7001").stdout != "",
            10.0,
            "no server",
        )
    for container in ("c1", "c3"):
        app.wait(lambda: len(app.ask(container, "web").data) == 2, 2.0, f"{container} lacks a replica")
    return app


def is_asked(web: Cluster, container: str) -> bool:
    return web.inside(container, "ss", "-Htn", "state", "established", "sport = :7001").stdout != ""


@contextmanager
def requests_from(
    web: Cluster, container: str, replicas: Sequence[str] = ("web-h2", "web-h3")
) -> Iterator[dict[str, Any]]:
    """Requests all the time that the block takes, of which each replica has got some before; afterwards the dict says
    what became of them."""
    argv = web.lab.container(container).entering(["python3", REQUESTS, "ask", "web", "100"])
    report: dict[str, Any] = {}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as asking:
        try:
            for replica in replicas:
                web.wait(lambda: is_asked(web, replica), 10.0, f"no client asks {replica}")
            yield report
        finally:
            output, _ = asking.communicate(timeout=30)
    report.update(json.loads(output))
    print(report)


def test_a_detach_and_a_leave_fail_no_request(web: Cluster) -> None:
    with requests_from(web, "c1") as detach:
        web.netagent("h2", "detach", "web-h2", "--drain", "8s")
    assert detach["failed"] == []

    web.lab.remove_container("web-h2", kill=True)
    web.attach("h2", "web-h2", "--service", "web", command=("python3", REQUESTS, "serve"))
    web.wait(lambda: len(web.ask("c1", "web").data) == 2, 2.0, "the replica is not back")
    web.wait(lambda: web.inside("web-h2", "ss", "-Hltn", "sport = :7001").stdout != "", 10.0, "no server")
    with requests_from(web, "c1") as leave:
        assert web.netagent("h3", "leave")["detached"] == 2
    assert leave["failed"] == []
    assert leave["done"] > 50


def test_a_reboot_fails_no_request(web: Cluster) -> None:
    with requests_from(web, "c1") as going:
        assert web.netagent("h3", "withdraw")["told"] == 2
        web.lab.power_off("h3")
        web.wait(lambda: web.agents("h1")["h3"] == "dead", 20.0, "h1 did not notice")
    assert going["failed"] == []
    assert going["done"] > 50
    with requests_from(web, "c1", ["web-h2"]) as coming:
        assert web.lab.power_on("h3") == []
        web.wait(lambda: len(web.ask("c1", "web").data) == 2, 15.0, "the replica is not back")
        web.wait(lambda: web.inside("web-h3", "ss", "-Hltn", "sport = :7001").stdout != "", 10.0, "no server")
    # The lab starts a container's program after its attach, so its name is there a moment before it listens.
    assert [text for text in coming["failed"] if "refused" not in text] == []
    assert coming["done"] > 10, "it takes as long as a host needs to come back"
