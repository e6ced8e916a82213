"""The result of a HEALTHCHECK, from the log that Podman keeps of it. Pure.

Podman runs a check as a separate process and writes the result to a small JSON file, `healthcheck.log` in the
container's run folder or in the folder given by `--health-log-destination`; `podman inspect` reads the same file. One
stat(2) tells whether it changed. `podman events` would be a permanent process of 40 MB, and each `podman inspect`
costs 50 ms of CPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from netagent.errors import InputError
from netagent.model.records import Health

MAX_LOG_BYTES = 1 << 20
"""Podman keeps 5 outputs of 500 characters; `--health-max-log-size=0` removes this limit."""

_STATES = {"starting": Health.STARTING, "healthy": Health.HEALTHY, "unhealthy": Health.UNHEALTHY}


def health_untrusted(text: bytes) -> Health:
    """Parse the log; an unknown state is UNKNOWN. InputError for anything else, including an incomplete log."""
    try:
        log = json.loads(text)
    except (ValueError, RecursionError):
        log = None
    if not isinstance(log, dict) or not isinstance(log.get("Status"), str):
        raise InputError("this is not a log of Podman's health checks")
    return _STATES.get(log["Status"], Health.UNKNOWN)


def together(found: Iterable[Health]) -> Health:
    """Return the health of a pod: that of its worst container with a check, as they share an address."""
    states = set(found)
    for worst in (Health.UNHEALTHY, Health.STARTING, Health.UNKNOWN, Health.HEALTHY):
        if worst in states:
            return worst
    return Health.UNKNOWN
