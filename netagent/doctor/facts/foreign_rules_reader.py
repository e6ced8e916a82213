"""Read other programs' firewall rules, for the doctor and for `status`. Changes nothing.

`nft` prints them, which takes a second on a host with ten thousand rules. So the last result is reused as long as the
ruleset's generation number is unchanged and the result is not too old.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.netlink import nftables
from netagent.doctor.checks.finding import Finding
from netagent.doctor.checks.foreign_rules import (
    BRIDGE_HOOKS,
    BRIDGE_NETFILTER,
    HOOKS,
    OUR_PORTS,
    ROUTE_HOOKS,
    ForeignChain,
    PortUse,
    RulesetError,
    base_chains_untrusted,
    bridged_findings,
    chains_untrusted,
    forward_findings,
    packet_findings,
    port_findings,
)
from netagent.doctor.checks.rule_match import Packet

PROGRAM_S: Final = 3.0
"""Limit for one call of `nft`."""
MAX_OUTPUT_BYTES: Final = 16 << 20
"""Bound of output of `nft` about other programs' rules; beyond it: not examined."""
MAX_CHAINS: Final = 32
SEEN_S: Final = 10.0
"""Age at which rules are read again: the rules of iptables-legacy change no generation."""
SEARCH_PATH: Final = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
"""Includes system folders, which a user's PATH may lack."""


class ForeignRules:
    """Rules that drop our packets, cached for frequent callers."""

    def __init__(self) -> None:
        self._chains: tuple[ForeignChain, ...] = ()
        self._seen = -1
        self._seen_at = float("-inf")
        self._looking = trio.Lock()
        self._judging = trio.Lock()

    async def _judge(self, found: Callable[[], Iterable[Finding]]) -> list[Finding]:
        """Walk through the rules in a thread: thousands of rules would block the event loop for too long. Only one
        walk at a time, or requests of other hosts could use up the processor."""
        async with self._judging:
            return await trio.to_thread.run_sync(lambda: list(found()))

    async def in_the_way(
        self,
        *,
        is_routing: bool,
        is_apart: bool,
        is_bridging: bool = True,
        version: int | None = None,
    ) -> list[Finding]:
        """Return chains that drop what our bridges pass or, with `is_routing`, what containers send out of this host;
        none when they can't be read. `is_apart` as in netagent.doctor.checks.foreign_rules. Without `is_bridging`
        those that judge only bridged packets are left out; with `version` those of the other version of IP."""
        chains = await self.chains()
        left_out = {None: (), 4: ("ip6",), 6: ("ip",)}[version]
        judging = [chain for chain in chains if is_bridging or chain.family != "bridge"]
        judging = [chain for chain in judging if chain.family not in left_out]
        settings = settings_of(BRIDGE_NETFILTER.values())
        return await self._judge(
            lambda: forward_findings(judging, settings, is_routing=is_routing, is_apart=is_apart)
        )

    async def at_bridges(self) -> list[Finding]:
        """Return explicit rules that drop some packets on our bridges."""
        chains = await self.chains()
        return await self._judge(lambda: bridged_findings(chains))

    async def at_ports(self, use: PortUse) -> list[Finding]:
        """Return explicit rules that drop packets between this host and others at our ports."""
        chains = await self.chains()
        return await self._judge(lambda: port_findings(chains, use))

    async def dropping(self, packet: Packet, *, is_inside: bool, is_apart: bool) -> list[Finding]:
        """Return explicit rules that drop a container's packet, which stays inside our networks or leaves them."""
        chains = await self.chains()
        ours = replace(packet, incoming=OUR_PORTS, outgoing=OUR_PORTS, bridge="na-*")
        is_seen = any(value != "0" for value in settings_of(BRIDGE_NETFILTER.values()).values())

        def found() -> Iterator[Finding]:
            if not is_inside:
                yield from packet_findings(chains, replace(ours, outgoing=()), ROUTE_HOOKS, is_bridged=False)
                return
            yield from packet_findings(chains, ours, BRIDGE_HOOKS, is_bridged=True)
            if is_seen and not is_apart:
                yield from packet_findings(chains, ours, ROUTE_HOOKS, is_bridged=False)

        return await self._judge(found)

    async def chains(self) -> tuple[ForeignChain, ...]:
        """Return all known chains, read again if something changed; empty when they can't be read."""
        async with self._looking:  # one `nft` at a time; its result serves all callers that waited
            with closing(nftables.open_socket()) as sock:
                try:
                    generation = nftables.generation(sock)
                except OSError:
                    return ()
            if generation != self._seen or trio.current_time() > self._seen_at + SEEN_S:
                chains: tuple[ForeignChain, ...] | None = await trio.to_thread.run_sync(foreign_chains)
                self._chains = chains or ()
                self._seen, self._seen_at = generation, trio.current_time()
        return self._chains


def settings_of(names: Iterable[str]) -> Mapping[str, str]:
    """Read settings of the kernel by their names under /proc/sys, without those that do not exist."""
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = Path("/proc/sys", name).read_text("ascii").strip()
    return found


def foreign_chains() -> tuple[ForeignChain, ...] | None:
    """Read the chains; None when `nft` can't be run or understood. nft does not show legacy iptables' chains, so
    these are read separately."""
    listed = _said("nft", "-j", "list", "chains")
    if listed is None:
        return None
    found: list[ForeignChain] = []
    try:
        by_table: dict[tuple[str, str], list[tuple[str, str, str, str, str]]] = {}
        for base in base_chains_untrusted(listed, HOOKS)[:MAX_CHAINS]:
            by_table.setdefault(base[:2], []).append(base)
        for (family, table), bases in by_table.items():
            text = _said("nft", "-j", "list", "table", family, table)
            if text is not None:
                found += map(_with_docker_accepts, chains_untrusted(text, bases))
    except RulesetError:
        return None
    return (*found, *_legacy_chains())


def _with_docker_accepts(chain: ForeignChain) -> ForeignChain:
    """Mark our rule in Docker's chain: iptables' matches are opaque in nft's JSON, and so is the rule's comment."""
    if chain.family not in _IPTABLES or chain.hook != "forward" or chain.lets_us_pass:
        return chain
    rules = _said(_IPTABLES[chain.family], "-S", "DOCKER-USER") or ""
    return replace(chain, lets_us_pass="netagent" in rules)


_IPTABLES: Final = {"ip": "iptables", "ip6": "ip6tables"}


def _legacy_chains() -> Iterator[ForeignChain]:
    for family, names in (("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")):
        try:
            tables = Path("/proc/net", names).read_text("ascii").split()
        except OSError:
            continue
        program = _IPTABLES[family] + "-legacy"
        rules = _said(program, "-S", "FORWARD") if "filter" in tables else None
        if rules is not None:
            yield ForeignChain(
                family,
                "filter (legacy)",
                "FORWARD",
                "forward",
                drops_by_policy="-P FORWARD DROP" in rules,
                lets_us_pass="netagent" in (_said(program, "-S", "DOCKER-USER") or ""),
            )


def _said(*command: str) -> str | None:
    program = shutil.which(command[0], path=SEARCH_PATH)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROGRAM_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0 or len(done.stdout) > MAX_OUTPUT_BYTES:
        return None
    return done.stdout.decode("utf-8", "replace")
