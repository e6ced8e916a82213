"""A check of an endpoint, and what this host's checks found.

Only the endpoint's own host knows its checks; other hosts get the health that follows from them, since when it holds,
and why (netagent.model.records.HealthNote).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from netagent.model.records import Health, HealthNote

MAX_CHECKS: Final = 8
"""Most checks of one endpoint."""
REASONS_OF_RUNTIME: Final = {
    Health.STARTING: "its HEALTHCHECK has not succeeded yet",
    Health.UNHEALTHY: "its HEALTHCHECK fails",
}
"""What its runtime's report of its health means, for people."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """`GET path` must be answered with a status from 200 to 299."""

    port: int
    path: str = "/"
    is_tls: bool = False
    """True: by TLS. The certificate does not count, as it names no address of a container."""


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """The port must accept a connection. The kernel does that for a program that hangs, until its queue is full."""

    port: int


@dataclass(frozen=True, slots=True)
class ExecCheck:
    """The command, run in the container by its runtime, must exit with 0."""

    command: tuple[str, ...]


Subject: TypeAlias = HttpCheck | TcpCheck | ExecCheck
"""What a check asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What is asked how often, and how many answers count."""

    subject: Subject
    interval_s: float
    timeout_s: float
    fall: int
    """Failures in a row that make it unhealthy."""
    rise: int
    """Successes in a row that make it healthy again. At the start the first one does."""
    grace_s: float
    """For this long after the start failures do not count."""


@dataclass(frozen=True, slots=True)
class CheckedHealth:
    """What the checks of an endpoint say, with that of its runtime as one of them."""

    health: Health
    note: HealthNote
