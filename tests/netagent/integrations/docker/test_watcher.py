"""Containers that come, change and end, with dockerd and agent away in between."""

from __future__ import annotations

import copy
import logging
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from fakes.agent_host import netns_of
from fakes.docker_world import World, until
from fakes.registry import N1
from fakes.virtual import virtual

from netagent.errors import FailedError
from netagent.integrations.docker import netns_waiter, watcher
from netagent.integrations.docker.engine import EngineError
from netagent.integrations.docker.integration import NAMED_S
from netagent.model.check import CheckedHealth
from netagent.model.records import STOP, Group, Health, HealthNote, Link, Port

WELL = CheckedHealth(Health.HEALTHY, HealthNote(1_700_000_000))


async def with_docker_network(world: World, **fields: Any) -> None:
    """A cluster with a network, and its mirror."""
    await world.with_network(**fields)
    await until(lambda: any(one["Name"] == "app" for one in world.docker.networks.values()))


@virtual
async def test_a_container_has_its_names_before_its_first_program_runs(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        labels = {"netagent.service": "site", "netagent.expose": "http=80/tcp", "team": "a"}
        container_id = await world.docker.create(
            "Web.1", "app", aliases=["www"], links=["db:database"], labels=labels
        )
        await trio.sleep(0.1)
        await world.docker.join(container_id, "app")
        assert not world.knows("web-1")
        world.namespaces.make("Web.1")
        await until(lambda: world.knows("web-1"), 0.1)
        record = world.record("web-1")
        assert (record.service, record.aliases, record.ports) == ("site", ("www",), (Port("http", 80),))
        assert record.labels == (
            ("netagent.container-id", container_id),
            ("netagent.original-name", "Web.1"),
            ("team", "a"),
        )
        row = world.row(container_id)
        assert row.links == (Link("db", "database"),)
        assert netns_of(row).behind_runtime


@virtual
async def test_what_was_not_known_at_the_start_is_learnt_from_events(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await trio.sleep(2)
        assert world.record("web").aliases == ()
        place = world.docker.containers[container_id]["NetworkSettings"]["Networks"]["app"]
        place["Aliases"] = ["www", container_id[:12]]
        world.docker.containers[container_id]["Name"] = "/front"
        world.docker.emit("container", "rename", container_id)
        await until(lambda: world.knows("front"))
        assert world.record("front").aliases == ("www",)


@virtual
async def test_an_alias_given_by_connect_arrives(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web")
        world.docker.containers[container_id]["NetworkSettings"]["Networks"]["app"] = {
            "NetworkID": "", "EndpointID": "", "Aliases": ["al"], "Links": None,
        }  # fmt: skip
        await world.docker.join(container_id, "app")
        await until(lambda: world.knows("web") and world.record("web").aliases == ("al",))


@virtual
async def test_health_goes_through_within_two_seconds(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        steps = {"unhealthy": Health.UNHEALTHY, "healthy": Health.HEALTHY, "starting": Health.STARTING}
        for status, health in steps.items():
            world.docker.set_health(container_id, status)
            await until(lambda: world.record("web").health is health, 2.0)


def is_shown(world: World, name: str) -> bool:
    """Whether names lead to it."""
    view = world.host.live.view
    return any(one.record.name == name and view.is_visible(one) for one in view.endpoints.values())


@virtual
async def test_no_name_leads_to_a_container_before_its_check_succeeds_also_when_it_is_started_again(
    world: World,
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app", check=["CMD", "true"])
        await trio.sleep(0.1)
        for _ in range(2):
            await world.docker.start(container_id)
            assert not is_shown(world, "web"), "Docker has not reported its health yet"
            world.docker.set_health(container_id, "starting")
            await trio.sleep(30)
            assert not is_shown(world, "web")
            assert world.record("web").health is Health.STARTING
            world.docker.set_health(container_id, "healthy")
            await until(lambda: is_shown(world, "web"), 2.0)
            for endpoint_id in world.docker.endpoints_of(container_id):
                await world.docker.leave(endpoint_id)  # `docker stop`
            world.docker.containers[container_id]["State"]["Running"] = False
            assert not is_shown(world, "web")


@virtual
async def test_a_container_of_which_nothing_was_read_yet_has_no_names_until_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app")
        answering_late(world, monkeypatch, f"/containers/{container_id}/json", 3.0)
        world.docker.emit("container", "create", container_id)
        await world.docker.start(container_id)
        assert world.knows("web")
        assert not is_shown(world, "web")
        await until(lambda: is_shown(world, "web"), 5.0)


def by(world: World, name: str) -> str | None:
    """Who drained it."""
    drain = world.record(name).drain
    return None if drain is None else drain.by


@pytest.mark.parametrize(
    ("config", "number", "is_stop"),
    [
        ({}, signal.SIGTERM, True),
        ({"StopSignal": "SIGQUIT"}, signal.SIGQUIT, True),
        ({"StopSignal": "quit"}, signal.SIGQUIT, True),
        ({"StopSignal": "3"}, signal.SIGQUIT, True),
        ({"StopSignal": "SIGRTMIN+3"}, signal.SIGRTMIN + 3, True),
        ({"StopSignal": "RTMAX-3"}, signal.SIGRTMAX - 3, True),
        ({"StopSignal": "SIGNONSENSE"}, signal.SIGTERM, False),
        ({"StopSignal": "SIGQUIT"}, signal.SIGTERM, False),
        ({}, signal.SIGHUP, False),
        ({"StopSignal": "SIGKILL"}, signal.SIGKILL, False),
    ],
)
@virtual
async def test_names_go_when_a_container_is_asked_to_stop(
    world: World, config: dict[str, Any], number: int, is_stop: bool
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app")
        world.docker.containers[container_id]["Config"].update(config)
        await world.docker.start(container_id)
        await until(lambda: is_shown(world, "web"))
        world.docker.signal(container_id, number)
        await trio.sleep(0.01)
        assert (is_shown(world, "web"), by(world, "web")) == ((False, STOP) if is_stop else (True, None))
        assert world.knows("web"), "links and connections stay"


@virtual
async def test_many_stop_signals_at_once_are_one_change(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await until(lambda: is_shown(world, "web"))
        with caplog.at_level(logging.INFO):
            for _ in range(100):
                world.docker.signal(container_id, signal.SIGTERM)
            await until(lambda: by(world, "web") == STOP)
            await trio.sleep(0.1)
        assert sum("it was asked to stop" in one.message for one in caplog.records) == 1


@virtual
async def test_a_container_that_is_started_again_has_its_names_again(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        for _ in range(2):
            await until(lambda: is_shown(world, "web"))
            world.docker.signal(container_id, signal.SIGTERM)
            await until(lambda: by(world, "web") == STOP)
            world.end_process(container_id)
            await until(lambda: not world.knows("web"))
            del world.ended[1000 + int(container_id, 16)]
            for endpoint_id in world.docker.endpoints_of(container_id):
                await world.docker.leave(endpoint_id)
            await world.docker.start(container_id)


@pytest.mark.parametrize(("timeout", "within_s"), [(None, 40.0), (300, 330.0), (-1, None)])
@virtual
async def test_a_container_that_does_not_stop_has_its_names_back_when_docker_would_have_killed_it(
    world: World, timeout: int | None, within_s: float | None
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app")
        world.docker.containers[container_id]["Config"]["StopTimeout"] = timeout
        await world.docker.start(container_id)
        await until(lambda: is_shown(world, "web"))
        world.docker.signal(container_id, signal.SIGTERM)
        await trio.sleep((within_s or 10_000) - 1)
        assert by(world, "web") == STOP
        if within_s is not None:
            await until(lambda: is_shown(world, "web"), 3.0)


@virtual
async def test_an_agent_that_starts_while_a_container_stops_keeps_its_names_away(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await until(lambda: is_shown(world, "web"))
        world.docker.signal(container_id, signal.SIGTERM)
        await until(lambda: by(world, "web") == STOP)
    world.host.restart()
    world.begin()
    async with world.running():
        await trio.sleep(35)
        assert by(world, "web") == STOP
        await until(lambda: is_shown(world, "web"), 10.0)


@virtual
async def test_a_stop_that_cannot_be_written_does_not_end_the_watcher(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await until(lambda: is_shown(world, "web"))
        world.host.steps.fault = ("journal", FailedError("the disk is full"))
        world.docker.signal(container_id, signal.SIGTERM)
        await trio.sleep(1)
        world.host.steps.fault = None
        world.docker.signal(container_id, signal.SIGTERM)
        await until(lambda: by(world, "web") == STOP)


def refusing(world: World, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Any]) -> None:
    """Docker's API fails where `refused` says so of the path; its plug-in works."""
    answer = world.docker.answer

    async def failing(method: str, asked: str, query: dict[str, str], body: dict[str, Any] | None) -> Any:
        if refused(asked):
            raise EngineError("Docker's API is broken", status=500)
        return await answer(method, asked, query, body)

    monkeypatch.setattr(world.docker, "answer", failing)


@virtual
async def test_a_docker_that_tells_nothing_for_good_keeps_names_back_for_a_bounded_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await with_docker_network(world)
        refusing(world, monkeypatch, lambda path: path.endswith("/json"))
        await world.docker.run("web", "app")
        assert not is_shown(world, "web")
        before = trio.current_time()
        await until(lambda: is_shown(world, "web"), watcher.NOT_READ_S + 3 * watcher.LOOK_S)
        assert trio.current_time() - before > watcher.NOT_READ_S - 2 * watcher.LOOK_S
        assert world.record("web").health is Health.UNKNOWN


@virtual
async def test_that_bound_counts_for_a_container_that_comes_again_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before it was started again is of an earlier start."""
    broken: list[bool] = []
    refusing(world, monkeypatch, lambda path: broken and path.endswith("/json"))
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app", check=["CMD", "true"])
        await world.docker.start(container_id)
        world.docker.set_health(container_id, "healthy")
        await until(lambda: is_shown(world, "web"))
        broken.append(True)
        for endpoint_id in world.docker.endpoints_of(container_id):
            await world.docker.leave(endpoint_id)
        await until(lambda: not is_shown(world, "web"))
        await world.docker.start(container_id)
        await until(lambda: world.knows("web"))
        assert not is_shown(world, "web")
        await until(lambda: is_shown(world, "web"), watcher.NOT_READ_S + 3 * watcher.LOOK_S)


@virtual
async def test_a_docker_that_tells_again_has_the_last_word(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]
    refusing(world, monkeypatch, lambda path: broken and path.endswith("/json"))
    async with world.running():
        broken.clear()
        await with_docker_network(world)
        broken.append(True)
        container_id = await world.docker.create("web", "app", check=["CMD", "true"])
        await world.docker.start(container_id)
        world.docker.set_health(container_id, "starting")
        await until(lambda: is_shown(world, "web"), watcher.NOT_READ_S + 3 * watcher.LOOK_S)
        broken.clear()
        await until(lambda: not is_shown(world, "web"))
        await trio.sleep(3 * watcher.NOT_READ_S)
        assert world.record("web").health is Health.STARTING


@virtual
async def test_labels_of_the_image_choose_nothing(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        labels = {"netagent.service": "database", "netagent.expose": "http=80/tcp", "maker": "m"}
        world.docker.images["sha256:aa"] = labels
        await world.docker.run("web", "app", image="sha256:aa", labels=labels)
        await world.docker.run("own", "app", image="sha256:aa", labels={**labels, "netagent.service": "site"})
        await trio.sleep(1)
        assert world.record("web").service == "web"
        assert world.record("web").ports == ()
        assert ("maker", "m") in world.record("web").labels

        assert world.record("own").service == "site", "the operator gave it to the container"
        assert len([one for one in world.docker.requests if "images" in one[1]]) == 1, "it never changes"


@virtual
async def test_a_container_with_a_check_has_no_names_before_the_first_success_also_when_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its labels are known before its start, or read later."""
    async with world.running():
        await with_docker_network(world)
        known = await world.docker.create("web", "app", labels={"netagent.check": "http:8080/healthz"})
        late = await world.docker.create("late", "app", labels={"netagent.check": "tcp:6379"})
        await trio.sleep(0.1)
        answering_late(world, monkeypatch, f"/containers/{late}/json", 3.0)
        for container_id, name in ((known, "web"), (late, "late")):
            for _ in range(2):
                await world.docker.start(container_id)
                for _ in range(40):
                    assert not is_shown(world, name)
                    await trio.sleep(0.1)
                row = world.row(container_id)
                assert len(row.checks) == 1
                await world.member().endpoints.set_checked(row, WELL)
                assert is_shown(world, name)
                for endpoint_id in world.docker.endpoints_of(container_id):
                    await world.docker.leave(endpoint_id)  # `docker stop`
                world.docker.containers[container_id]["State"]["Running"] = False


@virtual
async def test_a_check_of_the_image_does_not_count(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        labels = {"netagent.check": "tcp:80"}
        world.docker.images["sha256:aa"] = labels
        await world.docker.run("web", "app", image="sha256:aa", labels=labels)
        await until(lambda: is_shown(world, "web"), 2.0)


@pytest.mark.parametrize("which", ["off", "container"])
@virtual
async def test_an_image_is_in_no_project_of_an_operator(world: World, which: str) -> None:
    world.begin(**{"docker.labels": which})
    async with world.running():
        await with_docker_network(world)
        made = "com.docker.compose."
        labels = {f"{made}project": "shop", f"{made}service": "db", f"{made}container-number": "1"}
        world.docker.images["sha256:aa"] = labels
        await world.docker.run("web", "app", image="sha256:aa", labels=labels)
        await trio.sleep(1)
        assert world.record("web").group is None


@virtual
async def test_with_labels_off_no_label_chooses_a_project(world: World) -> None:
    world.begin(**{"docker.labels": "off"})
    async with world.running():
        await with_docker_network(world)
        made = "com.docker.compose."
        labels = {f"{made}project": "shop", f"{made}service": "db", f"{made}container-number": "1"}
        await world.docker.run("web", "app", labels=labels)
        await trio.sleep(1)
        assert world.record("web").group is None


@pytest.mark.parametrize(("which", "service"), [("all", "database"), ("off", "web"), ("container", "web")])
@virtual
async def test_the_operator_chooses_whose_labels_count(world: World, which: str, service: str) -> None:
    world.begin(**{"docker.labels": which})
    async with world.running():
        await with_docker_network(world)
        world.docker.images["sha256:aa"] = {"netagent.service": "database"}
        given = {"netagent.service": "database", "maker": "m"}
        await world.docker.run("web", "app", image="sha256:aa", labels=given)
        await world.docker.run("own", "app", labels={"netagent.service": "site"})
        await trio.sleep(1)
        assert world.record("web").service == service
        assert world.record("own").service == ("own" if which == "off" else "site")
        assert ("maker", "m") in world.record("web").labels


@virtual
async def test_compose_and_published_ports_reach_the_record(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        labels = {
            "com.docker.compose.project": "shop",
            "com.docker.compose.service": "web",
            "com.docker.compose.container-number": "2",
        }
        container_id = await world.docker.create("shop-web-2", "app", labels=labels, aliases=["web"])
        ports = {
            "80/tcp": [
                {"HostIp": "0.0.0.0", "HostPort": "8080"},
                {"HostIp": "::", "HostPort": "8080"},
            ],
            "53/udp": [{"HostIp": "192.0.2.1", "HostPort": "53"}],
            "443/tcp": None,
        }
        world.docker.containers[container_id]["NetworkSettings"]["Ports"] = ports
        await world.docker.start(container_id)
        await trio.sleep(1)
        found = dict(world.record("shop-web-2").labels)
        assert found["netagent.compose-project"] == "shop"
        assert found["netagent.compose-service"] == "web"
        assert (world.record("shop-web-2").group, world.record("shop-web-2").aliases) == (
            Group("shop", "web"),
            (),
        )
        assert found["netagent.published-by-runtime"] == "192.0.2.1:53:53/udp,8080:80/tcp"
        assert found["netagent.container-id"] == container_id


def answering_late(world: World, monkeypatch: pytest.MonkeyPatch, path: str, seconds: float) -> None:
    """The first answer at this path says what was so when Docker was asked, and comes so much later."""
    answer, late = world.docker.answer, [seconds]

    async def delayed(method: str, asked: str, query: dict[str, str], body: dict[str, Any] | None) -> Any:
        read = copy.deepcopy(await answer(method, asked, query, body))
        if asked == path and late:
            await trio.sleep(late.pop())
        return read

    monkeypatch.setattr(world.docker, "answer", delayed)


@virtual
async def test_a_container_whose_start_takes_long_holds_no_other_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker answers an inspection when the container has started."""
    async with world.running():
        await with_docker_network(world)
        web = await world.docker.run("web", "app")
        slow = await world.docker.create("slow", "app")
        answering_late(world, monkeypatch, f"/containers/{slow}/json", 8.0)
        world.docker.emit("container", "start", slow)
        await trio.sleep(0.1)
        world.docker.set_health(web, "unhealthy")
        await until(lambda: world.record("web").health is Health.UNHEALTHY, 2.0)


@virtual
async def test_an_older_answer_does_not_undo_a_newer_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await with_docker_network(world)
        web = await world.docker.run("web", "app")
        await trio.sleep(1)
        answering_late(world, monkeypatch, f"/containers/{web}/json", 1.0)
        world.docker.set_health(web, "unhealthy")
        await trio.sleep(0.1)
        world.docker.set_health(web, "healthy")
        await trio.sleep(3)
        assert world.record("web").health is Health.HEALTHY


@virtual
async def test_a_container_that_comes_while_docker_lists_the_others_is_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await trio.sleep(1)
        answering_late(world, monkeypatch, "/containers/json", 2.0)
        await world.with_network()
        await until(lambda: bool(world.docker.networks))
        await world.docker.run("web", "app", labels={"netagent.service": "site"})
        await until(lambda: world.knows("web") and world.record("web").service == "site", 10.0)


@virtual
async def test_names_go_when_the_first_process_ends_whether_or_not_docker_lives(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await until(lambda: bool(world.ended))
        world.docker.kill()
        world.end_process(container_id)
        await until(lambda: not world.knows("web"), 2.0)
        assert not world.row(container_id).is_published  # Docker's last word is still to come


@virtual
async def test_after_a_start_without_docker_only_empty_namespaces_are_withdrawn(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        await world.docker.run("web", "app")
        await world.docker.run("db", "app")
        await until(lambda: len(world.ended) == 2)
    world.docker.kill()
    rows = {row.name: row for row in world.host.live.rows.values()}
    world.in_use = {netns_of(rows["db"]).identity}
    world.begin()
    async with world.running():
        await until(lambda: not world.knows("web"), 2.0)
        await trio.sleep(5)
        assert world.knows("db")


@virtual
async def test_what_docker_removed_while_the_agent_was_away_is_detached(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        gone = await world.docker.run("gone", "app")
        await world.docker.run("stays", "app")
    await world.docker.remove(gone, tell=False)
    world.begin()
    async with world.running():
        await until(lambda: not world.knows("gone"), 2.0)
        assert world.knows("stays")
        assert len(world.host.live.rows) == 1


@pytest.mark.parametrize("how", ["die", "remove", "disconnect"])
@virtual
async def test_what_docker_could_not_tell_the_plug_in_is_detached(world: World, how: str) -> None:
    """Docker gives up a call that fails, and has no endpoint any more."""
    async with world.running():
        await with_docker_network(world)
        gone = await world.docker.run("gone", "app")
        await world.docker.run("stays", "app")
        await trio.sleep(2)
        if how == "die":
            world.docker.network_named("app")["endpoints"].pop(world.docker.endpoints_of(gone)[0])
            world.docker.emit("container", "die", gone)
        elif how == "remove":
            await world.docker.remove(gone, tell=False)
        else:
            await world.docker.disconnect(gone, "app", tell=False)
        await until(lambda: not world.knows("gone"), 2.0)
        assert world.knows("stays")


@virtual
async def test_a_container_that_comes_while_docker_is_asked_who_is_there_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await with_docker_network(world)
        first = await world.docker.run("first", "app")
        await world.docker.run("other", "app")
        await trio.sleep(2)
        network_id = world.docker.network_named("app")["Id"]
        answering_late(world, monkeypatch, f"/networks/{network_id}", 1.0)
        await world.docker.disconnect(first, "app")
        await trio.sleep(0.1)
        await world.docker.run("second", "app")
        await until(lambda: world.knows("second"))
        await trio.sleep(3)
        assert world.knows("second")


@virtual
async def test_a_container_that_could_not_be_inspected_is_inspected_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, refusals = world.docker.answer, [1, 2]

    async def busy(method: str, path: str, query: dict[Any, Any], body: None) -> Any:
        if path.startswith("/containers/") and path != "/containers/json" and refusals:
            refusals.pop()
            raise EngineError("Docker did not answer")
        return await answer(method, path, query, body)

    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await trio.sleep(2)
        monkeypatch.setattr(world.docker, "answer", busy)
        world.docker.set_health(container_id, "unhealthy")
        await until(lambda: world.record("web").health is Health.UNHEALTHY, 2.0)


@virtual
async def test_containers_are_looked_at_again_when_the_agent_enters_its_cluster_late(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await until(lambda: world.knows("web"))
    world.docker.containers[container_id]["State"]["Health"] = {"Status": "unhealthy"}
    world.begin()
    world.in_cluster = False
    async with world.running(mirror=False):
        await trio.sleep(5)
        world.in_cluster = True
        await until(lambda: world.record("web").health is Health.UNHEALTHY, 2.0)


@virtual
async def test_a_container_that_ended_while_the_agent_was_away_is_found_though_docker_lists_it(
    world: World,
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
    world.ended[1000 + int(container_id, 16)] = None  # no such process
    world.begin()
    async with world.running():
        await until(lambda: not world.knows("web"), 2.0)


@virtual
async def test_a_container_stays_while_anybody_lives_in_its_namespace(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
    row = world.row(container_id)
    world.in_use = {netns_of(row).identity}
    world.ended[1000 + int(container_id, 16)] = None  # not with the number that Docker names
    world.begin()
    async with world.running():
        await trio.sleep(5)
        assert world.knows("web")


@virtual
async def test_a_docker_too_busy_to_list_its_containers_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
    answer, refusals = world.docker.answer, [1, 2, 3]

    async def busy(method: str, path: str, query: dict[str, str], body: None) -> Any:
        if path == "/containers/json" and refusals:
            refusals.pop()
            raise EngineError("Docker did not answer")
        return await answer(method, path, query, body)

    monkeypatch.setattr(world.docker, "answer", busy)
    world.begin()
    async with world.running():
        world.docker.set_health(container_id, "unhealthy")
        await until(lambda: world.record("web").health is Health.UNHEALTHY)


@virtual
async def test_docker_restarts_and_its_living_containers_stay(world: World) -> None:
    async with world.running() as one:
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await until(lambda: bool(world.ended))
        row = world.host.live.rows[world.row(container_id).endpoint_id]
        world.in_use = {netns_of(row).identity}
        world.docker.kill()
        await trio.sleep(30)
        assert "not applied" in one.troubles()[0]
        world.docker.is_up = True
        world.docker.containers[container_id]["State"]["Health"] = {"Status": "unhealthy"}
        await until(lambda: world.record("web").health is Health.UNHEALTHY, 2.0)
        assert one.troubles() == ()


@virtual
async def test_an_agent_that_restarts_between_join_and_start_finishes_the_endpoint(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app")
        await world.docker.join(container_id, "app")
    world.begin()
    async with world.running():
        await world.docker.start_joined(container_id)
        await until(lambda: world.knows("web"))


@virtual
async def test_a_name_that_docker_does_not_tell_in_time_is_corrected_later(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app")
        await world.docker.join(container_id, "app")
        world.docker.kill()
        world.namespaces.make("web")
        await until(lambda: world.row(container_id).is_published, NAMED_S + 1)
        row = world.row(container_id)
        assert world.knows(row.endpoint_id[:12])
        world.in_use = {netns_of(row).identity}
        world.docker.is_up = True
        await world.docker.start_joined(container_id)
        await until(lambda: world.knows("web"))


@virtual
async def test_a_docker_that_hangs_keeps_no_container_from_its_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running():
        await with_docker_network(world)
        await trio.sleep(1)
        container_id = await world.docker.create("web", "app")
        network_id = world.docker.network_named("app")["Id"]
        answering_late(world, monkeypatch, f"/networks/{network_id}", 60.0)
        await world.docker.join(container_id, "app")
        world.namespaces.make("web")
        await until(lambda: world.row(container_id).is_published, NAMED_S + 1)


@virtual
async def test_an_entry_that_fails_is_tried_again_and_shown(world: World) -> None:
    async with world.running() as one:
        await with_docker_network(world)
        world.host.attacher.has_moved = False
        container_id = await world.docker.run("web", "app")
        await until(lambda: bool(one.troubles()), 20.0)
        assert "has no names yet" in one.troubles()[0]
        world.host.attacher.has_moved = True
        await until(lambda: world.knows("web"), netns_waiter.RETRY_S + 11)
        assert one.troubles() == ()
        assert world.row(container_id).is_published


@virtual
async def test_a_container_that_leaves_before_its_namespace_appears_is_forgotten(world: World) -> None:
    async with world.running() as one:
        await with_docker_network(world)
        container_id = await world.docker.create("web", "app")
        await world.docker.join(container_id, "app")
        await world.docker.remove(container_id)
        world.namespaces.make("web")
        await trio.sleep(3)
        assert not world.knows("web")
        assert one.troubles() == ()
        assert world.host.live.rows == {}


@virtual
async def test_an_endpoint_without_a_record_is_shown(world: World) -> None:
    async with world.running() as one:
        await with_docker_network(world)
        container_id = await world.docker.run("web", "app")
        await world.host.endpoints.detach_origin(str(world.row(container_id).origin))
        world.docker.emit("container", "start", container_id)
        await until(lambda: bool(one.troubles()))
        assert "`docker restart web`" in one.troubles()[0]
        await world.docker.remove(container_id)
        await until(lambda: one.troubles() == ())


@virtual
async def test_two_hundred_containers_at_once_cost_few_questions(world: World) -> None:
    async with world.running():
        await with_docker_network(world)
        made = [await world.docker.create(f"w{n}", "app") for n in range(200)]
        lock = trio.Lock()

        async def start(container_id: str) -> None:
            async with lock:
                await world.docker.join(container_id, "app")
            await world.docker.start_joined(container_id)

        world.docker.requests.clear()
        async with trio.open_nursery() as nursery:
            for container_id in made:
                nursery.start_soon(start, container_id)
        await until(lambda: len(world.host.own_endpoints()) == 200)
        inspected = [path for _, path in world.docker.requests if path.startswith("/networks/")]
        assert len(inspected) < 30  # shared by all that wait for their name
        for container_id in made:
            await world.docker.remove(container_id)
        await until(lambda: not world.host.live.rows)
        assert world.host.allocator.free_count(N1) == (253, 253)


@virtual
async def test_a_cluster_that_is_entered_later_hears_of_the_labels(world: World) -> None:
    async with world.running() as one:
        world.in_cluster = False
        await trio.sleep(2)
        world.in_cluster = True
        await with_docker_network(world)
        labels = {"netagent.expose": "bad port", "netagent.service": "My Web"}
        await world.docker.run("web", "app", labels=labels)
        await until(lambda: bool(one.troubles()))
        expose, service = one.troubles()
        assert expose.startswith("container web: the label netagent.expose has 'bad port'; write ")
        assert service.startswith("container web: the label netagent.service='My Web' is not a name; use ")


def test_the_end_of_a_process_is_seen_and_of_another_one_with_its_number_is_not() -> None:
    async def main() -> None:
        pid = process.pid
        identity = watcher._namespace_of(str(pid))
        assert identity is not None
        dev, inode = identity
        assert not await watcher._process_ended(pid, (dev, inode + 1))
        seen = []

        async def watch() -> None:
            seen.append(await watcher._process_ended(pid, (dev, inode)))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await trio.testing.wait_all_tasks_blocked()
                assert seen == []
                process.kill()
        assert seen == [True]
        process.wait()
        assert not await watcher._process_ended(pid, (dev, inode))

    with subprocess.Popen(["sleep", "100"]) as process:
        trio.run(main)


def test_the_look_for_processes_finds_this_one() -> None:
    assert watcher._namespace_of("self") in watcher._read_namespaces_in_use()


@virtual
async def test_a_container_that_could_not_be_entered_is_no_trouble_once_it_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*arguments: str, **fields: Any) -> None:
        raise FailedError("the resolver process is away")

    async with world.running() as one:
        await with_docker_network(world)
        monkeypatch.setattr(world.host.endpoints.staged, "bind", refuse)
        container_id = await world.docker.create("web", "app")
        await world.docker.join(container_id, "app")
        world.namespaces.make("web")
        await until(lambda: any("resolver process is away" in text for text in one.troubles()))
        await world.docker.leave(world.docker.endpoints_of(container_id)[0])
        assert one.troubles() == ()
