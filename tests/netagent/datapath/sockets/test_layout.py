"""The octets of the tables that programs and agent share."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.datapath.sockets.layout import (
    END_BYTES,
    MARKS,
    ORIGINS_BYTES,
    PLACES,
    SERVICES4,
    SERVICES6,
    SHAPES,
    Member,
    Origin,
    ServiceEntry,
    SocketEnd,
    is_shape_of,
    mark_of,
    pack_end,
    pack_member,
    pack_ports,
    pack_service,
    unpack_end,
    unpack_member,
    unpack_origins,
    unpack_places,
)
from netagent.model.records import ServicePort

addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
ends = st.builds(SocketEnd, st.binary(min_size=4, max_size=4), st.integers(0, 65535))
families = st.sampled_from([4, 16])


@given(st.data(), families)
def test_places_are_read_back_as_they_were_written(data: st.DataObject, size: int) -> None:
    places = data.draw(st.lists(st.binary(min_size=size, max_size=size), max_size=PLACES))
    value = pack_service(ServiceEntry(bytes(size), 7, tuple(places)))
    assert len(value) == (SERVICES4 if size == 4 else SERVICES6).value_bytes
    assert unpack_places(value) == tuple(places)


def test_more_places_than_the_table_has_are_refused() -> None:
    with pytest.raises(ValueError, match="65 places"):
        pack_service(ServiceEntry(bytes(4), 7, (bytes(4),) * 65))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1))
def test_members_are_read_back(cookie: int, network: int) -> None:
    member = Member(cookie, network)
    assert unpack_member(pack_member(member)) == member


@given(addresses, addresses)
def test_a_backend_has_one_of_the_marks_and_its_neighbour_another(backend: bytes, other: bytes) -> None:
    assert mark_of(backend) in range(MARKS)
    neighbour = backend[:-1] + bytes([backend[-1] ^ 1])
    assert mark_of(neighbour) != mark_of(backend)
    assert len({mark_of(other[:-1] + bytes([number])) for number in range(64)}) > 40


@given(ends)
def test_an_ipv4_end_is_a_mapped_one(end: SocketEnd) -> None:
    raw = pack_end(end)
    assert len(raw) == END_BYTES
    assert ip_address(raw[:16]).ipv4_mapped == ip_address(end.address)  # type: ignore[union-attr]
    assert raw[16:18] == end.port.to_bytes(2, "big")
    assert unpack_end(raw) == end


def test_ports_are_keyed_by_the_end_that_a_program_names() -> None:
    entry = ServiceEntry(ip_address("fd00::5").packed, 7, (), (ServicePort(80, 8080), ServicePort(443, 8443)))
    assert pack_ports(entry) == {
        entry.address + b"\x00\x50\0\0": b"\x1f\x90\0\0",
        entry.address + b"\x01\xbb\0\0": b"\x20\xfb\0\0",
    }


def test_origins_of_a_socket() -> None:
    backend, service = SocketEnd(bytes([10, 0, 0, 2]), 8080), SocketEnd(bytes([10, 1, 0, 5]), 80)
    value = bytes(4) + pack_end(backend) + pack_end(service)
    assert unpack_origins(value.ljust(ORIGINS_BYTES, b"\0")) == (Origin(backend, service),)
    assert unpack_origins(value) == (Origin(backend, service),)
    assert unpack_origins(b"") == ()


def test_maps_of_another_layout_are_not_ours() -> None:
    assert is_shape_of(SHAPES)
    assert not is_shape_of(SHAPES[:-1])
    assert not is_shape_of((*SHAPES, SHAPES[0]))
