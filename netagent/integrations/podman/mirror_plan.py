"""The desired Podman networks: one of the same name for each network of the cluster. Pure.

A mirror has the id of its network as a label, and Podman networks without that label are never changed. Removing a
mirror is harmless even by mistake: Podman refuses while any container, running or not, refers to it, and the mirror
is recreated as soon as its network is known. So an unknown id (the host has changed clusters) needs no special rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netagent.integrations.podman.netavark import DRIVER, NETWORK_OPTION
from netagent.integrations.podman.report import PodmanNetwork
from netagent.model.ids import NetworkId


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """Changes to Podman's networks, removals first: a name may be needed again."""

    remove: tuple[str, ...]
    """Podman's names."""
    create: tuple[tuple[str, NetworkId], ...]
    """(name, id of the netagent network)."""
    foreign: tuple[str, ...]
    """Sentences about foreign networks that have the name of one of ours."""


def plan_mirror(wanted: Mapping[str, NetworkId], observed: Iterable[PodmanNetwork]) -> MirrorPlan:
    """Return the changes. `wanted`: the networks of the cluster by their unique names."""
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
    """True for a Podman network that a user made by hand for this network."""
    return network.driver == DRIVER and network.options.get(NETWORK_OPTION) == network_id


def _sentence(network: PodmanNetwork) -> str:
    return (
        f"Podman has a network {network.name} of its own (driver {network.driver}), so `podman run --network"
        f" {network.name}` does not use netagent's network {network.name}; remove it with `podman network rm"
        f" {network.name}`, or give netagent's network another Podman name with `podman network create --driver"
        f" {DRIVER} --opt {NETWORK_OPTION}={network.name} OTHER`"
    )
