"""The options of a network, from its record and from what hosts have changed since. Pure.

The network's record stays as its creator wrote it. A host that changes options writes a record of its own with all
options that it has ever changed, each with a number: one more than the highest that the host knew for that option.
For each option the highest number counts, whichever host wrote it. So hosts that know of each other's changes follow
the last one, and two sides of a cut that change different options both get what they asked for.

If both change one option, the side that changed it more often wins; of equal numbers the stricter value does. What
counts is a function of number and value alone. So a host that succeeds another repeats what that one had said, and
nothing changes. No clock takes part: the time of a change is for people.

Numbers have an end. A change with the last number, which a member must have made up, is overruled by one with the
same number that has its digest. A digest names one change exactly, so no member overrules what is not written yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from netagent.model.egress import parse_egress, text_of
from netagent.model.ids import HostId
from netagent.model.locality import AnswerOrder
from netagent.model.records import (
    MAX_OPTION_CHANGES,
    MAX_OVERRULED,
    NetworkOption,
    NetworkOptionsRecord,
    NetworkRecord,
    OptionChange,
    Policy,
)


def changes_in_force(
    claims: Mapping[HostId, NetworkOptionsRecord],
) -> dict[NetworkOption, tuple[OptionChange, HostId]]:
    """Return for each changed option the change that counts, and the host with the smallest id that wrote it."""
    found: dict[NetworkOption, tuple[OptionChange, HostId]] = {}
    last = [one for record in claims.values() for one in record.changes if one.number == MAX_OPTION_CHANGES]
    overruled = {(one.option, digest) for one in last for digest in one.overrules}
    for host in sorted(claims):
        for change in claims[host].changes:
            if overruled and (change.option, change.digest) in overruled:
                continue
            known = found.get(change.option)
            if known is None or known[0].rank < change.rank:
                found[change.option] = change, host
    return {option: found[option] for option in NetworkOption if option in found}


def next_number(claims: Mapping[HostId, NetworkOptionsRecord], option: NetworkOption) -> int:
    """Return the number of the next change of an option."""
    numbers = (one.number for record in claims.values() for one in record.changes if one.option is option)
    return min(MAX_OPTION_CHANGES, 1 + max(numbers, default=0))


def overruled_by_next(
    claims: Mapping[HostId, NetworkOptionsRecord], option: NetworkOption
) -> tuple[bytes, ...]:
    """Return the digests that the next change of an option has to carry: none, unless the numbers are used up."""
    every = [one for record in claims.values() for one in record.changes if one.option is option]
    last = {one.digest for one in every if one.number == MAX_OPTION_CHANGES}
    counting = changes_in_force(claims).get(option)
    first = {counting[0].digest} & last if counting else set()
    return tuple(sorted([*first, *sorted(last - first)][:MAX_OVERRULED]))


def with_changes(
    record: NetworkOptionsRecord | None, changes: Iterable[OptionChange]
) -> tuple[OptionChange, ...]:
    """Return the changes of a record with others in their place."""
    every = {one.option: one for one in (*(record.changes if record else ()), *changes)}
    return tuple(every[option] for option in NetworkOption if option in every)


def value_of(record: NetworkRecord, option: NetworkOption) -> str:
    """Return the value that an option has in a network's record."""
    match option:
        case NetworkOption.POLICY:
            return record.policy.value
        case NetworkOption.INTERNAL:
            return _yes(record.internal)
        case NetworkOption.MULTICAST:
            return _yes(record.multicast)
        case NetworkOption.HOST_ACCESS:
            return _yes(record.host_access)
        case NetworkOption.ANSWER_ORDER:
            return record.answer.value
        case NetworkOption.SHARED_NAMES:
            return "refuse" if record.refuses_shared_names else "answer"
        case NetworkOption.SERVICE_ADDRESSES:
            return "on" if record.service_addresses else "off"
        case NetworkOption.EGRESS:
            return text_of(record.egress)


def _yes(is_on: bool) -> str:  # noqa: FBT001 - its only meaning
    return "yes" if is_on else "no"


_SET: Final[Mapping[NetworkOption, Callable[[NetworkRecord, str], NetworkRecord]]] = {
    NetworkOption.POLICY: lambda record, value: replace(record, policy=Policy(value)),
    NetworkOption.INTERNAL: lambda record, value: replace(record, internal=value == "yes"),
    NetworkOption.MULTICAST: lambda record, value: replace(record, multicast=value == "yes"),
    NetworkOption.HOST_ACCESS: lambda record, value: replace(record, host_access=value == "yes"),
    NetworkOption.ANSWER_ORDER: lambda record, value: replace(record, answer=AnswerOrder(value)),
    NetworkOption.SHARED_NAMES: lambda record, value: replace(record, refuses_shared_names=value == "refuse"),
    NetworkOption.SERVICE_ADDRESSES: lambda record, value: replace(record, service_addresses=value == "on"),
    NetworkOption.EGRESS: lambda record, value: replace(record, egress=parse_egress(value)),
}


def with_options(record: NetworkRecord, values: Mapping[NetworkOption, str]) -> NetworkRecord:
    """Return the record of a network with these values.

    The policy `links` excludes multicast and addresses of hosts, and `internal` an egress. Each side of a cut may
    have asked for one of them: then the policy counts, or `internal`, because it is the stricter one.
    """
    for option, value in values.items():
        record = _SET[option](record, value)
    if record.policy is Policy.LINKS and (record.multicast or record.host_access):
        record = replace(record, multicast=False, host_access=False)
    return replace(record, egress=None) if record.internal and record.egress is not None else record


def succeeded(
    claims: Mapping[HostId, NetworkOptionsRecord], gone: Collection[HostId], successor: HostId
) -> tuple[OptionChange, ...]:
    """Return the changes that the successor of hosts that are gone must write of a network; empty: nothing.

    These are its own with those of the hosts that count. A number that such a host made up, far above all others,
    comes down to the next one, or no host could change the option any more."""
    others = {host: record for host, record in claims.items() if host not in gone}
    taken = [
        replace(
            one,
            number=min(one.number, next_number(others, one.option)),
            overrules=overruled_by_next(others, one.option),
        )
        for one, host in changes_in_force(claims).values()
        if host in gone
    ]
    return with_changes(claims.get(successor), taken) if taken else ()
