"""The interface between the API and the agent: one method per command.

The HTTP API calls these and knows nothing of gossip, kernel or journal; the agent implements them and knows nothing
of HTTP. The form of requests has been checked (netagent.control.request_parsing). Answers are the dicts of
netagent.interface.schema, without the outer `schema`/`items`; lists need not be sorted, the API sorts them. A refusal
raises a NetagentError, whose sentence the user sees; any other exception becomes exit status 5 and a log entry with
its traceback.

A method runs to its end even if its client hangs up. It is cancelled when the agent stops and the method takes longer
than the server's grace period: then it must undo partial changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from netagent.interface import schema
from netagent.model.publication import Publication
from netagent.model.records import Link
from netagent.model.request import AttachRequest, ListFilter, NetworkRequest


class AgentService(Protocol):
    """The commands of an agent. Network, host and endpoint arguments are names or ids (or a prefix of an id)."""

    async def status(self) -> schema.Status:
        """Return the state of this host; never fails."""
        ...

    async def init(self, cluster: str) -> schema.Initialised:
        """Start a cluster. RefusedError when this host belongs to another one."""
        ...

    async def invite(self, ttl_s: float, uses: int) -> schema.Invitation:
        """Make a token that lets `uses` hosts join within `ttl_s`."""
        ...

    async def join(self, addresses: Sequence[str], token: str) -> schema.Joined:
        """Join a cluster. `addresses` (`HOST[:PORT]`) are tried before those in the token and those heard by mDNS."""
        ...

    async def leave(self, drain_s: float | None) -> schema.Left:
        """Detach all endpoints, return the addresses of this host, notify the others, delete the cluster's keys.

        Open requests get at most `drain_s` to finish after the names are gone; None: the usual time.
        """
        ...

    async def forget(self, hosts: Sequence[str], dead_for_s: float, *, force: bool) -> schema.ForgetAnswer:
        """Evict hosts that are gone for good: take over their addresses and fence their identities for ever. Without
        `hosts`, all that have been silent for `dead_for_s`. RefusedError for a live host, or if a live host does not
        acknowledge it."""
        ...

    async def withdraw(self, drain_s: float | None) -> schema.WithdrawAnswer:
        """Withdraw the names of this host, which is about to go down, until the agent starts again.

        `drain_s` as for leave.
        """
        ...

    async def members(self) -> list[schema.MemberInfo]:
        """Return all known hosts of the cluster, including this one."""
        ...

    async def network_create(self, request: NetworkRequest) -> schema.Network:
        """Create a network. The answer has `created`: False, without an error, if it exists with the same options.
        RefusedError if it exists with others."""
        ...

    async def network_list(self) -> list[schema.Network]:
        """Return all networks of the cluster."""
        ...

    async def network_inspect(self, network: str) -> schema.Network:
        """Return a network, with `space`. NotFoundError when it does not exist."""
        ...

    async def network_remove(self, network: str, *, force: bool) -> schema.NetworkRemoved:
        """Remove a network. RefusedError when it has endpoints, unless `force`."""
        ...

    async def network_prune(self) -> list[schema.NetworkRemoved]:
        """Remove every network without a live endpoint; return those removed."""
        ...

    async def network_connect(self, network: str, target: str) -> schema.Endpoint:
        """Attach an already attached sandbox to one more network, under the name it has.

        `target` is a target of attach or an endpoint of this host. The answer has `created`.
        """
        ...

    async def network_disconnect(self, network: str, target: str) -> schema.Detached:
        """Detach a sandbox from a network. `target` as for connect."""
        ...

    async def attach(self, request: AttachRequest) -> schema.Endpoint:
        """Attach a sandbox. The answer has `created`; repeating the request changes nothing."""
        ...

    async def detach(self, endpoint: str, drain_s: float | None) -> schema.Detached:
        """Detach an endpoint by id or name; an ambiguous name is an InputError that lists the ids.

        With `drain_s`, clients with a cached address get that time after the name is gone; None: only open
        connections get a moment.
        """
        ...

    async def link(self, endpoint: str, link: Link) -> schema.Endpoint:
        """Make `link.alias` resolve to `link.service` in the endpoint's sandbox. Repeating it changes nothing."""
        ...

    async def unlink(self, endpoint: str, link: Link) -> schema.Endpoint:
        """Remove a link; NotFoundError when there is no such link."""
        ...

    async def publish(self, endpoint: str, publication: Publication) -> schema.Endpoint:
        """Forward ports of this host to the endpoint. Repeating it changes nothing."""
        ...

    async def unpublish(self, endpoint: str, publication: Publication) -> schema.Endpoint:
        """Stop forwarding ports. Repeating it changes nothing."""
        ...

    async def gaps(self, only: ListFilter) -> list[schema.Notice]:
        """Return one notice per network that such a list lacks because the hosts in it do not answer."""
        ...

    async def endpoints(self, only: ListFilter) -> list[schema.Endpoint]:
        """Return the endpoints of the cluster. NotFoundError when a filter names a network or host that does not
        exist."""
        ...

    async def services(self, only: ListFilter) -> list[schema.Service]:
        """Return the services of the cluster. NotFoundError as for endpoints."""
        ...

    async def inspect(self, thing: str, *, why: bool, local: bool = False) -> schema.Inspection:
        """Find an object by name, id, address or MAC. NotFoundError when nothing has it, FailedError when that cannot
        be known. `why`: with the objects that it makes on this host. `local`: only from the records of this host.

        A name shared by several kinds means the service first, then endpoint, network, host.
        """
        ...

    async def doctor(self) -> schema.Doctor:
        """Check the host and compare its kernel with the records. Changes nothing."""
        ...

    async def ping(self, asked: schema.PingRequest) -> schema.Ping:
        """Send packets from an endpoint of this host, or from the host, and say where they are lost."""
        ...

    async def lookup(
        self, name: str, rtype: str, from_endpoint: str, *, local: bool = False
    ) -> schema.Lookup:
        """Return the resolver's answer for an endpoint; `""` = for a container in all networks of the cluster, or
        with `local` in those that this host is in. `rtype` is upper case."""
        ...

    async def version(self) -> schema.AgentVersion:
        """Return the agent's version; never fails."""
        ...

    async def wait_changed(self, seen: int) -> int:
        """Wait until the generation of what lists show differs from `seen` (-1: do not wait) and return it. Where a
        list includes answers of other members, it also returns periodically.

        Level-triggered: a slow watcher sees the latest state, not every step.
        """
        ...
