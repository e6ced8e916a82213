"""A day without the others: an agent that hears no peer forgets nothing, and a resolver without an agent either.

The lab proves ten minutes with real kernels (tests/lab/test_agent_away.py, test_host_away.py); here a day passes in
virtual time, with every timer that runs in production: membership, records, liveness, inquiry, view, names.
"""

from __future__ import annotations

import random

import dns.message
import pytest
from fakes.names import source_of
from fakes.registry import N1, endpoint, host, network
from fakes.zone import whole_table
from sim.fleet import Fleet

from netagent.model.records import AttachmentRecord
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.registry.view import AgentState, RegistryView
from netagent.resolver.name_table import Key, Row
from netdns.resolver import Resolver, Transport

HOUR_S = 3600.0
HOURS = 24
BOX = Sandbox(sandbox_id=SandboxId("c"), networks=(N1,), links=())
EXPECTED = {"web1": {"10.1.0.11"}, "web2": {"10.1.0.12"}, "web3": {"10.1.0.13"}}
EXPECTED |= {"web": set().union(*EXPECTED.values())}


def table(view: RegistryView) -> dict[Key, Row]:
    return dict(whole_table(view, (BOX,), "mesh.internal"))


def answers(resolver: Resolver, name: str, now: float) -> set[str]:
    query = dns.message.make_query(f"{name}.app.mesh.internal", "A")
    payload = resolver.handle_query(query.to_wire(), BOX.sandbox_id, Transport.UDP, "token", now)
    assert payload is not None
    return {str(one) for rrset in dns.message.from_wire(payload).answer for one in rrset}


def three_hosts() -> Fleet:
    """Each with an endpoint of the service `web` in network `app`."""
    fleet = Fleet(seed=9, hosts=3)
    for number, name in enumerate(fleet.hosts, start=1):
        fleet.publish(name, host(f"h{number}", underlay=f"192.0.2.{number}"), AttachmentRecord(N1))
    fleet.publish("n1", network())
    fleet.take_part(N1)
    for number, name in enumerate(fleet.hosts, start=1):
        fleet.publish(name, endpoint(number, offset=10 + number))
    fleet.cluster.run_for(30.0)
    assert all(len(one.view.endpoints) == 3 for one in fleet.hosts.values())
    return fleet


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "how", ["agents of the others away", pytest.param("gossip blocked", marks=pytest.mark.long)]
)
def test_in_a_day_nothing_of_the_view_ages_out(how: str) -> None:
    fleet = three_hosts()
    if how == "gossip blocked":
        fleet.cluster.cut(["n1"], ["n2", "n3"])
        fleet.cluster.cut(["n2"], ["n3"])
        watching = ["n1", "n2", "n3"]
    else:
        fleet.stop_agent("n2")
        fleet.stop_agent("n3")
        watching = ["n1"]
    before = {name: fleet.hosts[name].view for name in watching}
    for _ in range(HOURS):
        fleet.cluster.run_for(HOUR_S)
        for name in watching:
            view = fleet.hosts[name].view
            others = {other for other in view.hosts if other != view.local}
            assert {view.hosts[other].agent for other in others} == {AgentState.DEAD}
            assert view.endpoints == before[name].endpoints
            assert view.networks == before[name].networks
            assert all(view.is_visible(one) for one in view.endpoints.values())
            assert table(view) == table(before[name])
    assert fleet.hidings == []
    fleet.cluster.heal()
    for name in {"n2", "n3"} - set(watching):
        fleet.start_agent(name)
    fleet.cluster.run_for(120.0)
    assert fleet.hidings == []
    for name in watching:
        assert {one.agent for one in fleet.hosts[name].view.hosts.values()} == {AgentState.ALIVE}
        assert table(fleet.hosts[name].view) == table(before[name])


def test_in_a_day_without_an_agent_a_resolver_forgets_nothing() -> None:
    view = three_hosts().hosts["n1"].view
    resolver = Resolver(source=source_of(table(view)), rng=random.Random(1), now=0.0)
    for hour in range(HOURS + 1):
        now = hour * HOUR_S
        resolver.handle_deadline(now)
        for name, addresses in EXPECTED.items():
            assert answers(resolver, name, now) == addresses
        resolver.check_invariants()
