"""The tunnel's device: created or adopted, kept with what encrypts, and given its peers.

The kernel's WireGuard encrypts where the kernel has it, and else wireguard-go. Which one is decided whenever nothing
encrypts yet: at the agent's start, and after what did has ended. A device of the other kind is then replaced. Until
the new one stands there is no route into the tunnel; the firewall lets VXLAN leave by no device of another name.

Callers say what they want by `ensure` and `set_peers`, at any time and in any order; `run` keeps it, also when
wireguard-go dies or another program deletes the device. Cancelling `run` (the agent stops) leaves device and process
alone, and the next agent adopts both without interrupting a session. Only `remove` takes them away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import Final, Literal, TypeAlias

import trio

from netagent.datapath.netlink.link import (
    WIREGUARD_KIND,
    LinkMessage,
    address_dump,
    choose_index,
    create_wireguard,
    decode_address,
    decode_link,
    delete_address,
    delete_link,
    link_named,
    mark_link,
    set_address,
    set_link,
)
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.state import is_ours
from netagent.errors import FailedError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.log import Limited
from netagent.model.ids import ClusterId
from netagent.tunnel import wireguard_go
from netagent.tunnel.genetlink import NETLINK_GENERIC
from netagent.tunnel.kernel import KernelDevice, find_family
from netagent.tunnel.peer import DeviceReading, PeerChange, PeerState, ReadPeer, TunnelPeer, peer_changes
from netagent.tunnel.wireguard_go import WireguardGoProcess

TUNNEL_NAME: Final = "nx-tunnel"
"""The device's name. Its beginning is that of our VXLAN devices, which other programs are told to leave alone."""

Backend: TypeAlias = Literal["kernel", "wireguard-go"]

_TUN_KIND: Final = "tun"
_LOOK_S: Final = 10.0
"""How often the state is read: a process that hangs is replaced, and peers' endpoints are known when one dies."""
_BEGIN_S: Final = 25
"""A peer's keepalive while its session is begun; any number would do."""
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 30.0
"""A process that ran this long had no trouble starting: the next one is started without a pause."""

_log = logging.getLogger(__name__)
_limited = Limited(_log)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    private_key: bytes = field(repr=False)
    port: int
    addresses: tuple[str, ...]
    mtu_bytes: int


def tunnel_alias(cluster_id: ClusterId) -> str:
    """The mark on the device."""
    return f"netagent tunnel cluster {cluster_id}"


class TunnelDevice:
    """One WireGuard device in the calling thread's namespace, to which both sockets belong. `generic` is one for
    generic netlink."""

    def __init__(
        self, netlink: Netlink, generic: Netlink, cluster_id: ClusterId, *, name: str = TUNNEL_NAME
    ) -> None:
        self._netlink = netlink
        self._generic = generic
        self._alias = tunnel_alias(cluster_id)
        self.name = name
        self._wanted: _Wanted | None = None
        self._peers: Mapping[bytes, TunnelPeer] | None = None
        """None: not said yet, so that an adopted device keeps those it has."""
        self._seen: Mapping[bytes, ReadPeer] = {}
        """As last read: a new process is told where peers were heard last."""
        self._engine: KernelDevice | WireguardGoProcess | None = None
        self._lock = trio.Lock()
        self._news = trio.Event()
        self.starts = 0
        """Processes of wireguard-go started by this agent."""
        self.trouble = ""
        """Why there is no device that works; empty: there is one, or none is wanted."""

    @property
    def backend(self) -> Backend | None:
        """What encrypts; None: nothing yet."""
        return None if self._engine is None else self._engine.backend

    @property
    def process_id(self) -> int | None:
        """Of wireguard-go; None while there is none."""
        return self._engine.process_id if self._engine is not None else None

    # --- what callers want --------------------------------------------------------------------------------------

    async def ensure(self, private_key: bytes, port: int, addresses: Sequence[str], mtu_bytes: int) -> None:
        """Have a device with this key, UDP port, addresses ("address/prefix length") and MTU, up.

        An existing one of ours is adopted; what it has already is not touched. Raises RefusedError if another
        program's device has the name, FailedError if nothing here can encrypt or it fails; `run` goes on trying.
        """
        texts = tuple(ip_interface(one).with_prefixlen for one in addresses)
        self._wanted = _Wanted(private_key=private_key, port=port, addresses=texts, mtu_bytes=mtu_bytes)
        try:
            async with self._lock:
                await self._bring_up(self._wanted)
        finally:
            self._announce()

    async def set_peers(
        self,
        peers: Mapping[bytes, TunnelPeer],
        *,
        repoint: Collection[bytes] = (),
        renew: Collection[bytes] = (),
    ) -> None:
        """Have exactly these peers, by public key; those that stay the same are not touched.

        A peer's endpoint is set when it is new, when `peers` names another one than at the last call, or when
        `repoint` has the peer; otherwise the place it was last heard from stays. Those that `renew` has are made
        anew, without the session that they may have. While there is no device, the peers are noted for the next one.
        FailedError.
        """
        before, self._peers = self._peers or {}, dict(peers)
        async with self._lock:
            if self._engine is not None:
                await self._apply_peers(self._engine, before, repoint, renew)

    async def states(self) -> Mapping[bytes, PeerState]:
        """Return what the device knows of its peers, by public key; nothing while there is no device. FailedError."""
        async with self._lock:
            if self._engine is None:
                return {}
            reading = await self._read(self._engine)
        now_s = time.time()
        return {key: peer.state(now_s) for key, peer in reading.peers.items()}

    async def remove(self) -> None:
        """Take process and device away, also those of a former agent. FailedError."""
        self._wanted, self._peers, self._seen = None, None, {}
        async with self._lock:
            try:
                await self._take_away()
            except OSError as error:
                raise FailedError(f"{self.name} cannot be removed: {error}", thing=self.name) from error
        self.trouble = ""

    # --- keeping it ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep what `ensure` and `set_peers` have asked for, until cancelled; device and process live on."""
        pause_s = 0.0
        try:
            while True:
                began = trio.current_time()
                await self._watch()
                if trio.current_time() - began > _STEADY_S:
                    pause_s = 0.0
                await trio.sleep(pause_s)
                pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                await self._restore()
        finally:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    async def _watch(self) -> None:
        """Return when something is wanted and nothing does it."""
        while True:
            engine, self._news = self._engine, trio.Event()
            if engine is None:
                if self._wanted is not None:
                    return
                await self._news.wait()
                continue
            with trio.move_on_after(_LOOK_S):
                await engine.ended()
                await self._lose(engine)
                continue
            await self._look(engine)

    async def _look(self, engine: KernelDevice | WireguardGoProcess) -> None:
        async with self._lock:
            if self._engine is not engine:
                return
            try:
                await self._read(engine)
            except FailedError as error:
                _log.warning("%s; starting anew", error, extra=event(EventKind.REPAIR))
                engine.kill()

    async def _lose(self, engine: KernelDevice | WireguardGoProcess) -> None:
        async with self._lock:
            if self._engine is not engine:  # `remove` has ended it
                return
            self._engine = None
            engine.close()
        self._note(engine.ending)

    async def _restore(self) -> None:
        async with self._lock:
            wanted = self._wanted  # inside the lock: `remove` may have come first
            if wanted is None or self._engine is not None:
                return
            try:
                await self._bring_up(wanted)
            except (FailedError, RefusedError) as error:
                self._note(str(error))

    def _note(self, trouble: str) -> None:
        self.trouble = trouble
        _limited.warning(trouble, f"tunnel: {trouble}", event(EventKind.REPAIR, self.name))

    def _announce(self) -> None:
        self._news.set()

    # --- the device ---------------------------------------------------------------------------------------------

    async def _bring_up(self, wanted: _Wanted) -> None:
        try:
            if self._engine is None:
                link, self._engine = await self._ensure_engine(wanted)
            else:
                link = await self._ensure_link(wanted, _kind_of(self._engine))
            reading = await self._read(self._engine)
            key = wanted.private_key if reading.private_key != wanted.private_key else None
            port = wanted.port if reading.port != wanted.port else None
            if key is not None or port is not None:
                await self._engine.configure(private_key=key, port=port)
            await self._ensure_addresses(link, wanted)
            await self._apply_peers(self._engine, self._peers or {}, ())
        except OSError as error:
            raise FailedError(
                f"the encrypted tunnel's device {self.name} cannot be set up: {error}", thing=self.name
            ) from error
        self.trouble = ""

    async def _ensure_engine(self, wanted: _Wanted) -> tuple[LinkMessage, KernelDevice | WireguardGoProcess]:
        family = await find_family(self._generic)
        if family is None:
            return await self._ensure_link(wanted, _TUN_KIND), await self._ensure_process()
        link = await self._ensure_link(wanted, WIREGUARD_KIND)
        return link, KernelDevice(self._netlink, self._generic, family, link)

    async def _ensure_link(self, wanted: _Wanted, kind: str) -> LinkMessage:
        link = await self._find_link()
        if link is not None and not _is_taken_up(link):
            raise RefusedError(
                f"the name {self.name} belongs to another program's device",
                code="tunnel-name-taken",
                thing=self.name,
                hint=f"rename or remove it: ip link delete {self.name}",
            )
        if link is not None and link.kind != kind:
            await self._take_away()  # also its process, which has the port
            link = None
        if link is None:
            link = await self._create_link(wanted, kind)
        elif link.alias != self._alias:
            await self._netlink.execute_one(mark_link(link.index, self._alias, wanted.mtu_bytes))
        return link

    async def _create_link(self, wanted: _Wanted, kind: str) -> LinkMessage:
        if kind == WIREGUARD_KIND:
            requests = create_wireguard(self.name, choose_index(), self._alias, wanted.mtu_bytes)
            for error in await self._netlink.execute(requests):
                if error is not None:
                    raise error
        else:
            wireguard_go.require_program()
            await trio.to_thread.run_sync(wireguard_go.create_tun, self.name)
        link = await self._find_link()
        if link is None:
            raise OSError(f"{self.name} has gone")
        if kind != WIREGUARD_KIND:
            await self._netlink.execute_one(mark_link(link.index, self._alias, wanted.mtu_bytes))
        return link

    async def _ensure_process(self) -> WireguardGoProcess:
        process = await wireguard_go.find_process(self.name)
        if process is None:
            self.starts += 1
            process = await wireguard_go.start_process(self.name)
        return process

    async def _ensure_addresses(self, link: LinkMessage, wanted: _Wanted) -> None:
        # After the start of the process, which sets 1,420 bytes whatever the device had.
        requests = [set_link(self.name, mtu_bytes=wanted.mtu_bytes, up=True)]
        has = {
            cidr
            for index, cidr in map(
                decode_address, [one.body for one in await self._netlink.dump(address_dump())]
            )
            if index == link.index
        }
        requests += [delete_address(link.index, one) for one in sorted(has - set(wanted.addresses))]
        requests += [set_address(link.index, one) for one in wanted.addresses if one not in has]
        for error in await self._netlink.execute(requests):
            if error is not None:
                raise error

    async def _find_link(self) -> LinkMessage | None:
        message = await self._netlink.find(link_named(self.name))
        return None if message is None else decode_link(message.body)

    async def _take_away(self) -> None:
        process = await wireguard_go.find_process(self.name)
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if process is not None:
            await process.end()
            process.close()
        wireguard_go.remove_socket(self.name)
        link = await self._find_link()
        if link is not None and _is_taken_up(link):
            await self._netlink.execute_one(delete_link(self.name))

    # --- peers --------------------------------------------------------------------------------------------------

    async def _apply_peers(
        self,
        engine: KernelDevice | WireguardGoProcess,
        before: Mapping[bytes, TunnelPeer],
        repoint: Collection[bytes],
        renew: Collection[bytes] = (),
    ) -> None:
        if self._peers is None:
            return
        reading = await engine.read()
        wanted = {key: self._placed(peer, reading) for key, peer in self._peers.items()}
        now_s = time.time()
        changes = peer_changes(reading.peers, wanted, before, repoint=repoint, renew=renew, now_s=now_s)
        if changes:
            await engine.configure(changes=[_begun(one, reading) for one in changes])
            # A peer that is to be kept alive is sent something at once. That begins the session, for which a host
            # that has changed its key waits: it can't begin it before we know the key, and tries only every 5 s.
            quiet = [
                PeerChange(public_key=one.public_key, keepalive_s=0)
                for one in changes
                if _begun(one, reading) != one
            ]
            if quiet:
                await engine.configure(changes=quiet)
            await self._read(engine)

    def _placed(self, peer: TunnelPeer, reading: DeviceReading) -> TunnelPeer:
        """Return the peer with the place it was last heard from, if the device is new and knows none, or if the peer
        has changed its key."""
        if peer.public_key in reading.peers:
            return peer
        last = self._seen.get(peer.public_key) or _former(peer, reading)
        if last is None or not last.handshake_at_s:
            return peer
        return replace(peer, endpoint=last.peer.endpoint or peer.endpoint)

    async def _read(self, engine: KernelDevice | WireguardGoProcess) -> DeviceReading:
        reading = await engine.read()
        if reading.peers:
            self._seen = reading.peers
        return reading


async def require_backend() -> None:
    """Raise FailedError unless something on this host can encrypt. OSError."""
    with closing(Netlink(open_socket(NETLINK_GENERIC))) as generic:
        if await find_family(generic) is None:
            wireguard_go.require_program()


def _former(peer: TunnelPeer, reading: DeviceReading) -> ReadPeer | None:
    """Return the peer that has this one's addresses in the device."""
    return next((one for one in reading.peers.values() if set(one.peer.allowed) == set(peer.allowed)), None)


def _begun(change: PeerChange, reading: DeviceReading) -> PeerChange:
    """Return a change that also begins a session, if the peer is new and its place is known."""
    if change.remove or change.keepalive_s or change.endpoint is None or change.public_key in reading.peers:
        return change
    return replace(change, keepalive_s=_BEGIN_S)


def _kind_of(engine: KernelDevice | WireguardGoProcess) -> str:
    return WIREGUARD_KIND if isinstance(engine, KernelDevice) else _TUN_KIND


def _is_taken_up(link: LinkMessage) -> bool:
    """True for a device with our mark, and for a tun as an agent leaves it that is killed between making and marking
    it. A program that uses its device has brought it up."""
    if is_ours(link.alias):
        return link.kind in {_TUN_KIND, WIREGUARD_KIND}
    return link.kind == _TUN_KIND and not link.alias and not link.up
