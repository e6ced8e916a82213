"""Other people's rules that would stop our packets, from what `nft -j` prints. Pure.

Not every rule is understood: what is recognised is a policy that drops, and a rule that drops or rejects whatever
comes to it. A chain that drops by policy at `input` is a warning only, and only where no rule in it mentions a port
of ours: which packets its rules accept is more than can be told from outside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from netagent.doctor.finding import Finding, Severity

BRIDGE_NETFILTER: Final = {
    "ip": "net/bridge/bridge-nf-call-iptables",
    "ip6": "net/bridge/bridge-nf-call-ip6tables",
}
TAGGED_TOO: Final = "net/bridge/bridge-nf-filter-vlan-tagged"
"""Bridge netfilter sees frames with a VLAN tag as well, and so those that netagent.datapath.tagging keeps from it."""
_IDLE: Final = {"counter", "comment", "log", "limit"}
"""Parts of a rule that let everything on to the next part."""
_OURS: Final = "netagent"
_MAX_RULES: Final = 10_000
_ACCEPT: Final = f"accept comment {_OURS}"
"""With the word by which the rule is known to be for us."""


class RulesetError(Exception):
    """What was printed is no ruleset."""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain that is not ours."""

    family: str
    table: str
    name: str
    hook: str
    drops_by_policy: bool
    drops_by_rule: bool = False
    """A rule in it drops or rejects whatever comes to it."""
    lets_us_pass: bool = False
    """A rule of ours, known by its comment, stands in it or in what it jumps to."""
    ports: frozenset[int] = frozenset()
    """Ports that its rules mention."""

    @property
    def text(self) -> str:
        """As `nft` names it."""
        return f"chain {self.name} of table {self.family} {self.table}"


def base_chains_untrusted(text: str, hooks: Iterable[str]) -> list[tuple[str, str, str, str, str]]:
    """(family, table, chain, hook, policy) of foreign base chains, from `nft -j list chains`. RulesetError."""
    wanted = set(hooks)
    found = []
    for chain in _objects_untrusted(text, "chain"):
        family, table, name, hook, policy = (
            _name(chain, key) for key in ("family", "table", "name", "hook", "policy")
        )
        if hook in wanted and table != _OURS:
            found.append((family, table, name, hook, policy))
    return found


def chain_untrusted(text: str, base: tuple[str, str, str, str, str]) -> ForeignChain:
    """A base chain with its rules, from `nft -j list table`. RulesetError."""
    family, table, name, hook, policy = base
    rules = _objects_untrusted(text, "rule")[:_MAX_RULES]
    reached = _reached(rules, name)
    mine = [rule for rule in rules if _name(rule, "chain") == name]
    return ForeignChain(
        family,
        table,
        name,
        hook,
        drops_by_policy=policy == "drop",
        drops_by_rule=any(_drops_everything(rule) for rule in mine),
        lets_us_pass=any(_OURS in json.dumps(r) for r in rules if _name(r, "chain") in reached),
        ports=frozenset(_ports(rule for rule in rules if _name(rule, "chain") in reached)),
    )


def _objects_untrusted(text: str, kind: str) -> list[Mapping[str, Any]]:
    try:
        listed = json.loads(text)["nftables"]
        return [one[kind] for one in listed if isinstance(one, dict) and isinstance(one.get(kind), dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RulesetError(f"not a ruleset: {error}") from None


def _name(thing: Mapping[str, Any], key: str) -> str:
    """A word of nft's, whatever stands in its place."""
    return str(thing.get(key, ""))


def _expressions(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = rule.get("expr")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _reached(rules: Iterable[Mapping[str, Any]], start: str) -> set[str]:
    """The chain and those that it jumps to."""
    jumps: dict[str, set[str]] = {}
    for rule in rules:
        for part in _expressions(rule):
            for word in ("jump", "goto"):
                target = part.get(word)
                if isinstance(target, dict):
                    jumps.setdefault(_name(rule, "chain"), set()).add(_name(target, "target"))
    reached, queue = {start}, [start]
    while queue:
        for chain in jumps.get(queue.pop(), set()) - reached:
            reached.add(chain)
            queue.append(chain)
    return reached


def _drops_everything(rule: Mapping[str, Any]) -> bool:
    kinds = [next(iter(part), "") for part in _expressions(rule)]
    return bool(kinds) and kinds[-1] in {"drop", "reject"} and set(kinds[:-1]) <= _IDLE


def _ports(rules: Iterable[Mapping[str, Any]]) -> Iterator[int]:
    for rule in rules:
        for part in _expressions(rule):
            match = part.get("match")
            if isinstance(match, dict):
                yield from _numbers(match.get("right"))


def _numbers(value: object) -> Iterator[int]:
    """Ports in a value, a set or a range; ranges of more than 4,096 count by their ends."""
    match value:
        case bool():
            return
        case int():
            yield value
        case {"set": list(parts)}:
            for part in parts:
                yield from _numbers(part)
        case {"range": [int(first), int(last)]}:
            yield from range(first, last + 1) if last - first < 1 << 12 else (first, last)


def forward_findings(
    chains: Iterable[ForeignChain],
    settings: Mapping[str, str],
    *,
    is_routing: bool = False,
    is_apart: bool = False,
) -> Iterator[Finding]:
    """Chains at `forward` that drop what our bridges pass from port to port; with `is_routing` also those that drop
    what the host routes for containers. `is_apart`: bridge netfilter does not see what our bridges pass."""
    for chain in chains:
        if (
            chain.hook != "forward"
            or not (chain.drops_by_policy or chain.drops_by_rule)
            or chain.lets_us_pass
        ):
            continue
        families = ("ip", "ip6") if chain.family == "inet" else (chain.family,)
        switches = [BRIDGE_NETFILTER[one] for one in families if one in BRIDGE_NETFILTER and not is_apart]
        on = [switch for switch in switches if settings.get(switch, "0") != "0"]
        way = "by its policy" if chain.drops_by_policy else "by a rule"
        if chain.family != "bridge" and not on:
            if is_routing and chain.family in {"ip", "ip6", "inet"}:
                yield _closed_way_out(chain, way)
            continue
        dotted = " and ".join(switch.replace("/", ".") for switch in on)
        has = "have" if len(on) > 1 else "has"
        because = f", and {dotted} {has} it judge bridged packets" if on else ""
        fixes = [
            f"nft insert rule {chain.family} {chain.table} {chain.name} {_bridged(chain.family)} {_ACCEPT}"
        ]
        if on:
            fixes.append("sysctl -w " + " ".join(f"{switch.replace('/', '.')}=0" for switch in on))
        yield Finding(
            chain.text, f"{chain.text} drops {way} what our bridges pass{because}", ", or ".join(fixes)
        )


def netfilter_finding(settings: Mapping[str, str]) -> Finding | None:
    """Of a host where bridge netfilter sees what our bridges pass, if it is on."""
    on = [one.replace("/", ".") for one in BRIDGE_NETFILTER.values() if settings.get(one, "0") != "0"]
    if not on:
        return None
    off = f"sysctl -w {'=0 '.join(on)}=0"
    what = "what our bridges pass goes through the host's rules for routed packets as well"
    if settings.get(TAGGED_TOO, "0") != "0":
        dotted = TAGGED_TOO.replace("/", ".")
        return Finding(dotted, f"{what}: {dotted} is on", f"sysctl -w {dotted}=0, or {off}", Severity.WARNING)
    why = "nothing keeps it from them, which takes Linux 6.6 and a running agent"
    return Finding(on[0], f"{what}: {' and '.join(on)} is on, and {why}", off, Severity.WARNING)


def _closed_way_out(chain: ForeignChain, way: str) -> Finding:
    place = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    return Finding(
        chain.text,
        f"{chain.text} drops {way} what containers send out of this host",
        f'{place} iifname "na-*" {_ACCEPT}; {place} oifname "na-*" {_ACCEPT}',
        Severity.WARNING,
    )


def _bridged(family: str) -> str:
    return 'meta ibrname "na-*"' if family == "bridge" else 'iifname "na-*" oifname "na-*"'


def input_findings(chains: Iterable[ForeignChain], ports: Mapping[str, int]) -> Iterator[Finding]:
    """Chains at `input` that drop by policy, and do not mention a port of ours."""
    for chain in chains:
        if chain.hook != "input" or not (chain.drops_by_policy or chain.drops_by_rule):
            continue
        if chain.family == "bridge":
            continue
        missing = {what: port for what, port in ports.items() if port not in chain.ports}
        if missing:
            told = ", ".join(f"{what} ({port})" for what, port in missing.items())
            listed = ", ".join(sorted({str(port) for port in missing.values()}))
            rule = f"meta l4proto {{ tcp, udp }} th dport {{ {listed} }} accept"
            yield Finding(
                chain.text,
                f"{chain.text} drops what it does not know, and no rule of it mentions {told}",
                f"nft insert rule {chain.family} {chain.table} {chain.name} {rule}",
                Severity.WARNING,
            )
