"""Checks of the ports of this host that an endpoint is to publish."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import trio

from netagent.datapath.host.port_owner import is_here, listeners, owner_of
from netagent.errors import RefusedError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.model.publication import Publication
from netagent.registry.view import NetworkView


class Ports:
    """Ports that are about to be published, in addition to those of existing endpoints."""

    def __init__(self) -> None:
        self._in_work: list[Publication] = []

    @contextmanager
    def held(
        self, wanted: tuple[Publication, ...], rows: Iterable[LocalEndpointRow], but: EndpointId
    ) -> Iterator[None]:
        """Claim ports during a block. RefusedError when an endpoint other than `but` has one."""
        for one in wanted:
            for row in rows:
                known = next((other for other in row.publish if other.meets(one)), None)
                if known is not None and row.endpoint_id != but:
                    raise _in_use(one, f"published by {row.name} ({known.text})")
            if any(other.meets(one) for other in self._in_work):
                raise _in_use(one, "just being published by another endpoint")
        self._in_work += wanted
        try:
            yield
        finally:
            for one in wanted:
                self._in_work.remove(one)


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
            raise _in_use(wanted, f"used by {owner_of(listener)}", listener.port)


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


def _in_use(wanted: Publication, whose: str, port: int | None = None) -> RefusedError:
    return RefusedError(
        f"port {wanted.host_text if port is None else port}/{wanted.protocol} of this host is {whose}",
        code="port-in-use",
        thing=wanted.text,
        hint="use another port of the host",
    )
