"""What a successor writes of evicted hosts is always valid, whatever those hosts wrote."""

from __future__ import annotations

from fakes.registry import H1, H2, H3, N1, Writer, host, network

from netagent.eviction.succession import eviction_records
from netagent.model.records import ForgetRecord, NetworkRecord
from netagent.registry.record_codec import decode_untrusted, encode
from netagent.registry.view import RegistryView


def test_a_network_with_the_highest_forged_revision_is_taken_over() -> None:
    view = RegistryView(H1)
    writers = {owner: Writer(owner) for owner in (H1, H2, H3)}
    for owner, record in ((H1, host("h1")), (H2, network()), (H3, network(revision=2**32 - 1))):
        view = view.with_entries(writers[owner].put(record))
    assert view.networks[N1].owner == H3
    written = eviction_records(view, {H3})
    for one in written:
        assert decode_untrusted(encode(one)) == one
        view = view.with_entries(writers[H1].put(one))
    assert {type(one) for one in written} == {ForgetRecord, NetworkRecord}
    assert view.networks[N1].owner == H1
    assert view.networks[N1].record.subnets == network().subnets
