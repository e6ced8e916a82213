"""An eviction of a live host does not count at once; an ordinary one, of a dead host, does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.registry import H1, H2, H3, Writer, entry, event, host

from netagent.membership.held_evictions import CALM_S, HOLD_S, MAX_HELD, SILENT_S, HeldEvictions
from netagent.model.ids import HostId
from netagent.model.records import ForgetRecord
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Member, MemberState

START = 100.0
CALM = START + CALM_S


class Host:
    """H1, which has been in touch with H2 and H3 since START."""

    def __init__(self) -> None:
        self.words = HeldEvictions(H1)
        self.view = RegistryView(H1)
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.words.note_synced(START)
        for one in (H2, H3):
            self.member(one, MemberState.ALIVE, START)

    def member(self, host_id: str, state: MemberState, now: float) -> None:
        self.words.note_member(Member(host_id, ("192.0.2.9", 7956), state, 1), now)

    def hear(self, change: EntriesChanged, now: float) -> None:
        self.view = self.view.with_entries(self.words.sift(change, now))

    def look(self, now: float) -> None:
        for one in self.words.take_due(self.view.evicted, now):
            self.view = self.view.with_entries(one)

    def says(self, writer: HostId, of: HostId) -> EntriesChanged:
        return self.writers[writer].put(ForgetRecord(of, settled=True))


@pytest.mark.parametrize("target", [H1, H2], ids=["this host", "another"])
def test_an_eviction_of_a_live_host_is_held(target: HostId) -> None:
    one = Host()
    one.hear(one.says(H3, target), CALM)
    one.look(CALM + HOLD_S - 1)
    assert not one.view.evicted
    assert [(word.writer, word.host) for word in one.words.waiting] == [(H3, target)]
    one.look(CALM + HOLD_S)
    assert dict(one.view.evicted) == {target: frozenset({H3})}
    assert not one.words.waiting


def test_it_counts_when_the_host_falls_silent() -> None:
    one = Host()
    one.hear(one.says(H3, H2), CALM)
    one.member(H2, MemberState.DEAD, CALM + 5)
    one.look(CALM + 5 + SILENT_S)
    assert H2 in one.view.evicted


@pytest.mark.parametrize("state", [MemberState.DEAD, MemberState.LEFT])
def test_a_false_claim_that_the_host_is_dead_does_not_end_the_wait(state: MemberState) -> None:
    """It takes one datagram, and the host refutes it."""
    one = Host()
    one.member(H2, state, CALM)
    one.member(H2, MemberState.ALIVE, CALM + 1)
    one.hear(one.says(H3, H2), CALM + 2)
    one.member(H2, state, CALM + 60)
    one.look(CALM + 61)
    one.member(H2, MemberState.ALIVE, CALM + 62)
    one.look(CALM + HOLD_S)
    assert not one.view.evicted
    assert [word.host for word in one.words.waiting] == [H2]


def test_evictions_under_keys_of_others_take_no_slots() -> None:
    words = HeldEvictions(H1)
    words.note_synced(START)
    for host_id in (H2, H3):
        words.note_member(Member(host_id, ("192.0.2.9", 7956), MemberState.ALIVE, 1), START)
    good = Writer(H3).put(ForgetRecord(H2, settled=True))
    entries = tuple(replace(good.entries[0], key=b"f" + bytes([n, 0])) for n in range(100))
    words.sift(replace(good, entries=entries), CALM)
    assert not words.waiting


def test_it_can_be_taken_back_or_replaced() -> None:
    one = Host()
    one.hear(one.says(H3, H2), CALM)
    one.hear(one.writers[H3].delete(ForgetRecord(H2, settled=True)), CALM + 1)
    one.hear(one.says(H3, H2), CALM + 2)
    one.hear(event(H3, entry(H3, host("h3"), 9), replaced=True, scope=CLUSTER_SCOPE), CALM + 3)
    one.look(CALM + 2 * HOLD_S)
    assert not one.view.evicted
    assert not one.words.waiting


def test_who_says_the_same_of_the_writer_contests_it() -> None:
    """On the third host, which sees both alive: neither eviction counts in the end."""
    one = Host()
    one.hear(one.says(H3, H2), CALM)
    one.hear(one.says(H2, H3), CALM + 60)
    for now in (CALM + 61, CALM + HOLD_S, CALM + HOLD_S + 60):
        one.look(now)
        assert not one.view.evicted
    assert set(one.view.store.evictions) == {H2, H3}
    assert not one.view.evicted


def test_evictions_by_a_host_that_is_evicted_meanwhile_do_not_count() -> None:
    one = Host()
    one.hear(one.says(H3, H2), CALM)
    one.view = one.view.with_entries(one.says(H1, H3))
    one.look(CALM + HOLD_S)
    assert dict(one.view.evicted) == {H3: frozenset({H1})}


def test_what_happened_while_one_of_us_was_away_counts_at_once() -> None:
    """A host that returns must learn at once that others have its addresses, and so must hosts that were away with
    it."""
    for away in (H1, H2, H3):
        one = Host()
        if away == H1:
            one.words = HeldEvictions(H1)
            one.words.note_synced(CALM - 5)
            one.member(H2, MemberState.ALIVE, START)
            one.member(H3, MemberState.ALIVE, START)
        else:
            one.member(away, MemberState.DEAD, START + 10)
            one.member(away, MemberState.ALIVE, CALM - 5)
        target = H1 if away != H2 else H2
        one.hear(one.says(H3, target), CALM)
        assert target in one.view.evicted, away


def test_our_own_evictions_intentions_and_disputes_never_wait() -> None:
    one = Host()
    one.hear(one.says(H1, H3), CALM)
    assert H3 in one.view.evicted
    one.hear(one.writers[H2].put(ForgetRecord(H1)), CALM)
    assert one.view.about_to_evict(H1) == {H2}
    assert not one.words.waiting


def test_what_waits_is_bounded() -> None:
    words = HeldEvictions(H1)
    words.note_synced(START)
    words.note_member(Member(H2, ("192.0.2.9", 7956), MemberState.ALIVE, 1), START)
    targets = [HostId(f"{number:032x}") for number in range(100, 100 + MAX_HELD + 5)]
    for target in targets:
        words.note_member(Member(target, ("192.0.2.9", 7956), MemberState.ALIVE, 1), START)
    writer = Writer(H2)
    passed = [words.sift(writer.put(ForgetRecord(target, settled=True)), CALM).entries for target in targets]
    assert sum(map(bool, passed)) == 5
    assert len(words.waiting) == MAX_HELD


def revoked(host: HostId) -> ForgetRecord:
    return ForgetRecord(host, settled=True, revoked=True, compromised=True)


def test_a_compromised_host_is_out_at_once_and_a_second_one_of_the_same_writer_waits() -> None:
    """One lying member takes one host after the other, and not all of them."""
    one = Host()
    four = HostId("4" * 32)
    one.member(four, MemberState.ALIVE, START)
    one.hear(one.writers[H3].put(revoked(H2)), CALM)
    assert set(one.view.compromised) == {H2}
    one.hear(one.writers[H3].put(revoked(four)), CALM + 1)
    assert set(one.view.compromised) == {H2}
    (held,) = one.words.waiting
    assert (held.host, held.is_compromised) == (four, True)
    one.look(CALM + HOLD_S - 1)
    assert set(one.view.compromised) == {H2}
    one.look(CALM + HOLD_S)
    assert set(one.view.compromised) == {H2, four}


def test_what_a_revoked_writer_said_of_others_and_waits_never_counts() -> None:
    one = Host()
    four = HostId("4" * 32)
    one.member(four, MemberState.ALIVE, START)
    one.hear(one.writers[H3].put(revoked(H2)), CALM)
    one.hear(one.writers[H3].put(revoked(four)), CALM + 1)
    one.hear(one.writers[H1].put(revoked(H3)), CALM + 2)
    one.look(CALM + 2 * HOLD_S)
    assert dict(one.view.compromised) == {H3: frozenset({H1})}
    assert set(one.view.evicted) == {H3}


def test_a_second_host_s_word_ends_the_waiting() -> None:
    one = Host()
    four, five, six = (HostId(digit * 32) for digit in "456")
    for other in (four, five, six):
        one.member(other, MemberState.ALIVE, START)
    one.hear(one.writers[H2].put(revoked(four)), CALM)
    one.hear(one.writers[H3].put(revoked(six)), CALM)
    for writer in (H2, H3):
        one.look(CALM + 1)
        assert five not in one.view.compromised
        one.hear(one.writers[writer].put(revoked(five)), CALM + 1)
    one.look(CALM + 2)
    assert five in one.view.compromised
