"""Restore from the journal what a start needs, before any message of another host."""

from __future__ import annotations

from dataclasses import dataclass

from netagent.journal.journal import Journal
from netagent.journal.rows import LocalEndpointRow
from netagent.membership.event_queue import first_view
from netagent.membership.participation import own_networks
from netagent.model.ids import HostId
from netagent.registry.record_codec import scope_of
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, History, Log


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredState:
    """The state with which a run of this host begins."""

    history: History
    """For the gossip: its counters, the members, and the logs of the networks that this host is in."""
    rows: list[LocalEndpointRow]
    """This host's endpoints, in the order of their attaching."""
    fenced: list[LocalEndpointRow]
    """The endpoints that it had when it was evicted."""
    view: RegistryView
    """The view that follows from the logs, the members, and the labels that groups have had."""


def restore(journal: Journal, local: HostId) -> RestoredState:
    """Read the whole journal. JournalError when it is another host's."""
    own_logs, replicas = _load_logs(journal, local)
    members = [m for m in journal.load_members() if m.node_id != local]
    return RestoredState(
        history=History(
            incarnation=journal.load_incarnation(),
            boot_epoch=journal.boot_epoch,
            members=members,
            departed=journal.load_departed(),
            own_logs=own_logs,
            replicas=replicas,
            signers=journal.load_signers(),
            claim_signers=journal.load_claim_signers(),
            session_speakers=journal.load_session_speakers(),
        ),
        rows=journal.load_endpoints(),
        fenced=journal.load_fenced(),
        view=first_view(local, [*own_logs, *replicas], members).with_labels_had(journal.load_group_labels()),
    )


def _load_logs(journal: Journal, local: HostId) -> tuple[list[Log], list[Log]]:
    """Load our logs, and the others'. Logs of networks that this host has left are skipped, should a crash have kept
    them on disk: no peer would update them, and they would be shown for ever."""
    journal.require_owner(local)
    own, replicas = journal.load_own_logs(), journal.load_replicas()
    scopes = {CLUSTER_SCOPE, *map(scope_of, own_networks(first_view(local, own, ())))}
    for log in replicas:
        if log.scope not in scopes:
            journal.note_replica_dropped(log.scope, log.owner)
    return own, [log for log in replicas if log.scope in scopes]
