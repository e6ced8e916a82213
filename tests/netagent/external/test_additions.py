"""Adding and removing external services and own names: what is refused, and that nothing half done remains."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
from fakes.agent_host import AgentHost
from fakes.external import alias, at, service, state
from fakes.registry import H2, Writer, endpoint, host
from fakes.service_addresses import service_address, service_range
from fakes.virtual import virtual

from netagent.errors import InputError, NetagentError, NotFoundError, RefusedError
from netagent.external import additions
from netagent.external.additions import Additions
from netagent.journal.journal import DiskFullError
from netagent.model.ids import ServiceId
from netagent.model.records import DnsName, HostProgram, NameAlias, NameData, Record, TargetAddress
from netagent.model.request import NetworkRequest, OwnNameRequest, ServiceRequest
from netagent.registry.view import NetworkView
from netgossip.types import CLUSTER_SCOPE, MemberState

DOMAIN = "mesh.internal"
PG = ServiceRequest(name="pg", target=at("203.0.113.50"))


class Operator:
    """A host, its networks, and what an operator does there."""

    def __init__(self, one: AgentHost) -> None:
        self.host = one
        self.other = Writer(H2)
        self.renewed: list[ServiceId] = []
        self.additions = Additions(one.live, one.publisher, DOMAIN, self.renewed.append)

    async def network(self, name: str, **fields: Any) -> NetworkView:
        made, _ = await self.host.networks.create(NetworkRequest(name=name, **fields))
        return made

    def others(self, *records: Record) -> None:
        for record in records:
            self.host.hear(self.other.put(record))

    def own(self) -> tuple[Record, ...]:
        return self.host.live.view.records_of(self.host.host_id, CLUSTER_SCOPE)


def operating(test: Any) -> Any:
    @virtual
    async def run() -> None:
        operator = Operator(AgentHost())
        operator.others(host("h2"))
        operator.host.meet(H2)
        await test(operator, await operator.network("app", subnets=("10.1.0.0/24", "fd00:1::/64")))

    run.__name__ = test.__name__
    return run


@operating
async def test_the_same_again_renews_and_another_address_is_another_replica(
    op: Operator, app: NetworkView
) -> None:
    added, created = await op.additions.add_service(app, PG, "anna")
    assert (created, added.record.added_by, added.owner) == (True, "anna", op.host.host_id)
    before = op.own()
    again, created = await op.additions.add_service(app, PG, "berta")
    assert (created, again.record, op.renewed) == (False, added.record, [added.record.service_id])
    assert op.own() == before
    heavier = dataclasses.replace(PG, target=at("203.0.113.51"), weight=9)
    await op.additions.add_service(app, heavier, "anna")
    with pytest.raises(RefusedError, match=r"203.0.113.51:5432 was added to service pg already, with other"):
        await op.additions.add_service(app, dataclasses.replace(heavier, weight=8), "anna")
    assert await op.additions.remove_service(app, "pg") == 2
    with pytest.raises(NotFoundError, match=r"no external service 'pg'"):
        await op.additions.remove_service(app, "pg")


@operating
async def test_what_another_host_added_is_removed_there(op: Operator, app: NetworkView) -> None:
    op.others(service(network_id=app.network_id), alias(network_id=app.network_id, place=app.network_id))
    with pytest.raises(RefusedError, match=r"203.0.113.50:5432 was added to service pg already on h2"):
        await op.additions.add_service(app, PG, "anna")
    with pytest.raises(RefusedError, match=r"was added on host h2; type this command there$"):
        await op.additions.remove_service(app, "pg")
    op.host.meet(H2, MemberState.DEAD)
    with pytest.raises(RefusedError, match=r"netagent forget h2"):
        await op.additions.remove_name(app, "shop")
    with pytest.raises(RefusedError, match=r"added already on h2, and leads elsewhere"):
        await op.additions.add_name(app, OwnNameRequest(name="shop", cname="db"), "anna")
    known, created = await op.additions.add_name(app, OwnNameRequest(name="shop", cname="web"), "anna")
    assert (created, known.added_by) == (False, "anna")


@operating
async def test_a_program_of_each_host_is_one_service(op: Operator, app: NetworkView) -> None:
    open_ = await op.network("ops", host_access=True)
    op.others(service(name="node", network_id=open_.network_id, target=HostProgram(9100)))
    request = ServiceRequest(name="node", target=HostProgram(9100))
    _, created = await op.additions.add_service(open_, request, "anna")
    assert created
    with pytest.raises(RefusedError, match=r"app gives hosts no address.*--host-access"):
        await op.additions.add_service(app, request, "anna")


@operating
async def test_what_containers_could_not_reach_is_refused_with_the_reason(
    op: Operator, app: NetworkView
) -> None:
    closed = await op.network("closed", internal=True)
    narrow = await op.network("narrow", subnets=("10.9.0.0/24",), mtu_bytes=1000)
    before = op.own()

    async def refused(place: NetworkView, target: Any, said: str) -> None:
        with pytest.raises(RefusedError, match=said):
            await op.additions.add_service(place, ServiceRequest(name="x", target=target), "anna")

    await refused(
        closed, at("203.0.113.50"), "closed is internal, so its containers cannot reach 203.0.113.50"
    )
    await refused(closed, DnsName("db.example.com"), "cannot reach db.example.com")
    await refused(app, at("10.9.0.7"), "10.9.0.7 is inside network narrow")
    await refused(narrow, at("2001:db8::1"), "have no IPv6.*give an IPv4 address")
    with pytest.raises(RefusedError, match=r"closed is internal"):
        await op.additions.add_name(closed, OwnNameRequest(name="x", addresses=("203.0.113.50",)), "anna")
    with pytest.raises(InputError, match=r"no name of the cluster.*netagent service add"):
        await op.additions.add_name(app, OwnNameRequest(name="x", cname="a.b.example.com"), "anna")
    assert op.own() == before


@operating
async def test_a_container_keeps_its_name(op: Operator, app: NetworkView) -> None:
    op.others(endpoint(1, app.network_id, name="pg", aliases=("shop",)))
    with pytest.raises(RefusedError, match=r"container pg on h2 has the name pg in network app; use another"):
        await op.additions.add_service(app, PG, "anna")
    with pytest.raises(RefusedError, match=r"container pg on h2 has the name shop"):
        await op.additions.add_name(app, OwnNameRequest(name="shop", cname="web"), "anna")


@operating
async def test_services_and_own_names_share_no_name(op: Operator, app: NetworkView) -> None:
    await op.additions.add_service(app, PG, "anna")
    with pytest.raises(RefusedError, match=r"app has an external service pg"):
        await op.additions.add_name(app, OwnNameRequest(name="pg", cname="web"), "anna")
    await op.additions.add_name(app, OwnNameRequest(name="shop", cname="web"), "anna")
    with pytest.raises(RefusedError, match=r"added the name shop.*`netagent name rm shop.app` first"):
        await op.additions.add_service(app, dataclasses.replace(PG, name="shop"), "anna")


@operating
async def test_addresses_of_services_keep_their_names_and_their_place(op: Operator, app: NetworkView) -> None:
    op.others(service_range(1, app.network_id), service_address("web", 5, app.network_id))
    with pytest.raises(RefusedError, match="service web of network app has an address of its own"):
        await op.additions.add_name(app, OwnNameRequest(name="web", addresses=("203.0.113.1",)), "anna")
    with pytest.raises(RefusedError, match=r"10\.9\.1\.77 is from the addresses for services of network app"):
        await op.additions.add_service(app, dataclasses.replace(PG, target=at("10.9.1.77")), "anna")
    await op.additions.add_service(app, dataclasses.replace(PG, name="web"), "anna")  # it is a backend of it


@operating
async def test_aliases(op: Operator, app: NetworkView) -> None:
    back = await op.network("back")
    made, _ = await op.additions.add_name(app, OwnNameRequest(name="a", cname="web"), "anna")
    assert made.value == NameAlias(app.network_id, "web")
    made, _ = await op.additions.add_name(app, OwnNameRequest(name="b", cname="web.h1.back"), "anna")
    assert made.value == NameAlias(back.network_id, "web.h1")
    made, _ = await op.additions.add_name(
        app, OwnNameRequest(name="c", cname="Web.back.mesh.internal."), "anna"
    )
    assert made.value == NameAlias(back.network_id, "web")
    made, _ = await op.additions.add_name(app, OwnNameRequest(name="d", texts=("v=1",)), "anna")
    assert made.value == NameData((), ("v=1",))
    await op.additions.add_name(app, OwnNameRequest(name="x", cname="y"), "anna")
    with pytest.raises(InputError, match=r"y would lead to itself"):
        await op.additions.add_name(app, OwnNameRequest(name="y", cname="x"), "anna")
    await op.additions.remove_name(app, "x")
    await op.additions.add_name(app, OwnNameRequest(name="y", cname="x"), "anna")


@operating
async def test_removing_a_service_takes_back_what_was_found_out(op: Operator, app: NetworkView) -> None:
    added, _ = await op.additions.add_service(app, dataclasses.replace(PG, ttl_s=30), "anna")
    found = dataclasses.replace(
        state(), service_id=added.record.service_id, network_id=app.network_id, expired_s=9
    )
    await op.host.publisher.put(found)
    await op.additions.remove_service(app, added.record.service_id)
    assert found not in op.own()


@operating
async def test_a_host_adds_a_bounded_number(op: Operator, app: NetworkView) -> None:
    for count in range(3):
        target = at(f"203.0.113.{count + 1}")
        await op.additions.add_service(app, ServiceRequest(name=f"s{count}", target=target), "anna")
        await op.additions.add_name(app, OwnNameRequest(name=f"n{count}", cname="web"), "anna")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(additions, "MAX_SERVICES", 3)
        patch.setattr(additions, "MAX_OWN_NAMES", 3)
        with pytest.raises(RefusedError, match=r"has added 3 external services to network app"):
            await op.additions.add_service(app, PG, "anna")
        with pytest.raises(RefusedError, match=r"has added 3 names to network app"):
            await op.additions.add_name(app, OwnNameRequest(name="more", cname="web"), "anna")
        other = await op.network("other")
        await op.additions.add_service(other, PG, "anna")


@operating
async def test_two_at_once_add_one(op: Operator, app: NetworkView) -> None:
    results: list[bool] = []

    async def add() -> None:
        results.append((await op.additions.add_service(app, PG, "anna"))[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add)
        nursery.start_soon(add)
    assert sorted(results) == [False, True]


@operating
async def test_a_full_disk_leaves_nothing(op: Operator, app: NetworkView) -> None:
    before = op.own()
    op.host.steps.fault = "journal", DiskFullError("the disk is full")
    with pytest.raises(NetagentError):
        await op.additions.add_service(app, PG, "anna")
    assert op.own() == before
    assert not op.host.live.view.store.external_services


def test_an_address_shows_its_port() -> None:
    assert TargetAddress("2001:db8::1", 80).text == "[2001:db8::1]:80"
    assert TargetAddress("192.0.2.1").text == "192.0.2.1"
