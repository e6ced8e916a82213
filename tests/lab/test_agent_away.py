"""While an agent is away, connections last; on its return it adopts what is there."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from lab.harness import STREAM, Cluster
from lab.monitor import monitored
from netlab.errors import LabError
from netlab.programs import Finished

pytestmark = pytest.mark.lab


UPGRADE = """
import sys, netagent
netagent.__version__ = "99.1"
from netagent.cli.main import main
sys.argv = ["netagent", "agent"]
sys.exit(main())
"""


def end(app: Cluster, hosts: Sequence[str], how: str) -> None:
    for name in hosts:
        with app.agent_of(name) as host:
            host.kill_agent() if how == "killed" else host.stop_agent()


def begin(app: Cluster, hosts: Sequence[str], *, code: str = "") -> None:
    """With `code`: another release."""
    for name in hosts:
        with app.agent_of(name) as host:
            if code:
                host._agent.start([sys.executable, "-P", "-c", code])
            else:
                host.start_agent(wait=False)
    for name in hosts:
        app.lab.host(name).wait_agent()
    all_alive = dict.fromkeys(app.hosts, "alive")
    for name in app.hosts:
        app.wait(lambda: app.agents(name) == all_alive, 15.0, f"{name} does not see all alive")


def versions(app: Cluster, host: str) -> dict[str, str]:
    """Host name -> release of its agent, as this host sees them."""
    return {member["name"]: member["version"] for member in app.netagent(host, "members")}


@contextmanager
def nothing_is_deleted(app: Cluster) -> Iterator[None]:
    """No device, address, route, entry or rule of ours, on any host, during the block."""
    with ExitStack() as stack:
        monitors = {h: stack.enter_context(monitored(app, h, f"c{h[1:]}")) for h in app.hosts}
        app.all_at_once(lambda host: monitors[host].prove())
        before = app.traces()
        yield
        assert app.traces() == before
        app.all_at_once(lambda host: monitors[host].prove())
        ours = re.compile(r"\b(na|nx)-[0-9a-f]|\bnv[0-9a-f]{8}|netagent|\beth0\b.*(brd|scope)")
        for host, monitor in monitors.items():
            # NOARP: the kernel's own entries for multicast groups, which age after a minute.
            deleted = [line for line in monitor.deleted() if ours.search(line) and "NOARP" not in line]
            assert deleted == [], host


@contextmanager
def streams(app: Cluster, seconds: float, *, flood: bool = True) -> Iterator[None]:
    """TCP, pings and (`flood`) 1000 datagrams a second, in both families, into, out of and within h3: all arrives."""
    echo = {name: app.endpoint(name)["addresses"] for name in ("echo1", "echo3")}
    v4, v6 = ({name: sorted(a, key=lambda a: ":" in a)[n] for name, a in echo.items()} for n in (0, 1))
    ways = [("c1", v4["echo3"]), ("c1", v6["echo3"]), ("c3", v4["echo1"]), ("c3", v4["echo3"])]
    tcps = [app.in_background(app.tcp_stream, *way, seconds) for way in ways]
    pings = [app.in_background(app.ping_stream, *way, seconds) for way in ways]
    floods = [app.in_background(app.datagram_stream, *way, seconds) for way in ways if flood]
    app.wait(
        lambda: app.inside("echo3", "ss", "-Htn", "state", "established").stdout.count("\n") >= 3,
        15.0,
        "idle",
    )
    yield
    for way, tcp, ping in zip(ways, tcps, pings, strict=True):
        report = tcp.result()
        assert report["echoed"] == report["sent"] > 50 * seconds, way
        assert report["lost"] == 0, way
        pinged = ping.result()
        assert pinged.sent > 50 * seconds, way
        assert pinged.lost == 0, way
    for counted in (one.result() for one in floods):
        assert counted["came"] == counted["sent"] == 1000 * seconds, counted


@pytest.fixture(scope="module")
def echoing(lasting: Cluster) -> Cluster:
    """Servers of streams, `echo1` on h1 and `echo3` on h3."""
    for number in (1, 3):
        name = f"echo{number}"
        lasting.attach(f"h{number}", name, command=("python3", STREAM, "serve"))
        lasting.await_listening(name, 7000)
    for container in ("c1", "c2", "c3"):
        lasting.wait(lambda: lasting.finds(container, "echo1", "echo3"), 2.0, f"{container} lacks names")
    return lasting


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("how", "away_s"), [("killed", 8), ("stopped", 4), ("upgraded", 2)])
def test_scenario_20_an_agent_is_away_and_restarts_under_a_stream(
    echoing: Cluster, how: str, away_s: int
) -> None:
    """Nothing is lost, every name has its answer all the while, and the restart deletes nothing."""
    app = echoing
    app.netagent("h3", "link", "c3", "c1:database")
    echo = app.endpoint("echo3")["addresses"]
    before = app.netagent("h3", "endpoints"), app.netagent("h3", "status")["host"]["id"]
    seconds = away_s + 6  # a second of it before, and the restart inside too
    with streams(app, seconds), nothing_is_deleted(app):
        end(app, ["h3"], how)
        answered = 0
        until = time.monotonic() + away_s
        while time.monotonic() < until:
            for container in ("c1", "c2", "c3"):
                assert app.answers(container, "echo3") == sorted(echo), f"in {container}"
                answered += 1
            assert app.ask("c3", "c1").status == "NOERROR", "its own containers still resolve"
        assert answered > 2
        if away_s > 5 and how == "killed":
            assert app.agents("h1")["h3"] != "alive", "away for too short a time to prove anything"
        begin(app, ["h3"], code=UPGRADE if how == "upgraded" else "")
        if how == "upgraded":
            assert app.answers("c3", "c1") == app.answers("c1", "c1") != []
            # Away for so short a time that h1 has perhaps not missed it, and believes it alive from before.
            app.wait(lambda: versions(app, "h1")["h3"] == "99.1", 5.0, "h1 has not heard of its release")
            assert versions(app, "h1")["h1"] != "99.1"
    if how == "upgraded":
        end(app, ["h3"], how)
        begin(app, ["h3"])
    assert (app.netagent("h3", "endpoints"), app.netagent("h3", "status")["host"]["id"]) == before
    assert app.answers("c3", "database") == app.answers("c3", "c1")
    app.netagent("h3", "unlink", "c3", "c1:database")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_scenario_23_all_agents_restart_at_once_under_a_stream(echoing: Cluster, how: str) -> None:
    app = echoing
    seconds = 9
    with streams(app, seconds), nothing_is_deleted(app):
        end(app, app.hosts, how)
        for container in ("c1", "c2", "c3"):
            assert app.answers(container, "echo3") == app.answers("c1", "echo3") != []
        begin(app, app.hosts)
    begun = time.monotonic()
    app.attach("h2", "late")
    assert time.monotonic() - begun < 5.0
    app.wait(lambda: app.ask("c3", "late").status == "NOERROR", 2.0, "h3 hears nothing new")
    app.lab.remove_container("late")
    for container in ("c1", "c3"):
        app.wait(lambda: app.ask(container, "late").status == "NXDOMAIN", 2.0, "its name stays")


def test_signals_reload_stop_and_stop_at_once(echoing: Cluster) -> None:
    """A second SIGTERM waits for no request under way; what that had begun is as before after the next start."""
    app = echoing
    addresses = app.answers("c1", "echo3")
    configuration = app.lab.host("h3").path("/etc/netagent/netagent.toml")
    as_before = configuration.read_text()

    def said(words: str) -> None:
        app.wait(lambda: words in app.lab.host("h3").log_tail(5), 10.0, f"its log lacks {words!r}")

    def reported() -> dict[str, str]:
        return {one["code"]: one["message"] for one in app.netagent("h3", "status")["warnings"]}

    with app.agent_of("h3") as host:
        for line, words, code in (
            ("gossip_prt = 1", "unknown key 'gossip_prt'; did you mean 'gossip_port'?", "config"),
            ("gossip_port = 7999", "these keys need a restart to take effect: gossip_port", "config-waits"),
        ):
            configuration.write_text(f"{as_before}{line}\n")
            host.signal_agent("HUP")
            said(words)
            assert line.partition(" ")[0] in reported()[code]
        configuration.write_text(as_before)
        host.signal_agent("HUP")
        said("changed: nothing")
        assert not {"config", "config-waits"} & set(reported())

    streaming = app.in_background(app.tcp_stream, "c1", addresses[0], 8)
    established = ("ss", "-Htn", "state", "established", "sport = :7000")
    app.wait(lambda: app.inside("echo3", *established).stdout != "", 5.0, "no stream")
    detaching = app.in_background(app.try_netagent, "h3", "detach", "echo3", "--drain", "60s")
    app.wait(lambda: app.answers("c1", "echo3") == [], 5.0, "the detach has not begun")
    with app.agent_of("h3") as host:
        host.signal_agent("TERM")
        said("SIGTERM: stopping")
        assert host.agent_running, "it lets the request go on for a while"
        host.signal_agent("TERM")
        said("second signal: stopping at once")
        app.wait(lambda: not host.agent_running, 10.0, "it does not stop")
    assert detaching.result().status == 3, detaching.result()
    begin(app, ["h3"])
    app.wait(lambda: app.answers("c1", "echo3") == addresses, 5.0, "its name is not back")
    with app.agent_of("h3") as host:
        host.signal_agent("INT")
        said("SIGINT: stopping")
        app.wait(lambda: not host.agent_running, 10.0, "it does not stop")
    begin(app, ["h3"])
    report = streaming.result()
    assert (report["echoed"], report["lost"]) == (report["sent"], 0), report


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_minutes_without_any_agent_lose_no_packet_and_no_name(echoing: Cluster) -> None:
    app, away_s = echoing, 600
    echo = {name: app.answers("c2", name) for name in ("echo1", "echo3")}
    seconds = away_s + 15
    with streams(app, seconds, flood=False), nothing_is_deleted(app):
        end(app, app.hosts, "killed")
        until = time.monotonic() + away_s
        while time.monotonic() < until:
            for container in ("c1", "c2", "c3"):
                for name, addresses in echo.items():
                    assert app.answers(container, name) == addresses != [], f"{name} in {container}"
            time.sleep(1.0)
        begin(app, app.hosts)
        # Each has held the others dead, as far as it can tell: their kernels answered.
        for container in ("c1", "c2", "c3"):
            assert {name: app.answers(container, name) for name in echo} == echo


def test_without_its_journal_an_agent_stays_away_and_removes_nothing(app: Cluster) -> None:
    before = app.devices("h3"), app.answers("c3", "c1")
    end(app, ["h3"], "killed")
    state = app.lab.host("h3").path("/var/lib/netagent")
    (state / "state.db").rename(state / "kept.db")
    (state / "state.db-wal").rename(state / "kept.db-wal")
    for _ in range(2):
        with app.agent_of("h3") as host, pytest.raises(LabError, match=r"journal /var\S*/state.db is lost"):
            host.start_agent()
    assert (app.devices("h3"), app.answers("c3", "c1")) == before
    (state / "kept.db").rename(state / "state.db")
    (state / "kept.db-wal").rename(state / "state.db-wal")
    begin(app, ["h3"])
    assert (app.devices("h3"), app.answers("c3", "c1")) == before

    end(app, ["h3"], "killed")
    (state / "state.db").unlink()
    (state / "keyring").rename(state / "old-keyring")
    with app.agent_of("h3") as host:
        host.start_agent()
    token = app.netagent("h1", "invite")["token"]
    app.netagent("h3", "join", "--token-file", "-", stdin=token)
    app.wait(
        lambda: not [name for _, name in app.devices("h3") if name.startswith("nv")],
        5.0,
        "given up, as the error says, and still there",
    )


def test_scenario_21_a_container_removed_meanwhile_is_gone_everywhere(lasting: Cluster) -> None:
    app = lasting
    before = app.traces()
    app.attach("h3", "fleeting")
    app.wait(lambda: app.ask("c1", "fleeting").status == "NOERROR", 1.0, "not known")
    end(app, ["h3"], "killed")
    app.lab.remove_container("fleeting", kill=True)
    begin(app, ["h3"])
    for container in ("c1", "c2", "c3"):
        app.wait(lambda: app.ask(container, "fleeting").status == "NXDOMAIN", 10.0, f"{container} finds it")
    app.wait(lambda: app.traces() == before, 10.0, "something of it stays")


def test_a_container_removed_without_a_word_is_noticed(lasting: Cluster) -> None:
    lasting.attach("h3", "fleeting")
    lasting.wait(lambda: lasting.ask("c1", "fleeting").status == "NOERROR", 1.0, "not known")
    lasting.lab.remove_container("fleeting", kill=True)
    lasting.wait(lambda: lasting.ask("c1", "fleeting").status == "NXDOMAIN", 15.0, "its name stays")


def test_scenario_36_a_restart_reuses_no_address_of_a_running_container(lasting: Cluster) -> None:
    """In a network so small that all of it is used in the end, by containers from before and after two restarts."""
    app = lasting
    app.netagent("h3", "network", "create", "small", "--subnet", "10.77.0.0/28")
    taken: dict[str, list[str]] = {}
    for how in ("killed", "stopped"):
        for _ in range(3):
            name = f"s{len(taken)}"
            taken[name] = app.attach("h3", name, "--network", "small")["addresses"]
        before = app.traces()
        end(app, ["h3"], how)
        begin(app, ["h3"])
        assert app.traces() == before

    def attach(name: str) -> Finished:
        done = app.try_netagent("h3", "attach", f"netns:{name}", "--network", "small", "--json")
        if done.status == 0:
            taken[name] = json.loads(done.stdout)["addresses"]
        return done

    # All hosts keep some space in stock, so the last addresses may just be on their way from one to another.
    for name in [f"s{number}" for number in range(len(taken), 13)]:
        app.lab.add_container(name, "h3", [])
        app.wait(lambda: attach(name).status == 0, 10.0, f"no address for {name}")
    app.lab.add_container("s13", "h3", [])
    assert "no free address" in attach("s13").stderr
    used = sorted(address for addresses in taken.values() for address in addresses if "." in address)
    assert len(set(used)) == len(used) == 13, "all of them, each once"
    for one, addresses in taken.items():
        assert set(addresses) <= set(app.inside(one, "hostname", "-I").stdout.split())
    app.netagent("h3", "network", "rm", "small", "--force")
    for name in [*taken, "s13"]:
        app.lab.remove_container(name, kill=True)
