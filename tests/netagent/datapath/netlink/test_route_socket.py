"""Dumps, of the namespace in which the tests run: nothing is changed."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import pytest
import trio

from netagent.datapath.netlink.link import link_dump
from netagent.datapath.netlink.route import RTM_GETROUTE, request_body_of_subnets
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest, open_socket


def test_the_kernel_looks_for_a_few_of_many_routes_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes through all of them before it answers; what it shows as a whole it shows in pieces."""
    beside: list[object] = []
    run_sync = trio.to_thread.run_sync

    async def noted(function: Any, *arguments: Any) -> Any:
        beside.append(function)
        return await run_sync(function, *arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", noted)

    async def main() -> None:
        with closing(Netlink(open_socket())) as netlink:
            routes = NetlinkRequest(RTM_GETROUTE, 0, request_body_of_subnets(socket.AF_INET))
            await netlink.dump(routes, strict=True)
            assert len(beside) == 1
            assert await netlink.dump(link_dump())
            assert len(beside) == 1

    trio.run(main)
