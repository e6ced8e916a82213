"""The seam between the agent and those who ask it: one method a command.

The HTTP API calls these and knows nothing of gossip, kernel or journal; the agent implements them and knows nothing
of HTTP. Requests arrive checked for form (netagent.control.request_parsing). Answers are the dicts of
netagent.control.schema, without the outer `schema`/`items`; lists need not be sorted, the API does it. Whatever is
refused is raised as a NetagentError whose sentence is shown to the user; anything else that escapes becomes exit
status 5 and a log entry with its traceback.

A method runs to its end when its client hangs up. It is cancelled when the agent stops and the method takes longer
than the server's grace: what it had begun must then be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from netagent.control import schema
from netagent.model.publication import Publication
from netagent.model.records import Link
from netagent.model.request import AttachRequest, ListFilter, NetworkRequest


class AgentService(Protocol):
    """What an agent can be asked. Network, host and endpoint arguments are names or ids (or their beginning)."""

    async def status(self) -> schema.Status:
        """This host in one screen; never fails."""
        ...

    async def init(self, cluster: str) -> schema.Initialised:
        """Start a cluster. RefusedError when this host belongs to another one."""
        ...

    async def invite(self, ttl_s: float, uses: int) -> schema.Invitation:
        """A token that lets `uses` hosts in during `ttl_s`."""
        ...

    async def join(self, addresses: Sequence[str], token: str) -> schema.Joined:
        """Enter a cluster. `addresses` (`HOST[:PORT]`) are tried before those in the token and those heard."""
        ...

    async def leave(self, drain_s: float | None) -> schema.Left:
        """Detach everything, give back what this host owns, tell the others, forget the cluster's keys.

        Requests under way get at most `drain_s` to end after the names are gone; None: the usual time.
        """
        ...

    async def forget(self, hosts: Sequence[str], dead_for_s: float, *, force: bool) -> schema.ForgetAnswer:
        """Hosts are gone for good: take over what they owned and fence their identity for ever. Without `hosts` all
        that have been silent for `dead_for_s`. RefusedError for one that lives, or when it can't be agreed upon."""
        ...

    async def withdraw(self, drain_s: float | None) -> schema.WithdrawAnswer:
        """Lead names away from this host, because it is about to go down, until the agent starts again.

        `drain_s` as for leave.
        """
        ...

    async def members(self) -> list[schema.MemberInfo]:
        """All known hosts of the cluster, this one included."""
        ...

    async def network_create(self, request: NetworkRequest) -> schema.Network:
        """With `created`. The same options again: not created, no error; others: RefusedError."""
        ...

    async def network_list(self) -> list[schema.Network]:
        """All networks of the cluster."""
        ...

    async def network_inspect(self, network: str) -> schema.Network:
        """With `space`. NoError when there is none."""
        ...

    async def network_remove(self, network: str, *, force: bool) -> schema.NetworkRemoved:
        """RefusedError when it has endpoints, unless `force`."""
        ...

    async def network_prune(self) -> list[schema.NetworkRemoved]:
        """Remove every network without a live endpoint; those that went."""
        ...

    async def network_connect(self, network: str, target: str) -> schema.Endpoint:
        """Put a sandbox that is attached somewhere into one more network, under the name it has.

        `target` is one of attach's or an endpoint of this host. With `created`.
        """
        ...

    async def network_disconnect(self, network: str, target: str) -> schema.Detached:
        """Take a sandbox out of a network. `target` as for connect."""
        ...

    async def attach(self, request: AttachRequest) -> schema.Endpoint:
        """With `created`. The same request again is a no-op."""
        ...

    async def detach(self, endpoint: str, drain_s: float | None) -> schema.Detached:
        """By id or name; an ambiguous name is an InputError that lists the ids.

        With `drain_s`, clients that remember the address get that time after the name is gone; None: a moment for
        connections that are open.
        """
        ...

    async def link(self, endpoint: str, link: Link) -> schema.Endpoint:
        """In the endpoint's sandbox `link.alias` means `link.service` from now on. Again: no-op."""
        ...

    async def unlink(self, endpoint: str, link: Link) -> schema.Endpoint:
        """The reverse; NoError when there is no such link."""
        ...

    async def publish(self, endpoint: str, publication: Publication) -> schema.Endpoint:
        """Ports of this host lead to the endpoint from now on. Again: no-op."""
        ...

    async def unpublish(self, endpoint: str, publication: Publication) -> schema.Endpoint:
        """The reverse. Again: no-op."""
        ...

    async def gaps(self, only: ListFilter) -> list[schema.Notice]:
        """What a list of these does not have, because hosts that know it do not answer; one sentence per network."""
        ...

    async def endpoints(self, only: ListFilter) -> list[schema.Endpoint]:
        """The endpoints of the cluster. NoError when a filter names a network or host that does not exist."""
        ...

    async def services(self, only: ListFilter) -> list[schema.Service]:
        """The services of the cluster. NoError as for endpoints."""
        ...

    async def inspect(self, thing: str, *, why: bool, local: bool = False) -> schema.Inspection:
        """By name, id, address or MAC; NoError when nothing has it, FailedError when that is not known. `why`: with
        the objects that it makes here. `local`: only what this host holds itself.

        A name shared by several kinds means the service first, then endpoint, network, host.
        """
        ...

    async def doctor(self) -> schema.Doctor:
        """Is the host fit, and has the kernel what the records say? Changes nothing."""
        ...

    async def ping(self, asked: schema.PingRequest) -> schema.Ping:
        """Send packets from an endpoint of this host, or from the host, and say where they get lost."""
        ...

    async def lookup(
        self, name: str, rtype: str, from_endpoint: str, *, local: bool = False
    ) -> schema.Lookup:
        """What the resolver would answer to that endpoint; `""` = to a container in each of the cluster's networks,
        or with `local` of those that this host takes part in. `rtype` is upper case."""
        ...

    async def version(self) -> schema.AgentVersion:
        """The agent's version; never fails."""
        ...

    async def wait_changed(self, seen: int) -> int:
        """Returns the generation of what lists show, as soon as it is not `seen` (at once for -1). Where members are
        asked for a list, it also returns once in a while.

        Levels, not edges: a watcher that was slow sees the latest state, not each step to it.
        """
        ...
