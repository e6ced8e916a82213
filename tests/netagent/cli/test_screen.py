"""What people read, word for word."""

import re
from pathlib import Path

import trio
from fakes.agent_service import FakeService, endpoint_of

from netagent.cli import screen
from netagent.firewall.text import COUNTERS
from netagent.interface import schema
from netagent.interface.containers import NetworkInspectCommand
from netagent.interface.questions import StatusCommand

STATUS = """\
host:       h1 (aaaaaaaaaaaa), 192.0.2.1, netagent 0.1.0, up 3 min
cluster:    mesh (c1c1c1c1c1c1), names end in mesh.internal
members:    2 alive, 1 dead
networks:   app (1 of 2 in the cluster)
endpoints:  1 on this host, 3 in its networks, 1 hidden from names
dns:        answering in 1 container, 1,234 queries so far
drift:      none (checked 3 s ago, 2 repaired since the start: 1 device-down, 1 entry-altered)
paths:      1 ok, 1 down
data plane: not encrypted
refused:    12 packets since the start (12 label)

warnings:
  ! h3 is dead
    cure: netagent members
"""

ALONE = """\
host:       h1 (aaaaaaaaaaaa), 192.0.2.1, netagent 0.1.0, up 3 min
cluster:    none
refused:    12 packets since the start (12 label)

heard nearby:
  h2  192.0.2.2  cluster mesh  by mDNS
  192.0.2.9  in no cluster either  by mDNS

This host is in no cluster. Type one of:
  netagent init           to start a cluster with this host
  netagent join           to join one; it asks for the token that `netagent invite` prints on a member
"""


def status_of(service: FakeService) -> schema.Status:
    return trio.run(service.status, StatusCommand())


def test_status() -> None:
    assert "\n".join(screen.status(status_of(FakeService()))) + "\n" == STATUS


def test_each_counter_of_the_firewall_has_words_and_is_documented() -> None:
    counters = {f"packets_{name}": 1 for names in COUNTERS.values() for name in names}
    answer = status_of(FakeService())
    answer["refused"] = counters
    (line,) = [one for one in screen.status(answer) if one.startswith("refused:")]
    assert "packets_" not in line
    documented = re.findall(
        r"^\| `(packets_\w+)` \|", Path("docs/reference/internet-access.md").read_text(), re.MULTILINE
    )
    assert sorted(documented) == sorted(counters)


def test_status_alone() -> None:
    service = FakeService()
    service.cluster = None
    service.heard = [
        {"name": "h2", "address": "192.0.2.2", "cluster": "mesh", "how": "mdns"},
        {"name": "", "address": "192.0.2.9", "cluster": "", "how": "mdns"},
    ]
    answer = status_of(service)
    answer["warnings"] = []
    assert "\n".join(screen.status(answer)) + "\n" == ALONE


def test_a_member_does_not_say_that_strangers_are_in_no_cluster_either() -> None:
    service = FakeService()
    service.heard = [
        {"name": "h9", "address": "192.0.2.9", "cluster": "", "how": "mdns"},
        {"name": "", "address": "192.0.2.8", "cluster": "", "how": "gossip"},
    ]
    lines = list(screen.status(status_of(service)))
    assert "  h9  192.0.2.9  in no cluster  by mDNS" in lines
    assert "  192.0.2.8  not of this cluster  by gossip" in lines, "whether it is in another one is not known"


def test_other_counters_are_shown_in_their_words() -> None:
    answer = status_of(FakeService())
    answer["refused"] = {"record_refused_sender_is_not_a_member": 1}
    (line,) = [one for one in screen.status(answer) if one.startswith("refused:")]
    assert line.endswith("(1 record refused sender is not a member)")


def test_status_when_things_are_wrong() -> None:
    answer = status_of(FakeService())
    answer["dns"]["running"] = False
    answer["drift"] = {"differences": 3, "checked_s": None, "repaired": 0, "kinds": {}}
    answer["paths"] = {}
    text = "\n".join(screen.status(answer))
    assert "NOT RUNNING" in text
    assert "not checked yet" in text
    assert "no other host" in text


def test_an_endpoint_that_was_there() -> None:
    row = endpoint_of("web")
    row["created"] = False
    row["state"], row["reason"] = "fenced", "its address belongs to h2"
    row["links"] = [{"service": "db", "alias": "database"}]
    assert list(screen.endpoint(row)) == [
        "web (010101010101) on h1 in app, already attached",
        "addresses:  10.160.0.2, fd00::2",
        "names:      web.app.mesh.internal",
        "links:      database is db",
        "state:      fenced: its address belongs to h2",
    ]


def test_a_thing_shows_what_is_known() -> None:
    service = FakeService()
    answer = trio.run(service.network_inspect, NetworkInspectCommand(network="app"))
    assert list(screen.thing({"schema": 1, **answer}, "network"))[:4] == [
        "network app",
        "  id:                " + "00" * 16,
        "  subnets:           10.160.0.0/20",
        "  gateways:          10.160.0.1",
    ]
    text = "\n".join(screen.thing(answer, "network"))
    assert "mtu:               1450 bytes" in text
    assert "space:             owned 1024, used 3, free 1020, cooling 1" in text
    assert "clash" not in text


def test_labels_are_shown_as_they_are_typed() -> None:
    (_, line) = screen.thing({"name": "web1", "labels": {"a": "1", "b": "x y"}}, "endpoint")
    assert line == "  labels: a=1, b=x y"
