"""The keys of a host's tunnel: an X25519 pair, and a preshared key for each pair of hosts and day.

WireGuard agrees on session keys by X25519 alone. Whoever records today's packets and can compute discrete logarithms
on that curve tomorrow could read them; the preshared key, which both hosts derive from a secret that all members
have, closes this. It is no proof of identity: every member can derive it.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
_PURPOSE: Final = b"netagent tunnel preshared key 1"


def private_key_from(random_bytes: bytes) -> bytes:
    """Make a private key of 32 random octets: clamped (RFC 7748, section 5), so that it reads back unchanged."""
    if len(random_bytes) != KEY_BYTES:
        raise ValueError(f"{len(random_bytes)} octets instead of {KEY_BYTES}")
    key = bytearray(random_bytes)
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def public_key_of(private_key: bytes) -> bytes:
    """Return the public half. ValueError when the private key has another length."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def preshared_key(ring_secret: bytes, public_a: bytes, public_b: bytes, day: int) -> bytes:
    """Derive the key of two hosts for a day, whichever number the caller gives days; the order of the hosts does not
    matter."""
    if len(public_a) != KEY_BYTES or len(public_b) != KEY_BYTES:
        raise ValueError("a public key has 32 octets")
    first, second = sorted((public_a, public_b))
    info = _PURPOSE + first + second + day.to_bytes(8, "big")
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(ring_secret)
