"""The task that compares views."""

from __future__ import annotations

import logging

import pytest
import trio
from fakes.registry import H1, H2, H3, Writer, endpoint, host, network
from fakes.virtual import virtual

from netagent.events.sources.view_watch import CONFLICTS_S, PAUSE_S, ViewWatch
from netagent.model.ids import HostId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState


def with_host(view: RegistryView, host_id: HostId, name: str, state: MemberState) -> RegistryView:
    view = view.with_entries(Writer(host_id).put(host(name, underlay="192.0.2.9")))
    return view.with_member(Member(host_id, ("192.0.2.9", 7956), state, 1))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if hasattr(one, "event")]


@virtual
async def test_what_happened_while_the_agent_was_away_is_told_at_its_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    own = with_host(RegistryView(H1), H1, "h1", MemberState.ALIVE)
    journal = with_host(own, H2, "h2", MemberState.ALIVE)
    live = StateStore(journal, {})
    watch = ViewWatch(live)
    live.update_view(lambda view: with_host(view, H3, "h3", MemberState.ALIVE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(PAUSE_S)
        assert told(caplog) == ["h3 (192.0.2.9) is a member of the cluster"]
        live.update_view(lambda view: view.with_member(Member(H2, ("192.0.2.9", 7956), MemberState.DEAD, 1)))
        await trio.sleep(2 * PAUSE_S)
        assert told(caplog)[1:] == ["the agent of h2 (192.0.2.9) does not answer"]
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_has_just_joined_is_told_nothing_of_what_was_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    live = StateStore(RegistryView(H1), {})
    watch = ViewWatch(live)
    live.update_view(lambda view: with_host(view, H2, "h2", MemberState.ALIVE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(10 * PAUSE_S)
        assert told(caplog) == []
        nursery.cancel_scope.cancel()


@virtual
async def test_conflicts_are_looked_for_now_and_then_and_none_is_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    h2, h3 = Writer(H2), Writer(H3)
    view = with_host(RegistryView(H1), H2, "h2", MemberState.ALIVE).with_entries(h2.put(network()))
    live = StateStore(view.with_entries(h2.put(endpoint(1))), {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ViewWatch(live).run)
        await trio.sleep(PAUSE_S)
        for number in (2, 3):  # both want the address of h2's endpoint
            live.update_view(lambda view, number=number: view.with_entries(h3.put(endpoint(number))))  # type: ignore[misc]
            await trio.sleep(2 * PAUSE_S)
        await trio.sleep(2 * CONFLICTS_S)
        fenced = [text for text in told(caplog) if "is fenced" in text]
        assert {text.split()[1] for text in fenced} == {"web2", "web3"}
        nursery.cancel_scope.cancel()
