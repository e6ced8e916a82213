"""What `members` and `status` say of paths, and what leads out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.registry import H1, H2, Writer, host

from netagent.commands.notices.path_notices import PathEnds, path_notices, udp_notices
from netagent.control.present import Presenter, ProbeView
from netagent.model.ids import HostId
from netagent.probes.quality import PathStatus, Quality
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

PLACE = PathEnds("192.0.2.1", 4799, 7956)


def presenter(*others: HostId, state: MemberState = MemberState.ALIVE) -> Presenter:
    view = RegistryView(H1).with_entries(Writer(H1).put(host("h1")))
    for number, other in enumerate(others, start=2):
        record = host(f"h{number}", underlay=f"192.0.2.{number}")
        view = view.with_entries(Writer(other).put(record))
        view = view.with_member(Member(other, (f"192.0.2.{number}", 7956), state, 1))
    return Presenter(view, "mesh.internal")


def path(quality: Quality, size: int | None = None, loss: float | None = None) -> ProbeView:
    return ProbeView(0.001, PathStatus(quality, 1450, size, loss, 0.001, None))


@pytest.mark.parametrize(
    ("sight", "code", "says", "cure"),
    [
        (
            path(Quality.DEGRADED, 650),
            "path-degraded",
            "h2 carries packets of at most 650",
            "1500 bytes pass",
        ),
        (path(Quality.LOSSY, 1450, 0.125), "path-lossy", "12.5 %", "between 192.0.2.1 and 192.0.2.2"),
        (path(Quality.ONE_WAY), "path-one-way", "packets from h2 arrive", "from 192.0.2.1 to 192.0.2.2"),
        (path(Quality.DOWN), "path-down", "the agent of h2 answers", "UDP port 4799"),
    ],
)
def test_each_trouble_has_its_words_and_its_cure(sight: ProbeView, code: str, says: str, cure: str) -> None:
    (notice,) = path_notices(presenter(H2), {H2: sight}, PLACE)
    assert notice["code"] == code
    assert says in notice["message"]
    assert cure in notice["cure"]


@pytest.mark.parametrize("sight", [ProbeView(), path(Quality.UNKNOWN), path(Quality.OK, 1450, 0.0)])
def test_of_good_and_unknown_paths_nothing_is_said(sight: ProbeView) -> None:
    assert list(path_notices(presenter(H2), {H2: sight}, PLACE)) == []


def test_an_agent_that_is_reached_by_detours_only_is_named() -> None:
    others = [HostId(f"{number:032x}") for number in range(2, 7)]
    sight = ProbeView(lacks_udp=True)
    (notice,) = udp_notices(presenter(H2), {H2: sight}, PLACE)
    assert (
        "UDP port 7956 does not pass between this host and h2: its agent is reached only by TCP"
        in notice["message"]
    )
    assert "between 192.0.2.1 and 192.0.2.2, in both directions" in notice["cure"]
    (notice,) = udp_notices(presenter(*others), dict.fromkeys(others, sight), PLACE)
    assert "h2, h3, h4 and 2 more: their agents are" in notice["message"]
    lossy = replace(path(Quality.LOSSY, 1450, 0.3), lacks_udp=True)
    assert not list(udp_notices(presenter(H2), {H2: lossy}, PLACE)), "its loss has a notice of its own"
    assert not list(udp_notices(presenter(H2, state=MemberState.DEAD), {H2: sight}, PLACE))


def test_a_dead_agent_has_its_own_notice() -> None:
    present = presenter(H2, state=MemberState.DEAD)
    assert list(path_notices(present, {H2: path(Quality.DOWN)}, PLACE)) == []


@pytest.mark.parametrize("state", [MemberState.ALIVE, MemberState.DEAD])
def test_hosts_of_two_families_are_told_apart(state: MemberState) -> None:
    """Also when the agent does not answer, as it can't."""
    (notice,) = path_notices(
        presenter(H2, state=state), {H2: path(Quality.DOWN)}, PathEnds("2001:db8::1", 4799, 7956)
    )
    assert notice["code"] == "underlay-family"
    assert "h2 has the address 192.0.2.2 and this host 2001:db8::1" in notice["message"]
    assert "`advertise`" in notice["cure"]


def test_a_path_that_is_down_says_what_becomes_of_names() -> None:
    present = presenter(H2)
    (before,) = path_notices(present, {H2: path(Quality.DOWN)}, PLACE)
    view = present.view.with_unreached(frozenset({H2}))
    (notice,) = path_notices(Presenter(view, "mesh.internal"), {H2: path(Quality.DOWN)}, PLACE)
    assert (
        notice["message"] == before["message"] + ": names lead to replicas on other hosts, if there are any"
    )


def test_a_host_that_left_may_have_been_of_any_family() -> None:
    present = presenter(H2, state=MemberState.LEFT)
    assert list(path_notices(present, {}, PathEnds("2001:db8::1", 4799, 7956))) == []


def test_the_path_to_a_host_of_the_other_family_is_down() -> None:
    writer = Writer(H1)
    writer.put(host("h1"))
    view = presenter(H2).view.with_entries(writer.put(host("h1", underlay="2001:db8::1")))
    shown = Presenter(view, "mesh.internal").member(view.hosts[H2], ProbeView())
    assert shown["path"] == "down"


def test_hundreds_of_paths_are_counted_not_listed() -> None:
    others = [HostId(f"{number:08x}" * 4) for number in range(100, 300)]
    notices = list(path_notices(presenter(*others), dict.fromkeys(others, path(Quality.DOWN)), PLACE))
    assert len(notices) == 4
    assert "197 more paths" in notices[-1]["message"]


@pytest.mark.parametrize(
    ("answers", "sight", "word", "mtu"),
    [
        (None, ProbeView(), "unknown", None),
        (True, ProbeView(), "ok", None),
        (False, ProbeView(), "down", None),
        (True, path(Quality.DEGRADED, 650), "degraded", 650),
        (False, path(Quality.OK, 1450), "down", None),
        (False, path(Quality.ONE_WAY), "one-way", None),
        (True, path(Quality.UNKNOWN), "unknown", None),
    ],
)
def test_the_word_of_a_path(answers: bool | None, sight: ProbeView, word: str, mtu: int | None) -> None:
    present = presenter(H2)
    view = present.view.with_host_answers({H2: answers})
    shown = Presenter(view, "mesh.internal").member(view.hosts[H2], sight)
    assert (shown["path"], shown["path_mtu_bytes"]) == (word, mtu)
