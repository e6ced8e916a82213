"""What the probes find out, put to use: which hosts' kernels answer, what paths carry, where checksums break."""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import is_

import trio

from netagent.datapath.offload import OffloadKeeper
from netagent.datapath.probe_device import probe_address
from netagent.membership.retreat import Ask
from netagent.membership.witnessing import Witnessing
from netagent.model.ids import ClusterId, HostId, vxlan_name
from netagent.probes.checksum import Checksums
from netagent.probes.echo import EchoProber, Listeners, Machines
from netagent.probes.liveness import Liveness
from netagent.probes.path import Paths
from netagent.probes.quality import PathStatus
from netagent.projection.intent import path_targets, probe_targets
from netagent.registry.live import Live, Moment


class Probing:
    """The prober, with witnesses for what it does not hear. `doubt`: have the gossip look at a silent host."""

    def __init__(
        self,
        live: Live,
        offload: OffloadKeeper,
        cluster_id: ClusterId,
        *,
        ask: Ask,
        doubt: Callable[[HostId], None],
    ) -> None:
        self._live = live
        self._offload = offload
        chance = random.Random(random.getrandbits(64))
        paths = Paths(chance)
        paths.adopt(live.limits)
        self.prober = EchoProber(
            Machines(Liveness(chance), paths, Checksums(chance)),
            probe_address(cluster_id, live.view.local),
            random.getrandbits(16),
            Listeners(
                on_answer=self._note_answer,
                on_doubt=doubt,
                on_path=self._note_path,
                on_checksums=offload.set_wanted,
            ),
        )
        self._witnessing = Witnessing(live, self.prober, ask)
        self._seen: tuple[object, ...] = (None,) * 4
        """What was followed last."""

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.prober.run)
            nursery.start_soon(self._witnessing.run)

    def follow(self, known: Moment) -> None:
        """Probe the hosts of that moment, and look after the network cards for its devices. Costs nothing while only
        endpoints elsewhere change."""
        inhabited = known.rows.networks
        seen = (known.view.hosts, known.view.networks, known.view.participants, inhabited)
        if all(map(is_, seen, self._seen)):
            return
        self._seen = seen
        self.prober.set_peers(probe_targets(known.view))
        self.prober.set_paths(path_targets(known.view))
        networks = map(known.view.networks.get, inhabited)
        self._offload.set_devices([vxlan_name(one.record.vni) for one in networks if one is not None])

    def _note_answer(self, host_id: HostId, answers: bool) -> None:  # noqa: FBT001 - the value
        self._live.set_view(self._live.view.with_host_answer(host_id, answers))

    def _note_path(self, host_id: HostId, status: PathStatus) -> None:
        self._live.set_limit(host_id, status.limit_bytes)
