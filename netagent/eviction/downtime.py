"""Downtime: how long other hosts have been silent, agent and kernel both, as far as this host has watched. Pure.

Counted on the given clock, the monotonic one. It does not outlive a restart, so the counts are journalled now and
then (`counted`) and continued from there: time in which no agent watched is not counted. When the host's agent or
kernel answers again, counting begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping

from netagent.model.ids import HostId
from netagent.registry.view import RegistryView
from netagent.registry.views import AgentState, HostView

_AWAY = (AgentState.DEAD, AgentState.LEFT, AgentState.UNKNOWN)


class Downtime:
    """Call `note` whenever the view changes. `before` are the seconds counted before the restart."""

    def __init__(self, before: Mapping[HostId, float]) -> None:
        self._before = dict(before)
        self._since: dict[HostId, float] = {}

    def note(self, view: RegistryView, now: float) -> None:
        """Begin, continue or end counting for each host."""
        away = {host_id for host_id, host in view.hosts.items() if host_id != view.local and _is_away(host)}
        for host_id in self._since.keys() - away:
            del self._since[host_id]
        for host_id in away - self._since.keys():
            self._since[host_id] = now - self._before.get(host_id, 0.0)
        # A host that is not in the view yet may still come: scope 0 is not there at once after a start.
        for host_id in [one for one in self._before if one in view.hosts or one in view.evicted]:
            del self._before[host_id]

    def silent_s(self, host_id: HostId, now: float) -> float:
        """Seconds of silence; 0 for a host that answers, or is not known."""
        return max(0.0, now - self._since.get(host_id, now))

    def counted(self, now: float) -> dict[HostId, float]:
        """All counts, to pass to the next start."""
        return {**self._before, **{host_id: now - since for host_id, since in self._since.items()}}


def _is_away(host: HostView) -> bool:
    return host.agent in _AWAY and host.answers is not True
