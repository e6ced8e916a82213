"""Which Podman networks there should be: one of the same name for each network of the cluster. Pure.

A network that the mirror made carries our network's id as a label, and nothing without that label is ever touched. To
remove one of ours is harmless even by mistake: Podman refuses while any container, running or not, refers to it,
and the mirror makes it anew as soon as its network is known. That is why an id which means nothing (the host has
changed clusters) needs no rule of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netagent.integrations.podman.netavark import DRIVER, NETWORK_OPTION
from netagent.integrations.podman.report import PodmanNetwork
from netagent.model.ids import NetworkId


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """What to do, removals first: a name may be needed again."""

    remove: tuple[str, ...]
    """Podman's names."""
    create: tuple[tuple[str, NetworkId], ...]
    """(name, network of ours)."""
    foreign: tuple[str, ...]
    """Sentences about networks that are in the way and not ours."""


def plan_mirror(wanted: Mapping[str, NetworkId], observed: Iterable[PodmanNetwork]) -> MirrorPlan:
    """`wanted`: the networks of the cluster by their unique names."""
    there = {one.name: one for one in observed}
    ours = {name: mark for name, one in there.items() if (mark := _mark(one))}
    remove = [name for name, mark in ours.items() if wanted.get(name) != mark]
    create = [(name, wanted[name]) for name in wanted if name in remove or name not in there]
    foreign = [
        _sentence(there[name])
        for name, network_id in wanted.items()
        if name in there and name not in ours and not _stands_for(there[name], network_id)
    ]
    return MirrorPlan(tuple(sorted(remove)), tuple(sorted(create)), tuple(sorted(foreign)))


def _mark(network: PodmanNetwork) -> str:
    return network.labels.get(NETWORK_OPTION, "") if network.driver == DRIVER else ""


def _stands_for(network: PodmanNetwork, network_id: NetworkId) -> bool:
    """True for one that a user has made by hand, for this very network."""
    return network.driver == DRIVER and network.options.get(NETWORK_OPTION) == network_id


def _sentence(network: PodmanNetwork) -> str:
    return (
        f"Podman has a network {network.name} of its own (driver {network.driver}), so `podman run --network"
        f" {network.name}` does not lead into netagent's network {network.name}; remove it with `podman network rm"
        f" {network.name}`, or give netagent's network another Podman name with `podman network create --driver"
        f" {DRIVER} --opt {NETWORK_OPTION}={network.name} OTHER`"
    )
