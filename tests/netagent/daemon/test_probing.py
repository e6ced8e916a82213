"""The prober's targets follow hosts and networks, at no cost while endpoints come and go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from fakes.registry import H1, H2, N1, Writer, endpoint, host, network
from fakes.rows import local_row

from netagent.daemon import probing as daemon_probing
from netagent.daemon.probing import ProbeResults
from netagent.model.ids import ClusterId, HostId
from netagent.model.locality import HERE
from netagent.model.records import AttachmentRecord, EndpointRecord, HostRecord, NetworkRecord
from netagent.probes.liveness import BURST, KEEN_INTERVAL_S, MISSES_FOR_SILENCE
from netagent.probes.packet import Echo
from netagent.probes.reach import STEADY_S
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

NOTHING = Path("/nonexistent/unreached.json")


async def never(_peer: HostId, _payload: bytes, _within_s: float) -> bytes | None:
    raise AssertionError


def test_who_is_not_reached_outlives_the_agent(tmp_path: Path) -> None:
    """The next agent has no probe results yet when it tells the resolver what to answer."""
    notes = tmp_path / "unreached.json"
    view = RegistryView(H1).with_entries(Writer(H2).put(host("h2")))
    offload: Any = SimpleNamespace(set_wanted=lambda _: None, set_devices=lambda _: None)

    def made() -> tuple[StateStore, ProbeResults]:
        live = StateStore(view, {})
        probing = ProbeResults(
            live, offload, ClusterId("c" * 32), ask=never, doubt=lambda _: None, notes=notes
        )
        return live, probing

    async def main() -> None:
        live, probing = made()
        assert live.view.unreached == frozenset()
        probing._note_answers({H2: False})
        assert live.view.unreached == {H2}
        live, probing = made()
        assert live.view.unreached == {H2}
        assert live.view.hosts[H2].answers is None, "which hides no name of a host whose agent is dead"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probing._watch_reach)
            probing._note_answers({H2: True})
            await trio.sleep(STEADY_S - 0.1)
            assert live.view.unreached == {H2}
            await trio.sleep(0.2)
            assert live.view.unreached == frozenset()
            nursery.cancel_scope.cancel()
        assert made()[0].view.unreached == frozenset()
        for wrong in ("", "[", "{}", "7", '["not known", 7, null]', "[" * 100_000):
            notes.write_text(wrong)
            assert made()[0].view.unreached == frozenset()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_how_far_hosts_are_reaches_the_view_together_and_outlives_the_agent(tmp_path: Path) -> None:
    """An order of answers that jumps with each restart of the agent would move every client."""
    notes = tmp_path / "unreached.json"
    hosts = {HostId(f"{number:032x}"): f"fd00::{number:x}" for number in range(2, 40)}
    view = RegistryView(H1)
    for host_id in hosts:
        view = view.with_entries(Writer(host_id).put(host(f"h{int(host_id, 16)}")))
    offload: Any = SimpleNamespace(set_wanted=lambda _: None, set_devices=lambda _: None)

    def made() -> tuple[StateStore, ProbeResults]:
        live = StateStore(view, {})
        probing = ProbeResults(
            live, offload, ClusterId("c" * 32), ask=never, doubt=lambda _: None, notes=notes
        )
        return live, probing

    async def main() -> None:
        live, probing = made()
        prober = probing.prober
        prober.set_peers({host_id: (address, False) for host_id, address in hosts.items()})
        assert live.view.distance_of(H1) == HERE
        assert live.view.distance_of(H2) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probing._watch_distances)
            await trio.testing.wait_all_tasks_blocked()
            before = live.revision
            prober._liveness.handle_deadline(trio.current_time())
            requests, _, _ = prober._liveness.drain()
            await trio.sleep(0.02)
            for request in requests:
                echo = Echo(is_reply=True, identifier=prober._identifier, sequence=request.sequence)
                prober._take(echo, request.address, trio.current_time())
            assert live.revision == before, "not one by one"
            await trio.sleep(2.5)
            assert {live.view.distance_of(host_id) for host_id in hosts} == {4}
            assert live.revision == before + 1
            assert prober.fastest_rtt_s(H2) == pytest.approx(0.02)
            nursery.cancel_scope.cancel()
        live, _ = made()
        assert {live.view.distance_of(host_id) for host_id in hosts} == {4}
        file = notes.with_name("distances.json")
        for wrong in ("", "[", "[]", "7", f'{{"{H2}": "far", "{H1}": 0, "unknown": 1}}', "[" * 100_000):
            file.write_text(wrong)
            assert made()[0].view.distance_of(H2) is None

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_all_hosts_that_fall_silent_in_one_step_make_one_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the view, whose readers all look again, and of the file."""
    notes: list[list[HostId]] = []
    monkeypatch.setattr(daemon_probing, "_note", lambda _file, unreached: notes.append(unreached))
    sent: list[object] = []
    sockets: Any = SimpleNamespace(icmp=SimpleNamespace(sendto=lambda *packet: sent.append(packet)))
    offload: Any = SimpleNamespace(set_wanted=lambda _: None, set_devices=lambda _: None)
    hosts = [HostId(f"{number:032x}") for number in range(1, BURST + 1)]

    async def main() -> None:
        live = StateStore(RegistryView(H1), {})
        prober = ProbeResults(
            live, offload, ClusterId("c" * 32), ask=never, doubt=lambda _: None, notes=NOTHING
        ).prober
        prober.set_peers({host: (f"fd00::{host[-4:]}", False) for host in hosts})
        for _ in range(MISSES_FOR_SILENCE + 1):
            before = live.revision
            assert notes == []
            prober._liveness.handle_deadline(trio.current_time())
            prober._flush(sockets)
            await trio.sleep(KEEN_INTERVAL_S)
        assert len(sent) == (MISSES_FOR_SILENCE + 1) * BURST
        assert notes == [sorted(live.view.unreached)] == [sorted(hosts)]
        assert live.revision - before <= 2, "one for the answers, one for what is not reached"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_endpoint_elsewhere_is_nothing_to_the_prober() -> None:
    ours, theirs = Writer(H1), Writer(H2)
    reported: Counter[str] = Counter()
    devices: list[Any] = []

    async def main() -> None:
        live = StateStore(RegistryView(H1), {})
        offload: Any = SimpleNamespace(set_wanted=lambda _: None, set_devices=devices.append)
        probing = ProbeResults(
            live, offload, ClusterId("c" * 32), ask=never, doubt=lambda _: None, notes=NOTHING
        )
        for name in ("set_peers", "set_paths"):
            setattr(probing.prober, name, lambda targets, name=name: reported.update({name: 1}) or targets)

        def follows() -> int:
            before = reported.total()
            probing.follow(live.now)
            return reported.total() - before

        def heard(
            writer: Writer, record: AttachmentRecord | EndpointRecord | HostRecord | NetworkRecord
        ) -> int:
            live.update_view(lambda view: view.with_entries(writer.put(record)))
            return follows()

        assert heard(ours, host("h1")) == 2
        assert heard(theirs, host("h2")) == 2
        assert heard(theirs, network()) == 2
        assert heard(theirs, AttachmentRecord(N1)) == 2
        assert heard(theirs, endpoint()) == 0
        assert heard(theirs, endpoint(2, offset=3)) == 0
        live.set_row(local_row("e" * 32, N1))
        assert follows() == 2
        assert devices[-1] == ["nx-" + str(network().vni)]

    trio.run(main, clock=trio.testing.MockClock())
