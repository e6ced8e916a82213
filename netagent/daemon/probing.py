"""Puts the probes' results to use: which hosts' kernels answer, what paths carry, where checksums break."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from operator import is_
from pathlib import Path
from typing import Final

import trio

from netagent.daemon.withdraw import Ask
from netagent.datapath.host.offload import OffloadKeeper
from netagent.datapath.host.probe_device import probe_address
from netagent.eviction.liveness_quorum import LivenessQuorum
from netagent.model.ids import ClusterId, HostId, vxlan_name
from netagent.probes.checksum import Checksums
from netagent.probes.echo import EchoProber, Listeners, ProbeMachines
from netagent.probes.liveness import Liveness
from netagent.probes.path import Paths
from netagent.probes.quality import PathStatus
from netagent.probes.reach import ReachableHosts
from netagent.projection.datapath_input import path_targets, probe_targets
from netagent.registry.state_store import Snapshot, StateStore

_MAX_NOTE_BYTES: Final = 1 << 20
"""Bound of size of the file of unreached hosts, read at a start; beyond it: a larger file is ignored. 25,000
hosts."""

_log = logging.getLogger(__name__)


class ProbeResults:
    """The prober, with witnesses for hosts that it does not hear. `doubt`: make the gossip probe a silent host.
    `notes`: the file of unreached hosts, which must be gone after a reboot."""

    def __init__(
        self,
        live: StateStore,
        offload: OffloadKeeper,
        cluster_id: ClusterId,
        *,
        ask: Ask,
        doubt: Callable[[HostId], None],
        notes: Path,
    ) -> None:
        self._live = live
        self._notes = notes
        self._reach = ReachableHosts(_noted(notes) & frozenset(live.view.hosts))
        self._turned = trio.Event()
        live.update_view(lambda view: view.with_unreached(self._reach.unreached))
        self._offload = offload
        chance = random.Random(random.getrandbits(64))
        paths = Paths(chance)
        paths.adopt(live.limits)
        self.prober = EchoProber(
            ProbeMachines(Liveness(chance), paths, Checksums(chance)),
            probe_address(cluster_id, live.view.local),
            random.getrandbits(16),
            Listeners(
                on_answers=self._note_answers,
                on_doubt=doubt,
                on_path=self._note_path,
                on_checksums=offload.set_wanted,
            ),
        )
        self._quorum = LivenessQuorum(live, self.prober, ask)
        self._seen: tuple[object, ...] = (None,) * 4
        """What was followed last."""

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.prober.run)
            nursery.start_soon(self._quorum.run)
            nursery.start_soon(self._watch_reach)

    async def _watch_reach(self) -> None:
        """Put the unreached hosts into the view, once they are certain."""
        while True:
            self._turned = trio.Event()
            with trio.move_on_at(self._reach.next_deadline()):
                await self._turned.wait()
            self._reach.handle_deadline(trio.current_time())
            self._tell_reach()

    def _tell_reach(self) -> None:
        unreached = self._reach.unreached
        if unreached != self._live.view.unreached:
            self._live.update_view(lambda view: view.with_unreached(unreached))
            _note(self._notes, unreached)

    def follow(self, known: Snapshot) -> None:
        """Probe the hosts of the snapshot, and check the network cards for its devices. Costs nothing while only
        endpoints on other hosts change."""
        inhabited = known.rows.networks
        seen = (known.view.hosts, known.view.networks, known.view.store.attachments, inhabited)
        if all(map(is_, seen, self._seen)):
            return
        self._seen = seen
        targets = probe_targets(known.view)
        self._reach.keep_only(targets)
        self._tell_reach()
        self.prober.set_peers(targets)
        self.prober.set_paths(path_targets(known.view))
        networks = map(known.view.networks.get, inhabited)
        self._offload.set_devices([vxlan_name(one.record.vni) for one in networks if one is not None])

    def _note_answers(self, answers: dict[HostId, bool]) -> None:
        self._live.update_view(lambda view: view.with_host_answers(answers))
        for host_id, one in answers.items():
            self._reach.handle_answer(host_id, trio.current_time(), answers=one)
        self._tell_reach()
        self._turned.set()

    def _note_path(self, host_id: HostId, status: PathStatus) -> None:
        self._live.set_limit(host_id, status.limit_bytes)


def _note(file: Path, unreached: frozenset[HostId]) -> None:
    """Save them for the next agent, which has no probe results yet when it tells the resolver what to answer."""
    draft = file.with_suffix(".new")
    try:
        draft.write_text(json.dumps(sorted(unreached)), "utf-8")
        draft.replace(file)
    except OSError as error:
        _log.warning("names may lead to unreached hosts for some seconds after the next start: %s", error)


def _noted(file: Path) -> frozenset[HostId]:
    """Read the saved hosts; an unreadable file counts as none."""
    try:
        with file.open(encoding="utf-8") as opened:
            listed = json.loads(opened.read(_MAX_NOTE_BYTES))
        return frozenset(HostId(one) for one in listed if isinstance(one, str))
    except (OSError, ValueError, TypeError, RecursionError):
        return frozenset()
