"""The `lab` command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from netlab import programs, topology
from netlab.errors import LabError
from netlab.host import replace_this_process
from netlab.lab import Lab
from netlab.state import chosen_dir

DESCRIPTION = """\
Whole hosts on one machine: each is a set of namespaces with its own network, /etc, /var and /run, on one bridge
that is in a namespace too. Nothing is added to the machine's own network. Needs root.

NETLAB_DIR (default /run/natlab) is the lab's folder; its last part names the namespaces, so that several labs can
be up at once."""


def main(argv: Sequence[str]) -> int:
    """Run one command; return 0 done, 2 wrong usage, 4 refused, 5 failed, or the status of a program inside."""
    words, command = _split(list(argv))
    arguments = _parser().parse_args(words)
    try:
        programs.require_root()
        lab = Lab(chosen_dir())
        handler: Callable[[Lab, argparse.Namespace, list[str]], int] = arguments.handler
        try:
            return handler(lab, arguments, command)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 5
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split at the first `--`: the rest is a command for inside."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


Add: TypeAlias = Callable[..., argparse.ArgumentParser]
"""Adds a command: its name, its function, its help, and the names of its positional arguments."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, handler: Callable[..., int], text: str, *names: str) -> argparse.ArgumentParser:
        # No abbreviations: an option that is not ours belongs to `netagent attach`.
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for positional in names:
            sub.add_argument(positional, metavar=positional.upper())
        sub.set_defaults(handler=handler)
        return sub

    for group in (_of_the_lab, _of_hosts, _of_containers, _of_faults):
        group(add)
    return parser


def _of_the_lab(add: Add) -> None:
    demo = add(
        "demo", _demo, "the tutorial as a program: three hosts, a database, two web replicas, three failures"
    )
    demo.add_argument("--keep", action="store_true", help="leave the lab up at the end")
    up = add("up", _up, "boot hosts h1 ... hN at 192.0.2.1 ... and make them a cluster")
    size = up.add_mutually_exclusive_group()
    size.add_argument("--hosts", type=int, default=3, metavar="N", help="how many (default 3)")
    size.add_argument("--topology", type=Path, metavar="FILE", help="TOML: hosts, networks and containers")
    up.add_argument("--ipv6", action="store_true", help="hosts have IPv6 addresses only, 2001:db8::1 ...")
    up.add_argument(
        "--nat",
        metavar="HOST",
        action="append",
        default=[],
        help="put this host behind a router with address translation (may be repeated); the cluster then encrypts",
    )
    up.add_argument("--no-join", action="store_true", help="start the agents without forming a cluster")
    up.add_argument("--no-agent", action="store_true", help="boot the hosts only")
    up.add_argument("--runtimes", action="store_true", help="with Docker and Podman, which the agents serve")
    add("down", _down, "remove the lab, including leftovers of a crash")
    add("status", _status, "hosts, containers and faults")


def _of_hosts(add: Add) -> None:
    agent = add(
        "agent", _agent, "stop sends SIGTERM, kill SIGKILL; the host and its containers continue", "host"
    )
    agent.add_argument("action", choices=["start", "stop", "kill", "restart", "log"])
    docker = add(
        "docker",
        _docker,
        "its dockerd; it has an image `lab`: lab docker HOST start [-- options of dockerd]",
        "host",
    )
    docker.add_argument("action", choices=["start", "stop", "kill", "restart", "log"])
    add("podman", _podman, "set up podman on a host: its configuration, an image `lab`", "host")
    power = add(
        "power", _power, "off: the host dies as by a cut power cable; on: it boots with its disk", "host"
    )
    power.add_argument("action", choices=["off", "on"])
    address = add("address", _address, "give a host another address on the fabric, as by a new lease", "host")
    address.add_argument("address", metavar="ADDRESS")
    add(
        "uplink",
        _uplink,
        "add a second uplink, eth1, on a fabric of its own, until the host loses power",
        "host",
    )
    add("host", _run_on_host, "run a command on a host: lab host HOST -- CMD...", "host")


def _of_containers(add: Add) -> None:
    container = add(
        "container",
        _container,
        "a new container: lab container HOST NAME [options] [-- CMD...]",
        "host",
        "name",
    )
    container.add_argument(
        "attach",
        nargs=argparse.REMAINDER,
        help="options of `netagent attach`; without them it is not attached",
    )
    add("exec", _run_in_container, "run a command inside a container: lab exec NAME -- CMD...", "name")
    remove = add("rm", _remove, "detach and remove a container", "name")
    remove.add_argument("--kill", action="store_true", help="without telling the agent")


def _of_faults(add: Add) -> None:
    cut = add("cut", _cut, "drop everything between two hosts", "one", "other")
    cut.add_argument("--one-way", action="store_true", help="only from the first to the second")
    add("heal", _heal, "undo all cuts, blocks, losses and small cables")
    loss = add("loss", _loss, "lose packets to and from a host", "host")
    loss.add_argument("percent", type=_number(float, 0, 100), metavar="PERCENT")
    mtu = add("mtu", _mtu, "silently drop larger packets on a host's cable", "host")
    mtu.add_argument("bytes", type=_number(int, 68, 65535), metavar="N")
    block = add(
        "block", _block, "drop TCP and UDP to this port, to and from a host, as a firewall would", "host"
    )
    block.add_argument("port", type=_number(int, 1, 65535), metavar="PORT")


def _number(kind: type[int] | type[float], low: int, high: int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be between {low} and {high}")
        return value

    parse.__name__ = "number"  # the name in argparse's message
    return parse


def _needed(command: list[str]) -> list[str]:
    if not command:
        raise LabError("the command to run is missing: give it after `--`", exit_status=2)
    return command


def _demo(_lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    from netlab.demo import run_demo

    return run_demo(keep=arguments.keep)


def _up(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    if arguments.topology and arguments.ipv6:
        raise LabError(
            "--ipv6 does not go with a topology file: write ipv6 = true into the file", exit_status=2
        )
    if arguments.topology and arguments.nat:
        raise LabError(
            '--nat does not go with a topology file: write nat = ["h3"] into the file', exit_status=2
        )
    plan = (
        topology.from_file(arguments.topology)
        if arguments.topology
        else topology.of_hosts(arguments.hosts, ipv6=arguments.ipv6, nat=arguments.nat)
    )
    lab.up(plan, join=not arguments.no_join, agents=not arguments.no_agent, runtimes=arguments.runtimes)
    print(
        f"{len(plan.hosts)} hosts are up: {', '.join(f'{name} {address}' for name, address in plan.hosts.items())}"
    )
    return 0


def _down(lab: Lab, _arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.down()
    return 0


def _status(lab: Lab, _arguments: argparse.Namespace, _command: list[str]) -> int:
    shown = lab.overview()
    for name, address, has_power, agent_runs in shown.hosts:
        power = "power on " if has_power else "power off"
        agent = "agent running" if agent_runs else "agent not running"
        print(f"{name:<5} {address:<12} {power}  {agent if has_power else ''}".rstrip())
    for name, host, exists in shown.containers:
        print(f"container {name} on {host}{'' if exists else ' (gone)'}")
    for one, other in shown.faults.cuts:
        print(f"cut: {one} -> {other}")
    for host, port in shown.faults.blocks:
        print(f"blocked: port {port} of {host}")
    for host, percent in shown.faults.loss.items():
        print(f"loss: {percent:g} % at {host}")
    for host, mtu_bytes in shown.faults.mtu.items():
        print(f"mtu: {mtu_bytes} bytes at {host}")
    return 0


def _agent(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    if arguments.action == "log":
        print(lab.host(arguments.host).log_tail(lines=1_000_000))
        return 0
    with lab.changing(arguments.host) as host:
        if arguments.action == "stop" or (arguments.action == "restart" and host.agent_running):
            host.stop_agent()
        if arguments.action == "kill":
            host.kill_agent()
        if arguments.action in ("start", "restart"):
            host.start_agent()
    return 0


def _docker(lab: Lab, arguments: argparse.Namespace, command: list[str]) -> int:
    if arguments.action == "log":
        print(lab.host(arguments.host).docker.log_tail(lines=1_000_000))
        return 0
    with lab.changing(arguments.host) as host:
        options = command or host.docker.options
        if arguments.action == "stop" or (arguments.action == "restart" and host.docker.running):
            host.docker.stop()
        if arguments.action == "kill":
            host.docker.kill()
        if arguments.action in ("start", "restart"):
            host.docker.start(options)
    return 0


def _podman(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.host(arguments.host).podman.prepare()
    return 0


def _power(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    if arguments.action == "off":
        lab.power_off(arguments.host)
        return 0
    failures = lab.power_on(arguments.host)
    for failure in failures:
        print(f"lab: {failure}", file=sys.stderr)
    return 5 if failures else 0


def _address(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.readdress(arguments.host, arguments.address)
    return 0


def _uplink(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    print(lab.plug_in_second(arguments.host))
    return 0


def _run_on_host(lab: Lab, arguments: argparse.Namespace, command: list[str]) -> int:
    replace_this_process(lab.host(arguments.host).entering(_needed(command)))
    return 5


def _run_in_container(lab: Lab, arguments: argparse.Namespace, command: list[str]) -> int:
    replace_this_process(lab.container(arguments.name).entering(_needed(command)))
    return 5


def _container(lab: Lab, arguments: argparse.Namespace, command: list[str]) -> int:
    print(lab.add_container(arguments.name, arguments.host, arguments.attach, command), end="")
    return 0


def _remove(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.remove_container(arguments.name, kill=arguments.kill)
    return 0


def _cut(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.cut(arguments.one, arguments.other, one_way=arguments.one_way)
    return 0


def _heal(lab: Lab, _arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.heal()
    return 0


def _loss(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.lose(arguments.host, arguments.percent)
    return 0


def _mtu(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.shrink(arguments.host, arguments.bytes)
    return 0


def _block(lab: Lab, arguments: argparse.Namespace, _command: list[str]) -> int:
    lab.block(arguments.host, arguments.port)
    return 0
