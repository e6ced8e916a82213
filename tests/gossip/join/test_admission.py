"""Joining: both halves of the conversation against each other, and against liars."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgossip.errors import WireError
from netgossip.join.admission import Credentials, Invitations, NewcomerConversation, ShutOut
from netgossip.join.identity import Identity
from netgossip.join.invitation import TOKEN_PREFIX, Token, parse_token_untrusted
from netgossip.join.wire import Refusal

ADDRESSES = (("192.0.2.1", 7957), ("2001:db8::1", 7957))
CREDENTIALS = Credentials("ab" * 16, "mesh", "mesh.internal", (b"k" * 16, b"o" * 32), (("192.0.2.1", 7956),))


class World:
    def __init__(self, seed: int = 1) -> None:
        self.random_bytes = random.Random(seed).randbytes
        self.inviter = Identity(self.random_bytes(32))
        self.newcomer = Identity(self.random_bytes(32))
        self.admitted: list[tuple[str, str]] = []
        self.shut_out = ShutOut()
        self.why_not_yet = ""
        self.invitations = Invitations(
            self.inviter,
            self.random_bytes,
            lambda: CREDENTIALS,
            lambda node, name: self.admitted.append((node, name)),
            shut_out=lambda: self.shut_out,
            why_not_yet=lambda: self.why_not_yet,
        )

    def put_out(self, who: Identity, *, revoked: bool = False, compromised: bool = False) -> None:
        node, was = frozenset({who.node_id}), self.shut_out
        self.shut_out = ShutOut(
            node.union(was.evicted),
            node.union(was.revoked) if revoked or compromised else was.revoked,
            node.union(was.compromised) if compromised else was.compromised,
        )

    def invite(self, **options: int) -> Token:
        return self.invitations.create(ADDRESSES, 0.0, **{"ttl_s": 60, "uses": 1, **options})

    def redeem(
        self,
        token: Token,
        *,
        who: Identity | None = None,
        now: float = 1.0,
        cut: int = 10**6,
        name: str = "h2",
    ) -> object:
        newcomer = NewcomerConversation(token, who or self.newcomer, name, self.random_bytes)
        inviter = self.invitations.converse()
        to_inviter, closed = newcomer.open(), False
        while to_inviter and not closed:
            to_newcomer = b""
            for i in range(0, len(to_inviter), cut):
                part, closed = inviter.receive(to_inviter[i : i + cut], now)
                to_newcomer += part
            to_inviter = b"".join(
                newcomer.receive(to_newcomer[i : i + cut]) for i in range(0, len(to_newcomer), cut)
            )
        return newcomer.result


def test_a_newcomers_name_has_no_control_characters() -> None:
    world = World()
    assert world.redeem(world.invite(), name="h2\n\x1b[2J\u202eroot\0") == CREDENTIALS
    assert world.admitted == [(world.newcomer.node_id, "h2[2Jroot")]


@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_a_newcomer_receives_the_credentials_whatever_the_segmentation(cut: int) -> None:
    world = World()
    assert world.redeem(world.invite(), cut=cut) == CREDENTIALS
    assert world.admitted == [(world.newcomer.node_id, "h2")]


def test_an_invitation_is_redeemed_once_but_the_same_newcomer_may_ask_again() -> None:
    world = World()
    token = world.invite()
    assert world.redeem(token) == CREDENTIALS
    assert world.redeem(token) == CREDENTIALS
    other = world.redeem(token, who=Identity(b"x" * 32))
    assert isinstance(other, Refusal)
    assert "redeemed already" in other.reason


def test_uses_are_counted() -> None:
    world = World()
    token = world.invite(uses=2)
    results = [world.redeem(token, who=Identity(bytes([i]) * 32)) for i in (1, 2, 3)]
    assert [isinstance(r, Credentials) for r in results] == [True, True, False]


@pytest.mark.parametrize("word", [{}, {"revoked": True}, {"compromised": True}])
@pytest.mark.parametrize("has_redeemed", [True, False])
def test_a_node_that_was_put_out_comes_in_by_no_invitation_of_before(
    word: dict[str, bool], has_redeemed: bool
) -> None:
    world = World()
    token = world.invite(uses=3)
    if has_redeemed:
        assert world.redeem(token) == CREDENTIALS
    world.admitted.clear()
    world.put_out(world.newcomer, **word)
    result = world.redeem(token)
    assert isinstance(result, Refusal)
    assert "since the invitation was created" in result.reason
    assert world.admitted == []
    assert world.redeem(world.invite()) == CREDENTIALS, "whoever made that one knew of it"
    world.shut_out = ShutOut()
    assert world.redeem(token) == CREDENTIALS, "the word that put it out does not count any more"


def test_a_node_that_was_evicted_before_and_is_revoked_now_comes_in_by_no_invitation_between() -> None:
    world = World()
    world.put_out(world.newcomer)
    token = world.invite()
    world.put_out(world.newcomer, revoked=True)
    assert isinstance(world.redeem(token), Refusal)


def test_an_invitation_that_a_revoked_node_has_used_lets_no_other_identity_in() -> None:
    world = World()
    used, other = world.invite(uses=3), world.invite(uses=3)
    second = Identity(b"x" * 32)
    assert world.redeem(used) == CREDENTIALS
    world.put_out(world.newcomer)
    assert world.redeem(used, who=second) == CREDENTIALS, "evicted without an operator: its return is no harm"
    world.put_out(world.newcomer, revoked=True)
    for who in (second, Identity(b"y" * 32)):
        result = world.redeem(used, who=who)
        assert isinstance(result, Refusal)
        assert "used the invitation" in result.reason
    assert world.redeem(other, who=second) == CREDENTIALS
    world.put_out(Identity(b"z" * 32), compromised=True)
    result = world.redeem(other, who=second)
    assert isinstance(result, Refusal)
    assert "may know it" in result.reason
    assert world.redeem(world.invite(), who=second) == CREDENTIALS


def test_a_node_that_is_put_out_during_the_conversation_gets_no_keys() -> None:
    world = World()
    newcomer = NewcomerConversation(world.invite(), world.newcomer, "h2", world.random_bytes)
    inviter = world.invitations.converse()
    answer, _ = inviter.receive(newcomer.open(), 1.0)
    world.put_out(world.newcomer)
    said, closed = inviter.receive(newcomer.receive(answer), 1.0)
    newcomer.receive(said)
    assert closed
    assert isinstance(newcomer.result, Refusal)


def test_an_expired_invitation_is_refused_with_the_reason() -> None:
    world = World()
    result = world.redeem(world.invite(ttl_s=5), now=5.0)
    assert isinstance(result, Refusal)
    assert "expired" in result.reason


def test_a_revoked_invitation_is_refused_and_others_are_not() -> None:
    world = World()
    first, second, third = world.invite(), world.invite(), world.invite()
    assert world.invitations.revoke(first.invitation_id) == 1
    assert world.invitations.revoke(first.invitation_id) == 0
    assert isinstance(world.redeem(first), Refusal)
    assert world.redeem(second) == CREDENTIALS
    assert world.invitations.revoke(None) == 2
    assert isinstance(world.redeem(third), Refusal)


def test_a_wrong_secret_opens_nothing_and_does_not_use_up_the_invitation() -> None:
    world = World()
    token = world.invite()
    wrong = dataclasses.replace(token, secret=bytes(16))
    for _ in range(10):
        result = world.redeem(wrong)
        assert isinstance(result, Refusal)
        assert "secret" in result.reason
    assert world.admitted == []
    assert world.redeem(token) == CREDENTIALS


def test_an_inviter_that_changed_clusters_admits_no_one_to_the_other_one() -> None:
    world = World()
    token = dataclasses.replace(world.invite(), cluster_id="cd" * 16)
    result = world.redeem(token)
    assert isinstance(result, Refusal)
    assert "another cluster" in result.reason


def test_a_newcomer_recognizes_an_impostor_of_the_inviter() -> None:
    world, impostor = World(1), World(2)
    token = world.invite()
    theirs = impostor.invite()
    stolen = dataclasses.replace(token, invitation_id=theirs.invitation_id, secret=theirs.secret)
    result = impostor.redeem(stolen)
    assert isinstance(result, Refusal)
    assert "not the member" in result.reason


def test_a_token_survives_its_text_and_hides_its_secret_from_logs() -> None:
    token = World().invite()
    assert parse_token_untrusted("  " + token.render() + "\n") == token
    assert token.secret.hex() not in repr(token)
    assert repr(token.secret) not in repr(token)


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_garbage_in_a_conversation_is_a_wire_error_or_a_refusal(junk: bytes, position: int) -> None:
    world = World()
    inviter = world.invitations.converse()
    hello = NewcomerConversation(world.invite(), world.newcomer, "h2", world.random_bytes).open()
    with contextlib.suppress(WireError):
        inviter.receive(hello[:position] + junk + hello[position:], 1.0)
    newcomer = NewcomerConversation(world.invite(), world.newcomer, "h2", world.random_bytes)
    with contextlib.suppress(WireError):
        newcomer.receive(junk)
    assert world.admitted == []


@pytest.mark.parametrize("kept", range(len(TOKEN_PREFIX), 150, 7))
def test_a_token_cut_short_is_called_damaged(kept: int) -> None:
    with pytest.raises(WireError, match="copy it whole"):
        parse_token_untrusted(World().invite().render()[:kept])


@given(
    st.text(max_size=200)
    | st.text(alphabet="abcdefXYZ019-_=", max_size=200).map(lambda t: "netagent-join-1." + t)
)
def test_no_text_but_a_token_is_a_token(text: str) -> None:
    with pytest.raises(WireError):
        parse_token_untrusted(text)


@pytest.mark.parametrize("encrypts", [True, False])
@pytest.mark.parametrize("allows_unsigned", [True, False, None])
def test_a_newcomer_learns_with_the_keys_whether_the_cluster_encrypts_and_must_sign(
    encrypts: bool, allows_unsigned: bool | None
) -> None:
    world = World()
    said = dataclasses.replace(CREDENTIALS, encrypts=encrypts, allows_unsigned=allows_unsigned)
    world.invitations._credentials = lambda: said
    assert world.redeem(world.invite()) == said


def test_a_member_that_cannot_give_its_keys_for_the_moment_says_so_and_keeps_the_invitation() -> None:
    world = World()
    token = world.invite()
    world.why_not_yet = "the ring key is being changed"
    refused = world.redeem(token)
    assert refused == Refusal("not yet: the ring key is being changed")
    assert isinstance(refused, Refusal)
    assert refused.is_passing
    assert not world.admitted
    world.put_out(world.newcomer)
    final = world.redeem(token)
    assert isinstance(final, Refusal)
    assert not final.is_passing, "it would ask again in vain"
    world.why_not_yet = ""
    assert world.redeem(token, who=Identity(b"o" * 32)) == CREDENTIALS
