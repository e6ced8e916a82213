"""Flows with the names of their ends: whose ports, whose addresses, which links; and as bytes between hosts."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import msgpack
import pytest
from fakes.registry import H1, H2, N1, Writer, endpoint, host, identifier, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.datapath.flows.counters import CountingTrouble, FlowReading
from netagent.datapath.flows.layout import KEY, MAPPED, VALUE, Opener, Share, network_order
from netagent.flows import departed as departed_targets
from netagent.flows.departed import DepartedTarget, DepartedTargets
from netagent.flows.filter import FlowFilter, select
from netagent.flows.flow import PROTOCOLS, Flow, FlowTargets, named_flows
from netagent.flows.saved_names import dump_names, restore_names
from netagent.flows.sources import FlowSource, FlowSources, source_of
from netagent.flows.suggest import Suggestion, suggest
from netagent.flows.wire import (
    PAGE_BYTES,
    FlowPage,
    FlowQuestion,
    FlowWireError,
    encode_page,
    parse_page_untrusted,
    parse_question_untrusted,
)
from netagent.model.ids import EndpointId, NetworkId, bridge_name, veth_name
from netagent.model.records import AttachmentRecord, EndpointRecord, Group, HostAddressRecord, Policy
from netagent.registry.view import RegistryView
from netgossip.records.wire import PAYLOAD_LIMIT_BYTES
from netgossip.slices import at_once


def view_of(*records: EndpointRecord, policy: Policy = Policy.OPEN) -> RegistryView:
    """The first endpoint is on this host, the others on another one, which has an address of its own."""
    one, other = Writer(H1), Writer(H2)
    view = RegistryView(H1)
    for writer, name in ((one, "h1"), (other, "h2")):
        view = view.with_entries(writer.put(host(name)))
    view = view.with_entries(one.put(network(N1, "app", policy=policy, host_access=policy is Policy.OPEN)))
    view = view.with_entries(one.put(AttachmentRecord(N1)))
    view = view.with_entries(other.put(HostAddressRecord(N1, 9, "02:00:00:00:00:99")))
    for writer, record in zip((one, *(other for _ in records[1:])), records, strict=True):
        view = view.with_entries(writer.put(record))
    return view


WEB = endpoint(1, offset=2, name="web1", service="web")
DB = endpoint(2, offset=3, name="db1", service="db")
WEB_SOURCE = FlowSource(WEB.endpoint_id, N1, "web1", "web", "", H1)


def flow(address: str, *, port: int | None = 80, refused: int = 0, source: FlowSource = WEB_SOURCE) -> Flow:
    return Flow(source, "tcp", address, port, 3, refused, 1_000, 2_000)


def element(number: int, protocol: int, address: str, port: int) -> tuple[bytes, bytes]:
    packed = MAPPED + IPv4Address(address).packed if "." in address else IPv6Address(address).packed
    return KEY.pack(number, network_order(port), protocol, packed), VALUE.pack(
        5, 1, 1_500_000_000, 7_000_000_000
    )


def test_what_the_kernel_counted_has_the_names_of_its_ends() -> None:
    view = view_of(WEB, DB)
    sources = FlowSources()
    sources.note(view, [WEB.endpoint_id], {7: veth_name(WEB.endpoint_id)}, {})
    reading = FlowReading(
        (element(1, 6, "10.1.0.3", 5432), element(1, 58, "fd00:1::3", 0), element(1, 99, "10.1.0.3", 1)),
        {7: Share(1, 2, 0)},
        9_000_000_000,
    )
    first, second = at_once(named_flows(reading, sources, DepartedTargets(), view, 1_000_000.0))
    assert first == Flow(WEB_SOURCE, "tcp", "10.1.0.3", 5432, 5, 1, 1_000_001, 1_000_007)
    assert (second.protocol, second.address, second.port) == ("ipv6-icmp", "fd00:1::3", None)


def test_a_container_that_is_gone_is_still_named() -> None:
    view, sources = view_of(WEB, DB), FlowSources()
    sources.note(view, [WEB.endpoint_id], {7: veth_name(WEB.endpoint_id)}, {})
    later = view.with_entries(Writer(H2).put(host("h2")))
    sources.note(later, [], {}, {})
    assert sources.owner(later, 7) == WEB_SOURCE
    gone = RegistryView(H1)
    assert sources.owner(gone, 7) == dataclasses.replace(WEB_SOURCE, is_gone=True)
    assert sources.owner(gone, 8).name == "port 8"


def test_a_container_that_is_gone_is_still_named_where_flows_lead_to_it() -> None:
    view, departed = view_of(WEB, DB), DepartedTargets()
    at_once(departed.note(view))
    assert departed.at(N1, "10.1.0.3") is None
    later = Writer(H2)
    later.sequence = 100
    gone = view.with_entries(later.delete(DB))
    at_once(departed.note(gone))
    for address in ("10.1.0.3", "fd00:1::3"):
        one = dataclasses.replace(flow(address), departed=departed.at(N1, address))
        target = FlowTargets(gone).of(one)
        assert (target.kind, target.name, target.departed) == ("unknown", "db1", DepartedTarget("db1", "db"))
        for name in ("db1", "db"):
            assert at_once(select(gone, [one], FlowFilter(target=name)))
        assert FlowTargets(view).of(one).departed is None, "it has a container"


def test_a_container_of_a_network_that_this_host_leaves_is_not_gone() -> None:
    departed = DepartedTargets()
    at_once(departed.note(view_of(WEB, DB)))
    at_once(departed.note(RegistryView(H1)))
    assert departed.at(N1, "10.1.0.3") is None


def test_only_so_many_that_are_gone_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departed_targets, "MOST_ADDRESSES", 4)
    many = [endpoint(number, offset=number, name=f"job{number}") for number in range(3, 8)]
    departed = DepartedTargets()
    at_once(departed.note(view_of(WEB, *many)))
    at_once(departed.note(view_of(WEB)))
    assert departed.is_full
    addresses = ["10.1.0.3", "10.1.0.5", "10.1.0.7"]
    departed.keep({(N1, address) for address in addresses})
    assert not departed.is_full
    assert sum(departed.at(N1, one) is not None for one in addresses) == 2
    assert departed.at(N1, "10.1.0.6") is None


HOST_SOURCE = FlowSource(EndpointId(""), N1, "h1", "", "", H1, "host")
OUTSIDE_SOURCE = FlowSource(EndpointId(""), N1, "outside", "", "", H1, "outside")


def test_what_comes_by_the_bridge_is_of_the_host_or_of_outside() -> None:
    view, sources = view_of(WEB, DB), FlowSources()
    sources.note(view, [], {}, {4: bridge_name(view.networks[N1].record.vni)})
    assert sources.owner(view, 4 | Opener.HOST) == HOST_SOURCE
    sources.note(view, [], {}, {})
    assert sources.owner(view, 4 | Opener.OUTSIDE) == OUTSIDE_SOURCE
    assert sources.owner(view, 5 | Opener.OUTSIDE).kind == "outside"
    saved, later = dump_names(sources, DepartedTargets()), FlowSources()
    restore_names(saved, H1, later, DepartedTargets())
    assert later.owner(view, 4 | Opener.OUTSIDE) == OUTSIDE_SOURCE
    # Another device has the index by now.
    later.note(view, [WEB.endpoint_id], {}, {4: "na-1"})
    assert later.owner(view, 4 | Opener.HOST).network_id is None
    later.restore({4: dataclasses.replace(WEB_SOURCE, endpoint_id=EndpointId("ff" * 16))})
    later.note(view, [WEB.endpoint_id], {4: veth_name(WEB.endpoint_id)}, {})
    assert later.owner(view, 4) == WEB_SOURCE


@pytest.mark.parametrize(
    ("address", "kind", "name"),
    [
        ("10.1.0.3", "endpoint", "db1"),
        ("10.1.0.9", "host", "h2"),
        ("fd00:1::9", "host", "h2"),
        ("10.1.0.77", "unknown", "10.1.0.77"),
        ("192.0.2.7", "outside", "192.0.2.7"),
    ],
)
def test_whose_an_address_is(address: str, kind: str, name: str) -> None:
    target = FlowTargets(view_of(WEB, DB)).of(flow(address))
    assert (target.kind, target.name) == (kind, name)


FROM_ELSEWHERE = [
    flow("10.1.0.2", source=HOST_SOURCE),
    flow("10.1.0.3", port=81, source=OUTSIDE_SOURCE),
]
ALL = [flow("10.1.0.3"), flow("10.1.0.9", refused=1), flow("192.0.2.7", port=443)]


@pytest.mark.parametrize(
    ("wanted", "addresses"),
    [
        (FlowFilter(), ["10.1.0.3", "10.1.0.9", "192.0.2.7"]),
        (FlowFilter(is_refused=True), ["10.1.0.9"]),
        (FlowFilter(source="web"), ["10.1.0.3", "10.1.0.9", "192.0.2.7"]),
        (FlowFilter(source="web1.app"), ["10.1.0.3", "10.1.0.9", "192.0.2.7"]),
        (FlowFilter(source="db"), []),
        (FlowFilter(target="db"), ["10.1.0.3"]),
        (FlowFilter(target="db1.app"), ["10.1.0.3"]),
        (FlowFilter(target="h2"), ["10.1.0.9"]),
        (FlowFilter(target="outside"), ["192.0.2.7"]),
        (FlowFilter(target="192.0.2.7"), ["192.0.2.7"]),
        (FlowFilter(NetworkId(identifier(7))), []),
    ],
)
def test_what_users_type_selects_flows(wanted: FlowFilter, addresses: list[str]) -> None:
    found = at_once(select(view_of(WEB, DB), ALL, wanted))
    assert [one.flow.address for one in found] == addresses


@pytest.mark.parametrize(
    ("wanted", "sources"),
    [
        (FlowFilter(), [HOST_SOURCE, OUTSIDE_SOURCE]),
        (FlowFilter(source="h1"), [HOST_SOURCE]),
        (FlowFilter(source="host"), [HOST_SOURCE]),
        (FlowFilter(source="outside"), [OUTSIDE_SOURCE]),
        (FlowFilter(source="web"), []),
        (FlowFilter(target="web"), [HOST_SOURCE]),
        (FlowFilter(is_refused=True), []),
    ],
)
def test_what_comes_from_elsewhere_is_selected_as_well(wanted: FlowFilter, sources: list[FlowSource]) -> None:
    found = at_once(select(view_of(WEB, DB, policy=Policy.LINKS), FROM_ELSEWHERE, wanted))
    assert [one.flow.source for one in found] == sources


def test_no_link_is_suggested_for_what_comes_from_elsewhere() -> None:
    assert suggested(view_of(WEB, DB, policy=Policy.LINKS), *FROM_ELSEWHERE) == ([], Suggestion())


def test_links_matter_where_the_policy_is_links() -> None:
    linked = endpoint(1, offset=2, name="web1", service="web", links=("db",))
    for record, policy, expected in (
        (WEB, Policy.OPEN, None),
        (WEB, Policy.LINKS, False),
        (linked, Policy.LINKS, True),
    ):
        (one,) = at_once(select(view_of(record, DB, policy=policy), [flow("10.1.0.3")], FlowFilter()))
        assert one.is_linked is expected


def suggested(view: RegistryView, *flows: Flow) -> tuple[list[tuple[str, str, int, int]], Suggestion]:
    found = at_once(suggest(view, flows))
    return [(one.source.record.name, one.label, one.openings, one.also) for one in found.links], found


def test_the_links_that_are_suggested_cover_what_was_seen() -> None:
    other_db = endpoint(3, offset=4, name="db2", service="db")
    view = view_of(WEB, DB, other_db, policy=Policy.LINKS)
    links, found = suggested(view, flow("10.1.0.3"), flow("fd00:1::3"), flow("10.1.0.77"), flow("192.0.2.7"))
    assert links == [("web1", "db", 6, 1)]
    assert (found.covered, found.unused, found.gone) == (0, [], 1)
    linked = endpoint(1, offset=2, name="web1", service="web", links=("cache", "db"))
    links, found = suggested(view_of(linked, DB, other_db, policy=Policy.LINKS), flow("10.1.0.3"))
    assert (links, found.covered) == ([], 1)
    assert [(one.record.name, label) for one, label in found.unused] == [("web1", "cache")]


@pytest.mark.parametrize(
    ("own", "other", "label"),
    [
        (Group("shop", "web"), Group("shop", "db"), "db"),
        (Group("shop", "web"), Group("blog", "db"), "db.blog"),
        (None, Group("blog", "db"), "db.blog"),
        (Group("shop", "web"), None, "db"),
    ],
)
def test_a_link_is_called_as_a_person_would(own: Group | None, other: Group | None, label: str) -> None:
    web = endpoint(1, offset=2, name="web1", service="web", group=own)
    db = endpoint(2, offset=3, name="db1", service="db", group=other)
    links, _ = suggested(view_of(web, db, policy=Policy.LINKS), flow("10.1.0.3"))
    assert [link[1] for link in links] == [label]


# -- bytes -----------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
SOURCES = st.builds(
    FlowSource,
    st.integers(0, 5).map(lambda number: EndpointId(identifier(number))),
    st.sampled_from([None, N1]),
    NAMES,
    NAMES,
    NAMES | st.just(""),
    st.just(H2),
    st.sampled_from(["endpoint", "host", "outside"]),
    st.booleans(),
)
FLOWS = st.builds(
    Flow,
    SOURCES,
    st.sampled_from(sorted(PROTOCOLS.values())),
    st.ip_addresses().map(str),
    st.none() | st.integers(0, 65_535),
    st.integers(0, 1 << 62),
    st.integers(0, 1 << 62),
    st.integers(0, 1 << 33),
    st.integers(0, 1 << 33),
    st.none() | st.builds(DepartedTarget, NAMES, NAMES),
)


TROUBLES = st.none() | st.builds(CountingTrouble, NAMES, NAMES)


@given(st.lists(FLOWS, max_size=60), TROUBLES, st.dictionaries(NAMES, st.integers(0, 1 << 62), max_size=8))
def test_pages_bring_all_flows_in_order(
    flows: list[Flow], trouble: CountingTrouble | None, left_out: dict[str, int]
) -> None:
    rest, found = list(flows), list[Flow]()
    while True:
        payload = encode_page(rest, trouble, left_out)
        assert len(payload) <= PAYLOAD_LIMIT_BYTES
        page = parse_page_untrusted(payload, H2)
        assert (page.trouble, page.is_last) == (trouble, len(page.flows) == len(rest))
        assert page.left_out.items() <= left_out.items()
        assert page.flows or not rest
        found += page.flows
        rest = rest[len(page.flows) :]
        if page.is_last:
            break
    assert found == flows


def test_a_question_comes_back_as_it_was() -> None:
    asked = FlowQuestion(N1, True, "web", "db.app", "ab" * 6 + ">fd00:1::3/tcp:80")
    assert parse_question_untrusted(asked.encode()) == asked


GOOD = encode_page(
    [flow("10.1.0.3"), flow("fd00:1::3", port=None)], CountingTrouble("no room", "make some"), {"web1": 3}
)


@given(
    st.binary(max_size=PAGE_BYTES + 300)
    | st.builds(
        lambda at, byte: GOOD[:at] + byte + GOOD[at + 1 :], st.integers(0, len(GOOD)), st.binary(max_size=2)
    )
    | st.recursive(
        st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary() | st.none(), st.lists
    ).map(msgpack.packb)
)
def test_any_bytes_are_a_page_or_refused(payload: bytes) -> None:
    with suppress(FlowWireError):
        assert isinstance(parse_page_untrusted(payload, H2), FlowPage)
    with suppress(FlowWireError):
        parse_question_untrusted(payload)


def test_an_earlier_release_says_no_cure_and_no_kind() -> None:
    *earlier, _cure = msgpack.unpackb(GOOD)
    earlier[3] = [source[:5] for source in earlier[3]]
    earlier[4] = [row[:8] for row in earlier[4]]
    page = parse_page_untrusted(msgpack.packb(earlier), H2)
    assert page.trouble == CountingTrouble("no room", "")
    assert page.flows[0].source == dataclasses.replace(WEB_SOURCE, host_id=H2)


def test_a_peer_speaks_for_itself() -> None:
    (one, _) = parse_page_untrusted(GOOD, H2).flows
    assert one.source.host_id == H2
    assert source_of(view_of(WEB, DB).endpoints[DB.endpoint_id]).host_id == H2
