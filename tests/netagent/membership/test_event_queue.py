"""What the gossip reports becomes one view a step, and goes where it is waited for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.registry import H1, H2, N1, Writer, endpoint, host, identifier, network

from netagent.membership.event_queue import (
    CONTESTED_KEPT_S,
    MAX_CONTESTED,
    MAX_UNKNOWN_SOURCES,
    UNKNOWN_SOURCE_KEPT_S,
    EventQueue,
    first_view,
)
from netagent.model.ids import HostId
from netagent.registry.record_codec import scope_of
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.registry.views import AgentState
from netgossip.join.identity import node_id_of
from netgossip.types import (
    CLUSTER_SCOPE,
    ClaimSignerHeard,
    EntriesChanged,
    IdentityConflict,
    IdentityContested,
    Log,
    Member,
    MemberChanged,
    MemberReaped,
    MemberState,
    OwnLogRaised,
    RequestReceived,
    ResponseReceived,
    ScopeSynced,
    SessionSpeakerHeard,
    UnknownSourceHeard,
    UnprovenClaimHeard,
    UnprovenLogHeard,
)


class Sink:
    """Takes any note; `notes` has them in order."""

    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args: self.notes.append((name, *args))


def event_queue() -> SimpleNamespace:
    parts = SimpleNamespace(
        live=StateStore(RegistryView(H1), {}), journal=Sink(), participation=Sink(), rpc=Sink()
    )
    parts.requests, parts.raised, parts.taken, parts.now = [], [], [], 100.0
    parts.event_queue = EventQueue(
        live=parts.live,
        journal=parts.journal,
        participation=parts.participation,
        rpc=parts.rpc,
        on_request=parts.requests.append,
        on_raised=parts.raised.append,
        on_taken=parts.taken.extend,
        is_held=lambda _scope, _owner: True,
        clock=lambda: parts.now,
    )
    return parts


def member(state: MemberState = MemberState.ALIVE, address: str = "192.0.2.2") -> MemberChanged:
    return MemberChanged(Member(H2, (address, 7956), state, 1), None)


def test_all_events_of_a_step_make_one_view() -> None:
    parts = event_queue()
    before, writer = parts.live.revision, Writer(H2)
    parts.event_queue.handle(
        (member(), writer.put(network()), writer.put(endpoint(1)), writer.put(endpoint(2, offset=3)))
    )
    assert parts.live.revision == before + 1
    assert len(parts.live.view.endpoints) == 2
    parts.live.view.check_invariants()
    parts.event_queue.handle(())
    parts.event_queue.handle((member(),))
    assert parts.live.revision == before + 1, "nothing new, no reader is woken"


def test_others_records_and_members_are_written_down_ours_are_not() -> None:
    parts = event_queue()
    theirs, ours = Writer(H2).put(network()), Writer(H1).put(endpoint())
    gone = MemberReaped(H2)
    parts.event_queue.handle((theirs, ours, member(), gone))
    names = [note[0] for note in parts.journal.notes]
    assert names == ["note_replica", "note_member", "note_member_gone"]
    assert parts.journal.notes[0][1] == theirs
    assert HostId(H2) not in parts.live.view.hosts, "neither a host record nor a member"


def test_a_host_record_with_a_foreign_key_is_not_believed_but_counted() -> None:
    parts = event_queue()
    parts.event_queue.handle((Writer(H2).put(host("liar")),))
    assert parts.event_queue.heard.false_hosts == 1
    assert parts.live.view.hosts.get(H2) is None
    key = bytes(range(32))
    true = node_id_of(key)
    parts.event_queue.handle((Writer(true).put(host("honest", public_key=key)),))
    assert parts.live.view.hosts[true].name == "honest"


def test_an_event_that_trips_us_does_not_take_the_others_along(caplog: pytest.LogCaptureFixture) -> None:
    parts = event_queue()

    def trip(event: EntriesChanged) -> None:
        raise RuntimeError("a fault of ours")

    parts.journal.note_replica = trip
    parts.event_queue.handle((Writer(H2).put(network()), member()))
    assert parts.event_queue.heard.unusable == 1
    assert parts.live.view.hosts[H2].agent is AgentState.ALIVE
    assert "EntriesChanged" in caplog.text


def test_syncs_answers_and_questions_go_to_those_who_wait() -> None:
    parts = event_queue()
    question, answer = RequestReceived(H2, 1, b"q"), ResponseReceived(H2, 2, b"a")
    raised = OwnLogRaised(CLUSTER_SCOPE, 2)
    parts.event_queue.handle((ScopeSynced(scope_of(N1)), question, answer, raised))
    assert parts.participation.notes == [("note_synced", N1)]
    assert parts.rpc.notes == [("note_response", answer)]
    assert (parts.requests, parts.raised) == ([question], [raised])
    assert not parts.event_queue.synced
    parts.event_queue.handle((ScopeSynced(CLUSTER_SCOPE),))
    assert parts.event_queue.synced


def test_unknown_sources_are_bounded_the_latest_stay_and_one_that_joins_is_removed() -> None:
    parts = event_queue()
    for number in range(MAX_UNKNOWN_SOURCES + 5):
        parts.event_queue.handle((UnknownSourceHeard((f"198.51.100.{number}", 1), "label"),))
        parts.event_queue.handle((UnknownSourceHeard(("198.51.100.0", 1), "key"),))
    strangers = parts.event_queue.heard.unknown_sources
    assert len(strangers) == MAX_UNKNOWN_SOURCES
    assert strangers["198.51.100.0"] == ("key", 100.0), "heard again and again, so it stays"
    assert "198.51.100.1" not in strangers
    parts.event_queue.handle((member(address="198.51.100.0"),))
    assert "198.51.100.0" not in strangers


def test_unknown_sources_are_kept_from_their_last_report() -> None:
    parts = event_queue()
    for parts.now, number, reason in ((1.0, 1, "label"), (2.0, 2, "key"), (3.0, 1, "key")):
        parts.event_queue.handle((UnknownSourceHeard((f"198.51.100.{number}", 1), reason),))
    heard = parts.event_queue.heard
    assert heard.recent_unknown_sources(3.0) == {"198.51.100.2": "key", "198.51.100.1": "key"}
    assert heard.recent_unknown_sources(2.5 + UNKNOWN_SOURCE_KEPT_S) == {"198.51.100.1": "key"}
    assert heard.recent_unknown_sources(4.0 + UNKNOWN_SOURCE_KEPT_S) == {}


def test_a_cloned_machine_is_remembered() -> None:
    parts = event_queue()
    parts.event_queue.handle((IdentityConflict(("192.0.2.77", 7956)),))
    heard = parts.event_queue.heard
    assert heard.recent_identity_conflict(parts.now) == "192.0.2.77"
    assert heard.recent_identity_conflict(parts.now + CONTESTED_KEPT_S + 1) is None, "it was switched off"
    parts.event_queue.handle((member(address="192.0.2.77"),))
    assert heard.recent_identity_conflict(parts.now) is None, "it has an identity of its own since"


def test_a_host_whose_identity_a_second_machine_uses_is_named_until_that_is_over() -> None:
    parts = event_queue()
    contested = IdentityContested(H2, ("192.0.2.2", 7956), ("192.0.2.77", 7956))
    parts.event_queue.handle((contested,))
    heard = parts.event_queue.heard
    assert heard.recent_contested(parts.now) == {H2: "192.0.2.77"}
    assert heard.recent_contested(parts.now + CONTESTED_KEPT_S + 1) == {}
    for number in range(2 * MAX_CONTESTED):
        parts.event_queue.handle((IdentityContested(identifier(number), *[("192.0.2.9", 7956)] * 2),))
    assert len(heard.contested) == MAX_CONTESTED
    parts.event_queue.handle((contested,))
    renewed = Member(identifier(3), ("192.0.2.77", 7956), MemberState.ALIVE, 1)
    parts.event_queue.handle((MemberChanged(renewed, None),))
    assert H2 not in heard.contested, "it has an identity of its own since"


def test_a_start_knows_what_the_journal_knew() -> None:
    writer = Writer(H2)
    entries = [e for record in (network(), endpoint()) for e in writer.put(record).entries]
    logs = [Log(one.scope, H2, 1, 2, 0, {one.key: one}) for one in entries]
    view = first_view(H1, logs, [member().member])
    assert list(view.networks) == [N1]
    assert len(view.endpoints) == 1
    assert view.hosts[H2].agent is AgentState.ALIVE


def test_records_that_a_host_has_not_signed_are_named(caplog: pytest.LogCaptureFixture) -> None:
    parts, third = event_queue(), identifier(3)
    parts.event_queue.handle((UnprovenLogHeard(H2, third),))
    assert f"refused records in the name of host {H2[:8]} that it has not signed" in caplog.text
    assert f"from a message in the name of {third[:8]}" in caplog.text


def test_a_claim_that_a_host_has_not_signed_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    parts = event_queue()
    for port in (7956, 7957):
        parts.event_queue.handle((UnprovenClaimHeard(H2, ("192.0.2.9", port)),))
    assert caplog.text.count(f"refused a claim in the name of host {H2[:8]}") == 1
    assert "from 192.0.2.9" in caplog.text


def test_a_host_that_proves_its_claims_is_remembered_on_disk() -> None:
    parts = event_queue()
    parts.event_queue.handle((ClaimSignerHeard(H2),))
    assert parts.journal.notes == [("note_claim_signer", H2)]


def test_a_host_that_has_sessions_is_remembered_on_disk() -> None:
    parts = event_queue()
    parts.event_queue.handle((SessionSpeakerHeard(H2),))
    assert parts.journal.notes == [("note_session_speaker", H2)]
