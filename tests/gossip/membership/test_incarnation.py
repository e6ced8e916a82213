"""Claims that no owner can have made: what one forged datagram, thousands of them, and old recordings do."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from swim_machine import NOW, OWN, PEER, THIRD, Machine, alive, merge, said
from swim_net import KEY, LABEL, SwimNet, address_of, id_of

from netgossip.codec.messages import Alive, Dead, Message, Suspect, encode, encode_compound
from netgossip.codec.sealing import Keyring, seal_datagram
from netgossip.config import GossipConfig
from netgossip.membership.incarnation import (
    DEPARTED_LIMIT,
    INCARNATION_LIMIT,
    LEAP_LIMIT,
    RISE_PER_S,
    Ceilings,
    Departures,
)
from netgossip.types import Member, MemberState

WORST = INCARNATION_LIMIT - 1
FORGED = [
    Suspect(PEER, WORST, THIRD),
    Dead(PEER, WORST, THIRD),
    Dead(PEER, WORST, PEER),
    alive(2, WORST),
    alive(2, 2**32 - 1),
]


@pytest.mark.parametrize("claim", FORGED)
def test_one_forged_claim_silences_no_member(claim: Message) -> None:
    machine = Machine()
    machine.hear(alive(2), alive(3))
    machine.hear(claim)
    machine.hear(alive(2, 2, meta=b"I live"))
    held = machine.swim.members()[PEER]
    assert (held.state, held.meta) == (MemberState.ALIVE, b"I live")


@pytest.mark.parametrize("claim", [replace(claim, node=OWN) for claim in FORGED])  # type: ignore[type-var]
def test_a_node_does_not_follow_what_others_would_refuse(claim: Message) -> None:
    machine = Machine()
    machine.hear(alive(2), alive(3))
    before = machine.swim.incarnation
    machine.hear(claim)
    assert machine.swim.incarnation == before
    machine.hear(Suspect(OWN, before, PEER))
    assert machine.swim.incarnation == before + 1, "what is true is still refuted"


def test_many_small_steps_lead_no_further_than_one() -> None:
    machine = Machine()
    machine.hear(alive(2), alive(3))
    for number in range(1, 40):
        machine.hear(alive(2, number * LEAP_LIMIT), Suspect(OWN, number * LEAP_LIMIT, PEER))
    assert machine.swim.members()[PEER].incarnation <= 2 * LEAP_LIMIT
    assert machine.swim.incarnation <= 2 * LEAP_LIMIT


def test_a_member_that_was_away_for_days_is_believed() -> None:
    ceilings = Ceilings()
    ceilings.begin(PEER, 7, NOW)
    away_s = 3 * 24 * 3600.0
    assert not ceilings.is_above(PEER, 7 + LEAP_LIMIT, NOW)
    assert not ceilings.is_above(PEER, 7 + LEAP_LIMIT + int(RISE_PER_S * away_s), NOW + away_s)
    assert ceilings.is_above(PEER, 8 + LEAP_LIMIT, NOW)


def test_what_was_believed_at_the_end_of_the_range_is_refuted() -> None:
    """A release without ceilings believed it, and the counter is on disk."""
    machine = Machine(incarnation=WORST - 1)
    machine.hear(alive(2))
    machine.hear(Dead(OWN, WORST, PEER))
    assert machine.swim.incarnation == WORST + 1
    other = Machine(remembered=(Member(PEER, address_of(2), MemberState.DEAD, WORST),))
    other.hear(alive(2, WORST + 1), alive(3))
    assert other.state_of(PEER) is MemberState.ALIVE
    other.hear(Suspect(PEER, WORST + 2, THIRD))
    assert other.state_of(PEER) is MemberState.ALIVE, "others do not raise it there"
    other.hear(Suspect(PEER, WORST + 1, THIRD))
    assert other.state_of(PEER) is MemberState.SUSPECT, "but it may still be dead"


def test_a_forged_claim_to_a_newcomer_ends_with_the_members_own_statement() -> None:
    """In its first push/pull a node believes its peer; the member itself corrects that at their first one."""
    machine = Machine()
    state_updates = machine.swim._state_updates
    lie = Member(PEER, address_of(2), MemberState.DEAD, WORST)
    merge(state_updates, (lie, Member(THIRD, address_of(3), MemberState.ALIVE, 1)), NOW, peer=address_of(3))
    truth = Member(PEER, address_of(2), MemberState.ALIVE, 4)
    machine.hear(alive(2, 4))
    merge(state_updates, (truth,), NOW, peer=address_of(3))
    assert machine.state_of(PEER) is MemberState.DEAD, "others' word does not lower it"
    merge(state_updates, (truth,), NOW, peer=address_of(2))
    assert machine.swim.members()[PEER] == truth
    merge(state_updates, (lie,), NOW, peer=address_of(3))
    machine.run_until(NOW + 0.1)
    assert machine.swim.members()[PEER] == truth, "and the lie does not come back"


def test_a_node_that_was_away_for_a_year_believes_the_members_own_statement() -> None:
    remembered = Member(PEER, address_of(2), MemberState.ALIVE, 5)
    machine = Machine(remembered=(remembered,))
    state_updates = machine.swim._state_updates
    truth = replace(remembered, incarnation=5_000_000)
    merge(state_updates, (truth,), NOW, peer=address_of(3))
    merge(state_updates, (replace(truth, address=address_of(9)),), NOW, peer=address_of(9))
    assert machine.swim.members()[PEER] == remembered
    merge(state_updates, (truth,), NOW, peer=address_of(2))
    assert machine.swim.members()[PEER] == truth
    machine.hear(alive(2, 5_000_001))
    assert machine.swim.members()[PEER].incarnation == 5_000_001


def test_a_host_with_a_restored_disk_comes_back_however_far_behind() -> None:
    net = SwimNet(3, GossipConfig.local())
    hosts = [net.add(1, incarnation=100_000), *(net.add(n, seeds=(1,)) for n in (2, 3, 4))]
    all_ids = {host.node_id for host in hosts}
    net.run_until(lambda: all(net.seen(host, MemberState.ALIVE) == all_ids for host in hosts), 10)
    net.crash(hosts[0])
    net.run_until(lambda: all(net.seen(host, MemberState.DEAD) == {id_of(1)} for host in hosts[1:]), 30)
    hosts[0] = net.add(1, seeds=(2,), incarnation=0)
    net.run_until(lambda: all(net.seen(host, MemberState.ALIVE) == all_ids for host in hosts), 60)


@pytest.mark.parametrize("seed", range(2))
def test_a_host_is_alive_again_as_soon_as_an_attacker_stops(seed: int) -> None:
    """For twenty seconds an attacker sends every member, the victim too, all possible claims about it, in large steps
    and in small ones. Then the victim is alive for all, also after it and another have restarted."""
    net = SwimNet(seed, GossipConfig.local())
    hosts = net.cluster(4)
    victim, other = hosts[1], hosts[2]
    rng = random.Random(seed)
    highest = 0
    for _ in range(200):
        for host in hosts:
            held = host.swim.members()[victim.node_id].incarnation
            highest = max(highest, held)
            lies: list[Message] = []
            for leap in (0, 1, rng.randint(1, LEAP_LIMIT), LEAP_LIMIT, 2**20, 2**31, WORST, 2**32 - 1):
                incarnation = min(held + leap, 2**32 - 1)
                accuser = rng.choice(hosts).node_id
                lies += [
                    Suspect(victim.node_id, incarnation, accuser),
                    Dead(victim.node_id, incarnation, accuser),
                    Dead(victim.node_id, incarnation, victim.node_id),
                    Alive(victim.node_id, incarnation, address_of(77), b"a lie"),
                    Alive(victim.node_id, incarnation, victim.address, b"a lie"),
                ]
            rng.shuffle(lies)
            payload = seal_datagram(
                encode_compound([encode(one) for one in lies]), keyring=Keyring([KEY]), label=LABEL, rng=rng
            )
            host.swim.handle_datagram(payload, address_of(77), net.now)
            net.settle(host)
        net.run_for(0.1)
    assert highest < 4 * LEAP_LIMIT, "of 2**32"

    def is_well() -> bool:
        held = [host.swim.members()[victim.node_id] for host in net.hosts.values()]
        own = net.hosts[victim.address].swim.members()[victim.node_id]
        return all(one == own and one.state is MemberState.ALIVE for one in held)

    net.run_until(is_well, 60)
    for one in (victim, other):
        remembered = tuple(one.swim.members().values())
        net.crash(net.hosts[one.address])
        net.run_for(1)
        number = int(one.address[0].rpartition(".")[2])
        net.add(number, remembered=remembered, incarnation=one.swim.incarnation)
        net.run_until(is_well, 60)


def test_a_recording_does_not_bring_back_a_member_that_left_and_was_removed() -> None:
    machine = Machine()
    old = alive(2, 3)
    machine.hear(old)
    machine.hear(Dead(PEER, 3, PEER))
    machine.hear(old)
    assert machine.state_of(PEER) is MemberState.LEFT
    machine.swim.forget(PEER, machine.now)
    answers = [machine.hear(old, source=9) for _ in range(20)]
    state_updates = machine.swim._state_updates
    merge(state_updates, (Member(PEER, old.address, MemberState.ALIVE, 3),), NOW, peer=address_of(9))
    assert machine.state_of(PEER) is None
    assert sum(Dead(PEER, 3, OWN) in said(answer, to=2) for answer in answers) == 1, "once an interval"
    machine.hear(alive(2, 4))
    assert machine.state_of(PEER) is MemberState.ALIVE, "it is back, and says so anew"


def test_a_recording_does_not_bring_back_a_member_that_left_before_a_restart() -> None:
    machine = Machine(departed=[(PEER, 3)])
    machine.hear(alive(2, 3), source=9)
    assert machine.state_of(PEER) is None
    machine.hear(alive(2, 4))
    assert machine.state_of(PEER) is MemberState.ALIVE


def test_departures_are_bounded() -> None:
    departures = Departures()
    for number in range(DEPARTED_LIMIT + 10):
        departures.note(f"{number:032x}", 1)
    assert len(departures) == DEPARTED_LIMIT
    assert departures.incarnation(f"{9:032x}") is None
    assert departures.incarnation(f"{10:032x}") == 1


def test_memberlist_peers_that_start_at_one_again_are_welcome() -> None:
    machine = Machine()
    machine.hear(alive(2, 50))
    machine.hear(Dead(PEER, 50, PEER))
    machine.swim.forget(PEER, machine.now)
    [accusation] = [m for m in said(machine.hear(alive(2, 1)), to=2) if isinstance(m, Dead)]
    machine.hear(Alive(PEER, accusation.incarnation + 1, address_of(2)))
    assert machine.state_of(PEER) is MemberState.ALIVE
