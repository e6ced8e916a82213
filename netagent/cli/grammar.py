"""The grammar of the command line: commands, their arguments, their help.

The overview that `netagent --help` shows is in netagent.cli.overview; each command's own help ends with examples,
because that is what people copy.
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
    """The arguments, with `run` (what to do) among them. Raises InputError; `--help` prints and exits."""
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
    """All commands with all their arguments, for completion and manual pages."""
    return _root(None)


def _print_completion(session: client_commands.CommandContext) -> int:
    """Print the completion script of a shell."""
    import shtab

    sys.stdout.write(shtab.complete(whole_grammar(), shell=session.arguments.shell))
    return client_commands.DONE


def _root(said: frozenset[str] | None) -> Parser:
    """The grammar, of which only the commands among the words `said` get their arguments: that halves the time."""
    everywhere = common_options(argparse.SUPPRESS)
    root = Root(prog="netagent", parents=[common_options(None)], allow_abbrev=False)
    root.add_argument("--version", action=ShowVersion, nargs=0, help=argparse.SUPPRESS)
    add = Adder(command_of(root), everywhere, said)
    for group in (_cluster, _hosts, _containers, _look, _ask, _this_host):
        group(add)
    network = add.word("network", "networks: create, ls, inspect, rm, connect, disconnect")
    _networks(Adder(network, everywhere, said))
    for word, run in (("endpoint", client_commands.endpoints), ("service", client_commands.services)):
        words_of = add.word(word, f"`netagent {word} ls` is `netagent {word}s`")
        Adder(words_of, everywhere, said)("ls", run, arguments.filters)
    return root


def _cluster(add: Adder) -> None:
    add(
        "agent",
        client_commands.agent,
        arguments.agent,
        says="Run the agent of this host in the foreground. In no cluster it looks for neighbours and waits.\n"
        "A flag beats a NETAGENT_* variable, which beats the configuration file.",
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
        says="Print one token for `netagent join` on another host. It says where members are and holds a secret\n"
        "that is redeemed once; treat it like a password.",
        examples="sudo netagent invite\n"
        "sudo netagent invite --ttl 10m --uses 5 > token\n"
        "sudo netagent invite | ssh h2 sudo netagent join --token-file -",
    )
    add(
        "join",
        client_commands.join,
        arguments.join,
        says="Enter a cluster with a token that `netagent invite` printed on a member. Without --token-file the\n"
        "token is asked for and not shown.",
        examples="sudo netagent join\nsudo netagent join 192.0.2.1 --token-file token",
    )
    add(
        "leave",
        client_commands.leave,
        arguments.drain,
        says="Leave the cluster: take back this host's names everywhere, let requests under way end, detach all\n"
        "containers, give back the addresses, forget the keys.",
        examples="sudo netagent leave\nsudo netagent leave --drain 60s",
    )


def _hosts(add: Adder) -> None:
    add(
        "forget",
        client_commands.forget,
        arguments.forget,
        says="Hosts are gone for good. This host takes over the addresses they owned; their names and records\n"
        "vanish everywhere, and one that returns is fenced: its containers have to be attached anew. Refused for\n"
        "a host that lives, and until every live host has acknowledged it.",
        examples="sudo netagent forget h3\n"
        "sudo netagent forget h3 h4 --dead-for 72h\n"
        "sudo netagent forget --dead-for 7d",
    )
    add(
        "withdraw",
        client_commands.withdraw,
        arguments.drain,
        says="Take back the names of this host and its containers everywhere, because it is about to go down, and\n"
        "wait until requests under way have ended. Containers and connections go on. The names return when the\n"
        "agent starts again.",
        examples="sudo netagent withdraw\nsudo netagent withdraw --drain 0s",
    )
    add(
        "members",
        client_commands.members,
        arguments.watch,
        says="The hosts of the cluster. AGENT is what gossip says of the agent, HOST whether its kernel answers,\n"
        "PATH whether packets pass the overlay.",
    )


def _containers(add: Adder) -> None:
    add(
        "attach",
        client_commands.attach,
        arguments.attach,
        says="Put a container into a network: an interface, an address of each family, a name, and answers on\n"
        "127.0.0.11. The same again changes nothing.",
        examples="sudo netagent attach netns:web1 --network app --service web --expose http=80/tcp\n"
        "sudo netagent attach pid:4711 --network app --name api --link db:database",
    )
    add(
        "detach",
        client_commands.detach,
        arguments.detach,
        says="Take a container's interface away. Its name is withdrawn first, on all hosts, and open connections\n"
        "get a second to end.",
        examples="sudo netagent detach web1\nsudo netagent detach web1 --drain 30s",
    )
    add(
        "link",
        client_commands.link,
        arguments.link,
        says="Inside the endpoint's container, ALIAS means SERVICE from now on.",
        examples="sudo netagent link web1 db:database",
    )
    add(
        "unlink",
        client_commands.unlink,
        arguments.link,
        says="Take a link back.",
        examples="sudo netagent unlink web1 db:database",
    )
    add(
        "publish",
        client_commands.publish,
        arguments.publish,
        says="A port of this host leads to a port of the endpoint's container from now on.",
        examples="sudo netagent publish web1 8080:80\nsudo netagent publish web1 192.0.2.1:5000-5009:5000-5009/udp",
    )
    add(
        "unpublish",
        client_commands.unpublish,
        arguments.publish,
        says="The port leads nowhere any more.",
        examples="sudo netagent unpublish web1 8080:80",
    )


def _look(add: Adder) -> None:
    add(
        "status",
        client_commands.status,
        says="This host in one screen, with a cure for each thing that is wrong. In no cluster: who was heard, and\n"
        "what to type.",
    )
    add(
        "endpoints ps",
        client_commands.endpoints,
        arguments.filters,
        says="The containers of the cluster. Where this host takes no part in a network, hosts that do are asked;\n"
        "with -o wide, SOURCE says who told of a row.",
        examples="netagent endpoints --network app\nnetagent endpoints --watch --json",
    )
    add(
        "services",
        client_commands.services,
        arguments.filters,
        says="The services of the cluster. Where this host takes no part in a network, hosts that do are asked;\n"
        "with -o wide, SOURCE says who told of a row.",
        examples="netagent services\nnetagent services --network app -o wide",
    )
    add(
        "inspect",
        client_commands.inspect,
        arguments.inspect,
        says="Everything known of one thing, on whatever host it is: also by alias, by the container's name or id,\n"
        "or by what compose calls it. With --why also the record that it follows from, and everything that\n"
        "record makes on this host: what is there, what is missing, and what is not needed and why. Then it\n"
        "exits 1 when something is not as the record says.",
        examples="netagent inspect web\nnetagent inspect 10.160.0.2\nsudo netagent inspect web --why",
    )
    add(
        "doctor",
        doctor_command.doctor,
        lambda p: p.add_argument(
            "--config", metavar="FILE", help="where no agent answers: its configuration, if it is elsewhere"
        ),
        says="Is this host fit, and has its kernel what the records say? Kernel, settings, ports, firewalls, disk;\n"
        "then devices, neighbours, forwarding entries, containers, names and journal, entry by entry, each looked\n"
        "at afresh. Changes nothing. Every finding has a fix. Exits 1 when a check failed. Also runs when no agent\n"
        "answers, and then exits 3.",
        examples="sudo netagent doctor\nsudo netagent doctor --json",
    )


def _ask(add: Adder) -> None:
    add(
        "lookup",
        client_commands.lookup,
        arguments.lookup,
        says="The answer that a container gets for a name, and the reason. Without --from that of a container in\n"
        "all networks of the cluster, this host's first. Exits 1 when there is none.",
        examples="netagent lookup web.app\nnetagent lookup database --from web1\n"
        "netagent lookup web.app AAAA -o name",
    )
    add(
        "ping",
        client_commands.ping,
        arguments.ping,
        says="Does a packet get there, small and as large as the network allows? From a container of this host, or,\n"
        "with one argument, from this host to another one's kernel. TO is a name as that container finds it, an\n"
        "address, or a host; with a port a TCP connection is opened. Exits 1 when something gets lost, and says at\n"
        "which layer.",
        examples="netagent ping web1 db\nnetagent ping web1 db:6379 --trace\nnetagent ping h2",
    )
    add("version", client_commands.version, says="Versions of this program and of the agent it talks to.")


def _this_host(add: Adder) -> None:
    add(
        "install",
        install_commands.install,
        arguments.installation,
        says="Put the small files where they belong, and say which. Files of others are never overwritten. Where\n"
        "systemd runs, the agent is restarted to take notice; containers, packets and names go on meanwhile.",
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
        says="Print the completion script of a shell.",
        examples="netagent completion bash > ~/.local/share/bash-completion/completions/netagent",
    )


def _networks(add: Adder) -> None:
    add(
        "create",
        client_commands.network_create,
        arguments.network_create,
        says="Make a network. The same again changes nothing; with other options it is refused.",
        examples="sudo netagent network create app\n"
        "sudo netagent network create db --subnet 10.170.0.0/24 --internal",
    )
    add("ls list", client_commands.network_list, arguments.watch, says="The networks of the cluster.")
    add("inspect", client_commands.network_inspect, arguments.network, says="One network, everything known.")
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
        says="Put a container that is attached already into one more network, under the name it has.",
        examples="sudo netagent network connect db netns:web1",
    )
    add(
        "disconnect",
        client_commands.network_disconnect,
        arguments.connect,
        says="Take a container out of a network.",
    )
