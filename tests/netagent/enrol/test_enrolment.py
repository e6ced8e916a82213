"""The order in which a host is enrolled, and the way back from each step that fails."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, cast

import pytest

from netagent.cli.render import clean
from netagent.control.client import Client
from netagent.enrol import enrolment, package
from netagent.enrol.enrolment import Enrolment, Wish
from netagent.enrol.host_facts import Needs
from netagent.enrol.package import Package
from netagent.enrol.ssh import LostError, Remote, Said, ScriptError
from netagent.errors import NetagentError, RefusedError
from netagent.interface.cluster import InviteCommand, MembersCommand, UninviteCommand
from netagent.interface.command import Command

FACTS = "kernel=Linux\narchitecture=m\nname=db1.example.net\npython=3.13\nend=end\n" + "".join(
    f"program={one}\n" for one in ("nft", "dpkg", "apt-get", "tar", "systemd", "docker")
)
HEALTHY = json.dumps({"host": [{"name": "ports", "findings": []}]})
UNFIT = json.dumps(
    {"host": [{"name": "ports", "findings": [
        {"severity": "warning", "message": "small", "fix": "none"},
        {"severity": "failed", "message": "UDP 7956 is taken", "fix": "stop nc"},
    ]}]}
)  # fmt: skip


class Host(Remote):
    """The other host: `answers` by a part of the script or of its words; a NetagentError is raised."""

    def __init__(self) -> None:
        super().__init__("root@db1", Path("/none"))
        self.did: list[str] = []
        self.answers: dict[str, str | Exception] = {
            "id -u": "0\n",
            "echo yes": "",
            "kernel=$": FACTS,
            "doctor --json": HEALTHY,
            "netagent status": json.dumps({"host": {"id": "2" * 32, "name": "db1"}}),
        }

    def ask(self, script: str, *words: str, **more: Any) -> Said:
        told = " ".join(words) if script == '"$@"' else script.replace('"$1"', " ".join(words))
        self.did.append(told)
        for part, answer in self.answers.items():
            if part in told:
                if isinstance(answer, Exception):
                    raise answer
                return Said(answer.encode(), b"sh: noise\n")
        return Said(b"", b"")

    def has_done(self, part: str) -> bool:
        return any(part in one for one in self.did)


class Agent(Client):
    """The agent of this host, a member with h1; `joined` of db1 once it was invited."""

    def __init__(self) -> None:
        super().__init__("/none")
        self.members = [
            {"id": "1" * 32, "name": "h1", "agent": "alive", "local": True, "address": "192.0.2.1"}
        ]
        self.reached = True
        self.revoked: list[str] = []

    def send(self, request: Command[Any], *, idempotency_key: str = "") -> Any:
        if isinstance(request, MembersCommand):
            return {"items": self.members}
        if isinstance(request, InviteCommand):
            new = {"id": "2" * 32, "name": "db1", "agent": "alive", "local": False, "address": "192.0.2.2"}
            self.members.append(new)
            return {"id": "0011", "token": "t"}
        if isinstance(request, UninviteCommand):
            self.revoked.append(request.invitation)
            return {"revoked": 1}
        return {"reached": self.reached, "says": "packets are lost at path"}


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netagent.deb").write_bytes(b"deb")
    made = Package(package.DEB_PREFIX, Needs("3.13", is_deb=True, size_kib=1, architecture="m"))
    monkeypatch.setattr(made, "pack", lambda _folder: tmp_path / "netagent.deb")
    monkeypatch.setattr(enrolment, "package_of", lambda _file: made)
    for bound in ("PATH_S", "STARTED_S", "_LOOK_S", "_RULES_S"):
        monkeypatch.setattr(enrolment, bound, 0.0)


def enrol(host: Host, agent: Agent, tmp_path: Path, *, name: str = "", parts: tuple[str, ...] = ()) -> Any:
    said: list[str] = []
    steps = Enrolment(cast("Client", agent), host, Wish(name, None, parts), tmp_path, said.append)
    return steps.run()


def test_a_bare_host(host: Host, agent: Agent, tmp_path: Path) -> None:
    added = enrol(host, agent, tmp_path, parts=("docker",))
    assert (added.name, added.address, added.was_member) == ("db1", "192.0.2.2", False)
    order = [
        "id -u",
        "kernel=$",
        "mkdir",
        "doctor --json",
        "install --no-install-recommends",
        "rm -rf /var/tmp/netagent-add-",
        "netagent status",
        "install docker",
        "join",
    ]
    steps = iter(host.did)
    assert all(any(part in one for one in steps) for part in order)
    assert not host.has_done("purge")


@pytest.mark.parametrize(
    ("fails", "says", "undone"),
    [
        ({"install --no-install": ScriptError("disk full", status=100, output=b"")}, "disk full", ["purge"]),
        ({"netagent status": ScriptError("no socket", status=3, output=b"")}, "does not answer", ["purge"]),
        ({"netagent install": ScriptError("no Docker", status=4, output=b"")}, "no Docker", ["purge"]),
        (
            {"netagent join": ScriptError("no member", status=5, output=b"")},
            "could not join",
            ["leave", "purge"],
        ),
        ({"netagent ping": ScriptError("lost", status=1, output=b"")}, "does not carry", ["leave", "purge"]),
    ],
)
def test_the_way_back(
    host: Host, agent: Agent, tmp_path: Path, *, fails: dict[str, Exception], says: str, undone: list[str]
) -> None:
    host.answers.update(fails)
    with pytest.raises(NetagentError, match=says):
        enrol(host, agent, tmp_path, parts=("docker",))
    places = [next(i for i, one in enumerate(host.did) if part in one) for part in undone]
    assert places == sorted(places)
    assert host.has_done("rm -rf /var/tmp/netagent-add-")
    assert host.has_done("leave") == ("leave" in undone)
    assert agent.revoked == (["0011"] if "leave" in undone else [])


def test_this_host_s_own_look_counts_as_well(host: Host, agent: Agent, tmp_path: Path) -> None:
    agent.reached = False
    with pytest.raises(NetagentError, match="packets are lost at path"):
        enrol(host, agent, tmp_path)
    assert host.has_done("purge")


@pytest.mark.parametrize(
    ("answers", "name", "says"),
    [
        ({"doctor --json": UNFIT}, "", "ports: UDP 7956 is taken; stop nc"),
        ({"doctor --json": "no JSON"}, "", "does not run there"),
        ({"kernel=$": FACTS.replace("python=3.13", "python=")}, "", "no /usr/bin/python3"),
        ({"kernel=$": "nothing"}, "", "does not run a script"),
        ({}, "h1", "has a host h1 already"),
    ],
)
def test_an_unfit_host_is_left_as_it_is(
    host: Host, agent: Agent, tmp_path: Path, *, answers: dict[str, str], name: str, says: str
) -> None:
    host.answers.update(answers)
    with pytest.raises(NetagentError, match=says):
        enrol(host, agent, tmp_path, name=name)
    assert not any(host.has_done(part) for part in ("apt-get -qq", "join", "conf.d"))


def test_what_cannot_be_taken_back_is_said(host: Host, agent: Agent, tmp_path: Path) -> None:
    host.answers["netagent join"] = ScriptError("no member", status=5, output=b"")
    host.answers["purge"] = ScriptError("dpkg is locked", status=2, output=b"")
    with pytest.raises(
        NetagentError,
        match=r"taken back: the package netagent \(dpkg is locked\); type: ssh root@db1 'apt-get purge -y netagent'",
    ):
        enrol(host, agent, tmp_path)


def test_a_host_that_is_lost_is_not_called_again_for_each_undoing(
    host: Host, agent: Agent, tmp_path: Path
) -> None:
    host.answers["netagent join"] = LostError("the connection was lost")
    host.answers["netagent leave"] = LostError("no route")
    with pytest.raises(
        NetagentError, match=r"(?s)membership \(no route\).*package.*netagent leave"
    ) as raised:
        enrol(host, agent, tmp_path)
    assert not host.has_done("purge")
    assert agent.revoked == ["0011"], "that needs no other host"
    assert raised.value.exit_status == 5


def test_what_was_there_before_stays(host: Host, agent: Agent, tmp_path: Path) -> None:
    host.answers["kernel=$"] = FACTS + "had=configuration\n"
    host.answers["netagent join"] = ScriptError("no member", status=5, output=b"")
    with pytest.raises(NetagentError, match="could not join"):
        enrol(host, agent, tmp_path)
    assert not host.has_done("purge"), "it removes /etc/netagent"
    assert host.has_done("remove netagent >&2; rm -rf /var/lib/netagent")


@pytest.mark.parametrize("was_there", [True, False])
def test_an_agent_that_was_there_has_its_name_again(
    host: Host, agent: Agent, tmp_path: Path, *, was_there: bool
) -> None:
    host.answers["echo yes"] = "yes" if was_there else ""
    host.answers["netagent join"] = ScriptError("no member", status=5, output=b"")
    with pytest.raises(NetagentError, match="could not join"):
        enrol(host, agent, tmp_path, name="db2")
    [undone] = [one for one in host.did if one.startswith("rm -f /etc/netagent/conf.d/name.toml")]
    assert ("try-restart" in undone) is was_there


def test_a_refusal_of_the_join_is_a_refusal(host: Host, agent: Agent, tmp_path: Path) -> None:
    host.answers["netagent join"] = ScriptError("uses IPv6", status=4, output=b"")
    with pytest.raises(RefusedError, match="could not join: uses IPv6"):
        enrol(host, agent, tmp_path)


def test_ctrl_c_waits_for_a_script_that_changes_something(host: Host, agent: Agent, tmp_path: Path) -> None:
    def interrupted(script: str, *words: str, **more: Any) -> Said:
        said = ask(script, *words, **more)
        if "install --no-install" in script:
            signal.raise_signal(signal.SIGINT)
            host.did.append("the script has ended")
        return said

    ask, host.ask = host.ask, interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        enrol(host, agent, tmp_path)
    places = [
        host.did.index("the script has ended"),
        next(i for i, one in enumerate(host.did) if "purge" in one),
    ]
    assert places == sorted(places)
    assert not host.has_done("join")


def test_a_member_stays_as_it_is(host: Host, agent: Agent, tmp_path: Path) -> None:
    host.answers.update({"echo yes": "yes", "kernel=$": FACTS + "member=yes\n"})
    host.answers["netagent status"] = json.dumps({"host": {"id": "1" * 32, "name": "h1"}})
    assert enrol(host, agent, tmp_path).was_member
    host.answers["netagent status"] = json.dumps({"host": {"id": "9" * 32, "name": "h1"}})
    with pytest.raises(NetagentError, match="is in another cluster"):
        enrol(host, agent, tmp_path)
    assert not any(host.has_done(part) for part in ("apt-get -qq", "join", "leave"))


def test_the_name_that_its_configuration_says_counts(host: Host, agent: Agent, tmp_path: Path) -> None:
    host.answers["kernel=$"] = FACTS.replace("db1.example", "h1.example") + "had=configuration\n"
    assert enrol(host, agent, tmp_path).name == "db1"


@pytest.mark.parametrize("says", [{"id": "2" * 32, "name": "h1"}, {"id": "1" * 32, "name": "db1"}])
def test_a_host_that_takes_another_one_for_itself_does_not_join(
    host: Host, agent: Agent, tmp_path: Path, *, says: dict[str, str]
) -> None:
    host.answers["netagent status"] = json.dumps({"host": says})
    with pytest.raises(RefusedError, match="has a host h1 already"):
        enrol(host, agent, tmp_path)
    assert not host.has_done("netagent join")
    assert host.has_done("purge")


def test_a_hostile_host_writes_nothing_to_the_terminal(host: Host, agent: Agent, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J$(touch /tmp/never)`id`"
    host.answers["kernel=$"] = FACTS.replace("db1.example.net", evil).replace("3.13", evil[:20])
    with pytest.raises(RefusedError) as raised:
        enrol(host, agent, tmp_path)
    assert clean(str(raised.value)).isprintable()
    host.answers["kernel=$"] = FACTS.replace("db1.example.net", evil)
    host.answers["netagent status"] = json.dumps({"host": {"id": "2" * 32, "name": evil}})
    with pytest.raises(NetagentError, match="does not say which host it is"):
        enrol(host, agent, tmp_path)


def test_docker_s_own_rules_count_only_if_they_stay(host: Host, agent: Agent, tmp_path: Path) -> None:
    """Docker drops what bridges forward until the agent serves it."""
    dropping = json.dumps(
        {"host": [{"name": "forward-rules", "findings": [
            {"severity": "failed", "message": "chain FORWARD drops", "fix": "sysctl -w x=0"},
        ]}]}
    )  # fmt: skip
    host.answers["doctor --json"] = dropping
    with pytest.raises(RefusedError, match="add the host with --docker; else sysctl"):
        enrol(host, agent, tmp_path)
    assert not host.has_done("apt-get -qq")
    host.answers = {"netagent doctor --json": HEALTHY, **host.answers}
    assert enrol(host, agent, tmp_path, parts=("docker",)).name == "db1"
    host.answers["netagent doctor --json"] = dropping
    agent.members = agent.members[:1]
    with pytest.raises(RefusedError, match="chain FORWARD drops"):
        enrol(host, agent, tmp_path, parts=("docker",))
    assert host.has_done("leave")
