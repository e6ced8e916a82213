"""Names of services that have an address of their own, and what the guide to these says, on whole hosts."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.services]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "service-addresses.md"
SERVER = """
import socket, sys
with socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(sys.argv[1].encode())
"""
CLIENT = """
import json, socket, sys
found = {"by": [], "peers": [], "refused": 0}
for _ in range(int(sys.argv[3])):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
            found["peers"].append(connection.getpeername()[0])
            found["by"].append(connection.makefile().read())
    except ConnectionRefusedError:
        found["refused"] += 1
print(json.dumps({key: sorted(set(one)) if isinstance(one, list) else one for key, one in found.items()}))
"""

HOLDER = """
import socket, sys
kept = socket.create_connection((sys.argv[1], 80), 5)
print(kept.getpeername()[0], flush=True)
sys.stdin.read()
"""


def serve(app: Cluster, host: str, name: str, *options: str, asks: bool = True) -> str:
    """A replica that says its name, and may ask for an address of its service; return its own IPv4 address."""
    command = ("python3", "-c", SERVER, name)
    label = ("--label", "netagent.address=true") if asks else ()
    attached = app.attach(host, name, "--service", "web", *label, *options, command=command)
    app.await_listening(name, 80)
    addresses: list[str] = attached["addresses"]
    return addresses[0]


def connect(app: Cluster, container: str, to: str, port: int = 80, count: int = 40) -> dict[str, Any]:
    done = app.inside(container, "python3", "-c", CLIENT, to, str(port), str(count))
    assert done.status == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def await_answer(app: Cluster, container: str, name: str, expected: list[str]) -> None:
    def is_answered() -> bool:
        return sorted(app.ask(container, name).data) == sorted(expected)

    app.wait(is_answered, 15.0, lambda: f"{container} is told {app.ask(container, name)} of {name}")


def given(app: Cluster, container: str, name: str) -> tuple[str, str]:
    """The own address of a service, as soon as a container is told it."""
    own: list[str] = []
    held = {address for host in app.hosts for one in app.held(host) for address in one["addresses"]}

    def is_own() -> bool:
        own[:] = [*app.ask(container, name).data, *app.ask(container, name, "AAAA").data]
        return len(own) == 2 and held.isdisjoint(own)

    app.wait(is_own, 20.0, lambda: f"{container} is told {own} of {name}")
    return own[0], own[1]


def own_addresses(app: Cluster, service: str, network: str) -> list[str]:
    found = app.netagent("h1", "service", "inspect", service, "--network", network)["service_addresses"]
    return [address for one in found[:1] for address in one["addresses"]]


@contextlib.contextmanager
def holding(app: Cluster, container: str, address: str) -> Iterator[str]:
    """A connection that stays; what the program takes for its other end."""
    argv = app.lab.container(container).entering(["python3", "-c", HOLDER, address])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        yield holder.stdout.readline().strip()
        holder.stdin.close()


def test_a_name_leads_to_the_address_wherever_that_is_translated(app: Cluster) -> None:
    first = serve(app, "h1", "web-1", "--alias", "www")
    second = serve(app, "h2", "web-2", "--alias", "www")
    own4, own6 = given(app, "c1", "web")
    for container in ("c1", "c3"):
        for name in ("web", "web.app", "www"):
            await_answer(app, container, name, [own4])
            assert app.ask(container, name, "AAAA").data == [own6]
        assert sorted(app.ask(container, "all.web").data) == sorted([first, second])
        assert app.ask(container, "web-2").data == [second]
    pointer = app.inside("c3", "dig", "+short", "-x", own4).stdout
    assert pointer.strip() == "web.app.mesh.internal."
    for name in ("web", own4, own6):
        found = connect(app, "c3", name)
        assert (found["by"], found["refused"]) == (["web-1", "web-2"], 0)
        assert set(found["peers"]) <= {own4, own6}
    assert app.inside("c3", "ping", "-c", "1", "-W", "2", "web").status == 0

    # The same service where nothing translates, and back.
    with app.lab.changing("h3") as host:
        configuration = host.path("/etc/netagent/netagent.toml")
        before = configuration.read_text()
        configuration.write_text(before + 'service_addresses = "off"\n')
        host.signal_agent("HUP")
    await_answer(app, "c3", "web", [first, second])
    reason = app.netagent("h3", "lookup", "web", "--from", "c3")["reason"]
    assert f"not its own address ({own4}, {own6})" in reason
    assert "service_addresses is off in the configuration of this host" in reason
    await_answer(app, "c1", "web", [own4])
    configuration.write_text(before)
    host.signal_agent("HUP")
    await_answer(app, "c3", "web", [own4])

    # Without a replica the name stays, and the kernel refuses.
    app.remove("web-1", "web-2")
    app.wait(lambda: app.ask("c3", "all.web").data == [], 10.0, "the replicas stay in names")
    assert app.ask("c3", "web").data == [own4]
    assert app.ask("c3", "all.web.app.mesh.internal").status == "NOERROR"
    assert connect(app, "c3", "web", count=2) == {"by": [], "peers": [], "refused": 2}
    assert "so connections are refused" in app.netagent("h3", "lookup", "web", "--from", "c3")["reason"]


def test_answers_stay_while_the_agent_is_away(app: Cluster) -> None:
    serve(app, "h1", "web-1")
    own4, _ = given(app, "c1", "web")
    with app.lab.changing("h1") as host:
        host.kill_agent()
        for _ in range(20):
            assert app.ask("c1", "web").data == [own4]
        assert connect(app, "c1", "web")["by"] == ["web-1"]
        host.start_agent()
    for _ in range(20):
        assert app.ask("c1", "web").data == [own4], "a new agent begins with what the kernel has"
    assert connect(app, "c1", "web")["by"] == ["web-1"]


def test_a_client_without_a_link_is_refused_as_by_name(app: Cluster) -> None:
    app.netagent("h1", "network", "create", "strict", "--policy", "links")
    serve(app, "h1", "web-1", "--network", "strict")
    app.attach("h2", "linked", "--network", "strict", "--link", "web:server")
    app.attach("h2", "plain", "--network", "strict")
    own4, _ = given(app, "linked", "web")
    for container, name in (("linked", "server"), ("linked", "web"), ("plain", "web")):
        await_answer(app, container, name, [own4])
    assert connect(app, "linked", "server")["by"] == ["web-1"]
    assert connect(app, "plain", "web", count=2) == {"by": [], "peers": [], "refused": 2}


def test_the_commands_of_the_guide_do_what_it_says(app: Cluster) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    typed = [shlex.split(line)[1:] for line in re.findall(r"^sudo (netagent .*)$", text, re.MULTILINE)]
    assert len(typed) >= 8
    replicas = [serve(app, "h1", "web-1", asks=False), serve(app, "h2", "web-2", asks=False)]
    app.attach("h1", "cli")

    def run(*words: str) -> None:
        """Run the next command of the guide, which begins with these words."""
        command = typed.pop(0)
        assert tuple(command[: len(words)]) == words
        done = app.try_netagent("h1", *command)
        assert done.status == 0, (command, done.stderr)

    run("service", "create", "web")
    app.wait(lambda: bool(own_addresses(app, "web", "app")), 10.0, "the service has no address")
    own4, own6 = own_addresses(app, "web", "app")
    await_answer(app, "cli", "web", [own4])
    assert sorted(app.ask("cli", "all.web").data) == sorted(replicas)
    with holding(app, "cli", own4) as peer:
        assert peer == own4, "the program sees the service"
        shown = app.inside("cli", "ss", "-Htan", "dport", "=", ":80").stdout.split()
        assert shown[4] in {f"{address}:80" for address in replicas}, "ss shows the replica"

    run("service", "create", "api")
    run("service", "set", "api")
    address = app.netagent("h1", "service", "inspect", "api")["service_addresses"][0]
    assert (address["ports"], address["balance"]) == ([{"number": 80, "target": 8080}], "nearest")
    assert address["host_weights"] == {"h1": 10}
    run("network", "create", "shop")
    app.attach("h1", "s1", "--network", "shop")
    app.wait(
        lambda: bool(own_addresses(app, "s1", "shop")), 15.0, "no service of the network gets an address"
    )
    await_answer(app, "s1", "s1", own_addresses(app, "s1", "shop")[:1])
    run("drain", "web-1")
    app.wait(
        lambda: connect(app, "cli", "web")["by"] == ["web-2"], 10.0, "a drained replica gets connections"
    )
    run("service", "set", "web")
    body = app.inside("cli", *shlex.split(re.findall(r"^(curl .*traefik.*)$", text, re.MULTILINE)[0]))
    assert body.status == 0
    run("service", "inspect", "web")
    run("lookup", "web", "--from", "cli")
    run("service", "rm", "web")
    assert not typed
    await_answer(app, "cli", "web", replicas[1:])
    assert connect(app, "cli", own4, count=2) == {"by": [], "peers": [], "refused": 2}
    assert connect(app, "cli", own6, count=2) == {"by": [], "peers": [], "refused": 2}
