"""Host keys: a host's id is the hash of its public key, so a record with another key is not believed. Pure."""

from __future__ import annotations

from dataclasses import replace

from netagent.model.records import HostRecord
from netagent.registry.record_codec import RecordError, decode_untrusted
from netgossip.join.identity import node_id_of
from netgossip.types import EntriesChanged, Entry

_HOST_KEY = b"h"


def without_false_hosts(event: EntriesChanged) -> EntriesChanged:
    """Return the event without a host record whose key is not its owner's. Invalid bytes are left to the view."""
    kept = tuple(entry for entry in event.entries if entry.key != _HOST_KEY or not _is_false(entry))
    return event if len(kept) == len(event.entries) else replace(event, entries=kept)


def _is_false(entry: Entry) -> bool:
    if entry.value is None:
        return False
    try:
        record = decode_untrusted(entry.value)
    except RecordError:
        return False
    return isinstance(record, HostRecord) and node_id_of(record.public_key) != entry.owner
