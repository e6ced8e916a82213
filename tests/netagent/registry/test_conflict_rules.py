"""The rules for conflicting records, where no view is needed to see them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.registry.conflict_rules import compromised_hosts

A, B, C, D, OUTSIDE = (HostId(one * 32) for one in "abcdf")


def said(**words: tuple[HostId, ...]) -> dict[HostId, frozenset[HostId]]:
    return {HostId(host * 32): frozenset(writers) for host, writers in words.items()}


def test_a_ring_of_revocations_is_out_and_ends_where_a_host_outside_breaks_it() -> None:
    ring = said(b=(A,), c=(B,), a=(C,), d=(A,))
    assert compromised_hosts(ring) == ring
    assert compromised_hosts(said(b=(A,), c=(B,), a=(C, OUTSIDE), d=(A,))) == said(a=(OUTSIDE,), c=(B,))
    assert compromised_hosts(said(a=(A,))) == {}, "of itself it says nothing"


FEW = [HostId(digit * 32) for digit in "abcdef"]


@given(st.dictionaries(st.sampled_from(FEW), st.frozensets(st.sampled_from(FEW)), max_size=len(FEW)))
def test_a_host_is_in_exactly_if_whoever_accuses_it_is_out_by_the_word_of_one_that_is_in(
    words: dict[HostId, frozenset[HostId]],
) -> None:
    out = compromised_hosts(words)
    trusted = {host for host in FEW if host not in out}
    for host in FEW:
        accusers = words.get(host, frozenset()) - {host}
        if host in trusted:
            assert all(words[one] & trusted for one in accusers), "each accuser is out by a trusted word"
        else:
            assert out[host] <= accusers
            assert out[host], "somebody whose word may count said it"
            assert not any(words.get(one, frozenset()) & trusted for one in out[host] - trusted)
