"""A hash of a set of records that is kept incrementally, and for which no two sets can be found that share it.

AdHash (Bellare and Micciancio, 1997): the sum, modulo 2**4096, of a long hash of each element. Adding or removing a
record is one addition, whatever the size of the set. A log's `digest` is such a sum too, but of 128 bits: a program
that may choose many values finds two sets with the same 128-bit sum within seconds (Wagner's generalized birthday
attack, whose cost for sums of n bits is 2**(2 * sqrt(n))). For 4096 bits that is 2**128, however large the sets.

Only live records are elements, as in `digest`: when tombstones are dropped, the hash stays. docs/design/0072 says
what follows from that, and why this is not LtHash or a tree.
"""

from __future__ import annotations

from hashlib import sha256, shake_128
from typing import Final

from netgossip.types import Entry

STATE_BYTES: Final = 512
STATE_LIMIT: Final = 1 << (8 * STATE_BYTES)
EMPTY: Final = 0
"""The state of the empty set."""

_DOMAIN: Final = b"netgossip record v1"


def element(entry: Entry | None) -> int:
    """The summand of one entry; 0 for a tombstone or none. Of an entry's fields it binds the key, the sequence and
    the value; the signature over the sum binds what all entries of a log share."""
    if entry is None or entry.value is None:
        return 0
    # Only the value is of variable length without saying so, and it comes last: no two entries have one encoding.
    start = _DOMAIN + bytes((len(entry.key),)) + entry.key + entry.version.sequence.to_bytes(8, "big")
    return int.from_bytes(shake_128(start + entry.value).digest(STATE_BYTES), "big")


def set_digest(state: int) -> bytes:
    """The 32 bytes that stand for the set."""
    return sha256(state.to_bytes(STATE_BYTES, "big")).digest()
