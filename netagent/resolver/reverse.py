"""Names below in-addr.arpa and ip6.arpa, decoded as the leading bits of an address.

A network's subnet need not end on a label's border (a /20 covers sixteen names of three octets). The zones that we
answer for are the names on the first border at or after the subnet's end, so that each lies inside the subnet. A
subnet too small for that (a /28) gets the last border before the host part, and of that zone we answer only what is
in the subnet. Names above, on the way to the zones, exist without data.
"""

from __future__ import annotations

from dataclasses import dataclass

from netagent.resolver.name_table import Subnet

_HEX = frozenset(b"0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ReverseName:
    """The leading bits that a reverse name spells. `junk_labels` in front of them spell no address."""

    address_bits: int
    """32 or 128: the length of an address of this family."""
    label_bits: int
    """8 or 4: the number of bits in a label."""
    prefix: int
    prefix_bits: int
    junk_labels: int

    @property
    def address(self) -> bytes | None:
        """The address, when the name spells a whole one and nothing else."""
        if self.junk_labels or self.prefix_bits != self.address_bits:
            return None
        return self.prefix.to_bytes(self.address_bits // 8)

    def overlaps(self, subnet: Subnet) -> bool:
        """Whether the subnet has addresses that begin with these bits."""
        if len(subnet.base) * 8 != self.address_bits or not self.prefix_bits:
            return False  # another family, or the root of all reverse names, which belongs to no network
        common = min(self.prefix_bits, subnet.prefix_bits)
        base = int.from_bytes(subnet.base)
        return self.prefix >> (self.prefix_bits - common) == base >> (self.address_bits - common)

    def zone_labels(self, subnet: Subnet) -> int:
        """Return the number of labels of the subnet's zone apex, `in-addr.arpa` included."""
        bits = -(-subnet.prefix_bits // self.label_bits) * self.label_bits
        return min(bits, self.address_bits - self.label_bits) // self.label_bits + 2


def parse_reverse(labels: tuple[bytes, ...]) -> ReverseName | None:
    """Read a name's labels (lower case, leftmost first). None when it is not below a reverse tree."""
    match labels[-2:]:
        case (b"in-addr", b"arpa"):
            address_bits, label_bits = 32, 8
        case (b"ip6", b"arpa"):
            address_bits, label_bits = 128, 4
        case _:
            return None
    parts = labels[-3::-1]
    prefix = count = 0
    for part in parts[: address_bits // label_bits]:
        value = _octet(part) if label_bits == 8 else _nibble(part)
        if value is None:
            break
        prefix = prefix << label_bits | value
        count += 1
    return ReverseName(address_bits, label_bits, prefix, count * label_bits, len(parts) - count)


def _octet(label: bytes) -> int | None:
    """Return 0 to 255 in the one canonical spelling: `01` is not an octet."""
    if not label.isdigit() or len(label) > 3 or (len(label) > 1 and label[:1] == b"0"):
        return None
    value = int(label)
    return value if value < 256 else None


def _nibble(label: bytes) -> int | None:
    return int(label, 16) if len(label) == 1 and label[0] in _HEX else None
