"""A few accepts in Docker's own chain for users' rules, without which Docker stops our containers from talking.

Docker gives the FORWARD chain the policy DROP. Where bridge netfilter is on (`net.bridge.bridge-nf-call-iptables`,
the kernel's default), that chain also judges what a bridge passes from port to port: all traffic of an overlay. And
in any case it judges what the host routes for containers. So while DOCKER-USER exists, there is one rule in it for
what a bridge of ours passes between its ports, and two for each device that leads out of this host, to and fro; the
same for IPv4 and IPv6:

    -i na-+ -m physdev --physdev-is-bridged -m comment --comment netagent -j ACCEPT
    -i na-+ -o eth0 -m comment --comment netagent -j ACCEPT
    -i eth0 -o na-+ -m comment --comment netagent -j ACCEPT

Our own tables have judged those packets before (netagent.firewall.text). Between our containers and Docker's own
networks Docker's rules stand as they are. Ours stand first, as the chain may end in a RETURN. Rules of ours are
known by their comment, are left where they are when the agent stops (containers go on), and are removed by `remove`.
With Docker's nftables backend there is no such chain and nothing to do; any other FORWARD drop is its owner's
business.

`iptables` is the program that Docker itself uses, legacy or nft; the ruleset's generation is read twice a second and
the program is only run when it has moved.
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

CHAIN: Final = "DOCKER-USER"
COMMENT: Final = "netagent"
RULE: Final = f"-i na-+ -m physdev --physdev-is-bridged -m comment --comment {COMMENT} -j ACCEPT"
"""As `iptables -S` spells it."""
_DEVICE: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")

_PROGRAMS: Final = ("iptables", "ip6tables")
_LOCK_S: Final = "5"
"""How long the program waits for others of its kind (legacy only)."""
_PATIENCE_S: Final = 10.0
_PERIOD_S: Final = 0.5
"""One netlink message each time. Until then what Docker has just forbidden is lost."""
_BLIND_PERIODS: Final = 60
"""After so many periods the rules are looked at in any case: iptables-legacy moves no generation."""

_log = logging.getLogger(__name__)


class DockerUserChain:
    """Keeps the rules in the network namespace of the process. `egress_interfaces`: the devices by which packets of
    containers leave this host; none while it is in no cluster."""

    def __init__(self, egress_interfaces: Callable[[], Collection[str]] = frozenset) -> None:
        self._ways_out = egress_interfaces
        self._troubles: dict[str, str] = {}

    def troubles(self) -> tuple[str, ...]:
        """Why a rule could not be made, a sentence each; empty when all is well."""
        return tuple(self._troubles.values())

    async def keep(self) -> None:
        """Have the rules there for as long as Docker has its chain, until cancelled."""
        with nftables.open_socket() as sock:
            seen, periods = None, _BLIND_PERIODS
            while True:
                now = _generation(sock), rules_for(self._ways_out())
                periods += 1
                if now != seen or periods > _BLIND_PERIODS:
                    seen, periods = now, 0  # read before the rules, so that no change in between is missed
                    await self.ensure()
                await trio.sleep(_PERIOD_S)

    async def ensure(self) -> None:
        """Have each rule once, where Docker has its chain. What fails is kept for `troubles`, and logged once."""
        for program in _PROGRAMS:
            await self._bring(program, rules_for(self._ways_out()))

    async def remove(self) -> None:
        """Have none of the rules. What fails is kept for `troubles`."""
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
                self._note(program, f"{program} can't change Docker's chain {CHAIN}: {words[:200]}")
                return
            _log.info("%s %s", program, " ".join(order))
        self._troubles.pop(program, None)

    def _note(self, program: str, trouble: str) -> None:
        if self._troubles.get(program) != trouble:
            _log.warning("%s", trouble)
        self._troubles[program] = trouble


def rules_for(egress_interfaces: Collection[str]) -> tuple[str, ...]:
    """The rules that there should be, as `iptables -S` spells them."""
    ways = sorted(device for device in egress_interfaces if _DEVICE.fullmatch(device))
    routed = [(f"-i na-+ -o {device}", f"-i {device} -o na-+") for device in ways]
    return (
        RULE,
        *(f"{match} -m comment --comment {COMMENT} -j ACCEPT" for pair in routed for match in pair),
    )


def ours_untrusted(listing: str) -> list[str]:
    """Our rules in the output of `iptables -S DOCKER-USER`, each without its `-A DOCKER-USER`.

    None has quotes in it: one that has is somebody else's, whatever its comment says."""
    start = f"-A {CHAIN} "
    rules = [line.removeprefix(start) for line in listing.splitlines() if line.startswith(start)]
    return [rule for rule in rules if f" --comment {COMMENT} " in f"{rule} " and not set(rule) & set("\"'\\")]


async def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """None when there is no such program, or it does not end."""
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
