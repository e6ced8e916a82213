"""Who owns how much of a network, and how much of that is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fakes.registry import H1, H2, H3, N1, Writer, endpoint, grant, grants_of, host, network

from netagent.commands.networks import space_use
from netagent.control.present import Presenter
from netagent.ipam.space import AddressSpace, Range, space_of
from netagent.model.ids import HostId
from netagent.model.records import HostAddressRecord
from netagent.registry.view import RegistryView
from netgossip.slices import at_once
from netgossip.types import Member, MemberState


class World:
    def __init__(self) -> None:
        self.view = RegistryView(H1)
        self.writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
        for number, owner in enumerate((H1, H2), 1):
            self.member(owner, MemberState.ALIVE)
            self.put(owner, host(f"h{number}"))
        self.put(H1, network(), grant(N1, 128, 191, H2), grant(N1, 192, 255, H3))

    def put(self, owner: HostId, *records: Any) -> None:
        for record in records:
            self.view = self.view.with_entries(self.writers[owner].put(record))

    def member(self, owner: HostId, state: MemberState) -> None:
        self.view = self.view.with_member(Member(owner, ("192.0.2.9", 7956), state, 1))

    def use(self, *, is_known: bool = True, creator: HostId | None = H1) -> Any:
        space = space_of(creator, 256, grants_of(self.view, N1))
        present = Presenter(self.view, "mesh.internal")
        return at_once(space_use(present, self.view.networks[N1], space, is_known=is_known))


def test_each_owner_with_what_it_has_in_use() -> None:
    world = World()
    world.put(H1, endpoint(1, offset=2), endpoint(2, offset=3))
    world.put(H2, endpoint(3, offset=130))
    use = world.use()
    assert (use["total"], use["used"], use["free"], use["unowned"]) == (253, 3, 250, 0)
    assert [(one["host"], one["owned"], one["used"], one["free"]) for one in use["owners"]] == [
        ("h1", 126, 2, 124),
        ("h2", 64, 1, 63),
        (H3[:8], 63, 0, 63),
    ]
    assert [one["ranges"] for one in use["owners"]] == [
        ["10.1.0.2 - 10.1.0.127"],
        ["10.1.0.128 - 10.1.0.191"],
        ["10.1.0.192 - 10.1.0.254"],
    ]


def test_free_space_of_hosts_that_do_not_answer_is_away() -> None:
    world = World()
    assert world.use()["away"] == 63, "nothing is known of the third"
    for state, away in ((MemberState.SUSPECT, 63), (MemberState.DEAD, 127), (MemberState.ALIVE, 63)):
        world.member(H2, state)
        assert world.use()["away"] == away


def test_what_is_not_known_is_not_zero() -> None:
    use = World().use(is_known=False)
    assert (use["used"], use["free"], use["away"]) == (None, None, None)
    assert {(one["used"], one["free"]) for one in use["owners"]} == {(None, None)}


def test_space_without_its_creator_s_word_belongs_to_nobody_yet() -> None:
    use = World().use(creator=None)
    assert (use["unowned"], [one["host"] for one in use["owners"]]) == (126, ["h2", H3[:8]])


def test_pieces_of_one_owner_are_joined_whatever_way_they_came() -> None:
    world = World()
    world.put(H2, grant(N1, 128, 128, H1, hop=2), grant(N1, 150, 150, H1, hop=2))
    shares = {one["host"]: one for one in world.use()["owners"]}
    assert shares["h1"]["ranges"] == ["10.1.0.2 - 10.1.0.128", "10.1.0.150"]
    assert shares["h2"]["ranges"] == ["10.1.0.129 - 10.1.0.149", "10.1.0.151 - 10.1.0.191"]


def test_an_endpoint_of_a_host_that_owns_nothing_is_counted() -> None:
    world = World()
    world.put(H2, grant(N1, 128, 191, H1, hop=2))
    world.put(H2, endpoint(3, offset=130))
    (_, _, last) = world.use()["owners"]
    assert (last["host"], last["owned"], last["used"], last["free"], last["ranges"]) == ("h2", 0, 1, 0, [])


def test_addresses_that_hosts_have_themselves_are_in_use() -> None:
    world = World()
    world.put(H1, HostAddressRecord(N1, 2, "06:00:00:00:00:01"), endpoint(1, offset=3))
    world.put(H2, HostAddressRecord(N1, 130, "06:00:00:00:00:02"))
    use = world.use()
    assert (use["used"], use["free"]) == (3, 250)
    assert [(one["host"], one["used"], one["free"]) for one in use["owners"]] == [
        ("h1", 2, 124),
        ("h2", 1, 63),
        (H3[:8], 0, 63),
    ]


def test_ranges_are_read_a_fixed_number_of_times_however_many_hosts_own_them() -> None:
    """A page that shows addresses reads them every two seconds, in a cluster of 300 hosts."""
    read = 0

    class Ranges(tuple[tuple[Range, HostId], ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[tuple[Range, HostId]]:
            nonlocal read
            read += 1
            return super().__iter__()

    def reads_for(owners: int) -> int:
        nonlocal read
        read, view = 0, World().view
        ranges = Ranges((Range(at, at), HostId(f"{at:032x}")) for at in range(2, 2 + owners))
        use = space_use(
            Presenter(view, "mesh.internal"), view.networks[N1], AddressSpace(256, ranges), is_known=True
        )
        assert len(at_once(use)["owners"]) == owners
        return read

    assert reads_for(3) == reads_for(100)
