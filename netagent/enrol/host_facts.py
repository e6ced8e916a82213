"""What is known of a host before anything is copied to it, and whether netagent can be installed there. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_FACTS_BYTES: Final = 16 * 1024
"""Bound of what the other host may say of itself; beyond it: refused."""

PROBE: Final = """
echo "kernel=$(uname -s)"
echo "machine=$(uname -m)"
echo "name=$(uname -n)"
echo "python=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
for program in nft dpkg apt-get tar netagent; do
  command -v $program >/dev/null 2>&1 && echo "program=$program"
done
[ -d /run/systemd/system ] && echo "program=systemd"
[ -e /var/lib/netagent/keyring ] && echo "member=yes"
[ -e "$1" ] && echo "occupied=yes"
echo "end=end"
"""
"""The script that says it, for sh. Its argument is the folder that the program would get. Each line is KEY=VALUE."""


class FactsError(ValueError):
    """The other host's answer is none."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the other host says of itself. Its words are text from outside."""

    kernel: str
    machine: str
    name: str
    """Its host name."""
    python: str
    """Minor version of its /usr/bin/python3, `3.13`; empty: it has none."""
    programs: frozenset[str]
    is_member: bool
    """It is in a cluster."""
    is_occupied: bool
    """The folder of the program exists there, but the program cannot be run."""

    @property
    def has_netagent(self) -> bool:
        """True if the program is installed."""
        return "netagent" in self.programs


@dataclass(frozen=True, slots=True)
class Needs:
    """What a package needs of the host that gets it."""

    machine: str
    python: str
    is_deb: bool


def facts_untrusted(answer: bytes) -> HostFacts:
    """Parse the answer of PROBE. Raises FactsError. A login shell's profile may print lines of its own before."""
    if len(answer) > MAX_FACTS_BYTES:
        raise FactsError(f"it answers with more than {MAX_FACTS_BYTES} octets")
    values: dict[str, str] = {}
    programs = set()
    for line in answer.decode(errors="replace").splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            continue
        if key == "program":
            programs.add(value)
        else:
            values[key] = value.strip()[:255]
    if values.get("end") != "end":
        raise FactsError("its shell does not run a script of sh")
    return HostFacts(
        kernel=values.get("kernel", ""),
        machine=values.get("machine", ""),
        name=values.get("name", ""),
        python=values.get("python", ""),
        programs=frozenset(programs),
        is_member=values.get("member") == "yes",
        is_occupied=values.get("occupied") == "yes",
    )


def member_id_untrusted(status: str) -> str:
    """Return the id of the host in its answer to `status --json`. Raises FactsError."""
    try:
        host_id = json.loads(status)["host"]["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        host_id = None
    if not isinstance(host_id, str):
        raise FactsError("its `netagent status --json` does not say which host it is")
    return host_id


def failures_untrusted(doctor: bytes) -> list[tuple[str, str, str]]:
    """Return (check, message, fix) of each failure among the checks of the host in its doctor's answer. Raises
    FactsError."""
    try:
        found = [
            (check["name"], finding["message"], finding["fix"])
            for check in json.loads(doctor)["host"]
            for finding in check["findings"]
            if finding["severity"] == "failed"
        ]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise FactsError("the program does not run there") from None
    if not all(isinstance(word, str) for failure in found for word in failure):
        raise FactsError("the program does not run there")
    return [(name[:80], message[:400], fix[:400]) for name, message, fix in found]


def obstacles(facts: HostFacts, needs: Needs) -> Iterator[tuple[str, str]]:
    """Yield why netagent cannot be installed there, each with what to do."""
    if facts.kernel != "Linux":
        yield f"it runs {facts.kernel or 'an unknown system'}", "netagent needs Linux"
        return
    if "systemd" not in facts.programs:
        yield "it does not run systemd", "install netagent there by hand, and use `netagent join`"
    if facts.has_netagent:
        return
    if facts.machine != needs.machine:
        yield (
            f"it is a machine of the kind {facts.machine}, and the program here is for {needs.machine}",
            "give a package for it with --package",
        )
    if facts.python != needs.python:
        has = f"its /usr/bin/python3 is {facts.python}" if facts.python else "it has no /usr/bin/python3"
        yield f"{has}, and the package here needs {needs.python}", "give a package for it with --package"
    for program, package in (("nft", "nftables"), ("tar", "tar")):
        if program not in facts.programs:
            yield f"it has no program {program}", f"install the package {package} there"
    if needs.is_deb and not {"dpkg", "apt-get"} <= facts.programs:
        yield "it has no dpkg and apt-get", "install netagent there by hand, and use `netagent join`"
    if facts.is_occupied:
        yield "a folder of netagent is there, but no program", "remove that folder there"
