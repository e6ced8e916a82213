"""The outermost layers of memberlist's wire format: the cluster's label and AES-GCM under a shared key.

    datagram = F4 length label, version(1) nonce(12) ciphertext tag(16)                AAD: label
    stream   = [F4 length label] 0A length(u32) version(1) nonce(12) ciphertext tag(16)    AAD: 0A length label

On a stream only the side that dialled writes the label's header; the answer is still bound to the label by the
additional data. Version 1 seals the message unchanged, version 0 pads it to 16 bytes first (PKCS #7); we send 1 and
accept both. A receiver tries every key of its ring, the primary first, so that keys can be rotated while running.

This layer ensures that only holders of a current key are heard. It does not show which of them sent a message, nor
does it protect from replay. Therefore only the membership uses it.

Nonces are 96 random bits under one key for the whole cluster; NIST SP 800-38D wants fewer than 2**32 messages per key
(30 hours at 10,000 nodes with 4 packets/s each; the probability of a collision within a week is 4e-9).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from netgossip.errors import GossipUsageError, SealError, WireError

LABEL_MAGIC: Final = 0xF4
STREAM_MAGIC: Final = 0x0A
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
KEY_BYTES: Final = (16, 24, 32)

SEEN_LIMIT: Final = 4096
"""Bound of accepted membership streams of which a replay is recognised; beyond it: the oldest is dropped: its replay
is answered. Some hours of push/pulls, in 0.5 MB."""

LAST_MESSAGE_TYPE: Final = 13
"""memberlist's highest message type: a first byte above it, except the label's, is not memberlist at all."""


class Keyring:
    """The cluster's keys in order: the first seals, each opens. Shared by the membership and the record channel.

    `generation` rises with every change, for callers that keep something derived from the keys.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise GossipUsageError("a key ring needs at least one key")
        self._ciphers: dict[bytes, AESGCM] = {}
        self.generation = 0
        for key in keys:
            self.add(key)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys, the primary first."""
        return tuple(self._ciphers)

    @property
    def primary(self) -> bytes:
        """The key that seals."""
        return next(iter(self._ciphers))

    def add(self, key: bytes) -> tuple[bytes, ...]:
        """Accept what is sealed with `key` (16, 24 or 32 bytes) from now on. Returns the ring."""
        if len(key) not in KEY_BYTES:
            raise GossipUsageError(f"a key has 16, 24 or 32 bytes, not {len(key)}")
        if key not in self._ciphers:
            self._ciphers[key] = AESGCM(key)
            self.generation += 1
        return self.keys

    def use(self, key: bytes) -> tuple[bytes, ...]:
        """Seal with `key` from now on; it must be in the ring. Returns the ring."""
        if key not in self._ciphers:
            raise GossipUsageError("the key to use is not in the ring")
        if key != self.primary:
            self._ciphers = {key: self._ciphers.pop(key), **self._ciphers}
            self.generation += 1
        return self.keys

    def remove(self, key: bytes) -> tuple[bytes, ...]:
        """No longer accept what is sealed with `key`; never the primary. Returns the ring."""
        if key not in self._ciphers:
            raise GossipUsageError("the key to remove is not in the ring")
        if key == self.primary:
            raise GossipUsageError("the primary key cannot be removed: use another one first")
        del self._ciphers[key]
        self.generation += 1
        return self.keys

    def seal(self, message: bytes, additional: bytes, rng: random.Random) -> bytes:
        """Return version, nonce, ciphertext and tag of `message`. `rng` must be `random.SystemRandom` outside of
        tests."""
        nonce = rng.randbytes(NONCE_BYTES)
        return b"\x01" + nonce + self._ciphers[self.primary].encrypt(nonce, message, additional)

    def open_untrusted(self, sealed: bytes, additional: bytes) -> bytes:
        """Return the message that was sealed. Raises SealError when no key opens it."""
        if len(sealed) < 1 + NONCE_BYTES + TAG_BYTES or sealed[0] > 1:
            raise SealError("not-encrypted")
        nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        for cipher in self._ciphers.values():
            try:
                message = cipher.decrypt(nonce, ciphertext, additional)
            except InvalidTag:
                continue
            return message if sealed[0] == 1 else _without_padding(message)
        raise SealError("wrong-key")


def check_label(label: bytes) -> bytes:
    """Return the label if it is valid. Raises GossipUsageError."""
    if not 1 <= len(label) <= 255:
        raise GossipUsageError(f"a cluster's label has 1 to 255 bytes, not {len(label)}")
    return label


def label_header(label: bytes) -> bytes:
    """The bytes that precede a datagram, and the first bytes that a dialler writes on a stream."""
    return bytes((LABEL_MAGIC, len(label))) + label


def datagram_overhead_bytes(label: bytes) -> int:
    """How many bytes `seal_datagram` adds to a message."""
    return 2 + len(label) + 1 + NONCE_BYTES + TAG_BYTES


def seal_datagram(message: bytes, *, keyring: Keyring, label: bytes, rng: random.Random) -> bytes:
    """Return the UDP payload for one message."""
    return label_header(label) + keyring.seal(message, label, rng)


def open_datagram_untrusted(payload: bytes, *, keyring: Keyring, label: bytes) -> bytes:
    """Return the message in a UDP payload.

    Raises SealError for a memberlist packet of an unknown source, plain WireError for anything else.
    """
    if not payload:
        raise WireError("an empty datagram")
    if payload[0] != LABEL_MAGIC:
        if payload[0] > LAST_MESSAGE_TYPE:
            raise WireError("not a memberlist packet")
        raise SealError("no-label")
    size = payload[1] if len(payload) > 1 else 0
    if size == 0 or len(payload) < 2 + size:
        raise WireError("the label is cut off")
    if payload[2 : 2 + size] != label:
        raise SealError("other-label")
    return keyring.open_untrusted(payload[2 + size :], label)


def seal_stream(
    message: bytes, *, keyring: Keyring, label: bytes, rng: random.Random, dialler: bool
) -> bytes:
    """Return the bytes of one message on a stream."""
    size = 1 + NONCE_BYTES + len(message) + TAG_BYTES
    header = bytes((STREAM_MAGIC,)) + size.to_bytes(4, "big")
    sealed = header + keyring.seal(message, header + label, rng)
    return label_header(label) + sealed if dialler else sealed


class SeenNonces:
    """The nonces of the last accepted streams, by which a recorded stream is recognized: answering one would send all
    that we hold. Recordings older than the last SEEN_LIMIT streams are not recognized; versions order what they
    contain."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def is_new(self, nonce: bytes) -> bool:
        """True the first time that `nonce` comes."""
        if nonce in self._seen:
            return False
        if len(self._seen) >= SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]
        self._seen[nonce] = None
        return True


class StreamReader:
    """Collects the one message that a peer sends on a stream, from bytes split at any position.

    `labelled`: the peer dialled, so a label must come first. At most `limit_bytes` are kept. A message whose nonce is
    in `seen` is refused.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        label: bytes,
        labelled: bool,
        limit_bytes: int,
        seen: SeenNonces | None = None,
    ) -> None:
        self._seen = seen
        self._keyring = keyring
        self._label = label
        self._labelled = labelled
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> bytes | None:
        """Return the message once it is complete. Raises SealError and WireError; the reader must not be used
        afterwards."""
        self._buffer += data
        if self._labelled and not self._take_label():
            return None
        if not self._buffer:
            return None
        if self._buffer[0] != STREAM_MAGIC:
            raise SealError("not-encrypted")
        if len(self._buffer) < 5:
            return None
        size = int.from_bytes(self._buffer[1:5], "big")
        if not 1 + NONCE_BYTES + TAG_BYTES <= size <= self._limit_bytes:
            raise WireError("the stream's message has an impossible size")
        if len(self._buffer) < 5 + size:
            return None
        if len(self._buffer) > 5 + size:
            raise WireError("bytes follow the stream's message")
        header = bytes(self._buffer[:5])
        message = self._keyring.open_untrusted(bytes(self._buffer[5:]), header + self._label)
        # Only after the message was opened: unauthenticated streams must not push authentic nonces out of `seen`.
        if self._seen is not None and not self._seen.is_new(bytes(self._buffer[6 : 6 + NONCE_BYTES])):
            raise WireError("a recorded stream")
        return message

    def _take_label(self) -> bool:
        """True once the label has been read and removed."""
        if not self._buffer:
            return False
        if self._buffer[0] != LABEL_MAGIC:
            if self._buffer[0] > LAST_MESSAGE_TYPE:
                raise WireError("not a memberlist stream")
            raise SealError("no-label")
        if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            return False
        end = 2 + self._buffer[1]
        if self._buffer[2:end] != self._label:
            raise SealError("other-label")
        del self._buffer[:end]
        self._labelled = False
        return True


def _without_padding(padded: bytes) -> bytes:
    """Undo PKCS #7 padding to 16 bytes, and check it: memberlist does not."""
    count = padded[-1] if padded else 0
    if not 1 <= count <= 16 or len(padded) % 16 or padded[-count:] != bytes([count]) * count:
        raise WireError("wrong padding")
    return padded[:-count]
