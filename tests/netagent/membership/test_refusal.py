"""What a member answers to a host that was revoked."""

from __future__ import annotations

from typing import cast

import pytest
from fakes.registry import H1, H2, H3, Writer, host
from fakes.virtual import virtual

from netagent.membership.refusal import (
    Refusal,
    RefusedHosts,
    is_believed,
    read_refusal_untrusted,
    refusal_text,
    shut_out_of,
)
from netagent.model.ids import HostId
from netagent.model.records import ForgetRecord
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netgossip.join.identity import Identity
from netgossip.node import REFUSAL_CHARS, GossipNode

CLUSTER, OTHER = "ab" * 16, "cd" * 16
HOST, WRITER = HostId("01" * 16), HostId("02" * 16)
MEMBER = Identity(bytes(32))


def test_a_host_reads_who_refuses_it_and_where_it_was_revoked() -> None:
    text = refusal_text(MEMBER, CLUSTER, HOST, WRITER)
    assert len(text) <= REFUSAL_CHARS
    assert read_refusal_untrusted(text, CLUSTER, HOST) == Refusal(HostId(MEMBER.node_id), WRITER)


@pytest.mark.parametrize("spoil", [str.upper, lambda text: text[:-2] + "00", lambda text: text + " 00"])
def test_a_text_that_no_member_signed_says_nothing(spoil: object) -> None:
    assert callable(spoil)
    assert read_refusal_untrusted(spoil(refusal_text(MEMBER, CLUSTER, HOST, WRITER)), CLUSTER, HOST) is None


def test_a_refusal_is_of_one_host_in_one_cluster() -> None:
    text = refusal_text(MEMBER, CLUSTER, HOST, WRITER)
    assert read_refusal_untrusted(text, CLUSTER, WRITER) is None
    assert read_refusal_untrusted(text, OTHER, HOST) is None
    for junk in ("", "netagent-revoked", "netagent-revoked a b c", "x" * 5000):
        assert read_refusal_untrusted(junk, CLUSTER, HOST) is None


def test_a_host_does_not_go_on_the_word_of_a_revoked_one() -> None:
    writers = {owner: Writer(owner) for owner in (H2, H3)}
    view = (
        RegistryView(H1).with_entries(writers[H2].put(host("h2"))).with_entries(writers[H3].put(host("h3")))
    )
    assert is_believed(Refusal(H2, H3), view)
    assert is_believed(Refusal(H3, H3), view)
    revoked = ForgetRecord(H3, settled=True, revoked=True, compromised=True)
    view = view.with_entries(writers[H2].put(revoked))
    assert not is_believed(Refusal(H3, H2), view), "it takes its revenge"
    assert not is_believed(Refusal(H2, H3), view), "H2 heard the liar before it heard of its revocation"
    assert not is_believed(Refusal(HostId("09" * 16), H2), view)


class Node:
    """Notes what it is told to refuse."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}

    def refuse_peer(self, node_id: str, text: str, _now: float) -> None:
        self.refused[node_id] = text

    def readmit_peer(self, node_id: str) -> None:
        del self.refused[node_id]


@virtual
async def test_the_gossip_refuses_who_is_compromised_as_long_as_that_counts() -> None:
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    view = RegistryView(H1)
    for writer, of in ((H2, H3), (H3, H2)):
        said = ForgetRecord(of, settled=True, revoked=True, compromised=True)
        view = view.with_entries(writers[writer].put(said))
    live, node = StateStore(view, {}, {}), Node()
    hosts = RefusedHosts(live, cast("GossipNode", node), MEMBER, CLUSTER)
    hosts.look()
    assert set(node.refused) == {H2, H3}, "from the journal, before anything is heard"
    refusal = read_refusal_untrusted(node.refused[H3], CLUSTER, H3)
    assert refusal is not None
    assert refusal.writer == H2
    decided = ForgetRecord(H3, settled=True, revoked=True, compromised=True)
    live.update_view(lambda view: view.with_entries(writers[H1].put(decided)))
    hosts.look()
    assert set(node.refused) == {H3}
    refusal = read_refusal_untrusted(node.refused[H3], CLUSTER, H3)
    assert refusal is not None
    assert refusal.writer == H1, "H3 does not believe H2, which it calls compromised"
    own = ForgetRecord(H1, settled=True, revoked=True, compromised=True)
    live.update_view(lambda view: view.with_entries(writers[H2].put(own)))
    hosts.look()
    assert set(node.refused) == {H2, H3}, "a ring again, and no host refuses itself"


def test_invitations_count_who_was_put_out_by_the_rules_of_the_view() -> None:
    writers = {owner: Writer(owner) for owner in (H2, H3)}
    view = (
        RegistryView(H1).with_entries(writers[H2].put(host("h2"))).with_entries(writers[H3].put(host("h3")))
    )
    silent, forgotten, revoked = (HostId(f"{number:02x}" * 16) for number in (7, 8, 9))
    words = (
        ForgetRecord(silent, settled=True),
        ForgetRecord(forgotten, settled=True, revoked=True),
        ForgetRecord(revoked, settled=True, revoked=True, compromised=True),
    )
    for word in words:
        view = view.with_entries(writers[H3].put(word))
    out = shut_out_of(view)
    assert set(out.evicted) == {silent, forgotten, revoked}
    assert set(out.revoked) == {forgotten, revoked}
    assert set(out.compromised) == {revoked}
    view = view.with_entries(writers[H2].put(ForgetRecord(H3, settled=True, revoked=True, compromised=True)))
    assert set(shut_out_of(view).compromised) == {H3}, "who is revoked has no say"
