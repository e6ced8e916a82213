"""Warnings of `status` about the resolver process: which layers of its confinement are missing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from netagent.interface import schema
from netagent.resolver.system.layer import Layer, missing_layers

_RESTART: Final = "then `pkill -f 'netagent[.]resolver[.]process'`: the agent starts another one"
_UNIT: Final = f"let the unit be as `netagent install systemd` writes it, and {_RESTART}"

_LAYERS: Final[Mapping[Layer, tuple[str, str]]] = {
    Layer.BOUNDING_SET: (
        "its bounding set of capabilities is not empty: it would gain some from a program that it may not start",
        _UNIT,
    ),
    Layer.USER: (
        "it runs as root: what belongs to root is kept from it by the other layers alone",
        _UNIT,
    ),
    Layer.CAPABILITIES: (
        "it has capabilities: the host's network is kept from it by the other layers alone",
        _UNIT,
    ),
    Layer.LANDLOCK: (
        "Landlock is not in force: it may connect to any TCP port that this host reaches, not to port 53 alone",
        f"use a kernel since 6.7, with `landlock` in /sys/kernel/security/lsm, {_RESTART}",
    ),
    Layer.SYSTEM_CALLS: (
        "its system calls are not filtered: it may make sockets of all kinds and attack the kernel by all calls",
        f"install libseccomp (`apt install libseccomp2`), on a kernel that has seccomp, {_RESTART}",
    ),
}
"""What each layer's lack means to whom attacks the process, and the cure."""


def confinement_notices(statistics: Mapping[str, int]) -> Iterator[schema.Notice]:
    """Yield a warning for each layer that the process lacks, by its numbers."""
    for layer in missing_layers(statistics):
        meaning, cure = _LAYERS[layer]
        yield {
            "code": "resolver-rights",
            "message": f"the resolver process, which reads what containers send, has too many rights: {meaning}",
            "cure": cure,
        }
