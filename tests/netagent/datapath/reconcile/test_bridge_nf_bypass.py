"""When a tag is of use, and how many ports a look is at. Its work: tests/kernel/test_bridge_nf_bypass.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from netagent.datapath.bpf import programs, tcx
from netagent.datapath.bpf.programs import Kind, ProgramTag
from netagent.datapath.bpf.tcx import Side
from netagent.datapath.reconcile import bridge_nf_bypass
from netagent.datapath.reconcile.bridge_nf_bypass import BridgeNfBypass, is_wanted
from netagent.datapath.reconcile.drift import Drift
from netagent.periodic import MOST_A_LOOK

CALL4, CALL6, TAGGED_TOO = (
    "bridge-nf-call-iptables",
    "bridge-nf-call-ip6tables",
    "bridge-nf-filter-vlan-tagged",
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),  # the kernel has no bridge netfilter, or it is not loaded
        ({CALL4: 0, CALL6: 0, TAGGED_TOO: 0}, False),
        ({CALL4: 1, CALL6: 0, TAGGED_TOO: 0}, True),
        ({CALL4: 0, CALL6: 1}, True),
        ({CALL4: 1, CALL6: 1, TAGGED_TOO: 1}, False),
    ],
)
def test_a_tag_is_of_use_where_bridge_netfilter_looks_at_frames_without_one_only(
    tmp_path: Path, settings: dict[str, int], expected: bool
) -> None:
    for name, value in settings.items():
        (tmp_path / name).write_text(f"{value}\n")
    assert is_wanted(tmp_path) is expected


class Ports:
    """In the place of netagent.datapath.bpf: what stands at which port, and how often it was read."""

    def __init__(self, count: int) -> None:
        self.at: dict[tuple[int, Side], dict[int, None]] = {
            (index, side): {} for index in range(1, count + 1) for side in Side
        }
        self.asked = 0
        self.names: dict[int, ProgramTag] = {}

    def load(self, kind: Kind, name: str, instructions: bytes) -> _Loaded:
        number = len(self.names) + 1
        self.names[number] = ProgramTag(name, bytes(8))
        return _Loaded(number, self.names[number])

    def programs_at(self, index: int, side: Side) -> list[int]:
        self.asked += 1
        return list(self.at[index, side])

    def mark_of(self, number: int) -> ProgramTag | None:
        return self.names.get(number)

    def attach(self, index: int, side: Side, program: _Loaded) -> None:
        self.at[index, side][program.number] = None

    def detach(self, index: int, side: Side, number: int) -> None:
        del self.at[index, side][number]


@dataclass
class _Loaded:
    number: int
    mark: ProgramTag


def bypass_over(monkeypatch: pytest.MonkeyPatch, count: int) -> tuple[Ports, BridgeNfBypass]:
    """A bypass with so many ports, all of which have both programs."""
    ports = Ports(count)
    for module, names in ((programs, ("load", "mark_of")), (tcx, ("programs_at", "attach", "detach"))):
        for name in names:
            monkeypatch.setattr(module, name, getattr(ports, name))
    monkeypatch.setattr(bridge_nf_bypass, "is_wanted", lambda: True)
    bypass = BridgeNfBypass(Drift())
    bypass.set_ports({index: f"nv-{index}" for index in range(1, count + 1)})
    bypass.look()
    assert all(ports.at.values())
    return ports, bypass


@pytest.fixture
def thousand(monkeypatch: pytest.MonkeyPatch) -> tuple[Ports, BridgeNfBypass]:
    return bypass_over(monkeypatch, 1000)


def test_few_ports_that_are_well_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    ports, bypass = bypass_over(monkeypatch, 3)
    assert bypass._is_well()
    (removed,) = ports.at[2, Side.INGRESS]
    del ports.at[2, Side.INGRESS][removed]
    assert not bypass._is_well()
    bypass.look()
    assert bypass._is_well()
    bypass.set_ports({index: f"nv-{index}" for index in range(1, 5)})
    assert not bypass._is_well(), "the fourth has no program yet"
    bypass.set_ports({index: f"nv-{index}" for index in range(1, 4)})
    assert bypass._is_well()
    monkeypatch.setattr(bridge_nf_bypass, "is_wanted", lambda: False)
    assert not bypass._is_well(), "the programs have to go"
    bypass.look()
    assert not any(ports.at.values())
    assert bypass._is_well()
    monkeypatch.setattr(bridge_nf_bypass, "is_wanted", lambda: True)
    assert not bypass._is_well()


def test_many_ports_are_checked_in_a_thread(thousand: tuple[Ports, BridgeNfBypass]) -> None:
    ports, bypass = thousand
    ports.asked = 0
    assert not bypass._is_well()
    assert ports.asked == 0


def test_a_look_at_rest_costs_no_more_with_a_thousand_ports_than_with_a_hundred(
    thousand: tuple[Ports, BridgeNfBypass],
) -> None:
    ports, bridge_nf_bypass = thousand
    for _ in range(20):
        ports.asked = 0
        bridge_nf_bypass.look()
        assert ports.asked == 2 * MOST_A_LOOK


def test_what_was_taken_from_a_port_is_back_after_a_round_and_from_all_after_the_next_look(
    thousand: tuple[Ports, BridgeNfBypass],
) -> None:
    ports, bridge_nf_bypass = thousand
    ports.at[777, Side.INGRESS].clear()
    for _ in range(1000 // MOST_A_LOOK):
        bridge_nf_bypass.look()
    assert ports.at[777, Side.INGRESS]
    bridge_nf_bypass.look()
    for taken in ports.at.values():
        taken.clear()
    bridge_nf_bypass.look()
    bridge_nf_bypass.look()
    assert all(ports.at.values())
