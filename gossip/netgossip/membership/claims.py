"""Proofs of what a node claims about itself: where it lives, at which incarnation, with which meta, that it leaves.

All members hold one key, so a member could say in any node's name that it lives elsewhere, has another incarnation,
or has left. A proof is the node's Ed25519 public key, whose hash is the node's id, and a signature over a constant,
the cluster's label and the claim. It travels with the claim through all relays: that of an "alive" in the meta, which
every memberlist relays; that of a leave in a field of ours, which those without proofs skip and do not relay.

A node that has never shown a proof is believed without, as nodes of earlier releases and plain memberlists are. Once
it has, it never is again. Where the application requires proofs, no node is believed without.

Accusations need no proof: any member may suspect, and the accused refutes. But an accuser cannot say how far the
accused has counted: an accusation counts as one at the incarnation that is held.

An unproven claim is checked only when it would change something, and only a few are checked per input.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from netgossip.codec.messages import Alive, Dead
from netgossip.codec.meta import PROOF_LIMIT_BYTES, split_proof, with_proof, without_proof
from netgossip.join.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, verify
from netgossip.types import Address, Member, NodeId

CLAIM_SIGNERS_LIMIT: Final = 65_536
"""Bound of nodes that are remembered as ones that prove their claims; beyond it: further ones are not, so that a
member which invents nodes makes none be forgotten. Members that have proven a claim need proofs all the same."""
CHECKS_PER_INPUT: Final = 16
"""Bound of proofs checked for one datagram; beyond it: claims that need one are refused, counted; push/pull brings
them again. Up to 2 ms. A datagram of 1200 bytes has at most 6 claims."""
CHECKS_PER_SLICE: Final = 8
"""Bound of proofs checked in one slice of a push/pull; beyond it: the rest waits in order. Up to 1 ms."""
REPORTS_LIMIT: Final = 64
"""Bound of nodes in whose name an unproven claim came that are reported within a minute; beyond it: further ones are
only counted. A member can invent nodes."""
REPORTED_EVERY_S: Final = 60.0

_DOMAIN: Final = b"netagent claim v1"


class Proven(enum.Enum):
    """Whether a claim is its subject's own. The values of those that refuse it are the counters' names."""

    VALID = "valid"
    UNKNOWN = "unknown"
    """It has no proof, and its subject has never shown one."""
    UNSIGNED = "claim_unsigned"
    """It has no proof, and its subject proves its claims, or all have to."""
    FORGED = "claim_forged"
    UNCHECKED = "claim_unchecked"
    """Too many were checked for this input."""

    @property
    def is_refused(self) -> bool:
        """True if the claim must have no effect."""
        return self not in (Proven.VALID, Proven.UNKNOWN)


class ClaimProofs:
    """Makes the proofs of our own claims, checks others', and remembers who has shown one. With `identity` None
    nothing is signed, checked or remembered."""

    def __init__(
        self, identity: Identity | None, cluster_label: bytes, signers: Iterable[NodeId] = ()
    ) -> None:
        self._identity = identity
        self._cluster_label = cluster_label
        self._signers: set[NodeId] = set() if identity is None else set(signers)
        self._members: set[NodeId] = set()
        """Members that have shown a proof: those that found no room in `_signers` among them."""
        self._reported_at: dict[NodeId, float] = {}
        self.required = False
        """True: no node is believed without proofs."""
        self.checks = 0
        """Proofs checked since the caller set this to 0."""

    # Ours.

    def signed(self, own: Member) -> Member:
        """Return our own entry with the proof that belongs to it, which costs about 50 microseconds."""
        if self._identity is None:
            return own
        message = self._alive_message(
            own.node_id, own.incarnation, own.address, without_proof(own.meta), own.vsn
        )
        return replace(own, meta=with_proof(own.meta, self._sign(self._identity, message)))

    def leave(self, own: Member) -> bytes:
        """Return the proof that we leave."""
        if self._identity is None:
            return b""
        return self._sign(self._identity, self._leave_message(own.node_id, own.incarnation))

    @staticmethod
    def _sign(identity: Identity, message: bytes) -> bytes:
        return identity.public_key + identity.sign(message)

    # Others'.

    def signs(self, node_id: NodeId) -> bool:
        """True if the node is believed only with its proof: it has shown one, and we check them."""
        return node_id in self._signers or node_id in self._members

    def is_first(self, claim: Alive) -> bool:
        """True if the claim brings a proof, and its subject has not shown one before."""
        return self._identity is not None and not self.signs(claim.node) and bool(split_proof(claim.meta)[1])

    def check_alive(self, claim: Alive) -> Proven:
        """Check that `claim.node` itself says this. Costs about 100 microseconds if it has a proof."""
        covered, proof = split_proof(claim.meta)
        message = self._alive_message(claim.node, claim.incarnation, claim.address, covered, claim.vsn)
        return self._check(claim.node, proof, message)

    def check_leave(self, claim: Dead) -> Proven:
        """Check that `claim.node` itself says that it leaves."""
        return self._check(claim.node, claim.proof, self._leave_message(claim.node, claim.incarnation))

    def _check(self, node_id: NodeId, proof: bytes, message: bytes) -> Proven:
        if self._identity is None:
            return Proven.UNKNOWN
        if not proof:
            return Proven.UNSIGNED if self.required or self.signs(node_id) else Proven.UNKNOWN
        public_key, signature = proof[:PUBLIC_KEY_BYTES], proof[PUBLIC_KEY_BYTES:]
        # What costs almost nothing comes first.
        if len(proof) != PROOF_LIMIT_BYTES or node_id_of(public_key) != node_id:
            return Proven.FORGED
        if self.checks >= CHECKS_PER_INPUT:
            return Proven.UNCHECKED
        self.checks += 1
        return Proven.VALID if verify(public_key, signature, message) else Proven.FORGED

    def note_member(self, node_id: NodeId) -> bool:
        """Note that a member has shown a valid proof. True if it was not known of this node: the application must
        remember it."""
        self._members.add(node_id)
        if node_id in self._signers or len(self._signers) >= CLAIM_SIGNERS_LIMIT:
            return False
        self._signers.add(node_id)
        return True

    def forget_member(self, node_id: NodeId) -> None:
        """Note that the node is no member any more; that it proves its claims stays known."""
        self._members.discard(node_id)

    def is_news(self, node_id: NodeId, now: float) -> bool:
        """True if an unproven claim in the node's name should be reported now."""
        # In the order of the reports, so those that are over come first.
        while self._reported_at and next(iter(self._reported_at.values())) + REPORTED_EVERY_S <= now:
            del self._reported_at[next(iter(self._reported_at))]
        if node_id in self._reported_at or len(self._reported_at) >= REPORTS_LIMIT:
            return False
        self._reported_at[node_id] = now
        return True

    # The bytes that are signed. Each field is preceded by its length.

    def _alive_message(
        self, node_id: NodeId, incarnation: int, address: Address, meta: bytes, vsn: bytes
    ) -> bytes:
        host, port = address
        place = (ipaddress.ip_address(host).packed, port.to_bytes(2, "big"))
        return self._message(b"alive", node_id, incarnation, *place, meta, vsn)

    def _leave_message(self, node_id: NodeId, incarnation: int) -> bytes:
        return self._message(b"left", node_id, incarnation)

    def _message(self, state: bytes, node_id: NodeId, incarnation: int, *more: bytes) -> bytes:
        fields = (self._cluster_label, state, node_id.encode(), incarnation.to_bytes(4, "big"), *more)
        return _DOMAIN + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
