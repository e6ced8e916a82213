"""Labels that the agent itself adds to an endpoint's record: name and id of the container in its runtime.

They begin with `netagent.`, and of the labels passed on by a runtime only those below `netagent.txt.` do. Users and
commands find containers by them; DNS names never derive from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

ORIGINAL_NAME: Final = "netagent.original-name"
"""The container's name, if DNS does not allow it."""
CONTAINER_ID: Final = "netagent.container-id"
COMPOSE_PROJECT: Final = "netagent.compose-project"
COMPOSE_SERVICE: Final = "netagent.compose-service"
PUBLISHED: Final = "netagent.published-by-runtime"
"""`8080:80/tcp`, separated by commas: ports of the host that the runtime itself forwards to the container."""
ADDRESS: Final = "netagent.address"
"""`true`: its service gets an address of its own. The operator's as well; here so that each host can see it."""
TXT_LABELS: Final = "netagent.txt."
"""Labels of the operator that become `KEY=VALUE` in TXT records."""

MIN_ID_DIGITS: Final = 6
"""At least this many digits of an id identify it; fewer would often be a word."""
_HEXADECIMAL: Final = frozenset("0123456789abcdef")


YES: Final = "true"


def address_flaw(text: str) -> str:
    """Return what is wrong with the value of the label ADDRESS, as a clause; "" if nothing is."""
    return "" if text in {YES, "false"} else f"cannot be {text[:80]!r}"


def label_of(labels: Iterable[tuple[str, str]], key: str) -> str:
    """Return the value of a label; "" if it does not exist."""
    return next((value for one, value in labels if one == key), "")


def origin_keys(labels: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the texts under which an index has a container: what compose and its runtime call it, and the beginning
    of its id, unless that is hexadecimal. Nearly all ids are, and no two are alike: an index of them would be large.
    """
    for key, value in labels:
        if key in {ORIGINAL_NAME, COMPOSE_SERVICE} and value:
            yield value
        elif key == CONTAINER_ID and not _HEXADECIMAL.issuperset(value):
            yield value[:MIN_ID_DIGITS]


def may_be_hexadecimal_id(thing: str) -> bool:
    """True if `thing` may be an id of which there is no index, or the beginning of one."""
    return len(thing) >= MIN_ID_DIGITS and _HEXADECIMAL.issuperset(thing)


def is_container(labels: Iterable[tuple[str, str]], thing: str) -> bool:
    """True if `thing` is the name, the id or the beginning of the id of the container in its runtime."""
    for key, value in labels:
        if key == ORIGINAL_NAME and value == thing:
            return True
        if key == CONTAINER_ID and len(thing) >= MIN_ID_DIGITS and value.startswith(thing):
            return True
    return False
