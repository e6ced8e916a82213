"""What a token may name. The cluster has networks app and db; web is in app, both is in app and db, vault in db."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes.registry import H1, N1, Writer, host, network
from fakes.rows import local_row

from netagent.access.grant import Grant, require_command, require_fields
from netagent.commands.access.limits import LIMITED, limited
from netagent.errors import ForbiddenError, InputError, NetagentError, NotFoundError
from netagent.interface import additions, containers, questions, services
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command
from netagent.interface.role import Role
from netagent.journal.rows import Published
from netagent.model.ids import NetworkId
from netagent.model.sandbox import Netns
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView

APP, DB, GONE = N1, NetworkId("d" * 32), NetworkId("e" * 32)
WEB, BOTH_APP, BOTH_DB, VAULT, WEB_DB = (digit * 32 for digit in "12345")
CI = Grant(Role.ATTACH, "the token ci", frozenset({APP}), "00000001", "ci")
WIDE = Grant(Role.ATTACH, "the token wide", frozenset({APP, DB}), "00000002", "wide")
ANY = Grant(Role.ATTACH, "the token any", None, "00000003", "any")
LOST = Grant(Role.ATTACH, "the token lost", frozenset({GONE}), "00000004", "lost")
BOSS = Grant(Role.ADMIN, "the token boss", None, "00000005", "boss")


def row(endpoint_id: str, network_id: NetworkId, name: str, sandbox: int) -> Any:
    netns = Netns(f"/run/netns/{sandbox}", (4, sandbox), "boot")
    return local_row(endpoint_id, network_id, name=name, stage=Published(netns, "eth0"))


@pytest.fixture(scope="module")
def cluster() -> Any:
    writer, view = Writer(H1), RegistryView(H1)
    for record in (host("h1"), network(APP, "app"), network(DB, "db")):
        view = view.with_entries(writer.put(record))
    live = StateStore(view, {})
    for one in (
        row(WEB, APP, "web", 1),
        row(BOTH_APP, APP, "both", 2),
        row(BOTH_DB, DB, "both", 2),
        row(VAULT, DB, "vault", 3),
        row(WEB_DB, DB, "web", 4),
    ):
        live.set_row(one)
    return SimpleNamespace(live=live)


def held(cluster: Any, grant: Grant, request: Command[Any]) -> Any:
    return limited(lambda: cast("Any", cluster), grant, request)


def attach(target: str = "netns:new", network: str = "app", **more: Any) -> containers.AttachCommand:
    return containers.AttachCommand(target=target, network=network, **more)


def test_names_become_the_ids_that_were_checked(cluster: Any) -> None:
    assert held(cluster, CI, questions.EndpointsCommand()).network == APP
    assert held(cluster, CI, questions.EndpointsCommand(network="app", host="h1")).host == "h1"
    assert held(cluster, CI, containers.NetworkInspectCommand(network=APP[:8])).network == APP
    assert held(cluster, CI, containers.DetachCommand(endpoint="web", drain_s=3.0)).drain_s == 3.0
    for text in ("web", "web.app", WEB, WEB[:6]):
        assert held(cluster, CI, containers.DetachCommand(endpoint=text)).endpoint == WEB
    assert held(cluster, CI, containers.DetachCommand(endpoint="both")).endpoint == BOTH_APP
    limited_attach = held(cluster, CI, attach(labels={"netagent.txt.a": "b", "tier": "1"}))
    assert (limited_attach.network, limited_attach.within) == (APP, CI.networks)
    assert held(cluster, CI, containers.NetworkListCommand()).within == CI.networks


def test_the_limit_cannot_be_sent() -> None:
    sent = attach(within=frozenset({DB})).json()
    assert "within" not in sent


@pytest.mark.parametrize(
    "request_",
    [
        questions.EndpointsCommand(network="db"),
        questions.ServicesCommand(network=DB),
        questions.FeedCommand(feed="services", network="db"),
        containers.NetworkInspectCommand(network=DB[:8]),
        containers.NetworkInspectCommand(network="none"),
        services.ServiceInspectCommand(service="db", network="db"),
        attach(network="db"),
        containers.NetworkConnectCommand(network="db", target="web"),
        containers.NetworkDisconnectCommand(network="db", target="vault"),
        # The container is in db as well, so the link would hold there.
        containers.LinkCommand(endpoint="both", service="vault.db"),
        questions.StatusCommand(),
        questions.InspectCommand(thing="vault"),
        questions.LookupCommand(name="vault.db"),
        questions.PingCommand(to="vault"),
        questions.DoctorCommand(),
        questions.EventsCommand(),
        questions.FlowsCommand(),
        questions.DashboardCommand(),
        additions.NameListCommand(),
    ],
    ids=lambda request: type(request).declaration.command,
)
def test_what_is_beyond_is_refused(cluster: Any, request_: Command[Any]) -> None:
    with pytest.raises(ForbiddenError):
        held(cluster, CI, request_)


@pytest.mark.parametrize("text", ["vault", VAULT, VAULT[:6], "vault.db", BOTH_DB, "none"])
def test_endpoints_of_others_do_not_exist(cluster: Any, text: str) -> None:
    for command in (containers.DetachCommand, containers.DrainCommand, containers.CheckCommand):
        with pytest.raises(NotFoundError) as caught:
            held(cluster, CI, command(endpoint=text))
        assert "on this host in the networks of the token" in str(caught.value)


def test_an_error_names_nothing_of_other_networks(cluster: Any) -> None:
    with pytest.raises(InputError, match="'web' is ambiguous"):
        held(cluster, WIDE, containers.DetachCommand(endpoint="web"))
    assert held(cluster, CI, containers.DetachCommand(endpoint="web")).endpoint == WEB


def test_of_several_networks_one_must_be_named(cluster: Any) -> None:
    with pytest.raises(InputError, match="name one: --network NET"):
        held(cluster, WIDE, questions.EndpointsCommand())
    assert held(cluster, WIDE, questions.EndpointsCommand(network="db")).network == DB


def test_a_network_that_is_gone_leaves_nothing(cluster: Any) -> None:
    """`app` may be its name made anew."""
    for request in (questions.EndpointsCommand(), questions.EndpointsCommand(network="app"), attach()):
        with pytest.raises(NetagentError):
            held(cluster, LOST, request)
    with pytest.raises(NotFoundError):
        held(cluster, LOST, containers.DetachCommand(endpoint="web"))


@pytest.mark.parametrize("grant", [CI, ANY], ids=["limited", "unlimited"])
@pytest.mark.parametrize(
    "request_",
    [
        attach("pid:1"),
        attach("/proc/1/ns/net"),
        attach("/etc/shadow"),
        attach("docker:web", checks=["exec:/bin/sh"]),
        attach("docker:web", checks=["tcp:80", "exec:/bin/sh interval=1s"]),
        attach("docker:web", labels={"netagent.container-id": "abcdef012345"}),
        attach("docker:web", labels={"tier": "1", "netagent.original-name": "db"}),
        containers.NetworkConnectCommand(network="app", target="pid:1"),
        containers.NetworkConnectCommand(network="app", target="/run/netns/vault"),
    ],
)
def test_attaching_is_no_more_than_attaching(cluster: Any, grant: Grant, request_: Command[Any]) -> None:
    with pytest.raises(ForbiddenError):
        held(cluster, grant, request_)
    assert held(cluster, BOSS, request_) is request_


def test_a_wrong_check_is_told_as_to_anyone(cluster: Any) -> None:
    with pytest.raises(InputError):
        held(cluster, CI, attach("docker:web", checks=["exec:"]))


def test_without_a_limit_a_request_stays_as_it_is(cluster: Any) -> None:
    for request in (questions.StatusCommand(), containers.DetachCommand(endpoint="vault"), attach()):
        assert held(cluster, ANY, request) is request


def test_no_token_gets_a_key_that_outlives_it(cluster: Any) -> None:
    for grant in (CI, ANY, BOSS):
        with pytest.raises(ForbiddenError, match="would outlive"):
            held(cluster, grant, questions.DashboardCommand())


def test_only_commands_for_which_it_was_thought_about_are_open() -> None:
    """A new command is closed to limited tokens, whatever its role."""
    assert {one.declaration.command for one in LIMITED} == {
        "version", "services", "endpoints", "feed", "service inspect", "network ls", "network inspect", "attach",
        "network connect", "network disconnect", "detach", "drain", "undrain", "check", "link", "unlink",
    }  # fmt: skip
    assert set(LIMITED) <= set(COMMANDS)
    for command in LIMITED:
        require_command(CI, command)
    with pytest.raises(ForbiddenError):
        require_fields(CI, containers.DrainCommand(host=True))
