"""The warnings of `status` as checks of the doctor: the cluster around this host, and its configuration. Pure.

`status` and `doctor` must agree at any moment: each warning that the other two tables do not examine themselves
becomes a finding here, under the check that its code belongs to. A code that no row names becomes a finding of
`other-warnings`, so a warning that a later release adds is not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from netagent.doctor.checks.finding import Check, Finding, NotKnownError, Severity
from netagent.registry.views import ConflictKind


@dataclass(frozen=True, slots=True)
class StatusWarning:
    """A warning of `status`."""

    code: str
    message: str
    cure: str


_FAILED: Final = {
    "path-down", "path-one-way", "identity", "network-full", "config",
}  # fmt: skip
"""Codes of warnings that make a check fail: a part of netagent itself does not work. Agents of other hosts and the
host's name servers are not part of it."""

_ELSEWHERE: Final = {
    "datapath", "firewall", "bridge-netfilter", "foreign-firewall", "disk-full", "interface", "resolver",
    "underlay-family", "address", "shared-name", *(kind.value for kind in ConflictKind),
}  # fmt: skip
"""Codes of warnings that the checks of the host, or of intent against kernel, examine themselves."""

_ROWS: Final = (
    ("agents", "the agents of all hosts answer", ("agent-dead", "agent-port", "agent-udp")),
    (
        "paths",
        "every path to a host whose agent answers carries the packets of the networks",
        ("path-down", "path-one-way", "path-degraded", "path-lossy", "checksum-offload"),
    ),
    ("tunnel", "the encrypted tunnel works", ("tunnel",)),
    ("resolver-rights", "the resolver process has no more rights than it needs", ("resolver-rights",)),
    ("address-space", "every network has free addresses", ("network-full",)),
    ("name-servers", "the host's name servers answer", ("upstream-dead", "upstream-slow")),
    ("identities", "no other machine has this host's identity", ("identity",)),
    (
        "strangers",
        "no machine outside the cluster sends to this host",
        ("stranger", "cluster-heard", "no-cluster"),
    ),
    ("neighbours", "multicast DNS works", ("mdns",)),
    ("configuration", "the agent runs with the configuration on disk", ("config", "config-waits")),
    ("runtimes", "the agent follows the container runtimes", ("runtime",)),
)


def _of(codes: Sequence[str]) -> Callable[[Sequence[StatusWarning]], Iterator[Finding]]:
    return lambda warnings: (_finding(one) for one in warnings if one.code in codes)


def _others(warnings: Sequence[StatusWarning]) -> Iterator[Finding]:
    known = {code for _, _, codes in _ROWS for code in codes} | _ELSEWHERE
    return (_finding(one) for one in warnings if one.code not in known)


def _finding(one: StatusWarning) -> Finding:
    return Finding(
        one.code, one.message, one.cure, Severity.FAILED if one.code in _FAILED else Severity.WARNING
    )


CLUSTER_CHECKS: Final[tuple[Check[Sequence[StatusWarning]], ...]] = (
    *(Check(name, says, _of(codes)) for name, says, codes in _ROWS),
    Check("other-warnings", "`status` shows no other warning", _others),
)

_OF_MEMBERS: Final = {"agents", "paths", "address-space", "name-servers", "identities"}


def _not_known(_warnings: Sequence[StatusWarning]) -> Iterator[Finding]:
    raise NotKnownError("this host is in no cluster")


ALONE_CHECKS: Final = tuple(
    replace(check, examine=_not_known) if check.name in _OF_MEMBERS else check for check in CLUSTER_CHECKS
)
"""The same checks for a host in no cluster, where `status` examines less."""
