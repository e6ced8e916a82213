"""Announce to this host's containers that an address which they may have used has another MAC now.

A container caches a MAC for half a minute or longer, whatever the bridge would answer meanwhile. Nearly always the
cached one stays right: the MAC follows from the address, so a container that gets the address of another also gets
its MAC. Only a MAC that a user chose differs. `ChosenMacs` (pure) remembers the addresses with such a MAC, now or
before: for these a container may have cached an earlier one.

Each host announces the change to its own containers, over the host's end of each one's interface. Nothing is sent
into the network, because every host learns the change from the record. Only endpoints that the gossip reports as
changed are examined, so a change of one endpoint costs the work of one.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Final, TypeAlias

import trio

from netagent.datapath.endpoint.gratuitous_arp import announcement
from netagent.model.ids import EndpointId, NetworkId, is_derived_mac, veth_name
from netagent.model.records import EndpointRecord
from netagent.registry.record_codec import endpoint_of_key
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices
from netgossip.types import EntriesChanged, Event


class ChosenMacs:
    """The latest MAC of each such address, as long as its network exists."""

    def __init__(self) -> None:
        self._macs: dict[NetworkId, dict[str, str]] = {}

    def learn(self, record: EndpointRecord) -> list[str]:
        """Return those of the record's addresses for which a container may have cached another MAC."""
        before = record.mac if is_derived_mac(record.network_id, record.mac) else ""
        known = self._macs.get(record.network_id, {})
        different = [address for address in record.addresses if known.get(address, before) != record.mac]
        if different:
            self._macs.setdefault(record.network_id, {}).update(dict.fromkeys(different, record.mac))
        return different

    def keep_only(self, network_ids: Collection[NetworkId]) -> None:
        """Forget all other networks."""
        for gone in [known for known in self._macs if known not in network_ids]:
            del self._macs[gone]


GRACE_S: Final = 2.0
"""Gives the entries for the new MAC time to reach the kernel before containers use it."""

Send: TypeAlias = Callable[[str, bytes], None]
"""Sends a frame into the container behind a host's interface."""


class Announcer:
    """`note` all events of the gossip, after the registry has them; `run` beside it."""

    def __init__(
        self, live: StateStore, wait_programmed: Callable[[int], Awaitable[None]], send: Send
    ) -> None:
        self._live = live
        self._wait_programmed = wait_programmed
        self._send = send
        self._chosen = ChosenMacs()
        self._changed: set[EndpointId] = set()
        self._news = trio.Event()
        self._learn_all(live.view)

    def note(self, events: tuple[Event, ...]) -> None:
        """Remember which endpoints are new or different."""
        for event in events:
            if isinstance(event, EntriesChanged):
                found = (endpoint_of_key(entry.key) for entry in event.entries if entry.value is not None)
                self._changed.update(endpoint_id for endpoint_id in found if endpoint_id is not None)
        if self._changed:
            self._news.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            changed, self._changed = self._changed, set()
            view = self._live.view
            self._chosen.keep_only(view.networks)
            changes = await in_slices(self._learn(view, changed))
            if changes:
                with trio.move_on_after(GRACE_S):
                    await self._wait_programmed(self._live.revision)
            for record, addresses in changes:
                self._tell(record, addresses)
                await trio.lowlevel.checkpoint()

    def _learn(
        self, view: RegistryView, changed: Iterable[EndpointId]
    ) -> Slices[list[tuple[EndpointRecord, list[str]]]]:
        """Yield endpoints with those of their addresses that have another MAC now."""
        changes = []
        for endpoint_id in changed:
            yield
            endpoint = view.endpoints.get(endpoint_id)
            if endpoint is not None and (addresses := self._chosen.learn(endpoint.record)):
                changes.append((endpoint.record, addresses))
        return changes

    def _tell(self, record: EndpointRecord, addresses: list[str]) -> None:
        frames = [announcement(address, record.mac) for address in addresses]
        for row in self._live.rows.values():
            is_other = row.network_id == record.network_id and row.endpoint_id != record.endpoint_id
            if is_other and row.is_published:
                for frame in frames:
                    self._send(veth_name(row.endpoint_id), frame)

    def _learn_all(self, view: RegistryView) -> None:
        """Learn what existed before this agent started, which needs no announcement."""
        for endpoint in view.endpoints.values():
            self._chosen.learn(endpoint.record)


def open_socket() -> socket.socket:
    """Open a socket that sends Ethernet frames by any interface of the calling thread's namespace, and receives
    none."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)


def sending(sock: socket.socket) -> Send:
    """Return a function that sends by that socket; errors are ignored, because they mean that the container is
    gone."""

    def send(interface: str, frame: bytes) -> None:
        with suppress(OSError):
            sock.sendto(frame, (interface, 0))

    return send
