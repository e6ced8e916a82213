"""Find rules of other programs that would drop our packets, from the output of `nft -j`. Pure.

Three things are recognised: a policy that drops, a rule that drops or rejects every packet that reaches it, and an
explicit rule that drops packets of ours (netagent.doctor.checks.rule_match). A chain that drops by policy at `input`
is only a warning, and only where none of its rules mentions a port of ours: its rules may accept more than is
visible here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from netagent.doctor.checks.finding import Finding, Severity
from netagent.doctor.checks.rule_match import Drop, Packet, Rule, first_drop, possible_drops, rules_untrusted

BRIDGE_NETFILTER: Final = {
    "ip": "net/bridge/bridge-nf-call-iptables",
    "ip6": "net/bridge/bridge-nf-call-ip6tables",
}
TAGGED_TOO: Final = "net/bridge/bridge-nf-filter-vlan-tagged"
"""Makes bridge netfilter see frames with a VLAN tag as well, and so those that
netagent.datapath.reconcile.bridge_nf_bypass keeps from it.
"""
_IDLE: Final = {"counter", "comment", "log", "limit"}
"""Parts of a rule that pass every packet on to the next part."""
_OURS: Final = "netagent"
_OUR_TABLES: Final = {_OURS, "netagent-nat"}
_MAX_RULES: Final = 10_000
_ACCEPT: Final = f"accept comment {_OURS}"
"""The comment marks the rule as one for netagent."""


class RulesetError(Exception):
    """The text is not a ruleset."""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A base chain of another program."""

    family: str
    table: str
    name: str
    hook: str
    drops_by_policy: bool
    drops_by_rule: bool = False
    """A rule in it drops or rejects every packet that reaches it."""
    lets_us_pass: bool = False
    """A rule for netagent, known by its comment, is in it or in a chain that it jumps to."""
    ports: frozenset[int] = frozenset()
    """Ports that its rules mention."""
    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict, compare=False, repr=False)
    """The rules of the whole table, by chain."""

    @property
    def text(self) -> str:
        """The chain as `nft` names it."""
        return f"chain {self.name} of table {self.family} {self.table}"


def base_chains_untrusted(text: str, hooks: Iterable[str]) -> list[tuple[str, str, str, str, str]]:
    """(family, table, chain, hook, policy) of foreign base chains, from `nft -j list chains`. RulesetError."""
    wanted = set(hooks)
    found = []
    for chain in _of_kind(_listed_untrusted(text), "chain"):
        family, table, name, hook, policy = (
            _name(chain, key) for key in ("family", "table", "name", "hook", "policy")
        )
        if hook in wanted and table not in _OUR_TABLES:
            found.append((family, table, name, hook, policy))
    return found


def chains_untrusted(text: str, bases: Iterable[tuple[str, str, str, str, str]]) -> list[ForeignChain]:
    """Base chains of one table with their rules, from `nft -j list table`. RulesetError."""
    listed = _listed_untrusted(text)
    rules = _of_kind(listed, "rule")[:_MAX_RULES]
    by_chain = rules_untrusted(listed)
    return [_chain(base, rules, by_chain) for base in bases]


def _chain(
    base: tuple[str, str, str, str, str],
    rules: list[Mapping[str, Any]],
    by_chain: Mapping[str, tuple[Rule, ...]],
) -> ForeignChain:
    family, table, name, hook, policy = base
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
        rules=by_chain,
    )


def _listed_untrusted(text: str) -> list[Mapping[str, Any]]:
    try:
        listed = json.loads(text)["nftables"]
        return [one for one in listed if isinstance(one, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RulesetError(f"not a ruleset: {error}") from None


def _of_kind(listed: Iterable[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [one[kind] for one in listed if isinstance(one.get(kind), dict)]


def _name(thing: Mapping[str, Any], key: str) -> str:
    """Return a word of nft's output, whatever type it has."""
    return str(thing.get(key, ""))


def _expressions(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = rule.get("expr")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _reached(rules: Iterable[Mapping[str, Any]], start: str) -> set[str]:
    """Return the chain and those that it jumps to."""
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
    """Yield the ports in a value, a set or a range; ranges of more than 4,096 count by their ends."""
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
    """Yield chains at `forward` that drop what our bridges pass between ports; with `is_routing` also those that drop
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
                yield _egress_finding(chain, way)
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
            chain.text,
            f"{chain.text} drops packets on netagent's bridges {way}{because}",
            ", or ".join(fixes),
        )


def netfilter_finding(settings: Mapping[str, str]) -> Finding | None:
    """Return a finding if bridge netfilter is on and sees what our bridges pass."""
    on = [one.replace("/", ".") for one in BRIDGE_NETFILTER.values() if settings.get(one, "0") != "0"]
    if not on:
        return None
    off = f"sysctl -w {'=0 '.join(on)}=0"
    what = "packets on netagent's bridges also pass the host's rules for routed packets"
    if settings.get(TAGGED_TOO, "0") != "0":
        dotted = TAGGED_TOO.replace("/", ".")
        return Finding(dotted, f"{what}: {dotted} is on", f"sysctl -w {dotted}=0, or {off}", Severity.WARNING)
    why = "nothing exempts the bridges, which takes Linux 6.6 and a running agent"
    return Finding(on[0], f"{what}: {' and '.join(on)} is on, and {why}", off, Severity.WARNING)


def _egress_finding(chain: ForeignChain, way: str) -> Finding:
    place = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    return Finding(
        chain.text,
        f"{chain.text} drops packets that containers send out of this host {way}",
        f'{place} iifname "na-*" {_ACCEPT}; {place} oifname "na-*" {_ACCEPT}',
        Severity.WARNING,
    )


def _bridged(family: str) -> str:
    return 'meta ibrname "na-*"' if family == "bridge" else 'iifname "na-*" oifname "na-*"'


def input_findings(chains: Iterable[ForeignChain], ports: Mapping[str, int]) -> Iterator[Finding]:
    """Yield chains at `input` that drop by policy and do not mention a port of ours."""
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
                f"{chain.text} drops packets by default, and none of its rules mentions {told}",
                f"nft insert rule {chain.family} {chain.table} {chain.name} {rule}",
                Severity.WARNING,
            )


# -- explicit rules ------------------------------------------------------------------------------------------------

INWARD_HOOKS: Final = ("ingress", "prerouting", "input")
OUTWARD_HOOKS: Final = ("output", "postrouting")
BRIDGE_HOOKS: Final = ("prerouting", "forward", "postrouting")
ROUTE_HOOKS: Final = BRIDGE_HOOKS
HOOKS: Final = tuple(dict.fromkeys((*INWARD_HOOKS, *BRIDGE_HOOKS, *OUTWARD_HOOKS)))
"""All hooks that are examined."""
OUR_PORTS: Final = ("nv*", "nx-*", "na-*")
"""Ports of our bridges, and the bridges in whose names bridge netfilter shows them."""
_VERSIONS: Final = {"ip": 4, "ip6": 6}
_MAX_PEERS: Final = 16
"""Other hosts whose packets are matched against the rules."""


@dataclass(frozen=True, slots=True)
class PortUse:
    """The traffic between hosts: from which address, to which addresses, at which ports."""

    address: str
    device: str
    """The device with the address; empty: not known."""
    ports: Mapping[str, int]
    """By `VXLAN`, `membership` and `records`."""
    others: Mapping[str, str]
    """Addresses of other hosts, by name."""


def port_findings(chains: Iterable[ForeignChain], use: PortUse) -> Iterator[Finding]:
    """Yield explicit rules that drop packets between this host and others at our ports."""
    dropped: dict[tuple[str, str], tuple[ForeignChain, Drop, dict[str, None], dict[str, None]]] = {}
    chains = [chain for chain in chains if chain.family != "bridge" and chain.hook != "forward"]
    for name, other in list(use.others.items())[:_MAX_PEERS]:
        for chain in chains:
            for what, packet in _at_our_ports(use, other, is_inward=chain.hook in INWARD_HOOKS):
                drop = _drop_in(chain, packet)
                if drop is not None:
                    key = (chain.text, f"{drop.chain} {drop.rule.handle} {drop.rule.text}")
                    _, _, whats, names = dropped.setdefault(key, (chain, drop, {}, {}))
                    whats[what], names[name] = None, None
    for chain, drop, whats, names in dropped.values():
        way = "from" if chain.hook in INWARD_HOOKS else "to"
        listed = ", ".join(whats)
        yield Finding(
            chain.text,
            f"{_rule_text(chain, drop)} {_drops(drop)} {listed} {way} {', '.join(sorted(names))}",
            _rule_fix(chain, drop),
            Severity.FAILED if drop.is_certain else Severity.WARNING,
        )


def _at_our_ports(use: PortUse, other: str, *, is_inward: bool) -> Iterator[tuple[str, Packet]]:
    ends = (other, use.address) if is_inward else (use.address, other)
    devices = (use.device,) if use.device else ()
    for what, port in use.ports.items():
        for protocol in ("udp",) if what == "VXLAN" else ("udp", "tcp"):
            yield (
                f"{what} ({protocol} {port})",
                Packet(
                    protocol=protocol,
                    port=port,
                    source=ends[0],
                    target=ends[1],
                    incoming=devices if is_inward else (),
                    outgoing=() if is_inward else devices,
                ),
            )


def bridged_findings(chains: Iterable[ForeignChain]) -> Iterator[Finding]:
    """Yield explicit rules that drop some packets on our bridges: any at the bridge hooks, and those at routing hooks
    that name our bridges."""
    for chain in chains:
        is_bridge = chain.family == "bridge" and chain.hook in BRIDGE_HOOKS
        if not is_bridge and (chain.hook != "forward" or chain.family == "netdev"):
            continue
        if chain.drops_by_policy or chain.drops_by_rule:
            continue  # forward_findings reports them
        packet = Packet(incoming=OUR_PORTS, outgoing=OUR_PORTS, bridge="na-*")
        for drop in possible_drops(chain.rules, chain.name, packet):
            keys = {one.key for one in drop.rule.conditions if not one.is_negated}
            if not keys & ({"iifname", "oifname", "bridge"} if not is_bridge else {*_PACKET_KEYS}):
                continue
            yield Finding(
                chain.text,
                f"{_rule_text(chain, drop)} drops some packets on netagent's bridges",
                _rule_fix(chain, drop),
                Severity.WARNING,
            )


_PACKET_KEYS: Final = (
    "dport",
    "sport",
    "saddr",
    "daddr",
    "l4proto",
    "iifname",
    "oifname",
    "bridge",
    "version",
)
"""Keys of rules about IP packets; rules about spanning tree frames have none of them."""


def packet_findings(
    chains: Iterable[ForeignChain], packet: Packet, hooks: Iterable[str], *, is_bridged: bool
) -> Iterator[Finding]:
    """Yield explicit rules that drop one packet of a container: at the bridge, or where it is routed and, with bridge
    netfilter, at the bridge as well."""
    wanted = set(hooks)
    for chain in chains:
        if chain.hook not in wanted or (chain.family == "bridge") is not is_bridged:
            continue
        drop = _drop_in(chain, packet)
        if drop is not None:
            yield Finding(
                chain.text,
                f"{_rule_text(chain, drop)} {_drops(drop)} it",
                _rule_fix(chain, drop),
                Severity.FAILED if drop.is_certain else Severity.WARNING,
            )


def _drop_in(chain: ForeignChain, packet: Packet) -> Drop | None:
    """Return an explicit rule that drops it; a rule without conditions is the finding of another check."""
    version = _VERSIONS.get(chain.family)
    if version is not None and packet.version not in {None, version}:
        return None
    drop = first_drop(chain.rules, chain.name, packet)
    return drop if drop is not None and drop.rule.conditions else None


def _drops(drop: Drop) -> str:
    return "drops" if drop.is_certain else "may drop"


def _rule_text(chain: ForeignChain, drop: Drop) -> str:
    return f"the rule `{drop.rule.text}` in chain {drop.chain} of table {chain.family} {chain.table}"


def _rule_fix(chain: ForeignChain, drop: Drop) -> str:
    place = f"{chain.family} {chain.table} {drop.chain}"
    return f"if nothing needs that rule: nft delete rule {place} handle {drop.rule.handle}"
