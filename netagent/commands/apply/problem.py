"""What is wrong with a file, and where in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from netagent.errors import InputError, NetagentError, RefusedError
from netagent.interface import schema
from netagent.interface.command import Fields
from netagent.interface.description import DescribedNetwork, DescribedPublication, section_of

_KEYS: Final[Mapping[str, str]] = {
    "subnet-in-use": "subnets",
    "pool-full": "subnets",
    "mtu-too-large": "mtu_bytes",
    "mtu-too-small": "mtu_bytes",
    "options-exclude-each-other": "policy",
    "no-such-network": "network",
    "name-in-use": "name",
    "network-internal": "network",
    "network-egress": "network",
    "other-host": "name",
}
"""Codes of errors whose `thing` is not what stands in the file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an item of a file is refused. `field` and `index`: where it is in the request; `key`: "" for the whole."""

    field: str
    index: int
    name: str
    key: str
    error: NetagentError

    @property
    def place(self) -> str:
        """Where it is in a file, for people."""
        return " ".join(filter(None, (section_of(self.field, self.index, self.name), self.key)))

    def shown(self) -> schema.ApplyProblem:
        """Return it as the answer has it."""
        return {
            "pointer": "/".join(["", self.field, str(self.index), *filter(None, [self.key])]),
            "place": self.place,
            "message": self.error.message,
            "hint": self.error.hint,
            "code": self.error.code,
        }


class Problems:
    """All that is wrong with a file."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, field: str, index: int, item: Fields, error: NetagentError, key: str = "") -> None:
        """Note one. Without `key`, it is the one that has what the error is about."""
        name = getattr(item, "name", "")
        self.found.append(Problem(field, index, name, key or _key_of(item, error), error))

    @contextlib.contextmanager
    def of(self, field: str, index: int, item: Fields) -> Iterator[None]:
        """Note the error that ends this block, and go on after it."""
        try:
            yield
        except NetagentError as error:
            self.add(field, index, item, error)


def refusal(problems: Sequence[Problem]) -> NetagentError:
    """Return the error for a file that is not applied: its first problem, and how many others there are."""
    first = problems[0]
    kind = InputError if any(isinstance(one.error, InputError) for one in problems) else RefusedError
    more = f"{len(problems) - 1} more things are wrong with the file" if len(problems) > 1 else ""
    return kind(
        f"{first.place}: {first.error.message}",
        code=first.error.code,
        thing=first.error.thing,
        hint="; ".join(filter(None, (first.error.hint, more))),
    )


def _key_of(item: Fields, error: NetagentError) -> str:
    given = {one.field: getattr(item, one.attribute) for one in type(item).arguments() if one.is_sent}
    if isinstance(item, DescribedNetwork):
        del given["name"]  # it stands in the section
    for key, value in given.items():
        if error.thing and (error.thing == value or (isinstance(value, list) and error.thing in value)):
            return key
    if error.thing in given:
        return error.thing
    if isinstance(item, DescribedPublication):
        return "port"  # the other keys only say of which service
    by_code = _KEYS.get(error.code, "")
    if by_code == "network" and by_code not in given:
        by_code = "name"  # which ends with it
    return by_code if by_code in given else ""
