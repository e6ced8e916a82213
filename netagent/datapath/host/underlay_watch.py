"""Follows the host's own addresses, so that the overlay moves with the address that it is reached by.

A notification of the kernel wakes it up, a timer does as well; what it acts on is always a fresh look at all
addresses and default routes. A change counts when it is still there SETTLE_S later: who renews a lease may take an
address away and put it back at once, and a device that comes up gets its addresses one by one.
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
"""Between looks when nothing happens: notifications can be lost."""
SETTLE_S = 0.3
"""Networks of hosts come up in bursts of some 10 ms; traffic must go on within 5 s."""
RETRY_S = 1.0
"""After a move that failed, because a port of the new address is taken for instance."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h)."""
_RECEIVE_BYTES = 1 << 16

logger = logging.getLogger("netagent.underlay")


class UnderlayWatch:
    """`present` is the address in use; `move` makes another one so, and may fail.

    `note_look` hears of every change of the host's addresses; `version` tells by which version of IP the others of
    the cluster are reached, None while that is not known.
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
        """As last seen."""
        self.problem = ""
        """Why others can't reach this host by the address that it tells them; '' when they can."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; `started` after the first look."""
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
                        logger.warning("cannot look at this host's addresses: %s", error)
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
                # What a bridge says of its ports, several times for each container, is no matter of addresses.
                if messages and all(is_of_bridge_port(one) for one in messages):
                    continue
            self._news.set()

    async def _pass(self, netlink: Netlink) -> float:
        """Look, and move if something is different. How long to wait for news afterwards."""
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
            return f"this host tells others to reach it at {self._wanted}, which it has not got now (it has {has})"
        return "this host has no address that others could reach"

    def _note_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("%s", problem)
        elif self.problem and not problem:
            logger.info("this host can be reached at %s again", self._present.address)
        self.problem = problem


def is_of_bridge_port(message: NetlinkMessage) -> bool:
    """Whether a bridge says something of a port of its own."""
    return message.type in {RTM_NEWLINK, RTM_DELLINK} and message.body[:1] == bytes([AF_BRIDGE])
