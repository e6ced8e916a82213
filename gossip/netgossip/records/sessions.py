"""Sessions: keys that two peers agree on by ephemeral X25519, each proven by its Ed25519 identity.

    Hello      nonce, and an offer:   public key, ephemeral key, signature
    Welcome    nonce, and an answer:  public key, ephemeral key, id of a ring key, signature

The offer's signature covers cluster label, both ids, the asker's epoch, nonce and ephemeral key; the answer's covers
these, the other epoch, the other ephemeral key and the ring key's id: the transcript. The public key's hash is the
node's id, so nothing has to be known beforehand. Keys, one per direction, and the session's id: HKDF-SHA256(shared
secret + ring key, salt = SHA-256 of the transcript). Both ephemeral private keys are dropped once the session is
there, an offer that is not answered after OFFER_S at the latest. So neither the ring key nor the identities open what
was sent. (Python does not overwrite the memory that it frees.)

- The asker knows by the answer that its peer is live. The peer knows it by the first frame that opens under the
  session: only then is the session *confirmed* there, is sent under, and displaces others. A recorded Hello makes a
  session that no peer confirms. It is sent under only where there is no better one, or where its start is later than
  the one of the confirmed session: then the peer has just restarted, and can read nothing else.
- When both ask at once, there are two sessions, and both open. Both sides send under the one that the lower id asked
  for, and under the latest of these.
- The lower id renews a session after REKEY_S or REKEY_FRAMES, the other one a quarter later if that has not happened.
  A session opens for OVERLAP_S after the peer was first heard under a later one, and LIFETIME_S + OVERLAP_S at most.
- A peer that has once sent a valid offer or answer *speaks sessions*: what else it says in frames under a ring key is
  believed only as far as a recording would be (transport.py), also after a restart of this node.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netgossip.codec.sealing import Keyring
from netgossip.deadlines import NEVER
from netgossip.errors import WireError
from netgossip.join.identity import Identity, node_id_of, verify
from netgossip.records.frames import SESSION_ID_BYTES, Session, key_id
from netgossip.types import NodeId

REKEY_S: Final = 3600.0
REKEY_FRAMES: Final = 1 << 20
"""Frames that one side seals under one session before it asks for another."""
LIFETIME_S: Final = 2 * REKEY_S
"""Nothing is sent under an older session. It gets so old only where no packet passes."""
OVERLAP_S: Final = 60.0
UNCONFIRMED_S: Final = 10.0
"""A session that we answered is dropped if the peer does not speak under it."""
RESTARTED_S: Final = 2.0
"""For so long an unconfirmed session of a later start is preferred to the confirmed one."""
OFFER_S: Final = 60.0
SWEEP_S: Final = 15.0
SESSIONS_LIMIT: Final = 8
"""Bound of unconfirmed sessions per peer, and of confirmed ones; beyond it: the oldest is dropped. Recorded Hellos
are answered 20 times a second, so a true one is kept for 0.4 s at least, two round trips."""
SPEAKERS_LIMIT: Final = 65_536
"""Bound of nodes remembered to speak sessions; beyond it: further ones are believed like those of an earlier release.
Only members are noted."""
ANSWERS_PER_S: Final = 256
"""Bound of answers made and checked per second, in all; beyond it: no answer, the peer repeats. 0.4 ms each."""
ANSWERS_AT_ONCE: Final = 1024
"""Bound of answers made and checked in one second after a pause; beyond it: no answer, the peer repeats. All hosts of
a large cluster ask a host that has restarted at once."""
ANSWERS_RESERVED: Final = 256
"""Of these, so many are for peers that had none for SELDOM_S: who has the ring key and names a few members must not
use up what the others need."""
SELDOM_S: Final = 10.0

_DOMAIN_OFFER: Final = b"netagent session offer v1"
_DOMAIN_ANSWER: Final = b"netagent session answer v1"
_INFO_KEYS: Final = b"netagent session keys v1"
_KEY_BYTES: Final = 32


@dataclass(slots=True)
class _Offer:
    """Our part of a handshake that has not been answered."""

    nonce: bytes
    private_key: X25519PrivateKey
    ephemeral: bytes
    made_at: float


class Sessions:
    """All sessions of a node. `identity` None: it neither offers sessions nor answers offers."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        epoch: int,
        identity: Identity | None,
        keyring: Keyring,
        label: bytes,
        rng: random.Random,
        speakers: Iterable[NodeId] = (),
    ) -> None:
        """`speakers`: peers that have shown in an earlier run that they speak sessions."""
        self._node_id = node_id
        self._epoch = epoch
        self._identity = identity
        self._keyring = keyring
        self._label = label
        self._rng = rng
        self._offers: dict[NodeId, _Offer] = {}
        self._sessions: dict[NodeId, list[Session]] = {}
        """In the order in which they were made."""
        self._speakers = set(speakers)
        self._new_speakers: list[NodeId] = []
        self._kept: set[NodeId] = set()
        """Live peers."""
        self._sweep_at = NEVER
        self._answers_left = float(ANSWERS_AT_ONCE)
        self._answers_at = 0.0
        self._computed_at: dict[NodeId, float] = {}
        """When work was last done in a peer's name."""

    # Handshake.

    def offer(self, peer: NodeId, nonce: bytes, now: float) -> bytes:
        """Return the offer for a Hello, in place of the last one to this peer. About 0.15 ms."""
        if self._identity is None:
            return b""
        private_key, ephemeral = self._ephemeral()
        self._offers[peer] = _Offer(nonce, private_key, ephemeral, now)
        self._sweep_at = min(self._sweep_at, now + SWEEP_S)
        signed = self._offer_text(self._node_id, peer, self._epoch, nonce, ephemeral)
        return self._identity.public_key + ephemeral + self._identity.sign(signed)

    def answer(self, peer: NodeId, epoch: int, nonce: bytes, offer: bytes, now: float) -> bytes | None:
        """Return the answer to a peer's offer, after which there is a session that the peer has to confirm; empty if
        this node speaks none, None if there may be no answer now. Raises WireError. About 0.4 ms."""
        if self._identity is None:
            return b""
        public_key, ephemeral, signature = _cut(offer, 32, 32, 64)
        if node_id_of(public_key) != peer:
            raise WireError("an offer of another node")
        if not self._may_compute(peer, now):
            return None
        if not verify(public_key, signature, self._offer_text(peer, self._node_id, epoch, nonce, ephemeral)):
            raise WireError("an offer that is not signed")
        private_key, own = self._ephemeral()
        ring_key = self._keyring.primary
        transcript = self._transcript(
            (peer, self._node_id), (epoch, self._epoch), nonce, (ephemeral, own), ring_key
        )
        keys = _derive(private_key, ephemeral, ring_key, transcript)
        self._add(_session(peer, epoch, keys, now, asked_by=peer))
        self._note_speaker(peer)
        ring_id = key_id(ring_key, self._label)
        return self._identity.public_key + own + ring_id + self._identity.sign(transcript)

    def take_answer(self, peer: NodeId, epoch: int, nonce: bytes, answer: bytes, now: float) -> bool:
        """True if this answers our offer: there is a session now, and the peer is live. Raises WireError for an
        answer that is not the peer's; our offer is open then as before. About 0.2 ms."""
        offer = self._offers.get(peer)
        if self._identity is None or offer is None or offer.nonce != nonce:
            return False
        public_key, ephemeral, ring_id, signature = _cut(answer, 32, 32, 4, 64)
        if node_id_of(public_key) != peer:
            raise WireError("an answer of another node")
        ring_key = next((key for key in self._keyring.keys if key_id(key, self._label) == ring_id), None)
        if ring_key is None or not self._may_compute(peer, now):
            return False
        transcript = self._transcript(
            (self._node_id, peer), (self._epoch, epoch), nonce, (offer.ephemeral, ephemeral), ring_key
        )
        if not verify(public_key, signature, transcript):
            raise WireError("an answer that is not signed")
        keys = _derive(offer.private_key, ephemeral, ring_key, transcript)
        del self._offers[peer]
        session = _session(peer, epoch, keys, now, asked_by=self._node_id)
        session.is_confirmed = True
        self._add(session)
        self._drop_other_starts(session)
        self._note_speaker(peer)
        return True

    # Use.

    def speaks(self, peer: NodeId) -> bool:
        """True once the peer has shown that it speaks sessions; it is not forgotten with the peer."""
        return peer in self._speakers

    def take_new_speakers(self) -> list[NodeId]:
        """Peers that have shown it for the first time since the last call."""
        taken, self._new_speakers = self._new_speakers, []
        return taken

    def find(self, peer: NodeId, session_id: bytes) -> Session | None:
        """The session under which a frame of the peer may open."""
        return next((one for one in self._sessions.get(peer, ()) if one.session_id == session_id), None)

    def for_sending(self, peer: NodeId, now: float) -> Session | None:
        """The session under which the peer is told something now."""
        known = self._sessions.get(peer)
        if not known:
            return None
        usable = [one for one in known if one.is_confirmed and now < one.made_at + LIFETIME_S]
        best = max(usable, key=lambda one: (self._is_asked_by_lower(one), one.number), default=None)
        waiting = [one for one in known if not one.is_confirmed]
        if waiting:
            newest = waiting[-1]
            if best is None or (newest.epoch > best.epoch and now < newest.made_at + RESTARTED_S):
                return newest
        return best

    def note_heard(self, session: Session, now: float) -> bool:
        """Note that a fresh frame of the peer opened under the session: the peer has it, so it is confirmed. True the
        first time."""
        known = self._sessions.get(session.peer, [])
        # A frame may have waited while the peer restarted, and its session ended.
        if session.is_heard or not any(one is session for one in known):
            return False
        others = [one for one in known if one.is_confirmed and one is not session]
        if len(others) >= SESSIONS_LIMIT:  # a recording that is played leads to many handshakes
            known.remove(others[0])
        session.is_confirmed = session.is_heard = True
        self._drop_other_starts(session)
        rank = (self._is_asked_by_lower(session), session.number)
        for one in known:
            if one.is_confirmed and (self._is_asked_by_lower(one), one.number) < rank:
                one.ends_at = min(one.ends_at, now + OVERLAP_S)
        return True

    def keep(self, peer: NodeId) -> None:
        """Renew the sessions with this peer, which is live."""
        self._kept.add(peer)

    def is_kept(self, peer: NodeId) -> bool:
        """True between `keep` and `let_expire`."""
        return peer in self._kept

    def let_expire(self, peer: NodeId) -> None:
        """Renew the sessions with this peer no more."""
        self._kept.discard(peer)

    def forget(self, peer: NodeId) -> None:
        """End all sessions with the peer now."""
        self._sessions.pop(peer, None)
        self._offers.pop(peer, None)
        self._computed_at.pop(peer, None)
        self._kept.discard(peer)

    def handle_deadline(self, now: float) -> list[NodeId]:
        """Drop what is over; return the peers with which a new session is due."""
        if now < self._sweep_at:
            return []
        for peer in [peer for peer, one in self._offers.items() if one.made_at + OFFER_S <= now]:
            del self._offers[peer]
        for peer, known in list(self._sessions.items()):
            known[:] = [one for one in known if now < _end_of(one)]
            if not known:
                del self._sessions[peer]
        renewed = sorted(self._kept & self._speakers)
        self._sweep_at = now + SWEEP_S if self._sessions or self._offers or renewed else NEVER
        return [peer for peer in renewed if self._is_due(peer, now)]

    def _is_due(self, peer: NodeId, now: float) -> bool:
        current = self.for_sending(peer, now)
        patience = 1.0 if self._node_id < peer else 1.25
        return current is None or (
            now >= current.made_at + REKEY_S * patience or current.sealed >= REKEY_FRAMES * patience
        )

    def next_deadline(self) -> float:
        """When `handle_deadline` has something to do."""
        return self._sweep_at

    def check_invariants(self) -> None:
        """Raise AssertionError if a bound is exceeded."""
        for known in self._sessions.values():
            assert sum(one.is_confirmed for one in known) <= SESSIONS_LIMIT
            assert sum(not one.is_confirmed for one in known) <= SESSIONS_LIMIT

    # Inside.

    def _add(self, session: Session) -> None:
        known = self._sessions.setdefault(session.peer, [])
        alike = [one for one in known if one.is_confirmed == session.is_confirmed]
        if len(alike) >= SESSIONS_LIMIT:
            known.remove(alike[0])
        session.number = known[-1].number + 1 if known else 1
        known.append(session)
        self._sweep_at = min(self._sweep_at, session.made_at + SWEEP_S)

    def _drop_other_starts(self, session: Session) -> None:
        """The peer's start is that of `session`: what another one said opens no more."""
        known = self._sessions[session.peer]
        known[:] = [one for one in known if one.epoch == session.epoch or not one.is_confirmed]

    def _is_asked_by_lower(self, session: Session) -> bool:
        return session.asked_by == min(self._node_id, session.peer)

    def _note_speaker(self, peer: NodeId) -> None:
        if peer not in self._speakers and len(self._speakers) < SPEAKERS_LIMIT:
            self._speakers.add(peer)
            self._new_speakers.append(peer)

    def _may_compute(self, peer: NodeId, now: float) -> bool:
        gained = max(now - self._answers_at, 0.0) * ANSWERS_PER_S
        self._answers_left, self._answers_at = min(self._answers_left + gained, ANSWERS_AT_ONCE), now
        is_seldom = now - self._computed_at.get(peer, float("-inf")) >= SELDOM_S
        if self._answers_left < (1 if is_seldom else 1 + ANSWERS_RESERVED):
            return False
        self._answers_left -= 1
        self._computed_at[peer] = now
        return True

    def _ephemeral(self) -> tuple[X25519PrivateKey, bytes]:
        private_key = X25519PrivateKey.from_private_bytes(self._rng.randbytes(_KEY_BYTES))
        return private_key, private_key.public_key().public_bytes_raw()

    def _offer_text(self, asker: NodeId, peer: NodeId, epoch: int, nonce: bytes, ephemeral: bytes) -> bytes:
        ids = (bytes.fromhex(asker), bytes.fromhex(peer))
        return _joined(_DOMAIN_OFFER, (self._label, *ids, epoch.to_bytes(8, "big"), nonce, ephemeral))

    def _transcript(
        self,
        ids: tuple[NodeId, NodeId],
        epochs: tuple[int, int],
        nonce: bytes,
        ephemerals: tuple[bytes, bytes],
        ring_key: bytes,
    ) -> bytes:
        """What the answer's signature covers and the keys depend on; the asker comes first in each pair."""
        fields = (
            self._label,
            *map(bytes.fromhex, ids),
            *(epoch.to_bytes(8, "big") for epoch in epochs),
            nonce,
            *ephemerals,
            key_id(ring_key, self._label),
        )
        return _joined(_DOMAIN_ANSWER, fields)


def _end_of(session: Session) -> float:
    return session.ends_at if session.is_confirmed else session.made_at + UNCONFIRMED_S


def _joined(domain: bytes, fields: Sequence[bytes]) -> bytes:
    return domain + b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _cut(data: bytes, *sizes: int) -> list[bytes]:
    assert len(data) == sum(sizes), "the parser allows no other length"
    parts, start = [], 0
    for size in sizes:
        parts.append(data[start : start + size])
        start += size
    return parts


def _derive(private_key: X25519PrivateKey, other: bytes, ring_key: bytes, transcript: bytes) -> bytes:
    try:
        shared = private_key.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise WireError("an ephemeral key of small order") from None
    salt = hashlib.sha256(transcript).digest()
    size = 2 * _KEY_BYTES + SESSION_ID_BYTES
    return HKDF(SHA256(), size, salt=salt, info=_INFO_KEYS).derive(shared + ring_key)


def _session(peer: NodeId, epoch: int, keys: bytes, now: float, *, asked_by: NodeId) -> Session:
    of_asker, of_other, session_id = _cut(keys, _KEY_BYTES, _KEY_BYTES, SESSION_ID_BYTES)
    opening, sealing = (of_asker, of_other) if asked_by == peer else (of_other, of_asker)
    return Session(
        peer=peer,
        epoch=epoch,
        session_id=session_id,
        asked_by=asked_by,
        sealing=AESGCM(sealing),
        opening=AESGCM(opening),
        made_at=now,
        ends_at=now + LIFETIME_S + OVERLAP_S,
    )
