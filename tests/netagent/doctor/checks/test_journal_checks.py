"""Records against journal: every way in which they can be of two opinions."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes.doctor_world import World
from fakes.registry import H1, N1, endpoint, host, network

from netagent.doctor.checks.journal_checks import journal_findings
from netagent.journal.journal import Journal
from netagent.journal.reader import StoredState, read_apart
from netagent.journal.rows import Reserved
from netagent.journal.statements import append_entries
from netagent.journal.writer import JournalError
from netagent.model.ids import EndpointId
from netagent.model.records import AttachmentRecord
from netagent.registry.record_codec import encode, key_of
from netgossip.types import Entry, Log, Member, MemberState, Version

RECORDS = (
    host("h1", underlay="192.0.2.1", probe_address="fd00::1"),
    AttachmentRecord(N1),
    network(),
    endpoint(1, offset=2),
)


def logs(*records: Any) -> list[Log]:
    found: dict[bytes, dict[bytes, Entry]] = {}
    for number, record in enumerate(records, 1):
        scope, key = key_of(record)
        found.setdefault(scope, {})[key] = Entry(scope, H1, key, encode(record), Version(1, number))
    return [Log(scope, H1, 1, 9, 0, entries) for scope, entries in found.items()]


@pytest.fixture
def written(world: World) -> StoredState:
    return StoredState(list(world.rows.values()), logs(*RECORDS), [], [])


def texts(world: World, written: StoredState) -> list[str]:
    return [one.message for one in journal_findings(world.view, world.rows, written, "mesh.internal")]


def test_they_agree(world: World, written: StoredState) -> None:
    assert texts(world, written) == []


def test_an_endpoint_that_only_one_of_them_has(world: World, written: StoredState) -> None:
    assert texts(world, replace(written, rows=[])) == [
        "the endpoint web1 is not in the journal: it would be lost at a restart"
    ]
    (row,) = written.rows
    other = replace(row, endpoint_id=EndpointId("f" * 32), name="ghost")
    assert texts(world, replace(written, rows=[row, other])) == [
        "the journal has an endpoint ghost that the agent does not know"
    ]
    assert texts(world, replace(written, rows=[replace(row, target="netns:other")])) == [
        "the journal has a different state of the endpoint web1"
    ]


def test_a_record_that_only_one_of_them_has(world: World, written: StoredState) -> None:
    (found,) = texts(world, replace(written, own=logs(*RECORDS[:3])))
    assert found.endswith("of this host is not in the journal")
    (found,) = texts(world, replace(written, own=logs(*RECORDS, endpoint(7, offset=9))))
    assert found.endswith("is in the journal, but the agent does not know it")
    (found,) = texts(world, replace(written, own=logs(*RECORDS[:3], endpoint(1, offset=2, service="other"))))
    assert found.endswith("differs from the journal")


def test_a_record_that_is_damaged(world: World, written: StoredState) -> None:
    (log, *rest) = written.own
    key = next(iter(log.entries))
    broken = replace(log, entries={**log.entries, key: replace(log.entries[key], value=b"\xc1")})
    assert any("is damaged" in text for text in texts(world, replace(written, own=[broken, *rest])))


def test_what_is_published_of_an_endpoint(world: World, written: StoredState) -> None:
    (row,) = world.rows.values()
    world.rows[row.endpoint_id] = replace(row, service="shop")
    (found,) = texts(world, replace(written, rows=list(world.rows.values())))
    assert found == "the published record of the endpoint web1 differs from what this host knows"
    world.rows.clear()
    (found,) = texts(world, replace(written, rows=[]))
    assert found == "this host publishes an endpoint web1 that it does not have"
    world.rows[row.endpoint_id] = replace(row, endpoint_id=EndpointId("e" * 32), stage=Reserved())
    assert not any("not told" in text for text in texts(world, written)), "an attach is at work"


def test_a_journal_is_read_beside_the_agent_that_writes_it(tmp_path: Path, world: World) -> None:
    path = tmp_path / "state.db"
    (row,) = world.rows.values()

    async def write() -> None:
        with contextlib.closing(Journal.open(path)) as journal:
            await journal.save_endpoint(row)
            await journal.transaction(
                append_entries("own", [one for log in logs(*RECORDS) for one in log.entries.values()])
            )
            journal.note_member(Member(H1, ("192.0.2.1", 7956), MemberState.ALIVE, 3))
            found = await trio.to_thread.run_sync(read_apart, path)
            assert found.rows == [row]
            assert len(found.own_entries) == len(RECORDS)

    trio.run(write)
    before = path.read_bytes()
    assert read_apart(path).members[0].incarnation == 3
    assert read_apart(path, is_whole=False).own == read_apart(path).own
    assert path.read_bytes() == before


def test_a_journal_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        read_apart(tmp_path / "state.db")
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalError, match="damaged"):
        read_apart(tmp_path / "state.db")
