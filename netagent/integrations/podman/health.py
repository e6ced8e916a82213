"""What a HEALTHCHECK says, from the log that Podman keeps of it. Pure.

Podman runs a check as a process of its own and writes the outcome into a small JSON file, `healthcheck.log` in the
container's run folder, or in the folder that `--health-log-destination` names; `podman inspect` reads the same file.
One stat(2) says whether it changed. `podman events` would be a process of 40 MB that lives as long as we do, and
`podman inspect` costs 50 ms of CPU each time it is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from netagent.errors import InputError
from netagent.model.records import Health

MAX_LOG_BYTES = 1 << 20
"""Podman keeps 5 outputs of 500 characters; `--health-max-log-size=0` lifts its limit."""

_STATES = {"starting": Health.STARTING, "healthy": Health.HEALTHY, "unhealthy": Health.UNHEALTHY}


def health_untrusted(text: bytes) -> Health:
    """Of the log; anything new is UNKNOWN. InputError for what is no such log, half of one too."""
    try:
        log = json.loads(text)
    except (ValueError, RecursionError):
        log = None
    if not isinstance(log, dict) or not isinstance(log.get("Status"), str):
        raise InputError("this is no log of Podman's health checks")
    return _STATES.get(log["Status"], Health.UNKNOWN)


def together(found: Iterable[Health]) -> Health:
    """Of a pod, from its containers with a check: they share an address, so it is as well as the worst of them."""
    states = set(found)
    for worst in (Health.UNHEALTHY, Health.STARTING, Health.UNKNOWN, Health.HEALTHY):
        if worst in states:
            return worst
    return Health.UNKNOWN
