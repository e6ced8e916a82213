"""What `status` says of machines that are refused, and of dead agents whose address says why."""

from __future__ import annotations

from fakes.registry import H1, H2, H3, Writer, host

from netagent.commands.notices.agent_notices import CLONED, known_causes, refused_notices
from netagent.model.ids import HostId
from netagent.registry.view import RegistryView
from netgossip.types import Member, MemberState

H4 = HostId("4" * 32)
NAMES = {H2: "h2", H3: "h3", H4: "h4"}
ADDRESSES = {H2: "192.0.2.2", H3: "192.0.2.3"}


def view_of(dead: HostId, addresses: dict[HostId, str]) -> RegistryView:
    """A view of h1, in which one host is dead."""
    view = RegistryView(H1).with_entries(Writer(H1).put(host("h1")))
    for node, address in addresses.items():
        view = view.with_entries(Writer(node).put(host(NAMES[node], underlay=address)))
        state = MemberState.DEAD if node == dead else MemberState.ALIVE
        view = view.with_member(Member(node, (address, 7956), state, 1))
    return view


def test_a_machine_with_another_key_is_named_with_the_host_that_it_was() -> None:
    view = view_of(H2, ADDRESSES)
    (notice,) = refused_notices(view, {"192.0.2.2": "wrong-key"})
    assert notice["message"].startswith("packets from 192.0.2.2 (h2) are refused: wrong-key, they are sealed")
    assert notice["cure"].startswith("if it should be a member: there `netagent leave`")
    (unknown,) = refused_notices(view, {"198.51.100.7": "other-label"})
    assert unknown["message"].startswith("packets from 198.51.100.7 are refused: other-label")


def test_a_host_whose_key_no_other_member_uses_is_sent_to_mend_itself() -> None:
    notices = list(refused_notices(view_of(H2, ADDRESSES), dict.fromkeys(ADDRESSES.values(), "wrong-key")))
    assert len(notices) == 2
    view = view_of(H2, {**ADDRESSES, H4: "192.0.2.4"})
    left = view.with_member(Member(H4, ("192.0.2.4", 7956), MemberState.LEFT, 2))
    refused = dict.fromkeys(ADDRESSES.values(), "wrong-key")
    assert all("here `netagent leave`" in one["cure"] for one in refused_notices(left, refused)), (
        "h4 has left"
    )
    assert all("there `netagent leave`" in one["cure"] for one in refused_notices(view, refused)), (
        "h4 is heard"
    )
    assert all(
        "here `netagent leave`, then `netagent join` with a token from a member" in one["cure"]
        for one in notices
    )


def test_of_two_members_neither_is_the_odd_one() -> None:
    (notice,) = refused_notices(view_of(H2, {H2: "192.0.2.2"}), {"192.0.2.2": "wrong-key"})
    assert "there `netagent leave`" in notice["cure"]


def test_a_reason_of_a_later_release_is_shown_as_it_is() -> None:
    (notice,) = refused_notices(view_of(H2, ADDRESSES), {"192.0.2.2": "too-heavy"})
    assert notice["message"] == "packets from 192.0.2.2 (h2) are refused: too-heavy"


def test_a_dead_agent_whose_packets_are_refused_is_not_behind_a_blocked_port() -> None:
    view = view_of(H2, ADDRESSES)
    known = known_causes(view, [view.hosts[H2]], {"192.0.2.2": "wrong-key"}, {})
    assert "dead, and refuses packets from its address: wrong-key" in known["h2"]["message"]
    assert known["h2"]["cure"] == "on h2: `netagent leave`, then `netagent join` with a token from here"


def test_a_dead_agent_whose_address_another_member_has_is_an_older_installation() -> None:
    view = view_of(H2, {**ADDRESSES, H4: "192.0.2.2"})
    known = known_causes(view, [view.hosts[H2]], {}, {})
    assert known["h2"]["message"] == "the agent of h2 is gone: h4 has its address 192.0.2.2 now"
    assert "`netagent forget h2`" in known["h2"]["cure"]


def test_a_dead_agent_whose_machine_was_overwritten_by_a_clone_is_told_from_a_blocked_port() -> None:
    view = view_of(H3, ADDRESSES)
    known = known_causes(view, [view.hosts[H3]], {}, {"192.0.2.3": "h2"})
    assert known["h3"]["message"] == "the machine at 192.0.2.3, which was h3, uses the identity of h2 now"
    assert known["h3"]["cure"] == CLONED


def test_of_other_dead_agents_the_ports_are_tried() -> None:
    view = view_of(H2, ADDRESSES)
    assert known_causes(view, [view.hosts[H2]], {"192.0.2.9": "wrong-key"}, {"192.0.2.8": "h3"}) == {}
