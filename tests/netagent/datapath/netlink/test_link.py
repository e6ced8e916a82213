"""Links and addresses as the kernel shows them and is asked for them, with pyroute2 at the other end."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from netagent.datapath.netlink.link import (
    MOST_SEGMENTED_BYTES,
    VethPair,
    create_veth,
    decode_address,
    decode_link,
    set_address,
    set_port,
)
from netagent.datapath.netlink.route_socket import HEADER, NetlinkRequest
from netagent.datapath.state import PortFlags, Tunnel


def body(message: Any, *, attrs: list[Any], **fields: int) -> bytes:
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data[HEADER.size :])


def link(*attrs: Any, **fields: int) -> bytes:
    return body(ifinfmsg(), attrs=list(attrs), **fields)


def test_a_port_of_a_bridge() -> None:
    flags = {"LEARNING": 0, "UNICAST_FLOOD": 1, "MCAST_FLOOD": 0, "BCAST_FLOOD": 1, "NEIGH_SUPPRESS": 1}
    slave = {"attrs": [(f"IFLA_BRPORT_{name}", value) for name, value in flags.items()]}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", slave)]
    found = decode_link(
        link(
            ("IFLA_IFNAME", "nv01234567"),
            ("IFLA_IFALIAS", "netagent endpoint ü"),
            ("IFLA_ADDRESS", "02:00:00:00:00:01"),
            ("IFLA_MTU", 1450),
            ("IFLA_MASTER", 7),
            ("IFLA_LINK", 70_000),
            ("IFLA_LINKINFO", {"attrs": info}),
            index=12,
            flags=1,
        )
    )
    assert (found.index, found.name, found.alias, found.kind) == (
        12,
        "nv01234567",
        "netagent endpoint ü",
        "veth",
    )
    assert (found.mac, found.mtu_bytes, found.up) == ("02:00:00:00:00:01", 1450, True)
    assert (found.master, found.peer, found.tunnel) == (7, 70_000, None)
    assert found.port == PortFlags(
        learning=False, flood=True, mcast_flood=False, bcast_flood=True, neigh_suppress=True
    )


def test_what_is_asked_of_a_port_is_what_is_read_back() -> None:
    wanted = PortFlags(learning=True, flood=False, mcast_flood=True, bcast_flood=False, neigh_suppress=True)
    assert decode_link(set_port("nv01234567", wanted).body).port == wanted


@pytest.mark.parametrize(
    ("up", "operstate", "state", "forwarding"),
    [
        (1, "UP", 3, True),
        (1, "UP", 0, False),
        (1, "UNKNOWN", 1, False),
        (1, "DOWN", 0, True),
        (0, "UP", 0, True),
    ],
)
def test_a_port_that_is_shut_by_its_bridge_alone(
    up: int, operstate: str, state: int, *, forwarding: bool
) -> None:
    """A tunnel's operstate is always unknown; of a port's states 3 lets packets pass."""
    slave = {"attrs": [("IFLA_BRPORT_STATE", state)]}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", slave)]
    words: list[Any] = [("IFLA_OPERSTATE", operstate), ("IFLA_LINKINFO", {"attrs": info})]
    assert decode_link(link(("IFLA_IFNAME", "nv01234567"), *words, flags=up)).forwarding is forwarding


@pytest.mark.parametrize(
    ("attribute", "local"), [("IFLA_VXLAN_LOCAL", "192.0.2.1"), ("IFLA_VXLAN_LOCAL6", "fd00::1")]
)
def test_a_tunnel(attribute: str, local: str) -> None:
    data = [
        ("IFLA_VXLAN_ID", 9_000_000),
        ("IFLA_VXLAN_PORT", 4799),
        (attribute, local),
        ("IFLA_VXLAN_LEARNING", 0),
    ]
    info = [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]
    found = decode_link(link(("IFLA_IFNAME", "nx-9000000"), ("IFLA_LINKINFO", {"attrs": info}), index=3))
    assert found.tunnel == Tunnel(vni=9_000_000, port=4799, local=local, learning=False)
    assert (found.up, found.master, found.peer, found.port) == (False, None, None, None)
    assert (found.alias, found.mac) == ("", "")


@pytest.mark.parametrize("snooping", [False, True])
def test_a_bridge(snooping: bool) -> None:
    data = {"attrs": [("IFLA_BR_MCAST_SNOOPING", int(snooping))]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    found = decode_link(link(("IFLA_IFNAME", "na-1"), ("IFLA_LINKINFO", info), index=4))
    assert (found.kind, found.mcast_snooping) == ("bridge", snooping)


def test_addresses() -> None:
    ends: list[Any] = [("IFA_ADDRESS", "192.0.2.9"), ("IFA_LOCAL", "192.0.2.1")]
    four = body(ifaddrmsg(), attrs=ends, family=2, prefixlen=24, index=5)
    six = body(ifaddrmsg(), attrs=[("IFA_ADDRESS", "fd00::1")], family=10, prefixlen=64, index=6)
    assert decode_address(four) == (5, "192.0.2.1/24")
    assert decode_address(six) == (6, "fd00::1/64")


def read(kind: type[Any], request: NetlinkRequest) -> Any:
    """A message of ours as pyroute2 understands it."""
    header = HEADER.pack(HEADER.size + len(request.body), request.type, 0, 0, 0)
    message = kind(header + request.body)
    message.decode()
    return message


def test_a_pair_is_asked_for_in_words_that_others_understand() -> None:
    pair = VethPair(
        name="nv01234567",
        alias="netagent endpoint ü",
        mtu_bytes=1450,
        peer_name="eth0",
        peer_mac="02:00:00:00:00:01",
        peer_netns_fd=9,
    )
    made, marked = (read(ifinfmsg, request) for request in create_veth(pair, 1 << 24))
    assert (made["index"], made.get_attr("IFLA_IFNAME"), made.get_attr("IFLA_MTU")) == (
        1 << 24,
        pair.name,
        1450,
    )
    info = made.get_attr("IFLA_LINKINFO")
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_ADDRESS") == pair.peer_mac
    assert peer.get_attr("IFLA_NET_NS_FD") == 9
    assert peer.get_attr("IFLA_GSO_MAX_SIZE") == MOST_SEGMENTED_BYTES
    assert (marked["index"], marked.get_attr("IFLA_IFALIAS")) == (1 << 24, pair.alias)


@pytest.mark.parametrize(("cidr", "flags"), [("10.66.0.2/32", 0), ("fd66::2/64", 0x82)])
def test_an_address_is_asked_for_in_words_that_others_understand(cidr: str, flags: int) -> None:
    request = set_address(7, cidr)
    message = read(ifaddrmsg, request)
    assert (message["index"], message["flags"]) == (7, flags)
    assert f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}" == cidr
    assert decode_address(request.body) == (7, cidr)
