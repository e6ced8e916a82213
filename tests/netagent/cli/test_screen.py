"""What people read, word for word."""

import io
import re
from pathlib import Path
from typing import Any

import trio
from fakes.agent_service import FakeService, addressed_of, backend_of, endpoint_of, service_address_of

from netagent.cli import screen, tables
from netagent.cli.render import Printer
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


CREATED = """\
web.shop in app is web.shop.app.mesh.internal, and has now the address
10.172.0.9, fd00:9::9, given on h1
balance:    nearest
ports:      80 to 8080
BACKEND  HOST  ADDRESSES   WEIGHT  PLACES  RTT
web1     h1    10.160.0.2  100     43
web2     h2    10.160.0.2  100     21      0.3 ms
"""


def shown(answer: Any, kind: str) -> str:
    lines, _ = screen.SHOWN[kind]
    return "\n".join(lines(Printer("table", io.StringIO()), None, answer)) + "\n"


def test_a_service_that_has_now_an_address() -> None:
    answer = {**addressed_of("web", "shop"), "created": True, "warnings": []}
    assert shown(answer, "schema.ServiceCreated") == CREATED


def test_all_options_of_an_address_are_shown() -> None:
    part = service_address_of(
        addresses=["10.172.0.9"],
        origin="label",
        ports=[{"number": 80, "target": 80}, {"number": 443, "target": 8443}],
        balance="first",
        host_weights={"h1": 5, "h2": 0},
        sticky=True,
        all_failing="keep",
        keep_connections=True,
        in_names=False,
        backends=[],
    )
    assert list(screen.service_address(Printer("table", io.StringIO()), part)) == [
        "10.172.0.9, given on h1 by the label netagent.address=true, names lead to another one",
        "balance:    first, sticky",
        "ports:      80, 443 to 8443",
        "weights:    h1=5, h2=0",
        "failing:    used while no replica is up",
        "gone:       connections are kept",
        "backends:   none: connections are refused",
    ]


def test_a_service_says_where_its_address_leads_and_why_not_elsewhere() -> None:
    other = {"name": "web3", "host": "h3", "reason": "unhealthy: http 503"}
    answer = {**addressed_of("web"), "no_backends": [other], "warnings": []}
    text = shown(answer, "schema.ServiceDescription")
    assert text.startswith("web in app is web.app.mesh.internal: 2 of 2 replicas up\n\n10.172.0.9")
    assert text.endswith("NO BACKEND  HOST  REASON\nweb3        h3    unhealthy: http 503\n")
    without = {**answer, "service_addresses": [], "no_backends": []}
    assert "`netagent service create web --network app` gives it one" in shown(
        without, "schema.ServiceDescription"
    )
    grouped = {**without, "group": "shop"}
    assert "create web --network app --group shop` gives" in shown(grouped, "schema.ServiceDescription")


def test_what_was_removed_of_a_service_is_said() -> None:
    removed = {"name": "web", "network": "app", "removed": 0, "addresses": ["10.172.0.9", "fd00:9::9"]}
    assert shown(removed, "schema.ServiceRemoved") == (
        "removed the address of service web in app: 10.172.0.9, fd00:9::9\n"
    )
    grouped = {**removed, "group": "shop"}
    assert "the address of service web.shop in app" in shown(grouped, "schema.ServiceRemoved")
    both = {**removed, "removed": 1}
    assert shown(both, "schema.ServiceRemoved").count("removed the") == 2
    assert shown({"name": "pg", "network": "app", "removed": 1}, "schema.ServiceRemoved") == (
        "removed the external service pg from app\n"
    )


def test_services_with_an_address_show_it() -> None:
    far = backend_of("web3", "h2", 11, 0.0003)
    several = addressed_of(
        "web", backends=[backend_of("web1", "h1", 43), backend_of("web2", "h2", 10, 0.0003), far]
    )
    outside = addressed_of("pg", balance="spread", backends=[{**backend_of("pg", "", None), "host_id": ""}])
    outside["service_addresses"].append(service_address_of())
    plain = {key: value for key, value in addressed_of("db").items() if key != "service_addresses"}
    printer = Printer("table", io.StringIO())
    head, first, second, third = printer.table([several, outside, plain], tables.SERVICES)
    assert " ".join(head.split()) == "SERVICE NETWORK UP ADDRESS BACKENDS BALANCE ADDRESSES HOSTS NAME"
    times = "\u00d7"
    assert f"2/2  10.172.0.9     h1 {times}43, h2 {times}21 (0.3 ms)  nearest  " in first
    assert "10.172.0.9 +1  10.160.0.2 " in second
    assert "nearest" not in third
    assert "ADDRESS " not in printer.table([plain], tables.SERVICES)[0]


def test_a_wide_list_of_services_has_all_their_addresses_of_both_families() -> None:
    both = addressed_of("web")
    both["service_addresses"] = [
        service_address_of(addresses=["10.172.0.9", "fd00:9::9"]),
        service_address_of(addresses=["10.172.0.7", "fd00:9::7"]),
    ]
    plain = {key: value for key, value in addressed_of("db").items() if key != "service_addresses"}
    (column,) = [one for one in tables.SERVICES if one.title == "SERVICE ADDRESSES"]
    assert column.cell(both) == "10.172.0.9, fd00:9::9, 10.172.0.7, fd00:9::7"
    assert column.cell(plain) == ""
    assert "fd00:9::9" in Printer("wide", io.StringIO()).table([both], tables.SERVICES)[1]
    assert "fd00:9" not in Printer("table", io.StringIO()).table([both], tables.SERVICES)[1]


def test_addresses_of_services_are_shown_with_whether_this_host_leads_them() -> None:
    answer = status_of(FakeService())
    assert not any(line.startswith("services:") for line in screen.status(answer))
    answer["service_addresses"] = {"count": 1, "untranslated": ""}
    (line,) = [one for one in screen.status(answer) if one.startswith("services:")]
    assert line.endswith("1 address of services, led to replicas by this host's kernel")
    answer["service_addresses"] = {"count": 2, "untranslated": "the kernel is too old"}
    (line,) = [one for one in screen.status(answer) if one.startswith("services:")]
    assert line.endswith("2 addresses of services, names lead to replicas here: the kernel is too old")
