"""Commands of the cluster: who belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from netagent.interface.command import Command, argument, option, switch
from netagent.interface.notation import duration_of
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

A_co = TypeVar("A_co", covariant=True)

TITLE = "Cluster"

MAX_INVITE_TTL_S = 30 * 86400.0
MAX_INVITE_USES = 1000
MAX_DRAIN_S = 300.0
"""Longer than any request for which a client waits."""


class AgentCommand(
    Command["None"],
    command="agent",
    brief="run the agent of this host, in the foreground",
    examples="sudo netagent agent\nsudo netagent agent --name h1 --bind 192.0.2.1 --zone rack7",
):
    """Run the agent of this host in the foreground. Outside a cluster it looks for other hosts and waits
    for `netagent init` or `netagent join`. A flag overrides a NETAGENT_* environment variable, which
    overrides the configuration file."""

    config: str | None = option(
        "--config", metavar="FILE", help="read this file instead of /etc/netagent/netagent.toml"
    )


class InitCommand(
    Command["schema.Initialised"],
    command="init",
    route="POST /v1/init",
    brief="start a cluster with this host",
    waits="starting a cluster",
    examples="sudo netagent init\nsudo netagent init --network app --docker",
    creates=True,
):
    """Start a cluster with this host as its first member. With --docker, --podman or --cni connect netagent to
    that runtime first, as `netagent install` does; with --network create a network in the new cluster. With --encrypt
    packets of containers leave a host by WireGuard only. Repeating the command changes nothing."""

    cluster: str = option(
        "--cluster", default="", metavar="NAME", help="names end in NAME.internal (default: mesh)"
    )
    network: str = option(
        "--network", default="", metavar="NET", help="also create this network", is_sent=False
    )
    encrypt: bool = switch("--encrypt", help="encrypt the packets of containers between hosts")
    allow_unsigned: bool = switch(
        "--allow-unsigned", help="let nodes be members that do not sign what they say, as plain memberlists"
    )
    docker: bool = switch("--docker", help="also connect netagent to Docker on this host", is_sent=False)
    podman: bool = switch("--podman", help="also connect netagent to Podman on this host", is_sent=False)
    cni: bool = switch("--cni", help="also connect netagent to CNI on this host", is_sent=False)


class InviteCommand(
    Command["schema.Invitation"],
    command="invite",
    route="POST /v1/invite",
    brief="print a token that lets another host join",
    examples="sudo netagent invite\n"
    "sudo netagent invite --ttl 10m --uses 5 > token\n"
    "sudo netagent invite | ssh h2 sudo netagent join --token-file -",
    creates=True,
):
    """Print a token for `netagent join` on another host. It contains the addresses of members and a secret
    that works once (or --uses times): treat it like a password."""

    ttl_s: float = option(
        "--ttl",
        default=3600.0,
        metavar="TIME",
        help="how long it works: 90s, 30m, 1h (default), 2d",
        read=duration_of,
        bounds=(1.0, MAX_INVITE_TTL_S),
    )
    uses: int = option(
        "--uses",
        default=1,
        type=int,
        metavar="N",
        help="how many hosts it lets in (default: 1)",
        bounds=(1, MAX_INVITE_USES),
    )


class UninviteCommand(
    Command["schema.Uninvited"],
    command="uninvite",
    route="POST /v1/uninvite",
    brief="make invitations of this host worthless",
    examples="sudo netagent uninvite\nsudo netagent uninvite 5f0c1d2e3a4b5c6d",
):
    """Make an invitation of this host worthless before its time is over; without ID all that are open. A host that
    has joined already stays a member."""

    invitation: str = argument(
        default="", nargs="?", metavar="ID", help="of `netagent invite --json` (default: all of this host)"
    )


class JoinCommand(
    Command["schema.Joined"],
    command="join",
    route="POST /v1/join",
    brief="join a cluster, with a token",
    waits="asking the members that the token names, for at most 20 s",
    examples="sudo netagent join\nsudo netagent join 192.0.2.1 --token-file token",
):
    """Join a cluster with a token that `netagent invite` printed on a member. Without --token-file the
    command asks for the token and does not show it."""

    addresses: list[str] = argument(
        default=(), nargs="*", metavar="ADDR", help="HOST[:PORT] of members, tried first"
    )
    token_file: str | None = option(
        "--token-file", metavar="FILE|-", help="file with the token, or - for standard input", is_sent=False
    )
    token: str = argument()


class Draining(Command[A_co], Generic[A_co]):
    """A request that waits for open requests of other programs."""

    drain_s: float | None = option(
        "--drain",
        metavar="TIME",
        help="how long open requests get to finish; 0s: no time (default: 10s)",
        read=duration_of,
        bounds=(0.0, MAX_DRAIN_S),
    )

    @property
    def work_s(self) -> float:
        """The time that others get."""
        return self.drain_s or 0.0


class LeaveCommand(
    Draining["schema.Left"],
    command="leave",
    route="POST /v1/leave",
    brief="leave the cluster and return the addresses that this host owns",
    waits="leading names away, ending connections, telling the other hosts",
    examples="sudo netagent leave\nsudo netagent leave --drain 60s",
):
    """Leave the cluster: withdraw the names of this host on all hosts, let open requests finish, detach all
    containers, return the addresses, and delete the keys."""


class ForgetCommand(
    Command["schema.ForgetAnswer"],
    command="forget",
    route="POST /v1/forget",
    brief="remove hosts that are gone for good, and take over their addresses",
    waits="waiting until the other hosts have acknowledged it",
    examples="sudo netagent forget h3\n"
    "sudo netagent forget h3 h4 --dead-for 72h\n"
    "sudo netagent forget --dead-for 7d",
):
    """Remove hosts that are gone for good. This host takes over the addresses they owned, and all hosts
    drop their names and records. A host that was forgotten by name comes back by a new invitation only: one
    that it has used lets no host in any more. Refused for a live host, and unless every live host
    acknowledges it. For a host that an attacker may control, see `netagent revoke`."""

    hosts: list[str] = argument(
        default=(), nargs="*", metavar="HOST", help="names or ids, as `netagent members` shows them"
    )
    dead_for_s: float = option(
        "--dead-for",
        default=0.0,
        metavar="TIME",
        help="only hosts that have been silent for at least this long: 30m, 72h, 7d; without HOST, all such hosts",
        read=duration_of,
        bounds=(0.0, 10000 * 86400.0),
    )
    force: bool = switch(
        "--force",
        help="also forget a live host, and do not wait for the other hosts: two containers may get the same address",
    )


class RevokeCommand(
    Command["schema.RevokeAnswer"],
    command="revoke",
    route="POST /v1/revoke",
    brief="shut out hosts that may be compromised",
    waits="waiting until the other hosts have acknowledged it",
    examples="sudo netagent revoke h3\nsudo netagent revoke h3 --yes",
):
    """Shut out hosts that an attacker may control, whether they live or not, at once and for ever: no member talks
    to them, all hosts drop their names and records, and this host takes over their addresses. They come back
    only as new hosts, by a new invitation: those that are open, on all hosts, are worthless. Asks before
    it does so."""

    hosts: list[str] = argument(
        nargs="+",
        metavar="HOST",
        help="names or ids, as `netagent members` shows them; ids of forgotten hosts",
    )
    yes: bool = switch("--yes", help="do not ask", is_sent=False)


class WithdrawCommand(
    Draining["schema.WithdrawAnswer"],
    command="withdraw",
    route="POST /v1/withdraw",
    brief="withdraw the names of this host before it goes down",
    waits="waiting until the other hosts and their resolvers have followed",
    examples="sudo netagent withdraw\nsudo netagent withdraw --drain 0s",
):
    """Before this host goes down: withdraw the names of the host and its containers on all hosts, and let
    open requests finish. Containers and connections stay up. The names return when the agent starts again."""


class Watching(Command[A_co], Generic[A_co]):
    """A list that the command line can keep showing."""

    watch: bool = switch("--watch", help="keep showing changes until interrupted", is_exclusive=True)
    quiet: bool = switch("-q", "--quiet", help="print ids only", is_exclusive=True, is_sent=False)


class MembersCommand(
    Watching["schema.Listing[schema.MemberInfo]"],
    command="members",
    route="GET /v1/members",
    role=Role.READ,
    brief="list the hosts of the cluster",
    examples="netagent members\nnetagent members -o wide",
    order="name",
):
    """List the hosts of the cluster. AGENT is the state of the agent according to gossip, HOST whether the
    kernel answers, PATH whether packets pass through the overlay."""
