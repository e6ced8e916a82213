"""Podman, for the agent's whole life: in a cluster or in none, with Podman there or not.

`plugin` answers netavark's calls, which come through the shim; `run` keeps Podman's networks like ours and follows
its containers. Neither needs the other.
"""

from __future__ import annotations

import trio

from netagent.config import Config
from netagent.integrations.cluster_access import Membership
from netagent.integrations.podman.command import Podman
from netagent.integrations.podman.mirror import PodmanMirror
from netagent.integrations.podman.plugin import NetavarkPlugin
from netagent.integrations.podman.watcher import PodmanWatcher


class PodmanIntegration:
    """What agent.py builds when `podman.enabled` is set."""

    def __init__(self, config: Config, membership: Membership) -> None:
        self.podman = Podman()
        self.plugin = NetavarkPlugin(membership)
        self._mirror = PodmanMirror(self.podman, membership) if config.podman_mirror else None
        self._follower = PodmanWatcher(self.podman, membership)

    def troubles(self) -> tuple[str, ...]:
        """What people should know, one sentence each."""
        return (*(self._mirror.troubles if self._mirror else ()), *self._follower.troubles)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._mirror is not None:
                nursery.start_soon(self._mirror.run)
            nursery.start_soon(self._follower.run)
            task_status.started()
