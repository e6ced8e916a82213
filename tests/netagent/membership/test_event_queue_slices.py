"""Many endpoints at once are taken in slice by slice, and the view becomes what it would have become in one go."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from fakes.registry import H1, H2, H3, N1, N2, endpoint, entry, event, host, network

from netagent.membership import event_queue as module
from netagent.membership.event_queue import SLICE_ENTRIES, EventQueue
from netagent.model.records import EndpointRecord
from netagent.registry.record_codec import scope_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.slice_runner import TaskRunner
from netgossip.types import (
    CLUSTER_SCOPE,
    EntriesChanged,
    Member,
    MemberChanged,
    MemberState,
    RequestReceived,
    ResponseReceived,
    ScopeSynced,
)

SCOPE = scope_of(N1)


def parts() -> SimpleNamespace:
    """An event queue; `heard` has in order what it passed on, with the number of endpoints in the view at
    that time."""
    start = RegistryView(H1).with_entries(event(H2, entry(H2, network(subnets=("10.1.0.0/16",)), 1)))
    one = SimpleNamespace(live=StateStore(start, {}), heard=[], noted=[], taken=[], dropped=set())

    def note(name: str) -> None:
        one.heard.append((name, len(one.live.view.endpoints)))

    journal: Any = SimpleNamespace(note_replica=one.noted.append, note_member=lambda _: None)
    participation: Any = SimpleNamespace(note_synced=lambda _: note("synced"))
    rpc: Any = SimpleNamespace(note_response=lambda _: note("response"))
    one.event_queue = EventQueue(
        live=one.live,
        journal=journal,
        participation=participation,
        rpc=rpc,
        on_request=lambda _: note("request"),
        on_raised=lambda _: None,
        on_taken=one.taken.extend,
        is_held=lambda scope, owner: (scope, owner) not in one.dropped,
        clock=lambda: 0.0,
    )
    return one


def box(number: int, address: str) -> EndpointRecord:
    return endpoint(number, addresses=(address,), mac=bytes((10, 0, *number.to_bytes(4, "big"))).hex(":"))


def log_of(owner: str, numbers: range, first: int = 1, *, replaced: bool = False) -> EntriesChanged:
    """Endpoints of one host as one delta, or as its whole log."""
    entries = (entry(owner, box(n, f"10.1.{n >> 8}.{n & 255}"), first + at) for at, n in enumerate(numbers))
    return event(owner, *entries, replaced=replaced, scope=SCOPE)


def sizes_of_views(live: StateStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By how many endpoints each view differs from the one before it."""
    sizes: list[int] = []
    update_view = live.update_view

    def noting(change: Callable[..., Any]) -> None:
        before = live.view
        update_view(change)
        touched = live.view.touched_since(before)
        assert touched is not None
        sizes.append(len(touched.endpoints))

    monkeypatch.setattr(live, "update_view", noting)
    return sizes


def test_a_first_sync_is_taken_in_slices_and_its_synced_event_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = parts()
    count = 5000
    whole = log_of(H2, range(2, count + 2), replaced=True)
    question, answer = RequestReceived(H3, 1, b"q"), ResponseReceived(H3, 2, b"a")
    one.event_queue.handle((whole, ScopeSynced(SCOPE), question))
    one.event_queue.handle((answer,))
    assert one.noted == [whole], "the journal gets it whole, and once"
    assert not one.heard
    sizes = sizes_of_views(one.live, monkeypatch)

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                intake = TaskRunner(one.event_queue)
                intake.note()
                nursery.start_soon(intake.run)
                while len(one.heard) < 3:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert sum(sizes) == count
    assert max(sizes) <= SLICE_ENTRIES
    assert [name for name, _ in one.heard] == ["synced", "request", "response"]
    assert len(one.live.view.endpoints) == count
    reported = [key for taken in one.taken if isinstance(taken, EntriesChanged) for key in taken.entries]
    assert tuple(reported) == whole.entries
    one.live.view.check_invariants()


def test_many_small_deltas_of_one_step_are_cut_as_well() -> None:
    one = parts()
    events = tuple(log_of(f"{n:032x}", range(10 * n, 10 * n + 10)) for n in range(1, 51))
    one.event_queue.handle(events)
    assert len(one.live.view.endpoints) == SLICE_ENTRIES, "a step takes as much at once as a piece has"
    before = one.live.revision
    one.event_queue.run_step()
    assert len(one.live.view.endpoints) == 2 * SLICE_ENTRIES
    assert one.live.revision == before + 1
    while len(one.live.view.endpoints) < 500:
        one.event_queue.run_step()
    one.live.view.check_invariants()


def test_any_sequence_ends_in_the_same_view_as_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_ENTRIES", 3)
    for seed in range(60):
        rng = random.Random(seed)
        one = parts()
        expected = one.live.view
        heads = dict.fromkeys((H2, H3), 0)
        for _ in range(12):
            owner = rng.choice((H2, H3))
            numbers = range(low := rng.randrange(2, 20), low + rng.randrange(0, 12))
            change = log_of(owner, numbers, heads[owner] + 1, replaced=rng.random() < 0.4)
            heads[owner] += len(numbers)
            expected = expected.with_entries(change)
            one.event_queue.handle((change,))
            for _ in range(rng.randrange(3)):
                one.event_queue.run_step()
        for _ in range(400):
            one.event_queue.run_step()
        for scope in (SCOPE, CLUSTER_SCOPE):
            for owner in (H2, H3):
                assert one.live.view.records_of(owner, scope) == expected.records_of(owner, scope), seed
        assert one.live.view.endpoints == expected.endpoints, seed
        one.live.view.check_invariants()


def test_what_a_whole_log_no_longer_has_goes_before_the_new_comes() -> None:
    one = parts()
    one.event_queue.handle((log_of(H2, range(2, 52)),))
    while one.event_queue.has_pending_work:
        one.event_queue.run_step()
    # A new endpoint with the address of one that is gone: as long as both were there, one of them would be fenced.
    successor = entry(H2, box(9000, "10.1.0.2"), 51)
    kept = log_of(H2, range(3, 150), 52)
    one.event_queue.handle((event(H2, successor, *kept.entries, replaced=True),))
    while len(one.live.view.endpoints) < 148:
        one.event_queue.run_step()
        assert not one.live.view.fenced
        assert len(one.live.view.endpoints) >= 50, "those in both logs are never away"
    assert one.live.view.endpoint_by_address("10.1.0.2", N1).record == box(9000, "10.1.0.2")


def test_own_records_and_the_clusters_scope_never_wait() -> None:
    one = parts()
    one.event_queue.handle((log_of(H2, range(2, 502)),))
    ours = event(H1, entry(H1, box(9001, "10.1.99.1"), 1))
    member = MemberChanged(Member(H3, ("192.0.2.3", 7956), MemberState.ALIVE, 1), None)
    one.event_queue.handle((ours, event(H3, entry(H3, host("h3", public_key=bytes(32)), 1)), member))
    theirs = event(H3, entry(H3, network(N2, "other"), 2))
    one.event_queue.handle((theirs,))
    assert len(one.live.view.endpoints) == 1, "ours"
    assert N2 in one.live.view.networks
    assert H3 in one.live.view.hosts


def test_nothing_of_a_network_that_was_left_or_of_an_evicted_owner_comes_back() -> None:
    one = parts()
    one.event_queue.handle((log_of(H2, range(2, 502)), log_of(H3, range(600, 700)), ScopeSynced(SCOPE)))
    one.event_queue.run_step()
    one.dropped.add((SCOPE, H2))
    one.live.update_view(lambda view: view.without_host(H2))
    for _ in range(10):
        one.event_queue.run_step()
    assert {view.owner for view in one.live.view.endpoints.values()} == {H3}
    assert [name for name, _ in one.heard] == ["synced"]

    one.event_queue.handle(
        (log_of(H3, range(1000, 2000), 500), ScopeSynced(SCOPE), RequestReceived(H2, 1, b"q"))
    )
    one.event_queue.forget_scope(SCOPE)
    for _ in range(20):
        one.event_queue.run_step()
    assert not one.live.view.endpoints
    assert [name for name, _ in one.heard] == ["synced", "request"]


def test_a_network_that_is_left_is_removed_in_slices_and_new_records_of_it_come_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = parts()
    count = 2000
    one.event_queue.handle((log_of(H2, range(2, count + 2)), event(H1, entry(H1, box(9001, "10.1.99.1"), 1))))
    while one.event_queue.has_pending_work:
        one.event_queue.run_step()
    assert len(one.live.view.endpoints) == count + 1
    sizes = sizes_of_views(one.live, monkeypatch)
    one.event_queue.forget_scope(SCOPE)
    assert len(one.live.view.endpoints) == count, "our own go at once"
    one.event_queue.handle((RequestReceived(H3, 1, b"q"),))
    assert [name for name, _ in one.heard] == ["request"], "who asks has no part in what we left"
    ours = event(H1, entry(H1, box(9002, "10.1.99.2"), 2))
    one.event_queue.handle((ours, log_of(H2, range(2, 12), replaced=True), ScopeSynced(SCOPE)))

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                intake = TaskRunner(one.event_queue)
                intake.note()
                nursery.start_soon(intake.run)
                while len(one.heard) < 2:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert max(sizes) <= SLICE_ENTRIES
    assert sum(sizes) == 1 + 1 + count + 10
    assert one.heard[1][0] == "synced"
    assert {view.record.name for view in one.live.view.endpoints.values()} == {
        box(n, "10.1.0.2").name for n in (9002, *range(2, 12))
    }
    one.live.view.check_invariants()


def test_no_more_than_the_bound_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1000)
    one = parts()
    for number in range(10):
        one.event_queue.handle((log_of(f"{number + 2:032x}", range(2 + 300 * number, 302 + 300 * number)),))
        waiting = 300 * (number + 1) - len(one.live.view.endpoints)
        assert waiting <= 1000
    assert len(one.live.view.endpoints) >= 2000
