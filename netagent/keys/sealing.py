"""A ring key sealed for one other host, and opened there.

The sender makes an X25519 key for each sealed key and forgets it; the recipient's exchange key lives as long as its
agent runs. So who learns later what is on a disk, the identity included, cannot open sealed keys that were recorded.
Cluster, key, number, sender and recipient go into the derivation: a sealed key means nothing anywhere else. That it
comes from its sender, and is for the recipient's exchange key, is proven by the signatures of both hosts' logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netagent.model.ids import ClusterId, HostId, KeyId
from netagent.model.ring_key import HeldKey, SealedKey, exchange_tag

_ID_INFO: Final = b"netagent ring key id v1"
_SEAL_INFO: Final = b"netagent ring key v1"
_KEY_BYTES: Final = frozenset({16, 24, 32})
_NONCE: Final = bytes(12)
"""Each sealed key has a sealing key of its own."""


def key_id_of(key: bytes, cluster_id: ClusterId) -> KeyId:
    """Return the id of a ring key."""
    return KeyId(HKDF(SHA256(), 16, salt=bytes.fromhex(cluster_id), info=_ID_INFO).derive(key).hex())


class ExchangeKey:
    """What others seal keys to for this host, for one run of its agent."""

    def __init__(self, local: HostId, cluster_id: ClusterId, random_bytes: Callable[[int], bytes]) -> None:
        self._local = local
        self._cluster_id = cluster_id
        self._random_bytes = random_bytes
        self._private = X25519PrivateKey.from_private_bytes(random_bytes(32))
        self.public = self._private.public_key().public_bytes_raw()

    def seal(self, key: bytes, held: HeldKey, to: HostId, theirs: bytes) -> SealedKey | None:
        """Seal a ring key for the host with this exchange key; None: nothing can be sealed to that."""
        private = X25519PrivateKey.from_private_bytes(self._random_bytes(32))
        ephemeral = private.public_key().public_bytes_raw()
        cipher = self._cipher(private, theirs, held, (self._local, to, theirs + ephemeral))
        if cipher is None:
            return None
        return SealedKey(to, exchange_tag(theirs), ephemeral, cipher.encrypt(_NONCE, key, None))

    def open_untrusted(self, sealed: SealedKey, held: HeldKey, sender: HostId) -> bytes | None:
        """Return the ring key; None if it is not for this host and run, or not what the sender says it is."""
        cipher = self._cipher(
            self._private, sealed.ephemeral, held, (sender, self._local, self.public + sealed.ephemeral)
        )
        if cipher is None:
            return None
        try:
            key = cipher.decrypt(_NONCE, sealed.ciphertext, None)
        except (InvalidTag, ValueError):
            return None
        return key if len(key) in _KEY_BYTES and key_id_of(key, self._cluster_id) == held.key_id else None

    def _cipher(
        self, private: X25519PrivateKey, theirs: bytes, held: HeldKey, between: tuple[HostId, HostId, bytes]
    ) -> AESGCM | None:
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:  # a point of low order
            return None
        sender, recipient, publics = between
        what = bytes.fromhex(held.key_id) + held.number.to_bytes(4, "big")
        info = _SEAL_INFO + what + bytes.fromhex(sender) + bytes.fromhex(recipient) + publics
        return AESGCM(HKDF(SHA256(), 32, salt=bytes.fromhex(self._cluster_id), info=info).derive(shared))
