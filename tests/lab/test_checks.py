"""Names follow checks on all hosts: programs that hang, refuse, are slow or flap, and agents that are away."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path

import pytest
from lab.harness import Cluster

from netagent.checks.spec import parse_check_untrusted

pytestmark = [pytest.mark.lab, pytest.mark.services]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "checks.md"
MOODY = str(Path(__file__).with_name("moody.py"))
QUICK = "http:8080/healthz interval=1s timeout=500ms fall=3 rise=2 grace=0s"
NOTICED_S = 20.0
"""Bound of the time for a few questions and one broadcast, on a machine that does much else."""


class Moods:
    """Programs on h1 whose behaviour the test chooses."""

    def __init__(self, app: Cluster, folder: Path) -> None:
        self.app, self.folder = app, folder

    def start(self, name: str, *options: str, check: str = QUICK, arguments: tuple[str, ...] = ()) -> None:
        """A container with the program and a check, not yet up."""
        self.set(name, "refuse")
        command = ("python3", MOODY, str(self.folder / name), *arguments)
        self.app.attach("h1", name, "--check", check, *options, command=command)

    def set(self, name: str, mood: str) -> None:
        """Change how a program behaves."""
        new = self.folder / f"{name}.new"
        new.write_text(mood, encoding="ascii")
        new.rename(self.folder / name)

    def signal(self, name: str, signal: str) -> None:
        """Send its process a signal."""
        pid = (self.folder / f"{name}.pid").read_text(encoding="ascii")
        self.app.lab.host("h1").must(["kill", f"-{signal}", pid])

    def state(self, name: str, host: str = "h2") -> tuple[str, str]:
        """State and reason of an endpoint, as another host knows them."""
        found = [one for one in self.app.netagent(host, "endpoints", "--local") if one["name"] == name]
        return (found[0]["state"], found[0]["reason"]) if found else ("", "")

    def await_state(self, name: str, state: str, within_s: float = NOTICED_S) -> str:
        """Wait until another host knows the state, and its containers have names accordingly; return the reason."""
        app = self.app
        app.wait(lambda: self.state(name)[0] == state, within_s, lambda: f"{name} is {self.state(name)}")
        app.wait(
            lambda: app.finds("c2", name) is (state == "up"), 5.0, f"names of {name} do not follow {state}"
        )
        return self.state(name)[1]


@pytest.fixture
def moods(app: Cluster, tmp_path: Path) -> Moods:
    return Moods(app, tmp_path)


def test_scenario_57_names_follow_what_the_program_does(moods: Moods) -> None:
    app = moods.app
    behaviours = {
        "busy": ("503", "http 503 from 8080/healthz, failed 3 of 3 times"),
        "slow": ("slow", "no answer from 8080/healthz within 500ms, failed 3 of 3 times"),
        "hanging": ("hang", "no answer from 8080/healthz within 500ms, failed 3 of 3 times"),
        "refusing": ("refuse", "connection refused at 8080/healthz, failed 3 of 3 times"),
        "six": ("refuse", "connection refused at 8080/healthz, failed 3 of 3 times"),
        "stopped": ("", "no answer from 8080/healthz within 500ms, failed 3 of 3 times"),
    }
    for name in behaviours:
        moods.start(
            name, check=f"{QUICK} grace=60s".replace(" grace=0s", ""), arguments=("v6",) * (name == "six")
        )
        assert moods.state(name)[0] == "starting", "never in names before its first success"
        assert not app.finds("c2", name)
    for name in behaviours:
        moods.set(name, "ok")
    for name in behaviours:
        assert moods.await_state(name, "up") == ""
    for name, (mood, _) in behaviours.items():
        moods.set(name, mood) if mood else moods.signal(name, "STOP")
    for name, (_, reason) in behaviours.items():
        assert moods.await_state(name, "unhealthy").startswith(f"{reason}, since 20")
    (service,) = (one for one in app.netagent("h2", "services") if one["name"] == "busy")
    assert (service["answering"], service["unhealthy"]) == (0, 1)
    assert service["not_up"][0].startswith(
        "busy on h1: unhealthy, http 503 from 8080/healthz, failed 3 of 3 times, since 20"
    )
    asked = app.try_netagent("h1", "check", "busy", "--json")
    assert asked.status == 1
    (result,) = json.loads(asked.stdout)["endpoints"][0]["results"]
    assert (result["ok"], result["says"], result["shown"]) == (False, "http 503 from 8080/healthz", "here")
    elsewhere = app.try_netagent("h2", "check", "busy")
    assert elsewhere.status != 0
    assert "is on host h1; type this command there" in elsewhere.stderr
    moods.signal("stopped", "CONT")
    for name in behaviours:
        moods.set(name, "ok")
    for name in behaviours:
        moods.await_state(name, "up")
    assert app.try_netagent("h1", "check", "busy").status == 0


def test_scenario_57_a_program_that_flaps_costs_few_changes(moods: Moods) -> None:
    """For 40 s it changes every second, which without the hold would be 40 changes."""
    moods.start("restless", check="http:8080/ interval=1s fall=1 rise=1")
    moods.set("restless", "ok")
    moods.await_state("restless", "up")
    moods.set("restless", "flap")
    began, versions = time.monotonic(), set()
    while time.monotonic() - began < 40:
        versions |= {
            one["version"]
            for one in moods.app.netagent("h2", "endpoints", "--local")
            if one["name"] == "restless"
        }
        time.sleep(0.1)
    assert 2 <= len(versions) <= 9, versions
    moods.set("restless", "ok")
    moods.await_state("restless", "up", 90.0)


def test_scenario_57_the_last_states_stand_while_the_agent_is_away(moods: Moods) -> None:
    app = moods.app
    for name in ("falling", "rising", "well"):
        moods.start(name)
        moods.set(name, "ok")
    for name in ("falling", "rising", "well"):
        moods.await_state(name, "up")
    moods.set("rising", "503")
    reason = moods.await_state("rising", "unhealthy")
    for agent_is_killed in (True, False):
        moods.set("falling", "503")
        moods.set("rising", "ok")
        with app.agent_of("h1") as host:
            host.kill_agent() if agent_is_killed else host.stop_agent()
        if agent_is_killed:
            app.wait(lambda: app.agents("h2")["h1"] == "dead", 20.0, "h2 takes the agent of h1 for alive")
            (member,) = (one for one in app.netagent("h2", "members") if one["name"] == "h1")
            assert member["outdated"] is True
            lines = app.try_netagent("h2", "members").stdout.splitlines()
            assert [line.split()[0] for line in lines if "as its agent last said" in line] == ["h1"]
        for host_name in ("h2", "h3"):
            assert moods.state("falling", host_name)[0] == moods.state("well", host_name)[0] == "up"
            assert moods.state("rising", host_name) == ("unhealthy", reason), (
                "since when and why stand as well"
            )
        seen_away = app.in_background(lookups, app, "well", 6.0)
        with app.agent_of("h1") as host:
            host.start_agent()
        assert seen_away.result() == {"NOERROR"}, "a start takes no names away"
        moods.await_state("falling", "unhealthy")
        moods.await_state("rising", "up", 90.0)
        moods.set("falling", "ok")
        moods.set("rising", "503")
        moods.await_state("falling", "up", 90.0)
        reason = moods.await_state("rising", "unhealthy")


def lookups(app: Cluster, name: str, seconds: float) -> set[str]:
    """How a name was answered, over and over."""
    until, seen = time.monotonic() + seconds, set()
    while time.monotonic() < until:
        seen.add(app.ask("c2", name).status)
    return seen


def test_when_all_replicas_fail_names_lead_nowhere_unless_they_are_to_be_kept(moods: Moods) -> None:
    app = moods.app
    replicas = {"plain": ("a1", "a2"), "kept": ("b1", "b2")}
    for service, names in replicas.items():
        for name in names:
            moods.start(name, "--service", service, *(("--all-failing", "keep") if service == "kept" else ()))
            moods.set(name, "ok")
    address = {name: app.endpoint(name)["addresses"][0] for names in replicas.values() for name in names}
    for service, names in replicas.items():
        await_answer(app, service, [address[name] for name in names])
    for service, (first, second) in replicas.items():
        moods.set(first, "503")
        await_answer(app, service, [address[second]])
    assert not failing(app)
    for _, second in replicas.values():
        moods.set(second, "503")
    await_answer(app, "plain", [])
    assert app.ask("c2", "plain").status == "NXDOMAIN"
    await_answer(app, "kept", [address[name] for name in replicas["kept"]])
    messages = failing(app)
    assert len(messages) == 2
    assert any("service plain of network app is up, and no name leads to it: a1 on h1" in m for m in messages)
    assert any(
        "service kept of network app is up, and names lead to them all the same" in m for m in messages
    )


def test_the_commands_of_the_guide_do_what_it_says(moods: Moods) -> None:
    app = moods.app
    text = GUIDE.read_text(encoding="utf-8")
    typed = re.findall(r"^(?:\$ )?sudo (netagent .*)$", text, re.MULTILINE)
    attached = re.findall(r"attach netns:(\S+)", "\n".join(typed))
    assert attached == ["web1", "web4"]
    for name in attached:
        moods.set(name, "ok")
        app.lab.add_container(name, "h1", (), ("python3", MOODY, str(moods.folder / name)))
    for line in typed:
        for name in set(attached).intersection(endpoint["name"] for endpoint in app.held("h1")):
            moods.await_state(name, "up")
        done = app.try_netagent("h1", *shlex.split(line)[1:])
        assert done.status == 0, (line, done.stderr)
    endpoints = {one["name"]: one for one in app.held("h1")}
    assert endpoints["web1"]["checks"] == ["http:8080/healthz"]
    assert endpoints["web4"]["checks"] == ["tcp:8080"]
    options = re.search(r"--check '([^']+)'", text)
    assert options is not None
    assert parse_check_untrusted(options[1]).fall == 2


def await_answer(app: Cluster, service: str, addresses: list[str]) -> None:
    """Wait until a container of another host finds these."""
    app.wait(
        lambda: app.ask("c2", service).data == sorted(addresses),
        NOTICED_S,
        lambda: f"{service} is answered by {app.ask('c2', service)}",
    )


def failing(app: Cluster) -> list[str]:
    """The warnings of another host about services that fail."""
    return [
        one["message"] for one in app.netagent("h2", "status")["warnings"] if one["code"] == "all-failing"
    ]


def test_an_endpoint_that_is_checked_drained_and_stopped_costs_three_changes(moods: Moods) -> None:
    """It is published and waits for its check, it comes up, and it is drained; its end removes the record."""
    app, versions = moods.app, set[object]()
    moods.start("brief")

    def seen() -> list[dict[str, object]]:
        found = [one for one in app.netagent("h2", "endpoints", "--local") if one["name"] == "brief"]
        versions.update(one["version"] for one in found)
        return found

    seen()
    moods.set("brief", "ok")
    app.wait(lambda: seen()[0]["state"] == "up", NOTICED_S, "it does not come up")
    app.netagent("h1", "drain", "brief")
    app.wait(lambda: seen()[0]["state"] != "up", NOTICED_S, "it is not drained")
    app.netagent("h1", "detach", "brief")
    app.wait(lambda: seen() == [], NOTICED_S, "it is not gone")
    assert len(versions) <= 3, versions
