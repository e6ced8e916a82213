"""The keys of one conversation between a host that dials and a member: of a join, and of a return.

Both sides have an ephemeral X25519 key. Two keys, one per direction, follow from the shared secret and from the
transcript: the hash of the dialler's first message, the member's ephemeral key and the member's public key.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netgossip.errors import WireError


def transcript_of(hello: bytes, member_ephemeral: bytes, member_public_key: bytes) -> bytes:
    """Return what both sides sign and derive their keys from."""
    return hashlib.sha256(hello + member_ephemeral + member_public_key).digest()


class ConversationKeys:
    """Each of the two keys seals one message, so the nonce is constant."""

    def __init__(
        self, own: X25519PrivateKey, theirs: bytes, transcript: bytes, *, purpose: bytes, secret: bytes | None
    ) -> None:
        """`secret`: what both know beforehand. WireError for an ephemeral key of low order."""
        try:
            shared = own.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:
            raise WireError("an ephemeral key of low order") from None
        keys = HKDF(SHA256(), 64, salt=secret, info=purpose + transcript).derive(shared)
        self._to_member, self._to_dialler = AESGCM(keys[:32]), AESGCM(keys[32:])
        self.transcript = transcript

    def seal_to_member(self, body: bytes) -> bytes:
        """Return the frame of the dialler's message."""
        return self._to_member.encrypt(bytes(12), body, None)

    def seal_to_dialler(self, body: bytes) -> bytes:
        """Return the frame of the member's message."""
        return self._to_dialler.encrypt(bytes(12), body, None)

    def open_from_dialler_untrusted(self, frame: bytes) -> bytes:
        """Return the dialler's message. WireError when it was sealed with another key."""
        return _opened(self._to_member, frame)

    def open_from_member_untrusted(self, frame: bytes) -> bytes:
        """Return the member's message. WireError when it was sealed with another key."""
        return _opened(self._to_dialler, frame)


def _opened(cipher: AESGCM, frame: bytes) -> bytes:
    try:
        return cipher.decrypt(bytes(12), frame, None)
    except (InvalidTag, ValueError):
        raise WireError("a message that cannot be decrypted") from None
