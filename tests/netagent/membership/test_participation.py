"""Taking part in networks: first sync, lingering, and never leaving what is just being entered."""

from __future__ import annotations

import pytest
import trio
from fakes.agent_host import AgentHost
from fakes.registry import H2, H3, N1, N2, N3, Writer, endpoint, host, network
from fakes.rows import local_row
from fakes.virtual import virtual

from netagent.errors import FailedError
from netagent.journal import statements
from netagent.journal.journal import DiskFullError
from netagent.membership.participation import LINGER_S, SYNC_S, UNKNOWN_S
from netagent.model.ids import EndpointId
from netagent.model.records import AttachmentRecord, RemovalRecord
from netagent.registry.record_codec import scope_of
from netgossip.types import CLUSTER_SCOPE, MemberState


async def started(*, is_syncing: bool = True) -> AgentHost:
    one = AgentHost()
    one.is_syncing = is_syncing
    await one.publisher.put(host("h1"), network())
    one.steps.done.clear()
    return one


def is_attached(one: AgentHost) -> bool:
    return one.host_id in one.live.view.attachments(N1)


def add_row(one: AgentHost) -> None:
    one.live.set_row(local_row("e" * 32, N1))


@virtual
async def test_taking_part_says_so_once_and_knows_what_is_there() -> None:
    one = await started()
    await one.participation.take_part(N1)
    await one.participation.take_part(N1)
    assert is_attached(one)
    assert one.participation.is_synced(N1)
    assert one.steps.done == ["journal"]
    assert list(one.node.scopes) == [scope_of(N1)]


@virtual
async def test_a_first_sync_that_does_not_come_names_the_hosts_asked_and_keeps_trying() -> None:
    one = await started(is_syncing=False)
    for number, (peer, state) in enumerate([(H2, MemberState.ALIVE), (H3, MemberState.LEFT)], 2):
        one.meet(peer, state)
        writer = Writer(peer)
        one.hear(writer.put(host(f"h{number}")))
        one.hear(writer.put(AttachmentRecord(N1)))
    begun = trio.current_time()
    with pytest.raises(FailedError, match=r"network app .* within 5 s \(asked: h2\)") as caught:
        await one.participation.take_part(N1)
    assert caught.value.code == "not-synced"
    assert trio.current_time() - begun == pytest.approx(SYNC_S)
    assert is_attached(one)
    one.participation.note_synced(N1)
    await one.participation.take_part(N1)


@virtual
async def test_a_sync_in_between_ends_the_wait() -> None:
    one = await started(is_syncing=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.take_part, N1)
        await trio.sleep(1)
        one.participation.note_synced(N1)
    assert trio.current_time() < SYNC_S


@virtual
async def test_after_the_last_endpoint_a_host_lingers_and_then_leaves() -> None:
    one = await started()
    add_row(one)
    await one.participation.take_part(N1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(2 * LINGER_S)
        assert is_attached(one)
        one.live.drop_row(EndpointId("e" * 32))
        await trio.sleep(LINGER_S / 2)
        assert is_attached(one)
        await one.participation.take_part(N1)
        await trio.sleep(LINGER_S * 0.7)
        assert is_attached(one), "an attach in between begins the wait anew"
        await trio.sleep(LINGER_S)
        assert not is_attached(one)
        assert one.node.scopes == {}
        assert one.participation._unused_since == {}
        nursery.cancel_scope.cancel()


@virtual
async def test_our_log_in_a_removed_network_is_dropped_once_its_endpoints_are_gone() -> None:
    one = await started()
    mine = endpoint()
    await one.participation.take_part(N1)
    await one.publisher.put(mine)
    add_row(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        one.hear(Writer(H2).put(RemovalRecord(N1)))
        await trio.sleep(LINGER_S)
        assert scope_of(N1) in one.node.own_logs, "the endpoint is still there"
        await one.publisher.withdraw(mine)
        one.live.drop_row(EndpointId("e" * 32))
        await trio.sleep(0.1)
        assert set(one.node.own_logs) == one.journal.own_scopes() == {CLUSTER_SCOPE}
        nursery.cancel_scope.cancel()


@virtual
async def test_our_log_in_a_removed_network_from_before_a_restart_is_dropped_at_the_start() -> None:
    one = await started()
    await one.publisher.put(endpoint(), RemovalRecord(N1))
    await one.publisher.withdraw(endpoint())
    await one.publisher.put(endpoint(network_id=N2))
    one.restart()
    one.participation.resume()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(0.1)
        assert set(one.node.own_logs) == one.journal.own_scopes() == {CLUSTER_SCOPE, scope_of(N2)}
        nursery.cancel_scope.cancel()


@virtual
async def test_a_start_has_caught_up_once_peers_have_confirmed_each_network_or_it_was_left() -> None:
    one = await started()
    await one.publisher.put(AttachmentRecord(N1), AttachmentRecord(N2))
    one.restart()
    assert one.participation.has_caught_up
    one.participation.resume()
    assert one.participation.is_synced(N1), "what the journal knows is answered with at once"
    assert not one.participation.has_caught_up
    one.participation.note_synced(N1)
    assert not one.participation.has_caught_up
    await one.publisher.withdraw(AttachmentRecord(N2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(LINGER_S + 10)
        assert one.participation.has_caught_up
        nursery.cancel_scope.cancel()


@virtual
async def test_an_empty_log_that_a_peer_reported_is_dropped_unless_its_network_becomes_known() -> None:
    one = await started()
    for network_id in (N1, N2, N3):
        one.node.raise_epoch(scope_of(network_id))
        await one.journal.transaction(statements.replace_log("own", one.node.own_logs[scope_of(network_id)]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(UNKNOWN_S / 2)
        assert {scope_of(N1), scope_of(N2), scope_of(N3)} < set(one.node.own_logs)
        one.hear(Writer(H2).put(network(N2, name="later")))
        await trio.sleep(UNKNOWN_S)
        kept = {CLUSTER_SCOPE, scope_of(N1), scope_of(N2)}
        assert set(one.node.own_logs) == one.journal.own_scopes() == kept
        nursery.cancel_scope.cancel()


@virtual
async def test_a_removed_network_is_left_at_once() -> None:
    one = await started()
    await one.participation.take_part(N1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(0.1)
        one.hear(Writer(H2).put(RemovalRecord(N1)))
        await trio.sleep(0.1)
        assert one.node.scopes == {}
        assert one.forgotten_scopes == [scope_of(N1)], "nor is it kept on disk"
        nursery.cancel_scope.cancel()


@virtual
async def test_a_network_that_was_removed_just_before_a_stop_is_left_after_the_start() -> None:
    one = await started()
    await one.participation.take_part(N1)
    one.hear(Writer(H2).put(RemovalRecord(N1)))
    one.node.scopes.clear()
    one.restart()
    one.hear(Writer(H2).put(RemovalRecord(N1)))
    one.participation.resume()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(0.1)
        assert not is_attached(one)
        assert one.node.scopes == {}
        assert one.forgotten_scopes == [scope_of(N1)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("late_s", [0.001, 0.01, 0.03, 0.049, 0.051, 0.06])
@virtual
async def test_entering_at_the_moment_of_leaving_ends_inside(late_s: float) -> None:
    one = await started()
    await one.participation.take_part(N1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(0.01)
        begun = trio.current_time()
        one.steps.delay_s["journal"] = lambda: 0.05
        while "journal" not in one.steps.done[1:]:
            await trio.sleep(0.001)
        assert trio.current_time() - begun >= LINGER_S - 1
        await trio.sleep(late_s)
        await one.participation.take_part(N1)
        add_row(one)
        await trio.sleep(1)
        assert is_attached(one)
        assert list(one.node.scopes) == [scope_of(N1)]
        assert one.participation.is_synced(N1)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_full_disk_does_not_end_it() -> None:
    one = await started()
    await one.participation.take_part(N1)
    one.steps.fault = (1, DiskFullError("/var: the disk is full"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.participation.run)
        await trio.sleep(2 * LINGER_S)
        assert not is_attached(one), "tried again"
        nursery.cancel_scope.cancel()


@virtual
async def test_looking_into_a_network_is_not_seen_and_ends() -> None:
    one = await started()
    await one.participation.look_into(N1)
    await one.participation.look_into(N1)
    assert not is_attached(one)
    assert list(one.node.scopes) == [scope_of(N1)]
    one.participation.look_away(N1)
    one.participation.look_away(N1)
    assert one.participation._guests == {}
    assert list(one.node.scopes) == [], "no host sends a guest what changes"


@virtual
async def test_a_restart_continues_where_it_was() -> None:
    one = await started()
    await one.participation.take_part(N1)
    one.is_syncing = False
    one.node.scopes.clear()
    one.restart()
    one.participation.resume()
    assert one.participation.is_synced(N1)
    await one.participation.withdraw_all()
    assert not is_attached(one)
