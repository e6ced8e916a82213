"""How a new network gets its subnets, and what it may not overlap."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.endpoints.network_defaults import (
    NetworkConstraints,
    conflict,
    differences,
    plan_network,
    plan_range,
    shortcoming,
    ula_prefix,
)
from netagent.errors import InputError, NetagentError, RefusedError
from netagent.model.ids import ClusterId, NetworkId
from netagent.model.records import HostRecord, NetworkRecord, Policy, ServiceRangeRecord
from netagent.model.request import NetworkRequest

ID = NetworkId("12345678" * 4)


def host(name: str, *routes: str, underlay: str = "192.0.2.1") -> HostRecord:
    return HostRecord(name, b"k" * 32, underlay, 4799, "fd00::1", "02:00:00:00:00:01", routes=routes)


def around(
    *hosts: HostRecord, networks: tuple[NetworkRecord, ...] = (), **changes: object
) -> NetworkConstraints:
    plain = NetworkConstraints(
        ClusterId("ab" * 16), ("10.160.0.0/12",), networks, hosts, "192.0.2.1", 1500, 80
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_a_network_without_wishes_gets_a_slice_of_the_pool_and_a_ula() -> None:
    record = plan_network(NetworkRequest(name="app"), ID, around())
    four, six = (ipaddress.ip_network(text) for text in record.subnets)
    assert (four.version, four.prefixlen, six.version, six.prefixlen) == (4, 20, 6, 64)
    assert four.subnet_of(ipaddress.ip_network("10.160.0.0/12"))  # type: ignore[arg-type]
    assert six.subnet_of(ula_prefix(ClusterId("ab" * 16)))  # type: ignore[arg-type]
    assert record.mtu_bytes == 1370, "VXLAN, and a tunnel one day"
    assert 2**23 <= record.vni < 2**24


def test_an_ipv6_underlay_leaves_twenty_bytes_less() -> None:
    assert plan_network(NetworkRequest(name="app"), ID, around(underlay="2001:db8::1")).mtu_bytes == 1350


@pytest.mark.parametrize(
    ("underlay_mtu_bytes", "tunnel_bytes", "mtu_bytes"),
    [
        (9000, 80, 8870),
        (1420, 0, 1370),  # the cluster encrypts: the tunnel has taken its part
        (1400, 80, 1280),  # less would take IPv6 from the network
        (1330, 80, 1280),
        (1300, 80, 1250),  # no IPv6 in any case
    ],
)
def test_a_network_leaves_room_for_the_tunnel_as_long_as_it_keeps_ipv6(
    underlay_mtu_bytes: int, tunnel_bytes: int, mtu_bytes: int
) -> None:
    constraints = around(underlay_mtu_bytes=underlay_mtu_bytes, tunnel_bytes=tunnel_bytes)
    assert plan_network(NetworkRequest(name="app"), ID, constraints).mtu_bytes == mtu_bytes


def test_who_asks_for_it_gets_all_that_fits_now() -> None:
    assert plan_network(NetworkRequest(name="app", mtu_bytes=1450), ID, around()).mtu_bytes == 1450
    with pytest.raises(RefusedError, match="do not fit"):
        plan_network(NetworkRequest(name="app", mtu_bytes=1451), ID, around())


def test_a_small_mtu_means_ipv4_only() -> None:
    record = plan_network(NetworkRequest(name="app", mtu_bytes=1000), ID, around())
    assert [ipaddress.ip_network(text).version for text in record.subnets] == [4]
    message, cure = shortcoming(record) or ("", "")
    assert message == "network app has no IPv6, which needs 1280 bytes: its MTU is 1000"
    assert "--mtu 1280" in cure


def test_a_small_underlay_means_ipv4_only_too() -> None:
    record = plan_network(NetworkRequest(name="app"), ID, around(underlay_mtu_bytes=1329))
    assert [ipaddress.ip_network(text).version for text in record.subnets] == [4]
    assert shortcoming(record) is not None
    record = plan_network(NetworkRequest(name="app"), ID, around(underlay_mtu_bytes=1330))
    assert [ipaddress.ip_network(text).version for text in record.subnets] == [4, 6]
    assert shortcoming(record) is None


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (NetworkRequest(name="app", subnets=("10.5.0.0/16",)), ["10.5.0.0/16", "route 10.0.0.0/9", "h2"]),
        (NetworkRequest(name="app", subnets=("192.0.2.0/24",)), ["192.0.2.0/24", "192.0.2.1", "h1"]),
        (NetworkRequest(name="node"), ["'node'"]),
        (NetworkRequest(name="Has.Dots"), ["'Has.Dots'"]),
        (NetworkRequest(name="app", mtu_bytes=100), ["100 bytes"]),
        (NetworkRequest(name="app", subnets=("172.16.0.0/31",)), ["172.16.0.0/31", "to 30"]),
        (NetworkRequest(name="app", subnets=("224.1.0.0/16",)), ["multicast"]),
        (NetworkRequest(name="app", mtu_bytes=1000, subnets=("fd01::/64",)), ["too small for IPv6"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(request_: NetworkRequest, words: list[str]) -> None:
    with pytest.raises(NetagentError) as caught:
        plan_network(request_, ID, around(host("h1"), host("h2", "10.0.0.0/9", underlay="192.0.2.2")))
    assert isinstance(caught.value, InputError | RefusedError)
    for word in words:
        assert word in str(caught.value)


def test_a_full_pool_says_so() -> None:
    with pytest.raises(RefusedError, match="no subnet is free"):
        plan_network(NetworkRequest(name="app"), ID, around(host("h1", "10.160.0.0/12")))


@given(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=20, unique=True))
def test_networks_made_one_after_the_other_never_overlap(numbers: list[int]) -> None:
    networks: tuple[NetworkRecord, ...] = ()
    for number in numbers:
        made = plan_network(
            NetworkRequest(name="app"), NetworkId(f"{number:032x}"), around(networks=networks)
        )
        assert not any(
            conflict(ipaddress.ip_network(text), around(networks=networks)) for text in made.subnets
        )
        networks += (made,)


def test_creating_again_compares_what_was_asked_for() -> None:
    record = plan_network(NetworkRequest(name="app", mtu_bytes=1400), ID, around())
    assert differences(NetworkRequest(name="app"), record) == []
    assert differences(NetworkRequest(name="app", mtu_bytes=1400, subnets=record.subnets), record) == []
    assert differences(NetworkRequest(name="app", mtu_bytes=1300), record) == ["its MTU is 1400 bytes"]
    assert len(differences(NetworkRequest(name="app", internal=True, policy=Policy.LINKS), record)) == 2
    ruled = plan_network(
        NetworkRequest(name="app", feed_rules=("*.a.example",), feed_labels=False), ID, around()
    )
    assert differences(NetworkRequest(name="app"), ruled) == [
        "its feed rules are *.a.example",
        "its labels for feeds are not published",
    ]
    refusing = NetworkRequest(name="app", refuses_shared_names=True)
    assert differences(refusing, record) == ["names that groups share are answered in it"]
    assert differences(refusing, plan_network(refusing, ID, around())) == []
    giving = NetworkRequest(name="app", service_addresses=True)
    assert differences(giving, record) == [
        "only a service that asks for one gets an address of its own in it"
    ]
    assert differences(giving, plan_network(giving, ID, around())) == []
    assert differences(NetworkRequest(name="app", feed_rules=("a.example",)), record) == [
        "it has no feed rules"
    ]


# -- ranges for addresses of services -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subnets",
    [
        ("10.1.0.0/20", "fd00:1::/64"),
        ("10.1.0.0/30",),
        ("10.16.0.0/12", "fd00:1::/64"),
        ("fd00:1::/64",),
        ("10.1.0.0/24", "fd00:1::/96"),
    ],
)
def test_a_service_range_is_as_large_as_its_network_and_from_the_same_pools(subnets: tuple[str, ...]) -> None:
    record = dataclasses.replace(plan_network(NetworkRequest(name="app"), ID, around()), subnets=subnets)
    found = plan_range(record, around(networks=(record,)))
    assert found == plan_range(record, around(networks=(record,))), "all hosts choose the same"
    pools = {4: ipaddress.ip_network("10.160.0.0/12"), 6: ula_prefix(ClusterId("ab" * 16))}
    for text, own in zip(found.subnets, subnets, strict=True):
        subnet = ipaddress.ip_network(text)
        assert subnet.prefixlen == ipaddress.ip_network(own).prefixlen
        assert subnet.subnet_of(pools[subnet.version])  # type: ignore[arg-type]


@given(
    st.lists(st.integers(0, 15), max_size=15),
    st.sampled_from(["networks", "ranges", "routes"]),
    st.integers(0, 2**32),
)
def test_a_service_range_is_free_of_everything(taken: list[int], what: str, number: int) -> None:
    """A pool of sixteen places, of which some are taken."""
    record = dataclasses.replace(
        plan_network(NetworkRequest(name="app"), ID, around()),
        network_id=NetworkId(f"{number:032x}"),
        subnets=("10.1.0.0/24",),
    )
    places = tuple(f"10.9.{place}.0/24" for place in taken)
    constraints = around(host("h2", underlay="10.9.15.9"), pools=("10.9.0.0/20",), networks=(record,))
    if what == "networks":
        others = tuple(dataclasses.replace(record, subnets=(place,)) for place in places)
        constraints = dataclasses.replace(constraints, networks=(record, *others))
    elif what == "ranges":
        constraints = dataclasses.replace(
            constraints, ranges=tuple(ServiceRangeRecord(ID, (place,)) for place in places)
        )
    else:
        constraints = dataclasses.replace(constraints, hosts=(*constraints.hosts, host("h3", *places)))
    if {*taken, 15} == set(range(16)):
        with pytest.raises(RefusedError) as refused:
            plan_range(record, constraints)
        assert refused.value.code == "pool-full"
        return
    (found,) = plan_range(record, constraints).subnets
    assert found not in places
    assert found != "10.9.15.0/24", "a host has an address there"


def test_no_service_range_has_addresses_of_the_internet() -> None:
    record = dataclasses.replace(
        plan_network(NetworkRequest(name="app"), ID, around()), subnets=("10.1.0.0/24",)
    )
    with pytest.raises(RefusedError, match="no private subnet of the size /24 is free in address_pools"):
        plan_range(record, around(pools=("8.8.0.0/16",)))
    (found,) = plan_range(record, around(pools=("8.8.0.0/16", "172.20.0.0/16"))).subnets
    assert found.startswith("172.20.")


def test_a_new_network_keeps_clear_of_service_ranges() -> None:
    range_ = ServiceRangeRecord(ID, ("10.9.0.0/24",))
    message = conflict(ipaddress.ip_network("10.9.0.0/16"), around(ranges=(range_,)))
    assert message == "10.9.0.0/24, from which services of the network 12345678 have addresses"
