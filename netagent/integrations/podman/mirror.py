"""Keeps a Podman network for each network of the cluster, as netagent.integrations.podman.mirror_plan decides.

By level: whenever our networks or Podman's folder of networks have changed, and now and then anyway, Podman's whole
list is compared with ours. So it does not matter who removed what, or when: `podman network prune` costs a network
for a second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import trio

from netagent.errors import NetagentError, RefusedError
from netagent.integrations.cluster_access import Membership
from netagent.integrations.podman.command import Podman
from netagent.integrations.podman.mirror_plan import plan_mirror
from netagent.model.ids import NetworkId
from netagent.registry.state_store import StateStore

LOOK_S = 1.0
"""One stat(2) and one comparison each."""
RESYNC_S = 30.0
"""A run of `podman network ls` costs 40 ms of CPU: 0.1 % of a core. For what failed, and for a folder elsewhere."""
NETWORK_FOLDER = Path("/etc/containers/networks")
"""Podman's default for root; its configuration may name another, then pruned networks wait for RESYNC_S."""

logger = logging.getLogger("netagent.podman")


class PodmanMirror:
    """`run` until cancelled; `troubles` is what stands in its way now."""

    def __init__(self, podman: Podman, membership: Membership, folder: Path = NETWORK_FOLDER) -> None:
        self._podman = podman
        self._membership = membership
        self._folder = folder
        self.troubles: tuple[str, ...] = ()

    async def run(self) -> None:
        """Until cancelled. In no cluster nothing is touched: at a start the host may not have entered its own yet."""
        was_member = False
        while True:
            try:
                member = self._membership()
            except RefusedError:
                if was_member:  # it has left: all but what containers still refer to goes
                    was_member = False
                    await self._sync({})
                await trio.sleep(LOOK_S)
                continue
            was_member = True
            wanted, changed_at = _wanted(member.live), self._folder_changed_at()
            await self._sync(wanted)
            with trio.move_on_after(RESYNC_S):
                await self._wait_changed(wanted, changed_at)

    async def _wait_changed(self, wanted: Mapping[str, NetworkId], changed_at: int) -> None:
        """Until either list may be another. Our own change of the folder counts too: one look more is cheap."""
        while True:
            try:
                live = self._membership().live
            except RefusedError:
                return
            revision, view = live.revision, live.view
            if _wanted(live) != wanted or self._folder_changed_at() != changed_at:
                return
            with trio.move_on_after(LOOK_S):
                while live.view.networks is view.networks:
                    revision = await live.wait_newer(revision)

    async def _sync(self, wanted: Mapping[str, NetworkId]) -> None:
        try:
            plan = plan_mirror(wanted, await self._podman.networks())
        except NetagentError as error:
            self._report([f"the networks of Podman can't be kept: {error}"])
            return
        troubles, kept = list(plan.foreign), set[str]()
        for name in plan.remove:
            try:
                await self._podman.remove_network(name)
                logger.info("removed Podman's network %s: its network is gone", name)
            except NetagentError as error:
                kept.add(name)
                troubles.append(
                    f"Podman's network {name} stands for a network that is gone, but stays: {error}"
                )
        for name, network_id in plan.create:
            if name in kept:
                continue
            try:
                await self._podman.create_network(name, network_id)
                logger.info("made a network %s in Podman", name)
            except NetagentError as error:
                troubles.append(f"Podman has no network {name}: {error}")
        self._report(troubles)

    def _report(self, troubles: list[str]) -> None:
        for trouble in troubles:
            if trouble not in self.troubles:
                logger.warning("%s", trouble)
        self.troubles = tuple(troubles)

    def _folder_changed_at(self) -> int:
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0


def _wanted(live: StateStore) -> dict[str, NetworkId]:
    return {network.unique_name: network_id for network_id, network in live.view.networks.items()}
