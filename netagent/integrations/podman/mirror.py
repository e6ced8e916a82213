"""Keeps a Podman network for each network of the cluster, as netagent.integrations.podman.mirror_plan decides.

Level-triggered: whenever the cluster's networks or Podman's folder of networks have changed, and periodically, the
mirror compares the whole lists. So it does not matter who removed a network or when: after `podman network prune` a
network is missing for one second.
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
"""Seconds between checks: one stat(2) and one comparison each."""
RESYNC_S = 30.0
"""Seconds between full comparisons, for failed attempts and for a folder elsewhere. A run of `podman network ls`
costs 40 ms of CPU: 0.1 % of a core."""
NETWORK_FOLDER = Path("/etc/containers/networks")
"""Podman's default for root; if its configuration names another folder, pruned networks wait for RESYNC_S."""

logger = logging.getLogger("netagent.podman")


class PodmanMirror:
    """`run` until cancelled; `troubles` are the present problems."""

    def __init__(self, podman: Podman, membership: Membership, folder: Path = NETWORK_FOLDER) -> None:
        self._podman = podman
        self._membership = membership
        self._folder = folder
        self.troubles: tuple[str, ...] = ()

    async def run(self) -> None:
        """Run until cancelled. Outside a cluster, change nothing: at a start the host may not be back in it yet."""
        was_member = False
        while True:
            try:
                member = self._membership()
            except RefusedError:
                if was_member:  # it has left: remove all networks to which no container refers
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
        """Wait until either list may have changed. The mirror's own changes count too: one more check is cheap."""
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
            self._report([f"cannot mirror networks in Podman: {error}"])
            return
        troubles, kept = list(plan.foreign), set[str]()
        for name in plan.remove:
            try:
                await self._podman.remove_network(name)
                logger.info("removed Podman's network %s: its network was removed", name)
            except NetagentError as error:
                kept.add(name)
                troubles.append(f"cannot remove Podman's network {name}, whose network was removed: {error}")
        for name, network_id in plan.create:
            if name in kept:
                continue
            try:
                await self._podman.create_network(name, network_id)
                logger.info("created Podman's network %s", name)
            except NetagentError as error:
                troubles.append(f"cannot create Podman's network {name}: {error}")
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
