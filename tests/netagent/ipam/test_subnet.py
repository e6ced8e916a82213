"""Addresses as offsets."""

from __future__ import annotations

import pytest

from netagent.model.subnet import MAX_OFFSETS, addresses_of, is_reserved, offset_count, offset_of

BOTH = ("10.1.0.0/24", "fd00::/64")


@pytest.mark.parametrize(
    ("subnets", "count"),
    [(BOTH, 256), (("fd00::/64",), 65536), (("10.0.0.0/8",), MAX_OFFSETS), (("10.0.0.0/30",), 4)],
)
def test_counts(subnets: tuple[str, ...], count: int) -> None:
    assert offset_count(subnets) == count


def test_an_offset_and_its_addresses_name_each_other() -> None:
    assert addresses_of(BOTH, 17) == ("10.1.0.17", "fd00::11")
    assert offset_of(BOTH, ("10.1.0.17", "fd00::11")) == 17


@pytest.mark.parametrize(
    "addresses",
    [
        ("10.1.0.17",),
        ("10.1.0.17", "fd00::12"),
        ("10.2.0.17", "fd00::11"),
        ("fd00::11", "10.1.0.17"),
        ("10.1.0.1", "fd00::1"),
        ("10.1.0.255", "fd00::ff"),
        (),
    ],
)
def test_what_is_no_endpoints_address(addresses: tuple[str, ...]) -> None:
    assert offset_of(BOTH, addresses) is None


def test_reserved_offsets() -> None:
    assert [offset for offset in range(-1, 8) if is_reserved(offset, 8)] == [-1, 0, 1, 7]
