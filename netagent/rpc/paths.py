"""Paths of another host: what does it know of its paths to some hosts? Pure.

    question   ["paths", [id (16), ...]]                        at most MAX_HOSTS of them
    answer     ["paths", [[state, rtt, loss, size, encrypts], ...]]
                                                                of each, in the question's order

State is an index into STATES, round trip in microseconds, loss in thousandths, size in bytes; nil: not known. The
last is a boolean; a host of a release before leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from netagent.model.ids import HostId
from netagent.registry.record_fields import RecordFields, pack_id
from netagent.rpc.messages import PATHS, parsing

MAX_HOSTS: Final = 32
"""Bound of hosts in one question; beyond it: refused. A question takes 560 bytes then, an answer 552."""
STATES: Final = ("unknown", "ok", "lossy", "degraded", "one-way", "down", "local")
"""As `members` says them. Further ones are appended: the wire has the index."""
_MAX_RTT_US: Final = 60_000_000
_MAX_SIZE_BYTES: Final = 65_535


@dataclass(frozen=True, slots=True)
class KnownPath:
    """What a host knows of its path to another."""

    state: str = "unknown"
    rtt_us: int | None = None
    loss_permille: int | None = None
    size_bytes: int | None = None
    is_encrypted: bool = False
    """What containers send by it leaves encrypted, or not at all."""


def encode_question(hosts: Sequence[HostId]) -> bytes:
    """Encode the question about these hosts."""
    data: bytes = msgpack.packb([PATHS, [pack_id(one) for one in hosts]])
    return data


def parse_question_untrusted(payload: bytes) -> tuple[HostId, ...]:
    """Parse a peer's question about hosts, which may be unknown here. Raises QuestionError."""
    with parsing(payload, PATHS) as fields:
        return tuple(HostId(one) for one in fields.items("hosts", MAX_HOSTS, RecordFields.identifier))


def encode_answer(paths: Sequence[KnownPath]) -> bytes:
    """Encode the answer, in the question's order."""
    rows = [
        [
            STATES.index(one.state),
            _at_most(one.rtt_us, _MAX_RTT_US),
            one.loss_permille,
            one.size_bytes,
            one.is_encrypted,
        ]
        for one in paths
    ]
    data: bytes = msgpack.packb([PATHS, rows])
    return data


def parse_answer_untrusted(payload: bytes, hosts: Sequence[HostId]) -> dict[HostId, KnownPath]:
    """Parse a peer's answer to a question about `hosts`; where it is shorter, the rest is not known. Raises
    QuestionError."""
    with parsing(payload, PATHS) as fields:
        rows = fields.items("paths", MAX_HOSTS, _path)
    return dict(zip(hosts, rows, strict=False))


def _path(fields: RecordFields, what: str) -> KnownPath:
    row = fields.array(what, 4)
    index = row.integer("state", 0, 255)
    return KnownPath(
        STATES[index] if index < len(STATES) else "unknown",  # a later release may know more
        row.integer_or_none("round trip", 0, _MAX_RTT_US),
        row.integer_or_none("loss", 0, 1000),
        row.integer_or_none("size", 0, _MAX_SIZE_BYTES),
        row.boolean("encrypted") if row.has_more() else False,
    )


def _at_most(value: int | None, most: int) -> int | None:
    return None if value is None else min(value, most)
