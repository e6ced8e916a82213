"""What a start takes from the journal, and what it leaves."""

from __future__ import annotations

from typing import Any

from fakes.registry import H1, H2, N1, Writer, endpoint, host, identifier, network

from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow
from netagent.membership.restore import restore
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import AttachmentRecord
from netagent.registry.record_codec import scope_of
from netgossip.types import CLUSTER_SCOPE, Log, Member, MemberState

LEFT = NetworkId(identifier(0xA2))
ROW = LocalEndpointRow(
    endpoint_id=EndpointId("e" * 32), network_id=N1, name="web", service="web", offset=2, addresses=(), mac=""
)
"""A network that this host was in once."""


def logs_of(owner: str, *records: Any) -> list[Log]:
    """One for each record."""
    writer = Writer(owner)
    entries = [e for record in records for e in writer.put(record).entries]
    return [Log(one.scope, owner, 1, 9, 0, {one.key: one}) for one in entries]


class Remembers(Journal):
    """A journal, as far as a start reads it."""

    boot_epoch = 3

    def load_incarnation(self) -> int:
        return 7

    def __init__(self) -> None:
        self.owner: str | None = None
        self.dropped: list[tuple[bytes, str]] = []

    def require_owner(self, local: str) -> None:
        self.owner = local

    def load_own_logs(self) -> list[Log]:
        return logs_of(H1, AttachmentRecord(N1))

    def load_replicas(self) -> list[Log]:
        return [
            *logs_of(H2, host("h2"), network(), endpoint(1)),
            Log(scope_of(LEFT), H2, 1, 9, 0, {}),
        ]

    def load_signers(self) -> list[str]:
        return [H2]

    def load_claim_signers(self) -> list[str]:
        return [H2]

    def load_session_speakers(self) -> list[str]:
        return [H2]

    def load_members(self) -> list[Member]:
        return [Member(one, ("192.0.2.1", 7956), MemberState.ALIVE, 1) for one in (HostId(H1), HostId(H2))]

    def load_departed(self) -> list[Any]:
        return []

    def load_endpoints(self) -> list[LocalEndpointRow]:
        return [ROW]

    def load_fenced(self) -> list[Any]:
        return []

    def load_group_labels(self) -> dict[tuple[NetworkId, str], dict[str, int | None]]:
        return {(N1, "shop"): {"cache": 5, "web": None}}

    def note_replica_dropped(self, scope: bytes, owner: str) -> None:
        self.dropped.append((scope, owner))


def test_a_start_drops_what_others_said_in_networks_that_were_left() -> None:
    journal = Remembers()
    known = restore(journal, HostId(H1))
    assert journal.owner == H1
    assert {log.scope for log in known.history.replicas} == {CLUSTER_SCOPE, scope_of(N1)}
    assert journal.dropped == [(scope_of(LEFT), H2)]
    assert known.history.signers == known.history.claim_signers == known.history.session_speakers == [H2]


def test_the_first_view_is_made_of_ours_and_of_others() -> None:
    known = restore(Remembers(), HostId(H1))
    assert list(known.view.networks) == [N1]
    assert known.view.attachments(N1) == {H1}
    assert len(known.view.endpoints) == 1
    assert [one.node_id for one in known.history.members] == [H2], "ourselves the gossip adds"
    assert known.rows == [ROW]
    assert known.view.labels_of(N1, "shop").absent == ("cache", "web")
