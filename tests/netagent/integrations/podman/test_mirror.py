"""Podman's networks follow ours, and no others are touched."""

from __future__ import annotations

import os
from pathlib import Path

import trio
from fakes.agent_host import Namespaces
from fakes.podman import FakePodman, PodmanHost
from fakes.registry import N1, N2, network
from fakes.virtual import virtual

from netagent.errors import RefusedError
from netagent.integrations.cluster_access import ClusterAccess
from netagent.integrations.podman.mirror import LOOK_S, RESYNC_S, PodmanMirror
from netagent.integrations.podman.mirror_plan import plan_mirror
from netagent.integrations.podman.report import PodmanNetwork
from netagent.model.ids import NetworkId
from netagent.model.records import RemovalRecord

N9 = NetworkId("9" * 32)


def of_podman(
    name: str = "app", driver: str = "netagent", *, label: str = "", option: str = ""
) -> PodmanNetwork:
    return PodmanNetwork(
        name,
        driver,
        {"netagent.network": label} if label else {},
        {"netagent.network": option} if option else {},
    )


def test_a_missing_network_is_made_and_a_right_one_is_left() -> None:
    wanted = {"app": N1, "back": N2}
    plan = plan_mirror(wanted, [of_podman(label=N1, option=N1), of_podman("podman", "bridge")])
    assert (plan.remove, plan.create, plan.foreign) == ((), (("back", N2),), ())


def test_one_of_ours_that_stands_for_another_network_is_replaced_or_removed() -> None:
    plan = plan_mirror({"app": N1}, [of_podman(label=N9), of_podman("old", label=N2)])
    assert (plan.remove, plan.create) == (("app", "old"), (("app", N1),))


def test_a_foreign_network_of_the_name_is_left_alone_and_named() -> None:
    for foreign in (of_podman("app", "bridge"), of_podman("app", "bridge", label=N1), of_podman(option=N2)):
        plan = plan_mirror({"app": N1}, [foreign])
        assert (plan.remove, plan.create) == ((), ())
        assert "`podman network rm app`" in plan.foreign[0]


def test_one_that_a_user_made_by_hand_for_the_same_network_is_right() -> None:
    plan = plan_mirror({"app": N1}, [of_podman(option=N1), of_podman("second", option=N1)])
    assert (plan.remove, plan.create, plan.foreign) == ((), (), ())


async def names_are(podman: FakePodman, *names: str) -> None:
    with trio.fail_after(RESYNC_S * 3):
        while set(podman.network_list) != set(names):
            await trio.sleep(0.1)


@virtual
async def test_networks_come_and_go_with_ours_and_come_back_after_a_prune(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    one, podman = await PodmanHost.started(namespaces), FakePodman()
    mirror = PodmanMirror(podman, lambda: one.access, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirror.run)
        await names_are(podman, "app", "back")
        before = trio.current_time()
        await one.publisher.put(RemovalRecord(N2))
        await names_are(podman, "app")
        podman.network_list.clear()
        os.utime(tmp_path, (1, 1))
        await names_are(podman, "app")
        assert trio.current_time() - before < 3 * LOOK_S
        podman.network_list.clear()  # in a folder that is not looked at
        await names_are(podman, "app")
        assert not mirror.troubles
        nursery.cancel_scope.cancel()


@virtual
async def test_what_podman_refuses_is_a_trouble_until_it_does_not(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    one, podman = await PodmanHost.started(namespaces), FakePodman()
    podman.network_list["gone"] = of_podman("gone", label=N9)
    podman.refusals = {"gone": "`podman network rm` refuses: in use by web", "back": "no plug-in"}
    mirror = PodmanMirror(podman, lambda: one.access, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirror.run)
        await names_are(podman, "app", "gone")
        await trio.sleep(LOOK_S)
        assert [("in use by web" in one, "no plug-in" in one) for one in sorted(mirror.troubles)] == [
            (False, True),
            (True, False),
        ]
        podman.refusals.clear()
        await names_are(podman, "app", "back")
        await trio.sleep(LOOK_S)
        assert not mirror.troubles
        podman.refusals = {"ls": "there is no program `podman` on this host"}
        await trio.sleep(RESYNC_S + LOOK_S)
        trouble = " ".join(mirror.troubles)
        assert "no program `podman`" in trouble
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_in_no_cluster_leaves_podman_alone_until_it_joins(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    one, podman = await PodmanHost.started(namespaces), FakePodman()
    podman.network_list["old"] = of_podman("old", label=N9)
    joined = trio.Event()

    def membership() -> ClusterAccess:
        if not joined.is_set():
            raise RefusedError("in no cluster", code="no-cluster")
        return one.access

    async with trio.open_nursery() as nursery:
        nursery.start_soon(PodmanMirror(podman, membership, tmp_path).run)
        await trio.sleep(RESYNC_S)
        assert podman.asked == []
        joined.set()
        await names_are(podman, "app", "back")
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_leaves_takes_along_what_no_container_refers_to(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    one, podman = await PodmanHost.started(namespaces), FakePodman()
    has_left = trio.Event()

    def membership() -> ClusterAccess:
        if has_left.is_set():
            raise RefusedError("in no cluster", code="no-cluster")
        return one.access

    async with trio.open_nursery() as nursery:
        mirror = PodmanMirror(podman, membership, tmp_path)
        nursery.start_soon(mirror.run)
        await names_are(podman, "app", "back")
        podman.refusals["app"] = "app is used by a container"
        has_left.set()
        await names_are(podman, "app")
        assert "cannot remove Podman's network app, whose network was removed" in mirror.troubles[0]
        nursery.cancel_scope.cancel()


@virtual
async def test_a_network_that_is_made_anew_under_its_name_is_made_anew_in_podman(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    one, podman = await PodmanHost.started(namespaces), FakePodman()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(PodmanMirror(podman, lambda: one.access, tmp_path).run)
        await names_are(podman, "app", "back")
        await one.publisher.put(RemovalRecord(N1), network(N9, "app"))
        with trio.fail_after(2 * LOOK_S):
            while (
                "app" not in podman.network_list
                or podman.network_list["app"].labels["netagent.network"] != N9
            ):
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
