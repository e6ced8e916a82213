"""Keeps this host's end of the encrypted tunnel as the registry says: device, key, record, and other hosts as peers.
And takes this host's steps when a living cluster begins to encrypt, or ends it.

Which step is next is decided in netagent.model.encryption_switch. Each is two records: what this host is about to
do, from which firewall and datapath follow as from any record; and that it is done, once they have.

That nothing leaves in the clear does not depend on this task: of a host that is fenced, the firewall lets VXLAN pass
the tunnel's device only, whether or not that is there (netagent.firewall.text). What fails here costs connectivity,
is shown by `status`, and is tried again.

The host's key changes daily, by itself. The order loses no packet. First the device has the new key: what others send
under their present sessions still arrives, and what this host sends waits in the device, because a change of the key
ends the sending half of each session. Then the record says it: each peer takes it up in place of the former key, and
begins a session, under which the waiting packets go. The other order would lose packets: a peer that knows the new
key first refuses packets under the old one.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Network, ip_address
from operator import eq
from typing import Final

import trio

from netagent.daemon.tunnel_endpoints import TunnelEndpoints
from netagent.datapath.direct.path import takes_at
from netagent.datapath.host.uplink import Underlay, version_of
from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.keys.ring_store import RingStore
from netagent.model.address.tunnel import direct_prefixes, is_tunnel_address, tunnel_cidr, tunnel_number
from netagent.model.author import current_author
from netagent.model.encryption_switch import next_record, waited_for
from netagent.model.ids import HostId
from netagent.model.records import MAX_ENCRYPTION_REVISION, EncryptionRecord, EncryptionStage, TunnelRecord
from netagent.projection.controller import Projection
from netagent.projection.datapath_input import vxlan_underlay
from netagent.registry.encryption import (
    is_encrypted,
    is_encryption_on,
    live_others,
    own_salt,
    stage_of,
    tunnel_address_of,
    tunnel_of,
    tunnel_peers,
)
from netagent.registry.publish import Publisher
from netagent.registry.state_store import Snapshot, StateStore
from netagent.registry.view import AgentState, RegistryView
from netagent.registry.views import short_id
from netagent.rpc.encryption import Ability
from netagent.state_dir import StateDir
from netagent.tunnel.device import TunnelDevice, require_backend
from netagent.tunnel.keys import KEY_BYTES, private_key_from, public_key_of
from netagent.tunnel.peer import PeerEndpoint, PeerState, TunnelPeer, has_session
from netgossip.types import CLUSTER_SCOPE

RETRY_S: Final = 2.0
SESSIONS_S: Final = 0.25
"""How often sessions are looked for while this host needs one to every live host. They come without a record."""
KEEPALIVE_S: Final = 5
"""Interval of packets that keep sessions while the cluster begins or ends to encrypt: before, nothing else passes the
tunnel by which a session would come."""
WATCH_S: Final = 5.0
"""How often sessions are looked at for events."""
APPLY_S: Final = 5.0
"""How long a step waits for firewall and datapath before it looks at newer records."""
AGE_LOOK_S: Final = 2.0
"""How often the age of the key is looked at."""

_UNIQUE_LOCAL: Final = IPv6Network("fc00::/7")
"""Where the addresses of packets without VXLAN are. Hosts with underlay addresses of these lose some packets while a
cluster changes over."""

logger = logging.getLogger("netagent.encryption")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelStatus:
    """For `status`."""

    peers: int
    connected: int
    """Peers with a session."""
    backend: str
    trouble: str
    key_age_s: float | None
    """Of this host's key; None: it has none yet, or the clock was set back."""
    states: Mapping[HostId, PeerState]


class Encryption:
    """One task: `run`. `underlay`: this host's present one. `takes_direct`: whether this host takes segments without
    VXLAN; None: not known yet, since the agent has just started."""

    def __init__(
        self,
        live: StateStore,
        publisher: Publisher,
        device: TunnelDevice,
        projection: Projection,
        *,
        ring: RingStore,
        state: StateDir,
        port: int,
        keeps: bool,
        underlay: Callable[[], Underlay],
        rotate_every_s: Callable[[], float],
        takes_direct: Callable[[], bool | None],
    ) -> None:
        self._live = live
        self._publisher = publisher
        self._device = device
        self._projection = projection
        self._ring = ring
        self._endpoints = TunnelEndpoints(device)
        self._state = state
        self._port = port
        self.keeps = keeps
        """This host's configuration forbids it to send in the clear again."""
        self._underlay = underlay
        self._takes_direct = takes_direct
        self._rotate_every_s = rotate_every_s
        self._jitter = _jitter()
        self._waits_for: list[str] = []
        """Names of hosts that hold up a change of the key."""
        self._seen: tuple[object, ...] = ()
        """What the last complete step was made from."""
        self._trouble = ""
        self._is_leaving = False

    async def run(self) -> None:
        """Run until cancelled; device and process stay."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._device.run)
            nursery.start_soon(self._endpoints.run)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._watch_sessions)

    async def note_on(self) -> None:
        """Say that this host is fenced, if no record of its own says so: then nothing is sent in the clear before the
        cluster's records are here. FailedError when it can't be written."""
        own = self._live.view.encryption_records.get(self._live.view.local)
        # A host that was on the way off goes on there: its own record says so, and it signed that.
        if own is None or (own.is_on and own.stage is not EncryptionStage.FENCED):
            # Counts less than the record of the host on which it was decided, which this one then repeats.
            await self._publisher.put(EncryptionRecord(True, 1, 0, "", stage=EncryptionStage.FENCED))

    async def turn_on(self) -> None:
        """Let a new cluster encrypt. FailedError, with nothing changed, when this host can't."""
        await self._bring_up(self._live.view)
        await self._publisher.put(
            replace(self._decision(1, is_on=True), stage=EncryptionStage.FENCED, is_reached=False)
        )

    async def decide(self, *, is_on: bool) -> bool:
        """Let a living cluster begin to encrypt, or end it, step by step; False: that is decided already."""
        view = self._live.view
        if is_encryption_on(view) == is_on:
            return False
        if self.keeps and not is_on:
            raise RefusedError(
                "the configuration of this host keeps encryption",
                code="keeps-encryption",
                thing="keep_encryption",
                hint="set keep_encryption = false on all hosts that have it, and restart their agents",
            )
        before, own = view.encryption, view.encryption_records.get(view.local)
        # Of one revision "on" counts: a member that says the highest one can't keep a cluster in the clear.
        revision = 1 if before is None else min(before.revision + 1, MAX_ENCRYPTION_REVISION)
        if before is not None and revision <= before.revision and not is_on:
            raise RefusedError("encryption was turned on and off too often", code="too-many")
        decided = self._decision(revision, is_on=is_on)
        if own is not None:
            decided = replace(decided, stage=own.stage, is_reached=own.is_reached)
        await self._publisher.put(decided)
        logger.log(
            logging.INFO if is_on else logging.WARNING,
            "encryption is turned %s, step by step, on all hosts",
            "on" if is_on else "off",
            extra=event(EventKind.ENCRYPTION, "encryption"),
        )
        return True

    def _decision(self, revision: int, *, is_on: bool) -> EncryptionRecord:
        by, here = current_author().account, self._live.view.local
        return EncryptionRecord(is_on, revision, int(time.time()), by, decided_on=here)

    async def ability(self) -> Ability:
        """Return whether this host can encrypt."""
        try:
            await require_backend()
        except FailedError as error:
            return Ability(error.message, error.hint)
        except OSError as error:
            return Ability(f"it cannot ask its kernel for WireGuard: {error}", "")
        return Ability()

    def require_on(self) -> None:
        """Raise RefusedError unless the cluster encrypts."""
        if not is_encryption_on(self._live.view):
            raise RefusedError(
                "this host is in a cluster already, which does not encrypt",
                code="not-encrypted",
                hint="`netagent encrypt on` turns it on",
            )

    async def remove(self) -> None:
        """Take the device away: this host leaves for good."""
        self._is_leaving = True
        try:
            await self._device.remove()
        except NetagentError as error:
            logger.warning("the encrypted tunnel: %s", error)

    async def status(self) -> TunnelStatus | None:
        """Return the state of the tunnel; None: this host has none, and needs none."""
        view = self._live.view
        if stage_of(view, view.local) is EncryptionStage.CLEAR and not is_encryption_on(view):
            return None
        states: Mapping[bytes, PeerState] = {}
        trouble = self._device.trouble or self._trouble
        try:
            states = await self._device.states()
        except NetagentError as error:
            trouble = str(error)
        hosts = {record.public_key: host_id for host_id, _, record in tunnel_peers(view)}
        known = {hosts[key]: state for key, state in states.items() if key in hosts}
        age_s = self._key_age_s()
        return TunnelStatus(
            peers=sum(
                1 for host_id in view.hosts if host_id != view.local and not view.is_host_hidden(host_id)
            ),
            connected=sum(1 for one in known.values() if has_session(one)),
            backend=self._device.backend or "",
            trouble=trouble,
            key_age_s=None if age_s == float("inf") else age_s,
            states=known,
        )

    async def _watch_sessions(self) -> None:
        """Tell of paths that lose their session, and have one again. Sessions come and go without a record."""
        lost: set[HostId] = set()
        had: set[HostId] = set()
        while True:
            await trio.sleep(WATCH_S)
            tunnel = await self.status()
            if tunnel is None or tunnel.trouble or not is_encrypted(self._live.view):
                lost, had = set(), set()  # of one trouble, `status` warns once, and not for each path
                continue
            has = {host_id for host_id, state in tunnel.states.items() if has_session(state)}
            live = live_others(self._live.view).keys()
            for host_id in sorted((had - has) & live):
                self._tell_of_path(host_id, "has no session any more: nothing passes", logging.WARNING)
            for host_id in sorted(lost & has):
                self._tell_of_path(host_id, "has a session again", logging.INFO)
            lost, had = (lost | (had & live)) - has, has

    def _tell_of_path(self, host_id: HostId, text: str, level: int) -> None:
        host = self._live.view.hosts.get(host_id)
        name = short_id(host_id) if host is None else host.unique_name
        logger.log(
            level, "the encrypted tunnel to %s %s", name, text, extra=event(EventKind.ENCRYPTION, name)
        )

    async def _follow(self) -> None:
        while True:
            known = self._live.now
            is_waiting = False
            try:
                await self._rotate_if_due(known.view)
                is_waiting = await self._step(known)
                self._trouble = ""
            except (NetagentError, OSError) as error:
                if str(error) != self._trouble:
                    logger.warning("the encrypted tunnel: %s", error)
                self._trouble, self._seen = str(error), ()
            pause_s = RETRY_S if self._trouble else SESSIONS_S if is_waiting else AGE_LOOK_S
            with trio.move_on_after(pause_s):
                await self._live.wait_newer(known.revision)

    async def _rotate_if_due(self, view: RegistryView) -> None:
        """Make another key when the present one is old enough; the next step gives it to the device."""
        every_s, age_s = self._rotate_every_s(), self._key_age_s()
        if not every_s or age_s is None or age_s < every_s * self._jitter:
            return
        own = view.encryption_records.get(view.local)
        if own is None or own.stage is not EncryptionStage.FENCED or not own.is_reached:
            return
        if self._is_leaving or view.local in view.evicted:
            return
        waits_for = await self._hosts_without_agent(view)
        if waits_for:
            if waits_for != self._waits_for:
                names = ", ".join(waits_for)
                logger.warning("the tunnel keeps its key until %s has an agent again", names)
            self._waits_for = waits_for
            return
        # The file first: the key of the device is the one that the next start finds here.
        self._state.replace_tunnel_key(private_key_from(os.urandom(KEY_BYTES)))
        self._waits_for, self._seen, self._jitter = [], (), _jitter()
        logger.info("this host has a new key in the encrypted tunnel", extra=event(EventKind.AGENT))

    async def _hosts_without_agent(self, view: RegistryView) -> list[str]:
        """Return hosts whose agent is away and whose tunnel works: without an agent they do not learn another key,
        and would be cut off. One that is gone altogether has no session, and holds nothing up."""
        states = await self._device.states()
        found = []
        for host_id, _, record in tunnel_peers(view):
            host = view.hosts[host_id]
            if host.agent is not AgentState.ALIVE and has_session(states.get(record.public_key)):
                found.append(host.record.name if host.record is not None else host_id)
        return found

    def _key_age_s(self) -> float | None:
        since_s = self._state.tunnel_key_since_s()
        if since_s is None:
            return None
        age_s = time.time() - since_s
        # A clock that was set back must not keep a key for years.
        return age_s if age_s >= 0 else float("inf")

    async def _step(self, known: Snapshot) -> bool:
        """Return True if what this host waits for may come without a record."""
        view = known.view
        decision = view.encryption
        if decision is None or self._is_leaving or view.local in view.evicted:
            return False
        own = view.encryption_records.get(view.local)
        following = next_record(own, decision, live_others(view), keeps=self.keeps)
        if following is not None:
            if following.stage is EncryptionStage.FENCED:
                self._ring.note_encryption(is_on=True)  # first: it must not be lost with the journal
            await self._publisher.put(following)
            return False
        assert own is not None  # or it would follow
        if own.stage is EncryptionStage.CLEAR:
            await self._take_down(view)
        else:
            is_fenced = own.is_reached and own.stage is EncryptionStage.FENCED
            await self._keep_up(view, is_settled=is_fenced and not waited_for(own, live_others(view)))
        if own.is_reached:
            return False
        if not await self._has_reached(known, own):
            return True
        if own.stage is EncryptionStage.CLEAR:
            self._ring.note_encryption(is_on=False)
        await self._publisher.put(replace(own, is_reached=True))
        if own.stage is decision.target:
            done = (
                "sends and takes encrypted packets alone"
                if own.is_on
                else "sends and takes packets in the clear"
            )
            logger.info("this host %s", done, extra=event(EventKind.ENCRYPTION, "encryption"))
        return False

    async def _keep_up(self, view: RegistryView, *, is_settled: bool) -> None:
        store = view.store
        seen = (view.hosts, store.tunnels, store.evicted, self._underlay(), self._takes_direct(), is_settled)
        if self._seen and all(map(eq, self._seen, seen)):
            return
        private_key = await self._bring_up(view)
        # Only now: what others send here from then on must find the device.
        record = TunnelRecord(public_key_of(private_key), self._port, own_salt(view), await self._takes(view))
        await self._publish(view, record)
        version = 6 if ":" in self._underlay().address else 4
        peers = peers_of(view, version)
        if not is_settled:
            ends = [(at, record) for _, at, record in tunnel_peers(view) if record.public_key in peers]
            # The address that a host names can be another's: none inside the tunnel counts, and none of two hosts.
            claims = Counter(underlay for underlay, _ in ends)
            peers = {
                record.public_key: _changing(
                    peers[record.public_key],
                    underlay if claims[underlay] == 1 and _is_outside(underlay) else None,
                )
                for underlay, record in ends
            }
        await self._endpoints.set_peers(peers, candidates_of(view, version))
        self._seen = seen

    async def _take_down(self, view: RegistryView) -> None:
        # All live hosts send in the clear by now: the last step there was taken together.
        self._seen = ()
        for record in view.records_of(view.local, CLUSTER_SCOPE):
            if isinstance(record, TunnelRecord):
                await self._device.remove()
                await self._publisher.withdraw(record)

    async def _has_reached(self, known: Snapshot, own: EncryptionRecord) -> bool:
        """True once the kernel does what the stage says; of READY, once there is a session to every live host."""
        if own.stage is EncryptionStage.READY and own.is_on:
            return not self.lacking_sessions(known.view, await self._device.states())
        with trio.move_on_after(APPLY_S) as patience:
            # Also of the fence: peers take this host's packets from its underlay address no longer then.
            await self._projection.wait_programmed(known.revision)
            # Others rely on it: a fence that the kernel did not open would drop what they send.
            trouble = await self._projection.wait_guarded(known.revision)
            if trouble:
                raise FailedError(f"the firewall is not as it must be: {trouble}", thing="firewall")
        return not patience.cancelled_caught

    def lacking_sessions(self, view: RegistryView, states: Mapping[bytes, PeerState]) -> list[HostId]:
        """Return the live hosts to which there is no session; those of another family of addresses have no path
        anyway."""
        version = 6 if ":" in self._underlay().address else 4
        has = {
            host_id for host_id, _, record in tunnel_peers(view) if has_session(states.get(record.public_key))
        }
        return [
            host_id
            for host_id in live_others(view)
            if host_id not in has and version_of(view.hosts[host_id].address) == version
        ]

    async def _bring_up(self, view: RegistryView) -> bytes:
        """Have the device; return its key."""
        private_key = self._state.tunnel_key(private_key_from(os.urandom(KEY_BYTES)))
        inside = vxlan_underlay(view, self._underlay(), encrypted=True)
        await self._device.ensure(private_key, self._port, [tunnel_cidr(inside.address)], inside.mtu_bytes)
        return private_key

    async def _takes(self, view: RegistryView) -> bool:
        """Return whether this host takes segments without VXLAN. Between a start and the first look at the programs
        the last word stands, as long as the program is there: a change of it would move all streams twice."""
        takes = self._takes_direct()
        if takes is not None:
            return takes
        own = tunnel_of(view, view.local)
        if own is None or not own.takes_direct:
            return False
        return await trio.to_thread.run_sync(takes_at, self._device.name)

    async def _publish(self, view: RegistryView, record: TunnelRecord) -> None:
        if record not in view.records_of(view.local, CLUSTER_SCOPE):
            await self._publisher.put(record)


def _jitter() -> float:
    """Return the part of the interval after which a key changes: hosts that began together do not stay so."""
    return random.uniform(0.9, 1.1)


def _changing(peer: TunnelPeer, underlay: str | None) -> TunnelPeer:
    """Return the peer while the cluster changes over: its session is kept, and its packets may still have its
    underlay address (netagent.registry.encryption.sends_from_tunnel). None: it has none that can be its own."""
    kept = replace(peer, keepalive_s=KEEPALIVE_S)
    if underlay is None:
        return kept
    return replace(kept, allowed=(*peer.allowed, f"{underlay}/{128 if ':' in underlay else 32}"))


def _is_outside(underlay: str) -> bool:
    """True unless packets to this address could be another host's, in the tunnel (netagent.datapath.direct)."""
    return not is_tunnel_address(underlay) and ip_address(underlay) not in _UNIQUE_LOCAL


def peers_of(view: RegistryView, version: int) -> dict[bytes, TunnelPeer]:
    """Return the other hosts as peers of the tunnel over an underlay of this version of IP, by public key."""
    peers = {}
    for host_id, underlay, record in tunnel_peers(view):
        address = tunnel_address_of(view, host_id, version)
        if address is not None and (":" in underlay) == (version == 6):
            peers[record.public_key] = TunnelPeer(
                public_key=record.public_key,
                endpoint=(underlay, record.port),
                allowed=(
                    f"{address}/{128 if version == 6 else 32}",
                    *direct_prefixes(tunnel_number(host_id, record.salt)),
                ),
            )
    return peers


def candidates_of(view: RegistryView, version: int) -> dict[bytes, tuple[PeerEndpoint, ...]]:
    """Return where the other hosts' ends of the tunnel may be, best first, by public key."""
    return {
        record.public_key: ((underlay, record.port),)
        for _, underlay, record in tunnel_peers(view)
        if (":" in underlay) == (version == 6)
    }
