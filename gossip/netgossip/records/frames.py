"""How the record channel seals its frames: under a session's key, or under one made from a ring key; counters as
nonces.

    frame = magic 'N', version, flags, key id(4), sender(16), epoch(8), counter(8), length(2), sealed body
            \\_______________________ unencrypted, authenticated __________________________/

The same frame is a datagram's payload and, several in a row, a stream. A datagram has a second one where a Welcome
comes with what follows it under the session that it makes.

Version 2, in a session (sessions.py):

- Key: of the session, one per direction; the key id is the session's. Only the two peers have it, and no key that is
  kept leads to it. Nonce: the counter, which is the sender's one sequence for all of its frames.
- Proof: a session is younger than our part of its keys, so whatever opens under it is of the peer's present start.
  Nobody else can have sealed it. A window of 1,024 counters per session refuses replays.
- What went over a stream does not open as a datagram, nor the other way round.

Version 1, under a ring key: Hello and Welcome, all that is said before there is a session, and everything between
hosts of which one has no sessions. Any holder of the ring key can make such a frame in any member's name. From a peer
that has shown a session it therefore counts as a recording would. What follows is of version 1:

- Key: HKDF-SHA256(ring key, salt = cluster label, info = "netgossip record" + sender + epoch). Nonce: the counter.
  No two senders share a key, so counters suffice, and no birthday bound limits how much is sealed under a ring
  key (memberlist's random nonces would reach it in hours at our rate).
- Epoch: the sender's persisted start counter, then 32 random bits, so that a start counter which a restored disk
  rolls back does not repeat a nonce.
- Recipient: part of the authenticated data though not on the wire. A frame for one node can't be replayed to
  another.
- Replay: a session is (sender, epoch), and it must be *admitted* before anything that is not idempotent is
  believed: the receiver sends a random nonce (Hello) and the sender returns it under that epoch (Welcome). The
  window of 1,024 counters opens at the Welcome's counter; older frames stay refused. An admitted session displaces
  the sender's former one, whether its epoch is higher or lower: the proof decides, not the number, so a host with a
  restored disk is admitted and a recording is not.
- On streams (whose frames may come long after later datagrams) only messages count that may be repeated: deltas,
  digests, vectors, fetches. Their versions order them, not their arrival. The counters of a sender's streams rise
  from one stream to the next.
- Before admission, in frames that were sealed before it, and in frames of a stream that was received once before,
  only those count which also say nothing of the present: deltas and digests. They are answered once a second. An old
  vector would confirm that a restarted node holds all there is, and one old fetch, replayed again and again, would
  make us send whole logs.

Rejected: a handshake before the first byte (a round trip lost on each first contact; most messages don't need it),
and a persisted table of every peer's last epoch (a file to write for each restart of each peer).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netgossip.codec.sealing import Keyring
from netgossip.errors import EarlyError, SealError, UnknownSessionError, WireError
from netgossip.types import NodeId

MAGIC: Final = 0x4E
JOIN_MAGIC: Final = 0x4A
"""A stream whose first byte this is ('J') is a join conversation and has no frames."""
RETURN_MAGIC: Final = 0x52
"""The same for a host that returns by its identity ('R')."""
VERSION: Final = 1
SESSION_VERSION: Final = 2
"""A frame under a session's key: it has the session's id in place of the ring key's."""
SESSION_ID_BYTES: Final = 4
HEADER: Final = struct.Struct(">BBB4s16sQQH")
HEADER_BYTES: Final = HEADER.size
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES

MORE: Final = 1
"""Flag, streams only: the body continues in the next frame."""
LAST: Final = 2
"""Flag, streams only: the dialler sends no more."""

BODY_LIMIT_BYTES: Final = 0xFFFF - TAG_BYTES
"""Limit of one frame; the most that an unknown source can make us buffer on a stream before the seal is checked."""

WINDOW: Final = 1024
"""Counters. A sender numbers its frames to all peers in one sequence, so most of this reordering comes from other
peers."""

_WAY: Final = (b"datagram", b"stream")
_INFO_KEY: Final = b"netgossip record"
_INFO_ID: Final = b"netgossip key id"


@dataclass(frozen=True, slots=True)
class Header:
    """The unencrypted part of a frame."""

    flags: int
    key_id: bytes
    sender: NodeId
    epoch: int
    counter: int
    sealed_bytes: int
    in_session: bool = False


def parse_header_untrusted(data: bytes | bytearray) -> Header:
    """Parse the first HEADER_BYTES of a frame. Raises WireError."""
    if len(data) < HEADER_BYTES:
        raise WireError("frame cut off")
    magic, version, flags, key_id, sender, epoch, counter, sealed = HEADER.unpack_from(data)
    if magic != MAGIC or version not in (VERSION, SESSION_VERSION):
        raise WireError("not a record frame")
    if sealed < TAG_BYTES:
        raise WireError("frame without a seal")
    return Header(flags, key_id, sender.hex(), epoch, counter, sealed, version == SESSION_VERSION)


class ReplayWindow:
    """Which of the last 1,024 counters were seen; everything before them counts as seen."""

    __slots__ = ("_highest", "_seen")

    def __init__(self, highest: int) -> None:
        self._highest = highest
        self._seen = (1 << WINDOW) - 1

    def accept(self, counter: int) -> bool:
        """True the first time that `counter` comes."""
        ahead = counter - self._highest
        if ahead > 0:
            shifted = self._seen << ahead if ahead < WINDOW else 0
            self._seen = (shifted | 1) & ((1 << WINDOW) - 1)
            self._highest = counter
            return True
        if -ahead >= WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True

    def has_seen(self, counter: int) -> bool:
        """True for a counter inside the window that came; unlike in `accept`, counters before the window count as not
        seen."""
        behind = self._highest - counter
        return 0 <= behind < WINDOW and bool(self._seen >> behind & 1)


class Sealer:
    """Seals our own frames. The epoch is that of this start, see the head of this file."""

    def __init__(self, *, node_id: NodeId, epoch: int, keyring: Keyring, label: bytes) -> None:
        self._node = bytes.fromhex(node_id)
        self._epoch = epoch
        self._keyring = keyring
        self._label = label
        self._counter = 0
        self._generation = -1
        self._key_id = b""
        self._cipher: AESGCM | None = None

    def seal(
        self,
        recipient: NodeId,
        body: bytes,
        *,
        flags: int = 0,
        session: Session | None = None,
        stream: bool = False,
    ) -> bytes:
        """Seal one frame under the ring key, or under a session's; `body` at most BODY_LIMIT_BYTES. `stream`: it goes
        over a stream; under a session it opens nowhere else."""
        # One sequence for both: under each key a counter comes once.
        self._counter += 1
        if session is None:
            cipher = self._current()
            version, key = VERSION, self._key_id
        else:
            cipher, version, key = session.sealing, SESSION_VERSION, session.session_id
            session.sealed += 1
        header = HEADER.pack(
            MAGIC, version, flags, key, self._node, self._epoch, self._counter, len(body) + TAG_BYTES
        )
        additional = header + bytes.fromhex(recipient)
        if session is not None:
            additional += _WAY[stream]
        return header + cipher.encrypt(_nonce(self._counter), body, additional)

    def _current(self) -> AESGCM:
        if self._cipher is None or self._generation != self._keyring.generation:
            key = self._keyring.primary
            self._key_id = key_id(key, self._label)
            self._cipher = _cipher(key, self._label, self._node, self._epoch)
            self._generation = self._keyring.generation
        return self._cipher


@dataclass(frozen=True, slots=True)
class Opened:
    """An authentic frame. `fresh`: sealed after its session was admitted, and on a stream not seen on an earlier one.
    `proven`: fresh, and not a replay. `session`: the one under whose key it was sealed; None: under a ring key."""

    sender: NodeId
    epoch: int
    counter: int
    body: bytes
    fresh: bool
    proven: bool
    session: Session | None = None


@dataclass(slots=True)
class Session:
    """Keys that we have agreed on with one start of a peer (sessions.py), and which of its frames came under them."""

    peer: NodeId
    epoch: int
    """The peer's."""
    session_id: bytes
    asked_by: NodeId
    sealing: AESGCM
    opening: AESGCM
    made_at: float
    ends_at: float
    """When it opens no more."""
    number: int = 0
    """Rises from one session with the peer to the next."""
    is_confirmed: bool = False
    """The peer has shown that it has the keys."""
    is_heard: bool = False
    """A fresh frame came under it."""
    sealed: int = 0
    """Frames sealed by us."""
    window: ReplayWindow = field(default_factory=lambda: ReplayWindow(0))
    streamed: int = 0
    """The highest counter that came on a stream."""


class _Sender:
    """What we keep of one sender: the admitted epoch with its first counter, and the ciphers used recently."""

    __slots__ = ("ciphers", "epoch", "first", "streamed", "window")

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.first = 0
        self.streamed = 0
        """The highest counter that came on a stream."""
        self.window = ReplayWindow(0)
        self.ciphers: dict[tuple[bytes, int], AESGCM] = {}


class Opener:
    """Opens others' frames. The caller names the senders it knows; all others are refused before any cryptography."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        keyring: Keyring,
        label: bytes,
        find_session: Callable[[NodeId, bytes], Session | None] = lambda _sender, _session_id: None,
        has_sessions: Callable[[NodeId], bool] = lambda _sender: False,
    ) -> None:
        """`has_sessions`: a sender that proves itself by sessions; what comes in its name under a ring key proves
        nothing."""
        self._node = bytes.fromhex(node_id)
        self._keyring = keyring
        self._label = label
        self._find_session = find_session
        self._has_sessions = has_sessions
        self._senders: dict[NodeId, _Sender] = {}
        self._refused: set[NodeId] = set()
        self._keys: dict[bytes, bytes] = {}
        self._generation = -1

    def know(self, sender: NodeId) -> None:
        """Open frames of `sender` from now on."""
        self._senders.setdefault(sender, _Sender())

    def forget(self, sender: NodeId) -> None:
        """Refuse frames of `sender` from now on."""
        self._senders.pop(sender, None)

    def refuse(self, sender: NodeId, *, refused: bool) -> None:
        """Refuse what names `sender` for another reason than that it is unknown, or no longer."""
        (self._refused.add if refused else self._refused.discard)(sender)

    def is_refused(self, sender: NodeId) -> bool:
        """True for a sender that is refused for another reason than that it is unknown."""
        return sender in self._refused

    def is_admitted(self, sender: NodeId) -> bool:
        """True while there is an admitted session of `sender`."""
        session = self._senders.get(sender)
        return session is not None and session.epoch is not None

    def is_current(self, frame: Opened) -> bool:
        """True when `frame` is of the admitted session of its sender."""
        session = self._senders.get(frame.sender)
        return session is not None and session.epoch == frame.epoch

    def is_early(self, frame: Opened) -> bool:
        """True when `frame` may be of a start that is about to prove itself, or from before its proof; False when it
        is of a start that has ended."""
        session = self._senders.get(frame.sender)
        if session is None or session.epoch is None:
            return True
        return frame.epoch > session.epoch or (
            frame.epoch == session.epoch and frame.counter <= session.first
        )

    def admit(self, frame: Opened) -> bool:
        """Make the session of `frame`, which was proven live, the sender's current one. True when it was not so
        before."""
        session = self._senders[frame.sender]
        if session.epoch == frame.epoch:
            return False
        session.epoch, session.first, session.window = frame.epoch, frame.counter, ReplayWindow(frame.counter)
        session.streamed = frame.counter
        return True

    def open_untrusted(self, header: Header, frame: bytes | bytearray, *, stream: bool = False) -> Opened:
        """Check and decrypt one whole frame. Raises SealError for a key that we lack, WireError otherwise."""
        known = self._senders.get(header.sender)
        if known is None:
            raise WireError(
                "sender is revoked" if header.sender in self._refused else "sender is not a member"
            )
        if len(frame) != HEADER_BYTES + header.sealed_bytes:
            raise WireError("frame of another length than it says")
        if header.in_session:
            return self._open_in_session_untrusted(header, frame, stream=stream)
        return self._open_under_ring_untrusted(header, frame, known, stream=stream)

    def _open_under_ring_untrusted(
        self, header: Header, frame: bytes | bytearray, known: _Sender, *, stream: bool
    ) -> Opened:
        key = self._ring().get(header.key_id)
        if key is None:
            raise SealError("wrong-key")
        cipher = known.ciphers.get((header.key_id, header.epoch))
        fresh = cipher is None
        if cipher is None:
            cipher = _cipher(key, self._label, bytes.fromhex(header.sender), header.epoch)
        additional = bytes(frame[:HEADER_BYTES]) + self._node
        try:
            body = cipher.decrypt(_nonce(header.counter), bytes(frame[HEADER_BYTES:]), additional)
        except InvalidTag:
            raise SealError("wrong-key") from None
        if fresh:
            if len(known.ciphers) >= 4:  # the current and the next key, of the last and the present start
                known.ciphers.clear()
            known.ciphers[header.key_id, header.epoch] = cipher
        # Any member can have sealed it in the name of a host with sessions: a high counter of a liar's must not make
        # the host's own next Hello look like a replay.
        current = known.epoch == header.epoch and not self._has_sessions(header.sender)
        proven = current and not stream
        if proven and header.counter < known.first:
            raise EarlyError("sealed before the sender's proof")
        if proven and not known.window.accept(header.counter):
            raise WireError("replayed")
        fresh = current and header.counter > known.first
        if stream and fresh:
            # A sender has one stream to us at a time. So a counter that is not above all that came belongs to a
            # stream that has broken, or to a recording: it may bring content, and says nothing of the present.
            fresh = header.counter > known.streamed and not known.window.has_seen(header.counter)
            known.streamed = header.counter if fresh else known.streamed
        return Opened(header.sender, header.epoch, header.counter, body, fresh, proven)

    def _open_in_session_untrusted(self, header: Header, frame: bytes | bytearray, *, stream: bool) -> Opened:
        session = self._find_session(header.sender, header.key_id)
        if session is None or session.epoch != header.epoch:
            raise UnknownSessionError("no such session")
        additional = bytes(frame[:HEADER_BYTES]) + self._node + _WAY[stream]
        try:
            body = session.opening.decrypt(_nonce(header.counter), bytes(frame[HEADER_BYTES:]), additional)
        except InvalidTag:
            raise SealError("wrong-key") from None
        # The session is younger than our part of its keys, so every frame under it is of the peer's present start.
        if not stream:
            if not session.window.accept(header.counter):
                raise WireError("replayed")
            return Opened(header.sender, header.epoch, header.counter, body, True, True, session)
        fresh = header.counter > session.streamed and not session.window.has_seen(header.counter)
        session.streamed = max(session.streamed, header.counter)
        return Opened(header.sender, header.epoch, header.counter, body, fresh, False, session)

    def _ring(self) -> dict[bytes, bytes]:
        if self._generation != self._keyring.generation:
            self._keys = {key_id(key, self._label): key for key in self._keyring.keys}
            self._generation = self._keyring.generation
            for session in self._senders.values():
                session.ciphers.clear()
        return self._keys


class FrameReader:
    """Cuts a stream into frames. Holds at most one frame and the data that came with it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> list[tuple[Header, bytes]]:
        """Return the frames completed by `data`. Raises WireError when the stream does not consist of frames."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= HEADER_BYTES:
            header = parse_header_untrusted(self._buffer)
            end = HEADER_BYTES + header.sealed_bytes
            if len(self._buffer) < end:
                break
            frames.append((header, bytes(self._buffer[:end])))
            del self._buffer[:end]
        return frames


def key_id(key: bytes, label: bytes) -> bytes:
    """Four bytes that identify a ring key without revealing anything about it."""
    return HKDF(SHA256(), 4, salt=label, info=_INFO_ID).derive(key)


def _cipher(key: bytes, label: bytes, sender: bytes, epoch: int) -> AESGCM:
    info = _INFO_KEY + sender + epoch.to_bytes(8, "big")
    return AESGCM(HKDF(SHA256(), len(key), salt=label, info=info).derive(key))


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
