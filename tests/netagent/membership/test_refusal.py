"""What a member answers to a host that was revoked."""

from __future__ import annotations

import pytest

from netagent.membership.refusal import Refusal, read_refusal_untrusted, refusal_text
from netagent.model.ids import HostId
from netgossip.join.identity import Identity
from netgossip.node import REFUSAL_CHARS

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
