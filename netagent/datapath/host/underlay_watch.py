"""Watch the host's own addresses, so that the overlay moves when the advertised address changes.

A notification of the kernel or a timer wakes the task; it always acts on a fresh reading of all addresses and default
routes. A change counts only if it is still there SETTLE_S later: a DHCP client that renews a lease may remove an
address and restore it at once, and a device that comes up gets its addresses one by one.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing

import trio

from netagent.datapath.host.underlay import look
from netagent.datapath.host.uplink import Underlay, Uplinks, choose, is_fixed, listed
from netagent.datapath.netlink.link import RTM_DELLINK, RTM_NEWLINK
from netagent.datapath.netlink.neighbour import AF_BRIDGE
from netagent.datapath.netlink.route_socket import Netlink, NetlinkMessage, open_socket, split_messages
from netagent.errors import NetagentError

LOOK_S = 10.0
"""Interval of readings when nothing happens: notifications can be lost."""
SETTLE_S = 0.3
"""Host networks come up in bursts of some 10 ms; traffic must continue within 5 s."""
RETRY_S = 1.0
"""After a move that failed, for example because a port of the new address is in use."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h)."""
_RECEIVE_BYTES = 1 << 16

logger = logging.getLogger("netagent.underlay")


class UnderlayWatch:
    """Follows the address in use, `present`; `move` changes it, and may fail.

    `note_look` is called after every change of the host's addresses; `version` returns the IP version of the other
    hosts' addresses, None while that is unknown.
    """

    def __init__(
        self,
        wanted: str | None,
        present: Underlay,
        *,
        move: Callable[[Underlay], Awaitable[None]],
        note_look: Callable[[], None],
        version: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._wanted = wanted
        self._present = present
        self._move = move
        self._note_look = note_look
        self._version = version
        self._news = trio.Event()
        self.uplinks = Uplinks((present,))
        """The result of the last reading."""
        self.problem = ""
        """Why other hosts can't reach this one at its advertised address; empty when they can."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; `started` after the first reading."""
        notifications = trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        with closing(Netlink(open_socket())) as netlink, notifications:
            await notifications.bind((0, _GROUPS))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, notifications)
                pause_s = 0.0
                while True:
                    with trio.move_on_after(pause_s):
                        await self._news.wait()
                    if self._news.is_set():
                        await trio.sleep(SETTLE_S)  # the rest of the burst, whatever the timer says
                    self._news = trio.Event()
                    try:
                        pause_s = await self._pass(netlink)
                    except OSError as error:
                        logger.warning("cannot read this host's addresses: %s", error)
                        pause_s = RETRY_S
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED

    async def _listen(self, notifications: trio.socket.SocketType) -> None:
        while True:
            try:
                messages = split_messages(await notifications.recv(_RECEIVE_BYTES))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            else:
                # A bridge reports its ports, several times for each container; that does not concern addresses.
                if messages and all(is_of_bridge_port(one) for one in messages):
                    continue
            self._news.set()

    async def _pass(self, netlink: Netlink) -> float:
        """Read, and move if the address differs. Return how long to wait for notifications afterwards."""
        uplinks = await look(netlink)
        if uplinks != self.uplinks:
            self.uplinks = uplinks
            self._note_look()
        chosen = choose(uplinks, self._wanted, self._present, self._version())
        if chosen is None:
            self._note_problem(self._missing())
            return LOOK_S
        if chosen != self._present:
            try:
                await self._move(chosen)
            except NetagentError as error:
                self._note_problem(f"this host should be reached at {chosen.address}, but {error.message}")
                return RETRY_S
            self._present = chosen
        self._note_problem("")
        return LOOK_S

    def _missing(self) -> str:
        has = listed(self.uplinks.candidates)
        if is_fixed(self._wanted):
            return f"this host advertises {self._wanted}, but does not have that address now (it has {has})"
        return "this host has no address that other hosts could reach"

    def _note_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("%s", problem)
        elif self.problem and not problem:
            logger.info("this host can be reached at %s again", self._present.address)
        self.problem = problem


def is_of_bridge_port(message: NetlinkMessage) -> bool:
    """Return whether a bridge reports one of its own ports."""
    return message.type in {RTM_NEWLINK, RTM_DELLINK} and message.body[:1] == bytes([AF_BRIDGE])
