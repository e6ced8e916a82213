"""Compare the agent's records with the journal: what it holds, and what it would restore after a crash. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from netagent.doctor.checks.finding import Finding
from netagent.endpoints.records import published_record
from netagent.journal.reader import StoredState
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId
from netagent.model.records import EndpointRecord, Record
from netagent.registry.record_codec import RecordError, Unknown, decode_untrusted, key_of, scope_of
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, Scope

_RESTART = (
    "restart the agent: it restores its state from the journal and announces it to the other hosts again"
)


def journal_findings(
    view: RegistryView, rows: Mapping[EndpointId, LocalEndpointRow], written: StoredState, domain: str
) -> Iterator[Finding]:
    """Yield disagreements between the journal, this host's endpoints and its published records."""
    yield from _row_findings(rows, {row.endpoint_id: row for row in written.rows})
    yield from _record_findings(view, written)
    yield from _published_findings(view, rows, domain)


def _row_findings(
    rows: Mapping[EndpointId, LocalEndpointRow], on_disk: Mapping[EndpointId, LocalEndpointRow]
) -> Iterator[Finding]:
    for endpoint_id in sorted(rows.keys() | on_disk.keys()):
        held, written = rows.get(endpoint_id), on_disk.get(endpoint_id)
        if held == written:
            continue
        name = held.name if held is not None else written.name if written is not None else endpoint_id
        if written is None:
            text = f"the endpoint {name} is not in the journal: it would be lost at a restart"
        elif held is None:
            text = f"the journal has an endpoint {name} that the agent does not know"
        else:
            text = f"the journal has a different state of the endpoint {name}"
        yield Finding(endpoint_id, text, _RESTART)


def _record_findings(view: RegistryView, written: StoredState) -> Iterator[Finding]:
    known = {CLUSTER_SCOPE, *map(scope_of, view.networks)}
    on_disk: dict[tuple[Scope, bytes], Record] = {}
    for place, entry in written.own_entries.items():
        if place[0] not in known:
            continue
        try:
            record = decode_untrusted(entry.value or b"")
        except RecordError as error:
            yield Finding(
                _place(*place), f"a record of this host in the journal is damaged: {error}", _RESTART
            )
            continue
        if not isinstance(record, Unknown):
            on_disk[place] = record
    held = {key_of(record): record for record in own_records(view, view.local)}
    for place in sorted(held.keys() | on_disk.keys()):
        if held.get(place) != on_disk.get(place):
            what = "is not in the journal" if place not in on_disk else "differs from the journal"
            what = what if place in held else "is in the journal, but the agent does not know it"
            yield Finding(_place(*place), f"the record {_place(*place)} of this host {what}", _RESTART)


def own_records(view: RegistryView, owner: HostId) -> Iterator[Record]:
    """Yield all records that a host has written, in the networks that this host knows."""
    for scope in (CLUSTER_SCOPE, *map(scope_of, view.networks)):
        yield from view.records_of(owner, scope)


def _published_findings(
    view: RegistryView, rows: Mapping[EndpointId, LocalEndpointRow], domain: str
) -> Iterator[Finding]:
    told = {
        record.endpoint_id: record
        for record in own_records(view, view.local)
        if isinstance(record, EndpointRecord)
    }
    for endpoint_id, row in rows.items():
        if not row.is_published or row.network_id not in view.networks:
            continue
        if endpoint_id not in told:
            yield Finding(endpoint_id, f"the endpoint {row.name} is not published to other hosts", _RESTART)
        elif told[endpoint_id] != published_record(row, rows.values(), view, domain):
            text = f"the published record of the endpoint {row.name} differs from what this host knows"
            yield Finding(endpoint_id, text, _RESTART)
    for endpoint_id, record in told.items():
        if endpoint_id not in rows:
            text = f"this host publishes an endpoint {record.name} that it does not have"
            yield Finding(endpoint_id, text, _RESTART)


def _place(scope: Scope, key: bytes) -> str:
    """Format a record's scope and key in hexadecimal, as the journal's tables show them."""
    return f"{scope.hex()[:12] or '0'}/{key.hex()[:24]}"
