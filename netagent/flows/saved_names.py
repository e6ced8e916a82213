"""Names that an agent leaves for the next one: of who opened flows, and of containers that are gone. Pure.

The flows stay in the kernel, and records go. The file is for the run directory, which is empty after the host has
started, as the kernel's tables are. Only our own user writes it, but it may be of another release, or cut off: what
does not fit is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from netagent.flows.departed import DepartedTarget, DepartedTargets
from netagent.flows.sources import FlowSource, FlowSources, kind_of_place
from netagent.model.ids import EndpointId, HostId, NetworkId


def dump_names(sources: FlowSources, departed: DepartedTargets) -> str:
    """Return both as text."""
    return json.dumps(
        {
            "sources": [
                [place, one.endpoint_id, one.network_id, one.name, one.service, one.group]
                for place, one in sources.known.items()
                if one.network_id is not None
            ],
            "departed": [
                [network_id, address, one.name, one.service]
                for (network_id, address), one in departed.known.items()
            ],
        }
    )


def restore_names(text: str, local: HostId, sources: FlowSources, departed: DepartedTargets) -> None:
    """Add to both what an earlier agent has left; nothing if that is not readable."""
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(saved, dict):
        return
    sources.restore(
        {
            place: FlowSource(
                EndpointId(endpoint_id),
                NetworkId(network_id),
                name,
                service,
                group,
                local,
                kind_of_place(place),
            )
            for place, endpoint_id, network_id, name, service, group in _rows(
                saved.get("sources"), (int, str, str, str, str, str)
            )
        }
    )
    departed.restore(
        {
            (NetworkId(network_id), address): DepartedTarget(name, service)
            for network_id, address, name, service in _rows(saved.get("departed"), (str, str, str, str))
        }
    )


def _rows(rows: object, kinds: tuple[type, ...]) -> Iterator[list[Any]]:
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and [type(one) for one in row] == [*kinds]:
            yield row
