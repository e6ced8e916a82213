"""The matrix of paths: from each host to each other, as the host knows it from which the path leads. Pure.

It is bounded by what one question about paths can carry, and by what can be read. Beyond that it shows first the
hosts whose path from here, or whose agent, is not well; a filter brings others in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from netagent.model.ids import HostId
from netagent.rpc.paths import MAX_HOSTS, KnownPath

_GONE: Final = "left"


def rows_of_matrix(
    members: Sequence[Mapping[str, Any]], words: Collection[str]
) -> tuple[list[dict[str, Any]], int]:
    """Return the hosts to show, by name, and how many of those that match are left out."""
    wanted = [
        one
        for one in members
        if one["agent"] != _GONE
        and (
            not words
            or any(word in f"{one['name']} {one['zone']} {one['address']}".lower() for word in words)
        )
    ]
    wanted.sort(key=lambda one: (not one["local"], _is_well(one), one["name"]))
    chosen = sorted(wanted[:MAX_HOSTS], key=lambda one: one["name"])
    fields = ("id", "name", "agent", "zone", "local")
    return [{field: one[field] for field in fields} for one in chosen], len(wanted) - len(chosen)


def _is_well(member: Mapping[str, Any]) -> bool:
    return member["agent"] == "alive" and member["path"] in {"ok", "local", "unknown"}


def matrix(
    chosen: Sequence[Mapping[str, Any]], known: Mapping[HostId, Mapping[HostId, KnownPath]]
) -> dict[str, dict[str, Any]]:
    """Return a row for each host: whether it answered, and its path to each."""
    rows: dict[str, dict[str, Any]] = {}
    for one in chosen:
        host_id = HostId(one["id"])
        found = known.get(host_id)
        cells = [] if found is None else [_cell(found.get(HostId(other["id"])), other) for other in chosen]
        rows[host_id] = {"id": host_id, "answered": found is not None, "cells": cells}
    return rows


def _cell(path: KnownPath | None, to: Mapping[str, Any]) -> dict[str, Any]:
    path = path or KnownPath()
    return {
        "to": to["id"],
        "state": path.state,
        "rtt_s": None if path.rtt_us is None else path.rtt_us / 1e6,
        "loss_percent": None if path.loss_permille is None else path.loss_permille / 10,
        "mtu_bytes": path.size_bytes,
        "encrypted": path.is_encrypted,
    }
