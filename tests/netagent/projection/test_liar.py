"""A member that lies: whatever record of whatever kind it writes, in its own or in another's name, no other host
stumbles over it, and what the others have among themselves stays as it is.

All that a host makes of records is made here: the view with its indexes, devices and entries of the kernel, the
firewall's sets and text, names, address space, paths and probes.
"""

from __future__ import annotations

import contextlib
import ipaddress

import msgpack
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, grant, grants_of, host, network
from fakes.scratch_state import desired_state, network_inputs
from fakes.zone import whole_table
from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.datapath.host.uplink import Underlay
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.state import KernelState
from netagent.firewall import text
from netagent.firewall.ruleset import ruleset_of
from netagent.ipam.space import space_of
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId, EndpointId
from netagent.model.records import AttachmentRecord
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.model.subnet import offset_count
from netagent.projection.datapath_input import path_targets, probe_input, probe_targets
from netagent.projection.desired_state import DesiredStateBuilder
from netagent.projection.firewall_input import firewall_input
from netagent.registry.record_codec import RecordError, Unknown, decode_untrusted, key_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.resolver.zone import ZoneBuilder
from netgossip.slices import at_once
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Version

CLUSTER = ClusterId("c1" * 16)
HOME = Underlay("192.0.2.1", "eth0", 1500)
ROW = LocalEndpointRow(
    endpoint_id=EndpointId("e" * 32),
    network_id=N1,
    name="own",
    service="own",
    offset=9,
    addresses=("10.1.0.9", "fd00:1::9"),
    mac="02:00:00:00:00:09",
)
BOX = Sandbox(sandbox_id=SandboxId("c"), networks=(N1, N2), links=())

# The parts are those that honest records have, their edges, and what no honest host would say.
hosts = st.sampled_from([H1, H2, H3, "0" * 32, "f" * 32]).map(bytes.fromhex)
networks = st.sampled_from([N1, N2, "0" * 32, "f" * 32]).map(bytes.fromhex)
endpoints = st.sampled_from([f"{0xE000 + n:032x}" for n in range(4)] + ["e" * 32, "0" * 32]).map(
    bytes.fromhex
)
names = st.sampled_from(
    ["app", "web", "h1", "h2", "own", "node", "internal", "mesh", "localhost", "x", "x" * 63, "a-0000"]
)
words = st.sampled_from(["", "0.1.0", "x" * 63])
v4 = st.sampled_from(
    [
        "192.0.2.1",
        "192.0.2.2",
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.9",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
    ]
)
v6 = st.sampled_from(
    [
        "fd00::1",
        "fd00:1::1",
        "fd00:1::2",
        "fd00:1::9",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        "::ffff:10.1.0.2",
        "2001:db8::2",
    ]
)
addresses = (v4 | v6).map(lambda one: ipaddress.ip_address(one).packed)
macs = st.sampled_from(
    [
        "020000000001",
        "020000000002",
        "020000000009",
        "ffffffffffff",
        "000000000000",
        "01005e000001",
        "0680c0ffee01",
    ]
).map(bytes.fromhex)
CIDRS = (
    "10.1.0.0/24 10.0.0.0/8 192.0.2.0/24 10.1.0.128/25 10.9.0.0/30 0.0.0.0/0 127.0.0.0/8 224.0.0.0/4 192.0.2.1/32 "
    "fd00:1::/64 fd00::/64 fd00:2::/108 ::/0 fe80::/64 ff00::/8 2001:db8::/64"
)
cidrs = st.sampled_from(CIDRS.split()).map(
    lambda one: [ipaddress.ip_network(one).network_address.packed, ipaddress.ip_network(one).prefixlen]
)
counts = st.sampled_from([0, 1, 2, 3, 128, 254, 255, 256, 2**20, 2**32 - 1, 2**63 - 1])
ports = st.tuples(names, st.sampled_from([0, 1, 53, 80, 65535]), st.sampled_from(["tcp", "udp", "sctp"])).map(
    list
)
flags = st.booleans()

vxlan_ports = st.sampled_from([1, 4789, 4799, 65535])
vnis = st.sampled_from([1, 1161, 1162, 2**24 - 1])
mtus = st.sampled_from([576, 1279, 1280, 1450, 9000, 65465, 65535])
policies, healths = (
    st.sampled_from(["open", "links"]),
    st.sampled_from(["unknown", "healthy", "unhealthy", "starting"]),
)
keys, labels = st.just(bytes(32)), st.lists(st.just(["k", "v"]), max_size=1)


def some(one: st.SearchStrategy[object], most: int) -> st.SearchStrategy[list[object]]:
    return st.lists(one, max_size=most)


def body(kind: int, *fields: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.tuples(st.just(kind), st.just(1), *fields)


bodies = st.one_of(
    body(1, names, keys, addresses, vxlan_ports, addresses, macs, words, words, flags, some(cidrs, 3)),
    body(2, networks, names, vnis, some(cidrs, 2), mtus, flags, policies, flags, flags, counts),
    body(3, networks),
    body(4, networks),
    body(5, networks, counts, counts, hosts, counts),
    body(
        *(6, endpoints, networks, names, names, some(addresses, 2), macs),
        *(some(names, 3), some(ports, 3), labels, healths, some(names, 3)),
    ),
    body(7, hosts, flags, some(counts, 2)),
    body(8, networks, counts, macs),
    body(9, networks),
)


def lie(said: tuple[object, ...], sequence: int) -> Entry:
    """Under the key that the record would have, if it is one: netgossip passes on any bytes under any."""
    value = msgpack.packb(list(said))
    scope, key = CLUSTER_SCOPE, b"x%d" % sequence
    with contextlib.suppress(RecordError):
        record = decode_untrusted(value)
        if not isinstance(record, Unknown):
            scope, key = key_of(record)
    return Entry(scope, H3, key, value, Version(1, sequence))


def good() -> RegistryView:
    """H1 and H2 in N1, with an endpoint each; H3 is a member like them."""
    view = RegistryView(H1)
    writers = {one: Writer(one) for one in (H1, H2, H3)}
    written = {
        H1: (host("h1"), network(), AttachmentRecord(N1), grant(N1, 0, 127, H1), endpoint(1, offset=9)),
        H2: (
            host("h2", underlay="192.0.2.2", probe_address="fd00::2"),
            AttachmentRecord(N1),
            endpoint(2, offset=200),
        ),
        H3: (host("h3", underlay="192.0.2.3", probe_address="fd00::3"),),
    }
    for owner, records in written.items():
        for record in records:
            view = view.with_entries(writers[owner].put(record))
    return view


GOOD = good()


def project(view: RegistryView) -> KernelState:
    """All that this host makes of it."""
    known = StateStore(view, {ROW.endpoint_id: ROW}).now
    made = at_once(DesiredStateBuilder(CLUSTER, vxlan_port=4799).make(known, HOME))
    scratch = desired_state(
        network_inputs(view, [ROW], HOME.address),
        probe_input(view, CLUSTER, HOME.mtu_bytes, HOME.address),
        underlay=HOME.address,
        vxlan_port=4799,
        cluster_id=CLUSTER,
    )
    assert at_once(plan(made.state, scratch)) == []
    rules = ruleset_of(firewall_input(view, [ROW], vxlan_port=4799, limits={H2: 1300, H3: 600}))
    assert text.render(rules)
    table = whole_table(view, [BOX], "mesh.internal")
    assert dict(at_once(ZoneBuilder("mesh.internal").build(view, {BOX.sandbox_id: BOX})).table) == table
    for network_id, one in view.networks.items():
        space_of(
            one.creator, offset_count(one.record.subnets), grants_of(view, network_id)
        ).check_invariants()
    path_targets(view)
    probe_targets(view)
    assert view.conflicts is not None
    return made.state


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([H2, H3, "0" * 32]), bodies), min_size=1, max_size=4))
def test_no_part_stumbles_over_lies(lies: list[tuple[str, tuple[object, ...]]]) -> None:
    view = GOOD
    for sequence, (owner, said) in enumerate(lies, 100):
        entry = lie(said, sequence)
        view = view.with_entries(EntriesChanged(entry.scope, owner, 1, sequence, 0, (entry,)))
    view.check_invariants()
    project(view)


@settings(max_examples=300, deadline=None)
@given(bodies)
def test_one_lie_in_its_own_name_takes_nothing_from_others(said: tuple[object, ...]) -> None:
    """But what a member may do today (SECURITY.md): say that a network or a host is gone, make a network with the VNI
    of another, and claim an address as the rules of clashes have it (the smaller host id keeps it, and the liar's is
    the highest)."""
    entry = lie(said, 100)
    view = GOOD.with_entries(EntriesChanged(entry.scope, H3, 1, 100, 0, (entry,)))
    takes_vni = said[0] == 2 and said[4] == GOOD.networks[N1].record.vni
    if said[0] in (3, 7) or takes_vni:
        return
    assert view.hosts[H2].address == "192.0.2.2"
    assert {one for one, held in view.endpoints.items() if held.owner != H3} == set(GOOD.endpoints)
    state, before = project(view), project(GOOD)
    for name, device in before.devices.items():
        assert name in state.devices, (name, device)
