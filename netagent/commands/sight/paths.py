"""The paths between hosts, each as the host knows it from which it leads: what the page's matrix shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import trio

from netagent.daemon.agent import Agent
from netagent.model.ids import HostId
from netagent.rpc import paths as messages
from netagent.rpc.messages import QuestionError
from netagent.rpc.paths import KnownPath

ASK_S: Final = 4.0
"""How long the other hosts are asked; one that has not answered by then has no row."""


async def paths_between(agent: Agent, hosts: Sequence[HostId]) -> Mapping[HostId, Mapping[HostId, KnownPath]]:
    """Ask each of the hosts, at most MAX_HOSTS, for its paths to all of them. One that does not answer is missing."""
    cluster = agent.member()
    view = cluster.live.view
    found: dict[HostId, Mapping[HostId, KnownPath]] = {}

    async def ask(host_id: HostId) -> None:
        reply = await cluster.gossip.rpc.ask(host_id, messages.encode_question(hosts))
        try:
            found[host_id] = messages.parse_answer_untrusted(reply or b"", hosts)
        except QuestionError:
            return  # it does not answer, or is of a release that cannot

    with trio.move_on_after(ASK_S):
        async with trio.open_nursery() as nursery:
            for host_id in hosts:
                host = view.hosts.get(host_id)
                if host_id == view.local:
                    known = cluster.known_paths(hosts)
                    found[host_id] = dict(zip(hosts, known, strict=True))
                elif host is not None and host.is_live:
                    nursery.start_soon(ask, host_id)
    return found
