"""The Podman integration: runs while the agent runs, in a cluster or not, with Podman installed or not.

`plugin` answers netavark's calls, which come through the shim; `run` mirrors networks in Podman and watches its
containers. Neither needs the other.
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
    """The integration that the agent creates if `podman.enabled` is set."""

    def __init__(self, config: Config, membership: Membership) -> None:
        self.podman = Podman()
        self.execute = self.podman.execute
        self.plugin = NetavarkPlugin(membership)
        self._mirror = PodmanMirror(self.podman, membership) if config.podman_mirror else None
        self._follower = PodmanWatcher(self.podman, membership)

    def troubles(self) -> tuple[str, ...]:
        """Return one sentence for the operator for each problem."""
        return (*(self._mirror.troubles if self._mirror else ()), *self._follower.troubles)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._mirror is not None:
                nursery.start_soon(self._mirror.run)
            nursery.start_soon(self._follower.run)
            task_status.started()
