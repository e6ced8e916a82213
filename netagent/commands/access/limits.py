"""What a request by a token may name: only what is in the token's networks, and no more than attaching needs.

A limited token may use the commands of LIMITED only. Each function there returns the request with ids in place of the
names that it resolved, so that the use-case means what was checked here, whatever is renamed or made anew in between.
An error names nothing of other networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from netagent.access.grant import Grant
from netagent.control.request_parsing import attach_request
from netagent.daemon.cluster import Cluster
from netagent.endpoints.find import network_called
from netagent.errors import ForbiddenError, InputError, NotFoundError
from netagent.interface import containers, questions, services
from netagent.interface.command import Command
from netagent.interface.role import Role
from netagent.journal.rows import LocalEndpointRow
from netagent.model.check import ExecCheck
from netagent.model.ids import NetworkId
from netagent.model.origin_labels import ADDRESS, TXT_LABELS

C = TypeVar("C", bound=Command[Any])

_OURS: Final = "netagent."
_TARGET_KINDS: Final = ("netns", "docker", "podman", "unit", "machine")
"""Not paths and processes, which reach whatever has a namespace on this host."""


def limited(cluster: Callable[[], Cluster], grant: Grant, request: Command[Any]) -> Command[Any]:
    """Return the request as the grant of a token allows it. Raises ForbiddenError, NotFoundError, InputError."""
    if isinstance(request, questions.DashboardCommand):
        raise ForbiddenError(
            f"`netagent dashboard` prints a key, which would outlive {grant.by}",
            thing="dashboard",
            hint="type it on the host itself",
        )
    if grant.role < Role.ADMIN and isinstance(request, containers.AttachCommand):
        _refuse_commands(grant, request)
        _refuse_labels(grant, request)
    if grant.role < Role.ADMIN and isinstance(
        request, containers.AttachCommand | containers.NetworkConnectCommand
    ):
        _refuse_target(grant, request)
    if grant.networks is None:
        return request
    limit = LIMITED.get(type(request))
    if limit is None:
        command = type(request).declaration.command
        raise ForbiddenError(
            f"`netagent {command}` reaches beyond the networks of {grant.by}",
            thing=command,
            hint="ask with a token that is not limited to networks",
        )
    held: Command[Any] = limit(cluster(), grant.networks, request)
    return held


def _refuse_commands(grant: Grant, request: containers.AttachCommand) -> None:
    """A check that is a command runs in the container: attaching must not become running programs there."""
    if any(isinstance(check.subject, ExecCheck) for check in attach_request(request).checks):
        raise ForbiddenError(
            f"a check by exec: runs a program in the container, and {grant.by} may not do that",
            thing=request.target,
            hint="use a check by http: or tcp:, or ask with the role admin",
        )


def _refuse_labels(grant: Grant, request: containers.AttachCommand) -> None:
    """By our own labels a container is found as the runtime calls it: no token may give it another one's."""
    for key in request.labels:
        if key.startswith(_OURS) and key != ADDRESS and not key.startswith(TXT_LABELS):
            raise ForbiddenError(
                f"the label {key[:80]!r} is netagent's own, and {grant.by} may not set it",
                thing=key[:80],
                hint="leave it out",
            )


def _refuse_target(
    grant: Grant, request: containers.AttachCommand | containers.NetworkConnectCommand
) -> None:
    kind, colon, _ = request.target.partition(":")
    is_plain_name = not colon and "/" not in request.target and type(request) is not containers.AttachCommand
    if kind not in _TARGET_KINDS and not is_plain_name:
        raise ForbiddenError(
            f"the role {grant.role.word} does not reach {request.target[:80]!r}",
            thing=request.target[:80],
            hint=f"name the container: {', '.join(f'{one}:NAME' for one in _TARGET_KINDS)}",
        )


def _as_it_is(_cluster: Cluster, _networks: frozenset[NetworkId], request: C) -> C:
    return request


def _in_network(cluster: Cluster, networks: frozenset[NetworkId], request: Any) -> Any:
    """The field `network` is one of the token's; if it was not given, the only one."""
    view = cluster.live.view
    known = {one: view.networks[one] for one in networks if one in view.networks}
    if request.network:
        try:
            chosen = network_called(view, request.network).network_id
        except NotFoundError:
            chosen = None
        if chosen not in known:
            raise ForbiddenError(
                f"the token does not reach a network {request.network[:80]!r}",
                thing=request.network[:80],
                hint="see `netagent network ls` with this token",
            )
    elif len(known) == 1:
        (chosen,) = known
    else:
        raise InputError(
            "the token reaches several networks, or none that still exists",
            thing="network",
            hint="name one: --network NET",
        )
    return type(request)(**{**vars(request), "network": str(chosen)})


def _in_network_alone(cluster: Cluster, networks: frozenset[NetworkId], request: Any) -> Any:
    """As above, and the container is in no network beside the token's."""
    return type(request)(**{**vars(_in_network(cluster, networks, request)), "within": networks})


def _within(_cluster: Cluster, networks: frozenset[NetworkId], request: Any) -> Any:
    """The answer has nothing of other networks."""
    return type(request)(**{**vars(request), "within": networks})


def _of_endpoint(cluster: Cluster, networks: frozenset[NetworkId], request: Any) -> Any:
    """The field `endpoint` is one of this host's in the token's networks."""
    row = _endpoint(cluster, networks, request.endpoint)
    return type(request)(**{**vars(request), "endpoint": str(row.endpoint_id)})


def _of_endpoint_alone(cluster: Cluster, networks: frozenset[NetworkId], request: Any) -> Any:
    """As above, and its container is in no network beside the token's: a link holds in all of them."""
    row = _endpoint(cluster, networks, request.endpoint)
    if any(one.network_id not in networks for one in cluster.live.rows.mates_of(row)):
        raise ForbiddenError(
            f"the container of {row.name} is also in a network that the token does not reach",
            thing=row.name,
            hint="ask with a token that is not limited to networks",
        )
    return type(request)(**{**vars(request), "endpoint": str(row.endpoint_id)})


def _endpoint(cluster: Cluster, networks: frozenset[NetworkId], text: str) -> LocalEndpointRow:
    rows = [one for one in cluster.live.rows.values() if one.network_id in networks]
    view = cluster.live.view
    names = {one: network.unique_name for one, network in view.networks.items()}
    found = [
        one for one in rows if text in {one.endpoint_id, one.name, f"{one.name}.{names.get(one.network_id)}"}
    ]
    if not found and len(text) >= 6:
        found = [one for one in rows if one.endpoint_id.startswith(text)]
    if len(found) > 1:
        ids = ", ".join(sorted(one.endpoint_id[:12] for one in found))
        raise InputError(
            f"{text[:80]!r} is ambiguous: {ids}", thing=text[:80], hint="give the id, or NAME.NETWORK"
        )
    if not found:
        raise NotFoundError(
            f"there is no endpoint {text[:80]!r} on this host in the networks of the token",
            code="no-such-endpoint",
            thing=text[:80],
            hint="see `netagent endpoints` with this token",
        )
    return found[0]


LIMITED: Final[Mapping[type[Command[Any]], Callable[[Cluster, frozenset[NetworkId], Any], Any]]] = {
    questions.VersionCommand: _as_it_is,
    questions.ServicesCommand: _in_network,
    questions.EndpointsCommand: _in_network,
    questions.FeedCommand: _in_network,
    services.ServiceInspectCommand: _in_network,
    containers.NetworkListCommand: _within,
    containers.NetworkInspectCommand: _in_network,
    containers.AttachCommand: _in_network_alone,
    containers.NetworkConnectCommand: _in_network_alone,
    containers.NetworkDisconnectCommand: _in_network,
    containers.DetachCommand: _of_endpoint,
    containers.DrainCommand: _of_endpoint,
    containers.UndrainCommand: _of_endpoint,
    containers.CheckCommand: _of_endpoint,
    containers.LinkCommand: _of_endpoint_alone,
    containers.UnlinkCommand: _of_endpoint,
}
"""What a limited token may use. A command that is not here is closed to it."""
