"""Whose datagrams have to be looked at anew when published ports change."""

from __future__ import annotations

from netagent.firewall.inputs import PortForward, ServiceForward
from netagent.firewall.publishing import datagram_ports, elements

ONE, TWO, THREE = ("10.66.0.2", 53), ("10.66.0.3", 53), ("10.66.0.4", 53)


def service(*containers: tuple[str, int]) -> ServiceForward:
    return ServiceForward(protocol="udp", host_port=53, containers=containers)


def test_a_flow_stays_with_a_replica_that_stays() -> None:
    before, after = elements((), (), [service(ONE, TWO)]), elements((), (), [service(ONE, THREE)])
    assert datagram_ports(before, after) == {53: {ONE[0], THREE[0]}}
    assert datagram_ports(before, before) == {}
    assert datagram_ports(before, elements((), ())) == {53: frozenset()}


def test_a_port_of_an_endpoint_keeps_no_flow() -> None:
    def led_to(container: str) -> PortForward:
        return PortForward(protocol="udp", host_port=53, container=container, port=53)

    before, after = elements([led_to(ONE[0])], ()), elements([led_to(TWO[0])], ())
    assert datagram_ports(before, after) == {53: frozenset()}
