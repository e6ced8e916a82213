"""Whatever a request is refused for, a record that says the same is refused as well, on each other host.

The first table is of values: the codec refuses a record that has one, nothing that an agent makes changes by it, and
`status`, `doctor` and the events name its writer. The second is of what depends on other records: the view does not
use the record, and says why. In no table is what a record cannot say: wrong texts, and limits of one host alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import pytest
from fakes.external import at, data, service
from fakes.registry import H1, H2, H3, N1, N2, N3, Writer, endpoint, event, host, network
from fakes.service_addresses import service_address, service_range
from fakes.whole_agent import Made, everything

from netagent.control.addition_parsing import own_name_request, service_request
from netagent.control.conversion import fields_untrusted
from netagent.control.request_parsing import attach_untrusted, network_request
from netagent.control.service_parsing import service_address_request, service_key
from netagent.endpoints.network_defaults import NetworkConstraints, plan_network, refuse_contradiction
from netagent.endpoints.validation import NewEndpoint, asked_offset, refuse_mac_in_use
from netagent.errors import InputError, RefusedError
from netagent.events.sources.view_changes import conflict_news, conflicts_of
from netagent.interface.additions import NameAddCommand, ServiceAddCommand
from netagent.interface.containers import NetworkCreateCommand
from netagent.interface.services import ServiceCreateCommand
from netagent.model.ids import ClusterId, mac_of
from netagent.model.publication import Publication
from netagent.model.records import (
    MAX_ALIASES,
    MAX_PUBLISHED_PORTS,
    DnsName,
    Policy,
    Port,
    PublishedServiceRecord,
    Record,
    ServiceKey,
)
from netagent.model.request import AttachRequest, NetworkRequest
from netagent.registry import record_codec
from netagent.registry.record_codec import key_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import ConflictKind, RegistryView
from netagent.services.published import _refuse_form
from netgossip.slices import at_once
from netgossip.types import Entry, Version

LIAR = H3


def good() -> RegistryView:
    view = RegistryView(H1)
    for owner, records in {
        H1: (host("h1"), network(), endpoint(1, offset=9)),
        H2: (
            host("h2", underlay="192.0.2.2", probe_address="fd00::2"),
            network(N2, "back", subnets=("10.2.0.0/24",)),
        ),
        H3: (host("h3", underlay="192.0.2.3", probe_address="fd00::3"), service_range(1)),
    }.items():
        writer = Writer(owner)
        for record in records:
            view = view.with_entries(writer.put(record))
    return view


GOOD = good()
GOOD_MADE = everything(GOOD, GOOD)


def unchecked(record: Record) -> Entry:
    """What a changed program writes: this host's own would refuse to."""
    kind, fields = record_codec._fields_of(record)
    scope, key = key_of(record)
    return Entry(scope, LIAR, key, msgpack.packb([kind, 1, *fields]), Version(1, 1000))


def create(**fields: Any) -> Callable[[], NetworkRequest]:
    return lambda: network_request(fields_untrusted(NetworkCreateCommand, {"name": "new", **fields}))


def attach(**fields: Any) -> Callable[[], object]:
    return lambda: attach_untrusted({"target": "netns:web", "network": "app", **fields})


def add(**fields: Any) -> Callable[[], object]:
    given = {"name": "pg", "network": "app", **fields}
    return lambda: service_request(fields_untrusted(ServiceAddCommand, given), "mesh.internal")


def add_name(name: str = "info", **fields: Any) -> Callable[[], object]:
    given = {"name": f"{name}.app", **fields}
    return lambda: own_name_request(fields_untrusted(NameAddCommand, given), name)


def give(**fields: Any) -> Callable[[], object]:
    given = {"name": "web", "network": "app", **fields}
    return lambda: service_address_request(fields_untrusted(ServiceCreateCommand, given))


SUBNETS = (
    *(
        "0.0.0.0/0",
        "0.0.0.0/8",
        "127.0.0.0/8",
        "127.1.0.0/16",
        "169.254.0.0/16",
        "224.0.0.0/8",
        "239.1.0.0/16",
    ),
    *("10.0.0.0/7", "10.0.0.0/31", "10.0.0.1/32", "::/0", "::1/128", "fe80::/64", "ff02::/64", "fd00::/63"),
)
NOT_OUTSIDE = (
    *("0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"),
    *("::", "::1", "ff02::1", "fe80::1", "::ffff:127.0.0.1"),
)
MACS = ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01")
NAMES = ("", "-a", "a.b", "Web", "a" * 64, "web\n")


def new(**fields: Any) -> Record:
    return network(N3, "new", **{"subnets": ("10.3.0.0/24",), **fields})


VALUES: Mapping[str, tuple[Callable[[], object], Record]] = {
    **{f"subnet {one}": (create(subnets=[one]), new(subnets=(one,))) for one in SUBNETS},
    **{f"name of a network {one!r}": (create(name=one), network(N3, one)) for one in (*NAMES, "node")},
    "mtu too small": (create(mtu_bytes=500), new(mtu_bytes=500)),
    "mtu too large": (create(mtu_bytes=70_000), new(mtu_bytes=65_530)),
    **{f"address outside {one}": (add(addresses=[one]), service(9, target=at(one))) for one in NOT_OUTSIDE},
    **{
        f"address of a name {one}": (add_name(addresses=[one]), data(9, "info", addresses=(one,)))
        for one in NOT_OUTSIDE
    },
    "name outside": (add(dns_name="wpad"), service(9, target=DnsName("wpad"))),
    "local name outside": (add(dns_name="localhost"), service(9, target=DnsName("localhost"))),
    **{
        f"name of a service {one!r}": (add(name=one, addresses=["192.0.2.9"]), service(9, name=one))
        for one in NAMES
    },
    "port of a service": (add(host_port=0), service(9, ports=(Port("x", 0, "tcp"),))),
    "name for all names": (add_name("*", texts=["x"]), data(9, "*", texts=("x",))),
    "name with too many labels": (add_name("a.b.c.d.e", texts=["x"]), data(9, "a.b.c.d.e", texts=("x",))),
    **{f"mac {one}": (attach(mac=one), endpoint(90, offset=40, mac=one)) for one in MACS},
    **{
        f"name of an endpoint {one!r}": (attach(name=one), endpoint(90, offset=40, name=one))
        for one in NAMES[1:]
    },
    "alias": (attach(aliases=["*"]), endpoint(90, offset=40, aliases=("*",))),
    "too many aliases": (
        attach(aliases=[f"a{number}" for number in range(MAX_ALIASES + 1)]),
        endpoint(90, offset=40, aliases=tuple(f"a{number}" for number in range(MAX_ALIASES + 1))),
    ),
    "port of an endpoint": (
        attach(ports=[{"number": 0}]),
        endpoint(90, offset=40, ports=(Port("0", 0, "tcp"),)),
    ),
    "protocol of a port": (
        attach(ports=[{"number": 1, "protocol": "icmp"}]),
        endpoint(90, offset=40, ports=(Port("1", 1, "icmp"),)),
    ),
    "service address for localhost": (lambda: service_key("localhost", ""), service_address("localhost", 5)),
    "too many published ports": (
        lambda: _refuse_form(Publication(8000, 80, "tcp", MAX_PUBLISHED_PORTS + 1)),
        PublishedServiceRecord(N1, ServiceKey("web"), Publication(8000, 80, "tcp", MAX_PUBLISHED_PORTS + 1)),
    ),
    "published beyond the last port": (
        attach(publish=["65535-65536:80-81"]),
        PublishedServiceRecord(N1, ServiceKey("web"), Publication(65535, 80, "tcp", 2)),
    ),
    "links with host access": (
        lambda: refuse_contradiction(create(policy="links", host_access=True)()),
        new(policy=Policy.LINKS, host_access=True),
    ),
}


def everything_but_what_is_said(made: Made) -> tuple[object, ...]:
    return made.kernel, made.names, made.feeds, made.rules


@pytest.mark.parametrize("case", VALUES)
def test_a_record_with_a_value_that_is_refused_in_a_request_is_ignored_and_its_writer_named(
    case: str,
) -> None:
    request, record = VALUES[case]
    with pytest.raises(InputError):
        request()
    view = GOOD.with_entries(event(LIAR, unchecked(record)))
    view.check_invariants()
    (refused,) = view.refused
    assert refused[0] == LIAR
    made = everything(view, GOOD)
    assert everything_but_what_is_said(made) == everything_but_what_is_said(GOOD_MADE)
    (found,) = [one for one in view.conflicts if one.kind == ConflictKind.RECORD.value]
    assert found.loser == LIAR
    assert found.text == f"host h3 has written a record that is refused: {refused[2]}"
    assert found.text in made.shown, "in `status`, and so in `doctor` and metrics"
    news = list(conflict_news(at_once(conflicts_of(GOOD)), at_once(conflicts_of(view)), view))
    assert found.text in [one.text for one in news]
    writer = Writer(LIAR)
    writer.sequence = 2000
    assert not view.with_entries(writer.delete(record)).refused


def plan(subnet: str) -> Callable[[], object]:
    around = NetworkConstraints(
        cluster_id=ClusterId("c" * 32),
        pools=("10.128.0.0/12",),
        networks=tuple(one.record for one in GOOD.networks.values()),
        hosts=tuple(one.record for one in GOOD.hosts.values() if one.record is not None),
        underlay="192.0.2.1",
        underlay_mtu_bytes=1500,
        tunnel_bytes=80,
    )
    return lambda: plan_network(NetworkRequest(name="new", subnets=(subnet,)), N3, around)


def ask(address: str) -> Callable[[], object]:
    return lambda: asked_offset(GOOD, (address,), GOOD.networks[N1])


def ask_mac(mac: str) -> Callable[[], object]:
    request = AttachRequest(target="netns:web", network="app", mac=mac)
    asked = NewEndpoint(endpoint_id=endpoint(90).endpoint_id, network=GOOD.networks[N1], request=request)
    return lambda: refuse_mac_in_use(StateStore(GOOD, {}), asked, 40)


PLACES: Mapping[str, tuple[Callable[[], object], Record, ConflictKind]] = {
    "subnet of another network": (plan("10.2.0.0/25"), new(subnets=("10.2.0.0/25",)), ConflictKind.SUBNET),
    "subnet with hosts in it": (plan("192.0.2.0/24"), new(subnets=("192.0.2.0/24",)), ConflictKind.SUBNET),
    "address of another endpoint": (ask("10.1.0.9"), endpoint(90, offset=9), ConflictKind.ADDRESS),
    **{
        f"address {one}": (ask(one), endpoint(90, addresses=(one, "fd00:1::28")), ConflictKind.OUTSIDE)
        for one in (
            "10.1.0.0",
            "10.1.0.1",
            "10.1.0.255",
            "10.2.0.9",
            "192.0.2.1",
            "127.0.0.1",
            "224.0.0.1",
            "0.0.0.0",
        )
    },
    "mac of another endpoint": (
        ask_mac(endpoint(1).mac),
        endpoint(90, offset=40, mac=endpoint(1).mac),
        ConflictKind.MAC,
    ),
    "mac of another address": (
        ask_mac(mac_of(N1, 9)),
        endpoint(90, offset=40, mac=mac_of(N1, 9)),
        ConflictKind.MAC,
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_record_of_a_place_that_is_refused_in_a_request_is_not_used_and_named(case: str) -> None:
    request, record, kind = PLACES[case]
    with pytest.raises(RefusedError):
        request()
    view = GOOD.with_entries(Writer(LIAR).put(record))
    view.check_invariants()
    made = everything(view, GOOD)
    assert (made.kernel, made.rules) == (GOOD_MADE.kernel, GOOD_MADE.rules)
    assert kind.value in [one.kind for one in view.conflicts]
    assert all(view.endpoints.get(one) == known for one, known in GOOD.endpoints.items())
    news = conflict_news(at_once(conflicts_of(GOOD)), at_once(conflicts_of(view)), view)
    assert all(one.text in made.shown for one in news)
