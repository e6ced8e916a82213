#!/usr/bin/env python3
"""How long until a browser shows the web page, and what does it cost to follow changes?

An agent's part that serves the page runs over a registry of 300 hosts and N endpoints of 1,000 services in 10
networks; Debian's Chromium opens it. For each part it prints the time from the navigation to the first row, as the
browser measured it, with the tables made anew and with tables that another reader has. Then endpoints change, 50 per
second, for some minutes, while the page shows 200 of them, sorted by state: it prints what the thread of the agent
took for the changes alone and with the page, what the page's scripts and the process hold at the beginning and in the
end, and whether the rows in the end are those of the registry.

    .venv/bin/python benchmarks/page.py [--endpoints 20000] [--minutes 10]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import trio
from elsewhere import HOSTS, underlay_of  # adds the product and the tests to the module path
from harness.browser import Browser, browser

from netagent.access.token_store import TokenStore
from netagent.control.api import Handlers
from netagent.control.present import Presenter, ProbeView
from netagent.http.listener import HttpListener
from netagent.interface.cluster import MembersCommand
from netagent.interface.questions import FlowsCommand
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import EndpointRecord, Health, HostRecord, NetworkRecord, Record
from netagent.page.access_key import AccessKeys
from netagent.page.contents import PageSource
from netagent.page.site import Site
from netagent.registry.record_codec import encode, key_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.join.identity import Identity
from netgossip.types import EntriesChanged, Entry, Version

NETWORKS = 10
SERVICES = 1000
CHANGES_PER_S = 50
KEYS = AccessKeys(bytes(32))
PARTS = {
    "services": "tbody tr:not(.space)",
    "endpoints": "tbody tr:not(.space)",
    "hosts": "tbody tr",
    "map": "canvas",
}


class World:
    """A registry, and what serves its page in a thread."""

    def __init__(self, endpoints: int) -> None:
        self.identities = [Identity((number + 7).to_bytes(32, "big")) for number in range(HOSTS)]
        self.sequences = [0] * HOSTS
        self.live = StateStore(RegistryView(HostId(self.identities[0].node_id)), {})
        for number in range(HOSTS):
            self.put(number, self.host(number))
        for number in range(NETWORKS):
            self.put(0, self.network(number))
        self.records = [self.endpoint(number) for number in range(endpoints)]
        for at in range(HOSTS):
            own = [one for number, one in enumerate(self.records) if number % HOSTS == at]
            for network in range(NETWORKS):
                chosen = [one for one in own if one.network_id == self.network_id(network)]
                if chosen:
                    self.put(at, *chosen)
        assert len(self.live.view.endpoints) == endpoints
        self.cpu_s = 0.0
        self.changes = 0
        self.is_changing = False
        self._stop = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.key, _ = KEYS.issue(int(time.time()))

    def network_id(self, number: int) -> NetworkId:
        """Return one that begins with other digits than the others."""
        return NetworkId(f"{number + 0xA0:02x}" + "0" * 30)

    def host(self, number: int) -> HostRecord:
        """Return a host's record."""
        return HostRecord(
            name=f"x{number}",
            public_key=self.identities[number].public_key,
            underlay=underlay_of(number),
            vxlan_port=4799,
            probe_address=f"fd00::{number + 10:x}",
            probe_mac=bytes([2, 0x11, 0, 0, *number.to_bytes(2, "big")]).hex(":"),
        )

    def network(self, number: int) -> NetworkRecord:
        """Return a network's record."""
        subnets = (f"10.{number}.0.0/16", f"fd00:{number + 1:x}::/64")
        return NetworkRecord(
            network_id=self.network_id(number),
            name=f"net{number}",
            vni=(1 << 23) + number,
            subnets=subnets,
            mtu_bytes=1450,
        )

    def endpoint(self, number: int) -> EndpointRecord:
        """Return an endpoint's record."""
        network, at = number % NETWORKS, number // NETWORKS + 600
        return EndpointRecord(
            endpoint_id=EndpointId(f"{number + 0xE0000:032x}"),
            network_id=self.network_id(network),
            name=f"c{number}",
            service=f"web{number % SERVICES}",
            addresses=(f"10.{network}.{at >> 8}.{at & 255}", f"fd00:{network + 1:x}::{at:x}"),
            mac=bytes([2, 0x22, network, *at.to_bytes(3, "big")]).hex(":"),
        )

    def put(self, at: int, *records: Record) -> None:
        """Let a host say something, all in one scope."""
        owner, entries = self.identities[at].node_id, []
        scope = key_of(records[0])[0]
        for record in records:
            self.sequences[at] += 1
            entries.append(
                Entry(scope, owner, key_of(record)[1], encode(record), Version(1, self.sequences[at]))
            )
        event = EntriesChanged(scope, owner, 1, self.sequences[at], 0, tuple(entries), replaced=False)
        self.live.update_view(lambda view: view.with_entries(event))

    # -- serving -----------------------------------------------------------------------------------------------

    async def presenter(self) -> Presenter:
        """Return what presents the registry now."""
        return Presenter(self.live.view, "mesh.internal")

    async def members(self, _request: MembersCommand) -> Any:
        """Answer the command."""
        present = await self.presenter()
        return {"items": [present.member(one, ProbeView()) for one in self.live.view.hosts.values()]}

    async def paths(self, _hosts: Any) -> Any:
        """Know no path."""
        return {}

    async def flows(self, _request: FlowsCommand) -> Any:
        """Answer the command: none."""
        return {"items": []}

    async def run(self, folder: Path) -> None:
        """Serve, and change what is served while it is wanted."""
        tokens = TokenStore(folder / "tokens")
        source = PageSource(
            cast("Handlers", {MembersCommand: self.members, FlowsCommand: self.flows}),
            self.presenter,
            lambda: "mesh",
            self.paths,
        )
        site = Site(source, self.live.wait_newer, lambda: KEYS, tokens)
        listener = HttpListener(
            f"127.0.0.1:{self.port}", site.routes, tokens=tokens, make_tls=lambda: cast("Any", None)
        )
        chance = random.Random(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.run, trio.Event())
            nursery.start_soon(site.run)
            while not self._stop.is_set():
                await trio.sleep(1 / CHANGES_PER_S)
                self.cpu_s = time.thread_time()
                if self.is_changing:
                    number = chance.randrange(len(self.records))
                    health = Health.UNHEALTHY if chance.random() < 0.3 else Health.HEALTHY
                    self.records[number] = replace(self.records[number], health=health)
                    self.put(number % HOSTS, self.records[number])
                    self.changes += 1
            nursery.cancel_scope.cancel()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve in a thread."""
        with tempfile.TemporaryDirectory() as folder:
            thread = threading.Thread(target=trio.run, args=(self.run, Path(folder)))
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join()


def shown_after_ms(window: Browser, address: str, rows: str) -> tuple[float, float]:
    """Open a part; return when the browser painted first, and when there was a row, from the navigation on."""
    window.open(address)
    found = window.run(
        "const [rows, done] = arguments; return new Promise((resolve) => { const look = () => {"
        "document.querySelector(rows) ? resolve(performance.now()) : requestAnimationFrame(look); }; look(); })",
        rows,
    )
    painted = window.run("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
    return float(painted), float(found)


def resident_bytes() -> int:
    """Return what this process holds: the registry, and what serves the page."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def measure_paint(world: World, window: Browser) -> None:
    """Print how long each part takes, first with the tables made anew."""
    base = f"http://127.0.0.1:{world.port}/page/"
    window.open(f"{base}static/icon.svg")
    window.run("localStorage.setItem('netagent-key', arguments[0])", world.key)
    for number, (part, rows) in enumerate([*PARTS.items(), *PARTS.items()]):
        painted, found = shown_after_ms(window, base + part, rows)
        how = "with the tables made anew" if number == 0 else ""
        print(f"{part:10} first paint {painted:5.0f} ms, first row {found:5.0f} ms  {how}", flush=True)


def measure_churn(world: World, window: Browser, minutes: float) -> None:
    """Print what changes cost, with and without a reader, and whether one was lost."""

    def load_percent(seconds: float) -> float:
        began_s, cpu_s = time.monotonic(), world.cpu_s
        time.sleep(seconds)
        return 100 * (world.cpu_s - cpu_s) / (time.monotonic() - began_s)

    window.open("about:blank")
    world.is_changing = True
    alone = load_percent(10)
    window.open(f"http://127.0.0.1:{world.port}/page/endpoints?sort=state")
    time.sleep(10)
    heaps, residents = [window.heap_bytes], [resident_bytes()]
    for _ in range(max(1, round(minutes))):
        load = load_percent(60 if minutes >= 1 else 60 * minutes)
        heaps.append(window.heap_bytes)
        residents.append(resident_bytes())
        print(
            f"{world.changes} changes: thread {load:.1f} % of a core with the page ({alone:.1f} % without), "
            f"scripts {heaps[-1] / 1e6:.2f} MB (first {heaps[0] / 1e6:.2f}), "
            f"process {residents[-1] / 1e6:.0f} MB (first {residents[0] / 1e6:.0f})",
            flush=True,
        )
    world.is_changing = False
    time.sleep(3)
    expected = sorted(
        (
            one.health is not Health.UNHEALTHY,
            "up" if one.health is not Health.UNHEALTHY else "unhealthy",
            one.name,
        )
        for one in world.records
    )[:100]
    shown = [row.split()[0] for row in window.rows()][:100]
    lost = sum(row != name for row, (_, _, name) in zip(shown, expected, strict=True))
    print(f"rows that differ from the registry in the end: {lost} of {len(expected)}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoints", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    world = World(given.endpoints)
    with world.serving(), browser() as window:
        measure_paint(world, window)
        measure_churn(world, window, given.minutes)


if __name__ == "__main__":
    main()
