"""Which ports of this host an endpoint may publish, and why not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import trio

from netagent.datapath.host.port_owner import is_here, listeners, owner_of
from netagent.errors import RefusedError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.publication import Publication
from netagent.registry.view import NetworkView


class Ports:
    """Ports that are about to be published, beside those of the endpoints that are there."""

    def __init__(self) -> None:
        self._in_work: list[Publication] = []

    @contextmanager
    def held(
        self, wanted: tuple[Publication, ...], rows: Iterable[LocalEndpointRow], but: LocalEndpointRow
    ) -> Iterator[None]:
        """For the length of a block. RefusedError when somebody has one, other than `but`."""
        for one in wanted:
            for row in rows:
                known = next((other for other in row.publish if other.meets(one)), None)
                if known is not None and row.endpoint_id != but.endpoint_id:
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
    """RefusedError when a program of the host listens at one of the ports: it would hear nobody any more; or when
    the host has not got the address, so that nobody could come by it."""
    for one in wanted:
        await trio.to_thread.run_sync(_refuse_if_listening, one)


def _refuse_if_listening(wanted: Publication) -> None:
    if wanted.address and not is_here(wanted.address):
        raise RefusedError(
            f"this host has no address {wanted.address}",
            code="no-such-address",
            thing=wanted.text,
            hint="give one that `ip address` shows, or none for all that it has",
        )
    for listener in listeners(wanted.protocol):
        there = Publication(listener.port, 0, wanted.protocol, address=listener.address)
        if there.meets(wanted):
            raise _in_use(wanted, f"used by {owner_of(listener)}", listener.port)


def refuse_unreachable(wanted: Iterable[Publication], network: NetworkView) -> None:
    """RefusedError for a network that nobody outside may reach, or not by that family."""
    versions = {ipaddress.ip_network(subnet).version for subnet in network.record.subnets}
    for one in wanted:
        if network.record.internal:
            raise RefusedError(
                f"network {network.unique_name} is internal: nobody outside may reach what is in it",
                code="internal",
                thing=one.text,
                hint="publish it in another network of the container",
            )
        if one.address and ipaddress.ip_address(one.address).version not in versions:
            raise RefusedError(
                f"network {network.unique_name} has no addresses of the family of {one.address}",
                code="no-family",
                thing=one.text,
                hint="leave the address away",
            )


def _in_use(wanted: Publication, whose: str, port: int | None = None) -> RefusedError:
    return RefusedError(
        f"port {wanted.host_text if port is None else port}/{wanted.protocol} of this host is {whose}",
        code="port-in-use",
        thing=wanted.text,
        hint="take another port of the host",
    )
