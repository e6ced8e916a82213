"""What a label leads to in a network: the order in which resolver, links and lists look it up. Pure.

A member of a group (a compose project) finds its own group's endpoints first:

    the group's service, else the name of a member, else an alias of a member

Then, and for everyone else at once, the network:

    CHOSEN     a service that was chosen for the network (`--service`), with the endpoints that have its name
    GIVEN      a service of a group, or an alias
    MEMBER     the name of a member of a group
    DEFAULT    the name of an endpoint without a group, which by default is its service too
    NAME       the name of such an endpoint whose service is another one

The first that has an endpoint wins, never a mixture. What was given on purpose comes before what merely happens to be
called so: a container that is started as `db` takes the name from no project that has a `db`.

A service that has an address of its own (`service create`) has its place in this order with or without endpoints: one
of the network is CHOSEN if an operator gave it the address, else DEFAULT, and one of a group is GIVEN.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final

from netagent.model.records import EndpointRecord, Group, service_key


class Rank(enum.IntEnum):
    """How a label leads to an endpoint, in the order of the look-up."""

    CHOSEN = 0
    GIVEN = 1
    MEMBER = 2
    DEFAULT = 3
    NAME = 4


def given_labels(name: str, group: Group | None, aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the labels of rank GIVEN, or CHOSEN if one of them is the chosen service."""
    return tuple(aliases) if group is None else (group.service or name, *aliases)


def ranks(name: str, service: str, group: Group | None, aliases: Iterable[str]) -> dict[str, Rank]:
    """Return the labels that lead to an endpoint from anywhere in its network."""
    key = service_key(name, service, group)
    found: dict[str, Rank] = {}
    if key.group is None and service != name:
        found[service] = Rank.CHOSEN
    for label in given_labels(name, group, aliases):
        found.setdefault(label, Rank.GIVEN)
    is_default = service == name
    found.setdefault(name, Rank.MEMBER if group is not None else Rank.DEFAULT if is_default else Rank.NAME)
    return found


PLACES_IN_GROUP: Final = 3
PLACE_OF_SERVICE: Final = 0
PLACE_OF_MEMBER: Final = 1


def ranks_in_group(name: str, group: Group, aliases: Iterable[str]) -> dict[str, int]:
    """Return the labels that lead to a member of a group from inside it, each with its place in the order."""
    found = {group.service or name: PLACE_OF_SERVICE}
    found.setdefault(name, PLACE_OF_MEMBER)
    return dict.fromkeys(aliases, 2) | found


def labels_inside(record: EndpointRecord, group: str) -> Mapping[str, int]:
    """Return the labels that lead to the endpoint from inside the group, as `ranks_in_group`; none outside."""
    if record.group is None or record.group.name != group:
        return {}
    return ranks_in_group(record.name, record.group, record.aliases)


def names_of(record: EndpointRecord, *, host: str, base: str) -> tuple[str, ...]:
    """Return the full names of an endpoint: of its service, its own, its own on its host, and its aliases."""
    key = record.service_key
    names = [
        key.name if key.group is None else f"{key.name}.{key.group}",
        record.name,
        f"{record.name}.{host}",
    ]
    return tuple(dict.fromkeys(f"{name}.{base}" for name in (*names, *record.aliases)))
