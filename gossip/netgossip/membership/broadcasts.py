"""Rumours that wait to ride on other datagrams, each a limited number of times.

A rumour about a name replaces the one before it, so the queue is no longer than the table of members. Rumours that
were sent least go first, among those the newest: a storm delays old rumours and loses none. The limit,
retransmit_mult * ceil(log10(N + 1)), lets an epidemic reach everybody with a chance of missing of about
exp(-limit); the full exchanges cover the rest. In small clusters that is too few: of 5 members with 2 dead, one in
eight restarts was missed by somebody for up to 15 s (simulated). So there the limit is twice the number of members.

Source: memberlist's queue.go (TransmitLimitedQueue).
"""

from __future__ import annotations

import math
from collections import defaultdict

SMALL_CLUSTER_LIMIT = 12
"""Up to here the limit is twice the number of members; memberlist's own has this value from 99 members on."""
_MISFITS_LIMIT = 16
"""So many rumours too large for the space left are looked at before giving up: bounds the work per datagram."""


class BroadcastQueue:
    """Rumours by name of the member that they are about."""

    def __init__(self, retransmit_mult: int) -> None:
        self._retransmit_mult = retransmit_mult
        self._broadcasts: dict[str, tuple[int, bytes]] = {}
        self._by_sends: defaultdict[int, dict[str, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._broadcasts)

    def __contains__(self, name: str) -> bool:
        return name in self._broadcasts

    def limit(self, members: int) -> int:
        """How often a rumour is sent in a cluster of `members`."""
        usual = self._retransmit_mult * math.ceil(math.log10(members + 1))
        return max(usual, min(2 * members, SMALL_CLUSTER_LIMIT))

    def put(self, name: str, message: bytes) -> None:
        """Spread `message`; what was said about `name` before is dropped."""
        self.discard(name)
        self._broadcasts[name] = (0, message)
        self._by_sends[0][name] = None

    def discard(self, name: str) -> None:
        """No longer spread what is said about `name`."""
        if (known := self._broadcasts.pop(name, None)) is not None:
            del self._by_sends[known[0]][name]

    def take(
        self, *, space_bytes: int, part_bytes: int, count: int, members: int, is_counted: bool = True
    ) -> list[bytes]:
        """Up to `count` rumours for one datagram; each costs its length plus `part_bytes` of `space_bytes`.

        With `is_counted` False they stay as often to be sent as before.
        """
        chosen: list[str] = []
        misfits = 0
        for sends in sorted(self._by_sends):
            for name in reversed(self._by_sends[sends]):
                size = len(self._broadcasts[name][1]) + part_bytes
                if len(chosen) >= count or misfits >= _MISFITS_LIMIT:
                    break
                if size > space_bytes:
                    misfits += 1
                    continue
                chosen.append(name)
                space_bytes -= size
        if not is_counted:
            return [self._broadcasts[name][1] for name in chosen]
        return [self._sent(name, self.limit(members)) for name in chosen]

    def _sent(self, name: str, limit: int) -> bytes:
        sends, message = self._broadcasts[name]
        del self._by_sends[sends][name]
        if not self._by_sends[sends]:
            del self._by_sends[sends]
        if sends + 1 >= limit:
            del self._broadcasts[name]
        else:
            self._broadcasts[name] = (sends + 1, message)
            self._by_sends[sends + 1][name] = None
        return message

    def check_invariants(self) -> None:
        """Both indexes hold the same rumours."""
        indexed = {name: sends for sends, names in self._by_sends.items() for name in names}
        assert indexed == {name: sends for name, (sends, _) in self._broadcasts.items()}
