"""Our tables in the kernel: installed as a whole by `nft`, changed element by element over netlink, and read back.

`nft` writes all tables in one transaction: no packet ever finds the old rules gone and the new ones missing. Starting
the program costs some ten milliseconds, which an attach should not wait for. So an endpoint that comes or goes is one
transaction of set elements that we write ourselves, in well under one millisecond.

To find out whether the tables are unchanged, everything in them with a known form is read back: tables, chains and
rules must be the same bytes as right after their creation, and the elements those that we put there. Counters and the
state that rules keep themselves are not compared.

The tables outlive the agent. A file beside its socket holds what they were made from, and how they read afterwards.
So the next agent can tell whether they are still what it would make, and then takes them over as they are.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import socket
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final, TypeAlias

import trio

from netagent.datapath.host import conntrack
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.nftables import NftMessage, attribute, nest, split_attributes, text
from netagent.errors import FailedError
from netagent.firewall import publishing
from netagent.firewall.element import Family, SetKind, Words, encode
from netagent.firewall.incremental import SetElements
from netagent.firewall.ruleset import CLAMPS4, HEADERS4_BYTES, KINDS, Elements, Ruleset
from netagent.firewall.source_nat import SourceNat
from netagent.firewall.text import COUNTERS, TABLE, render, render_removal

_NUMBERS: Final = {
    Family.BRIDGE: nftables.FAMILY_BRIDGE,
    Family.INET: nftables.FAMILY_INET,
    Family.NETDEV: nftables.FAMILY_NETDEV,
}
_PATIENCE_S: Final = 20.0
_IFNAME_BYTES: Final = 16
MESSAGE_ELEMENTS: Final = 400
"""Per message: an attribute's length has 16 bits, and an element takes at most some 100 bytes."""
STEP_ELEMENTS: Final = 1200
"""With more elements the tables are installed anew: one send must fit a socket's buffer (212,992 bytes)."""

_log = logging.getLogger(__name__)

_Raw: TypeAlias = dict[bytes, bytes]
"""Key -> value, in the kernel's encoding."""


@dataclass(frozen=True, slots=True)
class _Looks:
    """Everything read of our tables."""

    rules: tuple[bytes, ...]
    elements: Mapping[str, _Raw]


@dataclass(slots=True)
class Tables:
    """Our tables in the namespace of `sock`. `nft`: the program, run in the same namespace. `memory`: the file by
    which they are recognised; like them it must be gone after a reboot. None: they never are."""

    sock: socket.socket
    nft: tuple[str, ...] = ("nft",)
    memory: Path | None = None
    another: Callable[[], socket.socket] = nftables.open_socket
    """Opens a socket like `sock`, in any thread."""
    _rules: tuple[bytes, ...] = ()
    """The rules as they read right after their creation."""
    _elements: dict[str, _Raw] = field(default_factory=dict)
    _noted: dict[str, Elements] = field(default_factory=dict)
    """What `_elements` were encoded from; no entry: they came from the kernel."""
    _counted: dict[str, int] = field(default_factory=dict)
    """Packets counted by tables that have been replaced."""
    _translation: SourceNat = field(init=False)
    silent: str = ""
    """Why packets that the policy refuses are dropped silently instead of rejected; empty when they are rejected."""

    uncounted: str = ""
    """Why containers' connections are not counted; empty when they are."""

    def __post_init__(self) -> None:
        self._translation = SourceNat(self.sock)

    def generation(self) -> int:
        """Return the number that every change of the namespace's ruleset raises, by any program. OSError."""
        return nftables.generation(self.sock)

    def adopt(self, ruleset: Ruleset) -> tuple[Ruleset, int] | None:
        """Take over tables that an earlier agent made of the same rules and no program has changed since. None: there
        are none. Returns a ruleset to `change` from, whatever they hold, and their generation."""
        try:
            generation = (
                self.generation()
            )  # read first: later changes by other programs must not count as ours
            looks, translation = self._look(), self._translation.rules()
            known = self.memory.read_text() if self.memory is not None else ""
            if known != _memory_of(ruleset, (*looks.rules, *translation)):
                return None
            self._translation.adopt()
        except OSError:
            return None
        self._rules, self._elements = looks.rules, dict(looks.elements)
        self._noted.clear()
        return _without_elements(ruleset), generation

    async def install(self, ruleset: Ruleset, installed: Ruleset | None = None, seen: int = -1) -> int | None:
        """Replace the existing tables; return the generation at which the new ones are known to be whole. None when
        another program changed rules at the same moment: it may have changed what was read back, so install again.

        `standing` is what the tables are known to hold at the generation `seen`. With it, families whose rules stay
        the same change by elements alone, which keeps the state of these rules (the flows of datagrams).

        FailedError in one sentence; then the previous tables are still there.
        """
        kept, before = self._keep(ruleset, installed, seen)
        put = frozenset(Family) - kept
        counted = self._count(put)
        ruleset = await self._create(ruleset, put)
        self._counted = counted
        self._note_elements(ruleset, put)
        try:
            self._translation.put()
        except OSError as error:
            if error.errno == errno.EINTR:
                return None
            raise FailedError(f"cannot create the NAT table: {error.strerror}", code="firewall") from error
        generation = before + 2  # nft's transaction and the one of the NAT table
        try:
            looks, translation = self._look(), self._translation.rules()
            if self.generation() != generation:
                return None
        except OSError as error:
            if error.errno in {errno.EINTR, errno.ENOENT}:
                return None
            raise FailedError(f"cannot read netagent's tables: {error.strerror}", code="firewall") from error
        self._rules = looks.rules
        self._remember(_memory_of(ruleset, (*looks.rules, *translation)))
        return generation

    async def _create(self, ruleset: Ruleset, families: frozenset[Family]) -> Ruleset:
        """Create the tables of these families, as far as this kernel can; return what they are. FailedError."""
        tried = [ruleset]
        if ruleset.connections and Family.INET in families:
            # A kernel without nft_connlimit.
            tried.append(replace(ruleset, connections=0))
        if ruleset.rejecting and Family.NETDEV in families:
            # Before Linux 6.16 a chain of the netdev family can't be created before its devices.
            tried += [replace(one, rejecting=frozenset()) for one in tried]
        reason = ""
        for one in tried:
            try:
                await self._run(render(one, families))
            except FailedError as error:
                if one is tried[-1]:
                    raise
                reason = reason or str(error)
                continue
            if Family.NETDEV in families:
                self.silent = reason if one.rejecting != ruleset.rejecting else ""
            if Family.INET in families:
                self.uncounted = reason if one.connections != ruleset.connections else ""
            return one
        raise AssertionError("the last attempt raises")

    def _keep(self, ruleset: Ruleset, installed: Ruleset | None, seen: int) -> tuple[frozenset[Family], int]:
        """Change families by elements where possible; return (families that now hold `ruleset`, the generation).

        None of them, if another program changed the host's rules since `seen`. FailedError."""
        generation = self._generation()
        if installed is None or generation != seen:
            return frozenset(), generation
        kept = frozenset(one for one in Family if _rules(installed, one) == _rules(ruleset, one))
        changes = self._changes(installed, ruleset, kept)
        if changes:
            try:
                nftables.commit(self.sock, changes)
            except OSError as error:
                _log.warning(
                    "firewall: netagent's tables refuse a change (%s): installing them again", error.strerror
                )
                changes = None
            generation = self._generation()
        if changes is None or generation != seen + bool(changes):
            return frozenset(), generation
        self._note_elements(ruleset, kept, installed)
        return kept, generation

    def _generation(self) -> int:
        try:
            return self.generation()
        except OSError as error:
            raise FailedError(f"cannot read the host's ruleset: {error.strerror}", code="firewall") from error

    def _remember(self, text: str) -> None:
        """Write the memory file. After a crash before this, the tables are not recognised and installed once more."""
        if self.memory is None:
            return
        beside = self.memory.with_name(self.memory.name + ".new")
        try:
            beside.write_text(text)
            beside.replace(self.memory)
        except OSError as error:
            _log.warning(
                "firewall: the next start will install the tables again: %s: %s", beside, error.strerror
            )
            with suppress(OSError):
                self.memory.unlink(missing_ok=True)

    def change(self, old: Ruleset, new: Ruleset) -> bool:
        """Change from one ruleset to the other by elements alone. False when impossible; then nothing was changed.

        OSError when the kernel refuses: then the tables are not what we believe.
        """
        if _without_elements(old) != _without_elements(new):
            return False
        changes = self._changes(old, new, frozenset(Family))
        if changes is None:
            return False
        nftables.commit(self.sock, changes)
        self._note_elements(new, frozenset(Family), old)
        return True

    def _changes(self, old: Ruleset, new: Ruleset, families: Collection[Family]) -> list[NftMessage] | None:
        """Return the changes of these families' sets; None: too many for one step."""
        changes: list[NftMessage] = []
        count = 0
        for kind in KINDS:
            if kind.family not in families or new.elements[kind] is old.elements[kind]:
                continue
            gone, come = self._differences(kind, new)
            count += len(gone) + len(come)
            changes += _element_changes(nftables.DELSETELEM, kind, gone)
            changes += _element_changes(nftables.NEWSETELEM, kind, come)
        return changes if count <= STEP_ELEMENTS else None

    def _differences(self, kind: SetKind, new: Ruleset) -> tuple[_Raw, _Raw]:
        """Return the elements that a set loses and gets, in the kernel's encoding. A set may hold thousands, so only
        the difference is encoded, if the words that the set was made from are known."""
        after, noted = new.elements[kind], self._noted.get(kind.name)
        if noted is None:
            before, wanted = self._elements[kind.name], _raw(kind, after)
            return (
                {key: value for key, value in before.items() if wanted.get(key) != value},
                {key: value for key, value in wanted.items() if before.get(key) != value},
            )
        touched = after.touched_since(noted) if isinstance(after, SetElements) else None
        if touched is None:
            touched = noted.keys() | after.keys()
        differing = [key for key in touched if noted.get(key) != after.get(key)]
        lost = {key: noted[key] for key in differing if key in noted}
        got = {key: after[key] for key in differing if key in after}
        return _raw(kind, lost), _raw(kind, got)

    def _note_elements(
        self, ruleset: Ruleset, families: Collection[Family], old: Ruleset | None = None
    ) -> None:
        """Note that the sets of these families hold what they should; before, it was what they should by `old`."""
        for kind in KINDS:
            if kind.family not in families:
                continue
            if old is None:
                self._elements[kind.name] = _raw(kind, ruleset.elements[kind])
            elif ruleset.elements[kind] is not old.elements[kind]:
                gone, come = self._differences(kind, ruleset)
                for key in gone:
                    self._elements[kind.name].pop(key, None)
                self._elements[kind.name].update(come)
            else:
                continue
            self._noted[kind.name] = ruleset.elements[kind]

    async def forget_datagrams(self, old: Ruleset, new: Ruleset) -> None:
        """Delete tracked flows to published ports that lead elsewhere now, so that they are looked at anew."""
        ports = publishing.datagram_ports(old.elements, new.elements)
        if not ports:
            return

        kept = {port: {ip_address(one).packed for one in stays} for port, stays in ports.items()}

        def look() -> None:
            with self.another() as sock:
                conntrack.forget_datagrams(sock, kept)

        try:
            await trio.to_thread.run_sync(look)  # there may be a hundred thousand flows
        except OSError as error:
            _log.warning(
                "firewall: existing flows to published ports keep their old target: %s", error.strerror
            )

    def are_whole(self) -> bool:
        """Return whether the tables are as we made them. OSError EINTR: they were being changed; ask again."""
        try:
            looks = self._look()
            is_translating = self._translation.is_whole()
        except FileNotFoundError:
            return False
        return is_translating and looks.rules == self._rules and looks.elements == self._elements

    def lacking(self, ruleset: Ruleset) -> Iterator[tuple[SetKind, Words | bytes]]:
        """Yield elements that differ from `ruleset`: the words of one that is missing or altered, the key of one that
        is left over, in the kernel's encoding. Does not rely on the belief; OSError as `are_whole`, ENOENT when there
        is no table of ours at all."""
        for kind in KINDS:
            found = self._read(kind)
            for words, value in ruleset.elements[kind].items():
                wanted = encode(kind.value, value) if value else b""
                if found.pop(encode(kind.key, words), None) != wanted:
                    yield kind, words
            yield from ((kind, key) for key in found)

    def clamps(self) -> dict[tuple[str, str], int]:
        """Return the clamps in the tables, an earlier agent's too, as in FirewallInput; none without tables."""
        try:
            found = self._read(CLAMPS4)
        except OSError:
            return {}
        return {
            (
                key[:_IFNAME_BYTES].rstrip(b"\0").decode("ascii", "replace"),
                key[_IFNAME_BYTES:][:6].hex(":"),
            ): (int.from_bytes(value, "big") + HEADERS4_BYTES)
            for key, value in found.items()
        }

    def rules_in(self, family: Family) -> Mapping[str, int]:
        """Return the number of rules by chain of our table, as the kernel counts them. OSError."""
        counts: dict[str, int] = {}
        for what in (nftables.GETCHAIN, nftables.GETRULE):
            for body in nftables.dump(self.sock, what, _NUMBERS[family], text(1, TABLE)):
                parts = dict(split_attributes(body))
                if _table_of(body) == TABLE:
                    name = (
                        parts[3 if what == nftables.GETCHAIN else 2].rstrip(b"\0").decode("ascii", "replace")
                    )
                    counts[name] = counts.get(name, 0) + (what == nftables.GETRULE)
        return counts

    async def remove(self) -> None:
        """Remove everything of ours. FailedError in one sentence."""
        await self._run(render_removal())
        try:
            self._translation.remove()
        except OSError as error:
            raise FailedError(f"cannot remove the NAT table: {error.strerror}", code="firewall") from error

    def counters(self) -> dict[str, int]:
        """Return the packets dropped since the start, by reason; unreadable counters count as zero."""
        return self._count(Family)

    def crowded(self) -> frozenset[tuple[str, str]]:
        """Return (bridge, address) of containers that were refused a connection beyond their quota, of late."""
        found = set()
        for name in ("crowded4", "crowded6"):
            with suppress(OSError):  # no such set: connections are not counted
                for key in self._read_set(Family.INET, name):
                    bridge = key[:_IFNAME_BYTES].rstrip(b"\0").decode("ascii", "replace")
                    found.add((bridge, str(ip_address(key[_IFNAME_BYTES:]))))
        return frozenset(found)

    def _count(self, families: Iterable[Family]) -> dict[str, int]:
        """Do the same for the tables of these families, and for all that have been replaced."""
        counted = dict(self._counted)
        for family in families:
            try:
                objects = nftables.dump(self.sock, nftables.GETOBJ, _NUMBERS[family], text(1, TABLE))
            except OSError:
                continue
            for attributes in map(dict, map(split_attributes, objects)):
                name = attributes[2].rstrip(b"\0").decode("ascii", "replace")
                if name in COUNTERS[family]:
                    packets = dict(split_attributes(attributes[4]))[2]
                    counted[name] = counted.get(name, 0) + int.from_bytes(packets, "big")
        return counted

    def _look(self) -> _Looks:
        rules: list[bytes] = []
        for number in _NUMBERS.values():
            for kind in (nftables.GETTABLE, nftables.GETCHAIN, nftables.GETRULE):
                found = nftables.dump(self.sock, kind, number, text(1, TABLE))
                rules += [one for one in found if _table_of(one) == TABLE]
        elements = {kind.name: self._read(kind) for kind in KINDS}
        return _Looks(tuple(rules), elements)

    def _read(self, kind: SetKind) -> _Raw:
        return self._read_set(kind.family, kind.name)

    def _read_set(self, family: Family, name: str) -> _Raw:
        request = text(1, TABLE) + text(2, name)
        found: _Raw = {}
        for body in nftables.dump(self.sock, nftables.GETSETELEM, _NUMBERS[family], request):
            listed = dict(split_attributes(body)).get(3, b"")
            for _, one in split_attributes(listed):
                parts = dict(split_attributes(one))
                found[_data(parts.get(1, b""))] = _data(parts.get(2, b""))
        return found

    async def _run(self, commands: str) -> None:
        done = None
        with trio.move_on_after(_PATIENCE_S):
            try:
                done = await trio.run_process(
                    [*self.nft, "-f", "-"],
                    stdin=commands.encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
            except FileNotFoundError:
                raise FailedError(
                    "the program nft is not installed", code="firewall", hint="install the package nftables"
                ) from None
        if done is None or done.returncode != 0:
            words = "it did not end" if done is None else _first_line(done)
            raise FailedError(f"nft cannot create netagent's tables: {words}", code="firewall")


def _memory_of(ruleset: Ruleset, rules: Iterable[bytes]) -> str:
    """Return what tables without their elements were made from, and how the kernel reads them back. Rules are read
    back with their handles, so that only these very tables match."""
    parts = (render(_without_elements(ruleset)).encode(), b"".join(rules))
    return " ".join(hashlib.sha256(part).hexdigest() for part in parts) + "\n"


def _rules(ruleset: Ruleset, family: Family) -> str:
    """Return the text of a family's table without its elements."""
    return render(_without_elements(ruleset), {family})


def _without_elements(ruleset: Ruleset) -> Ruleset:
    return replace(ruleset, elements={kind: {} for kind in KINDS})


def _first_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:200] if lines else f"it ended with status {done.returncode}"


def _raw(kind: SetKind, elements: Elements) -> _Raw:
    return {
        encode(kind.key, key): encode(kind.value, value) if value else b"" for key, value in elements.items()
    }


def _element_changes(what: int, kind: SetKind, elements: _Raw) -> Iterator[NftMessage]:
    keys = list(elements)
    for first in range(0, len(keys), MESSAGE_ELEMENTS):
        listed = b"".join(_element(key, elements[key]) for key in keys[first : first + MESSAGE_ELEMENTS])
        body = text(1, TABLE) + text(2, kind.name) + nest(3, listed)
        yield NftMessage(what, 0, body, _NUMBERS[kind.family])


def _element(key: bytes, value: bytes) -> bytes:
    body = nest(1, attribute(1, key))
    return nest(1, body + nest(2, attribute(1, value)) if value else body)


def _data(nested: bytes) -> bytes:
    return dict(split_attributes(nested)).get(1, b"")


def _table_of(attributes: bytes) -> str:
    """Return the table that an object is in; for a table its name, which is the same attribute."""
    for kind, value in split_attributes(attributes):
        if kind == 1:
            return value.rstrip(b"\0").decode("ascii", "replace")
    return ""
