"""What counts of what hosts say of encryption, and where their ends of the tunnel are."""

from __future__ import annotations

import pytest
from fakes.registry import H1, H2, H3, Writer, host

from netagent.model.address import tunnel as addresses
from netagent.model.ids import HostId
from netagent.model.records import (
    MAX_ENCRYPTION_REVISION,
    EncryptionRecord,
    EncryptionStage,
    Record,
    TunnelRecord,
)
from netagent.registry import derive, encryption
from netagent.registry.encryption import (
    is_encrypted,
    is_encryption_on,
    own_salt,
    sends_from_tunnel,
    tunnel_address_of,
    tunnel_peers,
)
from netagent.registry.view import RegistryView

WRITERS = {one: Writer(one) for one in (H1, H2, H3)}


def with_records(view: RegistryView, owner: HostId, *records: Record) -> RegistryView:
    for record in records:
        view = view.with_entries(WRITERS[owner].put(record))
    view.check_invariants()
    return view


def test_the_later_decision_counts_and_of_two_at_once_the_one_that_encrypts() -> None:
    view = with_records(RegistryView(H1), H3, EncryptionRecord(True, 1, 9, "root", H3))
    assert is_encryption_on(view)
    view = with_records(view, H2, EncryptionRecord(False, 1, 99, "root", H2))
    assert is_encryption_on(view)
    view = with_records(view, H2, EncryptionRecord(False, 2, 9, "root", H2))
    assert not is_encryption_on(view)


def test_a_host_cannot_pretend_that_another_one_turned_encryption_off() -> None:
    view = with_records(RegistryView(H1), H3, host("h3"), EncryptionRecord(True, 1, 9, "root", H3))
    view = with_records(view, H2, host("h2"), EncryptionRecord(False, MAX_ENCRYPTION_REVISION, 9, "root", H3))
    assert is_encryption_on(view)
    view = with_records(view, H2, EncryptionRecord(False, MAX_ENCRYPTION_REVISION, 9, "root"))
    assert is_encryption_on(view), "a decision must name its host"


def test_what_this_host_sends_follows_from_its_own_stage_and_not_from_the_decision() -> None:
    view = with_records(RegistryView(H1), H3, EncryptionRecord(True, 1, 9, "root", H3))
    assert not is_encrypted(view)
    for stage in EncryptionStage:
        view = with_records(view, H1, EncryptionRecord(True, 1, 9, "root", H3, stage))
        assert is_encrypted(view) == (stage >= EncryptionStage.SENDING)


def test_an_address_in_the_tunnel_follows_from_the_id_and_is_of_the_underlays_family() -> None:
    view = with_records(RegistryView(H1), H2, host("h2", underlay="192.0.2.2"), TunnelRecord(bytes(32), 7955))
    four, six = tunnel_address_of(view, H2, 4), tunnel_address_of(view, H2, 6)
    assert four is not None
    assert six is not None
    assert four.startswith(("24", "25"))
    assert six.startswith("fd")
    assert addresses.is_tunnel_address(four)
    assert addresses.is_tunnel_address(six)
    assert not addresses.is_tunnel_address("192.0.2.2")
    assert tunnel_address_of(view, H3, 4) is None, "a host without a record has none"
    assert [peer[:2] for peer in tunnel_peers(view)] == [(H2, "192.0.2.2")]


def test_of_two_hosts_with_one_number_the_smaller_id_has_it_and_the_other_takes_its_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def same(_host: HostId, salt: int) -> int:
        return 7 + salt

    for module in (derive, encryption):
        monkeypatch.setattr(module, "tunnel_number", same)
    first, last = sorted((H2, H3))
    view = with_records(RegistryView(last), first, TunnelRecord(bytes(32), 7955))
    view = with_records(view, last, TunnelRecord(bytes(32), 7955))
    assert tunnel_address_of(view, first, 4) == "240.0.0.7"
    assert tunnel_address_of(view, last, 4) is None
    assert own_salt(view) == 1


def test_a_host_that_begins_to_encrypt_sends_from_its_underlay_address_until_all_remotes_are_inside() -> None:
    def sends(is_on: bool, stage: EncryptionStage, *, is_reached: bool) -> bool:
        record = EncryptionRecord(is_on, 1, 0, "root", H1, stage, is_reached)
        return sends_from_tunnel(with_records(RegistryView(H1), H1, record))

    assert not sends(True, EncryptionStage.READY, is_reached=True)
    assert not sends(True, EncryptionStage.SENDING, is_reached=False)
    assert sends(True, EncryptionStage.SENDING, is_reached=True)
    assert sends(True, EncryptionStage.FENCED, is_reached=False)
    assert sends(False, EncryptionStage.SENDING, is_reached=False), "out after the devices' own address"
    assert not sends(False, EncryptionStage.READY, is_reached=False)
