"""The kinds of entries, one row each: its order in a plan, its netlink messages, its `ip` or `bridge` commands. Pure.

A further kind is a further row here, a table in `netagent.datapath.state`, and a branch where `observe` decodes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from netagent.datapath.netlink.neighbour import (
    AF_BRIDGE,
    NTF_MASTER,
    NTF_SELF,
    NTF_STICKY,
    NUD_NOARP,
    NUD_PERMANENT,
    NeighbourMessage,
    family_of,
)
from netagent.datapath.netlink.route_socket import NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE
from netagent.datapath.state import ZERO_MAC, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryKind:
    """What distinguishes the entries of one table."""

    words: str
    """What people call such an entry."""
    set_command: str
    """With `device` and `what` of the key, and `value`; the same below."""
    delete_command: str
    message: Callable[[int, str, str | None], NeighbourMessage]
    """The message for (index, what, value); no value: to delete the entry. The index is that of `link_of`."""
    set_flags: int = NLM_F_CREATE | NLM_F_REPLACE
    question: Callable[[int, str], NeighbourMessage] | None
    """The message that asks for the entry at (index of the device, what); None: the kernel can't be asked for it."""


ENTRY_KINDS: Final[dict[Table, EntryKind]] = {
    "self": EntryKind(
        words="tunnel entry",
        set_command="bridge fdb replace {what} dev {device} dst {value} self permanent",
        delete_command="bridge fdb del {what} dev {device} self",
        # At a VXLAN device a static entry is PERMANENT; at a bridge that would be the bridge's own address.
        message=lambda index, mac, underlay: NeighbourMessage(
            AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, underlay, mac, None
        ),
        question=lambda index, mac: NeighbourMessage(AF_BRIDGE, index, 0, NTF_SELF, None, mac, None),
    ),
    "master": EntryKind(
        words="bridge entry",
        set_command="bridge fdb replace {what} dev {value} master static sticky",
        delete_command="bridge fdb del {what} dev {value} master",
        message=lambda index, mac, port: NeighbourMessage(
            AF_BRIDGE, index, NUD_NOARP, NTF_MASTER | (NTF_STICKY if port else 0), None, mac, None
        ),
        question=lambda index, mac: NeighbourMessage(AF_BRIDGE, 0, 0, 0, None, mac, index),
    ),
    "neighbour": EntryKind(
        words="neighbour",
        set_command="ip neigh replace {what} lladdr {value} dev {device} nud permanent",
        delete_command="ip neigh del {what} dev {device}",
        message=lambda index, address, mac: NeighbourMessage(
            family_of(address), index, NUD_PERMANENT, 0, address, mac, None
        ),
        question=lambda index, address: NeighbourMessage(
            family_of(address), index, 0, 0, address, None, None
        ),
    ),
    "flood": EntryKind(
        words="flood entry",
        set_command=f"bridge fdb append {ZERO_MAC} dev {{device}} dst {{what}} self permanent",
        delete_command=f"bridge fdb del {ZERO_MAC} dev {{device}} dst {{what}} self",
        # An entry that another program created without a destination goes only with all others, which the next look
        # restores.
        message=lambda index, underlay, _: NeighbourMessage(
            AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF, underlay or None, ZERO_MAC, None
        ),
        # Added to the existing ones: the kernel refuses to replace the zero MAC's.
        set_flags=NLM_F_CREATE | NLM_F_APPEND,
        # Of the many entries of the zero MAC the kernel returns only one.
        question=None,
    ),
}
"""In the order in which entries are set: those for a remote endpoint before anything can use them, and the neighbour
last of these, because it makes the bridge answer ARP. They are removed in reverse order."""
