"""However many external services hosts add to one name, it leads to the first of them only."""

from __future__ import annotations

from fakes.external import service_id
from fakes.registry import N1
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import ServiceId
from netagent.resolver.index import MAX_EXTERNAL, NetworkIndex
from netagent.resolver.name_table import ExternalAddressRow, ExternalRow


def address_of(number: int, name: str = "pg") -> ExternalAddressRow:
    place = (bytes((203, 0, number >> 8 & 255, number & 255)), 5432)
    row = ExternalRow(ServiceId(service_id(number)), N1, name, "h1", (place,), (), 1, None, is_inside=False)
    return next(row.addresses())


@given(st.permutations(range(MAX_EXTERNAL - 3, MAX_EXTERNAL + 4)), st.sets(st.integers(0, MAX_EXTERNAL + 3)))
def test_a_name_leads_to_the_first_addresses_by_id(late: list[int], gone: set[int]) -> None:
    index, rows = NetworkIndex(N1), {number: address_of(number) for number in range(MAX_EXTERNAL + 4)}
    for number in (*range(MAX_EXTERNAL - 3), *late):
        index.add(rows[number])
    assert index.external(b"pg") == tuple(rows[number] for number in range(MAX_EXTERNAL))
    for number in gone:
        index.discard(rows[number])
    left = [rows[number] for number in sorted(rows.keys() - gone)]
    assert index.external(b"pg") == tuple(left[:MAX_EXTERNAL])
    for row in left:
        index.discard(row)
    assert index.external(b"pg") == ()
    assert index.is_empty()


def test_another_name_is_not_affected() -> None:
    index = NetworkIndex(N1)
    for number in range(2 * MAX_EXTERNAL):
        index.add(address_of(number))
    other = address_of(9000, "db")
    index.add(other)
    assert index.external(b"db") == (other,)
    assert index.labels() >= {"pg", "db"}
