"""The queue of broadcasts that piggyback on other datagrams, each a limited number of times.

A broadcast about a name replaces the previous one, so the queue is no longer than the table of members. Broadcasts
that were sent least go first, and among those the newest: a storm delays old broadcasts and loses none. The limit,
retransmit_mult * ceil(log10(N + 1)), lets an epidemic reach all members with a chance of missing one of about
exp(-limit); the push/pulls cover the rest. In small clusters that is too few: of 5 members with 2 dead, one in eight
restarts was missed by some member for up to 15 s (simulated). So there the limit is twice the number of members.

Source: memberlist's queue.go (TransmitLimitedQueue).
"""

from __future__ import annotations

import math
from collections import defaultdict

SMALL_CLUSTER_LIMIT = 12
"""Up to here the limit is twice the number of members; memberlist's own limit has this value from 99 members on."""
_MISFITS_LIMIT = 16
"""How many broadcasts too large for the space left are tried before giving up: bounds the work per datagram."""


class BroadcastQueue:
    """Broadcasts by the name of the member that they are about."""

    def __init__(self, retransmit_mult: int) -> None:
        self._retransmit_mult = retransmit_mult
        self._broadcasts: dict[str, tuple[int, bytes]] = {}
        self._by_sends: defaultdict[int, dict[str, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._broadcasts)

    def __contains__(self, name: str) -> bool:
        return name in self._broadcasts

    def limit(self, members: int) -> int:
        """How often a broadcast is sent in a cluster of `members`."""
        usual = self._retransmit_mult * math.ceil(math.log10(members + 1))
        return max(usual, min(2 * members, SMALL_CLUSTER_LIMIT))

    def put(self, name: str, message: bytes) -> None:
        """Queue `message`; it replaces the previous broadcast about `name`."""
        self.discard(name)
        self._broadcasts[name] = (0, message)
        self._by_sends[0][name] = None

    def discard(self, name: str) -> None:
        """Stop broadcasting about `name`."""
        if (known := self._broadcasts.pop(name, None)) is not None:
            del self._by_sends[known[0]][name]

    def take(
        self, *, space_bytes: int, part_bytes: int, count: int, members: int, is_counted: bool = True
    ) -> list[bytes]:
        """Return up to `count` broadcasts for one datagram; each costs its length plus `part_bytes` of `space_bytes`.

        With `is_counted` False the sends do not count towards the limit.
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
        """Assert that both indexes hold the same broadcasts."""
        indexed = {name: sends for sends, names in self._by_sends.items() for name in names}
        assert indexed == {name: sends for name, (sends, _) in self._broadcasts.items()}
