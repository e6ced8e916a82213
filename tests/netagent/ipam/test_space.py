"""Who owns what, how it is shared out, and what is handed on."""

from __future__ import annotations

import random

import pytest
from fakes.registry import H1, H2, H3, N1, grant, identifier
from hypothesis import given
from hypothesis import strategies as st

from netagent.ipam.space import (
    MAX_SHARES,
    AddressSpace,
    Range,
    grant_one,
    inherit,
    share_out,
    space_of,
    split_for,
    usable_count,
)
from netagent.model.ids import HostId
from netagent.model.records import GrantRecord
from netagent.registry.record_codec import decode_untrusted, encode


def owners(space: AddressSpace) -> str:
    return "".join(
        {None: "-", H1: "1", H2: "2", H3: "3"}[space.owner_of(offset)] for offset in range(space.count)
    )


@pytest.mark.parametrize(
    ("creator", "grants", "expected"),
    [
        (H1, [], "1111111111111111"),
        (None, [], "----------------"),
        (None, [(H1, grant(N1, 4, 7, H2))], "----2222--------"),
        (H1, [(H1, grant(N1, 4, 7, H2))], "1111222211111111"),
        (H1, [(H1, grant(N1, 4, 7, H2)), (H2, grant(N1, 5, 6, H3, 2))], "1111233211111111"),
        (H1, [(H2, grant(N1, 5, 6, H3, 2))], "1111133111111111"),
        (H1, [(H1, grant(N1, 4, 7, H2)), (H2, grant(N1, 4, 7, H1, 2))], "1111111111111111"),
        (H1, [(H1, grant(N1, 8, 99, H2))], "1111111122222222"),
        (H1, [(H1, grant(N1, 20, 99, H2))], "1111111111111111"),
        (H1, [(H2, grant(N1, 4, 7, H2)), (H1, grant(N1, 4, 7, H3))], "1111333311111111"),
    ],
)
def test_the_highest_hop_names_the_owner(
    creator: HostId | None, grants: list[tuple[HostId, GrantRecord]], expected: str
) -> None:
    space = space_of(creator, 16, grants)
    space.check_invariants()
    assert owners(space) == expected


some_grants = st.lists(
    st.builds(
        lambda writer, first, size, to, hop: (writer, grant(N1, first, first + size, to, hop)),
        st.sampled_from([H1, H2, H3]),
        st.integers(0, 40),
        st.integers(0, 40),
        st.sampled_from([H1, H2, H3]),
        st.integers(1, 4),
    ),
    max_size=12,
)


@given(some_grants, st.sampled_from([None, H1]), st.randoms(use_true_random=False))
def test_ranges_say_the_same_as_looking_at_every_grant(
    grants: list[tuple[HostId, GrantRecord]], creator: HostId | None, rng: random.Random
) -> None:
    space = space_of(creator, 32, grants)
    space.check_invariants()
    for offset in range(32):
        covering = [
            (-one.hop, writer, one.first, one.last, one.to)
            for writer, one in grants
            if one.first <= offset <= one.last
        ]
        if creator is not None:
            covering.append((0, creator, 0, 31, creator))
        best = min(covering, key=lambda claim: claim[:2], default=None)
        rivals = [claim for claim in covering if best is not None and claim[:2] == best[:2]]
        believed: list[HostId | None] = [claim[4] for claim in rivals]
        assert space.owner_of(offset) in (believed or [None])
    assert space_of(creator, 32, rng.sample(grants, len(grants))) == space


@pytest.mark.parametrize(
    ("count", "hosts"), [(4, 3), (8, 2), (16, 9), (256, 2), (4096, 2), (4096, 40), (65536, 1)]
)
def test_sharing_out(count: int, hosts: int) -> None:
    others = [HostId(identifier(100 + number)) for number in range(hosts)]
    grants = share_out(N1, count, others)
    space = space_of(H1, count, ((H1, one) for one in grants))
    usable = space.usable_counts()
    assert usable[H1] * 2 >= sum(usable.values()), "the creator keeps half"
    assert usable[H1] > 0
    assert all(usable[one.to] > 0 for one in grants)
    assert len({one.to for one in grants}) == len(grants)
    if count >= 4 * (hosts + 1):
        assert [one.to for one in grants] == others


def test_sharing_out_an_ordinary_network() -> None:
    assert share_out(N1, 4096, [H2, H3]) == (grant(N1, 960, 1919, H2), grant(N1, 1920, 2879, H3))


@pytest.mark.parametrize("hosts", range(1, 9))
def test_the_shares_are_as_large_as_they_can_be(hosts: int) -> None:
    shares = share_out(N1, 1024, [HostId(identifier(100 + number)) for number in range(hosts)])
    given = sum(one.last - one.first + 1 for one in shares)
    assert 1021 // 2 * 0.85 < given <= 1021 // 2


def test_at_most_256_shares() -> None:
    others = [HostId(identifier(100 + number)) for number in range(1000)]
    grants = share_out(N1, 1 << 16, others)
    assert len(grants) == MAX_SHARES


def test_splitting_gives_the_largest_aligned_chunk_of_at_most_half() -> None:
    assert split_for(N1, H2, [Range(2, 254, hop=3)]) == grant(N1, 64, 127, H2, 4)
    assert split_for(N1, H2, [Range(5, 6), Range(16, 19), Range(33, 33)]) == grant(N1, 16, 17, H2)
    assert split_for(N1, H2, [Range(7, 7)]) == grant(N1, 7, 7, H2), "the last one goes too"
    assert split_for(N1, H2, []) is None


@given(st.lists(st.tuples(st.integers(2, 200), st.integers(0, 30), st.integers(0, 3)), max_size=6))
def test_what_is_split_off_was_free(parts: list[tuple[int, ...]]) -> None:
    free, end = [], 1
    for gap, size, hop in parts:
        free.append(Range(end + gap, end + gap + size, hop))
        end = free[-1].last
    given_away = split_for(N1, H2, free)
    assert (given_away is None) == (not free)
    if given_away is not None:
        (run,) = [one for one in free if one.first <= given_away.first and given_away.last <= one.last]
        size = given_away.last - given_away.first + 1
        assert given_away.hop == run.hop + 1
        assert size & (size - 1) == 0
        assert given_away.first % size == 0
        assert size <= max(1, sum(map(len, free)) // 2)


def test_one_offset_by_name() -> None:
    assert grant_one(N1, H2, [Range(4, 7, 2)], 5) == grant(N1, 5, 5, H2, 3)
    assert grant_one(N1, H2, [Range(4, 7, 2)], 8) is None


def test_usable_leaves_out_base_gateway_and_broadcast() -> None:
    assert [
        usable_count(Range(0, 255), 256),
        usable_count(Range(0, 1), 256),
        usable_count(Range(255, 255), 256),
    ] == [253, 0, 0]


def test_a_host_with_grants_at_the_highest_forged_hop_can_be_evicted() -> None:
    """No hop is above its own; the successor's grants used to be refused as invalid, and the eviction with them."""
    honest = [(H1, grant(N1, 4, 7, H2))]
    lie = (H3, grant(N1, 0, 15, H3, 2**32 - 1))
    taken = space_of(H1, 16, [*honest, lie])
    assert owners(taken) == "3" * 16
    successors = [(H2, one) for one in inherit(N1, taken, H2, {H3})]
    for _, one in successors:
        assert decode_untrusted(encode(one)) == one
    after = space_of(H1, 16, [*honest, *successors])
    assert owners(after) == "2" * 16
    handed_on = split_for(N1, H1, after.owned_by(H2))
    assert handed_on is not None
    assert decode_untrusted(encode(handed_on)) == handed_on
