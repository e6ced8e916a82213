"""For how long other hosts have been silent, agent and kernel both, as far as this host has watched. Pure.

Counted on the clock that is given, the monotonic one. No clock outlives a restart, so what was counted is kept now
and then (`counted`) and counted on from there: the time in which nobody watched is not counted. A host is heard again
by its agent or by its kernel, and then counting begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping

from netagent.model.ids import HostId
from netagent.registry.view import RegistryView
from netagent.registry.views import AgentState, HostView

_AWAY = (AgentState.DEAD, AgentState.LEFT, AgentState.UNKNOWN)


class Downtime:
    """Tell it with `note` what the view says, whenever that changes. `before` are an earlier life's seconds."""

    def __init__(self, before: Mapping[HostId, float]) -> None:
        self._before = dict(before)
        self._since: dict[HostId, float] = {}

    def note(self, view: RegistryView, now: float) -> None:
        """Begin, go on or end counting for each host."""
        away = {host_id for host_id, host in view.hosts.items() if host_id != view.local and _is_away(host)}
        for host_id in self._since.keys() - away:
            del self._since[host_id]
        for host_id in away - self._since.keys():
            self._since[host_id] = now - self._before.get(host_id, 0.0)
        # What is not in the view yet may still come: scope 0 is not there at once after a start.
        for host_id in [one for one in self._before if one in view.hosts or one in view.forgotten]:
            del self._before[host_id]

    def silent_s(self, host_id: HostId, now: float) -> float:
        """Seconds; 0 for a host that is heard, or not known."""
        return max(0.0, now - self._since.get(host_id, now))

    def counted(self, now: float) -> dict[HostId, float]:
        """All that is counted: what the next life is given."""
        return {**self._before, **{host_id: now - since for host_id, since in self._since.items()}}


def _is_away(host: HostView) -> bool:
    return host.agent in _AWAY and host.answers is not True
