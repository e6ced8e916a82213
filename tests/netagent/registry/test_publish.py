"""Publishing: on disk before it is sent, and never under a version that was void in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes.record_node import FakeNode
from fakes.registry import H1, N1, endpoint, host, network
from fakes.rows import local_row

from netagent.errors import RefusedError
from netagent.journal import statements
from netagent.journal.journal import DiskFullError, Journal
from netagent.journal.statements import Statement
from netagent.model.records import AttachmentRecord, ForgetRecord, RemovalRecord
from netagent.registry.publish import Publisher, may_rewrite
from netagent.registry.record_codec import RecordError, key_of
from netgossip.errors import GossipUsageError
from netgossip.records.table import TOMBSTONES_LIMIT, Table
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Entry, Log, OwnLogRaised, Scope, Version


class Desk:
    """A publisher with all that it needs; `sent` is what the journal's heads were at each flush."""

    def __init__(self, path: Path) -> None:
        self.node = FakeNode(H1)
        self.journal = Journal.open(path)
        self.sent: list[Any] = []
        self.publisher = Publisher(self.node, self.journal, self.flush)

    def flush(self) -> None:
        on_disk = {log.scope: log.head for log in self.journal.load_own_logs()}
        self.sent.append(on_disk)
        assert all(on_disk[scope] == log.head for scope, log in self.node.own_logs.items()), (
            "sent before written"
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "state.db")
    yield made
    made.journal.close()


def test_put_and_withdraw(desk: Desk) -> None:
    async def publish() -> None:
        await desk.publisher.put(network(), endpoint())
        await desk.publisher.withdraw(endpoint())

    trio.run(publish)
    scope, key = key_of(endpoint())
    assert desk.node.own_logs[scope].entries[key].value is None
    assert desk.node.own_logs[CLUSTER_SCOPE].head == 1
    assert len(desk.sent) == 2
    assert {log.scope: log for log in desk.journal.load_own_logs()} == desk.node.own_logs


def test_callers_take_turns(desk: Desk) -> None:
    async def publish() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(desk.publisher.put, endpoint(number, offset=number + 2))

    trio.run(publish)
    (log,) = desk.journal.load_own_logs()
    assert log.head == 20
    assert sorted(entry.version.sequence for entry in log.entries.values()) == list(range(1, 21))


def test_a_bad_record_changes_nothing(desk: Desk) -> None:
    with pytest.raises(RecordError):
        trio.run(desk.publisher.put, endpoint(), endpoint(name="BAD"))
    assert not desk.node.own_logs
    assert not desk.journal.load_own_logs()


def test_a_record_for_which_the_log_has_no_room_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_changes: object) -> tuple[Entry, ...]:
        raise GossipUsageError("our log would exceed 8388608 bytes")

    monkeypatch.setattr(desk.node, "prepare", full)
    with pytest.raises(RefusedError, match="too many records, or too long ones: our log would") as refused:
        trio.run(desk.publisher.put, endpoint())
    assert refused.value.code == "too-many-records"


def test_what_can_not_be_written_is_not_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_args: list[Statement], **_kwargs: Any) -> None:
        raise DiskFullError("full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.journal, "transaction", full)
        with pytest.raises(DiskFullError):
            trio.run(desk.publisher.put, endpoint())
    assert not desk.sent
    trio.run(desk.publisher.put, endpoint())
    assert desk.journal.load_own_logs()[0].head == 1


def test_what_belongs_together_is_written_together(desk: Desk) -> None:
    row = local_row(endpoint().endpoint_id, N1, name="web1")

    async def publish() -> None:
        await desk.publisher.change(put=[endpoint()], also=statements.save_endpoint(row))

    trio.run(publish)
    assert desk.journal.load_endpoints() == [row]


def test_an_epoch_raised_while_writing_makes_the_versions_anew(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope, _ = key_of(endpoint())
    write = desk.journal.transaction
    raised: list[bool] = []

    async def raising(statements: list[Statement], **options: Any) -> list[int]:
        if not raised:
            desk.node.raise_epoch(scope)
            raised.append(True)
        return await write(statements, **options)

    monkeypatch.setattr(desk.journal, "transaction", raising)
    trio.run(desk.publisher.put, endpoint())
    (log,) = desk.journal.load_own_logs()
    assert (log.epoch, log.head) == (2, 1)
    assert [entry.version for entry in log.entries.values()] == [Version(2, 1)]


def test_a_raised_log_is_written_whole(desk: Desk) -> None:
    scope, _ = key_of(endpoint())

    async def raised() -> None:
        await desk.publisher.put(endpoint(1), endpoint(2, offset=3))
        desk.node.raise_epoch(scope)
        await desk.publisher.own_log_raised(OwnLogRaised(scope, 2))

    trio.run(raised)
    assert desk.journal.load_own_logs() == [desk.node.own_logs[scope]]


def test_tombstones_of_a_quiet_log_leave_the_disk_with_a_record_that_is_written_again(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "state.db")
    now = [0.0]
    node: Any = _Node(journal)
    publisher = Publisher(node, journal, lambda: None, lambda: now[0])
    many = [endpoint(number, offset=number + 2) for number in range(1, TOMBSTONES_LIMIT + 1)]
    stays = endpoint(200, offset=200)

    async def work() -> None:
        await publisher.put(stays, *many)
        await publisher.withdraw(*many)
        await publisher.collect_tombstones()
        assert node.own_log(scope).head == 2 * TOMBSTONES_LIMIT + 1, "none is overdue"
        now[0] = 61.0
        await publisher.collect_tombstones()
        assert node.own_log(scope).head == 2 * TOMBSTONES_LIMIT + 2
        await publisher.collect_tombstones()

    scope, key = key_of(stays)
    trio.run(work)
    try:
        log = node.own_log(scope)
        assert (set(log.entries), log.head) == ({key}, 2 * TOMBSTONES_LIMIT + 2)
        (on_disk,) = journal.load_own_logs()
        assert on_disk == log
    finally:
        journal.close()


class _Node(Table):
    """The table in the place of the whole replication; what is committed must be in the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(node_id=H1, label=b"l", tombstone_s=60.0, now=0.0, proofs=None)
        self._journal = journal

    def own_log(self, scope: Scope) -> Log | None:
        return self.log(scope, H1)

    def commit(self, entries: Sequence[Entry], now: float) -> tuple[EntriesChanged, ...]:
        held = {log.scope: log for log in self._journal.load_own_logs()}
        assert all(held[one.scope].entries[one.key] == one for one in entries), "sent before written"
        return super().commit(entries, now)


def test_an_eviction_is_never_written_again() -> None:
    assert may_rewrite(*key_of(host()))
    assert may_rewrite(*key_of(endpoint()))
    for one in (ForgetRecord(H1), network(), AttachmentRecord(N1), RemovalRecord(N1)):
        assert not may_rewrite(*key_of(one))
