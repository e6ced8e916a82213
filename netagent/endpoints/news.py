"""What a change of an endpoint means to people: its names, and whether its checks succeed. One line of log each."""

from __future__ import annotations

import logging

from netagent.endpoints.records import health_of
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.journal.rows import LocalEndpointRow
from netagent.model.records import STOP, Health

logger = logging.getLogger("netagent.endpoints")


def tell_change(before: LocalEndpointRow, now: LocalEndpointRow) -> None:
    """Log what differs. That an endpoint comes or goes is said where that is done."""
    if (before.drain is None) is not (now.drain is None):
        drained = event(EventKind.DRAIN, now.name)
        if now.drain is None:
            logger.info("gave the names of %s (%s) back", now.name, now.target, extra=drained)
        else:
            why = "it was asked to stop" if now.drain.by == STOP else f"drained by {now.drain.by}"
            logger.info("withdrew the names of %s (%s): %s", now.name, now.target, why, extra=drained)
    was, _ = health_of(before)
    health, note = health_of(now)
    if health is not was and now.is_published:
        level = logging.WARNING if health is Health.UNHEALTHY else logging.INFO
        reason = f": {note.reason}" if note is not None and note.reason else ""
        text = "%s (%s) is %s%s"
        extra = event(EventKind.HEALTH, now.name)
        logger.log(level, text, now.name, now.target, health.value, reason, extra=extra)
