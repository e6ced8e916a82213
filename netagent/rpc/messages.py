"""The requests between hosts, except those for address space (netagent.ipam.messages): msgpack arrays, the kind
first.

    question   ["withdrawn", "host" | "endpoint", id (16)]    do your names still lead to this thing of mine?
    answer     ["withdrawn", boolean]                         True: no container here is led to it any more

    question   ["silent", [id (16), ...]]                     does the kernel of these hosts answer you?
    answer     ["silent", [word, ...]]                        of each, in order: 0 not known, 1 it does, 2 it does not

    question   ["flows", ...], see netagent.flows.wire

    question   ["drops", protocol, port, source, target]      which firewall rules of other programs on your host drop
                                                              this packet of a container? port 0: it has none
    answer     ["drops", [sentence, ...]]                     at most MAX_SENTENCES

    question   ["events", ...]                                see netagent.events.exchange

    question   ["paths", ...]                                 see netagent.rpc.paths

    question   ["encrypt"]                                    see netagent.rpc.encryption

A release that does not know a kind gives no answer, so the asking host must work without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgpack

from netagent.errors import InputError
from netagent.model.ids import HostId
from netagent.probes.liveness import LivenessReport
from netagent.probes.liveness_votes import MAX_HOSTS
from netagent.registry.record_fields import RecordError, RecordFields, pack_address, pack_id

WITHDRAWN: Final = "withdrawn"
SILENT: Final = "silent"
DROPS: Final = "drops"
EVENTS: Final = "events"
FLOWS: Final = "flows"
PATHS: Final = "paths"
ENCRYPT: Final = "encrypt"
_HOST, _ENDPOINT = "host", "endpoint"
_MAX_BYTES: Final = 700
"""Bound of one request or response between agents, except about address space; beyond it: refused. A question about
MAX_HOSTS hosts takes 586."""


MAX_SENTENCES: Final = 3
"""Bound of sentences in a response about firewall rules; beyond it: further ones are left out."""
_MAX_SENTENCE_BYTES: Final = 200
_PROTOCOLS: Final = ("tcp", "udp", "icmp", "ipv6-icmp")


class QuestionError(InputError):
    """The peer is at fault: the bytes are not one of these questions or answers. State is unchanged."""

    code = "bad-question"


@dataclass(frozen=True, slots=True)
class IsWithdrawn:
    """Ask whether the asking host, or (if given) that endpoint of it, has left the receiver's names."""

    host_id: str
    endpoint_id: str | None = None

    def encode(self) -> bytes:
        """Return the question's bytes."""
        what = [_ENDPOINT, pack_id(self.endpoint_id)] if self.endpoint_id else [_HOST, pack_id(self.host_id)]
        data: bytes = msgpack.packb([WITHDRAWN, *what])
        return data


@dataclass(frozen=True, slots=True)
class Drops:
    """Ask which foreign rules on the receiver drop an opening packet from one container's address to another's."""

    protocol: str
    port: int | None
    source: str
    target: str

    def encode(self) -> bytes:
        """Return the question's bytes."""
        data: bytes = msgpack.packb(
            [DROPS, self.protocol, self.port or 0, pack_address(self.source), pack_address(self.target)]
        )
        return data


def kind_of(payload: bytes) -> str:
    """Return the kind of a question; '' for bytes that are none of these."""
    for kind in (WITHDRAWN, SILENT, DROPS, EVENTS, FLOWS, PATHS, ENCRYPT):
        head: bytes = msgpack.packb(kind)
        if payload[1 : 1 + len(head)] == head:
            return kind
    return ""


def parse_withdrawn_untrusted(payload: bytes, peer: str) -> IsWithdrawn:
    """Parse a peer's question. It may only ask about what it owns. Raises QuestionError."""
    with parsing(payload, WITHDRAWN) as fields:
        what = fields.word("thing", (_HOST, _ENDPOINT))
        identifier = fields.identifier("id")
    if what == _ENDPOINT:
        return IsWithdrawn(peer, identifier)
    if identifier != peer:
        raise QuestionError("id: not the asking host's")
    return IsWithdrawn(peer)


def encode_silent(hosts: tuple[HostId, ...]) -> bytes:
    """Encode the question whether these hosts are silent; at most MAX_HOSTS of them."""
    data: bytes = msgpack.packb([SILENT, [pack_id(host_id) for host_id in hosts]])
    return data


def parse_silent_untrusted(payload: bytes) -> tuple[HostId, ...]:
    """Parse a peer's question about hosts, which may be unknown here. Raises QuestionError."""
    with parsing(payload, SILENT) as fields:
        return tuple(HostId(one) for one in fields.items("hosts", MAX_HOSTS, RecordFields.identifier))


def encode_testimony(words: tuple[LivenessReport, ...]) -> bytes:
    """Encode the answer to it, in the question's order."""
    data: bytes = msgpack.packb([SILENT, [int(word) for word in words]])
    return data


def parse_testimony_untrusted(payload: bytes, hosts: tuple[HostId, ...]) -> dict[HostId, LivenessReport]:
    """Parse a peer's answer to a question about `hosts`. Raises QuestionError."""
    with parsing(payload, SILENT) as fields:
        words = fields.items(
            "words",
            MAX_HOSTS,
            lambda inner, what: LivenessReport(inner.integer(what, 0, max(LivenessReport))),
        )
    if len(words) != len(hosts):
        raise QuestionError(f"words: {len(words)} about {len(hosts)} hosts")
    return dict(zip(hosts, words, strict=True))


def parse_drops_untrusted(payload: bytes) -> Drops:
    """Parse a peer's question. Raises QuestionError."""
    with parsing(payload, DROPS) as fields:
        protocol = fields.word("protocol", _PROTOCOLS)
        port = fields.integer("port", 0, 65_535)
        return Drops(protocol, port or None, fields.address("source"), fields.address("target"))


def encode_sentences(sentences: Iterable[str]) -> bytes:
    """Encode the answer to it: the first MAX_SENTENCES, each cut to its limit."""
    cut = [
        one.encode()[:_MAX_SENTENCE_BYTES].decode("utf-8", "ignore")
        for one in islice(sentences, MAX_SENTENCES)
    ]
    data: bytes = msgpack.packb([DROPS, cut])
    return data


def parse_sentences_untrusted(payload: bytes) -> tuple[str, ...]:
    """Parse a peer's answer. Raises QuestionError."""
    with parsing(payload, DROPS) as fields:
        return fields.items(
            "sentences", MAX_SENTENCES, lambda inner, what: inner.text(what, max_chars=_MAX_SENTENCE_BYTES)
        )


def encode_answer(kind: str, *, answer: bool) -> bytes:
    """Encode the answer to a question of `kind`."""
    data: bytes = msgpack.packb([kind, answer])
    return data


def parse_answer_untrusted(payload: bytes, kind: str) -> bool:
    """Parse a peer's answer to a question of `kind`. Raises QuestionError."""
    with parsing(payload, kind) as fields:
        return fields.boolean("answer")


@contextmanager
def parsing(payload: bytes, kind: str) -> Iterator[RecordFields]:
    """Yield the fields after the kind. Raises QuestionError, also for a field that the block finds wrong."""
    if len(payload) > _MAX_BYTES:
        raise QuestionError(f"{len(payload)} bytes, the limit is {_MAX_BYTES}")
    try:
        items = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise QuestionError("not msgpack") from None
    if not isinstance(items, list):
        raise QuestionError("not an array")
    fields = RecordFields(items)
    try:
        fields.word("kind", (kind,))
        yield fields
    except RecordError as error:
        raise QuestionError(error.message) from None
