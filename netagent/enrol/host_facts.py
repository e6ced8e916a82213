"""What is known of a host before anything is copied to it, and whether netagent can be installed there. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from netagent.model.ids import is_name

MAX_FACTS_BYTES: Final = 16 * 1024
"""Bound of what the other host may say of itself; beyond it: refused."""

SPARE_KIB: Final = 16 * 1024
"""Free space that a host keeps: for the agent's state and what others write meanwhile."""

PROBE: Final = """
echo "kernel=$(uname -s)"
echo "machine=$(uname -m)"
echo "name=$(uname -n)"
echo "architecture=$(dpkg --print-architecture 2>/dev/null)"
/usr/bin/python3 -c 'import sys, sysconfig
print("python=%d.%d" % sys.version_info[:2])
print("abi=%s" % sysconfig.get_config_var("SOABI"))' 2>/dev/null
for program in nft dpkg apt-get tar netagent docker podman; do
  command -v $program >/dev/null 2>&1 && echo "program=$program"
done
[ -d /run/systemd/system ] && echo "program=systemd"
[ -e /var/lib/netagent/keyring ] && echo "member=yes"
[ -e /etc/netagent ] && echo "had=configuration"
[ -e /var/lib/netagent ] && echo "had=state"
[ -e "$1" ] && echo "occupied=$1"
for place in "$1" "$2"; do
  while [ ! -d "$place" ]; do place=${place%/*}; place=${place:-/}; done
  df -Pk "$place" | { read -r _; read -r _ _ _ free _; echo "free=$free $place"; }
done
echo "end=end"
"""
"""The script that says it, for sh. Its arguments are the folders that the program and its copy would get. Each line
is KEY=VALUE."""


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
    architecture: str = ""
    """Of its Debian packages: `amd64`."""
    abi: str = ""
    """Of its Python's compiled modules: `cpython-313-x86_64-linux-gnu`."""
    had: frozenset[str] = frozenset()
    """What it has of netagent already, and keeps: `configuration`, `state`."""
    free_kib: tuple[tuple[str, int], ...] = ()
    """Folders that get the program and its copy, with the space that is free there."""

    @property
    def has_netagent(self) -> bool:
        """True if the program is installed."""
        return "netagent" in self.programs


@dataclass(frozen=True, slots=True)
class Needs:
    """What a package needs of the host that gets it; an empty text: not known, or anything."""

    python: str
    is_deb: bool
    size_kib: int
    """When it is installed."""
    machine: str = ""
    architecture: str = ""
    abi: str = ""

    @property
    def space_kib(self) -> int:
        """The space that it takes while it is installed: packed, and unpacked."""
        return self.size_kib * 3 // 2 + SPARE_KIB


def facts_untrusted(answer: bytes) -> HostFacts:
    """Parse the answer of PROBE. Raises FactsError. A login shell's profile may print lines of its own before."""
    if len(answer) > MAX_FACTS_BYTES:
        raise FactsError(f"it answers with more than {MAX_FACTS_BYTES} octets")
    values: dict[str, str] = {}
    programs, had, free_kib = set(), set(), []
    for line in answer.decode(errors="replace").splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            continue
        if key == "program":
            programs.add(value)
        elif key == "had":
            had.add(value)
        elif key == "free":
            number, _, place = value.partition(" ")
            if re.fullmatch(r"[0-9]{1,15}", number):
                free_kib.append((place[:255], int(number)))
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
        is_occupied=bool(values.get("occupied")),
        architecture=values.get("architecture", ""),
        abi=values.get("abi", ""),
        had=frozenset(had),
        free_kib=tuple(free_kib),
    )


def identity_untrusted(status: bytes) -> tuple[str, str]:
    """Return id and name of the host in its answer to `status --json`. Raises FactsError."""
    try:
        host = json.loads(status)["host"]
        host_id, name = host["id"], host["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        host_id = name = None
    if not isinstance(host_id, str) or not isinstance(name, str) or not is_name(name):
        raise FactsError("its `netagent status --json` does not say which host it is")
    return host_id, name


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


def obstacles(facts: HostFacts, needs: Needs | None, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield why netagent with these parts cannot be installed there, each with what to do. `needs`: None if nothing
    has to be installed."""
    if facts.kernel != "Linux":
        yield f"it runs {facts.kernel or 'an unknown system'}", "netagent needs Linux"
        return
    if "systemd" not in facts.programs:
        yield "it does not run systemd", "install netagent there by hand, and use `netagent join`"
    for part in parts:
        if part in ("docker", "podman") and part not in facts.programs:
            yield f"it has no program {part}", f"install it there first, or leave out --{part}"
    if needs is not None and not facts.has_netagent:
        yield from _misfits(facts, needs)


def _misfits(facts: HostFacts, needs: Needs) -> Iterator[tuple[str, str]]:
    another = "give a package for it with --package"
    if needs.is_deb and not {"dpkg", "apt-get"} <= facts.programs:
        yield "it has no dpkg and apt-get", "install netagent there by hand, and use `netagent join`"
        return
    kind, needed = (
        (facts.architecture, needs.architecture) if needs.is_deb else (facts.machine, needs.machine)
    )
    if needed not in ("", "all", kind):
        yield f"its architecture is {kind or 'unknown'}, and the program here is for {needed}", another
    elif facts.python != needs.python:
        has = f"its /usr/bin/python3 is {facts.python}" if facts.python else "it has no /usr/bin/python3"
        yield f"{has}, and the program here needs {needs.python}", another
    elif needs.abi not in ("", facts.abi):
        yield (
            f"its /usr/bin/python3 takes modules for {facts.abi}, and the program has some for {needs.abi}",
            another,
        )
    for program, package in (("nft", "nftables"), ("tar", "tar")):
        if program not in facts.programs:
            yield f"it has no program {program}", f"install the package {package} there"
    if facts.is_occupied:
        yield "a folder of netagent is there, but no program", "remove that folder there"
    for place, free_kib in facts.free_kib:
        if free_kib < needs.space_kib:
            free, wanted = free_kib // 1024, -(-needs.space_kib // 1024)
            yield f"{place} has {free} MiB of free space, and netagent needs {wanted}", "free space there"
