"""The requests between hosts for space: one question, one answer, as msgpack arrays.

    question   ["space", network id (16), offset or nil, urgent]
    answer     ["granted", grant record]  or  ["none", available, usable]

Not urgent means "ahead of need". The grant in an answer is already in the granting host's durable log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.errors import InputError
from netagent.model.ids import NetworkId
from netagent.model.records import GrantRecord
from netagent.registry.record_codec import decode_untrusted, encode
from netagent.registry.record_fields import RecordError, RecordFields, pack_id

KIND: Final = "space"
_MAX_BYTES: Final = 1000
"""Bound of one request or response about address space; beyond it: refused."""


class RequestError(InputError):
    """The peer is at fault: the bytes are not a question or answer about space. State is unchanged."""

    code = "bad-request"


@dataclass(frozen=True, slots=True)
class SpaceRequest:
    """A request for space. `offset` None: any part that the peer can spare. Otherwise this one, because a user asked
    for that address."""

    network_id: NetworkId
    offset: int | None
    is_urgent: bool

    def encode(self) -> bytes:
        """Return the question's bytes."""
        data: bytes = msgpack.packb([KIND, pack_id(self.network_id), self.offset, self.is_urgent])
        return data


@dataclass(frozen=True, slots=True)
class NoSpace:
    """The peer has nothing to spare: `available` of its `usable` offsets are free."""

    available: int
    usable: int

    def encode(self) -> bytes:
        """Return the answer's bytes."""
        data: bytes = msgpack.packb(["none", self.available, self.usable])
        return data


def encode_granted(grant: GrantRecord) -> bytes:
    """Return the answer's bytes."""
    data: bytes = msgpack.packb(["granted", encode(grant)])
    return data


def parse_request_untrusted(payload: bytes) -> SpaceRequest:
    """Parse a peer's question. Raises RequestError."""
    items = _unpack(payload)
    fields = RecordFields(items)
    try:
        fields.word("kind", (KIND,))
        network_id = NetworkId(fields.identifier("network_id"))
        offset = None
        if len(items) > 2 and items[2] is None:
            fields.skip()
        else:
            offset = fields.integer("offset", 0, 2**32 - 1)
        return SpaceRequest(network_id, offset, fields.boolean("urgent"))
    except RecordError as error:
        raise RequestError(error.message) from None


def parse_answer_untrusted(payload: bytes) -> GrantRecord | NoSpace:
    """Parse a peer's answer. Raises RequestError."""
    fields = RecordFields(_unpack(payload))
    try:
        if fields.word("answer", ("granted", "none")) == "none":
            return NoSpace(fields.integer("available", 0, 2**32 - 1), fields.integer("usable", 0, 2**32 - 1))
        record = decode_untrusted(fields.blob("grant"))
    except RecordError as error:
        raise RequestError(error.message) from None
    if not isinstance(record, GrantRecord):
        raise RequestError("answer: not a grant")
    return record


def _unpack(payload: bytes) -> list[object]:
    if len(payload) > _MAX_BYTES:
        raise RequestError(f"{len(payload)} bytes, the limit is {_MAX_BYTES}")
    try:
        items = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise RequestError("not msgpack") from None
    if not isinstance(items, list):
        raise RequestError("not an array")
    return items
