"""A node's identity: an Ed25519 key created once, whose hash is the node's id everywhere.

Machine ids are cloned with disk images and host names are reused; both have broken clusters of other software. A node
can prove that it holds a key created at its first start, and every holder of the public key can check that the id is
its hash.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from netgossip.types import NodeId

PRIVATE_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 32


def node_id_of(public_key: bytes) -> NodeId:
    """The first 128 bits of SHA-256 of the raw public key, in hex."""
    return hashlib.sha256(public_key).digest()[:16].hex()


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """True when `signature` over `message` was made with the private half of `public_key`; never raises."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Identity:
    """A private key and its public key."""

    def __init__(self, private_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self._key.public_key().public_bytes_raw()
        self.node_id = node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)
