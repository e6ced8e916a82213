"""The command line as scripts meet it: a process, its two outputs and its exit status."""

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.agent_service import Served, doctor_of, endpoint_of, pong, why_of
from fakes.agent_service import served as serving

from netagent.cli.feed_command import replace_file
from netagent.cli.render import moment
from netagent.errors import FailedError
from netagent.interface.containers import AttachCommand
from netagent.model.publication import Publication
from netagent.model.records import Link, Port

Run = Any


def test_a_first_quarter_of_an_hour(served: Served, netagent: Run) -> None:
    def says(*words: str, stdin: str = "") -> str:
        done = netagent(*words, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), words
        text: str = done.stdout
        return text

    assert "started the cluster lab" in says("init", "--cluster", "lab")
    begun = says("init", "--network", "app")
    assert "the cluster mesh" in begun
    assert "network app" in begun
    assert json.loads(says("init", "--network", "app", "--json"))["network"]["name"] == "app"
    assert says("invite", "--ttl", "10m") == "tok-secret\n"
    assert "joined the cluster mesh through 192.0.2.1; it has 3 hosts" in says(
        "join", "h1", "--token-file", "-", stdin="tok-secret\n"
    )
    assert served.service.joined == [(["h1"], "tok-secret")]
    assert says("network", "create", "db", "--subnet", "10.170.0.0/24", "--internal").startswith(
        "network db ("
    )
    assert "exists with these options" in says("network", "create", "app")
    assert says(
        "attach",
        "netns:web",
        "--network",
        "app",
        "--service",
        "web",
        "--link",
        "db:database",
        "--expose",
        "http=80/tcp",
        "--expose",
        "https=443/tcp+h2",
        "--weight",
        "10",
        "--label",
        "tier=front",
        "--alias",
        "www",
        "--ip",
        "10.160.0.9",
        "-p",
        "8080:80",
        "--mac",
        "02:00:00:00:00:07",
        "--ifname",
        "eth1",
    ).splitlines() == [
        "web (010101010101) on h1 in app",
        "addresses:  10.160.0.2, fd00::2",
        "names:      web.app.mesh.internal",
    ]
    asked = served.service.attached[0]
    assert (asked.links, asked.ports, asked.labels) == (
        (Link("db", "database"),),
        (Port("http", 80), Port("https", 443, alpn=("h2",))),
        (("tier", "front"),),
    )
    assert asked.weight == 10
    assert (asked.aliases, asked.addresses, asked.publish, asked.mac, asked.ifname) == (
        ("www",),
        ("10.160.0.9",),
        (Publication(8080, 80),),
        "02:00:00:00:00:07",
        "eth1",
    )
    assert "database is db" in says("link", "web", "db:database")
    assert "database" not in says("unlink", "web", "db:database")
    assert "published:  8080:80/tcp" in says("publish", "web", "8080:80")
    assert "published" not in says("unpublish", "web", "8080:80/tcp")
    assert says("lookup", "web").splitlines() == [
        "NAME                   TTL  TYPE  DATA",
        "web.app.mesh.internal  5    A     10.160.0.2",
        "",
        "service of 1 endpoint",
    ]
    assert says("lookup", "web", "-o", "name") == "10.160.0.2\n"
    assert "fqdn:" in says("inspect", "web")
    assert "owned 1024" in says("network", "inspect", "app")
    assert "web.app" in says("network", "connect", "app", "netns:web")
    assert says("network", "disconnect", "app", "netns:web") == "detached web (010101010101) from app\n"
    since = moment("2030-01-01T00:00:00Z")
    drained = f"names lead away from web in app; drained by {getpass.getuser()}, since {since}\n"
    assert says("drain", "web") == drained
    assert says("drain", "web", "--wait", "30s") == drained + "no connection is open\n"
    busy = netagent("drain", "web", "--wait", "0s")
    assert (busy.returncode, busy.stdout) == (1, drained + "connections are still open\n")
    assert says("undrain", "web") == "names lead to web in app again\n"
    checked = says("check", "web").splitlines()
    assert checked[0] == "web in app is up"
    assert checked[1].split() == ["CHECK", "OK", "SAYS", "TOOK"]
    assert " ".join(checked[2].split()) == "http:8080/healthz yes http 200 from 8080/healthz 12 ms"
    assert checked[3:] == ["  ready"]
    assert says("check", "web", "-o", "name") == "web\n"
    assert says("drain", "--host").startswith("names lead away from h1 with ")
    assert says("detach", "web") == "detached web (010101010101) from app\n"
    assert says("network", "rm", "db") == "removed the network db\n"
    assert says("network", "prune").splitlines()[0].split() == ["REMOVED", "ID"]
    assert says("network", "prune") == "no network removed: all are in use\n"
    assert says("version").splitlines()[1] == "agent         0.1.0 (Python 3.13.5, Linux 6.12.0)"
    assert "1 endpoint detached" in says("leave")
    assert says("forget", "h3") == "forgot h3; this host took over 32 addresses\n"
    assert says("forget", "--dead-for", "10m") == "forgot h8, h9; this host took over 64 addresses\n"
    assert says("forget", "--dead-for", "72h") == "no host has been silent for that long\n"
    forced = says("forget", "h3", "--force").splitlines()
    assert forced[1] == "not acknowledged by h2, which may own some of them"
    assert says("withdraw") == "withdrew the names of this host and its containers; 2 hosts notified\n"


def test_doctor_shows_checks_and_findings_with_their_fix_and_exits_1_when_one_failed(
    served: Served, netagent: Run
) -> None:
    done = netagent("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  ok    ports             no other program uses netagent's ports" in done.stdout
    assert "(1 network, 2 containers, 5 devices, 9 entries, 4 questions)" in done.stdout
    assert done.stdout.endswith("No problems found.\n")
    served.service.diagnosis = doctor_of(failed=True)
    done = netagent("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "  FAIL  neighbours        8 findings" in done.stdout
    assert "    fix: ip neigh replace 10.160.0.3" in done.stdout
    assert "7 further findings left out" in done.stdout
    assert done.stdout.endswith("1 failure, 0 warnings\n")
    done = netagent("doctor", "--json")
    assert (done.returncode, json.loads(done.stdout)["healthy"]) == (1, False)
    assert netagent("doctor", "-o", "name").stdout == "unhealthy\n"


def test_doctor_looks_for_itself_when_no_agent_answers(netagent: Run, tmp_path: Path) -> None:
    settings = {"NETAGENT_STATE_DIR": str(tmp_path / "state"), "NETAGENT_RUN_DIR": str(tmp_path / "run")}
    done = netagent("doctor", "--json", **settings)
    assert done.returncode == 3
    assert "cannot reach the agent" in done.stderr
    answer = json.loads(done.stdout)
    assert (answer["agent"], answer["absent"]) == ("silent", "this host is in no cluster")
    features = next(one for one in answer["host"] if one["name"] == "kernel-features")
    assert features["verdict"] == "passed", "one of everything was made in a namespace of its own"
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "run").exists()


def test_why_shows_the_record_and_what_it_made_and_exits_1_when_something_is_missing(
    served: Served, netagent: Run
) -> None:
    served.service.rows = [endpoint_of("web")]
    done = netagent("inspect", "web", "--why")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the endpoint web was published by host h2: epoch 3, sequence 17 of its log" in done.stdout
    assert "present  tunnel entry  02:00:00:00:00:02 at 192.0.2.2 by nx-8388608" in done.stdout
    served.service.why = why_of(missing=True)
    done = netagent("inspect", "web", "--why")
    assert (done.returncode, done.stderr) == (1, "")
    assert "    fix: bridge fdb replace" in done.stdout
    done = netagent("inspect", "web", "--why", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["why"]["objects"][0]["state"] == "missing"
    served.service.why = {**why_of(), "records": [], "objects": []}
    done = netagent("inspect", "web", "--why")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n\nIt comes from no record, and no object on this host belongs to it.\n")


def test_ping_shows_what_came_back_and_exits_1_with_the_layer_when_something_did_not(
    served: Served, netagent: Run
) -> None:
    done = netagent("ping", "web", "db")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "ADDRESS     WHAT        ANSWERED  RTT",
        "10.160.0.3  84 bytes    3 of 3    0.5 ms",
        "10.160.0.3  1450 bytes  3 of 3    0.5 ms",
        "",
        "db answers",
    ]
    assert "VXLAN to h2" in netagent("ping", "web", "db", "--trace").stdout
    assert served.service.pings == [
        {"from": "web", "to": "db", "count": 3, "trace": False},
        {"from": "web", "to": "db", "count": 3, "trace": True},
    ]
    served.service.pong = pong(lost_at="path")
    done = netagent("ping", "h2", "--count", "1")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-4:] == [
        "path   NO  VXLAN to h2 at 192.0.2.2  down",
        "fix: let UDP port 4799 pass",
        "",
        "no reply from 10.160.0.3 (lost at: path)",
    ]
    assert served.service.pings[-1] == {"from": "", "to": "h2", "count": 1, "trace": False}
    assert json.loads(netagent("ping", "h2", "--json").stdout)["lost_at"] == "path"
    assert netagent("ping", "a", "b", "c").returncode == 2
    assert netagent("ping", "h2", "--count", "0").returncode == 2


def test_addresses_of_services(served: Served, netagent: Run) -> None:
    made = netagent("service", "create", "web", "--network", "app", "--port", "80:8080", "--weight", "h1=2")
    assert made.returncode == 0
    assert made.stdout.startswith(
        "web in app is web.app.mesh.internal, and has now the address\n10.172.0.9, "
    )
    assert (
        json.loads(netagent("service", "set", "web", "--sticky", "off", "--json").stdout)["created"] is False
    )
    shown = netagent("service", "inspect", "web.app")
    assert (shown.returncode, shown.stdout.count("web3")) == (0, 1)
    assert "removed the address of service web" in netagent("service", "rm", "web", "--network", "app").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "web"), "--network"),
        (("create", "web", "--network", "app", "--port", "http"), "'http' is not a port from 1 to 65535"),
        (("create", "web", "--network", "app", "--balance", "best"), "--balance"),
        (("create", "", "--network", "app"), "the name of the service is empty; give a name"),
        (("set", "web"), "it is not clear what to change of service web; give --port"),
        (("set", "web", "--sticky"), "--sticky"),
        (("set", "web", "--port", "none", "--port", "80"), "--port is given both none and others"),
        (("set",), "NAME"),
        (("inspect",), "NAME"),
        (("make", "web"), "make"),
    ],
)
def test_wrong_words_about_services(served: Served, netagent: Run, words: tuple[str, ...], said: str) -> None:
    done = netagent("service", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("netagent: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_tables(served: Served, netagent: Run) -> None:
    served.service.rows = [
        endpoint_of("web", number=1),
        endpoint_of("web", number=2, host="h2"),
        endpoint_of("db", number=3),
    ]
    assert netagent("endpoints").stdout.splitlines() == [
        "NAME  SERVICE  NETWORK  HOST  ADDRESS     STATE",
        "db    db       app      h1    10.160.0.4  up",
        "web   web      app      h1    10.160.0.2  up",
        "web   web      app      h2    10.160.0.3  up",
    ]
    assert netagent("ps").stdout == netagent("endpoint", "ls").stdout == netagent("endpoints").stdout
    assert netagent("service", "ls").stdout == netagent("services").stdout
    assert netagent("ps", "-q").stdout.splitlines() == ["03" * 16, "01" * 16, "02" * 16]
    assert netagent("ps", "-o", "name").stdout.splitlines() == ["db", "web", "web"]
    assert "1.3" in netagent("ps", "-o", "wide").stdout
    assert netagent("ps", "--service", "db").stdout.count("\n") == 2
    assert netagent("ps", "--service", "nope").stdout == "no endpoint matches these filters\n"
    assert netagent("members").stdout.splitlines() == [
        "NAME  ADDRESS    AGENT  HOST     VERSION  RTT     PATH",
        "h1    192.0.2.1  alive  answers  0.1.0            local",
        "h2    192.0.2.2  alive  answers  0.1.0    0.4 ms  ok",
    ]
    assert netagent("network", "ls").stdout.splitlines() == [
        "NAME  SUBNETS        HERE  HOSTS  USED  FREE                OWNED BY",
        "app   10.160.0.0/20  yes   h1     15    4,078 (1,021 away)  h1 2,046, h2 1,024 (dead), h3 1,023",
    ]
    assert netagent("network", "inspect", "app").stdout.splitlines()[-6:] == [
        "",
        "4,093 addresses, 15 used, 4,078 free, 1,021 of these owned by hosts that are away",
        "HOST  AGENT  OWNS   USED  FREE   ADDRESSES",
        "h1    alive  2,046  12    2,034  10.160.0.2 - 10.160.7.255",
        "h2    dead   1,024  3     1,021  10.160.8.0 - 10.160.11.255",
        "h3    alive  1,023  0     1,023  10.160.12.0 - 10.160.15.254",
    ]


def test_json(served: Served, netagent: Run) -> None:
    served.service.rows = [endpoint_of("web"), endpoint_of("db", number=2)]
    whole = json.loads(netagent("endpoints", "--json").stdout)
    assert whole["schema"] == 1
    assert [item["name"] for item in whole["items"]] == ["db", "web"]
    assert json.loads(netagent("--json", "endpoints").stdout) == whole
    lines = netagent("endpoints", "-o", "ndjson").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["db", "web"]
    assert json.loads(netagent("status", "--json").stdout)["cluster"]["name"] == "mesh"
    assert json.loads(netagent("version", "-o", "json").stdout)["agent"]["kernel"] == "6.12.0"
    (listed,) = json.loads(netagent("network", "ls", "--json").stdout)["items"]
    assert json.loads(netagent("network", "inspect", "app", "--json").stdout)["use"] == listed["use"]
    assert [share["owned"] for share in listed["use"]["owners"]] == [2046, 1024, 1023]
    missing = netagent("lookup", "nope", "--json")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["status"] == "NXDOMAIN"


def test_exit_statuses(served: Served, netagent: Run, tmp_path: Path) -> None:
    def ends(status: int, says: str, *words: str, **more: str) -> None:
        done = netagent(*words, **more)
        assert done.returncode == status, (words, done.stderr)
        assert done.stdout == ""
        assert says in done.stderr
        assert done.stderr.startswith(("netagent: ", "usage: "))
        assert done.stderr.count("\n") == 1 or not words
        assert "Traceback" not in done.stderr

    ends(1, "there is no network 'nope'", "network", "inspect", "nope")
    ends(1, "NXDOMAIN", "lookup", "nope")
    ends(1, "nothing is called", "inspect", "nope")
    ends(2, "usage: netagent")
    ends(2, "takes --host or ENDPOINT, not both", "drain", "web", "--host")
    ends(2, "did you mean 'attach'?", "attch", "x")
    ends(2, "did you mean 'create'?", "network", "crate", "x")
    ends(2, "did you mean '--network'?", "attach", "netns:x", "--network", "a", "--netwrk", "b")
    ends(2, "required: --network", "attach", "netns:x")
    ends(2, "takes no argument 'y'", "detach", "x", "y")
    ends(2, "--uses cannot be 'many'; give a whole number", "invite", "--uses", "many")
    ends(
        2,
        "-o/--output cannot be 'yaml'; take table, wide, json, ndjson or name",
        "status",
        "-o",
        "yaml",
    )
    ends(2, "--policy cannot be 'x'; take open or links", "network", "create", "app", "--policy", "x")
    ends(2, "--mtu cannot be '9k'; give a whole number", "network", "create", "app", "--mtu", "9k")
    ends(2, "takes --watch or -q/--quiet, not both", "ps", "-q", "--watch")
    ends(2, "not a link", "attach", "netns:x", "--network", "app", "--link", ":x")
    ends(2, "not a port", "attach", "netns:x", "--network", "app", "--expose", "http")
    ends(2, "not a label", "attach", "netns:x", "--network", "app", "--label", "x")
    ends(2, "not a length of time", "invite", "--ttl", "soon")
    ends(2, "write netns:NAME", "attach", "web-without-a-kind", "--network", "app")
    ends(2, "the name of the endpoint is empty", "detach", "")
    ends(2, "--token-file", "join")
    ends(2, "cannot read the token", "join", "--token-file", str(tmp_path / "missing"))
    ends(2, "there is no token", "join", "--token-file", "-", stdin="\n")
    ends(4, "exists with other subnets", "network", "create", "app", "--subnet", "10.0.0.0/24")
    served.service.rows = [endpoint_of("web", number=1), endpoint_of("web", number=2)]
    ends(2, "02" * 16, "detach", "web")
    ends(4, "has endpoints", "network", "rm", "app")
    served.service.failure = RuntimeError("boom")
    ends(5, "its log has the details", "status")
    ends(3, "socket does not exist", "status", "--socket", str(tmp_path / "none"))
    ends(3, "start it: `sudo systemctl start netagent`", "status", NETAGENT_SOCKET=str(tmp_path / "none"))


def test_the_version_without_an_agent(netagent: Run) -> None:
    assert netagent("--version").returncode == 0
    done = netagent("version")
    assert done.returncode == 3
    assert done.stdout.startswith("command line  ")


def test_debug_shows_the_traceback(netagent: Run) -> None:
    assert "Traceback" in netagent("status", "--debug").stderr


@pytest.mark.parametrize(
    "words", [[], ["attach"], ["network"], ["network", "create"], ["agent"], ["lookup"], ["join"]]
)
def test_help(netagent: Run, words: list[str]) -> None:
    done = netagent(*words, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: netagent")
    assert all(len(line) <= 110 for line in done.stdout.splitlines())


def test_every_configuration_key_is_a_flag_of_agent(netagent: Run) -> None:
    from netagent.config import KEYS

    text = netagent("agent", "--help").stdout
    assert [key.flag for key in KEYS if key.flag not in text] == []


def test_the_overview_names_every_command(netagent: Run) -> None:
    text = netagent("--help").stdout
    for word in [
        "agent",
        "init",
        "invite",
        "join",
        "leave",
        "forget",
        "withdraw",
        "install",
        "uninstall",
        "completion",
        "status",
        "members",
        "network",
        "attach",
        "detach",
        "drain",
        "undrain",
        "check",
        "link",
        "unlink",
        "publish",
        "unpublish",
        "endpoints",
        "services",
        "inspect",
        "lookup",
        "ping",
        "version",
    ]:
        assert f"  {word} " in text


def test_status_in_no_cluster_names_the_two_ways_out(served: Served, netagent: Run) -> None:
    served.service.cluster = None
    served.service.heard = [{"name": "h2", "address": "192.0.2.2", "cluster": "mesh", "how": "mdns"}]
    text = netagent("status").stdout
    assert "h2  192.0.2.2  cluster mesh  by mDNS" in text
    assert "netagent init " in text
    assert "netagent join " in text
    assert "ADDRESS" not in text
    served.service.heard = []
    text = netagent("status").stdout
    assert "No other host was heard" in text
    assert "netagent join ADDRESS" in text


def test_the_command_line_starts_light(served: Served, netagent: Run, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from netagent.cli.main import main\n"
        "assert main(['services']) == 0\n"
        "heavy = {'trio', 'pyroute2', 'msgpack', 'msgspec', 'cryptography', 'starlette', 'hypercorn', 'zeroconf',\n"
        "         'immutables', 'dataclasses', 'asyncio', 'http', 'urllib', 'ipaddress', 'logging',\n"
        "         'difflib', 'shutil', 'threading', 'netagent.config'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={**os.environ, "NETAGENT_SOCKET": str(served.path)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_that_nobody_can_take_is_an_error_in_words(served: Served) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "netagent.cli.main", "services", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
            env={**os.environ, "NETAGENT_SOCKET": str(served.path)},
        )
    assert done.returncode == 5
    assert done.stderr == (
        "netagent: cannot write the output: No space left on device; write it to a place that has space\n"
    )


def test_an_attach_that_works_otherwise_than_one_might_expect_says_so(
    served: Served, netagent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = served.service.attach
    notice = {"code": "resolv-conf", "message": "the file names another server", "cure": "remove it"}

    async def warning(request: AttachCommand) -> object:
        return {**await attach(request), "warnings": [notice]}

    monkeypatch.setattr(served.service, "attach", warning)
    done = netagent("attach", "netns:web", "--network", "app")
    assert done.returncode == 0
    assert done.stdout.startswith("web ")
    assert done.stderr == "netagent: the file names another server; remove it\n"
    done = netagent("attach", "netns:db", "--network", "app", "--json")
    assert (json.loads(done.stdout)["warnings"], done.stderr) == ([notice], "")


def test_status_prints_each_warning_once(served: Served, netagent: Run) -> None:
    done = netagent("status")
    assert done.stdout.count("h3 is dead") == 1
    assert done.stderr == ""
    assert netagent("status", "-o", "name").stderr == "netagent: h3 is dead; netagent members\n"


def watching(served: Served, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "netagent.cli.main", *words, "--watch"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NETAGENT_SOCKET": str(served.path)},
    )


def test_watch_as_json(served: Served, netagent: Run) -> None:
    served.service.rows = [endpoint_of("web")]
    with watching(served, "endpoints", "--json") as process:
        assert process.stdout
        assert process.stderr
        first, second = json.loads(process.stdout.readline()), json.loads(process.stdout.readline())
        assert (first["event"], first["item"]["name"]) == ("added", "web")
        assert second == {"schema": 1, "event": "synced"}
        netagent("detach", "web")
        assert json.loads(process.stdout.readline())["event"] == "removed"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


def test_a_watch_on_a_pipe_prints_the_list_and_then_a_line_for_each_change(
    served: Served, netagent: Run
) -> None:
    served.service.rows = [endpoint_of("web")]
    with watching(served, "services") as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("  SERVICE")
        assert process.stdout.readline().startswith("  web")
        netagent("detach", "web")
        removed = process.stdout.readline()
        assert removed.startswith("- web")
        assert "\x1b" not in removed
        served.stop()
        assert process.wait(10) == 3
        assert "has stopped" in process.stderr.read()


def test_a_closed_pipe_is_quiet(served: Served, netagent: Run) -> None:
    served.service.rows = [endpoint_of("web")]
    with watching(served, "endpoints", "--json") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.readline()
        process.stdout.close()
        netagent("detach", "web")
        assert process.wait(10) == 141
        assert process.stderr.read() == ""


def test_what_is_not_known_is_said_and_never_passed_over(served: Served, netagent: Run) -> None:
    served.service.unknown.append(
        {"code": "not-known", "message": "network app: h3 did not answer", "cure": "try again"}
    )
    for words in (("services",), ("endpoints",)):
        done = netagent(*words)
        assert (done.returncode, done.stdout) == (0, "nothing is known here\n")
        assert done.stderr == "netagent: network app: h3 did not answer; try again\n"
        assert json.loads(netagent(*words, "--json").stdout)["warnings"][0]["code"] == "not-known"
        local = netagent(*words, "--local")
        assert "in the networks of this host" in local.stdout
        assert local.stderr == ""
    served.service.rows.append(endpoint_of("web"))
    assert "h3 did not answer" in netagent("inspect", "web").stderr
    assert netagent("inspect", "web", "--local").stderr == ""


def test_wide_lists_say_where_a_row_comes_from(served: Served, netagent: Run) -> None:
    served.service.rows.append({**endpoint_of("web", host="h2"), "source": "asked", "told_by": ["h2", "h3"]})
    served.service.rows.append({**endpoint_of("db", number=2), "aliases": ["database"]})
    for words in (("services",), ("endpoints",)):
        rows = netagent(*words, "-o", "wide").stdout.splitlines()
        assert rows[0].endswith("SOURCE")
        assert {row.rpartition("  ")[2].strip() for row in rows[1:]} == {"own", "h2, h3"}
    assert "database" in netagent("services").stdout


def test_a_feed_is_printed_or_written(served: Served, netagent: Run, tmp_path: Path) -> None:
    served.service.rows = [endpoint_of("web")]
    printed = netagent("feed", "traefik")
    assert json.loads(printed.stdout) == {"items": ["web.app.mesh.internal"]}
    file = tmp_path / "feed.json"
    assert netagent("feed", "traefik", "--file", str(file)).stdout == ""
    assert file.read_text() == printed.stdout
    assert netagent("feed", "nginx").returncode == 1


def test_a_feed_replaces_its_file_and_keeps_its_rights(served: Served, netagent: Run, tmp_path: Path) -> None:
    file, link = tmp_path / "feed.json", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    with file.open() as reader:
        netagent("feed", "services", "--file", str(link))
        assert reader.read() == "old"
    assert json.loads(file.read_text()) == {"items": []}
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.sock", "feed.json", "link"]


def test_what_is_no_file_is_not_replaced_by_a_feed(served: Served, netagent: Run, tmp_path: Path) -> None:
    fifo, loop, folder = tmp_path / "fifo", tmp_path / "loop", tmp_path / "folder"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    folder.mkdir()
    for path, why in ((fifo, "no regular file"), (folder, "no regular file"), (loop, "symbolic links")):
        done = netagent("feed", "services", "--file", str(path))
        assert done.returncode == 5
        assert f"cannot write {path}: " in done.stderr
        assert why in done.stderr
    assert fifo.is_fifo()


def test_another_users_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "feed.json", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    if os.geteuid() == 0:
        os.chown(link, 1234, 1234, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(FailedError, match="belongs to another user"):
        replace_file(str(link), "new")
    assert file.read_text() == "old"


def test_a_new_file_of_a_feed_is_not_for_everybody(tmp_path: Path) -> None:
    file = tmp_path / "feed.json"
    replace_file(str(file), "new")
    assert file.stat().st_mode & 0o027 == 0


def test_a_file_that_cannot_be_written_is_named(served: Served, netagent: Run, tmp_path: Path) -> None:
    done = netagent("feed", "services", "--file", str(tmp_path / "none" / "feed.json"))
    assert done.returncode == 5
    assert "none/feed.json: No such file or directory" in done.stderr


def test_a_watched_feed_follows_and_outlives_the_agent(served: Served, netagent: Run, tmp_path: Path) -> None:
    served.service.rows = [endpoint_of("web")]
    with watching(served, "feed", "services") as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline()) == {"items": ["web.app.mesh.internal"]}
        netagent("detach", "web")
        assert json.loads(process.stdout.readline()) == {"items": []}
        served.stop()
        assert process.stderr.readline().endswith("; waiting\n")
        with serving(served.path) as again:
            again.service.rows = [endpoint_of("db")]
            assert json.loads(process.stdout.readline()) == {"items": ["db.app.mesh.internal"]}
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_watched_file_is_not_cut_when_the_host_leaves_a_network(
    served: Served, netagent: Run, tmp_path: Path
) -> None:
    file = tmp_path / "feed.json"
    served.service.rows = [endpoint_of("web")]
    served.service.feed_networks = ["app", "back"]
    with watching(served, "feed", "services", "--file", str(file)) as process:
        assert process.stderr
        wait_until(lambda: file.exists() and "web" in file.read_text())
        served.service.feed_networks = ["app"]
        served.service.rows = []
        said = process.stderr.readline()
        assert "has left back" in said
        assert said.endswith("stays as it is; waiting\n")
        assert "web" in file.read_text()
        served.service.rows = [endpoint_of("db")]
        served.service.feed_networks = ["app", "back"]
        wait_until(lambda: "db" in file.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_tokens_are_printed_once_and_listed_with_what_they_reach(served: Served, netagent: Run) -> None:
    made = netagent("token", "create", "grafana", "--read", "--ttl", "90d")
    assert (made.returncode, made.stdout) == (0, "netagent_00000001_" + "5" * 64 + "\n")
    assert netagent("token", "ls").stdout.splitlines() == [
        "NAME     ROLE  NETWORKS       EXPIRES  USED  BY    ID",
        "ci       read  old (removed)  never    -     root  00000001",
        "grafana  read  all            never    -     root  00000001",
    ]
    assert netagent("token", "revoke", "grafana").stdout == "revoked the token grafana\n"
    assert netagent("token", "create", "x", "--read", "--admin").returncode == 2


def test_another_host_is_asked_with_a_token_from_a_file(netagent: Run, tmp_path: Path) -> None:
    far = ("status", "--socket", "https://127.0.0.1:1")
    missing = netagent(*far, "--token-file", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "cannot read the token from" in missing.stderr
    token = tmp_path / "token"
    token.write_text("netagent_00000001_" + "5" * 64 + "\n")
    away = netagent(*far, "--token-file", str(token))
    assert away.returncode == 3
    assert "cannot reach the agent at https://127.0.0.1:1: " in away.stderr
    clear = netagent("status", "--socket", "http://192.0.2.1:7958", "--token-file", str(token))
    assert clear.returncode == 2
    assert "a token is never sent in clear text" in clear.stderr
    assert "5555" not in missing.stderr + away.stderr + clear.stderr
