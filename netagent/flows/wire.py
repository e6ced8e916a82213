"""What hosts tell each other of their flows: msgpack arrays, in pages that fit into one message. Pure.

    question   ["flows", after, network (16) or "", refused only, from, to]
               the flows behind the one with the id `after`; all when it is ""
    answer     ["flows", trouble, last, [source, ...], [row, ...], [left out, ...], cure of the trouble]
               source    [endpoint id, network id (16) or "", name, service, group,
                          0 container, 1 the host itself, 2 outside, whether the container is gone]
               row       [number of its source, address, protocol, port or -1, openings, refused,
                          when the first opening was and the last one, in seconds since 1970,
                          name and service of the container that had the address and is gone, or "" twice]
               left out  [name, openings], only in the first page

Rows are sorted by their ids; `last` is true for the last page. `from` and `to` are as in `netagent flows`, so that a
host sends only what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.datapath.flows.counters import CountingTrouble
from netagent.errors import InputError
from netagent.flows.departed import DepartedTarget
from netagent.flows.flow import PROTOCOLS, Flow
from netagent.flows.sources import FlowSource, SourceKind
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.registry.record_fields import RecordError, RecordFields, pack_address

KIND: Final = "flows"
PAGE_BYTES: Final = 980
"""Bound of one answer; beyond it: further rows come with the next page."""
_QUESTION_BYTES: Final = 700
MAX_NAME: Final = 100
"""Bound of characters of a name in a question or an answer; beyond it: refused, or cut."""
_MAX_CURE: Final = 160
"""Bound of characters of what helps against a trouble; beyond it: cut."""
_MAX_ROWS: Final = 128
_MAX_LEFT_OUT: Final = 5
"""Bound of containers in an answer that say what was left out; beyond it: further ones are not named."""
_SOURCE_KINDS: Final[Sequence[SourceKind]] = ("endpoint", "host", "outside")
_MAX_COUNT: Final = (1 << 63) - 1
_MAX_TIME_S: Final = 1 << 40
_BY_WORD: Final = {word: number for number, word in PROTOCOLS.items()}


class FlowWireError(InputError):
    """The peer is at fault: the bytes are not a question or an answer about flows. State is unchanged."""

    code = "bad-question"


@dataclass(frozen=True, slots=True)
class FlowQuestion:
    """Which flows, by the words that users type; "" means any."""

    network_id: str = ""
    is_refused: bool = False
    source: str = ""
    target: str = ""
    after: str = ""
    """The id of the last flow that was received."""

    def encode(self) -> bytes:
        """Return the question's bytes."""
        network = bytes.fromhex(self.network_id)
        packed = [KIND, self.after, network, self.is_refused, self.source[:MAX_NAME], self.target[:MAX_NAME]]
        data: bytes = msgpack.packb(packed)
        return data


@dataclass(frozen=True, slots=True)
class FlowPage:
    """A part of an answer."""

    trouble: CountingTrouble | None
    is_last: bool
    flows: tuple[Flow, ...]
    left_out: Mapping[str, int]


def parse_question_untrusted(payload: bytes) -> FlowQuestion:
    """Parse a peer's question. Raises FlowWireError."""
    fields = _fields(payload, _QUESTION_BYTES)
    try:
        fields.word("kind", (KIND,))
        after = fields.text("after", max_chars=MAX_NAME)
        network_id = fields.blob("network").hex()
        is_refused = fields.boolean("refused")
        source, target = (fields.text(what, max_chars=MAX_NAME) for what in ("from", "to"))
    except RecordError as error:
        raise FlowWireError(error.message) from None
    if len(network_id) not in {0, 32}:
        raise FlowWireError(f"network: {len(network_id) // 2} octets")
    return FlowQuestion(network_id, is_refused, source, target, after)


def encode_page(flows: Sequence[Flow], trouble: CountingTrouble | None, left_out: Mapping[str, int]) -> bytes:
    """Return an answer with as many of the flows as have room, which are sorted by id."""
    notes = [[name[:MAX_NAME], openings] for name, openings in sorted(left_out.items())[:_MAX_LEFT_OUT]]
    cause, cure = ("", "") if trouble is None else (trouble.cause[:MAX_NAME], trouble.cure[:_MAX_CURE])
    sources: dict[FlowSource, int] = {}
    packed_sources: list[object] = []
    rows: list[object] = []
    empty: bytes = msgpack.packb([KIND, cause, False, [], [], notes, cure])
    size = len(empty) + 6  # the heads of two arrays of more than 15
    is_last = True
    for flow in flows:
        new = [] if flow.source in sources else [_packed_source(flow.source)]
        row = _packed_row(flow, sources.get(flow.source, len(sources)))
        size += sum(len(msgpack.packb(one)) for one in (*new, row))
        if size > PAGE_BYTES or len(rows) == _MAX_ROWS:
            is_last = False
            break
        sources.setdefault(flow.source, len(sources))
        packed_sources += new
        rows.append(row)
    data: bytes = msgpack.packb([KIND, cause, is_last, packed_sources, rows, notes, cure])
    return data


def parse_page_untrusted(payload: bytes, peer: HostId) -> FlowPage:
    """Parse a peer's answer. Raises FlowWireError."""
    fields = _fields(payload, PAGE_BYTES + 200)
    try:
        fields.word("kind", (KIND,))
        cause = fields.text("trouble", max_chars=MAX_NAME)
        is_last = fields.boolean("last")
        sources = fields.items(
            "sources", _MAX_ROWS, lambda inner, what: _read_source(inner.array(what, 1), peer)
        )
        flows = fields.items("rows", _MAX_ROWS, lambda inner, what: _read_row(inner.array(what, 1), sources))
        left_out = fields.items(
            "left out", _MAX_LEFT_OUT, lambda inner, what: _read_note(inner.array(what, 1))
        )
        # Earlier releases send no cure.
        cure = fields.text("cure", max_chars=_MAX_CURE) if fields.has_more() else ""
    except RecordError as error:
        raise FlowWireError(error.message) from None
    return FlowPage(CountingTrouble(cause, cure) if cause else None, is_last, flows, dict(left_out))


def _packed_source(source: FlowSource) -> list[object]:
    network = b"" if source.network_id is None else bytes.fromhex(source.network_id)
    words = (source.name[:MAX_NAME], source.service[:MAX_NAME], source.group[:MAX_NAME])
    return [
        bytes.fromhex(source.endpoint_id),
        network,
        *words,
        _SOURCE_KINDS.index(source.kind),
        source.is_gone,
    ]


def _packed_row(flow: Flow, source: int) -> list[object]:
    departed = flow.departed or DepartedTarget("", "")
    return [
        source,
        pack_address(flow.address),
        _BY_WORD[flow.protocol],
        -1 if flow.port is None else flow.port,
        min(flow.openings, _MAX_COUNT),
        min(flow.refused, _MAX_COUNT),
        min(max(flow.first_s, 0), _MAX_TIME_S),
        min(max(flow.last_s, 0), _MAX_TIME_S),
        departed.name[:MAX_NAME],
        departed.service[:MAX_NAME],
    ]


def _read_source(fields: RecordFields, peer: HostId) -> FlowSource:
    endpoint_id, network_id = fields.blob("endpoint").hex(), fields.blob("network").hex()
    if len(endpoint_id) not in {0, 32} or len(network_id) not in {0, 32}:
        raise RecordError("source: not an id")
    name, service, group = (fields.text(what, max_chars=MAX_NAME) for what in ("name", "service", "group"))
    # Earlier releases count containers alone; a kind of a later one is shown by its name.
    number = fields.integer("kind", 0, 255) if fields.has_more() else 0
    kind = _SOURCE_KINDS[number] if number < len(_SOURCE_KINDS) else "endpoint"
    is_gone = fields.boolean("gone") if fields.has_more() else False
    network = NetworkId(network_id) if network_id else None
    return FlowSource(EndpointId(endpoint_id), network, name, service, group, peer, kind, is_gone)


def _read_row(fields: RecordFields, sources: Sequence[FlowSource]) -> Flow:
    source = fields.integer("source", 0, len(sources) - 1)
    address = fields.address("address")
    protocol = PROTOCOLS.get(fields.integer("protocol", 0, 255))
    port = fields.integer("port", -1, 65_535)
    openings, refused = (fields.integer(what, 0, _MAX_COUNT) for what in ("openings", "refused"))
    first, last = (fields.integer(what, 0, _MAX_TIME_S) for what in ("first", "last"))
    if protocol is None:
        raise RecordError("protocol: not one that is counted")
    departed = None
    if fields.has_more():  # earlier releases know no names of containers that are gone
        gone, service = (fields.text(what, max_chars=MAX_NAME) for what in ("name", "service"))
        departed = DepartedTarget(gone, service) if gone else None
    return Flow(
        sources[source],
        protocol,
        address,
        None if port < 0 else port,
        openings,
        refused,
        first,
        last,
        departed,
    )


def _read_note(fields: RecordFields) -> tuple[str, int]:
    return fields.text("name", max_chars=MAX_NAME), fields.integer("openings", 0, _MAX_COUNT)


def _fields(payload: bytes, most: int) -> RecordFields:
    if len(payload) > most:
        raise FlowWireError(f"{len(payload)} bytes, the limit is {most}")
    try:
        items = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise FlowWireError("not msgpack") from None
    if not isinstance(items, list):
        raise FlowWireError("not an array")
    return RecordFields(items)
