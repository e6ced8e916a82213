"""What an endpoint claims of its host: its name in a network, and published ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import trio

from netagent.datapath.host.port_owner import is_here, listeners, owner_of
from netagent.errors import RefusedError
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.publication import Publication
from netagent.registry.state_store import StateStore
from netagent.registry.view import NetworkView


class Claims:
    """What attaches in progress have taken before the rows contain it: names, and ports of this host."""

    def __init__(self, live: StateStore) -> None:
        self._live = live
        self._names: set[tuple[NetworkId, str]] = set()
        self._ports: list[Publication] = []

    def __len__(self) -> int:
        return len(self._names) + len(self._ports)

    def is_name_taken(
        self, network_id: NetworkId, name: str, *, except_for: EndpointId | None = None
    ) -> bool:
        """True if another endpoint of this host has the name in the network, or is just getting it."""
        return (network_id, name) in self._names or any(
            other.endpoint_id != except_for for other in self._live.rows.called(network_id, name)
        )

    @contextmanager
    def name(self, network_id: NetworkId, name: str) -> Iterator[None]:
        """Claim a name during a block. RefusedError when it is taken."""
        if self.is_name_taken(network_id, name):
            raise RefusedError(
                f"the name {name!r} is already used on this host in that network",
                code="name-in-use",
                thing=name,
                hint="use another --name; give both the same --service to make them replicas",
            )
        self._names.add((network_id, name))
        try:
            yield
        finally:
            self._names.discard((network_id, name))

    @contextmanager
    def ports(self, wanted: tuple[Publication, ...], owner: EndpointId) -> Iterator[None]:
        """Claim ports during a block. RefusedError when another endpoint than `owner` has one."""
        for one in wanted:
            for row in self._live.rows.publishing():
                known = next((other for other in row.publish if other.meets(one)), None)
                if known is not None and row.endpoint_id != owner:
                    raise _port_in_use(one, f"published by {row.name} ({known.text})")
            if any(other.meets(one) for other in self._ports):
                raise _port_in_use(one, "just being published by another endpoint")
        self._ports += wanted
        try:
            yield
        finally:
            for one in wanted:
                self._ports.remove(one)


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
            raise _port_in_use(wanted, f"used by {owner_of(listener)}", listener.port)


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


def _port_in_use(wanted: Publication, whose: str, port: int | None = None) -> RefusedError:
    return RefusedError(
        f"port {wanted.host_text if port is None else port}/{wanted.protocol} of this host is {whose}",
        code="port-in-use",
        thing=wanted.text,
        hint="use another port of the host",
    )
