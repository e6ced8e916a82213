"""Peers on the local network by multicast DNS, service `_netagent._udp.local.` (RFC 6762, RFC 6763).

The zeroconf library is built on asyncio and threads. It runs beside trio: its callbacks only hand a name over to the
trio thread, and every call into it is made in a worker thread. It gets the exact addresses to use, because by default
it joins the multicast group on every bridge and veth of the host.

An announcement is only a hint: a neighbour becomes a member by the gossip protocol with its key, never by its
announcement.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio
from zeroconf import (
    BadTypeInNameException,
    IPVersion,
    NonUniqueNameException,
    ServiceBrowser,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf import Error as ZeroconfError

from netgossip.types import Address, NodeId

SERVICE_TYPE = "_netagent._udp.local."
MAX_NEIGHBOURS = 512
"""Bound of neighbours heard by mDNS; beyond it: further ones are ignored. More than one link holds; a flood of names
costs nothing."""
QUERY_MS = 3000
"""Timeout for the SRV and TXT records of an announced name; the library's own default."""
RETRY_S = 30.0
"""Pause after the network refused multicast: addresses change, and a link may support it later."""

_ID = re.compile(r"[0-9a-f]{32}")

logger = logging.getLogger("netgossip.join.discovery")


@dataclass(frozen=True, slots=True)
class DiscoveredPeer:
    """An agent that announces itself on our link. Nothing of it is authenticated."""

    node_id: NodeId
    name: str
    cluster: str
    """Name of the cluster it belongs to; empty when it belongs to none."""
    cluster_id: str
    gossip: Address
    record: Address


class Discovery:
    """Announces this node and listens for others until cancelled."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._neighbours: dict[NodeId, DiscoveredPeer] = {}
        self._instances: dict[str, NodeId] = {}
        self._problem = ""

    @property
    def neighbours(self) -> Mapping[NodeId, DiscoveredPeer]:
        """The peers heard now, ourselves not among them."""
        return self._neighbours

    @property
    def problem(self) -> str:
        """Why multicast DNS does not work at the moment; empty when it works."""
        return self._problem

    async def run(self, me: DiscoveredPeer, links: Sequence[str] = ()) -> None:
        """Announce `me` and listen on the links with these addresses; if there are none, on that of `me.gossip`."""
        links = links or [me.gossip[0]]
        while True:
            try:
                await self._run_once(me, links)
            except* (OSError, ZeroconfError) as group:
                error = _first(group)
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self._problem = f"multicast DNS does not work on {', '.join(links)}: {reason}"
                logger.warning("%s; trying again in %.0f s", self._problem, RETRY_S)
            await trio.sleep(RETRY_S)

    async def _run_once(self, me: DiscoveredPeer, links: Sequence[str]) -> None:
        token = trio.lowlevel.current_trio_token()
        send, receive = trio.open_memory_channel[tuple[str, ServiceStateChange]](MAX_NEIGHBOURS)

        def queue(instance: str, change: ServiceStateChange) -> None:
            # A name dropped here is announced again, and queried again, within minutes.
            with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError):
                send.send_nowait((instance, change))

        def heard(name: str, state_change: ServiceStateChange, **_: object) -> None:
            # Called in the library's thread; the trio loop may have ended.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(queue, name, state_change)

        zeroconf = await trio.to_thread.run_sync(lambda: _open(links))
        try:
            self._problem = ""
            info = _info_of(me)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_announce, zeroconf, info)
                # The library keeps the browser alive; closing zeroconf ends it.
                await trio.to_thread.run_sync(
                    lambda: ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[heard])
                )
                async for instance, change in receive:
                    await self._note(zeroconf, me.node_id, instance, change)
        finally:
            # A peer that leaves while we do not listen would otherwise stay for ever.
            self._forget_all()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(zeroconf.close)

    async def _note(self, zeroconf: Zeroconf, me: NodeId, instance: str, change: ServiceStateChange) -> None:
        if change is ServiceStateChange.Removed:
            self._set(instance, None)
            return
        try:
            info = await trio.to_thread.run_sync(
                lambda: zeroconf.get_service_info(SERVICE_TYPE, instance, timeout=QUERY_MS),
                abandon_on_cancel=True,
            )
        except BadTypeInNameException:
            return  # a name that breaks the rules
        neighbour = neighbour_untrusted(info) if info else None
        if neighbour is not None and neighbour.node_id != me:
            self._set(instance, neighbour)

    def _set(self, instance: str, neighbour: DiscoveredPeer | None) -> None:
        """Apply what an announced instance says; None: it is gone."""
        before = dict(self._neighbours)
        known = self._instances.pop(instance, None)
        if known is not None:
            self._neighbours.pop(known, None)
        if neighbour is not None and len(self._instances) < MAX_NEIGHBOURS:
            self._instances[instance] = neighbour.node_id
            self._neighbours[neighbour.node_id] = neighbour
        if self._neighbours != before:
            self._on_change()

    def _forget_all(self) -> None:
        self._instances.clear()
        if self._neighbours:
            self._neighbours.clear()
            self._on_change()


def _open(links: Sequence[str]) -> Zeroconf:
    families = {":" in link for link in links}
    version = (
        IPVersion.All if len(families) == 2 else IPVersion.V6Only if True in families else IPVersion.V4Only
    )
    return Zeroconf(interfaces=list(links), ip_version=version)


async def _announce(zeroconf: Zeroconf, info: ServiceInfo) -> None:
    """Announce `info`. Takes 1.6 s, for the probing that RFC 6762 section 8.1 requires."""
    try:
        await trio.to_thread.run_sync(lambda: zeroconf.register_service(info, allow_name_change=False))
    except NonUniqueNameException:
        logger.warning("another node on the link announces itself as %s", info.name)


def _info_of(me: DiscoveredPeer) -> ServiceInfo:
    properties = {
        "v": "1",
        "id": me.node_id,
        "name": me.name,
        "cluster": me.cluster,
        "cid": me.cluster_id,
        "record": str(me.record[1]),
    }
    return ServiceInfo(
        SERVICE_TYPE,
        f"{me.node_id}.{SERVICE_TYPE}",
        port=me.gossip[1],
        properties=properties,
        server=f"netagent-{me.node_id}.local.",
        parsed_addresses=[me.gossip[0]],
    )


def neighbour_untrusted(info: ServiceInfo) -> DiscoveredPeer | None:
    """Return the announced peer, or None when the announcement is invalid."""
    try:
        texts = {key.decode(): (value or b"").decode() for key, value in info.properties.items()}
        node_id, cluster_id = texts["id"], texts.get("cid", "")
        record_port = int(texts["record"])
        address = str(ipaddress.ip_address(info.parsed_addresses()[0].partition("%")[0]))
    except (KeyError, ValueError, IndexError, UnicodeDecodeError):
        return None
    if not _ID.fullmatch(node_id) or not (cluster_id == "" or _ID.fullmatch(cluster_id)):
        return None
    if not info.port or not 0 < record_port < 65536:
        return None
    name, cluster = (_printable(texts.get(key, "")) for key in ("name", "cluster"))
    return DiscoveredPeer(node_id, name, cluster, cluster_id, (address, info.port), (address, record_port))


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _printable(text: str) -> str:
    return "".join(c for c in text[:63] if c.isprintable() and not c.isspace())
