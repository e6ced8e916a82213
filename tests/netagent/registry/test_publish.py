"""Publishing: on disk before it is sent, and never under a version that was void in between."""

from __future__ import annotations

import pytest
import trio
from fakes.record_node import FakeNode
from fakes.registry import H1, N1, endpoint, host, network
from fakes.rows import local_row

from netagent.journal import statements
from netagent.journal.journal import DiskFullError, Journal
from netagent.model.records import AttachmentRecord, ForgetRecord, RemovalRecord
from netagent.registry.publish import Publisher, may_rewrite
from netagent.registry.record_codec import RecordError, key_of
from netgossip.records.table import TOMBSTONES_LIMIT, Table
from netgossip.types import CLUSTER_SCOPE, OwnLogRaised, Version


class Desk:
    """A publisher with all that it needs; `sent` is what the journal's heads were at each flush."""

    def __init__(self, path):
        self.node = FakeNode(H1)
        self.journal = Journal.open(path)
        self.sent = []
        self.publisher = Publisher(self.node, self.journal, self.flush)

    def flush(self):
        on_disk = {log.scope: log.head for log in self.journal.load_own_logs()}
        self.sent.append(on_disk)
        assert all(on_disk[scope] == log.head for scope, log in self.node.own_logs.items()), (
            "sent before written"
        )


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "state.db")
    yield made
    made.journal.close()


def test_put_and_withdraw(desk):
    async def publish():
        await desk.publisher.put(network(), endpoint())
        await desk.publisher.withdraw(endpoint())

    trio.run(publish)
    scope, key = key_of(endpoint())
    assert desk.node.own_logs[scope].entries[key].value is None
    assert desk.node.own_logs[CLUSTER_SCOPE].head == 1
    assert len(desk.sent) == 2
    assert {log.scope: log for log in desk.journal.load_own_logs()} == desk.node.own_logs


def test_callers_take_turns(desk):
    async def publish():
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(desk.publisher.put, endpoint(number, offset=number + 2))

    trio.run(publish)
    (log,) = desk.journal.load_own_logs()
    assert log.head == 20
    assert sorted(entry.version.sequence for entry in log.entries.values()) == list(range(1, 21))


def test_a_bad_record_changes_nothing(desk):
    with pytest.raises(RecordError):
        trio.run(desk.publisher.put, endpoint(), endpoint(name="BAD"))
    assert not desk.node.own_logs
    assert not desk.journal.load_own_logs()


def test_what_can_not_be_written_is_not_sent(desk, monkeypatch):
    async def full(*_args, **_kwargs):
        raise DiskFullError("full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.journal, "transaction", full)
        with pytest.raises(DiskFullError):
            trio.run(desk.publisher.put, endpoint())
    assert not desk.sent
    trio.run(desk.publisher.put, endpoint())
    assert desk.journal.load_own_logs()[0].head == 1


def test_what_belongs_together_is_written_together(desk):
    row = local_row(endpoint().endpoint_id, N1, name="web1")

    async def publish():
        await desk.publisher.change(put=[endpoint()], also=statements.save_endpoint(row))

    trio.run(publish)
    assert desk.journal.load_endpoints() == [row]


def test_an_epoch_raised_while_writing_makes_the_versions_anew(desk, monkeypatch):
    scope, _ = key_of(endpoint())
    write = desk.journal.transaction
    raised = []

    async def raising(statements, **options):
        if not raised:
            desk.node.raise_epoch(scope)
            raised.append(True)
        return await write(statements, **options)

    monkeypatch.setattr(desk.journal, "transaction", raising)
    trio.run(desk.publisher.put, endpoint())
    (log,) = desk.journal.load_own_logs()
    assert (log.epoch, log.head) == (2, 1)
    assert [entry.version for entry in log.entries.values()] == [Version(2, 1)]


def test_a_raised_log_is_written_whole(desk):
    scope, _ = key_of(endpoint())

    async def raised():
        await desk.publisher.put(endpoint(1), endpoint(2, offset=3))
        desk.node.raise_epoch(scope)
        await desk.publisher.own_log_raised(OwnLogRaised(scope, 2))

    trio.run(raised)
    assert desk.journal.load_own_logs() == [desk.node.own_logs[scope]]


def test_tombstones_of_a_quiet_log_leave_the_disk_with_a_record_that_is_written_again(tmp_path):
    journal = Journal.open(tmp_path / "state.db")
    now = [0.0]
    node = Table(node_id=H1, label=b"l", tombstone_s=60.0, now=0.0)
    publisher = Publisher(node, _Kept(journal, node), lambda: None, lambda: now[0])
    node.own_log = lambda scope: node.log(scope, H1)
    many = [endpoint(number, offset=number + 2) for number in range(1, TOMBSTONES_LIMIT + 1)]
    stays = endpoint(200, offset=200)

    async def work():
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


class _Kept:
    """The journal; what is committed must be in it."""

    def __init__(self, journal, node):
        self.journal = journal
        commit = node.commit

        def committing(entries, now):
            held = {log.scope: log for log in journal.load_own_logs()}
            assert all(held[one.scope].entries[one.key] == one for one in entries), "sent before written"
            return commit(entries, now)

        node.commit = committing

    def __getattr__(self, name):
        return getattr(self.journal, name)


def test_an_eviction_is_never_written_again():
    assert may_rewrite(*key_of(host()))
    assert may_rewrite(*key_of(endpoint()))
    for one in (ForgetRecord(H1), network(), AttachmentRecord(N1), RemovalRecord(N1)):
        assert not may_rewrite(*key_of(one))
