"""Which segments may go without VXLAN follows from the records of both hosts."""

from __future__ import annotations

from ipaddress import IPv6Address

from fakes.registry import H1, H2, N1, Writer, host, network

from netagent.datapath.direct.layout import DirectHost, DirectNetwork
from netagent.datapath.host.uplink import Underlay
from netagent.model.address.tunnel import tunnel_number
from netagent.model.records import EncryptionRecord, EncryptionStage, Record, TunnelRecord
from netagent.projection.direct_input import direct_input
from netagent.registry.encryption import tunnel_address_of
from netagent.registry.view import RegistryView

HERE = Underlay("192.0.2.1", "eth0", 1500)
IS_ON = EncryptionRecord(True, 1, 0, "root", H1, EncryptionStage.FENCED, True)


def a_view(*records: Record, mtu_bytes: int = 1370) -> RegistryView:
    view, mine, theirs = RegistryView(H1), Writer(H1), Writer(H2)
    view = view.with_entries(mine.put(host("h1")))
    view = view.with_entries(mine.put(network(mtu_bytes=mtu_bytes)))
    for record in (host("h2", underlay="192.0.2.2"), *records):
        view = view.with_entries(theirs.put(record))
        if record is IS_ON:
            view = view.with_entries(mine.put(record))
    return view


def test_nothing_goes_without_vxlan_in_a_cluster_in_the_clear() -> None:
    assert direct_input(a_view(), {N1}, HERE, "nx-tunnel") is None


def test_only_a_host_that_says_so_gets_segments_without_vxlan() -> None:
    for takes in (False, True):
        view = a_view(IS_ON, TunnelRecord(bytes([7] * 32), 7955, takes_direct=takes))
        wanted = direct_input(view, {N1}, HERE, "nx-tunnel")
        assert wanted is not None
        assert wanted.hosts == {tunnel_address_of(view, H2, 4): DirectHost(tunnel_number(H2, 0), takes)}
        (found,) = wanted.networks.values()
        assert found == DirectNetwork(view.networks[N1].record.vni, IPv6Address("fd00:1::").packed[:12])


def test_a_network_whose_packets_are_too_large_for_the_longer_header_stays_with_vxlan() -> None:
    for mtu_bytes, fits in ((1400, True), (1401, False)):
        wanted = direct_input(a_view(IS_ON, mtu_bytes=mtu_bytes), {N1}, HERE, "nx-tunnel")
        assert wanted is not None
        assert [one.fits for one in wanted.networks.values()] == [fits], (
            "it takes those of hosts whose tunnel does"
        )
