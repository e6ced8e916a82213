"""Warnings of `status` about records that contradict each other. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from netagent.control.present import Presenter
from netagent.interface import schema
from netagent.registry.view import Conflict, ConflictKind

SHOWN: Final = 5
"""Conflicts of a kind shown one by one; of further ones the notice gives the number. A machine that was restored from
an old copy can conflict with thousands of endpoints."""
HOSTS_SHOWN: Final = 3
"""Hosts that the notice names: those with the most of these endpoints."""

_THINGS: Final = {
    ConflictKind.HOST_NAME: "hosts share a name with another one",
    ConflictKind.NETWORK_NAME: "networks share a name with another one",
    ConflictKind.VNI: "networks have the VXLAN id of another one and are not built",
    ConflictKind.SUBNET: "networks overlap another one, or a host's address",
    ConflictKind.ADDRESS: "addresses of endpoints belong to others, so these endpoints are fenced",
    ConflictKind.MAC: "MACs of endpoints belong to others, so these endpoints are fenced",
    ConflictKind.OUTSIDE: "endpoints are fenced: their addresses are not in their network",
    ConflictKind.ENDPOINT_ID: "endpoints are fenced: others have their ids",
    ConflictKind.SERVICE_RANGE: "service ranges are not in force",
    ConflictKind.SERVICE_ADDRESS: "addresses of services are not in force",
    ConflictKind.RECORD: "hosts have written records that are refused",
}
_OF_ENDPOINTS: Final = (
    ConflictKind.ADDRESS,
    ConflictKind.MAC,
    ConflictKind.OUTSIDE,
    ConflictKind.ENDPOINT_ID,
)


def conflict_notices(present: Presenter, conflicts: Iterable[Conflict]) -> list[schema.Notice]:
    """Return one notice for each conflict, and one for those of a kind beyond SHOWN."""
    by_kind: dict[str, list[Conflict]] = {}
    for conflict in conflicts:
        by_kind.setdefault(conflict.kind, []).append(conflict)
    notices: list[schema.Notice] = []
    for kind, found in by_kind.items():
        notices += [{"code": kind, "message": one.text, "cure": one.cure} for one in found[:SHOWN]]
        if len(found) > SHOWN:
            notices.append(_further(present, ConflictKind(kind), found[SHOWN:]))
    return notices


def _further(present: Presenter, kind: ConflictKind, conflicts: Sequence[Conflict]) -> schema.Notice:
    message = f"{len(conflicts):,} further {_THINGS[kind]}"
    cure = "`netagent doctor` lists them"
    if kind in _OF_ENDPOINTS:
        message += _on_hosts(present, conflicts)
        cure += ", and `netagent endpoints` shows what is fenced"
    return {"code": kind.value, "message": message, "cure": cure}


def _on_hosts(present: Presenter, conflicts: Sequence[Conflict]) -> str:
    """Say which hosts have these endpoints: mostly one, and then it is the cause."""
    losers = {one.loser for one in conflicts}
    owners = Counter(owner for owner, endpoint_id, _ in present.view.fenced if endpoint_id in losers)
    if not owners:
        return ""
    most = sorted(owners, key=lambda owner: (-owners[owner], owner))
    named = ", ".join(f"{present.host_name(owner)} ({owners[owner]:,})" for owner in most[:HOSTS_SHOWN])
    more = len(most) - HOSTS_SHOWN
    return f"; their hosts: {named}" + (f" and {more} more" if more > 0 else "")
