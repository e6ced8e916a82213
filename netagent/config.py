"""The agent's configuration: one table of keys defines files, environment variables, flags and help texts.

A flag overrides a variable, which overrides a file; `conf.d/*.toml` overrides `netagent.toml`, and later file names
override earlier ones. An unknown key is an error that suggests the nearest known one. Some keys can change while the
agent runs (SIGHUP); the agent logs the names of the others when a reload finds them changed.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netagent import config_values as kind
from netagent.errors import InputError
from netagent.model.address.loopback import is_loopback
from netagent.model.allowed import underlay_flaw
from netagent.model.ids import nearest_name

DEFAULT_FILE = Path("/etc/netagent/netagent.toml")
HTTP_PORT = 7958
_HTTP = f"127.0.0.1:{HTTP_PORT}"
TIMINGS = ("lan", "wan", "local")
_PREFIX = "NETAGENT_"
"""Prefix of the environment variables: of each key, and of the command line's NETAGENT_SOCKET."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective configuration; `KEYS` documents each field."""

    name: str
    bind: str | None
    advertise: str | None
    interfaces: tuple[str, ...]
    mdns: bool
    seeds: tuple[str, ...]
    cluster: str
    key_file: Path | None
    state_dir: Path
    run_dir: Path
    domain: str | None
    http: str
    http_containers: bool
    gossip_port: int
    record_port: int
    vxlan_port: int
    tunnel_port: int
    connections_per_container: int
    keep_encryption: bool
    address_pools: tuple[str, ...]
    forget_after_s: int
    rotate_every_s: int
    rotate_tunnel_every_s: int
    leave_on_shutdown: bool
    zone: str
    service_addresses: str
    timing: str
    log_level: str
    log_format: str
    docker_enabled: bool
    docker_socket: Path
    docker_plugin: Path
    docker_mirror: bool
    docker_labels: str
    podman_enabled: bool
    podman_mirror: bool

    @property
    def keyring_file(self) -> Path:
        """Return the path of the cluster's key ring; the host is in a cluster when this file exists."""
        return self.key_file or self.state_dir / "keyring"

    @property
    def closed_ports(self) -> tuple[int, ...]:
        """Return the ports of agents that containers can't reach, on this host and on others.

        Other hosts are taken to have the same ports. Where `http` is on loopback here, nothing is known of theirs but
        the usual port.
        """
        ports = (self.gossip_port, self.record_port, self.tunnel_port)
        if self.http_containers:
            return ports
        address, _, port = (self.http or _HTTP).rpartition(":")
        return *ports, HTTP_PORT if is_loopback(address.strip("[]")) else int(port)

    @property
    def socket_path(self) -> Path:
        """Return the path of the socket on which the agent serves its API."""
        return self.run_dir / "netagent.sock"

    @property
    def read_only_socket_path(self) -> Path:
        """Return the path of the socket on which the agent serves only commands that read."""
        return self.run_dir / "netagent-ro.sock"


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One configuration key. `parse` checks and converts its value (netagent.config_values).

    A dot in the name stands for a table of TOML: `docker.mirror` is `mirror` under `[docker]`.
    """

    name: str
    parse: Callable[[Any], Any]
    default: Any
    help: str
    metavar: str = "VALUE"
    reloads: bool = False

    @property
    def flag(self) -> str:
        """Return the flag of the command line."""
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return _PREFIX + self.field.upper()

    @property
    def field(self) -> str:
        """Return the name of its field in Config."""
        return self.name.replace(".", "_")


def _default_name() -> str:
    return nearest_name(socket.gethostname().partition(".")[0]) or "host"


KEYS: tuple[ConfigKey, ...] = (
    ConfigKey(
        "name",
        kind.name,
        None,
        "this host's name in the cluster; `status` reports two hosts of one name (default: the machine's host name)",
        "NAME",
    ),
    ConfigKey(
        "bind",
        kind.optional_address,
        None,
        "address that gossip and records listen on; 0.0.0.0 or :: listens on all addresses of that family, and the "
        "other hosts then reach this one by that family; same family as advertise (default: the advertised address, "
        "followed when it changes)",
        "ADDRESS",
    ),
    ConfigKey(
        "advertise",
        kind.optional_address,
        None,
        "address by which other hosts reach this one, also for VXLAN; all hosts of a cluster use one family, which "
        "this key chooses, else the other members do; not loopback, link-local or multicast (default: bind, else the "
        "source address of the default route, followed when it changes)",
        "ADDRESS",
    ),
    ConfigKey(
        "interfaces",
        kind.texts,
        (),
        "devices on which the agent speaks multicast DNS; no effect with mdns = false (default: the device of the "
        "advertised address)",
        "DEV,…",
    ),
    ConfigKey(
        "mdns",
        kind.boolean,
        True,
        "find peers on the local network by multicast DNS; if false, name members in seeds",
        "BOOL",
    ),
    ConfigKey(
        "seeds",
        kind.seeds,
        (),
        "members that the agent keeps trying, each as HOST[:PORT] with the gossip port (without PORT: gossip_port)",
        "HOST[:PORT],…",
        reloads=True,
    ),
    ConfigKey(
        "cluster",
        kind.name,
        "mesh",
        "name of the cluster that `init` makes, and first label of its domain; only `init` reads it",
        "NAME",
    ),
    ConfigKey(
        "key_file",
        kind.optional_path,
        None,
        "file of the cluster's key ring; the host is a member when it exists (default: STATE_DIR/keyring)",
        "PATH",
    ),
    ConfigKey(
        "state_dir",
        kind.path,
        Path("/var/lib/netagent"),
        "folder of identity, key ring and journal; mode 0700",
        "PATH",
    ),
    ConfigKey(
        "run_dir",
        kind.path,
        Path("/run/netagent"),
        "folder of sockets and locks; the API's sockets are netagent.sock and netagent-ro.sock in it; under systemd "
        "also set ListenStream= of netagent.socket and netagent-ro.socket",
        "PATH",
    ),
    ConfigKey(
        "domain",
        kind.domain,
        None,
        "zone of all names; only `init` reads it; not all of .internal (default: CLUSTER.internal)",
        "DOMAIN",
    ),
    ConfigKey(
        "http",
        kind.optional_listener,
        _HTTP,
        "where the agent serves its health by HTTP, for load balancers, its metrics, its web page, and its API to "
        "who shows a token; beyond loopback all but health by TLS; an IPv6 address in brackets; empty: nowhere",
        "ADDRESS:PORT",
    ),
    ConfigKey(
        "http_containers",
        kind.boolean,
        False,
        "let this host's containers connect to the port of http, of this host and of others: for a Prometheus or a "
        "load balancer in a container; of this host only where http is at an address that they reach",
        "BOOL",
    ),
    ConfigKey(
        "gossip_port",
        kind.number(1, 65535),
        7956,
        "UDP and TCP port of membership; must differ from record_port",
        "PORT",
    ),
    ConfigKey(
        "record_port",
        kind.number(1, 65535),
        7957,
        "UDP and TCP port of records and joining; must differ from gossip_port",
        "PORT",
    ),
    ConfigKey("vxlan_port", kind.number(1, 65535), 4799, "UDP port of VXLAN; the same on all hosts", "PORT"),
    ConfigKey(
        "tunnel_port",
        kind.number(1, 65535),
        7955,
        "UDP port of this host's end of the encrypted tunnel, in a cluster that encrypts",
        "PORT",
    ),
    ConfigKey(
        "connections_per_container",
        kind.number(0, 10**6),
        16_384,
        "connections to addresses outside, to published ports and to this host that a container may have at once by "
        "each of its addresses, those that have just ended included; beyond it new ones are refused; 0 = any number",
        "COUNT",
    ),
    ConfigKey(
        "keep_encryption",
        kind.boolean,
        False,
        "once this host sends encrypted packets alone, do not follow `netagent encrypt off` of any host; while "
        "this host's agent answers, the others go on to encrypt, too",
    ),
    ConfigKey(
        "address_pools",
        kind.pools,
        ("10.160.0.0/12",),
        "IPv4 ranges from which networks take their /20; IPv6 subnets come from the cluster's own prefix",
        "CIDR,…",
        reloads=True,
    ),
    ConfigKey(
        "forget_after_s",
        kind.number(0, 10**9),
        7 * 86400,
        "seconds without a sign of a host's agent and kernel after which the cluster forgets the host; 0 = never",
        "SECONDS",
        reloads=True,
    ),
    ConfigKey(
        "rotate_every_s",
        kind.number(0, 10**9),
        7 * 86400,
        "seconds after which the cluster changes the key that its hosts seal gossip and records with; the live host "
        "with the smallest id does it, by its own setting; 0 = only by `netagent keys rotate`",
        "SECONDS",
        reloads=True,
    ),
    ConfigKey(
        "rotate_tunnel_every_s",
        kind.number(0, 10**9),
        86400,
        "seconds after which this host changes its key of the encrypted tunnel, a tenth more or less; 0 = never",
        "SECONDS",
        reloads=True,
    ),
    ConfigKey(
        "leave_on_shutdown",
        kind.boolean,
        False,
        "leave the cluster whenever the agent stops",
        "BOOL",
        reloads=True,
    ),
    ConfigKey(
        "zone",
        kind.optional_name,
        "",
        "zone of this host, for names such as `ZONE.zone.web`; shown by `members`",
        "NAME",
    ),
    ConfigKey(
        "service_addresses",
        kind.one_of("on", "off"),
        "on",
        "whether this host's kernel leads connections to the addresses of services on to replicas; off: names are "
        "answered with the replicas here",
        "on|off",
        reloads=True,
    ),
    ConfigKey(
        "timing",
        kind.one_of(*TIMINGS),
        "lan",
        "profile of gossip's timers: wan for sites joined by the Internet, local for laboratories",
        "|".join(TIMINGS),
    ),
    ConfigKey(
        "log_level",
        kind.one_of("debug", "info", "warning", "error"),
        "info",
        "least severe message that the agent logs",
        "debug|info|warning|error",
        reloads=True,
    ),
    ConfigKey(
        "log_format",
        kind.one_of("text", "json"),
        "text",
        "form of the log's lines on standard error; under systemd text goes to the journal with fields of its own "
        "(NETAGENT_EVENT, NETAGENT_AUTHOR, …), and JSON is the message",
        reloads=True,
    ),
    ConfigKey(
        "docker.enabled",
        kind.boolean,
        False,
        "serve Docker as its network and address driver; `netagent install docker` sets it",
        "BOOL",
    ),
    ConfigKey(
        "docker.socket",
        kind.path,
        Path("/run/docker.sock"),
        "socket of Docker's API; used with docker.enabled",
        "PATH",
    ),
    ConfigKey(
        "docker.plugin",
        kind.path,
        Path("/run/docker/plugins/netagent.sock"),
        "socket at which Docker looks for the driver; its file name is the driver's name; used with docker.enabled",
        "PATH",
    ),
    ConfigKey(
        "docker.mirror",
        kind.boolean,
        True,
        "keep a Docker network with the name of each network; used with docker.enabled",
        "BOOL",
    ),
    ConfigKey(
        "docker.labels",
        kind.one_of("container", "all", "off"),
        "container",
        "whose labels choose names and groups: the container's, its image's too, or none; used with docker.enabled",
        "container|all|off",
    ),
    ConfigKey(
        "podman.enabled",
        kind.boolean,
        False,
        "watch Podman's containers and serve its networks; `netagent install podman` sets it",
        "BOOL",
    ),
    ConfigKey(
        "podman.mirror",
        kind.boolean,
        True,
        "keep a Podman network with the name of each network; used with podman.enabled",
        "BOOL",
    ),
)
_BY_NAME = {key.name: key for key in KEYS}


DEFAULT_ORIGIN = "default"


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The effective configuration, and where it comes from."""

    config: Config
    files: tuple[Path, ...]
    """Those read, in the order in which each overrides the ones before it."""
    origins: Mapping[str, str]
    """By the name of each key: a file's path, `$VARIABLE`, `--flag`, or `default`."""


def load(file: Path | None, flags: Mapping[str, str], environment: Mapping[str, str]) -> Config:
    """Merge files, variables and flags. `file` None means the default file, if it exists.

    Raises InputError, which names the key, where it was set, and what is wrong.
    """
    return load_with_origins(file, flags, environment).config


def load_with_origins(
    file: Path | None, flags: Mapping[str, str], environment: Mapping[str, str]
) -> LoadedConfig:
    """Do as `load`, and say where each value was set."""
    values: dict[str, Any] = {key.name: key.default for key in KEYS}
    origins = dict.fromkeys(values, DEFAULT_ORIGIN)

    def take(name: str, value: Any, origin: str) -> None:
        values[name], origins[name] = _parsed(name, value, f"in {origin}"), origin

    files = _files(file)
    for path in files:
        for name, value in _read(path).items():
            take(name, value, str(path))
    for key in KEYS:
        if key.variable in environment:
            take(key.name, environment[key.variable], f"${key.variable}")
    for name, text in flags.items():
        take(name, text, _BY_NAME[name].flag)
    if values["gossip_port"] == values["record_port"]:
        hint = "give them different ports"
        raise InputError("gossip_port and record_port are the same", thing="record_port", hint=hint)
    bind, advertise = values["bind"], values["advertise"]
    if bind and advertise and (":" in bind) != (":" in advertise):
        raise InputError(
            f"advertise is {advertise} and bind is {bind}: other hosts could not reach this one",
            thing="advertise",
            hint="use addresses of the same family, or set only one of the two",
        )
    is_named = advertise and not ipaddress.ip_address(advertise).is_unspecified
    if is_named and (flaw := underlay_flaw(advertise)):
        raise InputError(
            f"advertise is {advertise}, which {flaw}",
            thing="advertise",
            hint="use an address of this host that the other hosts can reach",
        )
    values["name"] = values["name"] or _default_name()
    config = Config(**{_BY_NAME[name].field: value for name, value in values.items()})
    return LoadedConfig(config, tuple(files), origins)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that looks like a key but is not. It is no error: other programs may use
    the prefix."""
    known = {key.field.upper() for key in KEYS}
    given = {name.removeprefix(_PREFIX) for name in environment if name.startswith(_PREFIX)}
    sentences = []
    for word in sorted(given - known - {"SOCKET", "TOKEN_FILE", "CA_FILE"}):
        near = difflib.get_close_matches(word, known, n=1)
        hint = f"; did you mean {_PREFIX}{near[0]}?" if near else ""
        sentences.append(f"the variable {_PREFIX}{word} is ignored, because there is no such key{hint}")
    return sentences


def changed_keys(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the names of keys that differ: those that take effect at once, and those that need a restart."""
    differ = [key for key in KEYS if getattr(old, key.field) != getattr(new, key.field)]
    return [key.name for key in differ if key.reloads], [key.name for key in differ if not key.reloads]


def _files(file: Path | None) -> list[Path]:
    if file is not None:
        if not file.is_file():
            raise InputError(
                f"the configuration file {file} does not exist",
                thing=str(file),
                hint="create it, or leave out --config",
            )
        main = file
    else:
        main = DEFAULT_FILE
    fragments = sorted((main.parent / "conf.d").glob("*.toml"))
    # Read a folder in its place or a dangling link too, which fails: it was meant to be a configuration file.
    return ([main] if main.exists() or main.is_symlink() else []) + fragments


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # a number of 5,000 digits raises no TOMLDecodeError
        raise InputError(f"cannot read {path}: {error}", thing=str(path), hint="correct the file") from None
    table = flattened(table)
    for name in table:
        if name not in _BY_NAME:
            near = difflib.get_close_matches(name, _BY_NAME, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `netagent agent --help` for the keys"
            raise InputError(f"{path} has the unknown key {name!r}", thing=name, hint=hint)
    return table


def flattened(file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file by the names of keys: those in a table get its name and a dot as prefix."""
    found: dict[str, Any] = {}
    for name, value in file.items():
        if isinstance(value, dict):
            found.update({f"{name}.{inner}": one for inner, one in value.items()})
        else:
            found[name] = value
    return found


def _parsed(name: str, value: Any, where: str) -> Any:
    try:
        return _BY_NAME[name].parse(value)
    except ValueError as error:
        raise InputError(
            f"{name} = {value!r} {where} is not valid: {error}", thing=name, hint="correct it"
        ) from None


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with some keys set to other values."""
    return dataclasses.replace(config, **values)
