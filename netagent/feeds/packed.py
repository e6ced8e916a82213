"""Endpoints of feeds as bytes: a row of the resolver process's table that it does not look into until a feed is asked
for. A tuple of labels as objects takes some thirty times as many objects, for a table that most hosts never read.

msgpack arrays; positions are only ever appended, and unknown ones at the end are ignored.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from netagent.feeds.table import FeedEndpoint, FeedNetwork, FeedState
from netagent.model.records import Port

MAX_PACKED_BYTES: Final = 24 * 1024
"""Bound of one endpoint of a feed; beyond it: its labels are left out. Labels of a container take 8 KiB at most; a
record that another program wrote may have more."""

_STATES: Final = tuple(FeedState)
"""A state's number is its place: FeedState is only ever appended to."""


class PackedError(ValueError):
    """The bytes are no endpoint of a feed."""


def pack_endpoint(endpoint: FeedEndpoint) -> bytes:
    """Return an endpoint as bytes, without its network: the reader knows that from another row."""
    labels = dict(endpoint.labels)
    packed = _pack(endpoint, labels)
    return packed if len(packed) <= MAX_PACKED_BYTES else _pack(endpoint, {})


def _pack(endpoint: FeedEndpoint, labels: dict[str, str]) -> bytes:
    packed: bytes = msgpack.packb(
        [
            endpoint.name,
            endpoint.service,
            endpoint.group,
            endpoint.host,
            endpoint.zone,
            list(endpoint.addresses),
            [[port.name, port.number, port.protocol] for port in endpoint.ports],
            labels,
            _STATES.index(endpoint.state),
            endpoint.weight,
            endpoint.is_kept,
        ]
    )
    return packed


def unpack_endpoint_untrusted(endpoint_id: str, network: FeedNetwork, data: bytes) -> FeedEndpoint:
    """Read an endpoint. Raises PackedError."""
    if len(data) > MAX_PACKED_BYTES:
        raise PackedError(f"{len(data)} bytes; at most {MAX_PACKED_BYTES} are taken")
    # A length inside the bytes can't exceed them, so that nothing is allocated because of a false one.
    limit = len(data)
    try:
        name, service, group, host, zone, addresses, ports, labels, state, weight, is_kept, *_ = (
            msgpack.unpackb(
                data, max_str_len=limit, max_array_len=limit, max_map_len=limit, max_bin_len=0, max_ext_len=0
            )
        )
        return FeedEndpoint(
            endpoint_id=endpoint_id,
            network=network,
            name=_text(name),
            service=_text(service),
            group=None if group is None else _text(group),
            host=_text(host),
            zone=_text(zone),
            addresses=tuple(map(_text, addresses)),
            ports=tuple(
                Port(_text(name), _number(number), _text(protocol)) for name, number, protocol in ports
            ),
            labels={_text(key): _text(value) for key, value in labels.items()},
            state=_STATES[_number(state)],
            weight=_number(weight),
            is_kept=is_kept is True,
        )
    except (
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        msgpack.UnpackException,
    ) as error:
        raise PackedError(f"not an endpoint: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was expected")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a number was expected")
    return value
