"""The envelope around a member's meta on the wire: msgpack `[1, record port, application's bytes, proof]`.

The proof is the member's own, of what it claims about itself (membership/claims.py); a member of a release that
proves nothing leaves it out. It stands in the meta because every memberlist relays that as it is.

A node without our envelope (a plain memberlist node) is a member like any other, its meta shown unchanged; it has no
record address and gets no records.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgpack

from netgossip.errors import GossipUsageError, WireError
from netgossip.types import Address, Member

META_LIMIT_BYTES: Final = 400
"""The application's part; memberlist allows 512 in all (MetaMaxSize)."""

META_VERSION: Final = 1
_PROOF_AT: Final = 3
"""The proof's position in the envelope."""
PROOF_LIMIT_BYTES: Final = 96


def wrap_meta(record_port: int, meta: bytes) -> bytes:
    """Return the meta for the wire. Raises GossipUsageError."""
    if len(meta) > META_LIMIT_BYTES:
        raise GossipUsageError(f"meta has at most {META_LIMIT_BYTES} bytes, not {len(meta)}")
    return bytes(msgpack.packb([META_VERSION, record_port, meta]))


def unwrap_meta_untrusted(meta: bytes) -> tuple[int, bytes]:
    """Return the record port and the application's part. Raises WireError for a meta without our envelope.

    Positions after the third belong to later versions, and are skipped.
    """
    try:
        fields = msgpack.unpackb(meta, max_array_len=16, max_map_len=0, max_bin_len=512)
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise WireError(f"foreign meta: {error}") from None
    match fields:
        case [int(version), int(port), bytes(own), *_] if version >= 1 and 1 <= port <= 65535:
            return port, own
    raise WireError("foreign meta")


def with_proof(meta: bytes, proof: bytes) -> bytes:
    """Return our own envelope with this proof, in place of another one if there is."""
    return bytes(msgpack.packb([*msgpack.unpackb(meta)[:_PROOF_AT], proof]))


def split_proof(meta: bytes) -> tuple[bytes, bytes]:
    """Return what a proof covers, which is all of `meta` but the number of positions and the proof; and the proof,
    b"" where there is none."""
    unpacker = msgpack.Unpacker(
        max_array_len=16, max_map_len=0, max_bin_len=512, max_str_len=512, max_ext_len=0, max_buffer_size=1024
    )
    unpacker.feed(meta)
    try:
        positions, first = unpacker.read_array_header(), unpacker.tell()
        if positions <= _PROOF_AT:
            return meta[first:], b""
        for _ in range(_PROOF_AT):
            unpacker.skip()
        start = unpacker.tell()
        proof = unpacker.unpack()
        end = unpacker.tell()
    except (msgpack.UnpackException, ValueError, TypeError):
        return meta, b""
    if not isinstance(proof, bytes) or len(proof) != PROOF_LIMIT_BYTES:
        return meta, b""
    return meta[first:start] + meta[end:], proof


def without_proof(meta: bytes) -> bytes:
    """Return what is the same in two metas that differ in nothing but their proofs."""
    return split_proof(meta)[0]


def shown(member: Member) -> Member:
    """Return the member with the application's part of its meta only."""
    try:
        return replace(member, meta=unwrap_meta_untrusted(member.meta)[1])
    except WireError:
        return member


def restored(member: Member, record_port: int) -> Member:
    """Return a member remembered from before our restart, with its shown meta put into our envelope again.

    Its record port was not persisted; ours is the best guess. With its incarnation lowered by one, its own statement
    prevails.
    """
    if len(member.meta) > META_LIMIT_BYTES:
        return member
    meta = wrap_meta(record_port, member.meta)
    return replace(member, meta=meta, incarnation=max(member.incarnation - 1, 0))


def record_address(member: Member) -> Address | None:
    """The address at which a member takes records; None if it takes none."""
    try:
        return member.address[0], unwrap_meta_untrusted(member.meta)[0]
    except WireError:
        return None
