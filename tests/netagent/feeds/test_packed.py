"""Endpoints of feeds as bytes, there and back."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from fakes.feed_tables import APP, an_endpoint
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.feeds.packed import MAX_PACKED_BYTES, PackedError, pack_endpoint, unpack_endpoint_untrusted
from netagent.feeds.table import FeedEndpoint, FeedState
from netagent.model.records import Port

TEXT = st.text(max_size=12)


def there_and_back(endpoint: FeedEndpoint) -> FeedEndpoint:
    return unpack_endpoint_untrusted(endpoint.endpoint_id, endpoint.network, pack_endpoint(endpoint))


@given(
    group=st.none() | TEXT,
    zone=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=4),
    state=st.sampled_from(FeedState),
    ports=st.lists(st.builds(Port, TEXT, st.integers(1, 65535)), max_size=3),
)
def test_an_endpoint_comes_back_as_it_was(
    group: str | None, zone: str, labels: dict[str, str], state: FeedState, ports: list[Port]
) -> None:
    endpoint = an_endpoint(1, group=group, zone=zone, labels=labels, state=state, ports=tuple(ports))
    assert there_and_back(endpoint) == endpoint


def test_labels_without_end_are_left_out() -> None:
    endpoint = an_endpoint(1, labels={"a": "x" * MAX_PACKED_BYTES})
    assert there_and_back(endpoint) == replace(endpoint, labels={})


@given(
    st.binary(max_size=100)
    | st.lists(st.integers(-(2**63), 2**64 - 1) | TEXT | st.lists(TEXT)).map(msgpack.packb)
)
def test_any_bytes_are_an_endpoint_or_an_error(data: bytes) -> None:
    with pytest.raises(PackedError):
        unpack_endpoint_untrusted("e", APP, data)


@pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\xa0", b"\xdd\xff\xff\xff\xff", b"\x91"])
def test_the_work_is_bounded(item: bytes) -> None:
    def read() -> None:
        with pytest.raises(PackedError):
            unpack_endpoint_untrusted(
                "e", APP, (b"\xdc\x60\x00" + item * MAX_PACKED_BYTES)[:MAX_PACKED_BYTES]
            )

    instructions_of(read, most=10_000)
