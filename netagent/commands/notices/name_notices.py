"""Warnings of `status` and `lookup` about names: several containers claim them, or no replica is up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netagent.checks.all_failing import FailingService
from netagent.control.present import Presenter
from netagent.interface import schema
from netagent.registry.shared_names import CURE, SPLIT_CURE, SharedName, SplitProject

SHOWN: Final = 10
"""Names shown one by one; of further ones the notice gives the number."""


def name_notices(found: Sequence[SharedName]) -> list[schema.Notice]:
    """Return one notice for each name, and one for those beyond SHOWN."""
    notices: list[schema.Notice] = [
        {"code": "shared-name", "message": one.text, "cure": CURE} for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        message = f"several containers claim the same name, {len(found) - SHOWN} times more"
        notices.append({"code": "shared-name", "message": message, "cure": "`netagent doctor` lists them"})
    return notices


def project_notices(found: Sequence[SplitProject]) -> list[schema.Notice]:
    """Return one notice for each service, and one for those beyond SHOWN."""
    notices: list[schema.Notice] = [
        {"code": "split-project", "message": one.text, "cure": SPLIT_CURE} for one in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        message = f"{len(found) - SHOWN} services more of projects were started from different folders"
        notices.append({"code": "split-project", "message": message, "cure": SPLIT_CURE})
    return notices


def failing_notices(present: Presenter, found: Sequence[FailingService]) -> list[schema.Notice]:
    """Return one notice for each service, and one for those beyond SHOWN."""
    notices = [_failing_notice(present, one) for one in found[:SHOWN]]
    if len(found) > SHOWN:
        message = f"{len(found) - SHOWN} services more have no replica that is up"
        notices.append({"code": "all-failing", "message": message, "cure": "see `netagent services`"})
    return notices


def _failing_notice(present: Presenter, service: FailingService) -> schema.Notice:
    first, count = (
        min(service.unhealthy, key=lambda one: (one.record.name, one.owner)),
        len(service.unhealthy),
    )
    host = present.host_name(first.owner)
    where = f"service {service.name} of network {present.network_name(service.network_id)}"
    then = (
        "names lead to them all the same (--all-failing keep)" if service.has_names else "no name leads to it"
    )
    others = f", and {count - 1} more" if count > 1 else ""
    return {
        "code": "all-failing",
        "message": f"no replica of {where} is up, and {then}: {first.record.name} on {host} is unhealthy "
        f"({first.record.health_text}){others}",
        "cure": f"`netagent check {first.record.name}` on {host} asks its checks now and shows what comes back",
    }
