"""Records of ring keys as positions of an array, see netagent.registry.record_codec."""

from __future__ import annotations

from typing import Final

from netagent.model.ids import HostId, KeyId
from netagent.model.ring_key import (
    EXCHANGE_KEY_BYTES,
    EXCHANGE_TAG_BYTES,
    MAX_ADMITTED,
    MAX_KEY_NUMBER,
    MAX_PARTS,
    MAX_RING_KEYS,
    MAX_SEALED,
    SEALED_KEY_BYTES,
    HeldKey,
    RingKeysRecord,
    SealedKey,
    SealedKeysRecord,
)
from netagent.registry.record_fields import RecordError, RecordFields, pack_id

RING_KEYS_KEY: Final = b"k"


def key_of_keys(record: RingKeysRecord | SealedKeysRecord) -> bytes:
    """Return the key under which the writer replicates the record."""
    if isinstance(record, RingKeysRecord):
        return RING_KEYS_KEY
    return b"u" + pack_id(record.key_id) + bytes([record.part])


def fields_of_keys(record: RingKeysRecord | SealedKeysRecord) -> list[object]:
    """Return the positions of the record."""
    return _ring_fields(record) if isinstance(record, RingKeysRecord) else _sealed_fields(record)


def _ring_fields(record: RingKeysRecord) -> list[object]:
    held: list[object] = [[pack_id(one.key_id), one.number] for one in record.held]
    said: list[object] = [
        [pack_id(one) for one in ids] for ids in (record.standby, record.removed, record.admitted)
    ]
    return [record.exchange_key, pack_id(record.primary), held, *said]


def _sealed_fields(record: SealedKeysRecord) -> list[object]:
    sealed = [[pack_id(one.to), one.exchange_tag, one.ephemeral, one.ciphertext] for one in record.sealed]
    return [pack_id(record.key_id), record.number, record.part, sealed]


def read_ring(fields: RecordFields) -> RingKeysRecord:
    """Read the record."""
    record = RingKeysRecord(
        exchange_key=fields.octets("exchange_key", EXCHANGE_KEY_BYTES),
        primary=KeyId(fields.identifier("primary")),
        held=fields.items("held", MAX_RING_KEYS, _read_held),
        standby=_read_ids(fields, "standby"),
        removed=_read_ids(fields, "removed"),
        admitted=_read_hosts(fields, "admitted"),
    )
    ids = [one.key_id for one in record.held]
    if ids != sorted(set(ids)):
        raise RecordError("held: not in order, or with duplicates")
    if not record.holds(record.primary):
        raise RecordError("primary: not among the keys held")
    return record


def read_sealed(fields: RecordFields) -> SealedKeysRecord:
    """Read the record."""
    record = SealedKeysRecord(
        key_id=KeyId(fields.identifier("key_id")),
        number=fields.integer("number", 0, MAX_KEY_NUMBER),
        part=fields.integer("part", 0, MAX_PARTS - 1),
        sealed=fields.items("sealed", MAX_SEALED, _read_sealed_key),
    )
    hosts = [one.to for one in record.sealed]
    if not hosts or hosts != sorted(set(hosts)):
        raise RecordError("sealed: empty, not in order, or with duplicates")
    return record


def _read_ids(fields: RecordFields, what: str) -> tuple[KeyId, ...]:
    if not fields.has_more():
        return ()
    return fields.sorted_items(what, MAX_RING_KEYS, lambda inner, name: KeyId(inner.identifier(name)))


def _read_hosts(fields: RecordFields, what: str) -> tuple[HostId, ...]:
    if not fields.has_more():
        return ()
    return fields.sorted_items(what, MAX_ADMITTED, lambda inner, name: HostId(inner.identifier(name)))


def _read_held(fields: RecordFields, what: str) -> HeldKey:
    inner = fields.array(what, 2)
    return HeldKey(KeyId(inner.identifier(what)), inner.integer(what, 0, MAX_KEY_NUMBER))


def _read_sealed_key(fields: RecordFields, what: str) -> SealedKey:
    inner = fields.array(what, 4)
    to, tag = HostId(inner.identifier(what)), inner.octets(what, EXCHANGE_TAG_BYTES)
    ephemeral, ciphertext = inner.octets(what, EXCHANGE_KEY_BYTES), inner.blob(what)
    if len(ciphertext) > SEALED_KEY_BYTES:
        raise RecordError(f"{what}: too long")
    return SealedKey(to, tag, ephemeral, ciphertext)
