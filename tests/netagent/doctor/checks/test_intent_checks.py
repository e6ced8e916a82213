"""Each check of intent: what was gathered becomes findings with a fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes.doctor_world import World
from fakes.registry import endpoint
from fakes.rows import PUBLISHED, local_row

from netagent.datapath.state import KernelState
from netagent.doctor.checks.expected_objects import owners
from netagent.doctor.checks.finding import CheckVerdict, Finding, Outcome, Severity, examine
from netagent.doctor.checks.firewall_checks import (
    chain_findings,
    element_findings,
    published_lines,
    rule_counts,
)
from netagent.doctor.checks.intent_checks import INTENT_CHECKS, IntentFacts, NameFault
from netagent.doctor.checks.kernel_drift import Difference, KernelTable, differences
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.firewall.element import Family, encode
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint
from netagent.firewall.publishing import ANYWHERE4, ANYWHERE6
from netagent.firewall.ruleset import MEMBERS4, SENDERS, ruleset_of
from netagent.journal.rows import Reserved
from netagent.model.publication import Publication
from netagent.projection.firewall_input import port_forwards_of
from netagent.registry.views import Conflict
from netgossip.slices import at_once

SOUND = IntentFacts(
    behind="",
    differences=(),
    owners={("na-1", "10.1.0.3"): "web2 on h2"},
    refusals={},
    firewall=(),
    inside=(ObjectStatus("interface", "eth0 in netns:web1", State.PRESENT),),
    unseen=0,
    names=(),
    asked=4,
    journal=(),
    conflicts=(),
)
NEIGHBOUR = Difference(
    KernelTable.NEIGHBOUR, "na-1", "10.1.0.3", State.MISSING, "should map to 02::2", "ip neigh replace …"
)


def outcomes(**changes: Any) -> dict[str, Outcome]:
    return {one.name: one for one in examine(INTENT_CHECKS, replace(SOUND, **changes))}


def test_a_sound_host_passes_every_check() -> None:
    assert {one.verdict for one in outcomes().values()} == {CheckVerdict.PASSED}


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("settled", {"behind": "it had not followed"}, "had not followed"),
        ("neighbours", {"differences": (NEIGHBOUR,)}, "is missing (web2 on h2): should map to 02::2"),
        ("devices", {"differences": (replace(NEIGHBOUR, part=KernelTable.DEVICE, key=""),)}, "device na-1"),
        (
            "bridge-ports",
            {"differences": (replace(NEIGHBOUR, part=KernelTable.PORT, key=""),)},
            "device na-1",
        ),
        ("addresses", {"differences": (replace(NEIGHBOUR, part=KernelTable.ADDRESS),)}, "address 10.1.0.3"),
        (
            "bridge-entries",
            {"differences": (replace(NEIGHBOUR, part=KernelTable.BRIDGE_ENTRY),)},
            "bridge entry",
        ),
        (
            "tunnel-entries",
            {"differences": (replace(NEIGHBOUR, part=KernelTable.TUNNEL_ENTRY),)},
            "tunnel entry",
        ),
        ("flood-entries", {"differences": (replace(NEIGHBOUR, part=KernelTable.FLOOD),)}, "flood entry"),
        ("firewall", {"firewall": (Finding("t", "a table is missing", "wait"),)}, "a table is missing"),
        (
            "containers",
            {"inside": (ObjectStatus("address", "10.1.0.2", State.MISSING, "", "ip addr add"),)},
            "is missing",
        ),
        (
            "resolver-sockets",
            {"inside": (ObjectStatus("resolver", "udp", State.MISSING, "nobody"),)},
            "nobody",
        ),
        (
            "service-addresses",
            {"services": (Finding("10.8.0.5", "service address 10.8.0.5 is missing", "wait"),)},
            "10.8.0.5 is missing",
        ),
        (
            "names",
            {"names": (NameFault("web.app", "netns:web1", "no resolver answers"),)},
            "asked in netns:web1",
        ),
        ("journal", {"journal": (Finding("x", "is not in the journal", "restart"),)}, "not in the journal"),
    ],
)
def test_what_is_wrong_fails_its_check_and_no_other(name: str, changes: Any, says: str) -> None:
    found = outcomes(**changes)
    assert [one.name for one in found.values() if one.verdict is CheckVerdict.FAILED] == [name]
    assert says in found[name].findings[0].message


def test_what_the_kernel_refuses_is_told_with_its_reason() -> None:
    found = outcomes(differences=(NEIGHBOUR,), refusals={NEIGHBOUR.fix: "No buffer space"})
    assert found["neighbours"].findings[0].message.endswith("the kernel refuses it: No buffer space")


def test_clashes_and_containers_that_were_not_seen_are_warnings() -> None:
    conflict = Conflict("address", "a" * 32, "b" * 32, "two endpoints have one address")
    assert outcomes(conflicts=(conflict,))["clashes"].verdict is CheckVerdict.WARNING
    assert outcomes(unseen=3)["containers"].verdict is CheckVerdict.WARNING
    gone = ObjectStatus("interface", "eth0 in netns:web1", State.NOT_KNOWN, "no network namespace")
    assert outcomes(inside=(gone,))["containers"].verdict is CheckVerdict.WARNING


def test_a_file_that_names_another_server_is_a_warning() -> None:
    other = Finding("netns:web1", "the file names another server first", "put ours first", Severity.WARNING)
    found = outcomes(resolv_confs=(other,))
    assert [one.name for one in found.values() if one.verdict is not CheckVerdict.PASSED] == ["resolv-conf"]
    assert found["resolv-conf"].verdict is CheckVerdict.WARNING


def test_without_an_agent_names_and_firewall_are_not_known() -> None:
    found = outcomes(names="no agent answers", firewall="no agent answers", journal="it is damaged")
    unknown = {one.name for one in found.values() if one.verdict is CheckVerdict.NOT_KNOWN}
    assert unknown == {"names", "firewall", "journal"}


def test_a_kernel_that_lost_everything_is_one_finding_for_each_device(world: World) -> None:
    found = at_once(differences(world.kernel(), KernelState()))
    assert all(one.part is KernelTable.DEVICE for one in found), "entries are counted with their device"
    assert len(found) == len(world.kernel().devices)


def test_owners_are_told_by_address_mac_and_device(world: World) -> None:
    known = at_once(owners(world.view))
    assert known["na-1161", "10.1.0.3"] == known["nx-1161", endpoint(2).mac] == "web2 on h2"
    assert known["na-1161", ""] == "network app"


# -- our tables ----------------------------------------------------------------------------------------------------

RULES = ruleset_of(
    FirewallInput(
        vxlan_port=4799,
        endpoints=(GuardedEndpoint(veth="nv1", mac="02:00:00:00:00:01", addresses=("10.1.0.2",)),),
        members=frozenset({"192.0.2.2"}),
    )
)


def test_every_chain_of_our_tables_is_counted() -> None:
    counts = rule_counts(RULES)
    assert counts[Family.INET]["tunnel"] == 5
    assert counts[Family.BRIDGE]["prerouting"] == 1
    assert all(number for chains in counts.values() for number in chains.values())


def test_chains_that_are_not_as_made() -> None:
    wanted = rule_counts(RULES)[Family.INET]
    assert list(chain_findings(Family.INET, wanted, wanted)) == []
    found = {**wanted, "tunnel": 1, "alien": 2}
    del found["input"]
    texts = [one.message for one in chain_findings(Family.INET, wanted, found)]
    assert "chain input of table inet netagent is missing" in texts
    assert "chain tunnel of table inet netagent has 1 rules instead of 5" in texts
    assert any("alien" in text and "not netagent's" in text for text in texts)


def test_elements_that_are_missing_or_left_over() -> None:
    (missing,) = element_findings(RULES, [(MEMBERS4, ("192.0.2.2",))], {"192.0.2.2": "host h2"}.__getitem__)
    assert missing.message == "192.0.2.2 is missing in set members4 of table inet netagent (host h2)"
    assert missing.fix == "nft add element inet netagent members4 { 192.0.2.2 }"
    (extra,) = element_findings(RULES, [(SENDERS, b"\x01")], lambda _: "")
    assert "left over (01)" in extra.message


def test_a_published_port_is_there_when_all_its_elements_are() -> None:
    row = local_row(
        "e" * 32,
        "a1" * 16,
        addresses=("10.1.0.2", "fd00:1::2"),
        mac="02::1",
        stage=PUBLISHED,
        publish=(Publication(53, 5353, "udp", 2), Publication(8080, 80, address="0.0.0.0")),
    )
    rules = ruleset_of(FirewallInput(vxlan_port=4799, port_forwards=tuple(port_forwards_of(row, ()))))
    lines = list(published_lines(row, rules, []))
    assert [(one.kind, one.thing, one.state) for one in lines] == [
        ("published port", "53-54:5353-5354/udp leads to web", State.PRESENT),
        ("published port", "0.0.0.0:8080:80/tcp leads to web", State.PRESENT),
    ]
    gone = (ANYWHERE6, ("udp", "54"))
    extra = (ANYWHERE4, encode(ANYWHERE4.key, ("tcp", "8080")))
    first, second = published_lines(row, rules, [gone, extra])
    assert (first.state, second.state) == (State.MISSING, State.PRESENT)
    assert first.reason == "1 of 4 elements in the maps of table inet netagent"
    assert "two seconds" in first.fix
    nothing = ruleset_of(FirewallInput(vxlan_port=4799))
    assert {one.state for one in published_lines(row, nothing, [])} == {State.NOT_NEEDED}
    half = replace(row, stage=Reserved())
    assert {one.state for one in published_lines(half, rules, [])} == {State.NOT_NEEDED}
