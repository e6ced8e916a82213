"""What happened between two views."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import external
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.events.sources.view_changes import (
    conflict_news,
    conflicts_of,
    may_conflict_otherwise,
    news_between,
)
from netagent.model.ids import HostId
from netagent.model.records import (
    Drain,
    EncryptionRecord,
    ForgetRecord,
    NetworkRecord,
    Policy,
    Record,
    RemovalRecord,
)
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState

Step = Callable[[RegistryView], RegistryView]


def is_(host_id: HostId, state: MemberState) -> Step:
    return lambda view: view.with_member(Member(host_id, ("192.0.2.2", 7956), state, 1))


class World:
    """What h1 knows: h1, h2 and h3 are members, and h2 made the network app."""

    def __init__(self) -> None:
        self.writers = {one: Writer(one) for one in (H1, H2, H3)}
        self.view = RegistryView(H1)
        for number, host_id in enumerate((H1, H2, H3), 1):
            self.put(host_id, host(f"h{number}", underlay=f"192.0.2.{number}"))
            self.view = is_(host_id, MemberState.ALIVE)(self.view)
        self.put(H2, network())

    def put(self, owner: HostId, *records: Record) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def drop(self, owner: HostId, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[owner].delete(record))

    def told(self, *steps: Callable[[], object] | Step) -> list[str]:
        """What happened by these steps: kind, subject, text, author."""
        before = self.view
        for step in steps:
            if isinstance(step, Change):
                step()
            else:
                self.view = step(self.view)  # type: ignore[call-arg, assignment]
        news = at_once(news_between(before, self.view))
        return [f"{one.kind}/{one.subject}/{one.text}/{one.author}" for one in news]


class Change:
    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run

    def __call__(self) -> None:
        self.run()


@pytest.fixture
def world() -> World:
    return World()


def test_a_host_that_comes_and_goes(world: World) -> None:
    assert world.told(is_(H2, MemberState.SUSPECT)) == []
    assert world.told(is_(H2, MemberState.DEAD)) == [
        "member/h2/the agent of h2 (192.0.2.2) does not answer/host h2"
    ]
    assert world.told(lambda view: view.with_host_answers({H2: False})) == [
        "member/h2/agent and kernel of h2 are silent: names lead to none of its containers/host h2"
    ]
    assert world.told(lambda view: view.with_host_answers({H2: True})) == [
        "member/h2/h2 is back: names lead to its containers again/host h2"
    ]
    assert world.told(is_(H2, MemberState.ALIVE)) == ["member/h2/the agent of h2 answers again/host h2"]
    assert world.told(is_(H2, MemberState.LEFT)) == ["member/h2/h2 left the cluster/host h2"]
    assert world.told(is_(H2, MemberState.ALIVE)) == [
        "member/h2/h2 (192.0.2.2) is a member of the cluster again/host h2"
    ]


def test_a_dead_agent_whose_kernel_answers(world: World) -> None:
    world.told(lambda view: view.with_host_answers({H2: True}))
    assert world.told(is_(H2, MemberState.DEAD)) == [
        "member/h2/the agent of h2 (192.0.2.2) does not answer; its kernel does/host h2"
    ]


def test_a_new_host_is_told_once_it_is_known_whole(world: World) -> None:
    world.view = world.view.without_host(H3).without_member(H3)
    assert world.told(is_(H3, MemberState.ALIVE)) == []
    world.writers[H3] = Writer(H3)
    came = Change(lambda: world.put(H3, host("h3", underlay="192.0.2.3")))
    assert world.told(came) == ["member/h3/h3 (192.0.2.3) is a member of the cluster/host h3"]


def test_what_a_host_says_of_itself(world: World) -> None:
    def says(**fields: object) -> list[str]:
        changed = host("h2", **{"underlay": "192.0.2.2", **fields})  # type: ignore[arg-type]
        return world.told(Change(lambda: world.put(H2, changed)))

    assert says(underlay="192.0.2.9") == ["member/h2/h2 is at 192.0.2.9, was 192.0.2.2/host h2"]
    assert says() == ["member/h2/h2 is at 192.0.2.2, was 192.0.2.9/host h2"]
    assert says(drain=Drain(1, "alice")) == [
        "drain/h2/h2 is drained by alice: names lead to none of its containers/host h2"
    ]
    assert says() == ["drain/h2/h2 is drained no more/host h2"]
    assert says(going_down=True) == ["drain/h2/names lead to no container of h2: it is about to stop/host h2"]
    assert says() == ["drain/h2/names lead to the containers of h2 again/host h2"]
    assert says(going_down=True, is_starting=True) == [
        "drain/h2/names lead to no container of h2: it has just started and restores its containers/host h2"
    ]
    assert says() == ["drain/h2/names lead to the containers of h2 again/host h2"]
    assert says(agent_version="9.1") == ["member/h2/h2 runs netagent 9.1, was /host h2"]


def test_an_unreached_host(world: World) -> None:
    assert world.told(lambda view: view.with_unreached(frozenset({H3}))) == [
        "member/h3/this host does not reach h3 over the overlay: names lead there only where nothing else is/host h3"
    ]
    assert world.told(lambda view: view.with_unreached(frozenset())) == [
        "member/h3/this host reaches h3 over the overlay again/host h3"
    ]


def test_networks_of_other_hosts(world: World) -> None:
    def puts(owner: HostId, record: Record) -> list[str]:
        return world.told(Change(lambda: world.put(owner, record)))

    db = network(N2, "db", subnets=("10.2.0.0/24",))
    assert puts(H3, db) == ["network/db/network db: 10.2.0.0/24/host h3"]
    changed = network(policy=Policy.LINKS, revision=1)
    assert puts(H2, changed) == ["network/app/network app: policy links, was open/host h2"]
    assert puts(H2, RemovalRecord(N2)) == ["network/db/removed network db/host h2"]


def test_what_this_host_did_itself_is_told_elsewhere(world: World) -> None:
    own = network(N2, "db", subnets=("10.2.0.0/24",))

    def puts(*records: Record) -> list[str]:
        return world.told(Change(lambda: world.put(H1, *records)))

    assert puts(own, host("h1", drain=Drain(1, "alice")), external.service()) == []
    assert puts(endpoint(), RemovalRecord(N2), ForgetRecord(H3, settled=True)) == []


def test_additions_of_other_hosts(world: World) -> None:
    pg = external.service(name="pg")
    added = Change(lambda: world.put(H2, pg))
    assert world.told(added) == [f"service/pg/service pg of network app: added by {pg.added_by}/host h2"]
    assert world.told(Change(lambda: world.put(H3, pg))) == []  # it succeeds h2
    assert world.told(Change(lambda: world.drop(H2, pg))) == []
    assert world.told(Change(lambda: world.drop(H3, pg))) == [
        "service/pg/service pg of network app: removed/host h3"
    ]
    world.put(H2, pg)
    assert world.told(Change(lambda: world.put(H2, RemovalRecord(N1)))) == [
        "network/app/removed network app/host h2"
    ]


def test_an_eviction_by_another_host(world: World) -> None:
    assert world.told(Change(lambda: world.put(H2, ForgetRecord(H3, settled=True)))) == [
        "evict/h3/h3 (00000000) was evicted/host h2"
    ]


def test_encryption_that_another_host_turned_on_or_off(world: World) -> None:
    on = EncryptionRecord(True, 1, 0, "root", H2)
    assert world.told(Change(lambda: world.put(H2, on))) == [
        "encryption/encryption/root on h2 turned encryption on/host h2"
    ]
    assert world.told(Change(lambda: world.put(H3, on)), Change(lambda: world.put(H1, on))) == []
    off = EncryptionRecord(False, 2, 0, "root", H3)
    assert world.told(Change(lambda: world.put(H2, off))) == [], "h3 has not said so itself"
    assert world.told(Change(lambda: world.put(H3, off))) == [
        "encryption/encryption/root on h3 turned encryption off/host h3"
    ]
    here = EncryptionRecord(True, 3, 0, "root", H1)
    assert world.told(Change(lambda: world.put(H1, here))) == [], "told where it is done"


def test_conflicts_begin_and_end(world: World) -> None:
    before = world.view
    world.put(H2, endpoint(1))
    assert not may_conflict_otherwise(before.store, world.view.store)
    world.put(H1, endpoint(2))
    world.put(H3, endpoint(3))
    # All three have the offset 2. The network's creator keeps it, and this host's is fenced.
    found = list(conflict_news(at_once(conflicts_of(before)), at_once(conflicts_of(world.view)), world.view))
    assert may_conflict_otherwise(before.store, world.view.store)
    assert {str(one.kind) for one in found} == {"conflict", "fence"}
    assert all("is fenced" in one.text for one in found)
    fenced = world.view
    world.drop(H1, endpoint(2))
    world.drop(H3, endpoint(3))
    over = list(conflict_news(at_once(conflicts_of(fenced)), at_once(conflicts_of(world.view)), world.view))
    assert {one.text.partition(":")[0] for one in over} == {"over"}
    assert (
        list(conflict_news(at_once(conflicts_of(world.view)), at_once(conflicts_of(world.view)), world.view))
        == []
    )


def test_an_own_endpoint_that_loses_its_address_is_fenced() -> None:
    world = World()
    view = RegistryView(H3, store=world.view.store)
    view = view.with_entries(world.writers[H2].put(endpoint(1)))
    before = view
    view = view.with_entries(world.writers[H3].put(endpoint(2)))
    found = list(conflict_news(at_once(conflicts_of(before)), at_once(conflicts_of(view)), view))
    assert {str(one.kind) for one in found} == {"fence"}


steps = st.lists(
    st.tuples(
        st.sampled_from([H2, H3]),
        st.sampled_from(
            [
                *MemberState,
                "answers",
                "silent",
                "drain",
                "undrain",
                "network",
                "removal",
                "service",
                "no service",
            ]
        ),
    ),
    max_size=12,
)


@given(steps)
def test_by_the_changelog_or_by_a_look_at_everything_the_same_is_found(
    taken: list[tuple[HostId, MemberState | str]],
) -> None:
    world = World()
    before = world.view
    for host_id, what in taken:
        name = "h2" if host_id == H2 else "h3"
        if isinstance(what, MemberState):
            world.view = is_(host_id, what)(world.view)
        elif what in ("answers", "silent"):
            world.view = world.view.with_host_answers({host_id: what == "answers"})
        elif what in ("drain", "undrain"):
            world.put(host_id, host(name, drain=Drain(1, "alice") if what == "drain" else None))
        elif what == "service":
            world.put(host_id, external.service())
        elif what == "no service":
            world.drop(host_id, external.service())
        else:
            other: NetworkRecord = network(N2, "db", subnets=("10.2.0.0/24",))
            world.put(host_id, other if what == "network" else RemovalRecord(N2))
    stranger = RegistryView(H1, before.generation, before.store)  # its changelog leads nowhere
    found = at_once(news_between(before, world.view))
    assert found == at_once(news_between(stranger, world.view))
    assert at_once(news_between(world.view, world.view)) == []
