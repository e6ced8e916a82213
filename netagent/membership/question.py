"""What hosts ask each other apart from space (netagent.ipam.request): msgpack arrays, the kind first.

    question   ["withdrawn", "host" | "endpoint", id (16)]    do your names still lead to this thing of mine?
    answer     ["withdrawn", boolean]                         True: no container here is led to it any more

A release that does not know a question gives no answer, so whoever asks must be able to go on without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.errors import InputError
from netagent.registry.fields import Fields, RecordError, pack_id

WITHDRAWN: Final = "withdrawn"
_HOST, _ENDPOINT = "host", "endpoint"
_MAX_BYTES: Final = 200


class QuestionError(InputError):
    """The peer erred: bytes that are no question or answer of these. State is unchanged."""

    code = "bad-question"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Has the asker's host (`endpoint_id` empty), or that endpoint of it, left your names?"""

    host_id: str
    endpoint_id: str = ""

    def encode(self) -> bytes:
        """The question's bytes."""
        what = [_ENDPOINT, pack_id(self.endpoint_id)] if self.endpoint_id else [_HOST, pack_id(self.host_id)]
        data: bytes = msgpack.packb([WITHDRAWN, *what])
        return data


def kind_of(payload: bytes) -> str:
    """The kind of a question, for whoever hands it on; '' for what is none."""
    for kind in (WITHDRAWN,):
        head: bytes = msgpack.packb(kind)
        if payload[1 : 1 + len(head)] == head:
            return kind
    return ""


def parse_withdrawn_untrusted(payload: bytes, peer: str) -> Withdrawn:
    """A peer's question. It may only ask about what is its own. Raises QuestionError."""
    fields = _fields(payload)
    try:
        fields.word("kind", (WITHDRAWN,))
        what = fields.word("thing", (_HOST, _ENDPOINT))
        identifier = fields.identifier("id")
    except RecordError as error:
        raise QuestionError(error.message) from None
    if what == _ENDPOINT:
        return Withdrawn(peer, identifier)
    if identifier != peer:
        raise QuestionError("id: another host than the asker")
    return Withdrawn(peer)


def encode_answer(kind: str, *, answer: bool) -> bytes:
    """The bytes of an answer to a question of `kind`."""
    data: bytes = msgpack.packb([kind, answer])
    return data


def parse_answer_untrusted(payload: bytes, kind: str) -> bool:
    """A peer's answer to a question of `kind`. Raises QuestionError."""
    fields = _fields(payload)
    try:
        fields.word("kind", (kind,))
        return fields.boolean("answer")
    except RecordError as error:
        raise QuestionError(error.message) from None


def _fields(payload: bytes) -> Fields:
    if len(payload) > _MAX_BYTES:
        raise QuestionError(f"{len(payload)} bytes, the limit is {_MAX_BYTES}")
    try:
        items = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise QuestionError("not msgpack") from None
    if not isinstance(items, list):
        raise QuestionError("not an array")
    return Fields(items)
