"""What a host finds out about an external service, and which host does."""

from __future__ import annotations

import dataclasses

import pytest
from fakes.external import ADDED_S, at, service, service_id, state
from fakes.registry import H1, H2, H3, N1, Writer, host, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.checks.state import Outcome
from netagent.external.turns import TAKEOVER_S, Turns, asking_host, stand_in
from netagent.external.view import ExternalService, external_service
from netagent.external.watch import DnsAnswer, ServiceWatch
from netagent.model.ids import HostId
from netagent.model.records import (
    AddressState,
    DnsName,
    ExternalServiceRecord,
    ExternalStateRecord,
    Health,
    HostProgram,
    Record,
    Resolution,
)
from netagent.registry.record_codec import decode_untrusted, encode
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

FAILED, WORKED = Outcome(is_success=False, text="refused"), Outcome(is_success=True, text="connected")


def seen(record: ExternalServiceRecord, found: ExternalStateRecord | None = None) -> ExternalService:
    writer, view = Writer(H1), RegistryView(H1)
    records: list[Record] = [network(), host("h1"), record, *([found] if found else [])]
    for one in records:
        view = view.with_entries(writer.put(one))
    known = external_service(view, N1, record.service_id)
    assert known is not None
    return known


CHECKED = service(checks=("tcp:5432 fall=2 rise=1",))


def test_the_first_success_and_a_fall_are_news_and_nothing_in_between() -> None:
    watch = ServiceWatch(seen(CHECKED), 0.0, ADDED_S)
    assert watch.wanted() is None, "starting is what others take it for anyway"
    watch.handle_outcome("203.0.113.50", 0, WORKED, 1.0, ADDED_S + 1)
    found = watch.wanted()
    assert found is not None
    assert [one.health for one in found.states] == [Health.HEALTHY]
    watch.follow(seen(CHECKED, found), 1.0, ADDED_S + 1)
    assert watch.wanted() is None
    watch.handle_outcome("203.0.113.50", 0, FAILED, 90.0, ADDED_S + 90)
    assert watch.wanted() is None
    watch.handle_outcome("203.0.113.50", 0, FAILED, 91.0, ADDED_S + 91)
    found = watch.wanted()
    assert found is not None
    assert found.states[0].reason == "refused, failed 2 of 2 times"


def test_a_host_that_takes_over_says_nothing_until_something_changes() -> None:
    said = dataclasses.replace(state(turn=4), states=(AddressState("203.0.113.50", Health.HEALTHY, ADDED_S),))
    watch = ServiceWatch(seen(CHECKED, said), 0.0, ADDED_S + 50)
    assert watch.wanted() is None
    watch.handle_outcome("203.0.113.50", 0, WORKED, 1.0, ADDED_S + 51)
    assert watch.wanted() is None


def test_a_name_keeps_its_ttl_and_its_last_answer() -> None:
    record = service(target=DnsName("db.example.com", 5432))
    watch = ServiceWatch(seen(record), 0.0, ADDED_S)
    watch.handle_answer(None, ())
    assert watch.wanted() is None
    watch.handle_answer(DnsAnswer((("198.51.100.8", 300), ("198.51.100.7", 290))), ("10.1.0.0/24",))
    found = watch.wanted()
    assert found is not None
    assert found.resolution == Resolution(("198.51.100.7", "198.51.100.8"), 290)
    watch.follow(seen(record, found), 1.0, ADDED_S)
    watch.handle_answer(DnsAnswer((("198.51.100.7", 12), ("198.51.100.8", 12))), ())
    assert watch.wanted() is None, "what a cache has left of the TTL is no news"
    watch.handle_answer(None, ())
    assert watch.wanted() is None
    watch.handle_answer(DnsAnswer((), exists=False), ())
    found = watch.wanted()
    assert found is not None
    assert found.resolution == Resolution((), 0, "the name does not exist")


def test_a_name_outside_leads_to_no_inside_address() -> None:
    record = service(target=DnsName("evil.example.com"))
    watch = ServiceWatch(seen(record), 0.0, ADDED_S)
    answer = (("10.1.0.7", 60), ("127.0.0.1", 60), ("169.254.169.254", 60), ("198.51.100.7", 60))
    watch.handle_answer(DnsAnswer(answer), ("10.1.0.0/24", "fd00:1::/64"))
    assert watch.resolution is not None
    assert watch.resolution.addresses == ("198.51.100.7",)
    assert "10.1.0.7" in watch.resolution.reason
    watch.handle_answer(DnsAnswer((("fd00:1::7", 60),)), ("fd00:1::/64",))
    assert not watch.resolution.addresses


@given(st.lists(st.tuples(st.ip_addresses().map(str), st.integers(0, 2**31)), max_size=80))
def test_any_answer_can_be_published(answer: list[tuple[str, int]]) -> None:
    watch = ServiceWatch(seen(service(target=DnsName("db.example.com"))), 0.0, ADDED_S)
    watch.handle_answer(DnsAnswer(tuple(answer)), ("10.1.0.0/24",))
    found = watch.wanted()
    assert found is not None
    assert decode_untrusted(encode(found)) == found


def test_a_service_that_is_not_renewed_expires_and_a_renewal_brings_it_back() -> None:
    record = service(ttl_s=30)
    watch = ServiceWatch(seen(record), 100.0, ADDED_S)
    watch.handle_deadline(129.9, ADDED_S + 29)
    assert watch.wanted() is None
    watch.renew(120.0)
    watch.handle_deadline(131.0, ADDED_S + 31)
    assert watch.wanted() is None
    assert watch.next_deadline == 150.0
    watch.handle_deadline(150.0, ADDED_S + 50)
    found = watch.wanted()
    assert found is not None
    assert found.expired_s == ADDED_S + 50
    later = ServiceWatch(seen(record, found), 500.0, ADDED_S + 500)
    later.handle_deadline(10_000.0, ADDED_S + 9_000)
    assert later.wanted() is None, "it stays expired through a change of the host that asks"
    later.renew(10_000.0)
    found = later.wanted()
    assert found is not None
    assert found.expired_s is None


def asking(view: RegistryView, record: ExternalServiceRecord) -> HostId | None:
    known = external_service(view, N1, record.service_id)
    assert known is not None
    return asking_host(view, known, stand_in(view))


def test_all_hosts_agree_that_the_owner_asks_and_otherwise_the_live_host_with_the_smallest_id() -> None:
    program = service(2, target=HostProgram(9100), checks=("tcp:9100",))
    plain = service(3, target=at("203.0.113.51"))
    views = {}
    for local in (H1, H2, H3):
        view = RegistryView(local)
        writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
        written: list[tuple[HostId, Record]] = [
            *((H1, one) for one in (network(), host("h1"))),
            (H2, host("h2")),
            *((H3, one) for one in (host("h3"), CHECKED, program, plain)),
        ]
        for owner, record in written:
            view = view.with_entries(writers[owner].put(record))
        for other in (H1, H2, H3):
            if other != local:
                view = view.with_member(Member(other, ("192.0.2.9", 7956), MemberState.ALIVE, 1))
        views[local] = view
    assert {asking(view, CHECKED) for view in views.values()} == {H3}
    assert {asking(view, plain) for view in views.values()} == {None}, "there is nothing to ask"
    suspect = {
        local: view.with_member(Member(H3, ("192.0.2.9", 7956), MemberState.SUSPECT, 1))
        for local, view in views.items()
        if local != H3
    }
    assert {asking(view, CHECKED) for view in suspect.values()} == {H3}
    dead = {
        local: view.with_member(Member(H3, ("192.0.2.9", 7956), MemberState.DEAD, 1))
        for local, view in suspect.items()
    }
    assert {asking(view, CHECKED) for view in dead.values()} == {H1}
    assert {asking(view, program) for view in dead.values()} == {None}, (
        "only its own host can ask a program of it"
    )
    last = dead[H2].with_member(Member(H1, ("192.0.2.9", 7956), MemberState.LEFT, 1))
    assert asking(last, CHECKED) == H2


def test_a_host_waits_before_it_takes_over_but_not_for_its_own() -> None:
    turns = Turns()
    wanted = {service_id(1): H1, service_id(2): H2}
    turns.follow(wanted, H1, 10.0)
    assert turns.taken(10.0) == {service_id(1)}
    assert turns.next_moment(10.0) == 10.0 + TAKEOVER_S
    turns.follow(wanted, H1, 11.0)
    assert turns.taken(10.0 + TAKEOVER_S) == {service_id(1), service_id(2)}
    turns.follow({}, H1, 14.0)
    turns.follow(wanted, H1, 15.0)
    assert turns.taken(15.0) == {service_id(1)}


@pytest.mark.parametrize(
    ("address", "is_kept"),
    [
        ("100.100.100.200", False),
        ("fd00:ec2::254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::a01:7", False),
        ("64:ff9b::c633:6407", True),
        ("2002:7f00:1::1", False),
        ("2002:a01:7::1", False),
        ("2002:6464:64c8::1", False),
        ("2002:c633:6407::1", True),
        ("::7f00:1", False),
        ("100.100.100.201", True),
        ("2001:db8::7", True),
    ],
)
def test_what_leads_inside_by_way_of_ipv6_or_to_a_cloud_s_metadata_is_left_out(
    address: str, is_kept: bool
) -> None:
    watch = ServiceWatch(seen(service(target=DnsName("db.example.com"))), 0.0, 0)
    watch.handle_answer(DnsAnswer(((address, 60),)), ("10.1.0.0/24",))
    assert watch.resolution is not None
    assert bool(watch.resolution.addresses) == is_kept
