"""What `nft -j` prints, read."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.doctor.checks.foreign_rules import (
    ForeignChain,
    RulesetError,
    base_chains_untrusted,
    chains_untrusted,
)

BASE = ("ip", "filter", "FORWARD", "forward", "drop")


def chain_untrusted(text: str, base: tuple[str, str, str, str, str]) -> ForeignChain:
    (found,) = chains_untrusted(text, [base])
    return found


def chain(**fields: Any) -> dict[str, Any]:
    return {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", **fields}}


def rule(*expressions: Any, of: Any = "FORWARD", **fields: str) -> dict[str, Any]:
    return {"rule": {"family": "ip", "table": "filter", "chain": of, "expr": list(expressions), **fields}}


def printed(*objects: Any) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]})


def match(right: dict[str, Any] | int) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": right}}


def test_foreign_base_chains_at_the_hooks_that_matter() -> None:
    text = printed(
        chain(hook="forward", policy="drop", type="filter", prio=0),
        chain(name="USER"),
        chain(name="OUT", hook="output", policy="drop"),
        {"chain": {"family": "inet", "table": "netagent", "name": "f", "hook": "forward", "policy": "drop"}},
    )
    assert base_chains_untrusted(text, ("forward", "input")) == [BASE]


def test_a_chain_with_its_rules() -> None:
    text = printed(
        rule({"jump": {"target": "USER"}}),
        rule(match({"set": [22, {"range": [4790, 4800]}]}), {"accept": None}, of="USER"),
        rule(match(7956), {"accept": None}, of="UNREACHED"),
    )
    found = chain_untrusted(text, BASE)
    assert found.drops_by_policy
    assert not found.drops_by_rule
    assert {22, 4799} <= found.ports
    assert 7956 not in found.ports
    assert not found.lets_us_pass


@pytest.mark.parametrize(
    ("expressions", "drops"),
    [
        (({"drop": None},), True),
        (({"counter": {"packets": 1}}, {"reject": None}), True),
        ((match(80), {"drop": None}), False),
        (({"counter": {}},), False),
        ((), False),
    ],
)
def test_a_rule_that_drops_whatever_comes(expressions: Any, drops: bool) -> None:
    base = (*BASE[:4], "accept")
    found = chain_untrusted(printed(rule(*expressions)), base)
    assert (found.drops_by_policy, found.drops_by_rule) == (False, drops)


def test_a_rule_of_ours_is_known_by_its_comment() -> None:
    text = printed(
        rule({"jump": {"target": "DOCKER-USER"}}),
        rule({"accept": None}, of="DOCKER-USER", comment="netagent"),
    )
    assert chain_untrusted(text, BASE).lets_us_pass


@pytest.mark.parametrize("odd", [[], {}, None, 7])
def test_what_stands_in_the_place_of_a_name_is_no_chain_of_ours(odd: Any) -> None:
    jump = {"jump": {"target": odd}}
    text = printed({"chain": {"hook": odd, "table": odd}}, rule(jump, {"drop": None}, of=odd), rule(jump))
    assert base_chains_untrusted(text, ("forward",)) == []
    found = chain_untrusted(text, (*BASE[:4], "accept"))
    assert (found.drops_by_policy, found.drops_by_rule, found.lets_us_pass) == (False, False, False)


@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["nftables", "chain", "rule", "expr", "hook"]), inner, max_size=3
            )
        ),
    ).map(json.dumps)
)
def test_anything_printed_is_a_ruleset_or_an_error(text: str) -> None:
    with contextlib.suppress(RulesetError):
        base_chains_untrusted(text, ("forward",))
    with contextlib.suppress(RulesetError):
        chain_untrusted(text, BASE)
