"""Tables first, then resets; neither waits for what it does not need."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.lowlevel
from fakes.balancing import World, packed, service_address
from fakes.registry import H1, H2, H3, N1, endpoint
from fakes.rows import local_row
from fakes.virtual import virtual

from netagent.datapath.sockets.layout import ServiceEntry
from netagent.model.ids import HostId
from netagent.model.records import Health, HealthNote, Record
from netagent.projection.service_tables import FIRST_SYNC_S, PROGRAM_GRACE_S, ServiceTableUpdates
from netagent.registry.state_store import StateStore

BOTH = packed("10.8.0.5", "fd00:8::5")
ONE = packed("10.1.0.11", "fd00:1::b")


class Host:
    """In the place of the kernel: what was written and ended, in which order and when."""

    def __init__(self, found: Mapping[bytes, tuple[bytes, ...]] | None = None) -> None:
        self.found = found or {}
        self.origins_fd = 5 if found else None
        self.entries: dict[bytes, ServiceEntry] = {}
        self.log: list[tuple[str, float, set[bytes]]] = []
        self.path_s: float | None = 0.0
        self.synced = trio.Event()
        world = World()
        world.put(H1, service_address())
        world.put(H2, endpoint(1, offset=11))
        world.put(H3, endpoint(2, offset=12))
        self.world = world
        rows = {row.endpoint_id: row for row in [local_row("e" * 32, N1)]}
        self.live = StateStore(world.view, rows)
        tables: Any = self
        self.updates = ServiceTableUpdates(
            self.live,
            tables,
            tables,
            wait_programmed=self.wait_programmed,
            wait_caught_up=self.synced.wait,
            clock=lambda: 1000 + trio.current_time() - self.began,
        )
        self.began = trio.current_time()

    def note(self, what: str, things: Iterable[bytes]) -> None:
        self.log.append((what, trio.current_time() - self.began, set(things)))

    @property
    def steps(self) -> list[str]:
        return [what for what, _, _ in self.log]

    # -- what the loop uses --------------------------------------------------------------------------------------

    def places_in_kernel(self, address: bytes) -> tuple[bytes, ...]:
        return self.found.get(address, ())

    def is_in_kernel(self, address: bytes) -> bool:
        return address in self.found

    async def set_services(self, changed: Mapping[bytes, ServiceEntry | None]) -> None:
        await trio.lowlevel.checkpoint()
        self.note("set", changed)
        for address, entry in changed.items():
            if entry is None:
                del self.entries[address]
            else:
                self.entries[address] = entry

    async def replace_services(self, entries: Mapping[bytes, ServiceEntry]) -> None:
        await trio.lowlevel.checkpoint()
        self.note("replace", entries)
        self.entries = dict(entries)

    def note_gone(self, addresses: Iterable[bytes]) -> None:
        self.note("gone", addresses)

    def note_back(self, addresses: Iterable[bytes]) -> None:
        self.note("back", addresses)

    async def wait_programmed(self, _revision: int) -> None:
        await trio.sleep(float("inf") if self.path_s is None else self.path_s)

    # -- what happens --------------------------------------------------------------------------------------------

    async def put(self, owner: HostId, *records: Record) -> None:
        self.world.put(owner, *records)
        await self.follow()

    async def follow(self) -> None:
        self.live.update_view(lambda _view: self.world.view)
        await self.updates.wait_followed(self.live.revision)

    def led_to(self) -> set[str]:
        return {str(ipaddress.ip_address(one)) for one in self.entries[BOTH[0]].places}


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.updates.run)
        await host.updates.wait_followed(host.live.revision)
        yield
        nursery.cancel_scope.cancel()


@virtual
async def test_the_table_leads_to_no_backend_whose_connections_are_ended() -> None:
    host = Host()
    async with running(host):
        assert (host.steps, host.led_to()) == (["back", "replace"], {"10.1.0.11", "10.1.0.12"})
        host.log.clear()
        host.path_s = None
        host.world.delete(H2, endpoint(1))
        await host.follow()
        assert host.log == [("set", 0.0, set(BOTH)), ("gone", 0.0, set(ONE))], "no path to wait for"
        assert host.led_to() == {"10.1.0.12"}


@virtual
async def test_the_places_that_are_shown_are_the_kernels() -> None:
    host = Host(found={BOTH[0]: (b"abcd", b"efgh")})
    text = str(ipaddress.ip_address(BOTH[0]))
    assert host.updates.places(text) == (b"abcd", b"efgh")
    host.found = {}
    assert host.updates.places(text) is None, "nothing is translated"


@virtual
async def test_a_new_backend_waits_for_the_path_to_it_but_not_for_ever() -> None:
    host = Host()
    async with running(host):
        host.path_s = 0.5
        await host.put(H2, endpoint(3, offset=13))
        assert host.log[-1] == ("set", 0.5, set(BOTH))
        host.path_s = None
        await host.put(H2, endpoint(4, offset=14))
        assert host.log[-1] == ("set", 0.5 + PROGRAM_GRACE_S, set(BOTH))
        assert "10.1.0.14" in host.led_to()


@virtual
async def test_what_concerns_no_service_writes_nothing() -> None:
    host = Host()
    async with running(host):
        host.log.clear()
        await host.put(H2, endpoint(3, offset=13, service="other"))
        host.live.note_change()
        await host.updates.wait_followed(host.live.revision)
        assert host.log == []


@virtual
async def test_shares_grow_while_nothing_happens() -> None:
    host = Host()
    async with running(host):
        await host.put(H2, endpoint(1, offset=11, health=Health.HEALTHY, health_note=HealthNote(1000)))
        host.log.clear()
        await trio.sleep(100)
        assert [at_s for _, at_s, _ in host.log] == [5.0, 10.0, 15.0, 20.0, 25.0]


@virtual
async def test_a_start_reads_back_the_tables_and_waits_for_the_records_of_the_cluster() -> None:
    first = Host()
    async with running(first):
        pass
    host = Host({address: entry.places for address, entry in first.entries.items()})
    host.world.delete(H2, endpoint(1))
    host.live.update_view(lambda _view: host.world.view)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.updates.run)
        await trio.sleep(0.5)
        assert host.log == [], "an agent's first view may lack what is in the kernel"
        host.world.put(H2, endpoint(3, offset=13))
        host.live.update_view(lambda _view: host.world.view)
        host.synced.set()
        await host.updates.wait_followed(host.live.revision)
        assert host.steps == ["back", "replace", "gone"]
        assert host.log[-1] == ("gone", 0.5, set(ONE))
        assert host.led_to() == {"10.1.0.12", "10.1.0.13"}
        nursery.cancel_scope.cancel()


@virtual
async def test_a_start_of_a_host_that_reaches_no_other_one_does_not_wait_long() -> None:
    host = Host({BOTH[0]: ONE[:1]})
    async with running(host):
        assert host.log[0][1] == FIRST_SYNC_S


@virtual
async def test_no_connection_ends_before_it_is_known_that_its_replica_is_gone() -> None:
    """The kernel has two replicas that the journal lacks. Of one a record comes, after more than FIRST_SYNC_S."""
    first = Host()
    async with running(first):
        pass
    host = Host({address: entry.places for address, entry in first.entries.items()})
    gone, late = endpoint(1, offset=11), endpoint(2, offset=12)
    host.world.delete(H2, gone)
    host.world.delete(H3, late)
    host.live.update_view(lambda _view: host.world.view)
    async with running(host):
        assert (host.steps, host.log[0][1]) == (["replace"], FIRST_SYNC_S)
        await host.put(H1, endpoint(3, offset=13))
        assert host.steps == ["replace", "back", "set"]
        host.world.put(H3, late)
        host.live.update_view(lambda _view: host.world.view)
        host.synced.set()
        await trio.sleep(1)
        assert host.led_to() == {"10.1.0.12", "10.1.0.13"}
        assert [things for what, _, things in host.log if what == "gone"] == [set(ONE)]


@virtual
async def test_a_network_without_containers_here_has_no_tables() -> None:
    host = Host()
    async with running(host):
        host.live.drop_row(next(iter(host.live.rows)))
        await host.updates.wait_followed(host.live.revision)
        assert host.entries == {}
        assert host.steps[-1] == "set"
