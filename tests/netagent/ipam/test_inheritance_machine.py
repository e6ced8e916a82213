"""Never two owners of one address, also while hosts are evicted, their successors are, and evicted ones return.

Real views, allocators and evictions on every host; the network is a schedule that Hypothesis chooses: any host may
receive any part of what another wrote, in any order, or nothing for long. Answers may be lost. Hosts crash, lose
power and get it back. What dead hosts wrote can be received only from those that hold it.

The one exception is the documented one: a host that was evicted and still runs, until it learns of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import trio
import trio.testing
from fakes.memory_journal import MemoryJournal
from fakes.record_node import FakeNode
from fakes.registry import N1, endpoint, event, host, identifier, network
from fakes.rows import reserve
from hypothesis import reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from netagent.daemon.own_records import OwnRecords
from netagent.errors import NetagentError
from netagent.eviction.downtime import Downtime
from netagent.eviction.evict import Eviction
from netagent.ipam.allocator import Allocator
from netagent.ipam.space import Range, share_out
from netagent.model.ids import HostId
from netagent.model.records import ForgetRecord, NetworkRecord
from netagent.model.subnet import offset_count
from netagent.registry.publish import Publisher
from netagent.registry.record_codec import decode_untrusted
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE, EntriesChanged, Member, MemberState

SUBNETS = ("10.1.0.0/27",)
COUNT = offset_count(SUBNETS)
SIZE = 5
names = st.integers(0, SIZE - 1)


class Host:
    """`known`: of each writer, the numbers of those of its changes that this host has taken in."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.host_id = HostId(identifier(number + 1))
        self.journal, self.node = MemoryJournal(), FakeNode(self.host_id)
        node: Any = self.node
        node.unacknowledged = lambda scope: world.unacknowledged(self)
        node.ahead = lambda scope: world.ahead(self)
        node.catch_up = lambda scope, now: None
        node.caught_up = lambda scope: None
        self.is_running, self.is_out = True, False
        """Out: it knows that it was evicted, and uses nothing any more."""
        self.known: dict[HostId, set[int]] = {}
        self.start()

    def start(self, lost: frozenset[int] | set[int] = frozenset()) -> None:
        """A restart: what it wrote itself is on disk. Of what it received some is `lost`, but not which hosts are
        gone."""
        before = self.known
        self.known = {self.host_id: set()}
        self.live = StateStore(RegistryView(self.host_id), {})
        self.publisher = Publisher(self.node, self.journal, lambda: self.hear(self), lambda: self.world.now)
        self.allocator = Allocator(
            view=lambda: self.live.view,
            journal=self.journal,
            publisher=self.publisher,
            ask=self._ask,
            rows=self.journal.load_endpoints(),
            clock=lambda: self.world.now,
        )
        self.eviction = Eviction(
            self.live, self.publisher, self.node, self.allocator, Downtime({}), lambda: None
        )
        self.upkeep = OwnRecords(
            live=self.live,
            publisher=self.publisher,
            allocator=self.allocator,
            undecided=lambda: (),
            pursued=lambda: self.eviction.in_work,
        )
        self.hear(self)
        for writer, numbers in before.items():
            other = self.world.by_id[writer]
            kept = {n for n in numbers if n % 8 not in lost or is_lasting(other.node.heard[n])}
            self.hear(other, kept)
        self.world.tell_members(self)

    def hear(self, other: Host, numbers: set[int] | None = None) -> None:
        """Take in some of what another host wrote, or all; of one key only what is newer than what is known."""
        known = self.known.setdefault(other.host_id, set())
        every = range(len(other.node.heard))
        view = self.live.view
        for number in sorted(set(every if numbers is None else numbers) - known):
            one = other.node.heard[number]
            (entry,) = one.entries
            newer = (other.node.heard[n].entries[0] for n in known if n > number)
            if not any(later.key == entry.key and later.scope == entry.scope for later in newer):
                view = view.with_entries(event(other.host_id, entry, scope=entry.scope))
            known.add(number)
        self.live.update_view(lambda _: view)
        if self.host_id in view.evicted and not self.is_out:  # it stops, and rejoins as another host
            self.is_running, self.is_out = False, True
            for each in self.world.hosts:
                self.world.tell_members(each)

    def knows_all_of(self, other: Host) -> bool:
        return len(self.known.get(other.host_id, ())) == len(other.node.heard)

    async def _ask(self, host_id: HostId, payload: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        other = self.world.by_id[host_id]
        if not other.is_running or other.is_out or not self.world.is_reachable:
            return None
        answer = await other.allocator.grants.answer_request(self.host_id, payload)
        return None if self.world.is_answer_lost else answer

    @property
    def owned(self) -> tuple[Range, ...]:
        self.allocator.free_count(N1)
        return self.allocator.allocations[N1].pool.owned

    @property
    def works(self) -> bool:
        return self.is_running and not self.is_out


def is_lasting(change: EntriesChanged) -> bool:
    """Received so long before anything else happens that it is on disk: of the network, and of hosts that go."""
    (entry,) = change.entries
    record = None if entry.value is None else decode_untrusted(entry.value)
    return record is None or isinstance(record, ForgetRecord | NetworkRecord)


class World(RuleBasedStateMachine):
    """Hosts, and all that may happen to them except eviction."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[Host] = []
        self.by_id: dict[HostId, Host] = {}
        self.is_reachable, self.is_answer_lost = True, False
        self.count, self.now = 0, 0.0
        for number in range(SIZE):
            one = Host(self, number)
            self.hosts.append(one)
            self.by_id[one.host_id] = one
        for one in self.hosts:
            self.tell_members(one)

    def teardown(self) -> None:
        for one in self.hosts:
            one.journal.close()

    def run(self, function: Callable[..., Any], *arguments: set[HostId] | str) -> None:
        """One thing done on one host, at once as far as the others see. It may be refused."""
        with contextlib.suppress(NetagentError):
            trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))

    def tell_members(self, one: Host) -> None:
        """Which hosts are seen alive. This says nothing about the records they wrote."""
        for other in self.hosts:
            state = MemberState.ALIVE if other.is_running else MemberState.DEAD
            if other is one or other.host_id not in one.live.view.evicted:
                member = Member(other.host_id, ("192.0.2.9", 7956), state, 1)
                one.live.update_view(lambda view: view.with_member(member))

    def unacknowledged(self, successor: Host) -> frozenset[HostId]:
        others = [one for one in self.hosts if one is not successor and one.works]
        return frozenset(
            one.host_id for one in others if not (one.knows_all_of(successor) and successor.knows_all_of(one))
        )

    def ahead(self, successor: Host) -> frozenset[HostId]:
        """Hosts that know something that the successor does not, whichever host wrote it."""
        return frozenset(
            one.host_id
            for one in self.hosts
            if one.works
            and any(reported - successor.known.get(who, set()) for who, reported in one.known.items())
        )

    def is_known(self, host_id: HostId) -> bool:
        """Whether the live hosts know all that it wrote, as they do of any host that lived on for a while beside
        them."""
        known = (one.known.get(host_id, set()) for one in self.hosts if one.works)
        return len(set().union(*known)) == len(self.by_id[host_id].node.heard)

    def working(self, number: int) -> Host:
        """One that runs and uses what it owns."""
        every = [one for one in self.hosts if one.works]
        if not every:  # all have learned that they were evicted, as may happen where all evict each other
            reject()
        return every[number % len(every)]

    # -- the schedule --------------------------------------------------------------------------------------------

    @initialize(shared=st.integers(1, SIZE))
    def create(self, shared: int) -> None:
        async def make() -> None:
            first, *others = self.hosts
            await first.publisher.put(network(N1, subnets=SUBNETS))
            await first.publisher.put(*share_out(N1, COUNT, [one.host_id for one in others[: shared - 1]]))
            for one in self.hosts:
                await one.publisher.put(host(f"h{one.number}"))

        self.run(make)
        for one in self.hosts[1:]:
            one.hear(self.hosts[0], {0})  # the network

    @rule(listener=names, speaker=names, data=st.data())
    def hear(self, listener: int, speaker: int, data: st.DataObject) -> None:
        """From the writer, or, when that is dead, from any host that holds it."""
        one, other = self.working(listener), self.hosts[speaker]
        if other.is_running:
            reported = set(range(len(other.node.heard)))
        else:
            reported = set().union(*(h.known.get(other.host_id, ()) for h in self.hosts if h.is_running))
        unknown = sorted(reported - one.known.get(other.host_id, set()))
        if unknown:
            one.hear(other, data.draw(st.sets(st.sampled_from(unknown), min_size=1, max_size=6)))

    @rule()
    def running_hosts_hear_all(self) -> None:
        self.all_hear_all([one for one in self.hosts if one.is_running])

    def all_hear_all(self, hosts: list[Host]) -> None:
        """Each of them knows what any of them knows."""
        for writer in self.hosts:
            reported = set().union(*(one.known.get(writer.host_id, ()) for one in hosts))
            for one in hosts:
                if one.works:
                    one.hear(writer, reported)

    @rule(who=names, offset=st.none() | st.integers(2, COUNT - 2), lost=st.booleans(), reach=st.booleans())
    def attach(self, who: int, offset: int | None, lost: bool, reach: bool) -> None:
        one = self.working(who)
        self.is_answer_lost, self.is_reachable = lost, reach
        self.count += 1

        async def attach() -> None:
            done = await reserve(one.allocator, identifier(0xE000 + self.count), N1, offset)
            await one.publisher.put(endpoint(self.count, N1, done.offset, addresses=done.addresses))

        self.run(attach)

    @rule(who=names, number=st.integers(0, 50))
    def detach(self, who: int, number: int) -> None:
        one = self.working(who)
        rows = one.journal.load_endpoints()
        if rows:
            row = rows[number % len(rows)]

            async def release() -> None:
                found = one.live.view.endpoints.get(row.endpoint_id)
                if found is not None:
                    await one.publisher.withdraw(found.record)
                await one.allocator.release(row)

            self.run(release)

    @rule(who=names, lost=st.booleans())
    def top_up(self, who: int, lost: bool) -> None:
        self.is_answer_lost, self.is_reachable = lost, True
        self.run(self.working(who).allocator.space_requests.top_up, N1)

    @precondition(lambda self: sum(one.works for one in self.hosts) > 2)
    @rule(who=names, is_heard=st.booleans())
    def leave(self, who: int, is_heard: bool) -> None:
        """It hands on all that it owns, and goes; perhaps before another host has its last records."""
        one = self.working(who)

        async def go() -> None:
            for row in one.journal.load_endpoints():
                found = one.live.view.endpoints.get(row.endpoint_id)
                if found is not None:
                    await one.publisher.withdraw(found.record)
                await one.allocator.release(row)
            gone = one.live.view.evicted
            successors = [other.host_id for other in self.hosts if other.works and other is not one]
            for successor in sorted(set(successors).difference(gone))[:1]:
                await one.allocator.grants.hand_over(N1, successor)

        self.run(go)
        for other in self.hosts if is_heard else ():
            if other.works:
                other.hear(one)
        one.is_running, one.is_out = False, True
        for other in self.hosts:
            self.tell_members(other)

    @rule(seconds=st.sampled_from([1.0, 61.0, 1e6]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=names)
    def put_in_order(self, who: int) -> None:
        self.run(self.working(who).upkeep.put_in_order)

    @rule(who=names)
    def clean_up(self, who: int) -> None:
        """Drop all that evicted hosts wrote, as netagent.eviction.cleanup does when they do not run."""
        one = self.working(who)
        for gone in one.live.view.evicted:
            if not self.by_id[gone].is_running:
                one.live.update_view(lambda view: view.without_host(gone))

    @rule(who=names, lost=st.sets(st.integers(0, 7)))
    def crash(self, who: int, lost: set[int]) -> None:
        self.working(who).start(lost)

    # Hypothesis leaves out some of the rules in most of its runs; what belongs together is therefore one rule.

    @rule(who=names, is_returning=st.booleans())
    def switch_power(self, who: int, is_returning: bool) -> None:
        dark = [one for one in self.hosts if not one.is_running and not one.is_out]
        if is_returning and dark:
            one = dark[who % len(dark)]
            one.is_running = True
            one.start()
        elif sum(one.works for one in self.hosts) > 1:
            self.working(who).is_running = False
        for one in self.hosts:
            self.tell_members(one)


class InheritanceMachine(World):
    """Only hosts that do not run are evicted, and in order."""

    @precondition(lambda self: any(not one.is_running for one in self.hosts))
    @rule(successor=names, some=st.integers(1, 2**SIZE - 1), is_calm=st.booleans(), goes_on=st.booleans())
    def forget(self, successor: int, some: int, is_calm: bool, goes_on: bool) -> None:
        """A host is about to forget some of those that do not run; or one that was goes on with it."""
        successors = [one for one in self.hosts if one.works and one.eviction.in_work]
        if successors and goes_on:
            self.go_on(successors[successor % len(successors)], is_calm=is_calm)
            return
        one = self.working(successor)
        dark = [other.host_id for other in self.hosts if not other.is_running]
        gone = {host_id for n, host_id in enumerate(dark) if some >> n & 1} - set(one.live.view.evicted)
        if any(
            not self.is_known(host_id) for host_id in gone
        ):  # those that fell silent together are evicted together
            gone |= {other for other in dark if not self.is_known(other)} - set(one.live.view.evicted)
        view = one.live.view
        while more := {x for x in dark if view.about_to_evict(x) & gone} - gone - set(view.evicted):
            gone |= more  # the host that one of them was about to evict
        if gone and not one.eviction.in_work:
            self.run(one.eviction._intend, gone)
            if is_calm:
                self.go_on(one, is_calm=True)

    def go_on(self, one: Host, *, is_calm: bool) -> None:
        """Settled, agreed, taken over; or all taken back."""
        for other in self.hosts if is_calm else ():  # no more than what is waited for
            if other.works:
                other.hear(one)
                for writer, reported in [*other.known.items()]:
                    one.hear(self.by_id[writer], reported)

        async def take_over() -> None:
            eviction, gone = one.eviction, set(one.eviction.in_work)
            try:
                await eviction._settle(gone, force=False)
                ours = await eviction._agree(gone, force=False)
                await eviction._take_over(ours)
                if gone - ours:
                    await eviction._take_back(gone - ours)
            except NetagentError:
                await eviction._take_back(gone)
            finally:
                eviction.in_work.clear()

        self.run(take_over)

    @rule()
    def calm_down(self) -> None:
        """When all is received and put in order, all agree, and no address is lost with its former owner."""
        for _ in range(3):
            self.running_hosts_hear_all()
            for one in self.hosts:
                if one.works and not one.eviction.in_work:
                    self.run(one.upkeep.put_in_order)
        works = [one for one in self.hosts if one.works]
        for one in works:
            one.allocator.free_count(N1)
            space = one.allocator.allocations[N1].space
            space.check_invariants()
            assert space.ranges == works[0].allocator.allocations[N1].space.ranges, "they disagree"
            others = [other for other in self.hosts if other.host_id not in one.live.view.evicted]
            if all(map(one.knows_all_of, others)):  # or it lost in a crash what only the dead still know
                assert sum(len(held) for held, _ in space.ranges) == COUNT, "some of it has no owner"
            assert not {owner for _, owner in space.ranges} & set(one.live.view.evicted), "the dead own some"

    # -- what must hold ------------------------------------------------------------------------------------------

    def forgotten_by_any(self) -> set[HostId]:
        """Identities of which some host's log says that they are gone."""
        said = set()
        for one in self.hosts:
            own = one.live.view.records_of(one.host_id, CLUSTER_SCOPE)
            said |= {record.host_id for record in own if isinstance(record, ForgetRecord) and record.settled}
        return said

    @invariant()
    def never_two_owners(self) -> None:
        gone = self.forgotten_by_any()
        believers: dict[int, Any] = {}
        for one in self.hosts:
            if not one.works or one.host_id in gone or N1 not in one.live.view.networks:
                continue
            for held in one.owned:
                for offset in range(held.first, held.last + 1):
                    other = believers.setdefault(offset, one)
                    assert other is one, f"{offset}: h{other.number} and h{one.number}"

    @invariant()
    def never_two_endpoints(self) -> None:
        gone = self.forgotten_by_any()
        rows = [
            row.offset
            for one in self.hosts
            if one.works and one.host_id not in gone
            for row in one.journal.load_endpoints()
        ]
        assert len(rows) == len(set(rows)), f"an address was given twice: {sorted(rows)}"


class CutMachine(World):
    """Partitions outlast `forget_after_s`: each side evicts all that it does not hear. Two may own an address then,
    until all have received all."""

    @rule(left=st.integers(1, 2**SIZE - 2))
    def outlast(self, left: int) -> None:
        works = [one for one in self.hosts if one.works]
        sides = [[one for one in works if left >> one.number & 1 == bit] for bit in (0, 1)]
        for side in sides if all(sides) else ():
            if len(side) > 1:  # a host that is alone evicts none
                self.forget_all_but(side)

    def forget_all_but(self, side: list[Host]) -> None:
        successor = side[0]
        self.all_hear_all(side)
        gone = {one.host_id for one in self.hosts if one not in side} - set(successor.live.view.evicted)

        async def take_over() -> None:
            await successor.eviction._intend(gone)
            await successor.eviction._take_over(gone)
            successor.eviction.in_work.clear()

        self.run(take_over)
        self.all_hear_all(side)

    def settle(self) -> None:
        """All running hosts receive all, and put their own records in order."""
        for _ in range(4):
            self.running_hosts_hear_all()
            for one in self.hosts:
                if one.works:
                    self.run(one.upkeep.put_in_order)
        self.running_hosts_hear_all()

    @rule(successor=names, gone=names)
    def forget_the_dead(self, successor: int, gone: int) -> None:
        """A container that is there stays, whatever the dead host had said of it."""
        self.settle()
        one = self.working(successor)
        view = one.live.view
        dead = [other.host_id for other in self.hosts if not other.is_running and other.host_id in view.hosts]
        dead = [other for other in dead if other not in view.store.evictions.get(one.host_id, ())]
        if not dead:
            return
        here = [other for other in self.hosts if other.works]

        async def take_over() -> None:
            await one.eviction._intend({dead[gone % len(dead)]})
            await one.eviction._take_over({dead[gone % len(dead)]})
            one.eviction.in_work.clear()

        self.run(take_over)
        self.all_hear_all(here)
        for other in here:
            assert other.works, f"h{other.number} is forgotten with it"

    @rule()
    def heal(self) -> None:
        """All agree in the end; nothing in use is given to another host, whichever host owns it by now."""
        self.settle()
        works = [one for one in self.hosts if one.works]
        if any(one.live.view.store.evictions.get(other.host_id) for one in works for other in works):
            return  # one that is gone by now evicts one that is alive: contested until a third evicts the former
        fenced = set()
        owners: dict[int, Any] = {}
        for one in works:
            view = one.live.view
            view.check_invariants()
            assert set(view.evicted) == set(works[0].live.view.evicted), "they disagree on who is gone"
            assert one.host_id not in view.evicted
            for held in one.owned:
                for offset in range(held.first, held.last + 1):
                    assert owners.setdefault(offset, one) is one, "two owners after all was heard"
            fenced |= set(view.fenced)
        for one in works:
            self.attach(works.index(one), None, lost=False, reach=True)
            self.running_hosts_hear_all()
        for one in works:
            assert set(one.live.view.fenced) <= fenced, "an address that was in use was given away"


TestCutMachine = CutMachine.TestCase
TestCutMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestInheritanceMachine = InheritanceMachine.TestCase
TestInheritanceMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@contextlib.contextmanager
def by_hand(shared: int) -> Iterator[tuple[InheritanceMachine, list[Host]]]:
    """A machine for one scripted story, with its hosts; the hosts know nothing but the network."""
    machine = InheritanceMachine()
    try:
        machine.create(shared)
        yield machine, machine.hosts
        machine.never_two_owners()
        machine.never_two_endpoints()
    finally:
        machine.teardown()


def test_what_one_gave_to_another_as_both_went_is_lost_with_both() -> None:
    """A rack without power: no live host knows of the grant. A host that returns must not share with a successor."""
    with by_hand(shared=1) as (machine, (giver, taker, third, successor, _)):
        machine.attach(taker.number, None, lost=False, reach=True)
        for _ in range(2):
            machine.switch_power(0, is_returning=False)
        assert not giver.is_running
        assert not taker.is_running
        machine.forget(goes_on=False, successor=1, is_calm=True, some=1)
        assert set(successor.live.view.evicted) == {giver.host_id, taker.host_id}
        machine.switch_power(1, is_returning=True)
        machine.never_two_owners()
        assert not third.owned


def test_a_dying_hosts_grant_is_not_used_once_its_successor_intends_to_evict_it() -> None:
    with by_hand(shared=1) as (machine, (giver, taker, third, successor, _)):
        machine.attach(taker.number, None, lost=True, reach=True)
        third.hear(giver)  # it alone knows of the grant, and has nothing to say of it
        machine.switch_power(giver.number, is_returning=False)
        machine.run(successor.eviction._intend, {giver.host_id})
        machine.go_on(successor, is_calm=True)
        assert giver.host_id in successor.live.view.evicted
        taker.hear(
            giver, third.known[giver.host_id]
        )  # from the third; the successor's last record is still on its way
        machine.run(taker.upkeep.put_in_order)
        machine.never_two_owners()
        machine.running_hosts_hear_all()


def test_a_successor_that_dies_with_its_eviction_half_spread_blocks_until_it_is_evicted_too() -> None:
    with by_hand(shared=5) as (machine, (gone, first, second, third, _)):
        machine.running_hosts_hear_all()
        machine.switch_power(gone.number, is_returning=False)
        machine.run(first.eviction._intend, {gone.host_id})
        machine.go_on(first, is_calm=True)
        machine.switch_power(
            0, is_returning=False
        )  # the smallest that works, before another host knew that it continued
        assert not first.is_running
        machine.run(second.eviction._intend, {gone.host_id})
        machine.go_on(second, is_calm=True)
        assert gone.host_id not in second.live.view.evicted
        machine.switch_power(1, is_returning=True)
        assert first.is_running
        machine.never_two_owners()
        machine.switch_power(0, is_returning=False)
        machine.run(third.eviction._intend, {gone.host_id, first.host_id})
        machine.go_on(third, is_calm=True)
        assert {gone.host_id, first.host_id} <= set(third.live.view.evicted)


def test_two_sides_that_forgot_each_other_both_live_on() -> None:
    with by_hand(shared=5) as (machine, hosts):
        machine.running_hosts_hear_all()
        left, right = hosts[:2], hosts[2:]
        for successor, gone in ((left[1], right), (right[0], left)):
            machine.run(successor.eviction._intend, {one.host_id for one in gone})
            machine.run(successor.eviction._take_over, {one.host_id for one in gone})
            successor.eviction.in_work.clear()
        for side in (left, right):
            for one in side:
                for other in side:
                    one.hear(other)
        # The partition heals, and what each takes back reaches the others one by one.
        for listener in (*hosts, *reversed(hosts)):
            for speaker in hosts:
                listener.hear(speaker)
                machine.run(listener.upkeep.put_in_order)
                assert all(one.works for one in hosts), "none hears that it was forgotten"
        for _ in range(3):
            machine.running_hosts_hear_all()
            for one in hosts:
                machine.run(one.upkeep.put_in_order)
        for one in hosts:
            assert not one.live.view.evicted
            assert not one.live.view.store.evictions
