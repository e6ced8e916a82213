"""The elements of the kernel's tables, made step by step and at once, and what of them is in force when. The programs
are not attached here: tests/kernel/test_service_tables.py."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from netagent.datapath.reconcile.drift import Drift
from netagent.datapath.sockets import adoption, layout, service_tables
from netagent.datapath.sockets.layout import SHAPES, Member, ServiceEntry
from netagent.datapath.sockets.port_shares import PortShares
from netagent.datapath.sockets.service_tables import PERIOD_S, REST_S, RETRY_S, ServiceTables, _Tables
from netagent.errors import FailedError
from netagent.model.ids import HostId
from netagent.model.records import ServicePort

addresses = st.sampled_from(
    [bytes([10, 0, 0, n]) for n in range(4)] + [bytes(15) + bytes([n]) for n in range(3)]
)


@st.composite
def entries(draw: st.DrawFn) -> ServiceEntry:
    address = draw(addresses)
    backend = st.sampled_from([bytes([10, 9, 0, n]).rjust(len(address), b"\0") for n in range(3)])
    ports = draw(st.lists(st.sampled_from([80, 443, 53]), unique=True, max_size=3))
    return ServiceEntry(
        address,
        draw(st.integers(1, 2)),
        tuple(draw(st.lists(backend, max_size=3))),
        tuple(ServicePort(port, port + draw(st.integers(0, 1))) for port in sorted(ports)),
        draw(st.booleans()),
    )


changes = st.lists(st.one_of(entries(), addresses), max_size=12)
members = st.frozensets(st.builds(Member, st.integers(1, 4), st.integers(1, 2)), max_size=4)


@dataclass
class FakeMap:
    """In the place of a map in the kernel."""

    held: dict[bytes, bytes] = field(default_factory=dict)
    most: int = 1000
    fd: int = -1

    def update(self, key: bytes, value: bytes) -> None:
        if key not in self.held and len(self.held) >= self.most:
            raise OSError(7, "Argument list too long")
        self.held[key] = value

    def delete(self, key: bytes) -> None:
        self.held.pop(key, None)

    def lookup(self, key: bytes) -> bytes | None:
        return self.held.get(key)

    def batches(self, most: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
        yield list(self.held), list(self.held.values())


class FakeKernel:
    """Maps that outlive an agent, once programs are attached to them."""

    def __init__(self) -> None:
        self.maps: dict[str, FakeMap] = {}
        self.refusal: Exception | None = None
        self.attached = 0

    def adoptable_maps(self, _group: int) -> dict[str, FakeMap]:
        return self.maps

    def programs(self, _group: int, found: dict[str, FakeMap]) -> FakePrograms:
        return FakePrograms(
            self, found or {shape.name: FakeMap() for shape in SHAPES}, is_adopted=bool(found)
        )

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        return {name: one.held for name, one in self.maps.items() if one.held}


@dataclass
class FakePrograms:
    kernel: FakeKernel
    maps: dict[str, FakeMap]
    is_adopted: bool

    def attach_all(self) -> list[str]:
        if self.kernel.refusal is not None:
            raise self.kernel.refusal
        self.kernel.attached += 1
        self.kernel.maps = self.maps
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    return fake_kernel(monkeypatch)


def fake_kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    made = FakeKernel()
    monkeypatch.setattr(adoption, "adoptable_maps", made.adoptable_maps)
    monkeypatch.setattr(service_tables, "SocketPrograms", made.programs)
    return made


def open_nothing() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def new_tables() -> ServiceTables:
    return ServiceTables(Drift(), open_root=open_nothing)


@given(st.data())
def test_step_by_step_is_as_at_once(data: st.DataObject) -> None:
    """Also over a start, which adopts what is there; and no element is left of what is not wanted."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel, other = fake_kernel(monkeypatch), FakeKernel()
        wanted: dict[bytes, ServiceEntry] = {}

        async def main() -> None:
            tables = new_tables()
            await tables.set_members(data.draw(members) | {Member(9, 9)})
            await tables.replace_services({b"\x0b\0\0\0": ServiceEntry(b"\x0b\0\0\0", 1, ())})
            for change in data.draw(changes):
                entry = change if isinstance(change, ServiceEntry) else None
                address = change.address if isinstance(change, ServiceEntry) else change
                wanted.pop(address, None)
                if entry is not None:
                    wanted[address] = entry
                await tables.set_services({address: entry})
            if data.draw(st.booleans()):
                tables = new_tables()
                assert not tables.is_usable(Member(9, 9))
            last = data.draw(members) | {Member(8, 8)}
            wanted[b"\x0c\0\0\0"] = ServiceEntry(b"\x0c\0\0\0", 1, ())
            if data.draw(st.booleans()):
                await tables.set_members(last)
                await tables.replace_services(wanted)
            else:
                await tables.replace_services(wanted)
                await tables.set_members(last)
            assert tables.usable_members == last
            for address, entry in wanted.items():
                assert tables.places_in_kernel(address) == entry.places

            monkeypatch.setattr(adoption, "adoptable_maps", other.adoptable_maps)
            monkeypatch.setattr(service_tables, "SocketPrograms", other.programs)
            at_once = new_tables()
            await at_once.set_members(last)
            await at_once.replace_services(wanted)
            assert kernel.contents() == other.contents()

        trio.run(main)


def entry_of(number: int) -> ServiceEntry:
    return ServiceEntry(bytes([10, 0, 0, number]), 1, (bytes([10, 9, 0, 1]),))


def test_a_host_without_services_or_members_loads_nothing(kernel: FakeKernel) -> None:
    async def main() -> None:
        tables = new_tables()
        await tables.replace_services({})
        await tables.set_members([Member(1, 1)])
        await tables._look()
        assert (tables.trouble, kernel.attached, tables.usable_members) == (None, 0, frozenset())
        await tables.set_members([])
        await tables.replace_services({entry_of(1).address: entry_of(1)})
        assert kernel.attached == 0
        await tables.set_members([Member(1, 1)])
        assert kernel.attached == 1
        assert tables.is_usable(Member(1, 1))
        assert tables.is_in_kernel(entry_of(1).address)

    trio.run(main)


def test_nothing_is_usable_while_programs_are_refused_and_watchers_are_told(kernel: FakeKernel) -> None:
    async def main() -> None:
        kernel.refusal = FailedError("another program is in the way")
        tables = new_tables()
        told: list[tuple[str | None, bool]] = []
        tables.watch(lambda: told.append((tables.trouble, tables.is_usable(Member(1, 1)))))
        await tables.set_members([Member(1, 1)])
        await tables.replace_services({entry_of(1).address: entry_of(1)})
        await tables._look()
        assert told == [("another program is in the way", False)]
        kernel.refusal = None
        await tables._look()
        await tables._look()
        assert told == [("another program is in the way", False), (None, True)]
        kernel.refusal = OSError(1, "Operation not permitted")
        await tables._look()
        assert told[2:] == [
            ("the kernel refuses the programs for lack of a right (CAP_SYS_ADMIN, CAP_NET_ADMIN)", False)
        ]

    trio.run(main)


def test_a_kernel_without_cookies_is_named() -> None:
    assert ServiceTables(Drift(), impediment="no cookies").trouble == "no cookies"


def test_a_cancelled_change_is_made_up_for(kernel: FakeKernel) -> None:
    async def main() -> None:
        tables = new_tables()
        await tables.set_members([Member(1, 1)])
        await tables.replace_services({entry_of(1).address: entry_of(1)})
        with trio.CancelScope() as scope:
            scope.cancel()
            await tables.set_services({entry_of(2).address: entry_of(2), entry_of(1).address: None})
        assert scope.cancelled_caught
        await tables._look()
        assert [tables.is_in_kernel(entry_of(n).address) for n in (1, 2)] == [False, True]

    trio.run(main)


def test_a_host_without_services_looks_no_more_until_there_is_one(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before it is sure that nothing is left of another release; then a service is compared at once."""
    monkeypatch.setattr(adoption, "ours_at", lambda _group: iter(()))
    monkeypatch.setattr(service_tables, "STALE_S", 0.0)

    async def main() -> None:
        tables = new_tables()
        await tables._look()
        assert tables._pause_s() == PERIOD_S, "it is not known yet what is wanted"
        await tables.set_members([])
        await tables.replace_services({entry_of(1).address: entry_of(1)})
        await tables._look()
        assert tables._pause_s() == REST_S
        await tables.set_members([Member(1, 1)])
        assert tables.is_usable(Member(1, 1))
        assert tables._pause_s() == PERIOD_S
        with trio.fail_after(30.0):
            assert await tables._task.wait(60.0), "a pause that has begun ends"

    trio.run(main)


@pytest.mark.parametrize(("worked_s", "pause_s"), [(0.001, PERIOD_S), (0.1, 5.0)])
def test_a_look_may_take_its_share_of_a_processor_but_waiting_for_one_counts_for_nothing(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, worked_s: float, pause_s: float
) -> None:
    pauses: list[float | None] = []
    worked = 0.0

    def batches(_self: FakeMap, most: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
        nonlocal worked
        worked += worked_s / 4  # of the four maps that are compared
        time.sleep(0.05)
        yield [], []

    async def main() -> None:
        tables = new_tables()
        looked = trio.Event()

        async def wait(pause_s: float | None) -> bool:
            pauses.append(pause_s)
            if len(pauses) == 3:
                looked.set()
            await trio.lowlevel.checkpoint()
            return False

        await tables.set_members([Member(1, 1)])
        await tables.replace_services({entry_of(1).address: entry_of(1)})
        monkeypatch.setattr(FakeMap, "batches", batches)
        monkeypatch.setattr(time, "thread_time", lambda: worked)
        monkeypatch.setattr(tables._task, "wait", wait)
        async with trio.open_nursery() as nursery:
            await nursery.start(tables.run)
            await looked.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert pauses[:3] == [pytest.approx(pause_s)] * 3


def test_the_time_of_one_change_does_not_grow(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in elements that are packed. Also when the table is full: it holds 1,000."""
    packed: list[ServiceEntry] = []

    def pack(entry: ServiceEntry) -> bytes:
        packed.append(entry)
        return layout.pack_service(entry)

    async def main() -> None:
        tables = new_tables()
        await tables.set_members([Member(1, 1)])
        many = [ServiceEntry(bytes([10, 0, n >> 8, n & 255]), 1, ()) for n in range(3000)]
        await tables.replace_services({one.address: one for one in many})
        monkeypatch.setattr(service_tables, "pack_service", pack)
        changed = ServiceEntry(many[5].address, 1, (bytes([10, 9, 0, 1]),))
        await tables.set_services({changed.address: changed})
        assert packed == [changed]
        # A set that has been large takes as long to go through as then.
        assert tables._dirty.__sizeof__() == set().__sizeof__()

    trio.run(main)


def ported(number: int, ports: int, owner: HostId) -> ServiceEntry:
    address = bytes([10, 0, number >> 8, number & 255])
    return ServiceEntry(
        address,
        1,
        (bytes([10, 9, 0, 1]),),
        tuple(ServicePort(n, n) for n in range(1, ports + 1)),
        owner=owner,
    )


H1, H2, H3 = HostId("1" * 32), HostId("2" * 32), HostId("3" * 32)


def small_ports(kernel: FakeKernel, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_tables, "MOST_PORTS", most)
    whole = kernel.programs

    def programs(group: int, found: dict[str, FakeMap]) -> FakePrograms:
        made = whole(group, found)
        made.maps[layout.PORTS.name].most = most
        return made

    monkeypatch.setattr(service_tables, "SocketPrograms", programs)


def test_one_member_leaves_room_in_the_table_of_ports(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as it has itself, also over a start; what it gets no more is said with the cause."""
    small_ports(kernel, 30, monkeypatch)
    greedy = {one.address: one for one in (ported(n, 3, H1) for n in range(40))}
    others = {one.address: one for one in (ported(100, 5, H2), ported(101, 4, H3))}

    def led(tables: ServiceTables) -> set[bytes]:
        return {one for one in {**greedy, **others} if tables.is_in_kernel(one)}

    async def main() -> None:
        tables = new_tables()
        await tables.set_members([Member(1, 1)])
        await tables.replace_services(greedy)
        first = led(tables)
        assert len(first) == 5
        assert tables.refused.keys() == greedy.keys() - first
        assert {*tables.refused.values()} == {service_tables._PORTS_TAKEN}
        assert tables.lack is not None
        assert service_tables._PORTS_TAKEN in tables.lack
        await tables.set_services(others)
        assert led(tables) == first | others.keys()
        again = new_tables()
        await again._look()
        await again.set_members([Member(1, 1)])
        await again.replace_services({**greedy, **others})
        assert led(again) == first | others.keys(), "what was led is led"
        await again.set_services(dict.fromkeys((min(first), *others)))
        assert len(led(again)) == 5, "another one has room once one goes"

    trio.run(main)


def test_what_finds_no_room_leads_to_no_backend_that_is_gone(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that wants more ports than there is room for still gets its new places, and the ports that it has."""
    small_ports(kernel, 8, monkeypatch)
    first = ported(1, 2, H1)
    more = dataclasses.replace(ported(1, 8, H1), places=(bytes([10, 9, 0, 2]),))

    async def main() -> None:
        tables = new_tables()
        told: list[frozenset[bytes]] = []
        tables.watch(lambda: told.append(frozenset(tables.refused)))
        await tables.set_members([Member(1, 1)])
        await tables.replace_services({first.address: first})
        assert tables.is_in_kernel(first.address)
        told.clear()
        await tables.set_services({more.address: more})
        assert not tables.is_in_kernel(more.address)
        assert tables.places_in_kernel(more.address) == more.places
        assert len(kernel.contents()[layout.PORTS.name]) == 2
        assert told == [], "who wrote it asks for itself"
        await tables.set_services({first.address: first})
        assert tables.is_in_kernel(first.address)
        assert tables.refused == {}

    trio.run(main)


def test_what_found_no_room_is_tried_again_at_times_and_watchers_are_told(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ports(kernel, 8, monkeypatch)
    wanted = {one.address: one for one in (ported(1, 4, H1), ported(2, 4, H1))}
    tries = 0
    real = _Tables._write_ports

    def counted(self: _Tables, *arguments: Any) -> str | None:
        nonlocal tries
        tries += 1
        return real(self, *arguments)

    async def main() -> None:
        tables = new_tables()
        told: list[frozenset[bytes]] = []
        tables.watch(lambda: told.append(frozenset(tables.refused)))
        await tables.set_members([Member(1, 1)])
        await tables.replace_services(wanted)
        (refused,) = tables.refused
        told.clear()
        monkeypatch.setattr(_Tables, "_write_ports", counted)
        await tables._look()
        assert tries == 0
        assert tables._tables is not None
        tables._tables.shares = PortShares(100)  # as if there were room now
        kernel.maps[layout.PORTS.name].most = 100
        await trio.sleep(RETRY_S)
        await tables._look()
        assert told == [frozenset()]
        assert tables.is_in_kernel(refused)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([H1, H2, H3]), st.integers(0, 9)), max_size=60))
def test_shares_count_what_is_there(steps: list[tuple[int, HostId, int]]) -> None:
    """A member that gets more has at most what is left, so some is always left."""
    most = 40
    shares, held = PortShares(most), dict[int, tuple[HostId, int]]()
    for number, owner, ports in steps:
        present = sum(count for _, count in held.values())
        mine = sum(count for one, count in held.values() if one == owner)
        assert shares.held(owner) == mine
        if number in held:
            held.pop(number)
            shares.note(bytes([number]), owner, 0)
        elif shares.has_room(owner, ports, present=present):
            held[number] = owner, ports
            shares.note(bytes([number]), owner, ports)
            assert mine + ports <= most - present - ports
        else:
            assert mine + ports > most - present - ports
