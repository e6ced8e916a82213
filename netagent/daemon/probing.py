"""Puts the probes' results to use: which hosts' kernels answer, what paths carry, where checksums break."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from functools import partial
from operator import is_
from pathlib import Path
from typing import Any, Final

import trio

from netagent.daemon.withdraw import Ask
from netagent.datapath.host.offload import OffloadKeeper
from netagent.datapath.host.probe_device import probe_address
from netagent.eviction.liveness_quorum import LivenessQuorum
from netagent.model.ids import ClusterId, HostId, vxlan_name
from netagent.model.locality import FARTHEST, HERE
from netagent.periodic_task import PeriodicTask
from netagent.probes.checksum import Checksums
from netagent.probes.distance import Distances
from netagent.probes.echo import EchoProber, Listeners, ProbeMachines
from netagent.probes.liveness import Liveness
from netagent.probes.path import Paths
from netagent.probes.quality import PathStatus
from netagent.probes.reach import ReachableHosts
from netagent.projection.datapath_input import path_targets, probe_targets
from netagent.registry.state_store import Snapshot, StateStore
from netagent.registry.view import RegistryView

_MAX_NOTE_BYTES: Final = 1 << 20
"""Bound of size of the files of unreached hosts and of distances, read at a start; beyond it: a larger file is
ignored. 25,000 hosts."""
_DISTANCES_S: Final = 2.0
"""How often changed distances are put into the view."""

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
        self._distance_notes = notes.with_name("distances.json")
        self._distances = Distances(_noted_distances(self._distance_notes, live.view))
        live.update_view(lambda view: view.with_distances(self._distances.classes))
        self._offload = offload
        chance = random.Random(random.getrandbits(64))
        paths = Paths(chance)
        paths.adopt(live.limits)
        self.prober = EchoProber(
            ProbeMachines(Liveness(chance), paths, Checksums(chance), self._distances),
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
            nursery.start_soon(self._watch_distances)

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
            _note(self._notes, sorted(unreached))

    async def _watch_distances(self) -> None:
        """Put changed distances into the view, many at once: each change of the view wakes its readers."""
        task = PeriodicTask(_DISTANCES_S)
        while True:
            if changes := self._distances.take_changes():
                self._live.update_view(partial(RegistryView.with_distances, changes=changes))
                _note(self._distance_notes, self._distances.classes)
            await task.wait()

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
        self._distances.keep_only(targets)
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


def _note(file: Path, hosts: list[HostId] | dict[HostId, int]) -> None:
    """Save hosts for the next agent, which has no probe results yet when it tells the resolver what to answer."""
    draft = file.with_suffix(".new")
    try:
        draft.write_text(json.dumps(hosts), "utf-8")
        draft.replace(file)
    except OSError as error:
        _log.warning(
            "names may lead to unreached or far hosts for some seconds after the next start: %s", error
        )


def _noted(file: Path) -> frozenset[HostId]:
    """Read the saved hosts; an unreadable file counts as none."""
    listed = _read(file)
    return (
        frozenset(HostId(one) for one in listed if isinstance(one, str))
        if isinstance(listed, list)
        else _NONE
    )


_NONE: Final = frozenset[HostId]()


def _noted_distances(file: Path, view: RegistryView) -> dict[HostId, int]:
    """Read the saved distances of hosts that are known; an unreadable file counts as none."""
    listed = _read(file)
    if not isinstance(listed, dict):
        return {}
    return {
        HostId(host_id): distance
        for host_id, distance in listed.items()
        if host_id in view.hosts and type(distance) is int and HERE < distance <= FARTHEST
    }


def _read(file: Path) -> Any:
    try:
        with file.open(encoding="utf-8") as opened:
            return json.loads(opened.read(_MAX_NOTE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
