"""Compare netagent's firewall tables with what they should hold, element by element. Pure, but for the reading it is
given.

Elements are compared one by one; of the rules only the number in each chain. The guard (netagent.firewall.guard)
compares rules byte by byte with what it made.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from netagent.doctor.checks.finding import Finding
from netagent.doctor.checks.object_status import ObjectStatus, State
from netagent.firewall import element
from netagent.firewall.element import Family, SetKind, Words
from netagent.firewall.publishing import elements
from netagent.firewall.ruleset import Ruleset
from netagent.firewall.text import TABLE, render
from netagent.journal.rows import LocalEndpointRow
from netagent.projection.firewall_input import port_forwards_of

RESTORE = "netagent restores its tables within two seconds; if it does not, `netagent status` says why"


def rule_counts(ruleset: Ruleset) -> Mapping[Family, Mapping[str, int]]:
    """Return the chains of each of our tables with their numbers of rules, from the input for `nft`."""
    counts: dict[Family, dict[str, int]] = {family: {} for family in Family}
    family, chain = Family.BRIDGE, ""
    for line in render(ruleset).splitlines():
        words = line.split()
        if table := re.fullmatch(rf"table (\w+) {TABLE} {{", line):
            family = Family(table[1])
        elif words[:1] == ["chain"]:
            chain = words[1]
            counts[family][chain] = 0
        elif words[:1] == ["}"]:
            chain = ""
        elif chain and words and words[0] != "type":
            counts[family][chain] += 1
    return counts


def chain_findings(family: Family, wanted: Mapping[str, int], found: Mapping[str, int]) -> Iterator[Finding]:
    """Yield chains that lack rules, have additional ones, or are not ours."""
    for chain, number in wanted.items():
        name = f"chain {chain} of table {family.value} {TABLE}"
        if chain not in found:
            yield Finding(name, f"{name} is missing", RESTORE)
        elif found[chain] != number:
            yield Finding(name, f"{name} has {found[chain]} rules instead of {number}", RESTORE)
    for chain in found.keys() - wanted.keys():
        name = f"chain {chain} of table {family.value} {TABLE}"
        yield Finding(
            name, f"{name} is not netagent's: no other program may keep rules in that table", RESTORE
        )


def published_lines(
    row: LocalEndpointRow, ruleset: Ruleset, lacking: Iterable[tuple[SetKind, Words | bytes]]
) -> Iterator[ObjectStatus]:
    """Yield whether the firewall forwards the published ports of an endpoint of this host to it."""
    gone = set(lacking)
    for one in row.publish:
        port_forwards = port_forwards_of(dataclasses.replace(row, publish=(one,)), ())
        wanted = [
            (kind, words)
            for kind, held in elements(port_forwards, ()).items()
            if kind.value
            for words in held
        ]
        thing = f"{one.text} leads to {row.name}"
        if not wanted or not all(words in ruleset.elements[kind] for kind, words in wanted):
            yield ObjectStatus(
                "published port", thing, State.NOT_NEEDED, "its network is not built, or it is not whole yet"
            )
            continue
        missing = sum(one in gone for one in wanted)
        if missing:
            reason = f"{missing} of {len(wanted)} elements in the maps of table {Family.INET.value} {TABLE}"
            yield ObjectStatus("published port", thing, State.MISSING, reason, RESTORE)
        else:
            yield ObjectStatus("published port", thing, State.PRESENT)


def element_findings(
    ruleset: Ruleset, lacking: Iterable[tuple[SetKind, Words | bytes]], whose: Callable[[str], str]
) -> Iterator[Finding]:
    """Yield elements that are missing, altered or left over. `whose` names the owner of an address, MAC or device."""
    for kind, words in lacking:
        place = f"set {kind.name} of table {kind.family.value} {TABLE}"
        if isinstance(words, bytes):
            yield Finding(place, f"an element of {place} is left over ({words.hex()})", RESTORE)
            continue
        text = element.render(kind, words, ruleset.elements[kind][words])
        owner = next((one for one in map(whose, reversed(words)) if one), "")
        told = f" ({owner})" if owner else ""
        command = f"nft add element {kind.family.value} {TABLE} {kind.name} {{ {text} }}"
        yield Finding(f"{text} in {place}", f"{text} is missing in {place}{told}", command)
