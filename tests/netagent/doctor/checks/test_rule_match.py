"""Whether a rule, as `nft -j` prints it, drops a packet. The rules' JSON is what nft 1.1.3 prints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.doctor.checks.finding import Severity
from netagent.doctor.checks.foreign_rules import PortUse, bridged_findings, chains_untrusted, port_findings
from netagent.doctor.checks.rule_match import (
    MAX_COMPARISONS,
    MAX_ELEMENTS,
    MAX_RULES,
    Drop,
    Packet,
    first_drop,
    rules_untrusted,
)

DROP, ACCEPT, REJECT, COUNTER = (
    {"drop": None},
    {"accept": None},
    {"reject": None},
    {"counter": {"packets": 1}},
)
GOSSIP = Packet(protocol="udp", port=7956, source="192.0.2.2", target="192.0.2.1", incoming=("eth0",))


def payload(protocol: str, field: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


def meta(key: str, right: dict[str, list[str]] | str, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def ct_state(right: list[str] | str) -> dict[str, Any]:
    return {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": right}}


def rule(*parts: Any, of: str = "input", handle: int = 4) -> dict[str, Any]:
    return {"rule": {"chain": of, "handle": handle, "expr": list(parts)}}


def dropped(*objects: Any, packet: Packet = GOSSIP) -> Drop | None:
    return first_drop(rules_untrusted(objects), "input", packet)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([payload("th", "dport", 7956), DROP], "th dport 7956 drop"),
        (
            [payload("udp", "dport", {"set": [{"range": [7956, 7960]}]}), COUNTER, REJECT],
            "udp dport 7956-7960 reject",
        ),
        (
            [payload("ip", "saddr", {"prefix": {"addr": "192.0.2.0", "len": 24}}), DROP],
            "ip saddr 192.0.2.0/24 drop",
        ),
        ([payload("ip", "saddr", "10.0.0.0", "!="), DROP], "ip saddr != 10.0.0.0 drop"),
        ([meta("iifname", {"set": ["eth*", "lo"]}), DROP], "iifname { eth*, lo } drop"),
        (
            [meta("l4proto", {"set": ["tcp", "udp"]}), payload("th", "dport", 7956), ct_state("new"), DROP],
            "th dport 7956",
        ),
        ([payload("ip", "protocol", "udp"), DROP], "l4proto udp drop"),
        (
            [
                {
                    "vmap": {
                        "key": {"payload": {"protocol": "udp", "field": "dport"}},
                        "data": {"set": [[7956, DROP]]},
                    }
                }
            ],
            "7956",
        ),
        ([payload("ip", "saddr", {"range": ["192.0.2.1", "192.0.2.9"]}), DROP], "192.0.2.1-192.0.2.9 drop"),
    ],
)
def test_a_rule_that_is_about_the_packet_drops_it(
    parts: list[dict[str, None] | dict[str, Any]] | list[dict[str, Any]], text: str
) -> None:
    found = dropped(rule(*parts))
    assert found is not None
    assert found.is_certain
    assert text in found.rule.text


@pytest.mark.parametrize(
    "parts",
    [
        [payload("tcp", "dport", 7956), DROP],
        [payload("udp", "dport", 7957), DROP],
        [payload("udp", "dport", 7956, "!="), DROP],
        [payload("ip6", "saddr", "fd00::1"), DROP],
        [payload("ip", "saddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}), DROP],
        [meta("iifname", "docker0"), DROP],
        [payload("udp", "sport", 53), DROP],
        [ct_state(["established", "related"]), payload("udp", "dport", 7956), DROP],
        [ct_state("invalid"), DROP],
        [{"xt": {"type": "match", "name": "recent"}}, DROP],
        [payload("udp", "dport", 7956), {"limit": {"rate": 10, "per": "second", "inv": True}}, DROP],
        [payload("udp", "dport", 7956), ACCEPT],
        [payload("udp", "dport", 7956), COUNTER],
    ],
)
def test_a_rule_that_is_not_drops_nothing(
    parts: list[dict[str, None] | dict[str, Any]] | list[dict[str, Any]],
) -> None:
    assert dropped(rule(*parts)) is None


def test_what_may_be_accepted_before_is_not_reported() -> None:
    drop = rule(payload("udp", "dport", 7956), DROP)
    assert dropped(rule(payload("ip", "saddr", "192.0.2.2"), ACCEPT), drop) is None
    assert dropped(rule({"xt": {"type": "match", "name": "set"}}, ACCEPT), drop) is None
    assert dropped(rule(payload("ip", "saddr", "192.0.2.3"), ACCEPT), drop) is not None
    assert dropped(rule(ct_state("established"), ACCEPT), drop) is not None


def test_jumps_are_followed_once_each() -> None:
    jump = {"jump": {"target": "deny"}}
    drop = rule(payload("udp", "dport", 7956), DROP, of="deny", handle=9)
    found = dropped(rule(jump), drop)
    assert found is not None
    assert (found.chain, found.rule.handle) == ("deny", 9)
    # 2 to the power of 200 ways through, if each jump were walked anew.
    ladder = [rule({"jump": {"target": f"c{n + 1}"}}, of=f"c{n}") for n in range(200) for _ in range(2)]
    assert dropped(rule({"jump": {"target": "c0"}}), *ladder) is None
    assert dropped(rule({"jump": {"target": "input"}}), drop) is None


def test_an_iptables_rule_with_a_match_that_is_not_understood_may_drop() -> None:
    found = dropped(rule(payload("udp", "dport", 7956), {"xt": {"type": "match", "name": "conntrack"}}, DROP))
    assert found is not None
    assert not found.is_certain


def test_a_named_set_is_looked_into() -> None:
    bad = {"set": {"name": "bad", "elem": [{"elem": {"val": "192.0.2.2", "timeout": 60}}]}}
    assert dropped(bad, rule(payload("ip", "saddr", "@bad"), DROP)) is not None
    assert dropped(bad, rule(payload("ip", "daddr", "@bad"), DROP)) is None
    assert dropped(rule(payload("ip", "daddr", "@gone"), DROP)) is None


def test_the_work_for_the_largest_rulesets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def count(key: str, known: str, value: int) -> bool:
        nonlocal compared
        compared += 1
        return False

    monkeypatch.setattr("netagent.doctor.checks.rule_match._is_within", count)
    many = {"set": {"name": "many", "elem": list(range(MAX_ELEMENTS))}}
    rules = [rule(meta("l4proto", "@many"), DROP)] * (2 * MAX_RULES)
    read = rules_untrusted([many, *rules])
    assert sum(map(len, read.values())) == MAX_RULES
    first_drop(read, "input", GOSSIP)
    assert compared <= MAX_COMPARISONS


def test_a_rule_that_names_a_large_set_costs_no_more_than_one_that_names_a_small_one() -> None:
    """The agent's event loop walks, and other members ask it to."""
    elements = [{"prefix": {"addr": f"10.{n // 200}.{n % 200}.0", "len": 24}} for n in range(MAX_ELEMENTS)]
    many = {"set": {"name": "many", "elem": elements}}
    read = rules_untrusted([many, *[rule(payload("ip", "saddr", "@many"), DROP)] * 20])
    assert first_drop(read, "input", GOSSIP) is None  # puts the set in order, once
    instructions_of(first_drop, read, "input", GOSSIP, most=20_000)


VALUES = st.one_of(
    st.sampled_from(["10.0.0.1", "10.0.0.9", "fd00::1", "nonsense", 7, None]),
    st.builds(
        lambda a, n: {"prefix": {"addr": f"10.0.{a}.0", "len": n}}, st.integers(0, 3), st.integers(0, 33)
    ),
    st.builds(lambda a, b: {"range": [f"10.0.0.{a}", f"10.0.0.{b}"]}, st.integers(0, 9), st.integers(0, 9)),
    st.builds(lambda a, b: {"range": [a, b]}, st.integers(0, 9), st.integers(0, 9)),
)


@given(
    st.lists(VALUES, min_size=9, max_size=14),
    st.sampled_from(["10.0.0.1", "10.0.0.7", "10.0.2.2", "fd00::1"]),
    st.integers(0, 9),
)
def test_a_large_set_says_what_its_elements_say_one_by_one(values: Any, address: str, port: int) -> None:
    packet = Packet(protocol="tcp", port=port, source=address)
    numbers = [one for one in values if not isinstance(one, dict) or "range" in one]
    version = "ip6" if ":" in address else "ip"
    for family, field, elements in ((version, "saddr", values), ("th", "dport", [*numbers, *range(20, 30)])):
        whole = dropped(rule(payload(family, field, {"set": elements}), DROP), packet=packet)
        each = [dropped(rule(payload(family, field, {"set": [v]}), DROP), packet=packet) for v in elements]
        assert (whole is not None) == any(each), field


def test_a_blocklist_is_not_kept_and_not_guessed_at() -> None:
    blocklist = {"set": {"name": "bad", "elem": ["192.0.2.2"] * (MAX_ELEMENTS + 1)}}
    assert dropped(blocklist, rule(payload("ip", "saddr", "@bad"), DROP)) is None
    drop = rule(payload("th", "dport", 7956), DROP)
    assert dropped(blocklist, rule(payload("ip", "saddr", "@bad"), ACCEPT), drop) is None


def listing(*objects: dict[str, Any]) -> str:
    return json.dumps({"nftables": list(objects)})


USE = PortUse(
    "192.0.2.1",
    "eth0",
    {"VXLAN": 4799, "membership": 7956, "records": 7957},
    {"h2": "192.0.2.2", "h3": "192.0.2.3"},
)


def test_a_rule_at_our_ports_is_named_with_who_is_kept_out_and_the_way_out() -> None:
    text = listing(rule(payload("th", "dport", 7956), DROP))
    chains = chains_untrusted(text, [("inet", "site", "input", "input", "accept")])
    (found,) = port_findings(chains, USE)
    assert found.severity is Severity.FAILED
    assert found.message == (
        "the rule `th dport 7956 drop` in chain input of table inet site drops "
        "membership (udp 7956), membership (tcp 7956) from h2, h3"
    )
    assert found.fix.endswith("nft delete rule inet site input handle 4")
    elsewhere = chains_untrusted(text, [("ip6", "site", "input", "input", "accept")])
    assert list(port_findings(elsewhere, USE)) == []


def test_a_rule_at_the_bridge_is_named_and_one_about_spanning_trees_is_not() -> None:
    tcp_80 = rule(payload("tcp", "dport", 80), DROP)
    chains = chains_untrusted(listing(tcp_80), [("bridge", "site", "input", "forward", "accept")])
    (found,) = bridged_findings(chains)
    assert "`tcp dport 80 drop`" in found.message
    spanning_tree = rule(payload("ether", "type", 0x0027), DROP)
    foreign = rule(meta("ibrname", "br0"), payload("tcp", "dport", 80), DROP)
    for other in (spanning_tree, foreign):
        chains = chains_untrusted(listing(other), [("bridge", "site", "input", "forward", "accept")])
        assert list(bridged_findings(chains)) == []
    routed = chains_untrusted(listing(tcp_80), [("inet", "site", "input", "forward", "accept")])
    assert list(bridged_findings(routed)) == []
    ours = rule(meta("iifname", "na-*"), payload("tcp", "dport", 25), DROP)
    routed = chains_untrusted(listing(ours), [("inet", "site", "input", "forward", "accept")])
    assert len(list(bridged_findings(routed))) == 1


KEYS = (
    "expr match left right op payload protocol field meta key set range prefix addr len vmap data drop jump target "
    "xt type name elem val"
)
WORDS = ["th", "dport", "saddr", "@s", "drop", "new", "7"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
)


@given(
    st.lists(
        st.fixed_dictionaries({"rule": JSON | st.fixed_dictionaries({"expr": st.lists(JSON), "chain": JSON})})
    )
)
def test_any_json_is_walked_without_an_error(objects: Any) -> None:
    first_drop(rules_untrusted([one for one in objects if isinstance(one, dict)]), "input", GOSSIP)
