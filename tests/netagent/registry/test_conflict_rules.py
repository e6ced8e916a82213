"""The rules for conflicting records, where no view is needed to see them."""

from __future__ import annotations

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
