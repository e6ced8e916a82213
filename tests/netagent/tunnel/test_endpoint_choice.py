"""Which endpoint of a peer is tried when: properties over a small model of the device and of the paths to a peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from netagent.tunnel.endpoint_choice import (
    LONGEST_PAUSE_S,
    MAX_CANDIDATES,
    SILENT_S,
    TRY_S,
    Attempt,
    EndpointChoice,
)
from netagent.tunnel.peer import PeerEndpoint, PeerState

KEY = bytes(31) + b"a"
PLACES = [("192.0.2.1", 7955), ("198.51.100.7", 40000), ("192.0.2.9", 7955), ("203.0.113.5", 7955)]
candidate_lists = st.lists(st.sampled_from(PLACES), min_size=1, max_size=4, unique=True).map(tuple)
HOUR_S = 3600.0


@dataclass
class Path:
    """A peer and the device's view of it: what is sent to `works_at` is answered, and the host sends each second."""

    candidates: tuple[PeerEndpoint, ...]
    works_at: PeerEndpoint | None
    now: float = 0.0
    endpoint: PeerEndpoint | None = None
    handshake_at: float | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    choice: EndpointChoice = field(default_factory=EndpointChoice)
    tried: list[tuple[float, PeerEndpoint]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.endpoint = self.candidates[0]

    @property
    def state(self) -> PeerState:
        ago = None if self.handshake_at is None else self.now - self.handshake_at
        return PeerState(
            endpoint=self.endpoint,
            handshake_s_ago=ago,
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
        )

    def run(self, until_s: float) -> None:
        while self.now < until_s:
            self.sent_bytes += 148
            if self.endpoint is not None and self.endpoint == self.works_at:
                if self.handshake_at is None or self.now - self.handshake_at > 120.0:
                    self.handshake_at = self.now
                self.received_bytes += 92
            for attempt in self.choice.look({KEY: self.candidates}, {KEY: self.state}, self.now).values():
                self.take(attempt)
            self.now += 1.0

    def take(self, attempt: Attempt) -> None:
        self.tried.append((self.now, attempt.endpoint))
        self.endpoint = attempt.endpoint
        if attempt.is_new:
            self.handshake_at, self.received_bytes, self.sent_bytes = None, 0, 0


@given(candidate_lists, st.data())
def test_the_candidate_that_answers_is_found_and_kept(
    candidates: tuple[PeerEndpoint, ...], data: st.DataObject
) -> None:
    path = Path(candidates, works_at=data.draw(st.sampled_from(candidates)))
    path.run(2 * MAX_CANDIDATES * TRY_S)
    assert path.endpoint == path.works_at
    tried = len(path.tried)
    path.run(HOUR_S)
    assert len(path.tried) == tried, "a peer that answers is left alone"


@given(candidate_lists)
def test_what_never_answers_is_tried_less_and_less_often(candidates: tuple[PeerEndpoint, ...]) -> None:
    path = Path(candidates, works_at=None)
    path.run(HOUR_S)
    for candidate in candidates:
        assert 1 <= sum(1 for _, one in path.tried if one == candidate) <= HOUR_S / LONGEST_PAUSE_S + 8
    assert {one for _, one in path.tried} == set(candidates)


@given(candidate_lists, st.sampled_from(PLACES))
def test_a_peer_that_roams_is_followed_by_the_device_alone(
    candidates: tuple[PeerEndpoint, ...], roamed: PeerEndpoint
) -> None:
    path = Path(candidates, works_at=candidates[0])
    path.run(100.0)
    path.endpoint = path.works_at = roamed
    path.run(HOUR_S)
    assert path.tried == []
    # It moves again without being heard, to where its record says.
    path.works_at = path.candidates[-1]
    path.run(HOUR_S + SILENT_S + MAX_CANDIDATES * TRY_S + 2.0)
    assert path.endpoint == path.works_at


def test_a_peer_that_says_it_has_moved_is_looked_for_at_once() -> None:
    path = Path((PLACES[0],), works_at=PLACES[0])
    path.run(100.0)
    path.candidates, path.works_at = (PLACES[2],), PLACES[2]
    path.run(106.0)
    assert path.endpoint == PLACES[2]
    assert path.handshake_at is not None, "with the session that it has"


def test_a_peer_to_which_nothing_is_sent_is_not_silent() -> None:
    path = Path((PLACES[0], PLACES[1]), works_at=PLACES[1])
    path.run(30.0)
    path.choice.look({KEY: path.candidates}, {KEY: path.state}, path.now)
    for second in range(100):
        assert path.choice.look({KEY: path.candidates}, {KEY: path.state}, path.now + second) == {}


def test_no_more_candidates_than_the_bound_are_tried() -> None:
    many = tuple(("192.0.2.1", 1000 + number) for number in range(3 * MAX_CANDIDATES))
    path = Path(many, works_at=None)
    path.run(HOUR_S)
    assert {one for _, one in path.tried} == set(many[:MAX_CANDIDATES])


def test_a_peer_that_nobody_can_name_is_waited_for() -> None:
    path = Path((PLACES[0],), works_at=None)
    path.candidates, path.endpoint = (), None
    path.run(100.0)
    assert path.tried == []
