"""Source NAT for packets that leave our networks: in a table of its own, which survives a flush of the ruleset.

    table inet netagent-nat {                              # flags owner, persist
        chain outward { type nat hook postrouting priority 95
            iifname "na-*" oifname != "na-*" masquerade } }

The kernel translates addresses only as long as some chain asks for it. If the last one were flushed, then until it is
restored, replies of open connections would arrive untranslated at the host, which does not know them and resets them.
So this table belongs to the socket that created it: no other program can change or flush it. When the agent stops,
the kernel keeps it, and the next agent takes it over. All NAT on the host depends on it, also that of our other
tables.

Kernels before 6.9 can't keep a table without its owner; there it is an ordinary one, restored with the others.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import Final

from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.nftables import (
    NftMessage,
    attribute,
    expression,
    nest,
    number,
    split_attributes,
    text,
)

TABLE: Final = "netagent-nat"

_CHAIN: Final = "outward"
_POST_ROUTING: Final = 4
_PRIORITY: Final = 95
"""Before the other programs' `srcnat` (100): of all chains the first that binds a connection wins."""
_ACCEPT: Final = 1
_META_IIFNAME, _META_OIFNAME = 6, 7
_EQ, _NEQ = 0, 1
_OURS: Final = b"na-"
_FLAGS: Final = nftables.TABLE_F_OWNER | nftables.TABLE_F_PERSIST
_UNKNOWN_FLAGS: Final = {errno.EOPNOTSUPP, errno.EINVAL}


class SourceNat:
    """The table in the namespace of `sock`, which owns it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._flags = _FLAGS
        self._looks: list[bytes] = []

    def put(self) -> None:
        """Create the table, whatever there was of it. OSError; EPERM when another process owns one."""
        try:
            self._make()
        except OSError as error:
            if error.errno not in _UNKNOWN_FLAGS or not self._flags:
                raise
            self._flags = 0
            self._make()
        self._looks = self._look()

    def adopt(self) -> None:
        """Take over the existing table of an earlier agent, whose `rules` are known to be right. OSError."""
        try:
            nftables.commit(self._sock, [self._table()])
        except OSError as error:
            if error.errno not in _UNKNOWN_FLAGS:
                raise
            self._flags = 0
        self._looks = self._look()

    def is_whole(self) -> bool:
        """Return whether it is as we made it. OSError EINTR: it was being changed; ask again."""
        return bool(self._looks) and self._look() == self._looks

    def remove(self) -> None:
        """Remove the table. OSError."""
        with suppress(FileNotFoundError):
            nftables.commit(self._sock, [self._table(), _change(nftables.DELTABLE, text(1, TABLE))])
        self._looks = []

    def _make(self) -> None:
        """Create it in one transaction, so that connections notice nothing. An orphan is adopted to delete it."""
        hook = nest(4, number(1, _POST_ROUTING) + number(2, _PRIORITY))
        chain = text(1, TABLE) + text(3, _CHAIN) + hook + number(5, _ACCEPT) + text(7, "nat")
        rule = text(1, TABLE) + text(2, _CHAIN) + nest(4, _EXPRESSIONS)
        nftables.commit(
            self._sock,
            [
                self._table(),
                _change(nftables.DELTABLE, text(1, TABLE)),
                self._table(),
                _change(nftables.NEWCHAIN, chain),
                _change(nftables.NEWRULE, rule, nftables.APPEND),
            ],
        )

    def _table(self) -> NftMessage:
        return _change(nftables.NEWTABLE, text(1, TABLE) + number(2, self._flags))

    def _look(self) -> list[bytes]:
        return [*self._listed(nftables.GETTABLE), *self.rules()]

    def rules(self) -> list[bytes]:
        """Return everything but the table itself, which names its owner, in the kernel's encoding. OSError."""
        return self._listed(nftables.GETCHAIN, nftables.GETRULE)

    def _listed(self, *kinds: int) -> list[bytes]:
        found: list[bytes] = []
        for kind in kinds:
            listed = nftables.dump(self._sock, kind, nftables.FAMILY_INET, text(1, TABLE))
            found += [one for one in listed if dict(split_attributes(one)).get(1) == TABLE.encode() + b"\0"]
        return found


def _change(kind: int, attributes: bytes, flags: int = 0) -> NftMessage:
    return NftMessage(kind, flags, attributes, nftables.FAMILY_INET)


def _compare(how: int, value: bytes) -> bytes:
    return expression("cmp", number(1, 1) + number(2, how) + nest(3, attribute(1, value)))


_EXPRESSIONS: Final = b"".join(
    (
        expression("meta", number(1, 1) + number(2, _META_IIFNAME)),
        _compare(_EQ, _OURS),  # a prefix of the name, followed by anything
        expression("meta", number(1, 1) + number(2, _META_OIFNAME)),
        _compare(_NEQ, _OURS),
        expression("masq", b""),
    )
)
