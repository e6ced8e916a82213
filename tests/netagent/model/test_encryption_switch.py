"""Hosts that begin and end to encrypt together: whatever the order in which they hear of each other, what one sends
the others take."""

from __future__ import annotations

import dataclasses
import random

import pytest

from netagent.model.encryption_switch import decision_of, next_record
from netagent.model.ids import HostId
from netagent.model.records import EncryptionRecord, EncryptionStage

HOSTS = tuple(HostId(f"{number:032x}") for number in range(1, 5))
ON = EncryptionRecord(True, 1, 0, "root", HOSTS[0])


def test_no_host_leads_another_past_one_that_keeps_encryption() -> None:
    """A host that says that it is in the clear already may lie."""
    off = dataclasses.replace(ON, is_on=False, revision=2, stage=EncryptionStage.CLEAR, is_reached=True)
    own = dataclasses.replace(off, stage=EncryptionStage.FENCED)
    keeping = dataclasses.replace(off, stage=EncryptionStage.FENCED)
    following = next_record(own, off, {HOSTS[1]: off, HOSTS[2]: keeping})
    assert following is not None
    assert following.stage is EncryptionStage.SENDING
    there = dataclasses.replace(following, is_reached=True)
    assert next_record(there, off, {HOSTS[1]: off, HOSTS[2]: keeping}) is None, (
        "it waits for the one that keeps"
    )


class Switching:
    """Hosts with their records, and what each has heard of the others', which arrives late and in any order."""

    def __init__(self, rng: random.Random, keeping: HostId | None = None) -> None:
        self.rng = rng
        self.keeping = keeping
        self.said: dict[HostId, EncryptionRecord] = {}
        self.heard: dict[HostId, dict[HostId, EncryptionRecord]] = {one: {} for one in HOSTS}
        self.away: set[HostId] = set()
        self.kernel: dict[HostId, EncryptionStage] = dict.fromkeys(HOSTS, EncryptionStage.CLEAR)

    def say(self, host: HostId, record: EncryptionRecord) -> None:
        self.said[host] = self.heard[host][host] = record

    def decide(self, host: HostId, *, is_on: bool) -> None:
        own = self.said.get(host)
        revision = max((one.revision for one in self.said.values()), default=0) + 1
        stage, is_reached = (own.stage, own.is_reached) if own else (EncryptionStage.CLEAR, True)
        self.say(host, EncryptionRecord(is_on, revision, 0, "root", host, stage, is_reached))

    def step(self) -> bool:
        """Let one of the hosts that are there hear or do something; False: there is nothing to do."""
        here = [one for one in HOSTS if one not in self.away]
        moves = [
            (to, frm)
            for to in here
            for frm in here
            if frm in self.said and self.heard[to].get(frm) != self.said[frm]
        ]
        moves += [(one, one) for one in here if self._following(one) is not None]
        if not moves:
            return False
        to, frm = self.rng.choice(moves)
        if to != frm:
            self.heard[to][frm] = self.said[frm]
        elif (following := self._following(to)) is not None:
            self.kernel[to] = following.stage if following.is_reached else self.kernel[to]
            self.say(to, following)
        return True

    def _following(self, host: HostId) -> EncryptionRecord | None:
        heard = self.heard[host]
        decision = decision_of(heard, host, len(HOSTS))
        if decision is None:
            return None
        own = heard.get(host)
        others = {one: heard.get(one) for one in HOSTS if one != host and one not in self.away}
        following = next_record(own, decision, others, keeps=host == self.keeping)
        if following is None and own is not None and not own.is_reached:
            return dataclasses.replace(own, is_reached=True)
        return following

    def check(self) -> None:
        """Whatever a host sends is taken. While its kernel changes, a host may be at either of two stages."""
        for sender in HOSTS:
            for receiver in HOSTS:
                if sender in self.away or receiver in self.away:
                    continue
                for sends in self._stages(sender):
                    for takes in self._stages(receiver):
                        if sends >= EncryptionStage.SENDING:
                            assert takes >= EncryptionStage.READY
                        else:
                            assert takes <= EncryptionStage.SENDING

    def _stages(self, host: HostId) -> set[EncryptionStage]:
        record = self.said.get(host)
        return {self.kernel[host], record.stage if record else EncryptionStage.CLEAR}

    def settle(self, *, is_checked: bool = True) -> None:
        for _ in range(2000):
            if not self.step():
                return
            if is_checked:
                self.check()
        pytest.fail("it does not end")


@pytest.mark.parametrize("seed", range(40))
def test_no_packet_is_refused_while_hosts_change_over_also_when_the_decision_changes(seed: int) -> None:
    rng = random.Random(seed)
    hosts = Switching(rng)
    for is_on in (True, False, True, False):
        hosts.decide(rng.choice(HOSTS), is_on=is_on)
        for _ in range(rng.randrange(60)):  # half way, or at its end
            hosts.step()
            hosts.check()
    hosts.settle()
    assert set(hosts.kernel.values()) == {EncryptionStage.CLEAR}
    hosts.decide(rng.choice(HOSTS), is_on=True)
    hosts.settle()
    assert set(hosts.kernel.values()) == {EncryptionStage.FENCED}


@pytest.mark.parametrize("seed", range(20))
def test_a_host_that_is_away_holds_up_no_other_and_follows_when_it_returns(seed: int) -> None:
    rng = random.Random(seed)
    hosts = Switching(rng)
    hosts.away = {HOSTS[2]}
    hosts.decide(HOSTS[0], is_on=True)
    hosts.settle()
    assert [hosts.kernel[one] for one in HOSTS if one != HOSTS[2]] == [EncryptionStage.FENCED] * 3
    hosts.away = set()
    hosts.settle(is_checked=False)
    assert hosts.kernel[HOSTS[2]] is EncryptionStage.FENCED


def test_a_host_that_has_not_heard_of_the_decision_is_waited_for() -> None:
    ready = dataclasses.replace(ON, stage=EncryptionStage.READY)
    assert next_record(ready, ON, {HOSTS[1]: None}) is None
    assert next_record(ready, ON, {HOSTS[1]: dataclasses.replace(ready, revision=7)}) is None
    following = next_record(ready, ON, {HOSTS[1]: ready})
    assert following == dataclasses.replace(ON, stage=EncryptionStage.SENDING, is_reached=False)


def test_an_end_that_its_host_has_not_signed_counts_once_most_hosts_repeat_it() -> None:
    off = EncryptionRecord(False, 2, 0, "root", HOSTS[0])
    said = {HOSTS[1]: ON, HOSTS[2]: off}
    assert decision_of(said, HOSTS[1], 4) == ON
    said |= {HOSTS[3]: off}
    assert decision_of(said, HOSTS[1], 4) == ON, "half of them"
    assert decision_of(said, HOSTS[1], 3) == off
    assert decision_of(said | {HOSTS[0]: off}, HOSTS[1], 4) == off
    assert decision_of(said, HOSTS[2], 4) == off, "its own word, given when it heard the host itself"


def test_one_live_host_that_keeps_encryption_keeps_all_of_them_behind_the_tunnel() -> None:
    hosts = Switching(random.Random(1), keeping=HOSTS[3])
    hosts.decide(HOSTS[0], is_on=True)
    hosts.settle()
    hosts.decide(HOSTS[1], is_on=False)
    hosts.settle()
    assert hosts.kernel[HOSTS[3]] is EncryptionStage.FENCED
    assert all(stage >= EncryptionStage.SENDING for stage in hosts.kernel.values())
    hosts.decide(HOSTS[1], is_on=True)
    hosts.settle()
    assert set(hosts.kernel.values()) == {EncryptionStage.FENCED}
