"""Options that hosts have changed: which change counts, what a successor says, and what a record may hold."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest
from fakes.registry import H1, H2, H3, N1, Writer, network
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.model.locality import AnswerOrder
from netagent.model.records import (
    MAX_OPTION_CHANGES,
    MAX_OPTIONS,
    MAX_OVERRULED,
    OPTION_VALUES,
    ForgetRecord,
    NetworkOption,
    NetworkOptionsRecord,
    OptionChange,
    Policy,
    Record,
    RemovalRecord,
    strictness,
)
from netagent.registry.network_options import (
    changes_in_force,
    next_number,
    overruled_by_next,
    succeeded,
    value_of,
    with_changes,
    with_options,
)
from netagent.registry.record_codec import RecordError, decode_untrusted, encode, key_of
from netagent.registry.view import RegistryView
from netgossip.types import CLUSTER_SCOPE


def change(option: NetworkOption, value: str, number: int = 1, by: str = "root") -> OptionChange:
    return OptionChange(option, value, number, 1_700_000_000, by)


def options(*changes: OptionChange) -> NetworkOptionsRecord:
    return NetworkOptionsRecord(N1, with_changes(None, changes))


POLICY, ANSWER = NetworkOption.POLICY, NetworkOption.ANSWER_ORDER
LISTED = ("open", "192.0.2.0/24:443,198.51.100.7/32", "[2001:db8::/32]:53/udp", "none")
VALUES = {**OPTION_VALUES, NetworkOption.EGRESS: LISTED}
CHANGES = st.sampled_from(NetworkOption).flatmap(
    lambda option: st.builds(change, st.just(option), st.sampled_from(VALUES[option]), st.integers(1, 4))
)
RECORDS = st.lists(CHANGES, min_size=1, max_size=8).map(lambda changes: options(*changes))
HOSTS = (H1, H2, H3, HostId("d4" * 16), HostId("e5" * 16))
CLAIMS = st.dictionaries(st.sampled_from(HOSTS), RECORDS, min_size=1)


def values_of(claims: dict[HostId, NetworkOptionsRecord]) -> dict[NetworkOption, str]:
    return {option: one.value for option, (one, _) in changes_in_force(claims).items()}


# -- which counts ------------------------------------------------------------------------------------------------


@given(CLAIMS)
def test_each_option_has_the_value_with_the_highest_number_and_of_equal_ones_the_stricter(
    claims: dict[HostId, NetworkOptionsRecord],
) -> None:
    for option, (one, host) in changes_in_force(claims).items():
        every = [other for record in claims.values() for other in record.changes if other.option is option]
        assert one in claims[host].changes
        assert one.number == max(other.number for other in every)
        assert all(
            strictness(option, other.value) <= strictness(option, one.value)
            for other in every
            if other.number == one.number
        )
        assert next_number(claims, option) == one.number + 1


@given(CLAIMS, st.permutations(HOSTS))
def test_who_wrote_a_value_does_not_matter(
    claims: dict[HostId, NetworkOptionsRecord], others: list[HostId]
) -> None:
    renamed = {others[HOSTS.index(host)]: record for host, record in claims.items()}
    assert values_of(renamed) == values_of(claims)


@given(CLAIMS, st.sets(st.sampled_from(HOSTS), max_size=4), st.sampled_from(HOSTS))
def test_a_succession_changes_no_value(
    claims: dict[HostId, NetworkOptionsRecord], gone: set[HostId], successor: HostId
) -> None:
    gone -= {successor}
    changes = succeeded(claims, gone, successor)
    after = {host: record for host, record in claims.items() if host not in gone}
    if changes:
        after[successor] = NetworkOptionsRecord(N1, changes)
    assert values_of(after) == values_of(claims)
    assert succeeded(after, gone, successor) == ()


def test_a_number_that_a_host_made_up_ends_with_it() -> None:
    forged = options(change(POLICY, "links", MAX_OPTION_CHANGES))
    claims = {H1: options(change(POLICY, "open", 3)), H2: forged}
    assert values_of(claims) == {POLICY: "links"}
    assert next_number(claims, POLICY) == MAX_OPTION_CHANGES
    (taken,) = succeeded(claims, {H2}, H1)
    assert (taken.value, taken.number) == ("links", 4)
    assert next_number({H1: NetworkOptionsRecord(N1, (taken,))}, POLICY) == 5


TURNS = st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(OPTION_VALUES[POLICY])), min_size=1)


@given(st.sets(st.sampled_from(HOSTS), min_size=1, max_size=4), TURNS)
def test_no_host_fixes_an_option_for_ever(liars: set[HostId], turns: list[tuple[HostId, str]]) -> None:
    """Each change counts for the hosts that know of all others, also after members wrote the highest number, and
    after these members are gone."""
    claims = {one: options(change(POLICY, "links", MAX_OPTION_CHANGES, one)) for one in liars}
    for time_s, (host, value) in enumerate(turns):
        number, overrules = next_number(claims, POLICY), overruled_by_next(claims, POLICY)
        written = OptionChange(POLICY, value, number, time_s, "root", overrules)
        claims[host] = NetworkOptionsRecord(N1, (written,))
        assert decode_untrusted(encode(claims[host])) == claims[host]
        assert values_of(claims) == {POLICY: value}
    last, _ = turns[-1]
    assert values_of({last: claims[last]}) == {POLICY: turns[-1][1]}


@given(st.dictionaries(st.sampled_from(NetworkOption), st.integers(0, 9)))
def test_a_network_has_the_values_that_count(chosen: dict[NetworkOption, int]) -> None:
    values = {one: VALUES[one][n % len(VALUES[one])] for one, n in chosen.items()}
    record = with_options(network(), values)
    encode(record)  # every network that can come of it may be in a record
    for option, value in values.items():
        is_excluded = option in (NetworkOption.MULTICAST, NetworkOption.HOST_ACCESS)
        is_off = is_excluded and record.policy is Policy.LINKS
        is_open = option is NetworkOption.EGRESS and record.internal
        assert value_of(record, option) == ("open" if is_open else "no" if is_off else value)


# -- in a view ---------------------------------------------------------------------------------------------------


def test_every_order_of_arrival_gives_the_same_network() -> None:
    written: list[tuple[HostId, Record]] = [
        (H1, network(answer=AnswerOrder.ZONE)),
        (H2, options(change(POLICY, "links", 2), change(NetworkOption.MULTICAST, "yes"))),
        (H3, options(change(POLICY, "open", 1), change(ANSWER, "nearest"))),
    ]
    views = []
    for order in itertools.permutations(written):
        view = RegistryView(H1)
        for owner, record in order:
            view = view.with_entries(Writer(owner).put(record))
            view.check_invariants()
        views.append(view.networks[N1])
    assert all(view == views[0] for view in views)
    found = views[0]
    assert (found.owner, found.creator) == (H1, H1)
    assert (found.record.policy, found.record.answer) == (Policy.LINKS, AnswerOrder.NEAREST)
    assert not found.record.multicast, "links excludes it"
    assert [(one.option, host) for one, host in found.changes] == [
        (POLICY, H2),
        (NetworkOption.MULTICAST, H2),
        (ANSWER, H3),
    ]


def test_what_an_evicted_host_changed_ends_with_it_and_removed_networks_stay_removed() -> None:
    view, second = RegistryView(H1), Writer(H2)
    for event in (Writer(H1).put(network()), second.put(options(change(POLICY, "links")))):
        view = view.with_entries(event)
    assert view.networks[N1].record.policy is Policy.LINKS
    third = Writer(H3)
    view = view.with_entries(third.put(ForgetRecord(H2, settled=True)))
    view.check_invariants()
    assert view.networks[N1].record.policy is Policy.OPEN
    view = view.with_entries(third.put(RemovalRecord(N1)))
    view = view.with_entries(third.put(options(change(POLICY, "links", 9))))
    view.check_invariants()
    assert not view.networks


# -- on the wire -------------------------------------------------------------------------------------------------


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: NetworkOptionsRecord) -> None:
    assert decode_untrusted(encode(record)) == record
    assert key_of(record) == (CLUSTER_SCOPE, b"c" + bytes.fromhex(N1))


def packed(*changes: Any, more: tuple[Any, ...] = ()) -> bytes:
    data: bytes = msgpack.packb([15, 1, bytes.fromhex(N1), list(changes), *more])
    return data


GOOD = ["policy", "links", 1, 0, "root"]


def test_what_a_later_release_adds_is_passed_over() -> None:
    read = decode_untrusted(
        packed(
            [*GOOD, [], "more"],
            ["internal", "on weekdays", 7, 0, "root"],
            ["colour", "green", 7, 0, "root"],
            more=("more",),
        )
    )
    assert read == NetworkOptionsRecord(N1, (OptionChange(POLICY, "links", 1, 0, "root"),))


@pytest.mark.parametrize(
    "changes",
    [
        [GOOD, GOOD],
        [["answer_order", "zone", 1, 0, "root"], GOOD],
        [["policy", "links", 0, 0, "root"]],
        [["policy", "links", MAX_OPTION_CHANGES + 1, 0, "root"]],
        [["policy", "links", True, 0, "root"]],
        [["policy", "links", 1, -1, "root"]],
        [["policy", "links", 1, 0, "a\x1b[2J"]],
        [["policy", "links", 1, 0, "r" * 65]],
        [["policy", 1, 1, 0, "root"]],
        [["policy", "links", 1, 0]],
        [[*GOOD, "more"]],
        [[*GOOD, [b"d" * 15]]],
        [[*GOOD, [b"d" * 16] * (MAX_OVERRULED + 1)]],
        ["policy"],
        [GOOD] * (MAX_OPTIONS + 1),
    ],
)
def test_other_records_are_refused(changes: list[Any]) -> None:
    with pytest.raises(RecordError):
        decode_untrusted(packed(*changes))


def test_the_worst_record_costs_little() -> None:
    worst = packed(*[["x" * 64, "y" * 64, 1, 0, "z" * 64]] * MAX_OPTIONS)
    instructions_of(decode_untrusted, worst, most=20_000)
