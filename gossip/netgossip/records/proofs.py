"""Proofs that a log is its owner's: an Ed25519 signature over what the log holds at a version.

A proof is the owner's public key, whose hash is the owner's id, and the signature. So each holder of a log can prove
it to others, and a receiver needs to know no key beforehand. Every delta ends at a version that its owner has signed,
because a delta is never cut (docs/design/0001): its proof is checked against the content that it leads to.
"""

from __future__ import annotations

from typing import Final

from netgossip.join.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, verify
from netgossip.records.set_hash import set_digest
from netgossip.types import NodeId, Scope, Version

PROOF_BYTES: Final = PUBLIC_KEY_BYTES + 64

_DOMAIN: Final = b"netagent log v1"


class LogProofs:
    """Makes the proofs of our own logs and checks others'. `cluster_label` keeps a proof from counting in another
    cluster."""

    def __init__(self, identity: Identity, cluster_label: bytes) -> None:
        self._identity = identity
        self._cluster_label = cluster_label

    def sign(self, scope: Scope, version: Version, set_hash: int) -> bytes:
        """Return the proof of our own log, which costs about 50 microseconds."""
        message = self._message(scope, self._identity.node_id, version, set_hash)
        return self._identity.public_key + self._identity.sign(message)

    def is_valid(self, proof: bytes, scope: Scope, owner: NodeId, version: Version, set_hash: int) -> bool:
        """True if the owner signed this content of this version. Costs about 100 microseconds."""
        if not names_owner(proof, owner):
            return False
        public_key, signature = proof[:PUBLIC_KEY_BYTES], proof[PUBLIC_KEY_BYTES:]
        return verify(public_key, signature, self._message(scope, owner, version, set_hash))

    def _message(self, scope: Scope, owner: NodeId, version: Version, set_hash: int) -> bytes:
        fields = (
            self._cluster_label,
            scope,
            bytes.fromhex(owner),
            version.epoch.to_bytes(8, "big"),
            version.sequence.to_bytes(8, "big"),
            set_digest(set_hash),
        )
        return _DOMAIN + b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def names_owner(proof: bytes, owner: NodeId) -> bool:
    """True if the proof has the right length and carries the owner's public key: what can be checked for almost
    nothing, before any entry is looked at."""
    return len(proof) == PROOF_BYTES and node_id_of(proof[:PUBLIC_KEY_BYTES]) == owner
