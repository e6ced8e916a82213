"""Commands of ring keys: what the hosts of the cluster seal gossip and records with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netagent.interface.cluster import Watching
from netagent.interface.command import Command, argument, option, switch
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
    brief="List the ring keys of the cluster, and which hosts lack which.",
    examples="sudo netagent keys list",
    order="number id",
    role=Role.READ,
    period_s=LIST_S,
):
    """List the ring keys that the hosts of the cluster accept, the newest last, and which hosts lack which. The keys
    themselves are never shown."""


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


class KeysInstallCommand(
    Command["schema.RingKeyInstalled"],
    command="install",
    within="keys",
    route="POST /v1/keys/install",
    brief="Give a ring key to all hosts, which do not use it yet.",
    waits="until all live hosts have the key, for at most 60 s",
    examples="sudo netagent keys install --wait\nsudo netagent keys install --key-file new.key --wait",
    creates=True,
):
    """Give a further ring key to all hosts of the cluster, which keep it and do not use it: `netagent keys use` does
    that. It is a new one, or 32 random bytes in Base64 from a file or standard input. A key that this host has
    already changes nothing."""

    key_file: str | None = option(
        "--key-file",
        metavar="FILE|-",
        help="file with the key, or - for standard input (default: a new key)",
        is_sent=False,
    )
    key: str = option(default="")
    wait: bool = switch("--wait", help="return when all live hosts have the key; fails after 60 s")


class KeysUseCommand(
    Command["schema.RingKeyUsed"],
    command="use",
    within="keys",
    route="POST /v1/keys/{key}/use",
    brief="Let all hosts use a ring key that was installed.",
    waits="until all live hosts use the key, for at most 60 s",
    examples="sudo netagent keys use 1b0a69d5d9fd --wait",
):
    """Let all hosts of the cluster use a ring key that `netagent keys install` gave to them. It is refused while a
    live host lacks the key, and names that host. The key that was used before goes as after `netagent keys
    rotate`."""

    key: str = argument(metavar="KEY", help="its id, or the first digits of it")
    wait: bool = switch("--wait", help="return when all live hosts use it; fails after 60 s")


class KeysRemoveCommand(
    Command["schema.RingKeyRemoved"],
    command="remove rm",
    within="keys",
    route="DELETE /v1/keys/{key}",
    brief="Let no host accept a ring key any more.",
    examples="sudo netagent keys remove 348387c7f23c",
):
    """Let no host of the cluster accept a ring key any more, half a minute from now: one that was installed and is
    not wanted, or one that is kept for hosts that are away. The key in use is never removed. Old keys go by
    themselves once no host needs them."""

    key: str = argument(metavar="KEY", help="its id, or the first digits of it")
    force: bool = switch(
        "--force", help="also if hosts that are away know no newer one: they return by their identity"
    )
