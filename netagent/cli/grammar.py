"""The grammar of the command line: commands, their arguments, their help.

The overview of `netagent --help` is in netagent.cli.overview. The help of each command ends with examples, because
users copy those.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from netagent.cli import arguments, client_commands, doctor_command, install_commands
from netagent.cli.arguments import KEY_PREFIX
from netagent.cli.parser import Adder, Parser, Root, ShowVersion, command_of, common_options, meant
from netagent.errors import InputError


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments; `run` among them is the command's function. Raises InputError; `--help` exits."""
    parsed, left = _root(frozenset(argv)).parse_known_args(argv)
    if left:
        parser: Parser = parsed.parser
        options = re.findall(r"--?[a-z][a-z-]*", parser.format_help())
        hint = meant(left[0].partition("=")[0], options) if left[0].startswith("-") else ""
        kind = "option" if left[0].startswith("-") else "argument"
        raise InputError(
            f"{parser.prog} takes no {kind} {left[0]!r}",
            code="usage",
            thing=left[0],
            hint=hint or f"see `{parser.prog} --help`",
        )
    if "flags" in parsed:
        given = vars(parsed).items()
        parsed.flags = {
            name.removeprefix(KEY_PREFIX): text for name, text in given if name.startswith(KEY_PREFIX)
        }
    return parsed


def whole_grammar() -> Parser:
    """Return all commands with all their arguments, for completion and manual pages."""
    return _root(None)


def _print_completion(session: client_commands.CommandContext) -> int:
    """Print the completion script of a shell."""
    import shtab

    sys.stdout.write(shtab.complete(whole_grammar(), shell=session.arguments.shell))
    return client_commands.DONE


def _root(said: frozenset[str] | None) -> Parser:
    """Return the grammar. Only the commands among the words `said` get their arguments: this halves the time."""
    everywhere = common_options(argparse.SUPPRESS)
    root = Root(prog="netagent", parents=[common_options(None)], allow_abbrev=False)
    root.add_argument("--version", action=ShowVersion, nargs=0, help=argparse.SUPPRESS)
    add = Adder(command_of(root), everywhere, said)
    for group in (_cluster, _hosts, _containers, _look, _ask, _this_host):
        group(add)
    network = add.word("network", "networks: create, ls, inspect, rm, prune, connect, disconnect")
    _networks(Adder(network, everywhere, said))
    for word, run in (("endpoint", client_commands.endpoints), ("service", client_commands.services)):
        words_of = add.word(word, f"`netagent {word} ls` is the same as `netagent {word}s`")
        Adder(words_of, everywhere, said)("ls", run, arguments.filters)
    return root


def _cluster(add: Adder) -> None:
    add(
        "agent",
        client_commands.agent,
        arguments.agent,
        says="Run the agent of this host in the foreground. Outside a cluster it looks for other hosts and waits\n"
        "for `netagent init` or `netagent join`. A flag overrides a NETAGENT_* environment variable, which\n"
        "overrides the configuration file.",
        examples="sudo netagent agent\nsudo netagent agent --name h1 --bind 192.0.2.1 --zone rack7",
    )
    add(
        "init",
        client_commands.init,
        lambda p: p.add_argument(
            "--cluster", metavar="NAME", help="names end in NAME.internal (default: mesh)"
        ),
        says="Start a cluster with this host as its first member.",
        examples="sudo netagent init",
    )
    add(
        "invite",
        client_commands.invite,
        arguments.invite,
        says="Print a token for `netagent join` on another host. It contains the addresses of members and a secret\n"
        "that works once (or --uses times): treat it like a password.",
        examples="sudo netagent invite\n"
        "sudo netagent invite --ttl 10m --uses 5 > token\n"
        "sudo netagent invite | ssh h2 sudo netagent join --token-file -",
    )
    add(
        "join",
        client_commands.join,
        arguments.join,
        says="Join a cluster with a token that `netagent invite` printed on a member. Without --token-file the\n"
        "command asks for the token and does not show it.",
        examples="sudo netagent join\nsudo netagent join 192.0.2.1 --token-file token",
    )
    add(
        "leave",
        client_commands.leave,
        arguments.drain,
        says="Leave the cluster: withdraw the names of this host on all hosts, let open requests finish, detach all\n"
        "containers, return the addresses, and delete the keys.",
        examples="sudo netagent leave\nsudo netagent leave --drain 60s",
    )


def _hosts(add: Adder) -> None:
    add(
        "forget",
        client_commands.forget,
        arguments.forget,
        says="Remove hosts that are gone for good. This host takes over the addresses they owned, and all hosts\n"
        "drop their names and records. A forgotten host that returns is fenced: attach its containers again.\n"
        "Refused for a live host, and unless every live host acknowledges it.",
        examples="sudo netagent forget h3\n"
        "sudo netagent forget h3 h4 --dead-for 72h\n"
        "sudo netagent forget --dead-for 7d",
    )
    add(
        "withdraw",
        client_commands.withdraw,
        arguments.drain,
        says="Before this host goes down: withdraw the names of the host and its containers on all hosts, and let\n"
        "open requests finish. Containers and connections stay up. The names return when the agent starts again.",
        examples="sudo netagent withdraw\nsudo netagent withdraw --drain 0s",
    )
    add(
        "members",
        client_commands.members,
        arguments.watch,
        says="List the hosts of the cluster. AGENT is the state of the agent according to gossip, HOST whether the\n"
        "kernel answers, PATH whether packets pass through the overlay.",
    )


def _containers(add: Adder) -> None:
    add(
        "attach",
        client_commands.attach,
        arguments.attach,
        says="Attach a container to a network: it gets an interface, an address of each family, a name, and a DNS\n"
        "resolver at 127.0.0.11. Repeating the command changes nothing.",
        examples="sudo netagent attach netns:web1 --network app --service web --expose http=80/tcp\n"
        "sudo netagent attach pid:4711 --network app --name api --link db:database",
    )
    add(
        "detach",
        client_commands.detach,
        arguments.detach,
        says="Remove a container's interface. All hosts drop its name first, and open connections get one second\n"
        "to finish.",
        examples="sudo netagent detach web1\nsudo netagent detach web1 --drain 30s",
    )
    add(
        "link",
        client_commands.link,
        arguments.link,
        says="Make SERVICE resolvable as ALIAS in the endpoint's container. Where the network's policy is `links`,\n"
        "this also allows connections to it.",
        examples="sudo netagent link web1 db:database",
    )
    add(
        "unlink",
        client_commands.unlink,
        arguments.link,
        says="Remove a link.",
        examples="sudo netagent unlink web1 db:database",
    )
    add(
        "publish",
        client_commands.publish,
        arguments.publish,
        says="Forward a port of this host to a port of the endpoint's container.",
        examples="sudo netagent publish web1 8080:80\nsudo netagent publish web1 192.0.2.1:5000-5009:5000-5009/udp",
    )
    add(
        "unpublish",
        client_commands.unpublish,
        arguments.publish,
        says="Stop forwarding the port.",
        examples="sudo netagent unpublish web1 8080:80",
    )


def _look(add: Adder) -> None:
    add(
        "status",
        client_commands.status,
        says="Show the state of this host on one screen, with a cure for each problem. Outside a cluster: the hosts\n"
        "heard on the local network, and what to type next.",
    )
    add(
        "endpoints ps",
        client_commands.endpoints,
        arguments.filters,
        says="List the containers of the cluster. For networks that this host is not in, it asks hosts that are;\n"
        "with -o wide, SOURCE names the host that a row comes from.",
        examples="netagent endpoints --network app\nnetagent endpoints --watch --json",
    )
    add(
        "services",
        client_commands.services,
        arguments.filters,
        says="List the services of the cluster. For networks that this host is not in, it asks hosts that are;\n"
        "with -o wide, SOURCE names the host that a row comes from.",
        examples="netagent services\nnetagent services --network app -o wide",
    )
    add(
        "inspect",
        client_commands.inspect,
        arguments.inspect,
        says="Show everything known of one object on any host. An alias, the name or id of a container, or its\n"
        "compose name work too. With --why also show its record and every object that the record makes on this\n"
        "host: present, missing, or not needed and why. Then exits 1 when an object differs from the record.",
        examples="netagent inspect web\nnetagent inspect 10.160.0.2\nsudo netagent inspect web --why",
    )
    add(
        "doctor",
        doctor_command.doctor,
        lambda p: p.add_argument(
            "--config", metavar="FILE", help="the agent's configuration file, used when no agent answers"
        ),
        says="Check this host, and compare its kernel with the records. Checks the kernel, its settings, ports,\n"
        "firewalls and the disk; then, entry by entry, devices, neighbours, forwarding entries, containers, names\n"
        "and the journal. Changes nothing, and suggests a fix for each problem. Exits 1 when a check failed. Also\n"
        "runs when no agent answers, and then exits 3.",
        examples="sudo netagent doctor\nsudo netagent doctor --json",
    )


def _ask(add: Adder) -> None:
    add(
        "lookup",
        client_commands.lookup,
        arguments.lookup,
        says="Show the DNS answer that a container gets for a name, and the reason. Without --from: the answer for\n"
        "a container in all networks of the cluster, those of this host first. Exits 1 when there is none.",
        examples="netagent lookup web.app\nnetagent lookup database --from web1\n"
        "netagent lookup web.app AAAA -o name",
    )
    add(
        "ping",
        client_commands.ping,
        arguments.ping,
        says="Test connectivity with small packets and with the largest that the network allows: from a container\n"
        "of this host, or, with one argument, from this host to the kernel of another. TO is a name as that\n"
        "container resolves it, an address, or a host; with a port, ping opens a TCP connection. Exits 1 when\n"
        "packets are lost, and names the layer that drops them.",
        examples="netagent ping web1 db\nnetagent ping web1 db:6379 --trace\nnetagent ping h2",
    )
    add("version", client_commands.version, says="Print the versions of this program and of the agent.")


def _this_host(add: Adder) -> None:
    add(
        "install",
        install_commands.install,
        arguments.installation,
        says="Write the files that connect netagent to Docker, Podman, CNI or systemd, and list them. Never\n"
        "overwrites files of other programs. Where systemd runs, the command restarts the agent to apply the\n"
        "change; containers, packets and names are not interrupted.",
        examples="sudo netagent install systemd\nsudo netagent install docker",
    )
    add(
        "uninstall",
        install_commands.uninstall,
        arguments.installation,
        says="Remove what `netagent install` wrote, and nothing else.",
        examples="sudo netagent uninstall docker",
    )
    add(
        "completion",
        _print_completion,
        lambda p: p.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish"),
        says="Print the completion script for a shell.",
        examples="netagent completion bash > ~/.local/share/bash-completion/completions/netagent",
    )


def _networks(add: Adder) -> None:
    add(
        "create",
        client_commands.network_create,
        arguments.network_create,
        says="Create a network. Repeating the command changes nothing; with other options it is refused.",
        examples="sudo netagent network create app\n"
        "sudo netagent network create db --subnet 10.170.0.0/24 --internal",
    )
    add("ls list", client_commands.network_list, arguments.watch, says="List the networks of the cluster.")
    add(
        "inspect",
        client_commands.network_inspect,
        arguments.network,
        says="Show everything known of one network.",
    )
    add(
        "rm remove",
        client_commands.network_remove,
        arguments.remove,
        says="Remove a network that has no endpoints.",
    )
    add(
        "prune",
        client_commands.network_prune,
        says="Remove every network without an endpoint. Endpoints of hosts that are gone do not count.",
    )
    add(
        "connect",
        client_commands.network_connect,
        arguments.connect,
        says="Attach an already attached container to one more network, under the same name.",
        examples="sudo netagent network connect db netns:web1",
    )
    add(
        "disconnect",
        client_commands.network_disconnect,
        arguments.connect,
        says="Detach a container from a network.",
    )
