"""The journal: what it keeps, refuses and reports."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack

import pytest
import trio
import trio.testing
from fakes.rows import local_row

from netagent.errors import RefusedError
from netagent.journal import statements
from netagent.journal.journal import DiskFullError, Journal, JournalError
from netagent.journal.rows import LocalEndpointRow, Published, Reserved, endpoint_from_json, endpoint_to_json
from netagent.journal.statements import MAX_DEPARTED, Statement
from netagent.model.check import Check, CheckedHealth, ExecCheck, HttpCheck, TcpCheck
from netagent.model.ids import NetworkId
from netagent.model.publication import Publication
from netagent.model.records import Drain, Group, Health, HealthNote, Link, Port, ServiceKey
from netagent.model.sandbox import Netns
from netgossip.types import EntriesChanged, Entry, Log, Member, MemberState, Scope, Version

OWN, OTHER = "a" * 32, "b" * 32
SCOPE = bytes(range(16))


def entry(
    key: bytes,
    sequence: int,
    value: bytes | None = b"v",
    *,
    owner: str = OWN,
    scope: bytes = SCOPE,
    epoch: int = 1,
) -> Entry:
    return Entry(scope, owner, key, value, Version(epoch, sequence))


def row(number: int = 1, **fields: Any) -> LocalEndpointRow:
    return local_row(f"{number:032x}", "c" * 32, **({"name": f"web{number}", "offset": number} | fields))


FULL_ROW = row(
    addresses=("10.0.0.2", "fd00::2"),
    mac="02:00:00:00:00:01",
    target="netns:web1",
    stage=Published(Netns("/run/netns/web1", (4, 4026532000), "boot"), "eth0"),
    links=(Link("db", "database"),),
    aliases=("www",),
    ports=(Port("http", 80), Port("https", 443, "tcp", ("h2", "http/1.1"))),
    weight=7,
    labels=(("a", "b"),),
    publish=(Publication(8080, 80), Publication(53, 5353, "udp", 2, "192.0.2.1")),
    group=Group("shop", "web", b"12345678"),
    drain=Drain(1_700_000_000, "anna"),
    health_since_s=1_700_000_000,
    checks=tuple(
        Check(subject=subject, interval_s=2.0, timeout_s=0.5, fall=3, rise=2, grace_s=30.0)
        for subject in (
            HttpCheck(8080, "/healthz", is_tls=True),
            TcpCheck(6379),
            ExecCheck(("/bin/ready", "-v")),
        )
    ),
    keeps_names=True,
    checked=CheckedHealth(
        Health.UNHEALTHY, HealthNote(1_700_000_000, "http 503 from 8080/healthz, failed 3 of 3 times")
    ),
)


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def append_own(
    journal: Journal, entries: list[Entry], collected: dict[Scope, int] | None = None
) -> None:
    await journal.transaction(statements.append_entries("own", entries, collected))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


class Reopen:
    """A journal that a call closes and opens again, as a restart of the agent does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: Journal | None = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def __call__(self) -> Journal:
        self.close()
        self._opened = Journal.open(self._path)
        return self._opened


@pytest.fixture
def reopen(path: Path) -> Iterator[Reopen]:
    one = Reopen(path)
    yield one
    one.close()


def run(function: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
    return trio.run(function, *args)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not come true in 10 s"
        time.sleep(0.02)


def test_the_boot_epoch_rises_with_every_opening(reopen: Reopen) -> None:
    assert [reopen().boot_epoch for _ in range(3)] == [1, 2, 3]


def test_what_is_no_file_at_the_journals_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.mkdir()
    with pytest.raises(JournalError, match=r"cannot open the journal .*state\.db: Is a directory; repair"):
        Journal.open(path)
    path.rmdir()
    Journal.open(path).close()  # the lock was let go


def test_own_entries_come_back_with_heads_and_tombstones(reopen: Reopen) -> None:
    run(append_own, reopen(), [entry(b"k", 1), entry(b"l", 2), entry(b"k", 3, None)])
    (log,) = reopen().load_own_logs()
    assert (log.scope, log.owner, log.epoch, log.head, log.collected) == (SCOPE, OWN, 1, 3, 0)
    assert log.entries == {b"k": entry(b"k", 3, None), b"l": entry(b"l", 2)}


def test_a_journal_of_another_host_is_refused(reopen: Reopen) -> None:
    journal = reopen()
    journal.require_owner(OTHER)  # an empty one fits any host
    trio.run(append_own, journal, [entry(b"one", 1)])
    journal.require_owner(OWN)
    with pytest.raises(
        JournalError, match=f"belongs to host {OWN[:8]}, the identity beside it to {OTHER[:8]}"
    ):
        journal.require_owner(OTHER)


def test_collected_tombstones_leave_the_disk(reopen: Reopen) -> None:
    journal = reopen()
    run(append_own, journal, [entry(b"k", 1), entry(b"l", 2, None)])
    run(append_own, journal, [entry(b"m", 3)], {SCOPE: 2})
    (log,) = reopen().load_own_logs()
    assert (log.head, log.collected, set(log.entries)) == (3, 2, {b"k", b"m"})


def test_heads_never_fall_and_a_new_epoch_counts_anew(reopen: Reopen) -> None:
    journal = reopen()
    run(append_own, journal, [entry(b"k", 5)])
    run(append_own, journal, [entry(b"l", 4)])
    assert journal.load_own_logs()[0].head == 5
    run(append_own, journal, [entry(b"k", 2, epoch=2)])
    assert (journal.load_own_logs()[0].epoch, journal.load_own_logs()[0].head) == (2, 2)


def test_an_own_log_can_be_replaced_and_dropped(reopen: Reopen) -> None:
    journal = reopen()
    run(append_own, journal, [entry(b"k", 5), entry(b"l", 6)])
    log = Log(SCOPE, OWN, 2, 1, 0, {b"k": entry(b"k", 1, epoch=2)})
    run(journal.transaction, statements.replace_log("own", log))
    assert reopen().load_own_logs() == [log]
    run(reopen().transaction, statements.drop_log("own", SCOPE, OWN))
    assert reopen().load_own_logs() == []


def test_endpoints_come_back_in_the_order_of_attaching(reopen: Reopen) -> None:
    async def attach(journal: Journal) -> None:
        for one in (FULL_ROW, row(3), row(2)):
            await journal.save_endpoint(one)
        await journal.save_endpoint(dataclasses.replace(FULL_ROW, stage=Reserved()))
        await journal.transaction([statements.delete_endpoint(row(3).endpoint_id)])

    run(attach, reopen())
    assert reopen().load_endpoints() == [dataclasses.replace(FULL_ROW, stage=Reserved()), row(2)]


def test_two_endpoints_never_have_one_address(reopen: Reopen) -> None:
    journal = reopen()
    run(journal.save_endpoint, row(1))
    with pytest.raises(RefusedError) as refused:
        run(journal.save_endpoint, row(2, offset=1))
    assert refused.value.code == "taken"
    assert journal.load_endpoints() == [row(1)]


def test_rows_of_a_later_release_lose_only_what_is_new() -> None:
    text = endpoint_to_json(FULL_ROW).replace('"mac"', '"colour":"red","mac"')
    assert endpoint_from_json(text) == FULL_ROW
    with pytest.raises(ValueError, match="not an endpoint row"):
        endpoint_from_json("[]")


@pytest.mark.parametrize("group", [None, Group("shop"), Group("shop", "web")])
def test_a_group_comes_back_as_it_was(group: Group | None) -> None:
    given = row(1, group=group)
    assert endpoint_from_json(endpoint_to_json(given)) == given
    fields = json.loads(endpoint_to_json(given))
    del fields["group"]
    assert endpoint_from_json(json.dumps(fields)) == row(1), "of the release before groups"


def test_a_row_of_an_earlier_release_has_no_published_ports_no_drain_and_no_checks(reopen: Reopen) -> None:
    journal = reopen()
    run(journal.save_endpoint, row(1))
    fields = json.loads(endpoint_to_json(row(1)))
    for later in ("publish", "drain", "checks", "checked", "keeps_names", "health_since_s", "weight", "alpn"):
        del fields[later]
    run(journal.transaction, [Statement("UPDATE endpoint SET row = ?", (json.dumps(fields),))])
    [found] = reopen().load_endpoints()
    assert found == row(1)
    assert (found.publish, found.checks, found.checked) == ((), (), None)


def test_the_release_before_finds_in_the_ports_of_a_row_what_it_knows() -> None:
    spoken = row(1, ports=(Port("https", 443, "tcp", ("h2",)), Port("http", 80)))
    fields = json.loads(endpoint_to_json(spoken))
    assert [set(one) for one in fields["ports"]] == [{"name", "number", "protocol"}] * 2
    assert endpoint_from_json(json.dumps(fields)) == spoken
    del fields["alpn"]  # it has rewritten the row
    assert endpoint_from_json(json.dumps(fields)).ports == (Port("https", 443), Port("http", 80))


def test_cooling_addresses(reopen: Reopen) -> None:
    network = NetworkId("c" * 32)

    async def detach(journal: Journal) -> None:
        await journal.transaction(
            [statements.cool(network, 5), statements.cool(network, 6), statements.cool(network, 7)]
        )
        await journal.save_endpoint(row(1, offset=6))

    journal = reopen()
    run(detach, journal)
    journal.note_warm(network, 7)
    journal = reopen()
    assert journal.load_cooling() == [(network, 5)]
    journal.note_network_gone(network)
    assert reopen().load_cooling() == []


def test_members_and_incarnation(reopen: Reopen) -> None:
    one = Member(OTHER, ("192.0.2.2", 7956), MemberState.DEAD, 7, b"meta")
    gone = Member(OWN, ("192.0.2.1", 7956), MemberState.ALIVE, 1)
    journal = reopen()
    journal.note_member(gone)
    journal.note_member(one)
    journal.note_member_gone(OWN)
    journal.note_incarnation(9)
    journal = reopen()
    assert journal.load_members() == [one]
    assert journal.load_incarnation() == 9
    journal.note_incarnation(4)
    assert reopen().load_incarnation() == 9


def test_a_node_that_the_membership_forgot_leaves_its_incarnation_until_it_is_back(
    reopen: Reopen,
) -> None:
    one = Member(OTHER, ("192.0.2.2", 7956), MemberState.LEFT, 7, b"meta")
    journal = reopen()
    journal.note_member(one)
    journal = reopen()
    journal.note_member_gone(OTHER)
    journal = reopen()
    assert (journal.load_members(), journal.load_departed()) == ([], [(OTHER, 7)])
    journal.note_member_gone(OTHER)
    journal = reopen()
    assert journal.load_departed() == [(OTHER, 7)], "reported twice"
    journal.note_member(one)
    journal = reopen()
    assert (journal.load_members(), journal.load_departed()) == ([one], [])
    assert journal.load_incarnation() == 0


def test_departures_that_are_kept_are_bounded(reopen: Reopen) -> None:
    journal = reopen()
    gone = [f"{number:032x}" for number in range(MAX_DEPARTED + 10)]
    for node_id in gone:
        journal.note_member(Member(node_id, ("192.0.2.2", 7956), MemberState.LEFT, 7))
    journal = reopen()
    for node_id in gone:
        journal.note_member_gone(node_id)
    journal = reopen()
    assert MAX_DEPARTED - 10 < len(journal.load_departed()) <= MAX_DEPARTED
    assert journal.load_members() == []


def changed(
    *entries: Entry, head: int, collected: int = 0, replaced: bool = False, epoch: int = 1
) -> EntriesChanged:
    return EntriesChanged(SCOPE, OTHER, epoch, head, collected, entries, replaced=replaced)


def test_replicas_are_written_behind_and_follow_deltas(reopen: Reopen) -> None:
    journal = reopen()
    journal.note_replica(changed(entry(b"k", 1, owner=OTHER), entry(b"l", 2, owner=OTHER), head=2))
    journal.note_replica(changed(entry(b"k", 3, None, owner=OTHER), head=3))
    (log,) = reopen().load_replicas()
    assert (log.head, set(log.entries)) == (3, {b"k", b"l"})
    journal = reopen()
    journal.note_replica(changed(entry(b"m", 4, owner=OTHER), head=4, collected=3))
    (log,) = reopen().load_replicas()
    assert (log.head, log.collected, set(log.entries)) == (4, 3, {b"l", b"m"})
    journal = reopen()
    journal.note_replica(changed(entry(b"z", 1, owner=OTHER, epoch=2), head=1, replaced=True, epoch=2))
    (log,) = reopen().load_replicas()
    assert (log.epoch, log.head, set(log.entries)) == (2, 1, {b"z"})
    assert reopen().load_own_logs() == []
    reopen().note_replica_dropped(SCOPE, OTHER)
    assert reopen().load_replicas() == []


def test_replicas_reach_the_disk_without_closing(reopen: Reopen) -> None:
    journal = reopen()
    journal.note_replica(changed(entry(b"k", 1, owner=OTHER), head=1))
    wait_until(journal.load_replicas)


def test_many_callers_share_commits_and_fail_alone(reopen: Reopen) -> None:
    journal = reopen()
    refused = []

    async def save(number: int) -> None:
        try:
            await journal.save_endpoint(row(number, offset=1 if number == 7 else number))
        except RefusedError:
            refused.append(number)

    async def all_at_once() -> None:
        await journal.save_endpoint(row(1))
        async with trio.open_nursery() as nursery:
            for number in range(2, 60):
                nursery.start_soon(save, number)

    run(all_at_once)
    assert refused == [7]
    assert len(reopen().load_endpoints()) == 58


def test_a_transaction_is_all_or_nothing(reopen: Reopen) -> None:
    journal = reopen()
    run(journal.save_endpoint, row(1))
    both = [*statements.append_entries("own", [entry(b"k", 1)]), *statements.save_endpoint(row(2, offset=1))]
    with pytest.raises(RefusedError):
        run(journal.transaction, both)
    assert journal.load_own_logs() == []


def test_a_number_that_sqlite_cannot_hold_is_an_error_and_not_the_end(reopen: Reopen) -> None:
    journal = reopen()
    with pytest.raises(JournalError):
        run(append_own, journal, [entry(b"k", 2**70)])
    journal.note_replica(changed(entry(b"k", 2**70, owner=OTHER), head=2**70))
    wait_until(lambda: journal._writer.behind_failures)
    run(append_own, journal, [entry(b"k", 1)])
    assert [log.head for log in reopen().load_own_logs()] == [1]
    assert reopen().load_replicas() == []


def test_a_caller_that_is_cancelled_while_writing_still_learns_the_outcome(
    reopen: Reopen,
) -> None:
    journal = reopen()

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def save() -> None:
                    await journal.save_endpoint(row(1))
                    outcomes.append("saved")

                nursery.start_soon(save)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

    outcomes: list[str] = []
    run(cancelled)
    assert bool(outcomes) == bool(journal.load_endpoints())


def test_after_closing_writing_is_refused(reopen: Reopen) -> None:
    journal = reopen()
    reopen()
    with pytest.raises(JournalError, match="closed"):
        run(append_own, journal, [entry(b"k", 1)])


def test_only_one_agent_at_a_time(path: Path, reopen: Reopen) -> None:
    reopen()
    with pytest.raises(RefusedError, match="another agent"):
        Journal.open(path)


def test_the_file_is_private(path: Path, reopen: Reopen) -> None:
    reopen()
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("damage", [b"not a database at all" * 400, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_named(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(JournalError, match=r"state\.db.*damaged"):
        Journal.open(path)
    assert path.read_bytes() == damage
    with pytest.raises(JournalError):
        Journal.open(path)  # the lock was let go


def test_a_damaged_page_is_noticed_when_opening(path: Path, reopen: Reopen) -> None:
    journal = reopen()
    run(append_own, journal, [entry(b"%d" % number, number + 1, bytes(500)) for number in range(200)])
    reopen.close()
    data = bytearray(path.read_bytes())
    for page in range(8192, len(data), 4096):
        data[page : page + 200] = b"\x55" * 200
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"state\.db"):
        Journal.open(path)


def test_a_later_releases_file_is_refused(path: Path, reopen: Reopen) -> None:
    reopen()
    reopen.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match="later release"):
        Journal.open(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file"):
        Journal.open(tmp_path / "missing" / "state.db")


def test_a_full_database_refuses_and_recovers(path: Path, reopen: Reopen) -> None:
    journal = reopen()
    writing = journal._writer._connection
    (pages,) = writing.execute("PRAGMA page_count").fetchone()
    writing.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFullError) as full:
        run(append_own, journal, [entry(b"%d" % number, number + 1, bytes(4000)) for number in range(10)])
    assert full.value.exit_status == 4
    assert journal.load_own_logs() == []
    writing.execute("PRAGMA max_page_count = 100000")
    run(append_own, journal, [entry(b"k", 1, bytes(4000))])
    assert journal.load_own_logs()[0].head == 1


def test_what_concerns_services_outlasts_a_restart_until_it_is_over(reopen: Reopen) -> None:
    network, other = NetworkId("a1" * 16), NetworkId("a2" * 16)
    web, db = ServiceKey("web", "shop"), ServiceKey("db")

    async def write(journal: Journal) -> None:
        await journal.transaction(
            [
                statements.free_service_offset(network, 5, web, 200),
                statements.free_service_offset(network, 6, db, 100),
                statements.free_service_offset(other, 5, db, 150),
            ]
        )
        journal.note_idle_service(network, web, 300)
        journal.note_idle_service(network, db, 400)

    run(write, reopen())
    journal = reopen()
    assert list(journal.load_freed_service_offsets()) == [
        (network, 6, db, 100),
        (other, 5, db, 150),
        (network, 5, web, 200),
    ]
    assert journal.load_idle_services() == {(network, web): 300, (network, db): 400}
    journal.note_service_offset_free(network, 6)
    journal.note_idle_service(network, db, None)
    journal.note_network_gone(other)
    journal = reopen()
    assert list(journal.load_freed_service_offsets()) == [(network, 5, web, 200)]
    assert journal.load_idle_services() == {(network, web): 300}
    journal.note_network_gone(network)
    journal = reopen()
    assert (list(journal.load_freed_service_offsets()), journal.load_idle_services()) == ([], {})


def test_a_replica_keeps_its_proof_at_its_version_and_who_signs_is_known_for_good(reopen: Reopen) -> None:
    journal = reopen()
    signed = dataclasses.replace(changed(entry(b"k", 1, owner=OTHER), head=1), proof=b"first")
    journal.note_replica(signed)
    journal.note_replica(dataclasses.replace(changed(entry(b"k", 2, owner=OTHER), head=2), proof=b"second"))
    journal = reopen()
    (log,) = journal.load_replicas()
    assert (log.head, log.proof) == (2, b"second")
    assert journal.load_signers() == [OTHER]
    # Only the proof, of what is there already.
    journal.note_replica(dataclasses.replace(changed(head=2), proof=b"again"))
    journal = reopen()
    (log,) = journal.load_replicas()
    assert (log.head, set(log.entries), log.proof) == (2, {b"k"}, b"again")
    # A release that knows no proofs moves the log on.
    run(journal.transaction, [statements.set_log("replica", dataclasses.replace(log, head=3))])
    (log,) = reopen().load_replicas()
    assert (log.head, log.proof) == (3, b"")
    journal = reopen()
    journal.note_replica_dropped(SCOPE, OTHER)
    journal = reopen()
    assert journal.load_replicas() == []
    assert journal.load_signers() == [OTHER]
    journal.note_replica(changed(entry(b"k", 1, owner=OTHER), head=2, replaced=True))
    (log,) = reopen().load_replicas()
    assert log.proof == b""


def test_the_hosts_known_to_sign_are_bounded(reopen: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_SIGNERS", 10)
    journal = reopen()
    for number in range(20):
        event = EntriesChanged(SCOPE, f"{number:032x}", 1, 1, 0, (), proof=b"p")
        journal.note_replica(event)
    assert len(reopen().load_signers()) == 10


def test_who_proves_its_claims_is_known_for_good_and_bounded(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "MAX_CLAIM_SIGNERS", 10)
    journal = reopen()
    for number in range(20):
        journal.note_claim_signer(f"{number:032x}")
        journal.note_claim_signer(f"{number:032x}")
    journal = reopen()
    assert journal.load_claim_signers() == [f"{number:032x}" for number in range(10)]


def test_who_has_sessions_is_known_for_good_and_bounded(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "MAX_SESSION_SPEAKERS", 10)
    journal = reopen()
    for number in range(20):
        journal.note_session_speaker(f"{number:032x}")
        journal.note_session_speaker(f"{number:032x}")
    journal = reopen()
    assert journal.load_session_speakers() == [f"{number:032x}" for number in range(10)]
