"""ACCEPT rules in Docker's chain DOCKER-USER, without which Docker's rules drop packets of our containers.

Docker sets the policy of the FORWARD chain to DROP. If bridge netfilter is on (`net.bridge.bridge-nf-call-iptables`,
the kernel's default), packets that a bridge forwards between its ports pass that chain too: all traffic of an
overlay. Packets that the host routes for containers always pass it. So while DOCKER-USER exists, the agent keeps one
rule in it for packets within our bridges, and two for each device through which packets leave this host, one per
direction; the same for IPv4 and IPv6:

    -i na-+ -m physdev --physdev-is-bridged -m comment --comment netagent -j ACCEPT
    -i na-+ -o eth0 -m comment --comment netagent -j ACCEPT
    -i eth0 -o na-+ -m comment --comment netagent -j ACCEPT

Our own tables have already checked these packets (netagent.firewall.text). Between our containers and Docker's own
networks Docker's rules apply unchanged. Our rules come first, as the chain may end in a RETURN. The agent recognises
its rules by their comment, leaves them in place when it stops (containers keep running), and removes them in
`remove`. With Docker's nftables backend there is no such chain and nothing to do. The agent does not touch other
rules that drop packets in FORWARD.

`iptables` is the program that Docker itself uses, legacy or nft. The agent reads the ruleset's generation twice per
second and runs the program only when the generation has changed.
"""

from __future__ import annotations

import logging
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from netagent.datapath.netlink import nftables
from netagent.periodic_task import PeriodicTask

CHAIN: Final = "DOCKER-USER"
COMMENT: Final = "netagent"
RULE: Final = f"-i na-+ -m physdev --physdev-is-bridged -m comment --comment {COMMENT} -j ACCEPT"
"""As `iptables -S` prints it."""
_DEVICE: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")

_PROGRAMS: Final = ("iptables", "ip6tables")
_LOCK_S: Final = "5"
"""How long the program waits for the lock of other iptables processes (legacy only)."""
_PATIENCE_S: Final = 10.0
_PERIOD_S: Final = 0.5
"""Seconds between readings, one netlink message each. Until the next one, packets that Docker starts to drop are
lost."""
_BLIND_PERIODS: Final = 60
"""After this many periods the rules are checked in any case: iptables-legacy does not change the generation."""

_log = logging.getLogger(__name__)


class DockerUserChain:
    """Keeps the rules in the network namespace of the process. `egress_interfaces`: the devices through which packets
    of containers leave this host; none outside a cluster."""

    def __init__(self, egress_interfaces: Callable[[], Collection[str]] = frozenset) -> None:
        self._ways_out = egress_interfaces
        self._troubles: dict[str, str] = {}

    def troubles(self) -> tuple[str, ...]:
        """Return a sentence for each failure to change the rules."""
        return tuple(self._troubles.values())

    async def keep(self) -> None:
        """Keep the rules in place while Docker's chain exists; run until cancelled."""
        with nftables.open_socket() as sock:
            seen, periods, task = None, _BLIND_PERIODS, PeriodicTask(_PERIOD_S)
            while True:
                now = _generation(sock), rules_for(self._ways_out())
                periods += 1
                if now != seen or periods > _BLIND_PERIODS:
                    seen, periods = now, 0  # read before the rules, so that no change in between is missed
                    await self.ensure()
                await task.wait()

    async def ensure(self) -> None:
        """Make each rule exist once, if Docker's chain exists. A failure is kept for `troubles` and logged once."""
        for program in _PROGRAMS:
            await self._bring(program, rules_for(self._ways_out()))

    async def remove(self) -> None:
        """Remove all of the rules. A failure is kept for `troubles`."""
        for program in _PROGRAMS:
            await self._bring(program, ())

    async def _bring(self, program: str, wanted: Sequence[str]) -> None:
        listed = await _run(program, "-S", CHAIN)
        if listed is None or listed.returncode != 0:
            self._troubles.pop(program, None)  # no such program, or no such chain: no Docker
            return
        ours = ours_untrusted(listed.stdout.decode("utf-8", "replace"))
        superfluous = list((Counter(ours) - Counter(wanted)).elements())
        orders = [["-I", CHAIN, *rule.split()] for rule in wanted if rule not in ours]
        orders += [["-D", CHAIN, *rule.split()] for rule in superfluous]
        for order in orders:
            done = await _run(program, *order)
            if done is None or done.returncode != 0:
                words = "it did not end" if done is None else done.stderr.decode("utf-8", "replace").strip()
                self._note(program, f"{program} cannot change Docker's chain {CHAIN}: {words[:200]}")
                return
            _log.info("%s %s", program, " ".join(order))
        self._troubles.pop(program, None)

    def _note(self, program: str, trouble: str) -> None:
        if self._troubles.get(program) != trouble:
            _log.warning("%s", trouble)
        self._troubles[program] = trouble


def rules_for(egress_interfaces: Collection[str]) -> tuple[str, ...]:
    """Return the desired rules, as `iptables -S` prints them."""
    ways = sorted(device for device in egress_interfaces if _DEVICE.fullmatch(device))
    routed = [(f"-i na-+ -o {device}", f"-i {device} -o na-+") for device in ways]
    return (
        RULE,
        *(f"{match} -m comment --comment {COMMENT} -j ACCEPT" for pair in routed for match in pair),
    )


def ours_untrusted(listing: str) -> list[str]:
    """Return our rules in the output of `iptables -S DOCKER-USER`, each without its `-A DOCKER-USER`.

    Ours contain no quotes: a rule with quotes belongs to another program, whatever its comment says."""
    start = f"-A {CHAIN} "
    rules = [line.removeprefix(start) for line in listing.splitlines() if line.startswith(start)]
    return [rule for rule in rules if f" --comment {COMMENT} " in f"{rule} " and not set(rule) & set("\"'\\")]


async def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """Run iptables; None when there is no such program, or it does not end."""
    with trio.move_on_after(_PATIENCE_S):
        try:
            return await trio.run_process(
                [program, "-w", _LOCK_S, *arguments],
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        except OSError:
            return None
    return None


def _generation(sock: socket.socket) -> int | None:
    try:
        return nftables.generation(sock)
    except OSError:
        return None
