"""The journal's writes as SQL statements, so that changes of several callers may share one transaction.

Pure: each function returns statements, `Journal.transaction` runs them. Two families of tables have the same shape:
`own_*` for the records this host writes, `replica_*` for other hosts' (a cache, so that a restarted agent knows its
network before it has heard from another host).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from netagent.journal.rows import LocalEndpointRow, endpoint_to_json
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import ServiceKey
from netgossip.types import Entry, Log, Member, NodeId, Scope, Version

Family: TypeAlias = Literal["own", "replica"]
Value: TypeAlias = str | bytes | int | float | None


class Statement(NamedTuple):
    """One SQL statement with its parameters."""

    sql: str
    parameters: tuple[Value, ...] = ()


SCHEMA_VERSION: Final = 2
"""`PRAGMA user_version`. A release that changes tables raises it and adds the step that leads to it."""

_LOG_TABLES = """
CREATE TABLE {0}_log (
    scope BLOB NOT NULL, owner TEXT NOT NULL,
    epoch INTEGER NOT NULL, head INTEGER NOT NULL, collected INTEGER NOT NULL,
    PRIMARY KEY (scope, owner)
) WITHOUT ROWID;
CREATE TABLE {0}_entry (
    scope BLOB NOT NULL, owner TEXT NOT NULL, key BLOB NOT NULL,
    value BLOB, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (scope, owner, key)
) WITHOUT ROWID;
"""

DEPARTED: Final = "departed "
"""Prefix of counters that hold the last incarnation of a node which the membership removed."""
MAX_DEPARTED: Final = 4096
"""Bound of members evicted or reaped, and other counters, that are kept on disk; beyond it: further ones are lost at
a restart. The recordings that they protect from are of hosts that a cluster really had."""

MAX_SIGNERS: Final = 65_536
"""Bound of hosts of which the disk has that they sign their records; beyond it: further ones are lost at a restart,
and learned again with their next signed record. Evicted hosts count, because their names are never free again."""
MAX_CLAIM_SIGNERS: Final = 65_536
"""Bound of hosts of which the disk has that they prove what they say about themselves; beyond it: further ones are
lost at a restart, and learned again when the member is heard."""
MAX_SESSION_SPEAKERS: Final = 65_536
"""Bound of hosts of which the disk has that they have sessions for records; beyond it: further ones are lost at a
restart, and learned again with their next session."""

SCHEMA: Final = (
    _LOG_TABLES.format("own")
    + _LOG_TABLES.format("replica")
    + """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('boot_epoch', 0), ('incarnation', 0);
CREATE TABLE member (
    node_id TEXT PRIMARY KEY, host TEXT NOT NULL, port INTEGER NOT NULL,
    state INTEGER NOT NULL, incarnation INTEGER NOT NULL, meta BLOB NOT NULL, vsn BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE endpoint (
    attach_order INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint_id TEXT NOT NULL UNIQUE, network_id TEXT NOT NULL, address_offset INTEGER NOT NULL,
    row TEXT NOT NULL,
    UNIQUE (network_id, address_offset)
);
CREATE TABLE cooling (
    network_id TEXT NOT NULL, address_offset INTEGER NOT NULL,
    PRIMARY KEY (network_id, address_offset)
) WITHOUT ROWID;
"""
)


STEPS: Final = {
    1: """
CREATE TABLE silence (host_id TEXT PRIMARY KEY, silent_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE fenced (endpoint_id TEXT PRIMARY KEY, row TEXT NOT NULL);
""",
}
"""By version, the step that leads to the next one. A new file takes all steps too."""


ADDED: Final = """
CREATE TABLE IF NOT EXISTS group_label (
    network_id TEXT NOT NULL, group_name TEXT NOT NULL, label TEXT NOT NULL, gone_s INTEGER,
    PRIMARY KEY (network_id, group_name, label)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS freed_service_offset (
    network_id TEXT NOT NULL, address_offset INTEGER NOT NULL,
    service TEXT NOT NULL, group_name TEXT, since_s INTEGER NOT NULL,
    PRIMARY KEY (network_id, address_offset)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS idle_service (
    network_id TEXT NOT NULL, service TEXT NOT NULL, group_name TEXT NOT NULL, since_s INTEGER NOT NULL,
    PRIMARY KEY (network_id, service, group_name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replica_proof (
    scope BLOB NOT NULL, owner TEXT NOT NULL,
    epoch INTEGER NOT NULL, head INTEGER NOT NULL, proof BLOB NOT NULL,
    PRIMARY KEY (scope, owner)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signer (owner TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claim_signer (node_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_speaker (node_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
"""Tables that a release which does not know them may leave as they are: they need no further version, so that it can
still open the file."""


def append_entries(
    family: Family, entries: Iterable[Entry], collected: Mapping[Scope, int] | None = None
) -> list[Statement]:
    """Put entries over those of the same key; the log's head follows. `collected` names tombstones to drop."""
    statements, logs = [], set()
    for entry in entries:
        statements += [_raise_head(family, entry), put_entry(family, entry)]
        logs.add((entry.scope, entry.owner))
    for scope, owner in logs:
        if collected and collected.get(scope):
            statements += collect(family, scope, owner, collected[scope])
    return statements


def _raise_head(family: Family, entry: Entry) -> Statement:
    return Statement(
        f"INSERT INTO {family}_log VALUES (?, ?, ?, ?, 0) ON CONFLICT DO UPDATE SET"
        " head = CASE WHEN excluded.epoch > epoch THEN excluded.head ELSE max(head, excluded.head) END,"
        " epoch = max(epoch, excluded.epoch)",
        (entry.scope, entry.owner, entry.version.epoch, entry.version.sequence),
    )


def put_entry(family: Family, entry: Entry) -> Statement:
    """Put an entry over one of the same key; the caller moves the log's head."""
    return Statement(
        f"INSERT OR REPLACE INTO {family}_entry VALUES (?, ?, ?, ?, ?, ?)",
        (entry.scope, entry.owner, entry.key, entry.value, entry.version.epoch, entry.version.sequence),
    )


def collect(family: Family, scope: Scope, owner: NodeId, collected: int) -> list[Statement]:
    """Drop tombstones up to `collected`."""
    where = (scope, owner, collected)
    return [
        Statement(
            f"UPDATE {family}_log SET collected = max(collected, ?3) WHERE scope = ?1 AND owner = ?2", where
        ),
        Statement(
            f"DELETE FROM {family}_entry WHERE scope = ? AND owner = ? AND value IS NULL AND sequence <= ?",
            where,
        ),
    ]


def set_log(family: Family, log: Log) -> Statement:
    """Set a log's head, without touching its entries."""
    return Statement(
        f"INSERT OR REPLACE INTO {family}_log VALUES (?, ?, ?, ?, ?)",
        (log.scope, log.owner, log.epoch, log.head, log.collected),
    )


def set_proof(scope: Scope, owner: NodeId, version: Version, proof: bytes) -> Statement:
    """Save what another host signed its log at this version with. It does not count for another version, to which a
    release that knows no proofs may move the log."""
    return Statement(
        "INSERT OR REPLACE INTO replica_proof VALUES (?, ?, ?, ?, ?)", (scope, owner, *version, proof)
    )


def add_signer(owner: NodeId) -> Statement:
    """Save that a host signs its records, as long as there is room."""
    return Statement(
        "INSERT OR IGNORE INTO signer SELECT ? WHERE (SELECT count(*) FROM signer) < ?", (owner, MAX_SIGNERS)
    )


def add_claim_signer(node_id: NodeId) -> Statement:
    """Save that a host proves what it says about itself, as long as there is room."""
    count = "SELECT count(*) FROM claim_signer"
    return Statement(
        f"INSERT OR IGNORE INTO claim_signer SELECT ? WHERE ({count}) < ?", (node_id, MAX_CLAIM_SIGNERS)
    )


def add_session_speaker(node_id: NodeId) -> Statement:
    """Save that a host has sessions for records, as long as there is room."""
    count = "SELECT count(*) FROM session_speaker"
    return Statement(
        f"INSERT OR IGNORE INTO session_speaker SELECT ? WHERE ({count}) < ?", (node_id, MAX_SESSION_SPEAKERS)
    )


def replace_log(family: Family, log: Log) -> list[Statement]:
    """Write the whole log again."""
    return [
        *drop_log(family, log.scope, log.owner),
        set_log(family, log),
        *(put_entry(family, entry) for entry in log.entries.values()),
    ]


def drop_log(family: Family, scope: Scope, owner: NodeId) -> list[Statement]:
    """Delete a log, and its proof."""
    tables = [f"{family}_entry", f"{family}_log", *(["replica_proof"] if family == "replica" else [])]
    return [
        Statement(f"DELETE FROM {table} WHERE scope = ? AND owner = ?", (scope, owner)) for table in tables
    ]


def raise_counter(name: Literal["incarnation", "boot_epoch"], value: int) -> Statement:
    """Raise a counter; it never falls."""
    return Statement("UPDATE counter SET value = max(value, ?) WHERE name = ?", (value, name))


def save_member(member: Member) -> Statement:
    """Save a node worth dialling after a restart."""
    host, port = member.address
    state = (member.state.value, member.incarnation, member.meta, member.vsn)
    return Statement(
        "INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?, ?, ?, ?)", (member.node_id, host, port, *state)
    )


def delete_member(node_id: NodeId) -> list[Statement]:
    """Delete a node that is not worth dialling any more. The incarnation at which it departed is kept, as long as
    there is room: among the counters, where a release that does not know it ignores it."""
    return [
        Statement(
            "INSERT OR REPLACE INTO counter SELECT ? || node_id, incarnation FROM member WHERE node_id = ? "
            "AND (SELECT count(*) FROM counter) < ?",
            (DEPARTED, node_id, MAX_DEPARTED),
        ),
        Statement("DELETE FROM member WHERE node_id = ?", (node_id,)),
    ]


def forget_departure(node_id: NodeId) -> Statement:
    """Delete the departure of a node that is a member again."""
    return Statement("DELETE FROM counter WHERE name = ? || ?", (DEPARTED, node_id))


def save_endpoint(row: LocalEndpointRow) -> list[Statement]:
    """Save a new row, or a new state of it; it keeps its place in the order of attaching. Its address no longer
    cools."""
    return [
        uncool(row.network_id, row.offset),
        Statement(
            "INSERT INTO endpoint (endpoint_id, network_id, address_offset, row) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (endpoint_id) DO UPDATE SET network_id = excluded.network_id,"
            " address_offset = excluded.address_offset, row = excluded.row",
            (row.endpoint_id, row.network_id, row.offset, endpoint_to_json(row)),
        ),
    ]


def delete_endpoint(endpoint_id: EndpointId) -> Statement:
    """Delete the row."""
    return Statement("DELETE FROM endpoint WHERE endpoint_id = ?", (endpoint_id,))


def cool(network_id: NetworkId, offset: int) -> Statement:
    """Save an address that was just freed. Without a time: after a restart it cools from the start, which needs no
    clock."""
    return Statement("INSERT OR IGNORE INTO cooling VALUES (?, ?)", (network_id, offset))


def uncool(network_id: NetworkId, offset: int) -> Statement:
    """Delete an address that may be used again."""
    return Statement("DELETE FROM cooling WHERE network_id = ? AND address_offset = ?", (network_id, offset))


def uncool_all(network_id: NetworkId) -> Statement:
    """Delete all addresses of a network that was removed."""
    return Statement("DELETE FROM cooling WHERE network_id = ?", (network_id,))


def free_service_offset(network_id: NetworkId, offset: int, service: ServiceKey, since_s: int) -> Statement:
    """Save the offset of a service's address that was given up. With the time: it is not used again for a day."""
    return Statement(
        "INSERT OR REPLACE INTO freed_service_offset VALUES (?, ?, ?, ?, ?)",
        (network_id, offset, service.name, service.group, since_s),
    )


def reuse_service_offset(network_id: NetworkId, offset: int) -> Statement:
    """Delete an offset that a service may have again."""
    return Statement(
        "DELETE FROM freed_service_offset WHERE network_id = ? AND address_offset = ?", (network_id, offset)
    )


def note_idle_service(network_id: NetworkId, service: ServiceKey, since_s: int | None) -> Statement:
    """Save since when a service with an address has no replica; None: it has one, or no address any more."""
    where = (network_id, service.name, service.group or "")
    if since_s is None:
        sql = "DELETE FROM idle_service WHERE network_id = ? AND service = ? AND group_name = ?"
        return Statement(sql, where)
    return Statement("INSERT OR REPLACE INTO idle_service VALUES (?, ?, ?, ?)", (*where, since_s))


def forget_services(network_id: NetworkId) -> list[Statement]:
    """Delete what concerns service addresses of a network that was removed."""
    tables = ("freed_service_offset", "idle_service")
    return [Statement(f"DELETE FROM {table} WHERE network_id = ?", (network_id,)) for table in tables]


def save_silences(silences: Mapping[HostId, float]) -> list[Statement]:
    """Replace the silences of other hosts by these."""
    rows = [Statement("INSERT INTO silence VALUES (?, ?)", (host, s)) for host, s in silences.items()]
    return [Statement("DELETE FROM silence"), *rows]


def put_group_label(network_id: NetworkId, group: str, label: str, gone_s: int | None) -> Statement:
    """Save a label of a group in a network, and since when no endpoint of the group has had it; None: one has it."""
    return Statement(
        "INSERT OR REPLACE INTO group_label VALUES (?, ?, ?, ?)", (network_id, group, label, gone_s)
    )


def drop_group_label(network_id: NetworkId, group: str, label: str) -> Statement:
    """Delete a label that a group no longer counts as its own."""
    return Statement(
        "DELETE FROM group_label WHERE network_id = ? AND group_name = ? AND label = ?",
        (network_id, group, label),
    )


def fence(row: LocalEndpointRow) -> Statement:
    """Save an endpoint that this host had under an evicted identity."""
    return Statement("INSERT OR REPLACE INTO fenced VALUES (?, ?)", (row.endpoint_id, endpoint_to_json(row)))


def unfence(endpoint_id: EndpointId) -> Statement:
    """Delete a fenced endpoint: it was attached again, given up, or its container is gone."""
    return Statement("DELETE FROM fenced WHERE endpoint_id = ?", (endpoint_id,))


def start_anew() -> list[Statement]:
    """Delete all that the former identity wrote or knew, except the members to dial, which hosts sign, and what is
    fenced."""
    logs = ("own_log", "own_entry", "replica_log", "replica_entry", "replica_proof")
    others = ("endpoint", "cooling", "silence", "freed_service_offset", "idle_service")
    return [Statement(f"DELETE FROM {table}") for table in (*logs, *others)]
