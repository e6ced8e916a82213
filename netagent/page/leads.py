"""Where a sentence of the agent leads: the containers, hosts and networks of the cluster that it names. Pure.

Findings and warnings are sentences for people. The page turns the names and addresses in them into links, so that
from what is wrong it is one click to the object and its `why`. Words of a sentence may come from another host, so
both their number and that of the links are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypedDict

from netagent.registry.view import RegistryView

MAX_LEADS: Final = 4
"""Bound of links of one sentence; beyond it: the first."""
MAX_WORDS: Final = 80
"""Bound of words that are looked up; beyond it: the first."""

_WORD: Final = re.compile(r"[^\s,;()\"'`=]{1,255}")
_ADDRESS: Final = re.compile(r"[0-9a-f]{0,4}[.:][0-9a-f.:]{1,60}")
_DEVICE: Final = re.compile(r"n[a-z]-(\d{1,8})")


class Lead(TypedDict):
    """A link to the page of one thing."""

    part: str
    """`endpoints`, `hosts` or `networks`."""
    id: str
    name: str


def leads_of(view: RegistryView, *sentences: str) -> list[Lead]:
    """Return what the sentences name, in their order, each thing once."""
    found: dict[tuple[str, str], Lead] = {}
    words = [match[0] for text in sentences for match in _WORD.finditer(text[:4096])]
    for word in dict.fromkeys(words[:MAX_WORDS]):
        for lead in _things(view, word.strip(".:")):
            found.setdefault((lead["part"], lead["id"]), lead)
        if len(found) >= MAX_LEADS:
            break
    return list(found.values())[:MAX_LEADS]


def _things(view: RegistryView, word: str) -> Iterator[Lead]:
    """Yield what a word means: an address, a name, or a device of a network."""
    endpoint = view.endpoint_by_address(word) if _ADDRESS.fullmatch(word) else None
    named = (endpoint,) if endpoint is not None else view.endpoints_named(word)[:1]
    for one in named:
        yield {"part": "endpoints", "id": one.endpoint_id, "name": one.record.name}
    host = view.host_named(word)
    if host is not None:
        yield {"part": "hosts", "id": host.host_id, "name": host.unique_name}
    device = _DEVICE.fullmatch(word)
    for network in view.networks.values() if device is not None else ():
        if device is not None and network.record.vni == int(device[1]):
            yield {"part": "networks", "id": network.network_id, "name": network.unique_name}
    network_named = view.network_named(word)
    if network_named is not None:
        yield {"part": "networks", "id": network_named.network_id, "name": network_named.unique_name}
