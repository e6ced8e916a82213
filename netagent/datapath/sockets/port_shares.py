"""How the kernel's table of ports is shared out among the members of the cluster. Pure.

The table is one for the host, and any member can write records of services with ports: thousands of services, with
dozens of ports each. So a member gets more ports only while it has at most as many as are left free for all. One
member alone can have half of the table, two can have a third each, and however many there are, as much as each of
them has is free for one more. Buffers of switches are shared out by this rule (dynamic thresholds, Choudhury and
Hahne 1998); unlike a fixed share it leaves no table of a small cluster unused.

What a member has stays with it, also when others come: programs keep addresses of services for ever.
"""

from __future__ import annotations

from collections import Counter

from netagent.model.ids import HostId


class PortShares:
    """Counts the ports in a table of `most` by member."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counted: dict[bytes, tuple[HostId, int]] = {}
        """By address of a service."""
        self._held: Counter[HostId] = Counter()

    def note(self, address: bytes, owner: HostId | None, ports: int) -> None:
        """Note how many ports the service at an address has in the table, and whose it is; None: no member's."""
        before = self._counted.pop(address, None)
        if before is not None:
            self._held[before[0]] -= before[1]
            if not self._held[before[0]]:
                del self._held[before[0]]
        if owner is not None and ports:
            self._counted[address] = owner, ports
            self._held[owner] += ports

    def held(self, owner: HostId) -> int:
        """Return how many a member has."""
        return self._held[owner]

    def has_room(self, owner: HostId | None, more: int, *, present: int) -> bool:
        """True if a member may have so many more, while so many are in the table."""
        left = self._most - present - more
        return owner is None or self._held[owner] + more <= left
