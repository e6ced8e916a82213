"""The web page while fifty things change each second: it loses no change, and neither it nor the agent grows.

One window shows the services all the time, another goes from part to part. `NETAGENT_PAGE_CHURN_S` sets how long.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import pytest
from harness.browser import Browser, browser
from lab.harness import Cluster
from lab.invariants import log_flaws, memory
from lab.page import page_of

from netagent.control.client import Client
from netagent.interface.additions import ServiceAddCommand
from netagent.interface.containers import DrainCommand, UndrainCommand
from netagent.interface.services import ServiceRemoveCommand

pytestmark = [pytest.mark.lab, pytest.mark.services]

CHURN_S = float(os.environ.get("NETAGENT_PAGE_CHURN_S", "600"))
PARTS_OF_CHURN = 10
"""So often all is measured. What counts is the growth since the third time, when all code is loaded and compiled, and
the caches and logs of the page and the agents have their size."""
CHANGES_PER_S = 50
MIN_CHANGES_PER_S = 20
"""A busy machine makes fewer."""
CHURNERS_OF_A_HOST = 2
"""Each waits for one answer at a time."""
CONTAINERS_OF_ONE = 2
SERVICES_OF_ONE = 12
SEEN_S = 10.0
"""Within this time each change must be in the table; it is some tenths of a second on a quiet machine."""
STAY_S = 2.0
"""So long the second window stays at each part, before it opens the next."""
MAX_HEAP_GROWTH_BYTES = 512 << 10
MAX_NODE_GROWTH = 1000
MAX_AGENT_GROWTH_BYTES = 4 << 20
PARTS = ("", "map", "services", "endpoints", "hosts", "paths", "networks", "addresses", "flows", "events")
QUIET_PART = "dns"
"""What the second window shows when things are counted: it follows nothing."""
AWAITED_PORT = """
const [wanted, most_ms] = arguments;
return new Promise((done) => {
  function look() {
    const rows = [...document.querySelectorAll("tbody tr:not(.space)")];
    const shown = rows.find((one) => one.cells[0].innerText === "marker")?.cells[5].innerText;
    if (shown === wanted || performance.now() - began > most_ms) done(shown);
    else setTimeout(look, 50);
  }
  const began = performance.now();
  look();
});
"""
"""One script for each change: the browser keeps some bytes of every script that it is given."""


class Churner:
    """Changes things of one host until it is stopped: drains of some containers, and services that operators add."""

    def __init__(self, cluster: Cluster, host: str, number: int, seed: str) -> None:
        containers = [f"{host}w{number}{letter}" for letter in "abcdefgh"[:CONTAINERS_OF_ONE]]
        for name in containers:
            cluster.attach(host, name, "--service", f"web{name[-1]}")
        self._client = Client(str(cluster.lab.host(host).path("/run/netagent/netagent.sock")))
        self._chance = random.Random(f"{seed} {host} {number}")
        self._is_drained = dict.fromkeys(containers, False)
        self._is_added = dict.fromkeys((f"{host}-{number}-{one}" for one in range(SERVICES_OF_ONE)), False)
        self.changes = 0

    def run(self, stop: threading.Event, per_s: float) -> None:
        """Make so many changes a second, evenly; after a stall some at once, so that the rate holds."""
        began = time.monotonic()
        while not stop.wait(max(0.0, began + self.changes / per_s - time.monotonic())):
            self.step()

    def step(self) -> None:
        """Make one change."""
        if self._chance.random() < 0.5:
            name = self._chance.choice(list(self._is_drained))
            command = UndrainCommand if self._is_drained[name] else DrainCommand
            self._client.send(command(endpoint=name))
            self._is_drained[name] ^= True
        else:
            name = self._chance.choice(list(self._is_added))
            if self._is_added[name]:
                self._client.send(ServiceRemoveCommand(service=name, network="app"))
            else:
                port = self._chance.randrange(1, 65536)
                self._client.send(
                    ServiceAddCommand(name=name, network="app", addresses=[f"198.51.100.7:{port}"])
                )
            self._is_added[name] ^= True
        self.changes += 1


@contextmanager
def churning(cluster: Cluster, churners: Sequence[Churner]) -> Iterator[None]:
    """Let all hosts change things, together CHANGES_PER_S."""
    stop = threading.Event()
    running = [cluster.in_background(one.run, stop, CHANGES_PER_S / len(churners)) for one in churners]
    try:
        yield
    finally:
        stop.set()
    for one in running:
        one.result()


class Marker:
    """A service that gets another port again and again; each must be seen in the table."""

    def __init__(self, cluster: Cluster, window: Browser) -> None:
        self._client = Client(str(cluster.lab.host("h2").path("/run/netagent/netagent.sock")))
        self._window = window
        self.seen_s: list[float] = []

    def step(self) -> None:
        """Change it, and wait until the table of the current window shows the change."""
        port = len(self.seen_s) + 1
        if self.seen_s:
            self._client.send(ServiceRemoveCommand(service="marker", network="app"))
        self._client.send(ServiceAddCommand(name="marker", network="app", addresses=[f"198.51.100.9:{port}"]))
        began = time.monotonic()
        shown = self._window.run(AWAITED_PORT, f"{port}/tcp", SEEN_S * 1000)
        assert shown == f"{port}/tcp", f"after {SEEN_S:.0f} s the table shows {shown!r}, not port {port}"
        self.seen_s.append(time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Size:
    """What the two windows and the agent that serves them hold."""

    table_bytes: int
    walker_bytes: int
    walker_counts: dict[str, int]
    agent_bytes: int

    def __str__(self) -> str:
        return (
            f"scripts {self.table_bytes / 1e6:.2f} MB (table) and {self.walker_bytes / 1e6:.2f} MB (walker), "
            f"{self.walker_counts['nodes']} nodes, {self.walker_counts['jsEventListeners']} listeners, "
            f"agent {self.agent_bytes / 1e6:.1f} MB"
        )


def cells(window: Browser) -> list[list[str]]:
    """The rows of a table, each as the text of its cells."""
    found: list[list[str]] = window.run(
        "return [...document.querySelectorAll('tbody tr:not(.space)')]"
        ".map((row) => [...row.cells].map((one) => one.innerText))"
    )
    return found


def services_lost(cluster: Cluster, window: Browser) -> set[tuple[str, ...]]:
    """The rows of services that the table or the agent has and the other has not."""
    shown = {
        (one[0], one[1], " ".join(one[3].split()[:3]), one[4].removesuffix(" (external)"), one[5])
        for one in cells(window)
    }
    told = {
        (
            one["name"],
            one["network"],
            f"{one['answering']} of {one['endpoint_count']}",
            " ".join(one["hosts"]),
            "  ".join(f"{port['number']}/{port['protocol']}" for port in one["ports"]),
        )
        for one in cluster.netagent("h1", "services")
    }
    return shown ^ told


def endpoints_lost(cluster: Cluster, window: Browser) -> set[tuple[str, ...]]:
    """The same for endpoints."""
    shown = {(*one[:4], one[5].split()[1]) for one in cells(window)}
    told = {
        (one["name"], one["network"], one["service"], one["host"], one["state"])
        for one in cluster.netagent("h1", "endpoints")
    }
    return shown ^ told


@pytest.mark.long
@pytest.mark.timeout(CHURN_S + 300)
def test_fifty_changes_a_second_are_followed_without_loss_or_growth(app: Cluster, churn_seed: str) -> None:
    churners = [
        Churner(app, host, number, churn_seed) for host in app.hosts for number in range(CHURNERS_OF_A_HOST)
    ]
    sizes: list[Size] = []

    def measure(passed_s: float) -> None:
        """Count, from the table's window on; the second one is at the quiet part, and left there."""
        table_bytes = window.heap_bytes
        window.switch(walker)
        go(window, QUIET_PART)
        sizes.append(Size(table_bytes, window.heap_bytes, window.dom_counts(), memory(app)["h1", "agent"]))
        window.switch(table)
        print(
            f"after {passed_s:.0f} s and {sum(one.changes for one in churners)} changes: {sizes[-1]}",
            flush=True,
        )

    with browser() as window, page_of(app, "h1", window) as open_part:
        open_part("services")
        window.wait_text("live")
        table = window.second_window()
        open_part(QUIET_PART)
        window.wait_text("Look up")
        walker = window.switch(table)
        marker = Marker(app, window)
        with churning(app, churners):
            began, measured_s = time.monotonic(), 0.0
            while (passed_s := time.monotonic() - began) < CHURN_S:
                marker.step()
                if passed_s - measured_s > CHURN_S / PARTS_OF_CHURN:
                    measure(passed_s)
                    measured_s = passed_s
                window.switch(walker)
                go(window, PARTS[len(marker.seen_s) % len(PARTS)])
                window.switch(table)
                time.sleep(STAY_S)
            measure(passed_s)
            window.switch(walker)
            go(window, "endpoints")
            window.wait(lambda: len(cells(window)) > len(churners), "no endpoints")
            time.sleep(STAY_S)  # the last changes reach both tables as changes, not as their first contents
        changes = sum(one.changes for one in churners)
        window.wait(lambda: not endpoints_lost(app, window), "endpoints differ from the agent's")
        window.switch(table)
        window.wait(lambda: not services_lost(app, window), "services differ from the agent's")
        assert window.complaints() == []

    print(
        f"{changes} changes in {passed_s:.0f} s; {len(marker.seen_s)} marked ones seen after "
        f"{median(marker.seen_s):.2f} s, at most {max(marker.seen_s):.2f} s"
    )
    assert changes / passed_s > MIN_CHANGES_PER_S
    first, last = sizes[PARTS_OF_CHURN // 3 - 1], sizes[-1]
    assert last.table_bytes - first.table_bytes < MAX_HEAP_GROWTH_BYTES
    assert last.walker_bytes - first.walker_bytes < MAX_HEAP_GROWTH_BYTES
    assert last.walker_counts["nodes"] - first.walker_counts["nodes"] < MAX_NODE_GROWTH
    assert last.agent_bytes - first.agent_bytes < MAX_AGENT_GROWTH_BYTES
    assert not log_flaws(app), log_flaws(app)[0]


def go(window: Browser, part: str) -> None:
    """Open a part as a click on its name does, without loading the page anew."""
    window.run("document.querySelector(`nav a[data-part='${arguments[0]}']`).click()", part)
