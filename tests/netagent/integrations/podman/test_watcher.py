"""What Podman does not tell: labels, health, and ends without a teardown. /proc is pretended by files."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack

import pytest
import trio
from fakes.agent_host import Namespaces, netns_of
from fakes.podman import C1, C2, C3, FakePodman, PodmanHost, netavark_call, plugging
from fakes.virtual import virtual
from trio import Nursery

from netagent.checks.spec import parse_checks_untrusted
from netagent.errors import FailedError
from netagent.integrations.cluster_access import ClusterAccess
from netagent.integrations.podman import netns_processes, watcher
from netagent.integrations.podman.database import ContainerStates, DatabaseWatch
from netagent.integrations.podman.plugin import NetavarkPlugin
from netagent.integrations.podman.report import PodmanContainer
from netagent.integrations.podman.watcher import (
    ASK_AGAIN_S,
    LOOK_S,
    NOT_READ_S,
    RECHECK_S,
    STARTING_S,
    STOPS_APART_S,
    UNSTARTED_S,
    PodmanWatcher,
)
from netagent.journal.rows import LocalEndpointRow
from netagent.model.check import CheckedHealth
from netagent.model.records import STOP, Health, HealthNote, Port

WITHDRAWN_S = 2.0
"""What is promised."""


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Proc:
    """Processes as /proc shows them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "meminfo").touch()

    def start(self, pid: int, namespace: str, cmdline: str = "sleep") -> None:
        """In the namespace with this file; pid 7 is any other process of the host."""
        (self.folder / str(pid) / "ns").mkdir(parents=True)
        os.link(namespace, self.folder / str(pid) / "ns" / "net")
        (self.folder / str(pid) / "cmdline").write_text(cmdline)

    def end(self, pid: int) -> None:
        shutil.rmtree(self.folder / str(pid))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    made = Proc(tmp_path / "proc")
    monkeypatch.setattr(netns_processes, "PROC", made.folder)
    (tmp_path / "systemd").mkdir()
    monkeypatch.setattr(netns_processes, "SYSTEMD", tmp_path / "systemd")
    # Virtual time would run on while a thread works.
    monkeypatch.setattr(trio.to_thread, "run_sync", _at_once)
    return made


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def _at_once(function: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class Followed:
    """One host with a follower at work."""

    def __init__(self, one: PodmanHost, podman: FakePodman, follower: PodmanWatcher) -> None:
        self.one, self.podman, self.follower = one, podman, follower

    async def set_up(self, namespace: str = "ns1", **fields: Any) -> None:
        call = netavark_call("setup", self.one.path(namespace), **plugging(**fields))
        assert (await NetavarkPlugin(lambda: self.one.access).answer(call)).exit_status == 0

    @property
    def rows(self) -> list[LocalEndpointRow]:
        return list(self.one.live.rows.values())

    async def until(self, condition: Callable[..., Any], within_s: float = WITHDRAWN_S) -> float:
        """How long it took, in s."""
        began = trio.current_time()
        with trio.fail_after(within_s):
            while not condition():
                await trio.sleep(0.05)
        return trio.current_time() - began


async def following(nursery: Nursery, namespaces: Namespaces, *names: str) -> Followed:
    one, podman = await PodmanHost.started(namespaces, "host", *names), FakePodman()
    follower = PodmanWatcher(podman, lambda: one.access)
    nursery.start_soon(follower.run)
    return Followed(one, podman, follower)


def container(container_id: str = C1, pid: int = 100, **fields: Any) -> PodmanContainer:
    return PodmanContainer(
        container_id=container_id,
        name="web",
        pid=pid,
        **{"labels": {}, "networks": ("app",), "is_checked_by_itself": True, **fields},
    )


def write_health(path: Path, status: str, at_s: int) -> None:
    path.write_text(json.dumps({"Status": status, "FailingStreak": 0, "Log": []}))
    os.utime(path, (at_s, at_s))


@virtual
async def test_labels_are_followed_as_soon_as_the_container_runs(namespaces: Namespaces, proc: Proc) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        labels = {
            "netagent.service": "shop",
            "netagent.expose": "http=80/tcp",
            "team": "a",
            "io.podman.x": "y",
        }
        this.podman.container_list[C1] = container(labels=labels)
        await this.set_up()
        await this.until(lambda: this.rows[0].service == "shop")
        assert this.rows[0].ports == (Port("http", 80),)
        assert this.rows[0].labels == (("netagent.container-id", C1), ("team", "a"))
        await trio.sleep(60)
        assert this.podman.asked == [("inspect", C1)]
        nursery.cancel_scope.cancel()


@virtual
async def test_a_container_that_ended_without_a_word_is_withdrawn_within_two_seconds(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(7, this.one.path("host"))
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container()
        await this.set_up()
        await trio.sleep(10)
        assert len(this.rows) == 1
        proc.end(100)
        await this.until(lambda: not this.rows)
        assert not this.one.traces()
        nursery.cancel_scope.cancel()


@virtual
async def test_looks_in_quick_succession_withdraw_no_container(namespaces: Namespaces, proc: Proc) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container()
        await this.set_up()
        await trio.sleep(1.1)
        proc.end(100)
        for _ in range(10):
            await this.follower.look(this.one.access)
        assert len(this.rows) == 1
        await this.until(lambda: not this.rows)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["ns1", "host"])
@virtual
async def test_it_stays_while_others_live_in_it_or_podman_is_at_work_on_it(
    namespaces: Namespaces, proc: Proc, who: str
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container()
        await this.set_up()
        await trio.sleep(1)
        proc.end(100)
        proc.start(
            101, this.one.path(who), f"podman\0container\0cleanup\0{C1}" if who == "host" else "redis-server"
        )
        await trio.sleep(10)
        assert len(this.rows) == 1
        # It was started again: the new process is learnt, and its end is seen as well.
        proc.start(102, this.one.path("ns1"))
        this.podman.container_list[C1] = container(pid=102)
        proc.end(101)
        await trio.sleep(ASK_AGAIN_S + 1)
        assert len(this.rows) == 1
        asked = len(this.podman.asked)
        await trio.sleep(60)
        assert len(this.podman.asked) == asked
        proc.end(102)
        await this.until(lambda: not this.rows)
        nursery.cancel_scope.cancel()


@virtual
async def test_one_whose_cleanup_died_is_withdrawn_though_podman_knows_of_its_end(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container()
        await this.set_up()
        await trio.sleep(UNSTARTED_S)
        this.podman.container_list[C1] = container(pid=0)
        proc.start(101, this.one.path("host"), f"podman\0container\0cleanup\0{C1}")
        proc.end(100)
        await trio.sleep(10)  # Podman has said meanwhile that nothing runs
        assert len(this.rows) == 1
        proc.end(101)
        await this.until(lambda: not this.rows)
        nursery.cancel_scope.cancel()


@virtual
async def test_one_that_starts_again_in_another_namespace_is_not_taken_for_the_old_one(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1", "ns2")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container()
        await this.set_up()
        await trio.sleep(1)
        proc.end(100)
        this.podman.container_list[C1] = container(pid=0)  # set up, but it takes its time to start
        await this.set_up("ns2")
        await trio.sleep(8)
        assert [netns_of(row).path for row in this.rows] == [this.one.path("ns2")]
        nursery.cancel_scope.cancel()


@virtual
async def test_one_that_was_started_again_between_two_looks_is_learnt_anew(
    namespaces: Namespaces, proc: Proc
) -> None:
    one, podman = await PodmanHost.started(namespaces, "host", "ns1", "ns2"), FakePodman()
    follower = PodmanWatcher(podman, lambda: one.access)
    this = Followed(one, podman, follower)
    proc.start(100, one.path("ns1"))
    await this.set_up("ns1")
    await follower.look(one.access)
    follower._followed[C1].container = container(pid=100)
    proc.end(100)
    await this.set_up("ns2")
    for _ in range(3):
        await follower.look(one.access)
        await trio.sleep(1)
    assert [netns_of(row).path for row in this.rows] == [one.path("ns2")]


@virtual
async def test_an_answer_about_its_life_before_is_not_taken_for_the_new_one(
    namespaces: Namespaces, proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman is asked about several at once, and waits for the lock of each."""
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1", "ns2")
        answer, started = this.podman.containers, trio.Event()

        async def late(ids: list[str]) -> dict[str, PodmanContainer]:
            found = await answer(ids)
            await trio.sleep(1)
            return found

        async def once_started(ids: list[str]) -> dict[str, PodmanContainer]:
            await started.wait()
            return await answer(ids)

        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(pid=100)
        monkeypatch.setattr(this.podman, "containers", late)
        await this.set_up("ns1")
        await trio.sleep(0.5)
        monkeypatch.setattr(this.podman, "containers", once_started)
        proc.end(100)
        await this.set_up("ns2")
        await trio.sleep(2)  # no process is in the namespace yet
        proc.start(200, this.one.path("ns2"))
        this.podman.container_list[C1] = container(pid=200, labels={"netagent.service": "shop"})
        started.set()
        await this.until(lambda: [row.service for row in this.rows] == ["shop"])
        nursery.cancel_scope.cancel()


@virtual
async def test_a_container_of_which_podman_knows_nothing_goes_once_no_process_is_in_it(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1", "ns2")
        proc.start(100, this.one.path("ns1"))
        await this.set_up()
        await this.set_up("ns2", container_id=C2, name="db")
        await trio.sleep(STARTING_S - 1)
        assert len(this.rows) == 2
        await trio.sleep(5)
        assert [row.name for row in this.rows] == ["web"]
        proc.end(100)
        await this.until(lambda: not this.rows)
        nursery.cancel_scope.cancel()


@virtual
async def test_health_follows_the_log_within_two_seconds(
    namespaces: Namespaces, proc: Proc, tmp_path: Path
) -> None:
    log = tmp_path / "healthcheck.log"
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(health_logs=(str(log),))
        await this.set_up()
        await trio.sleep(2)
        assert this.rows[0].health is Health.STARTING, "Podman has not written the log yet"
        for at_s, health in enumerate((Health.STARTING, Health.HEALTHY, Health.UNHEALTHY, Health.HEALTHY), 1):
            write_health(log, health.value, at_s)
            await this.until(lambda: this.rows[0].health is health, LOOK_S + 0.1)
        log.write_text('{"Status": "unhea')  # Podman is writing
        await trio.sleep(2)
        assert [row.health for row in this.rows] == [Health.HEALTHY]
        log.unlink()
        await this.until(lambda: this.rows[0].health is Health.UNKNOWN)
        nursery.cancel_scope.cancel()


def shown(this: Followed) -> bool:
    """Whether names lead to it."""
    (row,) = this.rows
    view = this.one.live.view
    return view.is_visible(view.endpoints[row.endpoint_id])


@virtual
async def test_no_name_leads_to_a_container_whose_check_has_not_succeeded(
    namespaces: Namespaces, proc: Proc, tmp_path: Path
) -> None:
    log = tmp_path / "healthcheck.log"
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1", "ns2")
        seen: list[bool] = []

        async def watch() -> None:
            revision = 0
            while True:
                revision = await this.one.live.wait_newer(revision)
                seen.extend(shown(this) for _ in this.rows[:1] if this.one.live.view.endpoints)

        nursery.start_soon(watch)
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(health_logs=(str(log),))
        await this.set_up()
        await trio.sleep(2)
        write_health(log, "starting", 1)
        await trio.sleep(60)
        assert True not in seen
        write_health(log, "healthy", 2)
        await this.until(lambda: shown(this))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cause", ["no interval", "no systemd"])
@virtual
async def test_a_check_that_is_not_run_keeps_no_names_back(
    namespaces: Namespaces, proc: Proc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    log = tmp_path / "healthcheck.log"
    if cause == "no systemd":
        monkeypatch.setattr(netns_processes, "SYSTEMD", tmp_path / "nothing")
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        is_checked = cause != "no interval"
        this.podman.container_list[C1] = container(health_logs=(str(log),), is_checked_by_itself=is_checked)
        write_health(log, "starting", 1)
        await this.set_up()
        await this.until(lambda: shown(this))
        write_health(log, "unhealthy", 2)
        await this.until(lambda: not shown(this))
        nursery.cancel_scope.cancel()


@virtual
async def test_a_container_without_a_check_has_its_names_as_soon_as_podman_says_so(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container()
        await this.set_up()
        assert await this.until(lambda: shown(this)) <= LOOK_S + 0.1
        nursery.cancel_scope.cancel()


@virtual
async def test_a_container_with_a_check_has_no_names_before_the_first_success(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        labels = {
            "netagent.check": "exec:/bin/ready",
            "netagent.check.b": "tcp:80",
            "netagent.check.c": "udp:5",
        }
        this.podman.container_list[C1] = container(labels=labels)
        await this.set_up()
        for _ in range(100):
            assert not shown(this)
            await trio.sleep(0.05)
        (row,) = this.rows
        assert row.checks == parse_checks_untrusted(["exec:/bin/ready", "tcp:80"])
        (said,) = this.follower.troubles
        assert said.startswith("container web: the label netagent.check.c is ignored: 'udp:5' does not say")
        well = CheckedHealth(Health.HEALTHY, HealthNote(1_700_000_000))
        await this.one.endpoints.set_checked(row, well)
        assert shown(this)
        nursery.cancel_scope.cancel()


@virtual
async def test_labels_that_could_not_be_applied_are_applied_later(
    namespaces: Namespaces, proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(labels={"netagent.check": "tcp:80"})
        await this.set_up()
        change = this.one.endpoints.change

        async def refuse(*_given: object, **_fields: object) -> None:
            raise FailedError("the disk is full")

        monkeypatch.setattr(this.one.endpoints, "change", refuse)
        await trio.sleep(1)
        monkeypatch.setattr(this.one.endpoints, "change", change)
        await this.until(lambda: this.rows[0].checks, ASK_AGAIN_S + 2 * LOOK_S)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_command_is_no_check_of_a_pod(namespaces: Namespaces, proc: Proc) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        labels = {"netagent.check": "exec:/bin/ready", "netagent.check.b": "tcp:80"}
        this.podman.container_list[C1] = container(pod="d" * 64, labels=labels)
        this.podman.pods["d" * 64] = [C1]
        await this.set_up()
        await this.until(lambda: this.rows[0].checks)
        assert this.rows[0].checks == parse_checks_untrusted(["tcp:80"])
        (said,) = this.follower.troubles
        assert said.startswith("container web: the check exec:/bin/ready is ignored: a pod is no container")
        nursery.cancel_scope.cancel()


@virtual
async def test_a_podman_that_does_not_answer_keeps_names_back_for_a_bounded_time(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.refusals[C1] = "Podman is silent"
        await this.set_up()
        assert not shown(this)
        assert await this.until(lambda: shown(this), 5.0) <= NOT_READ_S + 2 * LOOK_S
        nursery.cancel_scope.cancel()


@virtual
async def test_a_restarted_agent_makes_no_unhealthy_container_well(
    namespaces: Namespaces, proc: Proc, tmp_path: Path
) -> None:
    log = tmp_path / "healthcheck.log"
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(health_logs=(str(log),))
        await this.set_up()
        write_health(log, "unhealthy", 1)
        await this.until(lambda: this.rows[0].health is Health.UNHEALTHY)
        this.podman.refusals[C1] = "Podman is silent"
        nursery.start_soon(PodmanWatcher(this.podman, lambda: this.one.access).run)
        await trio.sleep(5)
        assert this.rows[0].health is Health.UNHEALTHY
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@virtual
async def test_a_health_log_that_is_none_stops_no_container(
    namespaces: Namespaces, proc: Proc, tmp_path: Path, make: Callable[..., Any]
) -> None:
    log = tmp_path / "healthcheck.log"
    make(log)  # in a folder of a user's choice, such as /tmp, any user may have made one
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(health_logs=(str(log),))
        await this.set_up()
        await trio.sleep(2)
        opened = count_descriptors()
        await trio.sleep(STARTING_S)
        assert this.rows[0].health is Health.UNKNOWN
        assert count_descriptors() <= opened  # the garbage of other tests may go meanwhile
        shutil.rmtree(log) if log.is_dir() else log.unlink()
        write_health(log, "healthy", 1)
        await this.until(lambda: this.rows[0].health is Health.HEALTHY)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_pod_is_as_well_as_its_containers_also_those_that_come_later(
    namespaces: Namespaces, proc: Proc, tmp_path: Path
) -> None:
    log, folder = tmp_path / "healthcheck.log", tmp_path / "overlay-containers"
    folder.mkdir()
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list = {
            C1: container(pod="d" * 64, folder=str(folder)),
            C2: container(C2, 0, health_logs=(str(log),)),
            C3: container(C3, 0),
        }
        this.podman.pods["d" * 64] = [C1]
        await this.set_up()
        await trio.sleep(5)
        write_health(log, "unhealthy", 1)
        this.podman.pods["d" * 64] = [C1, C2, C3]
        (folder / C2).mkdir()
        await this.until(lambda: this.rows[0].health is Health.UNHEALTHY)
        this.podman.pods["d" * 64] = [C1, C3]
        os.utime(folder, (1, 1))
        await this.until(lambda: this.rows[0].health is Health.UNKNOWN)
        nursery.cancel_scope.cancel()


@virtual
async def test_ports_that_nothing_publishes_are_a_trouble_until_podmans_network_does(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(published=("8080:80/tcp",))
        await this.set_up()
        await this.until(lambda: this.follower.troubles)
        assert "podman network connect podman web" in this.follower.troubles[0]
        this.podman.container_list[C1] = container(published=("8080:80/tcp",), networks=("app", "podman"))
        await trio.sleep(40)
        assert this.follower.troubles == ()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "text", ["search app.mesh.internal\noptions ndots:1\n", "search app.mesh.internal", ""]
)
@virtual
async def test_a_resolv_conf_without_any_server_gets_ours_again(
    namespaces: Namespaces, proc: Proc, tmp_path: Path, text: str
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 10.0.0.1\n")
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(resolv_conf=str(conf))
        await this.set_up()
        await trio.sleep(5)
        assert conf.read_text() == "nameserver 10.0.0.1\n"
        inode = conf.stat().st_ino
        conf.write_text(text)
        os.utime(conf, (1, 1))
        await trio.sleep(2 * LOOK_S + 0.1)
        assert "nameserver 127.0.0.11" in conf.read_text().splitlines()
        assert conf.read_text().startswith(text)
        assert conf.stat().st_ino == inode
        nursery.cancel_scope.cancel()


@virtual
async def test_a_podman_that_does_not_answer_costs_no_container_an_endpoint(
    namespaces: Namespaces, proc: Proc
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        this.podman.refusals = {C1: "`podman container inspect` did not end within 10 s"}
        await this.set_up()
        await trio.sleep(30)
        assert len(this.rows) == 1
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(labels={"netagent.service": "shop"})
        this.podman.refusals.clear()
        await this.until(lambda: this.rows[0].service == "shop", ASK_AGAIN_S + 1)
        nursery.cancel_scope.cancel()


@virtual
async def test_labels_that_can_not_be_told_from_the_images_are_learnt_later_and_all_else_at_once(
    namespaces: Namespaces, proc: Proc, tmp_path: Path
) -> None:
    log = tmp_path / "healthcheck.log"
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(flaw="the image is locked", health_logs=(str(log),))
        write_health(log, "healthy", 1)
        await this.set_up()
        await this.until(lambda: this.rows[0].health is Health.HEALTHY)
        before = this.rows[0].service
        asked = len(this.podman.asked)
        await trio.sleep(300)
        assert 300 / RECHECK_S <= len(this.podman.asked) - asked <= 300 / RECHECK_S + 6, "less and less often"
        assert this.rows[0].service == before
        this.podman.container_list[C1] = container(
            labels={"netagent.service": "shop"}, health_logs=(str(log),)
        )
        await this.until(lambda: this.rows[0].service == "shop", RECHECK_S + 1)
        asked = len(this.podman.asked)
        await trio.sleep(300)
        assert len(this.podman.asked) == asked
        nursery.cancel_scope.cancel()


class Database:
    """Podman's database, in a folder of the test."""

    def __init__(self, storage: Path) -> None:
        self.storage = str(storage)
        storage.mkdir()
        self._connection = sqlite3.connect(storage / "db.sql", isolation_level=None)
        self._connection.execute(
            "CREATE TABLE ContainerState (ID TEXT PRIMARY KEY, State INTEGER, JSON TEXT)"
        )

    def set(self, **states: int) -> None:
        """Commit the states of containers, by Podman's numbers."""
        self._connection.execute("BEGIN EXCLUSIVE")
        for container_id, number in states.items():
            value = json.dumps({"state": number, "pid": 1}).encode()
            self._connection.execute(
                "INSERT INTO ContainerState VALUES (?, 1, ?) ON CONFLICT (ID) DO UPDATE SET JSON = excluded.JSON",
                (container_id, value),
            )
        self._connection.execute("COMMIT")

    def spoil(self) -> None:
        """Bring the table into a form that is not expected, until `mend`."""
        self._connection.execute("ALTER TABLE ContainerState RENAME TO Other")

    def mend(self) -> None:
        """Undo `spoil`."""
        self._connection.execute("ALTER TABLE Other RENAME TO ContainerState")

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "storage")
    yield made
    made.close()


class Commits(DatabaseWatch):
    """Commits that a test reports: virtual time does not wait for the kernel."""

    latest: Commits

    def __init__(self) -> None:
        Commits.latest = self
        self.storages: set[str] = set()
        self.happened = trio.Event()

    def add(self, storage: str) -> bool:
        self.storages.add(storage)
        return True

    async def wait_commit(self) -> None:
        await self.happened.wait()
        self.happened = trio.Event()


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "DatabaseWatch", Commits)


RUNNING, EXITED, STOPPING = 3, 6, 8


def drained(this: Followed) -> list[str | None]:
    return [None if row.drain is None else row.drain.by for row in this.rows]


async def committed(this: Followed, database: Database, by: str | None, **states: int) -> None:
    """After this commit the endpoint must be drained by that one, at once and for good."""
    database.set(**states)
    Commits.latest.happened.set()
    await this.until(lambda: drained(this) == [by], 0.06)
    await trio.sleep(2 * STOPS_APART_S)
    assert drained(this) == [by], states


@virtual
async def test_names_lead_away_while_podman_stops_the_container(
    namespaces: Namespaces, proc: Proc, database: Database, commits: None
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(storage=database.storage)
        await this.set_up()
        await this.until(lambda: Commits.latest.storages == {database.storage})
        await committed(this, database, None, **{C1: RUNNING})
        await committed(this, database, STOP, **{C1: STOPPING})
        await committed(this, database, STOP, **{C1: EXITED})
        await committed(this, database, None, **{C1: RUNNING})
        [row] = this.rows
        await this.one.access.endpoints.drains.begin(row.endpoint_id, "anna")
        await committed(this, database, "anna", **{C1: STOPPING})
        await committed(this, database, "anna", **{C1: RUNNING})
        nursery.cancel_scope.cancel()


@virtual
async def test_a_commit_that_stops_nothing_costs_no_look_at_the_endpoints(
    namespaces: Namespaces,
    proc: Proc,
    database: Database,
    commits: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[ContainerStates] = []
    apply_stops = PodmanWatcher._apply_stops

    async def counted(self: PodmanWatcher, member: ClusterAccess, states: ContainerStates) -> None:
        looks.append(states)
        await apply_stops(self, member, states)

    monkeypatch.setattr(PodmanWatcher, "_apply_stops", counted)
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(storage=database.storage)
        await this.set_up()
        await this.until(lambda: Commits.latest.storages == {database.storage})
        await committed(this, database, STOP, **{C1: STOPPING})
        await committed(this, database, None, **{C1: RUNNING})
        await committed(this, database, None, **{C1: RUNNING})
        before = len(looks)
        for _ in range(5):
            await committed(this, database, None, **{C1: RUNNING})
        assert len(looks) == before
        nursery.cancel_scope.cancel()


@virtual
async def test_a_stop_that_began_before_the_agent_is_seen(
    namespaces: Namespaces, proc: Proc, database: Database, commits: None
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        database.set(**{C1: STOPPING})
        this.podman.container_list[C1] = container(storage=database.storage)
        await this.set_up()
        await this.until(lambda: drained(this) == [STOP])
        nursery.cancel_scope.cancel()


@virtual
async def test_a_pod_stops_with_its_last_container(
    namespaces: Namespaces, proc: Proc, database: Database, commits: None
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list = {
            C1: container(pod="pod", storage=database.storage), C2: container(C2, pid=101), C3: container(C3, pid=102)
        }  # fmt: skip
        this.podman.pods["pod"] = [C1, C2, C3]
        database.set(**{C1: RUNNING, C2: RUNNING, C3: RUNNING})
        await this.set_up()
        await this.until(lambda: Commits.latest.storages == {database.storage})
        await committed(this, database, None, **{C2: STOPPING})
        await committed(this, database, STOP, **{C3: STOPPING})
        # One has ended, then the other: both bring no names back.
        await committed(this, database, STOP, **{C2: EXITED})
        await committed(this, database, STOP, **{C3: EXITED})
        await committed(this, database, None, **{C3: RUNNING})
        nursery.cancel_scope.cancel()


@virtual
async def test_a_database_that_is_not_as_expected_changes_nothing_and_is_read_again(
    namespaces: Namespaces,
    proc: Proc,
    database: Database,
    commits: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with trio.open_nursery() as nursery:
        this = await following(nursery, namespaces, "ns1")
        proc.start(100, this.one.path("ns1"))
        this.podman.container_list[C1] = container(storage=database.storage)
        await this.set_up()
        await this.until(lambda: Commits.latest.storages == {database.storage})
        await committed(this, database, STOP, **{C1: STOPPING})
        database.spoil()
        Commits.latest.happened.set()
        await this.until(lambda: "cannot see which containers Podman is stopping" in caplog.text)
        assert drained(this) == [STOP]
        database.mend()
        await committed(this, database, None, **{C1: RUNNING})
        nursery.cancel_scope.cancel()
