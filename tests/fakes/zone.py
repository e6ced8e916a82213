"""The table of the resolver, made as a whole: an oracle for those that are made step by step."""

from __future__ import annotations

from collections.abc import Container, Iterable, Set

from netagent.model.ids import NetworkId
from netagent.model.sandbox import Sandbox
from netagent.registry.view import RegistryView
from netagent.resolver.name_table import Table
from netagent.resolver.zone import every_row


def whole_table(
    view: RegistryView,
    sandboxes: Iterable[Sandbox],
    domain: str,
    feeds: Set[NetworkId] = frozenset(),
    refused: Container[bytes] = (),
) -> Table:
    rows = every_row(view, sandboxes, domain, feeds, refused)
    return {key: row for key, row in rows if row is not None}
