"""What the firewall is made of follows the records, and what probes say of the paths."""

from __future__ import annotations

import dataclasses

from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network
from fakes.rows import PUBLISHED, local_row

from netagent.firewall.inputs import FirewallInput
from netagent.firewall.publishing import ANYWHERE4, ANYWHERE6, PORT_FORWARDS4, PORT_FORWARDS6, elements
from netagent.model.ids import HostId, vxlan_name
from netagent.model.publication import Publication
from netagent.model.records import AttachmentRecord, HostAddressRecord, ServiceRangeRecord
from netagent.projection.firewall_input import InputCache, firewall_input, limits_of
from netagent.registry.view import RegistryView

ROWS = [
    local_row("e" * 32, N1, addresses=("10.1.0.2", "fd00:1::2"), mac="02::1"),
]


def known() -> RegistryView:
    """H2 and H3 have an endpoint each in N1 (1,450 bytes), H2 one in N2, of which H1 has none."""
    view = RegistryView(H1)
    records = {
        H1: (host("h1"), network(), network(N2, "other", subnets=("10.2.0.0/24", "fd00:2::/64"))),
        H2: (
            host("h2", underlay="192.0.2.2"),
            AttachmentRecord(N1),
            endpoint(2, offset=3),
            AttachmentRecord(N2),
            endpoint(4, N2, addresses=("10.2.0.4", "fd00:2::4")),
        ),
        H3: (host("h3", underlay="192.0.2.3"), AttachmentRecord(N1), endpoint(3, offset=4)),
    }
    for owner, written in records.items():
        writer = Writer(owner)
        for record in written:
            view = view.with_entries(writer.put(record))
    return view


def given(limits: dict[HostId, int]) -> FirewallInput:
    return firewall_input(known(), ROWS, vxlan_port=4799, limits=limits)


def test_tcp_is_clamped_for_each_endpoint_behind_a_small_path() -> None:
    device = vxlan_name(known().networks[N1].record.vni)
    assert given({}).clamps == {}
    assert given({H2: 1350}).clamps == {(device, "0a:00:00:00:00:02"): 1350}
    assert given({H2: 1350, H3: 650}).clamps == {
        (device, "0a:00:00:00:00:02"): 1350,
        (device, "0a:00:00:00:00:03"): 650,
    }


def test_what_has_not_changed_is_not_made_anew() -> None:
    """An endpoint elsewhere comes, as thousands do: the same objects, which need no comparison."""
    view, kept = known(), InputCache()
    rows = tuple(ROWS)
    first = firewall_input(view, rows, vxlan_port=4799, limits={}, kept=kept)
    later = view.with_entries(Writer(H3).put(endpoint(9, offset=9)))
    second = firewall_input(later, rows, vxlan_port=4799, limits={}, kept=kept)
    assert second == first
    for part in ("endpoints", "networks", "members", "subnets", "requests", "answers", "port_forwards"):
        assert getattr(second, part) is getattr(first, part)
    gone = (dataclasses.replace(ROWS[0], mac="02::2"),)
    third = firewall_input(later, gone, vxlan_port=4799, limits={}, kept=kept)
    assert third.endpoints[0].mac == "02::2"


def test_limits_are_read_back_from_the_clamps_that_they_made() -> None:
    every: tuple[dict[HostId, int], ...] = ({}, {H2: 1350}, {H2: 1350, H3: 650})
    for limits in every:
        assert limits_of(known(), given(limits).clamps) == limits
    assert limits_of(known(), {("nx-1", "0a:00:00:00:00:02"): 1350}) == {}, "another network's"


def test_a_network_that_fits_the_path_is_left_alone() -> None:
    assert given({H2: 1450}).clamps == {}, "another network of both wants more"


def test_published_ports_lead_to_each_address_of_their_family_once_the_endpoint_is_whole() -> None:
    publish = (Publication(53, 5353, "udp", 2), Publication(8080, 80, address="192.0.2.1"))
    row = dataclasses.replace(ROWS[0], publish=publish)
    assert firewall_input(known(), [row], vxlan_port=4799, limits={}).port_forwards == ()
    row = dataclasses.replace(row, stage=PUBLISHED)
    given = firewall_input(known(), [row], vxlan_port=4799, limits={}, default_routes=[row.endpoint_id])
    assert [
        (one.protocol, one.address, one.host_port, one.container, one.port) for one in given.port_forwards
    ] == [
        ("udp", "", 53, "10.1.0.2", 5353),
        ("udp", "", 54, "10.1.0.2", 5354),
        ("udp", "", 53, "fd00:1::2", 5353),
        ("udp", "", 54, "fd00:1::2", 5354),
        ("tcp", "192.0.2.1", 8080, "10.1.0.2", 80),
    ]
    assert not any(one.needs_snat for one in given.port_forwards)
    assert all(
        one.needs_snat for one in firewall_input(known(), [row], vxlan_port=4799, limits={}).port_forwards
    )


def test_ports_published_at_all_addresses_of_one_family_open_nothing_of_the_other() -> None:
    four, six = (Publication(80, 8080, address=one) for one in ("0.0.0.0", "::"))
    assert not four.meets(six)
    for address, is_four in (("0.0.0.0", True), ("192.0.2.1", True), ("::", False), ("2001:db8::1", False)):
        other = Publication(80, 1, address=address)
        assert (four.meets(other), six.meets(other)) == (is_four, not is_four)
        assert (other.meets(four), other.meets(six)) == (is_four, not is_four)
    for publish in ((four,), (six,), (four, six)):
        row = dataclasses.replace(ROWS[0], stage=PUBLISHED, publish=publish)
        sets = elements(firewall_input(known(), [row], vxlan_port=4799, limits={}).port_forwards, [])
        assert sets[ANYWHERE4] == ({("tcp", "80"): ("10.1.0.2", "8080")} if four in publish else {})
        assert sets[ANYWHERE6] == ({("tcp", "80"): ("fd00:1::2", "8080")} if six in publish else {})
        assert not sets[PORT_FORWARDS4]
        assert not sets[PORT_FORWARDS6]


def test_service_ranges_stay_inside_and_those_that_the_host_answers_for_are_told_apart() -> None:
    view, writer = known(), Writer(H1)
    writer.sequence = 10
    ranges = ("10.9.0.0/24", "fd00:9::/64")
    view = view.with_entries(writer.put(ServiceRangeRecord(N1, ranges)))
    made = firewall_input(view, ROWS, vxlan_port=4799, limits={})
    assert set(ranges) < set(made.subnets)
    assert made.own_ranges == ()
    view = view.with_entries(writer.put(HostAddressRecord(N1, 9, "06:00:00:00:00:01")))
    assert firewall_input(view, ROWS, vxlan_port=4799, limits={}).own_ranges == ranges
    view = view.with_entries(writer.put(host("h1", routes=("10.9.0.0/16",))))
    cut = firewall_input(view, ROWS, vxlan_port=4799, limits={})
    assert not set(ranges) & set(cut.subnets)
    assert cut.own_ranges == ()
