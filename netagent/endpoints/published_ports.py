"""Checks of the ports of this host that an endpoint is to publish."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import trio

from netagent.datapath.host.port_owner import is_here, listeners, owner_of
from netagent.errors import RefusedError
from netagent.model.publication import Publication
from netagent.registry.view import NetworkView


async def refuse_if_listening(wanted: Iterable[Publication]) -> None:
    """Raise RefusedError when a program of the host listens on one of the ports, because it would get no more
    connections; or when the host does not have the address, so that no packet could arrive there."""
    for one in wanted:
        await trio.to_thread.run_sync(_refuse_if_listening, one)


def _refuse_if_listening(wanted: Publication) -> None:
    if wanted.address and not is_here(wanted.address):
        raise RefusedError(
            f"this host has no address {wanted.address}",
            code="no-such-address",
            thing=wanted.text,
            hint="use one that `ip address` shows, or none for all of them",
        )
    for listener in listeners(wanted.protocol):
        there = Publication(listener.port, 0, wanted.protocol, address=listener.address)
        if there.meets(wanted):
            raise port_in_use(wanted, f"used by {owner_of(listener)}", listener.port)


def refuse_unreachable(wanted: Iterable[Publication], network: NetworkView) -> None:
    """Raise RefusedError for an internal network, or one without addresses of the family of the host's address."""
    versions = {ipaddress.ip_network(subnet).version for subnet in network.record.subnets}
    for one in wanted:
        if network.record.internal:
            raise RefusedError(
                f"network {network.unique_name} is internal: its containers cannot be reached from outside",
                code="internal",
                thing=one.text,
                hint="publish it in another network of the container",
            )
        if one.address and ipaddress.ip_address(one.address).version not in versions:
            raise RefusedError(
                f"network {network.unique_name} has no addresses of the family of {one.address}",
                code="no-family",
                thing=one.text,
                hint="leave out the address",
            )


def port_in_use(wanted: Publication, whose: str, port: int | None = None) -> RefusedError:
    """Return the error for a port that is not free."""
    return RefusedError(
        f"port {wanted.host_text if port is None else port}/{wanted.protocol} of this host is {whose}",
        code="port-in-use",
        thing=wanted.text,
        hint="use another port of the host",
    )
