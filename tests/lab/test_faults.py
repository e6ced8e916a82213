"""Faults of the catalogue: an operator finds each in three commands, and nothing is blamed that is whole."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.conftest import inhabited
from lab.faults import ALWAYS, DUPLICATE, FORGOTTEN, MOST_COMMANDS, SLOW, SOMETIMES, Beside, Facts, Fault
from lab.harness import Cluster
from netlab.cluster import form_cluster
from netlab.lab import Lab
from netlab.topology import of_hosts

pytestmark = [pytest.mark.lab, pytest.mark.services]

FOUND_S = 60.0
MENDED_S = 90.0
DRAWN = 5


@pytest.fixture(scope="module")
def shared(new_lasting_lab: Callable[[], Lab]) -> Iterator[Beside]:
    """A cluster of which no host says anything, because nothing is wrong, and a machine beside it."""
    lab = new_lasting_lab()
    lab.up(of_hosts(4), agents=False)
    members = lab.hosts[:-1]
    for host in members:
        host.must(["cp", "/dev/stdin", "/etc/resolv.conf"], stdin="# no name server answers in a lab\n")
        with lab.changing(host.name) as changing:
            changing.start_agent(wait=False)
    for host in members:
        host.wait_agent()
    form_cluster(members)
    with ThreadPoolExecutor(8) as pool:
        cluster = Beside(lab, pool)
        inhabited(cluster)
        yield cluster


@pytest.fixture
def app(shared: Beside) -> Beside:
    """Nothing is wrong at the beginning."""
    await_whole(shared)
    return shared


def await_whole(cluster: Cluster) -> None:
    """Until no host says anything, and the first knows the three containers and no others."""
    heard: list[object] = []

    def is_whole() -> bool:
        heard[:] = [findings(cluster), cluster.endpoint_names("h1")]
        return heard == [[], ["c1", "c2", "c3"]]

    cluster.wait(is_whole, MENDED_S, lambda: f"something is left over: {heard}")


def findings(cluster: Cluster) -> list[tuple[str, str, str]]:
    """What `status` and `doctor` say on each host: the host, the code or the check, and the message."""
    found = []
    for host in cluster.hosts:
        if not cluster.lab.host(host).has_power:
            continue
        status, doctor = (
            cluster.try_netagent(host, command, "--json").stdout for command in ("status", "doctor")
        )
        found += [
            (host, one["code"], one["message"]) for one in json.loads(status or "{}").get("warnings", [])
        ]
        answer = json.loads(doctor)
        for check in [*answer["host"], *answer["intent"], *answer["cluster"]]:
            found += [(host, check["name"], one["message"]) for one in check["findings"]]
    return found


def assert_found(cluster: Cluster, fault: Fault) -> None:
    """An operator finds the fault, and is not sent elsewhere."""
    with fault.breaks(cluster) as facts:
        assert_said(cluster, fault, facts)


def assert_said(cluster: Cluster, fault: Fault, facts: Facts) -> None:
    """One of the commands names the thing, the cause and the cure; all that any host finds is about this fault."""
    assert 1 <= len(fault.commands) <= MOST_COMMANDS
    answers: dict[str, str] = {}
    wanted = [words.format(**facts) for words in (fault.thing, fault.cause, fault.cure)]

    def is_said() -> bool:
        for host, command in fault.commands:
            done = cluster.try_netagent(host, *command.format(**facts).split())
            answers[f"{command} on {host}"] = text = done.stdout + done.stderr
            if all(words in text for words in wanted):
                return True
        return False

    cluster.wait(is_said, FOUND_S, lambda: f"{fault.name}: {wanted} is not in {answers}")
    # On a machine that is busy a host may stand still, and others see that for some seconds.
    cluster.wait(
        lambda: not astray(cluster, fault), FOUND_S, lambda: f"{fault.name}: {astray(cluster, fault)}"
    )


def astray(cluster: Cluster, fault: Fault) -> list[tuple[str, str, str]]:
    """What leads an operator away from the fault."""
    return [
        (host, what, message)
        for host, what, message in findings(cluster)
        if what not in fault.may_say or (host != fault.about and fault.about not in message)
    ]


@pytest.mark.parametrize("fault", ALWAYS, ids=lambda fault: fault.name)
def test_a_fault_is_found_in_three_commands(app: Beside, fault: Fault) -> None:
    assert_found(app, fault)


def test_scenario_26_two_machines_with_one_identity(app: Beside) -> None:
    """A machine is cloned, state and all: both copies name each other, a third host names both, and no host warns of
    anything else. Nothing else of it is noticed, and the cure that `status` names ends it."""
    address = app.attach("h1", "d1")["addresses"][0]
    with DUPLICATE.breaks(app) as facts:
        stream = app.in_background(app.ping_stream, "c1", address, 8.0)
        for host, other in (("h2", "192.0.2.4"), ("h4", "192.0.2.2")):
            named = f"the machine at {other} uses this host's identity: it was cloned"
            app.wait(lambda: named in app.try_netagent(host, "status").stdout, FOUND_S, f"{host}: no clone")
        assert_said(app, DUPLICATE, facts)
        named = app.try_netagent("h1", "status").stdout
        (copies,) = re.findall(r"the machines at (\S+) and (\S+) both use the identity of h2", named)
        assert sorted(copies) == ["192.0.2.2", "192.0.2.4"]
        assert app.netagent("h1", "lookup", "d1", "--from", "c1")["status"] == "NOERROR"
        assert app.attach("h1", "e1")["state"] == "up"
        pinged = stream.result()
        assert (pinged.sent > 100, pinged.lost) == (True, 0)
    app.remove("d1", "e1")
    await_whole(app)
    app.await_pings("c1", "c2")


def find_all(cluster: Cluster, faults: list[Fault]) -> None:
    print("drawn:", ", ".join(fault.name for fault in faults))
    for fault in faults:
        assert_found(cluster, fault)
        await_whole(cluster)


@pytest.mark.timeout(400)
def test_faults_that_are_drawn_are_found_in_three_commands(app: Beside, churn_seed: str) -> None:
    find_all(app, random.Random(churn_seed).sample(SOMETIMES, DRAWN))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_fault_of_the_catalogue_is_found_in_three_commands(app: Beside, churn_seed: str) -> None:
    find_all(app, random.Random(churn_seed).sample(faults := [*SOMETIMES, *SLOW], len(faults)))


def test_a_forgotten_host_is_found_in_three_commands(app: Beside) -> None:
    """The last test of this file: see FORGOTTEN."""
    assert_found(app, FORGOTTEN)
