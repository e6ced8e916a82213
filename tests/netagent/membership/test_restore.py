"""What a start takes from the journal, and what it leaves."""

from __future__ import annotations

from fakes.registry import H1, H2, N1, Writer, endpoint, host, identifier, network

from netagent.membership.restore import restore
from netagent.model.ids import HostId
from netagent.model.records import AttachmentRecord
from netagent.registry.record_codec import scope_of
from netgossip.types import CLUSTER_SCOPE, Log, Member, MemberState

LEFT = identifier(0xA2)
"""A network that this host was in once."""


def logs_of(owner, *records):
    """One for each record."""
    writer = Writer(owner)
    entries = [e for record in records for e in writer.put(record).entries]
    return [Log(one.scope, owner, 1, 9, 0, {one.key: one}) for one in entries]


class Remembers:
    """A journal, as far as a start reads it."""

    boot_epoch = 3

    def load_incarnation(self):
        return 7

    def __init__(self):
        self.owner = self.rows = None
        self.dropped = []

    def require_owner(self, local):
        self.owner = local

    def load_own_logs(self):
        return logs_of(H1, AttachmentRecord(N1))

    def load_replicas(self):
        return [
            *logs_of(H2, host("h2"), network(), endpoint(1)),
            Log(scope_of(LEFT), H2, 1, 9, 0, {}),
        ]

    def load_members(self):
        return [Member(one, ("192.0.2.1", 7956), MemberState.ALIVE, 1) for one in (HostId(H1), HostId(H2))]

    def load_departed(self):
        return []

    def load_endpoints(self):
        return ["row"]

    def load_fenced(self):
        return []

    def note_replica_dropped(self, scope, owner):
        self.dropped.append((scope, owner))


def test_a_start_drops_what_others_said_in_networks_that_were_left():
    journal = Remembers()
    known = restore(journal, HostId(H1))
    assert journal.owner == H1
    assert {log.scope for log in known.history.replicas} == {CLUSTER_SCOPE, scope_of(N1)}
    assert journal.dropped == [(scope_of(LEFT), H2)]


def test_the_first_view_is_made_of_ours_and_of_others():
    known = restore(Remembers(), HostId(H1))
    assert list(known.view.networks) == [N1]
    assert known.view.attachments(N1) == {H1}
    assert len(known.view.endpoints) == 1
    assert [one.node_id for one in known.history.members] == [H2], "ourselves the gossip adds"
    assert known.rows == ["row"]
