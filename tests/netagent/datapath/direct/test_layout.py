"""Addresses of packets without VXLAN: what WireGuard allows a host is what its packets begin with."""

from __future__ import annotations

import ipaddress

import pytest

from netagent.datapath.direct.layout import DirectHost, destination_head, pack_far, source_head
from netagent.model.address.tunnel import direct_prefixes

VNI = 0xABCDEF


@pytest.mark.parametrize("number", [1, 0x1234567, (1 << 28) - 2])
def test_a_hosts_packets_are_in_its_own_prefixes_and_in_no_others(number: int) -> None:
    own, other = ([*map(ipaddress.ip_network, direct_prefixes(one))] for one in (number, number ^ 1))
    for head in (source_head(number, VNI), destination_head(number, VNI)):
        for first in (0xFC, 0xFD):
            address = ipaddress.ip_address(bytes([first]) + head[1:] + bytes(range(10)))
            assert sum(address in prefix for prefix in own) == 1
            assert not any(address in prefix for prefix in other)


def test_the_two_addresses_hold_the_whole_vni() -> None:
    source, destination = source_head(7, VNI), destination_head(7, VNI)
    halves = [int.from_bytes(one[4:], "big") & 0xFFF for one in (source, destination)]
    assert halves[0] << 12 | halves[1] == VNI
    assert pack_far(VNI, DirectHost(7, takes=False)).startswith(destination + source)
