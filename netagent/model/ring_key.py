"""The cluster's ring keys as records speak of them: by id and number, never by their bytes.

A ring key's id is a hash of it. Its number says which of two keys is the newer one: each new key gets one more than
the highest that its host knows. 0: a key from before keys had numbers, or one on standby: an operator installed it,
and no host uses it before an operator says so, which gives it a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from netagent.model.ids import HostId, KeyId

MAX_RING_KEYS: Final = 16
"""Bound of keys in a ring; beyond it: a further one is refused. Opening a datagram of a stranger tries each key."""
MAX_KEY_NUMBER: Final = 2**32 - 1
MAX_NUMBER_STEP: Final = 2**20
"""By so much a number may be above all that are known: two years of a key a minute. A number above that is not
believed: a host that gave the highest one to a key would have the last word."""
MAX_STANDBY: Final = 4
"""Bound of keys on standby in a ring; beyond it: a further one is refused. Others need room for the keys in use."""
MAX_ADMITTED: Final = 32
"""Bound of hosts that one record vouches for; beyond it: those that were admitted last."""
EXCHANGE_KEY_BYTES: Final = 32
SEALED_KEY_BYTES: Final = 48
"""A key of 32 bytes, and the tag."""
MAX_SEALED: Final = 200
"""Hosts that one record seals a key for: within the bound of a record."""
MAX_PARTS: Final = 256
"""Records of one host about one key: 51,200 hosts."""


class HeldKey(NamedTuple):
    """A key that a host accepts."""

    key_id: KeyId
    number: int


@dataclass(frozen=True, slots=True)
class RingKeysRecord:
    """Which ring keys the owner accepts and which one it seals with, and how others send it a new one."""

    exchange_key: bytes
    """Public X25519 key, made anew at each start of the agent: no one can open an old sealed key afterwards."""
    primary: KeyId
    held: tuple[HeldKey, ...]
    """By id."""
    standby: tuple[KeyId, ...] = ()
    """Those that an operator installed and that are not to be used yet. By id."""
    removed: tuple[KeyId, ...] = ()
    """Keys that an operator removed on the owner, while a host has them. By id."""
    admitted: tuple[HostId, ...] = ()
    """Hosts that redeemed an invitation of the owner a short time ago. By id."""

    def holds(self, key_id: KeyId) -> bool:
        """True if the owner accepts what is sealed with the key."""
        return any(one.key_id == key_id for one in self.held)


class SealedKey(NamedTuple):
    """A ring key for one host."""

    to: HostId
    exchange_tag: bytes
    """The first bytes of the exchange key that it is sealed to: it is worthless to a host that has another by now."""
    ephemeral: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class SealedKeysRecord:
    """The owner gives a ring key to other hosts."""

    key_id: KeyId
    number: int
    part: int
    """Which of the owner's records of this key it is."""
    sealed: tuple[SealedKey, ...]
    """By host."""


EXCHANGE_TAG_BYTES: Final = 8


def exchange_tag(exchange_key: bytes) -> bytes:
    """Return what names an exchange key in a sealed key."""
    return exchange_key[:EXCHANGE_TAG_BYTES]
