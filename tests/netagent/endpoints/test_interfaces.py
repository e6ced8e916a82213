"""When endpoints' interfaces are looked at, and what becomes of those that can't be put right."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import pytest
import trio
from fakes.agent_host import AgentHost, FakeNews, Namespaces
from fakes.registry import N1, N2, host, network
from fakes.virtual import virtual

from netagent import periodic
from netagent.datapath.host.sysctls import Setting
from netagent.datapath.reconcile.drift import Damage, DamageKind
from netagent.endpoints.interfaces import RETRY_MAX_S, SETTINGS_S, UNHEARD_S, VERIFY_S
from netagent.errors import FailedError, RefusedError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.request import AttachRequest

AreAltered: TypeAlias = Callable[[Sequence[Setting]], bool]


class Looks:
    """`Reconciler.wait_absent_changed`; the test sets what the kernel lacks."""

    def __init__(self) -> None:
        self.absent: frozenset[EndpointId] = frozenset()
        self.changed = trio.Event()

    def see(self, *endpoint_ids: EndpointId) -> None:
        self.absent = frozenset(endpoint_ids)
        self.changed.set()
        self.changed = trio.Event()

    async def wait(self, known: frozenset[EndpointId]) -> frozenset[EndpointId]:
        while self.absent == known:
            await self.changed.wait()
        return self.absent


@contextlib.asynccontextmanager
async def kept(
    namespaces: Namespaces, *names: str
) -> AsyncIterator[tuple[AgentHost, Looks, list[LocalEndpointRow]]]:
    """A host with these containers, whose interfaces are looked after; what the reconciler sees; the endpoints."""
    one, looks = AgentHost(), Looks()
    await one.publisher.put(host("h1"), network(N1, "app"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.interfaces.run, looks.wait)
        await trio.sleep(1)
        rows = [await attached(one, namespaces, name) for name in names]
        await trio.sleep(UNHEARD_S + 1)
        one.steps.done.clear()
        yield one, looks, rows
        nursery.cancel_scope.cancel()


async def attached(one: AgentHost, namespaces: Namespaces, name: str) -> LocalEndpointRow:
    namespaces.make(name)
    row, _ = await one.endpoints.attach(AttachRequest(target=f"netns:{name}", network="app"))
    return row


def news_of(one: AgentHost, row: LocalEndpointRow) -> FakeNews:
    assert row.netns_identity is not None
    return one.attacher.news[row.netns_identity]


@virtual
async def test_at_rest_only_a_slow_timer_looks(namespaces: Namespaces) -> None:
    async with kept(namespaces, "web", "db") as (one, _looks, _rows):
        await trio.sleep(VERIFY_S * 3 + 2)
        assert one.steps.done == ["repair"] * 2 * 3


@virtual
async def test_a_new_sandbox_is_looked_into_once_as_no_news_came_of_its_first_moment(
    namespaces: Namespaces,
) -> None:
    async with kept(namespaces) as (one, _looks, _rows):
        await attached(one, namespaces, "web")
        one.steps.done.clear()
        await trio.sleep(UNHEARD_S - 0.1)
        assert "repair" not in one.steps.done
        one.attacher.damages.append(Damage(DamageKind.ADDRESS_DELETED, "eth0"))
        await trio.sleep(VERIFY_S / 2)
        assert one.steps.done.count("repair") == 1
        assert one.drift.kinds == {"address-deleted": 1}


@virtual
async def test_news_from_a_sandbox_is_followed_by_a_look_into_it_alone(namespaces: Namespaces) -> None:
    async with kept(namespaces, "web", "db") as (one, _looks, (web, _db)):
        one.attacher.damages.append(Damage(DamageKind.MTU_CHANGED, "eth0"))
        news_of(one, web).tell()
        await trio.sleep(0.1)
        assert one.steps.done == ["repair"]
        assert one.drift.kinds == {"mtu-changed": 1}


@virtual
async def test_altered_settings_are_followed_by_a_look_although_no_news_comes(
    namespaces: Namespaces,
) -> None:
    async with kept(namespaces, "web", "db") as (one, _looks, (web, _db)):
        news_of(one, web).alterations = 1
        await trio.sleep(SETTINGS_S + 0.1)
        assert one.steps.done == ["repair"]


@virtual
async def test_settings_of_many_are_read_in_turn_and_of_all_after_one_that_was_altered(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic, "MOST_A_LOOK", 2)
    async with kept(namespaces, *"abcdefg") as (one, _looks, rows):
        read: list[str] = []
        for row in rows:
            news = news_of(one, row)
            monkeypatch.setattr(news, "are_altered", noting(read, news.are_altered, row.name))
        await trio.sleep(4 * SETTINGS_S)
        assert len(read) <= 4 * 2
        assert set(read) == set("abcdefg")
        for row in rows:
            news_of(one, row).alterations = 1
        await trio.sleep(2 * SETTINGS_S + 0.1)
        assert one.steps.done.count("repair") == len(rows)


def noting(read: list[str], are_altered: AreAltered, name: str) -> AreAltered:
    def asked(wanted: Sequence[Setting]) -> bool:
        read.append(name)
        return are_altered(wanted)

    return asked


@virtual
async def test_a_sandbox_that_changes_all_the_time_is_looked_at_now_and_then(namespaces: Namespaces) -> None:
    async with kept(namespaces, "web") as (one, _looks, (web,)):
        for _ in range(1000):
            news_of(one, web).tell()
            await trio.sleep(0.01)
        assert 10 <= len(one.steps.done) <= 45


@virtual
async def test_a_deleted_interface_is_made_anew(namespaces: Namespaces) -> None:
    async with kept(namespaces, "web") as (one, looks, (web,)):
        one.attacher.devices.clear()
        looks.see(web.endpoint_id)
        await trio.sleep(0.1)
        assert one.attacher.devices == {web.endpoint_id: "eth0"}
        assert one.drift.kinds == {"device-deleted": 1}


@virtual
async def test_what_an_earlier_agent_made_is_looked_at_once_at_the_start(namespaces: Namespaces) -> None:
    one = AgentHost()
    await one.publisher.put(host("h1"), network(N1, "app"))
    await attached(one, namespaces, "web")
    one.restart()
    one.steps.done.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.interfaces.run, Looks().wait)
        await trio.sleep(VERIFY_S - 1)
        assert one.steps.done == ["news", "repair"]
        nursery.cancel_scope.cancel()


@virtual
async def test_nothing_is_made_for_what_is_gone_or_going(namespaces: Namespaces) -> None:
    async with kept(namespaces, "web", "other") as (one, looks, (web, other)):
        looks.see(EndpointId("0" * 32), web.endpoint_id)
        await one.endpoints.remove(web)
        await trio.sleep(1)
        namespaces.remove("other")
        one.attacher.devices.clear()
        looks.see(other.endpoint_id)
        await trio.sleep(60)
        assert one.attacher.devices == {}
        assert one.interfaces.troubles == {}
        await one.endpoints.remove(other)
        await trio.sleep(1)
        assert one.traces() == {}, "no news is open any more"


@pytest.mark.parametrize(
    "fault", [FailedError("no"), OSError(1, "no"), RefusedError("no", code="interface-taken")]
)
@virtual
async def test_what_can_not_be_put_right_is_shown_and_tried_again_with_growing_pauses(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    async with kept(namespaces, "web") as (one, _looks, (web,)):
        begun, tried_at = trio.current_time(), []

        async def repair(*_args: object, **_kwargs: object) -> None:
            tried_at.append(trio.current_time() - begun)
            raise fault

        with monkeypatch.context() as patched:
            patched.setattr(one.attacher, "repair", repair)
            news_of(one, web).tell()
            news_of(one, web).alterations = 100  # no reason to try more often
            await trio.sleep(30)
            assert "no" in one.interfaces.troubles[web.endpoint_id]
        assert tried_at[0] < 0.1
        assert tried_at[1] - tried_at[0] < 1.0
        assert 5 <= len(tried_at) <= 9
        news_of(one, web).alterations = 0
        await trio.sleep(RETRY_MAX_S + 1)
        assert one.interfaces.troubles == {}


@virtual
async def test_sandboxes_in_a_network_follow_its_service_ranges_and_others_rest(
    namespaces: Namespaces,
) -> None:
    async with kept(namespaces, "web", "db") as (one, _looks, rows):
        ranges: dict[NetworkId, tuple[str, ...]] = {}
        context = one.endpoints.context
        context.service_ranges = lambda: ranges
        assert context.in_datapath(rows[0], one.live.view.networks[N1]).service_ranges == ()
        rounds: list[tuple[dict[NetworkId, tuple[str, ...]], int]] = [
            ({N1: ("10.9.0.0/24",)}, 2),
            ({N1: ("10.9.0.0/24",), N2: ("10.8.0.0/24",)}, 0),
            ({N2: ("10.8.0.0/24",)}, 2),
        ]
        for now, count in rounds:
            one.steps.done.clear()
            ranges = now
            one.live.note_change()
            await trio.sleep(1)
            assert one.steps.done == ["repair"] * count
            endpoint = context.in_datapath(rows[0], one.live.view.networks[N1])
            assert endpoint.service_ranges == now.get(N1, ())
