"""Commands of ring keys: what the hosts of the cluster seal gossip and records with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netagent.interface.cluster import Watching
from netagent.interface.command import Command, switch
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

TITLE = "Ring keys"

LIST_S = 2.0
"""How often the list is read while it is watched: which keys this host has is no record."""


class KeysListCommand(
    Watching["schema.Listing[schema.RingKeyInfo]"],
    command="list ls",
    within="keys",
    route="GET /v1/keys",
    brief="List the ring keys that this host accepts.",
    examples="sudo netagent keys list",
    order="number id",
    role=Role.READ,
    period_s=LIST_S,
):
    """List the ring keys that this host accepts, the newest last. The keys themselves are never shown."""


class KeysRotateCommand(
    Command["schema.RingKeyRotated"],
    command="rotate",
    within="keys",
    route="POST /v1/keys/rotate",
    brief="Change the ring key of the cluster.",
    waits="until all live hosts use the new key, for at most 60 s",
    examples="sudo netagent keys rotate\nsudo netagent keys rotate --wait",
):
    """Make a new ring key and give it to all hosts of the cluster. It is used once all live hosts have it; the old
    one is kept until each host that is away has met the new one, or is forgotten. No connection is cut, and no
    record lost."""

    wait: bool = switch("--wait", help="return when all live hosts use it; fails after 60 s")
