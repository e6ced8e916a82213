"""The rule sets of successive inputs, each derived from the previous one. Pure.

On a host with a thousand containers nearly every input differs from the last by one endpoint. Then the sets are
copied with that endpoint's elements added or removed, which costs a copy of a dictionary and no walk; unchanged sets
are the same objects. Each set remembers the keys of its last steps, so that a holder of an earlier one need not
compare the two. If anything else differs, `ruleset_of` builds everything; a test compares both ways.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Final, TypeAlias

from netagent.firewall import policy, publishing
from netagent.firewall.element import SetKind, Words
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.firewall.ruleset import (
    ENTRANCES,
    SENDERS,
    SENDERS4,
    SENDERS6,
    Elements,
    Ruleset,
    link_local,
    ruleset_of,
)

MAX_STEPS: Final = 64
"""Bound of steps of one set of the firewall that are remembered; beyond it: a reader that is further behind compares
everything."""
_FOLLOWED: Final = (
    SENDERS,
    SENDERS4,
    SENDERS6,
    ENTRANCES,
    policy.RESTRICTED,
    policy.AUDITED,
    policy.OWN,
    policy.BRIDGES,
    publishing.RESIDENTS4,
    publishing.RESIDENTS6,
)
_OTHER_INPUTS: Final = tuple(one.name for one in fields(FirewallInput) if one.name != "endpoints")
_Element: TypeAlias = tuple[SetKind, Words, Words]


class SetElements(dict[Words, Words]):
    """Elements of one set at one step. Immutable once it is part of a Ruleset."""

    __slots__ = ("number", "steps_log")

    def __init__(
        self, elements: Elements, number: int, steps_log: deque[tuple[int, frozenset[Words]]]
    ) -> None:
        super().__init__(elements)
        self.number, self.steps_log = number, steps_log

    def touched_since(self, earlier: object) -> set[Words] | None:
        """Return keys in which this may differ from an earlier step; None: any."""
        if not isinstance(earlier, SetElements) or earlier.steps_log is not self.steps_log:
            return None
        if not self.number - len(self.steps_log) <= earlier.number <= self.number:
            return None
        steps = (keys for step, keys in self.steps_log if earlier.number < step <= self.number)
        return set().union(*steps)

    def step(self, changes: Mapping[Words, Words | None]) -> SetElements:
        """Return the next step; None: the element is gone. Only the latest step may be extended."""
        made = SetElements(self, self.number + 1, self.steps_log)
        for key, value in changes.items():
            if value is None:
                made.pop(key, None)
            else:
                made[key] = value
        self.steps_log.append((made.number, frozenset(changes)))
        return made


class RulesetBuilder:
    """Builds the rule sets of one agent's life."""

    def __init__(self) -> None:
        self._given: FirewallInput | None = None
        self._made: Ruleset | None = None
        self._residents: Counter[str] = Counter()
        """Number of endpoints per address: after a partition heals, networks may overlap."""

    def make(self, given: FirewallInput) -> Ruleset:
        """Return the same as `ruleset_of`."""
        before, made = self._given, self._made
        self._given = given
        if before is not None and made is not None and _differ_in_endpoints_alone(before, given):
            self._made = self._followed(before, given, made)
        else:
            self._made = self._rebuild(given)
        return self._made

    def _rebuild(self, given: FirewallInput) -> Ruleset:
        self._residents = Counter(address for one in given.endpoints for address in one.addresses)
        made = ruleset_of(given)
        followed = {kind: SetElements(made.elements[kind], 0, deque(maxlen=MAX_STEPS)) for kind in _FOLLOWED}
        return replace(made, elements={**made.elements, **followed})

    def _followed(self, before: FirewallInput, given: FirewallInput, made: Ruleset) -> Ruleset:
        networks = {network.bridge: network for network in given.networks}
        old, new = ({id(one): one for one in endpoints} for endpoints in (before.endpoints, given.endpoints))
        changes: dict[SetKind, dict[Words, Words | None]] = {}
        for one in [old[number] for number in old.keys() - new.keys()]:
            self._residents.subtract(one.addresses)
            for kind, key, _ in _elements_of(one, networks):
                changes.setdefault(kind, {})[key] = None
        for one in [new[number] for number in new.keys() - old.keys()]:
            self._residents.update(one.addresses)
            for kind, key, value in _elements_of(one, networks):
                changes.setdefault(kind, {})[key] = value
        for kind in (publishing.RESIDENTS4, publishing.RESIDENTS6):
            for key in changes.get(kind, ()):
                changes[kind][key] = () if self._residents[key[0]] > 0 else None
                if self._residents[key[0]] <= 0:
                    del self._residents[key[0]]
        if not changes:
            return made
        elements = dict(made.elements)
        for kind, keys in changes.items():
            present = elements[kind]
            assert isinstance(present, SetElements)
            elements[kind] = present.step(keys)
        return replace(made, elements=elements)


def _differ_in_endpoints_alone(before: FirewallInput, given: FirewallInput) -> bool:
    # Unchanged parts are the same objects, which a comparison sees at once.
    return all(
        (one := getattr(before, name)) is (other := getattr(given, name)) or one == other
        for name in _OTHER_INPUTS
    )


def _elements_of(one: GuardedEndpoint, networks: Mapping[str, GuardedNetwork]) -> Iterator[_Element]:
    """Yield the elements of an endpoint by set. No two endpoints share a veth, so only addresses can be shared."""
    yield SENDERS, (one.veth, one.mac), ()
    for address in one.addresses:
        is_six = ":" in address
        yield SENDERS6 if is_six else SENDERS4, (one.veth, one.mac, address), ()
        yield publishing.RESIDENTS6 if is_six else publishing.RESIDENTS4, (address,), ()
    yield SENDERS6, (one.veth, one.mac, link_local(one.mac)), ()
    network = networks.get(one.bridge)
    if network is None:
        return
    yield ENTRANCES, (one.veth, network.bridge_mac), ()
    if network.restricted:
        yield policy.RESTRICTED, (one.veth,), ()
        if network.audited:
            yield policy.AUDITED, (one.veth,), ()
        yield policy.OWN, (one.veth, network.bridge_mac), ()
        yield policy.BRIDGES, (one.veth,), (network.bridge_mac,)
