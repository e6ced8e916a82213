"""What the prober is told follows hosts and networks, and costs nothing while endpoints come and go."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import trio
import trio.testing
from fakes.registry import H1, H2, N1, Writer, endpoint, host, network

from netagent.membership.probing import Probing
from netagent.model.ids import ClusterId
from netagent.model.records import AttachmentRecord
from netagent.registry.live import Live
from netagent.registry.row import LocalEndpointRow
from netagent.registry.view import RegistryView


def test_an_endpoint_elsewhere_is_nothing_to_the_prober():
    ours, theirs = Writer(H1), Writer(H2)
    told = Counter()
    devices = []

    async def main():
        live = Live(RegistryView(H1), {})
        offload = SimpleNamespace(set_wanted=lambda _: None, set_devices=devices.append)
        probing = Probing(live, offload, ClusterId("c" * 32), ask=None, doubt=lambda _: None)
        for name in ("set_peers", "set_paths"):
            setattr(probing.prober, name, lambda targets, name=name: told.update({name: 1}) or targets)

        def follows():
            before = told.total()
            probing.follow(live.now)
            return told.total() - before

        def heard(writer, record):
            live.set_view(live.view.with_entries(writer.put(record)))
            return follows()

        assert heard(ours, host("h1")) == 2
        assert heard(theirs, host("h2")) == 2
        assert heard(theirs, network()) == 2
        assert heard(theirs, AttachmentRecord(N1)) == 2
        assert heard(theirs, endpoint()) == 0
        assert heard(theirs, endpoint(2, offset=3)) == 0
        live.set_row(LocalEndpointRow(endpoint_id="e" * 32, network_id=N1, name="web", service="web"))
        assert follows() == 2
        assert devices[-1] == ["nx-" + str(network().vni)]

    trio.run(main, clock=trio.testing.MockClock())
