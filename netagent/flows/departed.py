"""Which container had an address before it went: flows to it are still shown, and its record is gone. Pure.

The host that counts is in the networks of its containers, so it knows their endpoints, and sees each go between two
views. A name is kept for as long as it is known to be needed: when there are too many, those go to whose address no
flow leads.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

from netagent.model.ids import NetworkId
from netagent.registry.view import EndpointView, RegistryView
from netgossip.slices import Slices

MOST_ADDRESSES: Final = 4096
"""Bound of addresses of containers that are gone whose names are remembered; beyond it: those to which no flow leads
are forgotten, and then those of containers that went first, down to half."""

Target: TypeAlias = tuple[NetworkId | None, str]
"""A network, and an address in it."""


@dataclass(frozen=True, slots=True)
class DepartedTarget:
    """A container that is gone."""

    name: str
    service: str
    """With its group if it had one."""


class DepartedTargets:
    """Remembers the names of containers that have gone since the first view."""

    def __init__(self) -> None:
        self._view: RegistryView | None = None
        self._found: dict[Target, DepartedTarget] = {}
        """In the order of their going."""

    def at(self, network_id: NetworkId | None, address: str) -> DepartedTarget | None:
        """Return the container that had the address last and is gone; None: not known."""
        return self._found.get((network_id, address))

    @property
    def is_full(self) -> bool:
        """True if `keep` has to make room."""
        return len(self._found) > MOST_ADDRESSES

    @property
    def known(self) -> Mapping[Target, DepartedTarget]:
        """All, in the order of their going."""
        return self._found

    def restore(self, known: Mapping[Target, DepartedTarget]) -> None:
        """Add what an earlier agent knew."""
        self._found = {**known, **self._found}

    def note(self, view: RegistryView) -> Slices[None]:
        """Note which containers have gone since the view of the last call."""
        earlier, self._view = self._view, view
        if earlier is None or earlier is view:
            return
        touched = view.touched_since(earlier)
        for endpoint_id in earlier.endpoints if touched is None else {one for _, one in touched.endpoints}:
            endpoint = earlier.endpoints.get(endpoint_id)
            # Of a network that this host leaves, it forgets endpoints that are still there.
            if (
                endpoint is not None
                and endpoint_id not in view.endpoints
                and view.local in view.attachments(endpoint.network_id)
            ):
                self._note(endpoint)
            yield

    def _note(self, endpoint: EndpointView) -> None:
        record = endpoint.record
        name, group = record.service_key.name, record.service_key.group
        departed = DepartedTarget(record.name, f"{name}.{group}" if group else name)
        for address in record.addresses:
            self._found.pop((endpoint.network_id, address), None)
            self._found[endpoint.network_id, address] = departed

    def keep(self, used: Set[Target]) -> None:
        """Forget all others; if that is not enough, those that went first."""
        kept = [(target, one) for target, one in self._found.items() if target in used]
        self._found = dict(kept[-(MOST_ADDRESSES // 2) :])
