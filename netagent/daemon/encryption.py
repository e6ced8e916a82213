"""Keeps this host's end of the encrypted tunnel as the registry says: device, key, record, and other hosts as peers.

That nothing leaves in the clear does not depend on it: while a cluster encrypts, the firewall lets VXLAN pass the
tunnel's device only, whether or not that is there (netagent.firewall.text). So what fails here costs connectivity, is
shown by `status`, and is tried again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq
from typing import Final

import trio

from netagent.datapath.host.uplink import Underlay
from netagent.errors import NetagentError, RefusedError
from netagent.model.address.tunnel import tunnel_cidr
from netagent.model.author import current_author
from netagent.model.records import EncryptionRecord, TunnelRecord
from netagent.projection.datapath_input import vxlan_underlay
from netagent.registry.encryption import (
    is_encrypted,
    own_salt,
    tunnel_address_of,
    tunnel_peers,
)
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.state_dir import StateDir
from netagent.tunnel.device import TunnelDevice
from netagent.tunnel.keys import KEY_BYTES, private_key_from, public_key_of
from netagent.tunnel.peer import PeerState, TunnelPeer
from netgossip.types import CLUSTER_SCOPE

RETRY_S: Final = 2.0
FRESH_S: Final = 180.0
"""WireGuard uses a session for no longer. Probes pass each path all the time, so one that works has a newer one."""

logger = logging.getLogger("netagent.encryption")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelStatus:
    """For `status`."""

    peers: int
    connected: int
    """Peers with a session."""
    backend: str
    trouble: str


class Encryption:
    """One task: `run`. `underlay`: this host's present one."""

    def __init__(
        self,
        live: StateStore,
        publisher: Publisher,
        device: TunnelDevice,
        *,
        state: StateDir,
        port: int,
        underlay: Callable[[], Underlay],
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._device = device
        self._state = state
        self._port = port
        self._underlay = underlay
        self._seen: tuple[object, ...] = ()
        """What the last complete step was made from."""
        self._trouble = ""
        self._is_leaving = False

    async def run(self) -> None:
        """Run until cancelled; device and process stay."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._device.run)
            nursery.start_soon(self._follow)

    async def note_on(self) -> None:
        """Say that the cluster encrypts, if no record that this host has says so: then nothing is sent in the clear
        before the cluster's records are here. FailedError when it can't be written."""
        if not is_encrypted(self._live.view):
            # Counts less than the record of the host on which it was decided, which this one then repeats.
            await self._publisher.put(EncryptionRecord(True, 1, 0, ""))

    async def turn_on(self) -> None:
        """Let a new cluster encrypt. FailedError, with nothing changed, when this host can't."""
        await self._bring_up(self._live.view)
        by = current_author().account
        await self._publisher.put(EncryptionRecord(True, 1, int(time.time()), by))

    def require_on(self) -> None:
        """Raise RefusedError unless the cluster encrypts."""
        if not is_encrypted(self._live.view):
            raise RefusedError(
                "this host is in a cluster already, which does not encrypt",
                code="not-encrypted",
                hint="encryption begins with a cluster: `netagent leave`, then `netagent init --encrypt`",
            )

    async def remove(self) -> None:
        """Take the device away: this host leaves for good."""
        self._is_leaving = True
        try:
            await self._device.remove()
        except NetagentError as error:
            logger.warning("the encrypted tunnel: %s", error)

    async def status(self) -> TunnelStatus | None:
        """Return the state of the tunnel; None: the cluster does not encrypt."""
        view = self._live.view
        if not is_encrypted(view):
            return None
        states: Mapping[bytes, PeerState] = {}
        trouble = self._device.trouble or self._trouble
        try:
            states = await self._device.states()
        except NetagentError as error:
            trouble = str(error)
        peers = [record.public_key for _, _, record in tunnel_peers(view)]
        ages = [states[key].handshake_s_ago for key in peers if key in states]
        return TunnelStatus(
            peers=sum(
                1 for host_id in view.hosts if host_id != view.local and not view.is_host_hidden(host_id)
            ),
            connected=sum(1 for age in ages if age is not None and age < FRESH_S),
            backend=self._device.backend or "",
            trouble=trouble,
        )

    async def _follow(self) -> None:
        while True:
            known = self._live.now
            try:
                await self._step(known.view)
                self._trouble = ""
            except (NetagentError, OSError) as error:
                if str(error) != self._trouble:
                    logger.warning("the encrypted tunnel: %s", error)
                self._trouble, self._seen = str(error), ()
            with trio.move_on_after(RETRY_S if self._trouble else float("inf")):
                await self._live.wait_newer(known.revision)

    async def _step(self, view: RegistryView) -> None:
        store = view.store
        seen = (view.hosts, store.tunnels, store.encryption, store.evicted, self._underlay())
        if self._seen and all(map(eq, self._seen, seen)):
            return
        record = view.encryption
        if record is not None and not self._is_leaving and view.local not in view.evicted:
            if record != store.encryption[""].get(view.local):
                await self._publisher.put(record)
            if record.is_on:
                private_key = await self._bring_up(view)
                # Only now: what others send here from then on must find the device.
                await self._publish(
                    view, TunnelRecord(public_key_of(private_key), self._port, own_salt(view))
                )
                version = 6 if ":" in self._underlay().address else 4
                await self._device.set_peers(peers_of(view, version))
        self._seen = seen

    async def _bring_up(self, view: RegistryView) -> bytes:
        """Have the device; return its key."""
        private_key = self._state.tunnel_key(private_key_from(os.urandom(KEY_BYTES)))
        inside = vxlan_underlay(view, self._underlay(), encrypted=True)
        await self._device.ensure(private_key, self._port, [tunnel_cidr(inside.address)], inside.mtu_bytes)
        return private_key

    async def _publish(self, view: RegistryView, record: TunnelRecord) -> None:
        if record not in view.records_of(view.local, CLUSTER_SCOPE):
            await self._publisher.put(record)


def peers_of(view: RegistryView, version: int) -> dict[bytes, TunnelPeer]:
    """Return the other hosts as peers of the tunnel over an underlay of this version of IP, by public key."""
    peers = {}
    for host_id, underlay, record in tunnel_peers(view):
        address = tunnel_address_of(view, host_id, version)
        if address is not None and (":" in underlay) == (version == 6):
            peers[record.public_key] = TunnelPeer(
                public_key=record.public_key,
                endpoint=(underlay, record.port),
                allowed=(f"{address}/{128 if version == 6 else 32}",),
            )
    return peers
