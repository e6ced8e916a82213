"""Decide whether a firewall rule of another program drops a packet. Rules as `nft -j list table` prints them. Pure.

A packet is described as far as it is known. A condition of a rule is then true of it, false, *open* (it depends on
something unknown about the packet, such as its port) or *opaque* (the condition is not understood, such as a match of
an iptables extension). A rule certainly drops the packet when all its conditions are true; it may drop it when others
are opaque. Chains are walked as the kernel walks them: in order, into jumps, until a verdict. An `accept` that may
apply ends the walk, because the rules after it may never be reached. So a reported rule does drop the packet, but a
packet without a report may be dropped all the same.

Packets that open a connection are examined: `ct state established` is false for them, `ct state new` true.
"""

from __future__ import annotations

import enum
import ipaddress
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

MAX_RULES: Final = 10_000
"""Bound of foreign firewall rules read from one table; beyond it: further ones are not read. Each element of a
verdict map counts as one."""
MAX_ELEMENTS: Final = 10_000
"""Bound of elements of a named set that a foreign rule refers to; beyond it: a larger set is not kept; the rule
counts as not understood. A blocklist may be larger."""
MAX_COMPARISONS: Final = 200_000
"""Bound of comparisons with single elements of sets, to judge one packet; beyond it: the rest counts as not
understood."""
_FEW: Final = 8
"""Elements of a set that are compared one by one. Larger sets of addresses or ports are sorted once and searched."""
_MAX_DEPTH: Final = 16
"""Depth of jumps, as the kernel allows."""
_MAX_TEXT: Final = 80
_PROTOCOLS: Final = {"tcp", "udp", "udplite", "sctp", "dccp"}
_PROTOCOL_NUMBERS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}
_LATER_PARTS: Final = {"counter", "comment", "log", "notrack"}
"""Parts of a rule that decide nothing."""
_VERDICTS: Final = {"accept", "drop", "reject", "return", "jump", "goto", "continue"}


_ORDERED: Final = {"saddr", "daddr", "dport"}


class Tristate(enum.Enum):
    """What is known about a condition."""

    TRUE = "true"
    FALSE = "false"
    OPEN = "open"
    """It depends on something unknown about the packet."""
    OPAQUE = "opaque"
    """The condition is not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet that opens a connection, as far as it is known; an empty text or None stands for anything."""

    protocol: str = ""
    """As nft writes it: `tcp`, `udp`, `icmp`, `ipv6-icmp`."""
    port: int | None = None
    """The destination port."""
    source: str = ""
    target: str = ""
    incoming: tuple[str, ...] = ()
    """Names of devices it arrives by; `nv*` is any whose name begins so."""
    outgoing: tuple[str, ...] = ()
    bridge: str = ""
    """The bridge that passes it."""

    @property
    def version(self) -> int | None:
        """4 or 6, where an address determines it."""
        address = self.target or self.source
        return ipaddress.ip_address(address).version if address else None


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. `key` is empty where it is not understood."""

    key: str
    is_negated: bool
    values: tuple[Any, ...]
    """Alternatives, as JSON has them: a number, a word, `{"range": …}` or `{"prefix": …}`."""
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with a verdict. `target` is the chain of a jump."""

    handle: int
    conditions: tuple[Condition, ...]
    verdict: str
    target: str = ""
    is_limited: bool = False
    """Applies only beyond (or within) some rate."""

    @property
    def text(self) -> str:
        """The rule roughly as `nft` prints it."""
        words = [condition.text for condition in self.conditions if condition.text]
        return " ".join([*words, *(["limit …"] if self.is_limited else []), self.verdict])


@dataclass(frozen=True, slots=True)
class Drop:
    """A rule that drops a packet, and the chain that it stands in."""

    chain: str
    rule: Rule
    is_certain: bool


def rules_untrusted(objects: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of a table by chain, in order, from the objects of `nft -j list table`. Never raises: anything
    not understood is opaque. At most MAX_RULES are read; rules that name one set share its elements."""
    bodies = (body for one in objects for body in (one.get("set"), one.get("map")) if isinstance(body, dict))
    sets = {
        str(body.get("name", "")): _values(elements)
        for body in bodies
        if not isinstance(elements := body.get("elem"), list) or len(elements) <= MAX_ELEMENTS
    }
    listed = (body for one in objects if isinstance(body := one.get("rule"), dict))
    read = ((str(body.get("chain", "")), rule) for body in listed for rule in _rules(body, sets))
    chains: dict[str, list[Rule]] = {}
    for chain, rule in islice(read, MAX_RULES):
        chains.setdefault(chain, []).append(rule)
    return {chain: tuple(rules) for chain, rules in chains.items()}


def _rules(body: Mapping[str, Any], sets: Mapping[str, tuple[Any, ...]]) -> Iterator[Rule]:
    """Yield one rule, or those that its verdict map stands for."""
    handle = body.get("handle")
    number = handle if isinstance(handle, int) else 0
    parts = body.get("expr")
    conditions: list[Condition] = []
    is_limited = False
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, dict) or not part:
            continue
        kind, value = next(iter(part.items()))
        if kind in _VERDICTS:
            target = (
                str(value.get("target", "")) if isinstance(value, dict) and kind in {"jump", "goto"} else ""
            )
            yield Rule(number, tuple(conditions), kind, target, is_limited)
            return
        if kind == "vmap":
            yield from _mapped(number, tuple(conditions), value, sets)
            return
        if kind in _LATER_PARTS:
            continue
        if kind == "limit":
            is_limited = True
        elif kind == "match":
            conditions += _conditions(value, sets)
        elif kind == "xt" and isinstance(value, dict) and value.get("type") == "target":
            verdict = {"REJECT": "reject", "DROP": "drop", "ACCEPT": "accept"}.get(str(value.get("name")))
            if verdict is not None:
                yield Rule(number, tuple(conditions), verdict, is_limited=is_limited)
            return
        else:
            conditions.append(_opaque(kind))


def _mapped(
    handle: int, conditions: tuple[Condition, ...], value: object, sets: Mapping[str, tuple[Any, ...]]
) -> Iterator[Rule]:
    if not isinstance(value, dict):
        return
    data = value.get("data")
    pairs = sets.get(data[1:], ()) if isinstance(data, str) and data[:1] == "@" else _values(data)
    left = _left(value.get("key"))
    for pair in pairs:
        match pair:
            case [element, {**verdict}] if verdict:
                kind, target = next(iter(verdict.items()))
                if kind in _VERDICTS:
                    where = str(target.get("target", "")) if isinstance(target, dict) else ""
                    wanted = _condition(left, "==", (_bare(element),))
                    yield Rule(handle, (*conditions, *wanted), kind, where)
            case _:
                continue


def _conditions(match: object, sets: Mapping[str, tuple[Any, ...]]) -> tuple[Condition, ...]:
    if not isinstance(match, dict):
        return (_opaque("match"),)
    right, op = match.get("right"), str(match.get("op"))
    if isinstance(right, str) and right[:1] == "@":
        values = sets.get(right[1:])
        if values is None:
            return (_opaque(right),)
        return _condition(_left(match.get("left")), op, values, shown=right)
    return _condition(_left(match.get("left")), op, _values(right))


def _condition(
    left: tuple[str, str], op: str, values: tuple[Any, ...], *, shown: str = ""
) -> tuple[Condition, ...]:
    """Return `tcp dport 80` as two conditions: the protocol's, which is shown with the second, and the port's."""
    family, field = left
    if op not in {"==", "!=", "in", ""} or (op == "in" and field != "ct state"):
        return (_opaque(f"{family} {field}".strip()),)
    text = " ".join(filter(None, (family, field, "!=" if op == "!=" else "", shown or _shown(values))))
    one = Condition(field if field in _KEYS else "", op == "!=", values, text)
    if field in {"dport", "sport"} and family in _PROTOCOLS:
        return Condition("l4proto", is_negated=False, values=(family,), text=""), one
    if field in {"saddr", "daddr"}:
        return Condition("version", is_negated=False, values=(6 if family == "ip6" else 4,), text=""), one
    return (one,)


def _left(left: object) -> tuple[str, str]:
    """Return (`tcp`, `dport`), (``, `iifname`), …; the field is not in _KEYS where it is not understood."""
    match left:
        case {"payload": {"protocol": str(family), "field": str(field)}}:
            if family in {*_PROTOCOLS, "th"} and field in {"dport", "sport"}:
                return family, field
            if family in {"ip", "ip6"} and field in {"saddr", "daddr"}:
                return family, field
            if (family, field) in {("ip", "protocol"), ("ip6", "nexthdr")}:
                return "", "l4proto"
            return family, f"{family} {field}"
        case {"meta": {"key": str(field)}}:
            return "", {"ibrname": "bridge", "obrname": "bridge"}.get(field, field)
        case {"ct": {"key": "state"}}:
            return "", "ct state"
        case _:
            return "", "…"


_KEYS: Final = {
    "dport", "sport", "saddr", "daddr", "l4proto", "iifname", "oifname", "bridge", "ct state", "version",
}  # fmt: skip


def _opaque(text: str) -> Condition:
    return Condition("", is_negated=False, values=(), text=f"{text} …"[:_MAX_TEXT])


class _Values(tuple[Any, ...]):  # noqa: SLOT001 - a tuple has no slot for the cache
    """Alternatives. Rules that name one set share them, together with their sorted form."""

    _ordered: dict[bool, dict[int, tuple[list[int], list[int]]]] | None = None

    def ordered(self, *, are_addresses: bool) -> dict[int, tuple[list[int], list[int]]]:
        """Return disjoint ranges as sorted first and last numbers, by IP version (0: ports)."""
        known = self._ordered = {} if self._ordered is None else self._ordered
        if are_addresses not in known:
            read = _address_range if are_addresses else _port_range
            by_version: dict[int, list[tuple[int, int]]] = {}
            for version, first, last in filter(None, map(read, self)):
                by_version.setdefault(version, []).append((first, last))
            known[are_addresses] = {version: _merged(found) for version, found in by_version.items()}
        return known[are_addresses]


def _merged(ranges: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted(ranges):
        if lasts and first <= lasts[-1]:
            lasts[-1] = max(lasts[-1], last)
        elif first <= last:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts


def _address_range(value: object) -> tuple[int, int, int] | None:
    """Return (version, first, last); None if it is not an address."""
    try:
        match value:
            case {"range": [first, last]}:
                low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
                return (low.version, int(low), int(high)) if low.version == high.version else None
            case {"prefix": {"addr": address, "len": length}}:
                network = ipaddress.ip_network(f"{address}/{length}", strict=False)
                return network.version, int(network[0]), int(network[-1])
            case str():
                one = ipaddress.ip_address(value)
                return one.version, int(one), int(one)
    except (ValueError, TypeError):
        pass
    return None


def _port_range(value: object) -> tuple[int, int, int] | None:
    match value:
        case {"range": [int(first), int(last)]}:
            return 0, first, last
        case int():
            return 0, value, value
    return None


def _values(right: object) -> tuple[Any, ...]:
    if isinstance(right, dict) and isinstance(right.get("set"), list):
        return _Values(map(_bare, right["set"]))
    if isinstance(right, list):
        return _Values(map(_bare, right))
    return (right,)


def _bare(element: object) -> object:
    """Strip an element's counter and timeout."""
    match element:
        case {"elem": {"val": value}}:
            return value
        case _:
            return element


def _shown(values: tuple[Any, ...]) -> str:
    texts = [_value_text(one) for one in values[:4]] + (["…"] if len(values) > 4 else [])
    text = texts[0] if len(texts) == 1 else "{ " + ", ".join(texts) + " }"
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _value_text(value: object) -> str:
    match value:
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case str() | int():
            return str(value)
        case _:
            return json.dumps(value, default=str)[:_MAX_TEXT]


# -- a walk --------------------------------------------------------------------------------------------------------


def first_drop(chains: Mapping[str, Sequence[Rule]], start: str, packet: Packet) -> Drop | None:
    """Return the rule that drops the packet in this chain or in one that it jumps to; None if no rule does as far as
    is known. Each chain is walked once, and comparisons are bounded by MAX_COMPARISONS."""
    walk = _Walk(chains, packet)
    outcome = walk.chain(start, 0)
    return outcome if isinstance(outcome, Drop) else None


def possible_drops(chains: Mapping[str, Sequence[Rule]], start: str, packet: Packet) -> list[Drop]:
    """Return every rule that drops some packets of this kind, because none of its conditions is false. Rules after a
    verdict that applies to all of them are left out."""
    walk = _Walk(chains, packet)
    found: list[Drop] = []
    queue, seen = [start], {start}
    while queue:
        chain = queue.pop()
        for rule in chains.get(chain, ()):
            truths = [walk.truth(condition) for condition in rule.conditions]
            if Tristate.FALSE in truths:
                continue
            if rule.verdict in {"jump", "goto"} and rule.target not in seen:
                seen.add(rule.target)
                queue.append(rule.target)
            elif rule.verdict in {"drop", "reject"}:
                found.append(Drop(chain, rule, Tristate.OPAQUE not in truths and not rule.is_limited))
            elif rule.verdict == "accept" and all(one is Tristate.TRUE for one in truths):
                break
    return found


class _Outcome(enum.Enum):
    CONTINUE = "continue"
    ENDED = "ended"
    """Accepted, or perhaps accepted."""


class _Walk:
    """One packet through the chains of a table."""

    def __init__(self, chains: Mapping[str, Sequence[Rule]], packet: Packet) -> None:
        self._chains = chains
        self._packet = packet
        self._left = MAX_COMPARISONS
        self._walked: dict[str, Drop | _Outcome] = {}
        self._addresses: dict[str, tuple[int, int]] = {}
        """As numbers, by their text."""

    def chain(self, name: str, depth: int) -> Drop | _Outcome:
        if name not in self._walked:
            # Set before the walk: a loop of jumps, which the kernel refuses, ends here.
            self._walked[name] = _Outcome.CONTINUE
            self._walked[name] = self._walk(name, depth)
        return self._walked[name]

    def _walk(self, name: str, depth: int) -> Drop | _Outcome:
        for rule in self._chains.get(name, ()):
            truths = [self.truth(condition) for condition in rule.conditions]
            if Tristate.FALSE in truths:
                continue
            is_certain = all(one is Tristate.TRUE for one in truths) and not rule.is_limited
            match rule.verdict:
                case "drop" | "reject":
                    if is_certain or self._names_the_port(rule, truths):
                        return Drop(name, rule, is_certain)
                case "accept":
                    return _Outcome.ENDED
                case "return":
                    if is_certain:
                        return _Outcome.CONTINUE
                case "jump" | "goto" if depth < _MAX_DEPTH:
                    outcome = self.chain(rule.target, depth + 1)
                    if isinstance(outcome, Drop):
                        return outcome if is_certain else Drop(outcome.chain, outcome.rule, is_certain=False)
                    if outcome is _Outcome.ENDED or (rule.verdict == "goto" and is_certain):
                        return outcome
                case _:
                    pass
        return _Outcome.CONTINUE

    @staticmethod
    def _names_the_port(rule: Rule, truths: Sequence[Tristate]) -> bool:
        """True if the rule names the packet's port. Only then does a drop under opaque conditions count as a drop of
        this packet: `ct state invalid drop` concerns no packet in particular."""
        keys = {one.key for one, truth in zip(rule.conditions, truths, strict=True) if truth is Tristate.TRUE}
        return "dport" in keys and not rule.is_limited

    def truth(self, condition: Condition) -> Tristate:
        """Evaluate a condition for the packet."""
        known = self._known(condition.key)
        if known is None:
            return Tristate.OPAQUE
        if not known:
            return Tristate.OPEN
        if (
            isinstance(condition.values, _Values)
            and len(condition.values) > _FEW
            and condition.key in _ORDERED
        ):
            holds = any(self._is_in(condition.key, one, condition.values) for one in known)
            return Tristate.TRUE if holds is not condition.is_negated else Tristate.FALSE
        for value in condition.values:
            self._left -= 1
            if self._left < 0:
                return Tristate.OPAQUE
            holds = any(_is_within(condition.key, one, value) for one in known)
            if holds:
                return Tristate.FALSE if condition.is_negated else Tristate.TRUE
        return Tristate.TRUE if condition.is_negated else Tristate.FALSE

    def _is_in(self, key: str, known: Any, values: _Values) -> bool:
        version, number = 0, known
        if key != "dport":
            if known not in self._addresses:
                address = ipaddress.ip_address(known)
                self._addresses[known] = address.version, int(address)
            version, number = self._addresses[known]
        firsts, lasts = values.ordered(are_addresses=key != "dport").get(version, ([], []))
        place = bisect_right(firsts, number) - 1
        return place >= 0 and number <= lasts[place]

    def _known(self, key: str) -> tuple[Any, ...] | None:
        """Return the packet's values for a key; empty: unknown, so anything. None: the key is not understood."""
        packet = self._packet
        match key:
            case "dport":
                return () if packet.port is None else (packet.port,)
            case "saddr":
                return (packet.source,) if packet.source else ()
            case "daddr":
                return (packet.target,) if packet.target else ()
            case "l4proto":
                return (packet.protocol,) if packet.protocol else ()
            case "iifname":
                return packet.incoming
            case "oifname":
                return packet.outgoing
            case "bridge":
                return (packet.bridge,) if packet.bridge else ()
            case "version":
                return () if packet.version is None else (packet.version,)
            case "ct state":
                return ("new",)
            case "sport":
                return ()
            case _:
                return None


def _is_within(key: str, known: Any, value: object) -> bool:
    """True if a known value of the packet is the one that a rule asks for."""
    try:
        match value:
            case {"range": [first, last]}:
                if key in {"saddr", "daddr"}:
                    low, high, one = map(ipaddress.ip_address, (first, last, known))
                    return low.version == one.version and int(low) <= int(one) <= int(high)
                return bool(first <= known <= last)
            case {"prefix": {"addr": address, "len": length}}:
                network = ipaddress.ip_network(f"{address}/{length}", strict=False)
                return bool(ipaddress.ip_address(known) in network)
            case str() if key in {"iifname", "oifname", "bridge"}:
                return _covers(value, str(known)) or _covers(str(known), value)
            case str() if key in {"saddr", "daddr"}:
                return bool(ipaddress.ip_address(value) == ipaddress.ip_address(known))
            case int() if key == "l4proto":
                return bool(_PROTOCOL_NUMBERS.get(value) == known)
            case "icmpv6":
                return bool(known == "ipv6-icmp")
            case _:
                return bool(value == known)
    except (ValueError, TypeError):
        return False


def _covers(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
