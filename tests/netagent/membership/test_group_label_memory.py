"""Which labels of groups the journal holds, and until when a group is remembered."""

from __future__ import annotations

from pathlib import Path

from fakes.registry import H1, H2, N1, Writer, endpoint, network

from netagent.journal.journal import Journal
from netagent.membership.group_label_memory import FORGET_S, MAX_EMPTY, MAX_NOTED, GroupLabelMemory
from netagent.model.group_labels import GroupKey
from netagent.model.ids import HostId
from netagent.model.records import EndpointRecord, Group
from netagent.registry.view import RegistryView
from netgossip.slices import at_once

SHOP = (N1, "shop")


class World:
    """A registry, and the memory that follows it."""

    def __init__(self, noted: dict[GroupKey, dict[str, int | None]] | None = None) -> None:
        self.writers = {one: Writer(one) for one in (H1, H2)}
        self.view = RegistryView(H1).with_entries(self.writers[H1].put(network()))
        self.view = self.view.with_labels_had(noted or {})
        self.memory = GroupLabelMemory(noted or {})
        self.written: dict[tuple[GroupKey, str], tuple[object, ...]] = {}

    def put(self, owner: HostId, *records: EndpointRecord) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def delete(self, owner: HostId, record: EndpointRecord) -> None:
        self.view = self.view.with_entries(self.writers[owner].delete(record))

    def follow(self, now: float = 0.0, time_s: int = 1000) -> None:
        at_once(self.memory.follow(self.view, now=now, time_s=time_s))
        for key, statement in self.memory.take_statements():
            self.written.pop(key, None)
            if statement.sql.startswith("INSERT"):
                self.written[key] = statement.parameters[3:]

    @property
    def labels(self) -> dict[str, object]:
        return {label: value for (_, label), (value,) in self.written.items()}


def web(number: int = 1, service: str = "web", group: str = "shop") -> EndpointRecord:
    return endpoint(number, offset=number + 1, name=service, service=service, group=Group(group, service))


def test_labels_are_noted_when_they_come_and_dated_when_they_go() -> None:
    world = World()
    world.put(H1, web(1))
    world.put(H2, web(2, "db"))
    world.follow()
    assert world.labels == {"web": None, "db": None}
    world.delete(H2, web(2, "db"))
    world.follow(time_s=2000)
    assert world.labels == {"web": None, "db": 2000}
    assert world.memory.gone(SHOP) == {"db": 2000}
    world.follow(time_s=3000)
    assert world.labels["db"] == 2000
    world.put(H2, web(2, "db"))
    world.follow(time_s=4000)
    assert world.labels == {"web": None, "db": None}


def test_only_groups_with_an_endpoint_here_are_noted_and_then_with_all_that_they_have() -> None:
    world = World()
    world.put(H2, web(1), web(2, "db"), web(3, "cache"))
    world.follow()
    world.delete(H2, web(3, "cache"))
    world.follow()
    assert world.labels == {}
    world.put(H1, web(4, "api"))
    world.follow(time_s=5)
    assert world.labels == {"web": None, "db": None, "cache": 5, "api": None}
    world.delete(H1, web(4, "api"))
    world.delete(H2, web(2, "db"))
    world.follow(time_s=6)
    assert world.labels == {"web": None, "db": 6, "cache": 5, "api": 6}, "it may come back here"


def test_a_group_without_an_endpoint_is_forgotten_after_a_while() -> None:
    world = World()
    world.put(H1, web())
    world.follow(now=0.0)
    assert world.memory.next_due is None
    world.delete(H1, web())
    world.follow(now=10.0)
    assert world.memory.next_due == 10.0 + FORGET_S
    world.put(H1, web())
    world.follow(now=20.0)
    assert world.memory.next_due is None, "the project was restarted"
    world.delete(H1, web())
    world.follow(now=30.0)
    assert world.memory.take_due(29.0 + FORGET_S) == []
    assert world.memory.take_due(30.0 + FORGET_S) == [SHOP]
    world.follow(now=31.0 + FORGET_S)
    assert (world.labels, world.memory.next_due) == ({}, None)


def test_groups_without_an_endpoint_are_few() -> None:
    world = World({(N1, f"g{number}"): {"db": 1} for number in range(MAX_EMPTY + 3)})
    world.follow(now=1.0)
    assert world.memory.take_due(1.0) == [(N1, f"g{number}") for number in range(3)]
    assert world.memory.take_due(1.0) == []


def test_what_went_while_the_agent_was_away_is_found_in_the_journal() -> None:
    world = World({SHOP: {"old": 7, "db": None, "web": None}})
    world.put(H1, web())
    world.follow(time_s=9)
    assert world.memory.gone(SHOP) == {"old": 7, "db": 9}
    assert world.view.labels_of(*SHOP).absent == ("old", "db")


def test_a_restart_of_the_agent_knows_the_labels(tmp_path: Path) -> None:
    world = World()
    world.put(H1, web())
    world.put(H2, web(2, "db"))
    world.delete(H2, web(2, "db"))
    at_once(world.memory.follow(world.view, now=0.0, time_s=42))
    journal = Journal.open(tmp_path / "state.db")
    for key, statement in world.memory.take_statements():
        journal.note_group_label(key, statement)
    journal.close()
    journal = Journal.open(tmp_path / "state.db")
    try:
        assert journal.load_group_labels() == {SHOP: {"db": 42, "web": None}}
    finally:
        journal.close()


def test_a_group_with_very_many_labels_fills_no_journal() -> None:
    world = World()
    world.put(H1, web(1))
    world.follow()
    per_record = 50
    for number in range(2, 2 + MAX_NOTED // per_record + 2):
        aliases = tuple(f"a{number}-{one}" for one in range(per_record))
        record = endpoint(
            number, offset=number + 1, name=f"n{number}", aliases=aliases, group=Group("shop", "web")
        )
        world.put(H2, record)
    world.follow()
    assert len(world.labels) == MAX_NOTED
