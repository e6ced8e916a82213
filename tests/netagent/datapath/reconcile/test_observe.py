"""Which notifications are news, and the codec of neighbours and FDB entries."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import replace
from socket import AddressFamily
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from netagent.datapath.netlink.device import create_link
from netagent.datapath.netlink.link import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
    decode_link,
    read_link,
    set_address,
)
from netagent.datapath.netlink.neighbour import (
    AF_BRIDGE,
    NATIVE,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_DELNEIGH,
    RTM_NEWNEIGH,
    NeighbourMessage,
    decode,
    encode,
)
from netagent.datapath.netlink.route import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    request_body_of_subnets,
    subnet_body,
)
from netagent.datapath.netlink.route_socket import Netlink, NetlinkMessage, NetlinkRequest
from netagent.datapath.reconcile.observe import (
    Extent,
    LinkNews,
    NeighbourEntry,
    Observation,
    entry_of,
    may_be_entry,
    news_of,
    observe_devices,
)
from netagent.datapath.state import CONTAINER_PORT, ZERO_MAC, Device, KernelState, LinkKind, Tunnel

NAMES = {1: "na-1", 2: "nx-1", 3: "nv1"}
MAC = "02:00:00:00:00:01"
DEVICES = {
    "na-1": Device(name="na-1", kind=LinkKind.BRIDGE, alias="netagent a", mtu_bytes=1400),
    "nx-1": Device(
        name="nx-1",
        kind=LinkKind.VXLAN,
        alias="netagent a",
        mtu_bytes=1400,
        tunnel=Tunnel(vni=1, port=4799, local="192.0.2.1"),
    ),
    "nv1": Device(name="nv1", kind=LinkKind.VETH, alias="netagent endpoint 1", mtu_bytes=1400),
}
BELIEF = KernelState(
    devices=DEVICES,
    addresses=frozenset({("nx-1", "fd00::1/64")}),
    neighbours={("na-1", "10.0.0.1"): MAC},
    masters={("na-1", MAC): "nx-1"},
    selves={("nx-1", MAC): "192.0.2.2"},
    floods={("nx-1", "192.0.2.2"): ""},
)

NEIGHBOUR = NeighbourMessage(socket.AF_INET, 1, NUD_PERMANENT, 0, "10.0.0.1", MAC, None)
SELF = NeighbourMessage(AF_BRIDGE, 2, NUD_PERMANENT, NTF_SELF, "192.0.2.2", MAC, None)
FLOOD = SELF._replace(mac=ZERO_MAC)
MASTER = NeighbourMessage(AF_BRIDGE, 2, NUD_NOARP, 0, None, MAC, 1)
LEARNT = NeighbourMessage(AF_BRIDGE, 3, 0x02, 0, None, "02:00:00:00:00:07", 1)


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def notification(message: NeighbourMessage, *, deleted: bool = False) -> NetlinkMessage:
    return NetlinkMessage(RTM_DELNEIGH if deleted else RTM_NEWNEIGH, encode(message))


def test_entries_are_told_apart() -> None:
    assert entry_of(NEIGHBOUR, NAMES, DEVICES) == NeighbourEntry(("neighbour", ("na-1", "10.0.0.1")), MAC)
    assert entry_of(SELF, NAMES, DEVICES) == NeighbourEntry(("self", ("nx-1", MAC)), "192.0.2.2")
    assert entry_of(FLOOD, NAMES, DEVICES) == NeighbourEntry(("flood", ("nx-1", "192.0.2.2")), "")
    assert entry_of(MASTER, NAMES, DEVICES) == NeighbourEntry(("master", ("na-1", MAC)), "nx-1")


@pytest.mark.parametrize(
    "message",
    [
        NEIGHBOUR._replace(ifindex=9),  # on another program's device
        NEIGHBOUR._replace(state=0x02, address="10.0.0.7"),  # resolved, not put there
        LEARNT,
        MASTER._replace(state=NUD_PERMANENT),  # the bridge's own address
        MASTER._replace(master=9),
        MASTER._replace(mac=None),
        FLOOD._replace(ifindex=1),
        SELF._replace(ifindex=3),  # a multicast address that a veth listens to
    ],
)
def test_what_is_not_ours_is_passed_over(message: NeighbourMessage) -> None:
    assert entry_of(message, NAMES, DEVICES) is None
    assert news_of(notification(message), NAMES, BELIEF) is None


@pytest.mark.parametrize("message", [NEIGHBOUR, SELF, FLOOD, MASTER])
def test_an_echo_is_no_news_and_a_difference_is(message: NeighbourMessage) -> None:
    assert news_of(notification(message), NAMES, BELIEF) is None
    assert news_of(notification(message, deleted=True), NAMES, BELIEF) is not None
    assert news_of(notification(message), NAMES, KernelState(devices=DEVICES)) is not None
    assert news_of(notification(message, deleted=True), NAMES, KernelState(devices=DEVICES)) is None


class Answering:
    """In the place of Netlink: a bridge of ours with an address, which goes when its routes are asked for."""

    async def dump(self, request: NetlinkRequest, *, strict: bool = False) -> list[NetlinkMessage]:
        if request.type == RTM_GETROUTE:
            if request.body[len(request_body_of_subnets(0)) :]:
                raise OSError(errno.ENODEV, "No such device")
            return []
        if request.type == RTM_GETADDR:
            return [NetlinkMessage(RTM_NEWADDR, set_address(1, "10.0.0.1/24").body)]
        down = create_link(DEVICES["na-1"], 1)[0].body
        is_up = (1).to_bytes(4, NATIVE)
        return [NetlinkMessage(RTM_NEWLINK, down[:8] + is_up + down[12:])]


def test_a_device_that_goes_while_its_routes_are_looked_for_is_no_failure() -> None:
    seen = trio.run(observe_devices, cast("Netlink", Answering()), [1])
    assert seen.state.unrouted == {("na-1", "10.0.0.1/24")}


def test_a_copy_of_a_route_in_another_table_is_no_news() -> None:
    whole = subnet_body("fd00::1/64", 1)
    copy = whole[:4] + bytes([99]) + whole[5:]
    assert news_of(NetlinkMessage(RTM_DELROUTE, whole), NAMES, BELIEF) is Extent.DEVICES
    assert news_of(NetlinkMessage(RTM_DELROUTE, copy), NAMES, BELIEF) is None


def test_a_changed_value_is_news_of_its_entry() -> None:
    changed = NEIGHBOUR._replace(mac="02:00:00:00:00:99")
    assert news_of(notification(changed), NAMES, BELIEF) == ("neighbour", ("na-1", "10.0.0.1"))
    moved = SELF._replace(address="192.0.2.3")
    assert news_of(notification(moved), NAMES, BELIEF) == ("self", ("nx-1", MAC))
    elsewhere = MASTER._replace(ifindex=3)
    assert news_of(notification(elsewhere), NAMES, BELIEF) == ("master", ("na-1", MAC))
    assert news_of(notification(FLOOD._replace(address="192.0.2.3")), NAMES, BELIEF) is Extent.ALL


def test_what_is_no_longer_permanent_is_news() -> None:
    ageing = NEIGHBOUR._replace(state=0x02)
    assert news_of(notification(ageing), NAMES, BELIEF) == ("neighbour", ("na-1", "10.0.0.1"))
    assert news_of(notification(MASTER._replace(state=0x02)), NAMES, BELIEF) == ("master", ("na-1", MAC))


def test_addresses() -> None:
    ours, foreign, elsewhere = (
        set_address(2, "fd00::1/64"),
        set_address(2, "fd00::9/64"),
        set_address(9, "fd00::9/64"),
    )
    assert news_of(NetlinkMessage(RTM_NEWADDR, ours.body), NAMES, BELIEF) is None
    assert news_of(NetlinkMessage(RTM_DELADDR, ours.body), NAMES, BELIEF) is not None
    assert news_of(NetlinkMessage(RTM_NEWADDR, foreign.body), NAMES, BELIEF) is not None
    assert news_of(NetlinkMessage(RTM_NEWADDR, elsewhere.body), NAMES, BELIEF) is None


@given(
    st.builds(
        NeighbourMessage,
        family=st.sampled_from([socket.AF_INET, socket.AF_INET6, AF_BRIDGE]),
        ifindex=st.integers(0, 2**31 - 1),
        state=st.integers(0, 0xFFFF),
        flags=st.integers(0, 255),
        address=st.none()
        | st.sampled_from(["10.0.0.1", "255.255.255.255", "fd00::1", "::", "2001:db8::ffff"]),
        mac=st.none() | st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")),
        master=st.none() | st.integers(0, 2**31 - 1),
    )
)
def test_what_is_encoded_is_decoded(message: NeighbourMessage) -> None:
    assert decode(encode(message)) == message


@given(
    st.sampled_from([socket.AF_INET, socket.AF_INET6, AF_BRIDGE]),
    st.integers(0, 4),
    st.integers(0, 0xFF),
    st.integers(0, 255),
    st.none() | st.integers(0, 3),
)
def test_a_head_alone_never_passes_over_what_is_ours(
    family: int | AddressFamily, ifindex: int, state: int, flags: int, master: int | None
) -> None:
    message = NeighbourMessage(family, ifindex, state, flags, "10.0.0.1", MAC, master)
    believed = KernelState(devices=DEVICES)
    if entry_of(message, NAMES, DEVICES) is not None:
        assert may_be_entry(encode(message), believed, Observation(names=NAMES))


def word_of_bridge(
    *, master: int = 1, state: int = 3, learning: int = 1, deleted: bool = False
) -> NetlinkMessage:
    flags = {1: state, 8: learning, 9: 1, 27: 1, 30: 1, 32: 0, 4: 0, 33: 0}
    port = b"".join(attribute(number, bytes([value])) for number, value in flags.items())
    head = struct.pack("=BxHiII", AF_BRIDGE, 0, 3, 0x10043, 0)
    body = head + attribute(10, master.to_bytes(4, NATIVE)) + attribute(12 | 0x8000, port)
    return NetlinkMessage(RTM_DELLINK if deleted else RTM_NEWLINK, body)


def test_what_a_bridge_says_of_a_port_is_news_where_it_is_not_as_believed() -> None:
    port = replace(DEVICES["nv1"], master="na-1", port=CONTAINER_PORT)
    belief = replace(BELIEF, devices={**DEVICES, "nv1": port})
    assert news_of(word_of_bridge(), NAMES, belief) is None
    for word in (
        word_of_bridge(learning=0),
        word_of_bridge(state=0),
        word_of_bridge(master=9),
        word_of_bridge(deleted=True),
    ):
        assert news_of(word, NAMES, belief) == LinkNews(3)
    assert news_of(word_of_bridge(), NAMES, BELIEF) == LinkNews(3)
    assert news_of(word_of_bridge(), {1: "na-1"}, belief) is None


COUNTED = attribute(7, bytes(8))
VETH_BODY = (
    struct.pack("=BxHiII", 0, 0, 4, 1, 0) + attribute(3, b"nv-1\0") + COUNTED + attribute(20, b"ours\0")
)


def test_a_link_is_read_anew_where_anything_but_a_counter_has_changed() -> None:
    known = read_link(VETH_BODY)
    assert known.is_still(VETH_BODY.replace(COUNTED, attribute(7, b"12345678")))
    counters = range(VETH_BODY.index(COUNTED) + 4, VETH_BODY.index(COUNTED) + len(COUNTED))
    for place in range(len(VETH_BODY)):
        changed = bytes([*VETH_BODY[:place], VETH_BODY[place] ^ 1, *VETH_BODY[place + 1 :]])
        assert known.is_still(changed) is (place in counters), place
    assert not known.is_still(VETH_BODY + COUNTED)


@given(st.binary(max_size=200))
def test_any_message_that_says_the_same_is_read_as_the_same(tail: bytes) -> None:
    known = read_link(VETH_BODY + tail)
    assert known.is_still(VETH_BODY + tail)
    assert known.link == decode_link(VETH_BODY + tail)


@given(st.binary(max_size=200))
def test_attributes_cut_short_do_no_harm(tail: bytes) -> None:
    message = decode(encode(NEIGHBOUR) + tail)
    assert (message.family, message.ifindex) == (NEIGHBOUR.family, NEIGHBOUR.ifindex)


@pytest.mark.parametrize(
    ("kind", "cidr", "index", "is_news"),
    [
        (RTM_NEWROUTE, "fd00::1/64", 2, False),  # the kernel's own, with the address
        (RTM_DELROUTE, "fd00::1/64", 2, True),
        (RTM_NEWROUTE, "fd00::1/64", 9, True),  # another program's, perhaps in the place of ours
        (RTM_DELROUTE, "fd00::1/64", 9, True),
        (RTM_DELROUTE, "fd00::1/80", 2, False),
        (RTM_DELROUTE, "10.0.0.1/24", 2, False),
        (RTM_NEWROUTE, "10.0.0.1/24", 9, False),
    ],
)
def test_routes_to_our_subnets_are_news(kind: int, cidr: str, index: int, *, is_news: bool) -> None:
    message = NetlinkMessage(kind, subnet_body(cidr, index))
    assert news_of(message, NAMES, BELIEF) == (Extent.DEVICES if is_news else None)
