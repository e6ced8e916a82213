"""What a runtime's health check says is what the names say."""

from __future__ import annotations

import time

import pytest
from runtimes.harness import SPREAD_S, Fleet, wait_promised

pytestmark = pytest.mark.runtimes

CHECK = "test ! -e /tmp/sick"


def only_ipv4(addresses: list[str]) -> list[str]:
    return [address for address in addresses if "." in address]


def test_an_unhealthy_container_of_docker_leaves_its_service_and_returns(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    label = ("--label", "netagent.service=web")
    often = ("--health-cmd", CHECK, "--health-interval", "1s", "--health-retries", "1")
    fleet.start("h1", "web-1", *label, *often)
    fleet.start("h2", "web-2", *label)
    fleet.start("h2", "client")
    (first,), (second,) = (only_ipv4(fleet.addresses(name, seen_from="h2")) for name in ("web-1", "web-2"))
    both = sorted([first, second])

    def healthy(state: str) -> bool:
        return str(fleet.inspect("h1", "web-1")["State"]["Health"]["Status"]) == state

    fleet.wait(lambda: healthy("healthy"), 30.0, "Docker does not find it healthy")
    fleet.wait(lambda: fleet.replicas("h2", "client", "web") == both, SPREAD_S, "not both replicas")
    for state, expected in (("unhealthy", [second]), ("healthy", both)):
        fleet.execute("h1", "web-1", *(["touch"] if state == "unhealthy" else ["rm"]), "/tmp/sick")
        fleet.wait(lambda: healthy(state), 30.0, f"Docker does not find it {state}")
        wait_promised(
            lambda: fleet.replicas("h2", "client", "web") == expected,
            f"{state}, and yet web is not {expected}",
            time.monotonic(),
        )


def test_no_name_leads_to_a_container_of_docker_before_its_check_succeeds(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    label = ("--label", "netagent.service=web")
    check = ("--health-cmd", "test -e /tmp/ready", "--health-interval", "1s", "--health-start-period", "60s")
    fleet.start("h2", "web-2", *label)
    fleet.start("h2", "client")
    (second,) = only_ipv4(fleet.addresses("web-2", seen_from="h2"))
    fleet.wait(lambda: fleet.replicas("h2", "client", "web") == [second], SPREAD_S, "web-2 has no name")
    fleet.start("h1", "web-1", *label, *check)
    fleet.addresses("web-1", seen_from="h2")
    for life in ("started", "started again"):
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            assert fleet.replicas("h2", "client", "web") == [second], life
        (endpoint,) = (one for one in fleet.netagent("h3", "endpoints") if one["name"] == "web-1")
        assert (endpoint["health"], endpoint["source"]) == ("starting", "asked")
        assert "has not succeeded yet" in endpoint["reason"]
        both = sorted([second, *only_ipv4(fleet.addresses("web-1", seen_from="h2"))])
        fleet.execute("h1", "web-1", "touch", "/tmp/ready")
        fleet.wait(
            lambda: fleet.replicas("h2", "client", "web") == both,
            10.0,
            f"it is well, {life}, and has no name",
        )
        fleet.execute("h1", "web-1", "rm", "/tmp/ready")
        fleet.runtime("h1", "restart", "--time", "0", "web-1")


def test_an_unhealthy_container_of_podman_leaves_its_service_and_returns(docker_hosts: Fleet) -> None:
    """No systemd runs on the host, so the test starts the checks, as the timers of podman would."""
    fleet = docker_hosts
    label = ("--label", "netagent.service=web")
    fleet.start(
        "h3", "web-3", *label, "--health-cmd", CHECK, "--health-interval", "disable", "--health-retries", "1"
    )
    fleet.start("h2", "web-2", *label)
    fleet.start("h1", "client")
    (third,), (second,) = (only_ipv4(fleet.addresses(name)) for name in ("web-3", "web-2"))
    both = sorted([third, second])
    for sick, expected in ((False, both), (True, [second]), (False, both)):
        fleet.execute("h3", "web-3", *(["touch"] if sick else ["rm", "-f"]), "/tmp/sick")
        assert (fleet.try_runtime("h3", "healthcheck", "run", "web-3").status != 0) == sick
        wait_promised(
            lambda: fleet.replicas("h1", "client", "web") == expected,
            f"sick: {sick}, and yet web is not {expected}",
            time.monotonic(),
        )


@pytest.mark.parametrize("host", ["h1", "h3"])
def test_a_command_of_a_check_is_run_by_docker_and_by_podman(docker_hosts: Fleet, host: str) -> None:
    fleet, other = docker_hosts, "h2"
    check = "exec:'test -e /tmp/ready' interval=1s timeout=5s fall=1 rise=1 grace=0s"
    fleet.start(host, "web-1", "--label", "netagent.service=web", "--label", f"netagent.check={check}")
    fleet.start(other, "client")

    def state() -> tuple[str, str]:
        found = [one for one in fleet.netagent(other, "endpoints") if one["name"] == "web-1"]
        return (found[0]["state"], found[0]["health_reason"]) if found else ("", "")

    def answered() -> bool:
        return bool(fleet.replicas(other, "client", "web"))

    fails = ("unhealthy", "test exited with 1, failed once")
    fleet.wait(lambda: state() == fails, 30.0, lambda: f"it fails, and is {state()}")
    assert not answered()
    assert fleet.try_netagent(host, "check", "web").status == 1
    for ready, expected in ((True, ("up", "")), (False, fails)):
        fleet.execute(host, "web-1", "touch" if ready else "rm", "/tmp/ready")
        fleet.wait(lambda: state() == expected, 30.0, lambda: f"ready: {ready}, and it is {state()}")
        fleet.wait(lambda: answered() is ready, SPREAD_S, f"ready: {ready}, and names differ")


@pytest.mark.parametrize("host", ["h1", "h3"])
@pytest.mark.parametrize("command", ["sleep 4321", 'sh -c "sleep 4321; true"'])
def test_commands_that_hang_do_not_pile_up_in_the_container(
    docker_hosts: Fleet, host: str, command: str
) -> None:
    fleet = docker_hosts
    check = f"exec:'{command}' interval=1s timeout=500ms fall=2 grace=0s"
    fleet.start(host, "web-1", "--label", f"netagent.check={check}")

    def reason() -> str:
        found = [one for one in fleet.netagent("h2", "endpoints") if one["name"] == "web-1"]
        return found[0]["health_reason"] if found else ""

    late = f"{command.split(maxsplit=1)[0]} did not end within 500ms, failed 2 of 2 times"
    fleet.wait(lambda: reason() == late, 30.0, lambda: f"its reason is {reason()!r}")
    began, most = time.monotonic(), 0
    while time.monotonic() - began < 10:
        lines = fleet.lab.host(host).run(["pgrep", "-fx", "sleep 4321"]).stdout.split()
        most = max(most, len(lines))
        time.sleep(0.3)
    assert 1 <= most <= 2, most


@pytest.mark.parametrize("host", ["h1", "h3"])
def test_a_command_that_does_not_exist_fails(docker_hosts: Fleet, host: str) -> None:
    fleet = docker_hosts
    fleet.start(host, "web-1", "--label", "netagent.check=exec:/nope interval=1s fall=2 grace=0s")

    def shown() -> tuple[str, str]:
        found = [one for one in fleet.netagent("h2", "endpoints") if one["name"] == "web-1"]
        return (found[0]["state"], found[0]["health_reason"]) if found else ("", "")

    fleet.wait(lambda: shown()[0] == "unhealthy", 30.0, lambda: f"it is {shown()}")
    assert shown()[1].startswith("/nope "), shown()


def test_a_label_s_check_and_the_health_check_must_both_succeed(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    listen = ["python3", "-m", "http.server", "8080", "--directory", "/tmp"]
    often = ("--health-cmd", CHECK, "--health-interval", "1s", "--health-retries", "1")
    check = "http:8080/ready interval=1s fall=1 rise=1 grace=0s"
    fleet.start("h1", "web-1", "--label", f"netagent.check={check}", *often, command=listen)

    def state() -> tuple[str, str]:
        found = [one for one in fleet.netagent("h2", "endpoints") if one["name"] == "web-1"]
        return (found[0]["state"], found[0]["health_reason"]) if found else ("", "")

    steps = (
        (("true",), ("unhealthy", "http 404 from 8080/ready, failed once")),
        (("touch", "/tmp/ready"), ("up", "")),
        (("touch", "/tmp/sick"), ("unhealthy", "its HEALTHCHECK fails")),
        (("rm", "/tmp/sick"), ("up", "")),
    )
    for command, expected in steps:
        fleet.execute("h1", "web-1", *command)
        fleet.wait(lambda: state() == expected, 30.0, lambda: f"after {command} it is {state()}")


def test_a_container_of_docker_that_is_paused_does_not_keep_its_health(docker_hosts: Fleet) -> None:
    fleet = docker_hosts
    check = "exec:true interval=1s timeout=2s fall=2 rise=1 grace=0s"
    fleet.start("h1", "web-1", "--label", f"netagent.check={check}")

    def state() -> tuple[str, str]:
        found = [one for one in fleet.netagent("h2", "endpoints") if one["name"] == "web-1"]
        return (found[0]["state"], found[0]["health_reason"]) if found else ("", "")

    fleet.wait(lambda: state()[0] == "up", 30.0, lambda: f"it works, and is {state()}")
    fleet.runtime("h1", "pause", "web-1")
    try:
        fleet.wait(lambda: state()[0] == "unhealthy", 30.0, lambda: f"it is paused, and {state()}")
        assert state()[1].startswith("true cannot run: Docker says: "), state()
    finally:
        fleet.runtime("h1", "unpause", "web-1")
    fleet.wait(lambda: state()[0] == "up", 90.0, lambda: f"it works again, and is {state()}")


@pytest.mark.parametrize("host", ["h1", "h3"])
def test_a_command_that_writes_without_end_fails(docker_hosts: Fleet, host: str) -> None:
    fleet = docker_hosts
    fleet.start(host, "web-1", "--label", "netagent.check=exec:yes interval=1s timeout=5s fall=2 grace=0s")

    def reason() -> str:
        found = [one for one in fleet.netagent("h2", "endpoints") if one["name"] == "web-1"]
        return found[0]["health_reason"] if found else ""

    fleet.wait(
        lambda: reason() == "yes exited with 141, failed 2 of 2 times",
        30.0,
        lambda: f"its reason is {reason()!r}",
    )
