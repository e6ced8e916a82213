"""Who is asked to let this host in, and by which of its addresses it will be reached."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from fakes.virtual import virtual

from netagent.daemon import join as module
from netagent.daemon.join import ALL_S, MEMBERS_AT_ONCE, REFUSED_S, Admission, addresses_given, be_admitted
from netagent.datapath.host.uplink import LocalAddresses, Underlay, Uplinks
from netagent.errors import FailedError, RefusedError
from netgossip.join.admission import Credentials
from netgossip.join.driver import EntryError
from netgossip.join.identity import Identity
from netgossip.join.invitation import Token

FOUND = Credentials("d2" * 16, "mesh", "mesh.internal", (b"k" * 32,), (("192.0.2.1", 7956),))
TOKEN = Token("mesh", "d2" * 16, (), b"f" * 32, b"i" * 16, b"s" * 16)
AWAY, SILENT, NO = (
    EntryError("Connection refused", final=False),
    EntryError("did not answer within 10 s", final=False),
    EntryError("the invitation has expired", final=True),
)
NOT_YET = EntryError("not yet: the ring key is being changed", final=False, passing=True)
FOUR, SIX = Underlay("192.0.2.9", "eth0", 1500), Underlay("2001:db8::9", "eth0", 1500)


class Newcomer:
    """A host that asks members, which answer as `answers` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Any) -> None:
        self.answers = answers
        self.delays_s: dict[str, float] = {}
        self.asked: list[str] = []
        self.place = LocalAddresses(FOUR, Uplinks((FOUR,)), None)
        monkeypatch.setattr(module, "redeem", self.redeem)

    async def redeem(
        self, address: tuple[str, int], token: Token, identity: Identity, name: str
    ) -> Credentials:
        self.asked.append(address[0])
        await trio.sleep(self.delays_s.get(address[0], 0.01))
        answer = self.answers[address[0]]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Credentials)
        return answer

    async def enter(self, *hosts: str, port: int = 7957) -> Admission:
        members = [(host, port) for host in hosts]
        identity = Identity(b"1" * 32)
        return await be_admitted(
            members, TOKEN, identity=identity, name="h9", local_addresses=lambda: self.place
        )


@virtual
async def test_all_are_asked_at_once_and_the_first_that_lets_us_in_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Newcomer(monkeypatch, {"192.0.2.1": AWAY, "192.0.2.2": FOUND, "192.0.2.3": SILENT})
    one.delays_s = {"192.0.2.1": 10.0, "192.0.2.2": 0.5, "192.0.2.3": 10.0}
    before = trio.current_time()
    assert await one.enter("192.0.2.1", "192.0.2.2", "192.0.2.3") == Admission(FOUND, "192.0.2.2", FOUR)
    assert sorted(one.asked) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert trio.current_time() - before == pytest.approx(0.5)


@virtual
async def test_silence_of_all_takes_as_long_as_that_of_one_and_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = [f"192.0.2.{number}" for number in range(1, 4)]
    one = Newcomer(monkeypatch, dict.fromkeys(hosts, SILENT))
    one.delays_s = dict.fromkeys(hosts, 10.0)
    before = trio.current_time()
    with pytest.raises(FailedError) as caught:
        await one.enter(*hosts)
    assert trio.current_time() - before == pytest.approx(10.0)
    said = "(192.0.2.1, 192.0.2.2, 192.0.2.3: did not answer within 10 s)"
    assert caught.value.message == f"could not join the cluster mesh {said}"


@virtual
async def test_many_neighbours_are_asked_some_at_a_time_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = [f"192.0.2.{number}" for number in range(1, 200)]
    one = Newcomer(monkeypatch, dict.fromkeys(hosts, SILENT))
    one.delays_s = dict.fromkeys(hosts, 10.0)
    before = trio.current_time()
    with pytest.raises(FailedError):
        await one.enter(*hosts)
    assert trio.current_time() - before == pytest.approx(ALL_S)
    assert len(one.asked) <= 3 * MEMBERS_AT_ONCE


@virtual
async def test_an_expired_token_is_said_once_and_ends_the_wait_for_the_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Newcomer(monkeypatch, {"192.0.2.1": NO, "192.0.2.2": NO, "192.0.2.3": SILENT})
    one.delays_s = {"192.0.2.3": 10.0}
    before = trio.current_time()
    with pytest.raises(RefusedError) as caught:
        await one.enter("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert caught.value.message.count("expired") == 1
    assert "192.0.2.3" not in caught.value.message
    assert trio.current_time() - before < REFUSED_S + 0.1


@virtual
async def test_a_failure_says_what_each_of_them_said(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Newcomer(monkeypatch, {"192.0.2.1": NO, "192.0.2.2": AWAY})
    with pytest.raises(RefusedError, match=r"\(192\.0\.2\.1: the invitation has expired\)") as caught:
        await one.enter("192.0.2.1", "192.0.2.2")
    assert caught.value.exit_status == 4
    one.answers["192.0.2.2"] = FOUND
    one.delays_s = {"192.0.2.2": 1.0}
    assert await one.enter("192.0.2.1", "192.0.2.2"), "a refusal is not proven to be the inviter's"
    one.answers = {"192.0.2.1": AWAY, "192.0.2.2": AWAY}
    both = r"192\.0\.2\.1, 192\.0\.2\.2: Connection refused"
    with pytest.raises(FailedError, match=both) as failed:
        await one.enter("192.0.2.1", "192.0.2.2")
    assert failed.value.exit_status == 5
    with pytest.raises(FailedError, match=r"its record port \(9957\) can be reached"):
        await one.enter("192.0.2.1", port=9957)
    with pytest.raises(FailedError, match="no address to try"):
        await one.enter()


@virtual
async def test_a_member_that_cannot_admit_hosts_for_the_moment_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Newcomer(monkeypatch, {"192.0.2.1": NOT_YET, "192.0.2.2": AWAY})
    before = trio.current_time()
    with pytest.raises(RefusedError, match="the ring key is being changed") as caught:
        await one.enter("192.0.2.1", "192.0.2.2")
    assert caught.value.code == "not-admitted-yet"
    assert trio.current_time() - before == pytest.approx(ALL_S)
    assert one.asked.count("192.0.2.1") <= ALL_S + 1

    async def change() -> None:
        await trio.sleep(3)
        one.answers["192.0.2.1"] = FOUND

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await one.enter("192.0.2.1", "192.0.2.2") == Admission(FOUND, "192.0.2.1", FOUR)


@pytest.mark.parametrize(
    ("place", "way"),
    [
        (LocalAddresses(SIX, Uplinks((SIX,)), None), "give this host an IPv4 address"),
        (LocalAddresses(SIX, Uplinks((FOUR, SIX)), "2001:db8::9"), "`advertise` an IPv4"),
    ],
)
@virtual
async def test_a_host_of_the_other_family_asks_no_member(
    monkeypatch: pytest.MonkeyPatch, place: LocalAddresses, way: str
) -> None:
    one = Newcomer(monkeypatch, {})
    one.place = place
    with pytest.raises(RefusedError) as caught:
        await one.enter("192.0.2.1", "192.0.2.2")
    assert caught.value.code == "underlay-family"
    assert "IPv4 (192.0.2.1, 192.0.2.2), and this host IPv6 (2001:db8::9)" in caught.value.message
    assert way in str(caught.value)
    assert one.asked == []


@virtual
async def test_a_host_with_both_families_is_to_be_reached_by_the_cluster_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Newcomer(monkeypatch, {"2001:db8::1": FOUND})
    one.place = LocalAddresses(FOUR, Uplinks((FOUR, SIX)), None)
    assert (await one.enter("2001:db8::1")).underlay == SIX


@virtual
async def test_of_a_member_s_addresses_only_those_that_can_reach_us_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Newcomer(monkeypatch, {"192.0.2.2": FOUND})
    assert (await one.enter("2001:db8::1", "192.0.2.2")).member == "192.0.2.2"
    assert one.asked == ["192.0.2.2"]


@virtual
async def test_an_address_that_changes_while_we_are_let_in_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Newcomer(monkeypatch, {"192.0.2.1": FOUND})
    moved = Underlay("192.0.2.77", "eth0", 1500)

    async def redeem(*asked: Any) -> Credentials:
        one.place = LocalAddresses(moved, Uplinks((moved,)), None)
        return await one.redeem(*asked)

    monkeypatch.setattr(module, "redeem", redeem)
    assert (await one.enter("192.0.2.1")).underlay == moved


@virtual
async def test_what_a_user_wrote_is_looked_up_and_has_our_record_port_by_default() -> None:
    assert await addresses_given(["192.0.2.1", "[2001:db8::1]:9000"], 8957) == [
        ("192.0.2.1", 8957),
        ("2001:db8::1", 9000),
    ]


@virtual
async def test_an_invalid_host_name_is_a_readable_error() -> None:
    name = "ü" * 63  # in letters that DNS knows it is too long
    with pytest.raises(FailedError, match=f"{name} is not known: it is not a valid host name") as caught:
        await addresses_given([name], 7957)
    assert caught.value.thing == name
