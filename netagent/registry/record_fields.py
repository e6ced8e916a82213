"""A cursor over an untrusted msgpack array: each call takes the next position and checks its type and range.

Every error is a RecordError that names the field. Text forms are canonical (RFC 5952 addresses, lower-case MACs),
because the fields were packed: one address never has two spellings later.
"""

from __future__ import annotations

import enum
import ipaddress
import itertools
from collections.abc import Callable
from typing import TypeVar

from netagent.errors import InputError
from netagent.model.allowed import is_particular, subnet_flaw, underlay_flaw
from netagent.model.ids import NODE_LABEL, is_name
from netagent.model.subnet import MIN_OFFSETS, offset_count

T = TypeVar("T")
_Enum = TypeVar("_Enum", bound=enum.Enum)


class RecordError(InputError):
    """The writer is at fault: bytes, or a value, that break the rules of records. State is unchanged."""

    code = "bad-record"


def pack_id(identifier: str) -> bytes:
    """Pack 32 hex digits into 16 bytes."""
    try:
        data = bytes.fromhex(identifier)
    except ValueError:
        data = b""
    if len(data) != 16:
        raise RecordError(f"{identifier!r} is not an identifier of 32 hex digits")
    return data


def pack_address(text: str) -> bytes:
    """Pack an IP address into 4 or 16 bytes."""
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        raise RecordError(f"{text!r} is not an IP address") from None


def pack_cidr(text: str) -> list[object]:
    """Pack a subnet as `[packed base, prefix length]`."""
    try:
        subnet = ipaddress.ip_network(text)
    except ValueError:
        raise RecordError(f"{text!r} is not a subnet (address/length, without host bits)") from None
    return [subnet.network_address.packed, subnet.prefixlen]


def pack_mac(text: str) -> bytes:
    """Pack `aa:bb:cc:dd:ee:ff` into 6 bytes."""
    try:
        data = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        data = b""
    if len(data) != 6:
        raise RecordError(f"{text!r} is not a MAC address")
    return data


class RecordFields:
    """The cursor. Positions after the last one read belong to a later release, and are ignored."""

    __slots__ = ("_items", "_position")

    def __init__(self, items: list[object]) -> None:
        self._items = items
        self._position = 0

    def _next(self, what: str) -> object:
        if self._position >= len(self._items):
            raise RecordError(f"{what}: missing")
        self._position += 1
        return self._items[self._position - 1]

    def has_more(self) -> bool:
        """True if another position follows. An earlier release's record ends before what was appended later."""
        return self._position < len(self._items)

    def integer(self, what: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        value = self._next(what)
        if type(value) is not int or not low <= value <= high:
            raise RecordError(f"{what}: not a whole number between {low} and {high}")
        return value

    def integer_or_none(self, what: str, low: int, high: int) -> int | None:
        """The same, or None."""
        if self._position < len(self._items) and self._items[self._position] is None:
            self._position += 1
            return None
        return self.integer(what, low, high)

    def boolean(self, what: str) -> bool:
        """True or False, and no other value."""
        value = self._next(what)
        if not isinstance(value, bool):
            raise RecordError(f"{what}: not a boolean")
        return value

    def octets(self, what: str, size: int) -> bytes:
        """Exactly `size` bytes."""
        value = self._next(what)
        if not isinstance(value, bytes) or len(value) != size:
            raise RecordError(f"{what}: not {size} bytes")
        return value

    def blob(self, what: str) -> bytes:
        """Any bytes."""
        value = self._next(what)
        if not isinstance(value, bytes):
            raise RecordError(f"{what}: not bytes")
        return value

    def skip(self) -> None:
        """Skip a position that was read elsewhere."""
        self._position += 1

    def identifier(self, what: str) -> str:
        """32 lower-case hex digits."""
        return self.octets(what, 16).hex()

    def text(self, what: str, *, max_chars: int, multiline: bool = False) -> str:
        """Printable text; control characters would reach an operator's terminal."""
        value = self._next(what)
        if not isinstance(value, str) or len(value) > max_chars:
            raise RecordError(f"{what}: not text of at most {max_chars} characters")
        shown = value.replace("\n", " ").replace("\t", " ") if multiline else value
        if not shown.isprintable():
            raise RecordError(f"{what}: has characters that can't be shown")
        return value

    def name(self, what: str) -> str:
        """A name as users give it, see netagent.model.ids.NAME."""
        value = self._next(what)
        if not isinstance(value, str) or not is_name(value):
            raise RecordError(f"{what}: not a name")
        return value

    def name_or_none(self, what: str) -> str | None:
        """A name, or None for an empty text."""
        if self._items[self._position : self._position + 1] == [""]:
            self._position += 1
            return None
        return self.name(what)

    def dotted_name(self, what: str) -> str:
        """One name, or two with a dot between them."""
        value = self._next(what)
        labels = value.split(".") if isinstance(value, str) else []
        if not isinstance(value, str) or not 1 <= len(labels) <= 2 or not all(map(is_name, labels)):
            raise RecordError(f"{what}: not one name or two")
        return value

    def network_name(self, what: str) -> str:
        """A name other than the label under which hosts have theirs."""
        value = self.name(what)
        if value == NODE_LABEL:
            raise RecordError(f"{what}: {NODE_LABEL!r} is reserved")
        return value

    def word(self, what: str, words: tuple[str, ...]) -> str:
        """One of `words`."""
        value = self._next(what)
        if not isinstance(value, str) or value not in words:
            raise RecordError(f"{what}: not one of {', '.join(words)}")
        return value

    def choice(self, what: str, kind: type[_Enum]) -> _Enum:
        """A member of an enum, by value."""
        value = self._next(what)
        for member in kind:
            if member.value == value:
                return member
        raise RecordError(f"{what}: unknown value")

    def choice_or(self, what: str, default: _Enum) -> _Enum:
        """A member of the default's enum, by value; the default for a value that a later release added."""
        value = self._next(what)
        return next((one for one in type(default) if one.value == value), default)

    def address(self, what: str, *, version: int | None = None) -> str:
        """An IP address from its packed bytes."""
        value = self._next(what)
        if not isinstance(value, bytes) or len(value) not in (4, 16):
            raise RecordError(f"{what}: not a packed IP address")
        address = ipaddress.ip_address(value)
        if version is not None and address.version != version:
            raise RecordError(f"{what}: not an IPv{version} address")
        return str(address)

    def mac(self, what: str) -> str:
        """A unicast MAC other than zero: the zero MAC means "flood" to VXLAN."""
        value = self.octets(what, 6)
        if value[0] & 1 or not any(value):
            raise RecordError(f"{what}: not a unicast MAC address")
        return value.hex(":")

    def cidr(self, what: str) -> str:
        """A range of addresses from `[packed base, prefix length]`."""
        inner = self.array(what, 2)
        base = ipaddress.ip_address(inner.address(what))
        length = inner.integer(what, 0, base.max_prefixlen)
        try:
            return str(ipaddress.ip_network((base, length)))
        except ValueError:
            raise RecordError(f"{what}: host bits are set") from None

    def subnets(self, what: str) -> tuple[str, ...]:
        """A network's subnets: at most one IPv4 and one IPv6, IPv4 first, with room for all offsets in each, and
        within the rules for requests."""
        texts = self.items(what, 2, RecordFields.cidr)
        subnets = [ipaddress.ip_network(text) for text in texts]
        if [subnet.version for subnet in subnets] not in ([4], [6], [4, 6]):
            raise RecordError(f"{what}: at most one IPv4 and one IPv6 subnet, IPv4 first")
        for subnet in subnets:
            if (flaw := subnet_flaw(subnet)) is not None:
                raise RecordError(f"{what}: {subnet} {flaw[0]}")
        count = offset_count(texts)
        if count < MIN_OFFSETS or any(subnet.num_addresses < count for subnet in subnets):
            raise RecordError(f"{what}: too small")
        return texts

    def route(self, what: str) -> str:
        """The destination of a host's own route: a particular subnet."""
        text = self.cidr(what)
        if not is_particular(ipaddress.ip_network(text)):
            raise RecordError(f"{what}: {text} is not a particular subnet")
        return text

    def underlay(self, what: str, *, version: int | None = None) -> str:
        """An address at which other hosts reach a host."""
        text = self.address(what, version=version)
        if flaw := underlay_flaw(text):
            raise RecordError(f"{what}: {text} {flaw}")
        return text

    def array(self, what: str, at_least: int) -> RecordFields:
        """A nested array with `at_least` positions or more."""
        value = self._next(what)
        if not isinstance(value, list) or len(value) < at_least:
            raise RecordError(f"{what}: not an array of {at_least}")
        return RecordFields(value)

    def items(self, what: str, at_most: int, read: Callable[[RecordFields, str], T]) -> tuple[T, ...]:
        """An array of equal items."""
        value = self._next(what)
        if not isinstance(value, list) or len(value) > at_most:
            raise RecordError(f"{what}: not an array of at most {at_most}")
        inner = RecordFields(value)
        return tuple(read(inner, what) for _ in value)

    def sorted_items(self, what: str, at_most: int, read: Callable[[RecordFields, str], T]) -> tuple[T, ...]:
        """`items` in rising order without duplicates, so that equal facts are equal values."""
        found = self.items(what, at_most, read)
        if any(not earlier < later for earlier, later in itertools.pairwise(found)):  # type: ignore[operator]
            raise RecordError(f"{what}: not sorted, or with duplicates")
        return found
