"""The files of each part of an installation, their paths, and the commands to run before and after. Pure.

    docker     configuration; the plug-in's socket as a systemd unit
    podman     configuration; the netavark plug-in
    cni        the CNI plug-in; an example
    systemd    the agent's units, its group, and settings that make NetworkManager, systemd-networkd and udev ignore
               its devices

The texts are in data/ beside this file, as installed except for `@WORD@` placeholders. Commands run only on a host
with systemd, and never with `--root`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from netagent.errors import InputError

PARTS: Final = ("docker", "podman", "cni", "systemd")

SHIM_INTERPRETER: Final = "/usr/bin/python3"
"""For the shim's first line: the host's own Python starts in half the time of one in a virtual environment."""

NETAVARK_FOLDER: Final = "/usr/libexec/netavark"
NETAVARK_FOLDERS: Final = (
    "/usr/local/libexec/netavark",
    NETAVARK_FOLDER,
    "/usr/local/lib/netavark",
    "/usr/lib/netavark",
)
"""containers.conf(5), netavark_plugin_dirs: Podman's default folders."""
CONTAINERS_CONF: Final = (
    "/usr/share/containers/containers.conf",
    "/etc/containers/containers.conf",
    "/etc/containers/containers.conf.d/*.conf",
)
"""In the order in which Podman reads them; later ones win."""

NETWORK_SERVICES: Final = {
    "/run/NetworkManager": "NetworkManager.service",
    "/run/systemd/netif": "systemd-networkd.service",
}
"""Detected by the folder that each creates when it starts."""

SYSTEM_FOLDERS: Final = ("/etc/netns",)
"""The agent writes resolv.conf for named namespaces there; the unit can make only an existing folder writable."""

CNI_FOLDER: Final = "/opt/cni/bin"

RESTART: Final = ("systemctl", "try-restart", "netagent.service")
"""Does nothing if the agent does not run; otherwise containers, packets and names are not interrupted."""
RELOAD: Final = ("systemctl", "daemon-reload")

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class File:
    """A file to be installed: absolute path on the host, content, permissions."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class InstallPart:
    """One part of an installation. The commands are for a host with systemd; `next` is advice for the user."""

    name: str
    files: tuple[File, ...]
    folders: tuple[str, ...] = ()
    """Folders to create in addition to those of the files."""
    installed: tuple[Command, ...] = ()
    """Run after the files are written."""
    removing: tuple[Command, ...] = ()
    """Run before they are removed."""
    removed: tuple[Command, ...] = ()
    """Run after they are removed."""
    next: tuple[str, ...] = ()
    afterwards: tuple[str, ...] = ()
    """Advice after the removal."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of systemd and NetworkManager, for files of an administrator or of a package."""

    systemd: str = "/etc/systemd"
    sysusers: str = "/etc/sysusers.d"
    network_manager: str = "/etc/NetworkManager"


PACKAGE: Final = Layout("/usr/lib/systemd", "/usr/lib/sysusers.d", "/usr/lib/NetworkManager")


@dataclass(frozen=True, slots=True)
class InstallContext:
    """Facts about the host on which the files depend."""

    program: str = "/usr/bin/netagent"
    """Absolute path of the command `netagent`."""
    systemd: bool = True
    """True if the host runs systemd."""
    network_services: tuple[str, ...] = ()
    """Those of NetworkManager and systemd-networkd that run and so must reload their configuration."""
    packaged: bool = False
    """True if a package installed the units."""
    netavark_folder: str = NETAVARK_FOLDER
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The files of data/ and `shim.py`, by name."""


def part_of(name: str, around: InstallContext) -> InstallPart:
    """Return the part of that name, one of PARTS."""
    return {"docker": _docker, "podman": _podman, "cni": _cni, "systemd": _systemd}[name](around)


def _docker(around: InstallContext) -> InstallPart:
    files = [_config("docker", around)]
    if around.systemd:
        units = Layout().systemd + "/system"
        unit = around.texts["netagent-docker.socket"]
        drop_in = around.texts["netagent-docker.conf"]
        files += [
            File(f"{units}/netagent-docker.socket", unit.encode()),
            File(f"{units}/netagent.service.d/docker.conf", drop_in.encode()),
        ]
    return InstallPart(
        "docker",
        tuple(files),
        installed=(RELOAD, RESTART),
        removing=(("systemctl", "stop", "netagent-docker.socket"),),
        removed=(RELOAD, RESTART),
        next=(
            *_restart(around),
            "`docker run --network NAME …` then reaches every network of `netagent network ls`",
        ),
        afterwards=(
            *_restart(around, ", and repeat this command, which removes its rules from DOCKER-USER"),
            "remove the Docker networks that `docker network ls --filter driver=netagent` shows, if any are left",
            "otherwise Docker waits for the missing plug-in when it starts",
        ),
    )


def _podman(around: InstallContext) -> InstallPart:
    files = [_config("podman", around), _shim(around.netavark_folder, around)]
    if around.systemd:
        units = Layout().systemd + "/system"
        drop_in = around.texts["netagent-podman.conf"]
        files.append(File(f"{units}/netagent.service.d/podman.conf", drop_in.encode()))
    return InstallPart(
        "podman",
        tuple(files),
        installed=(RELOAD, RESTART),
        removed=(RELOAD, RESTART),
        next=(
            *_restart(around),
            "`podman run --network NAME …` then reaches every network of `netagent network ls`",
        ),
        afterwards=(
            *_restart(around),
            "remove the Podman networks that `podman network ls --filter driver=netagent` shows, if any are left",
        ),
    )


def _cni(around: InstallContext) -> InstallPart:
    example = File("/etc/cni/net.d/netagent.conflist.example", around.texts["example.conflist"].encode())
    return InstallPart(
        "cni",
        (_shim(CNI_FOLDER, around), example),
        next=(f"write a configuration like {example.path} with the name of your network",),
        afterwards=('remove configurations with `"type": "netagent"`, if any are left in /etc/cni/net.d',),
    )


def _systemd(around: InstallContext) -> InstallPart:
    units = ("netagent.service", "netagent.socket", "netagent-ro.socket", "netagent-shutdown.service")
    enable = "`systemctl enable --now netagent.service` starts the agent now and with the host"
    if around.packaged:
        return InstallPart(
            "systemd", (), next=("the package has installed the units; there is nothing to write", enable)
        )
    return InstallPart(
        "systemd",
        system_files(around, Layout()),
        SYSTEM_FOLDERS,
        installed=(
            ("systemd-sysusers", "netagent.conf"),
            RELOAD,
            RESTART,
            *(("systemctl", "try-reload-or-restart", service) for service in around.network_services),
        ),
        removing=(("systemctl", "disable", "--now", *reversed(units)),),
        removed=(RELOAD,),
        next=(enable,),
        afterwards=(
            "the agent is stopped; resolver, interfaces, programs and state stay (`netagent leave` removes them)",
        ),
    )


def system_files(around: InstallContext, layout: Layout) -> tuple[File, ...]:
    """Return the files of the part `systemd`, for an administrator's or a package's folders. InputError if the path
    of the program cannot stand in a unit."""
    if not re.fullmatch(r"/[\w./+-]+", around.program):
        raise InputError(
            f"the path {around.program} cannot be used in a systemd unit",
            thing=around.program,
            hint="install netagent below a path of letters, digits and . _ + - only",
        )
    home = around.program.startswith(("/home/", "/root/"))
    words = {"@PROGRAM@": around.program, "@PROTECT_HOME@": "read-only" if home else "yes"}
    places = {
        "netagent.service": f"{layout.systemd}/system/netagent.service",
        "netagent.socket": f"{layout.systemd}/system/netagent.socket",
        "netagent-ro.socket": f"{layout.systemd}/system/netagent-ro.socket",
        "netagent-shutdown.service": f"{layout.systemd}/system/netagent-shutdown.service",
        "sysusers.conf": f"{layout.sysusers}/netagent.conf",
        "networkd.network": f"{layout.systemd}/network/10-netagent.network",
        "udev.link": f"{layout.systemd}/network/10-netagent.link",
        "NetworkManager.conf": f"{layout.network_manager}/conf.d/netagent.conf",
    }
    return tuple(File(path, _filled(around.texts[name], words).encode()) for name, path in places.items())


def netavark_folder(configurations: Sequence[Mapping[str, Any]]) -> str:
    """Return the folder of Podman's plug-ins, from the parsed containers.conf files in reading order.

    Raises InputError when the setting is not a list of absolute paths.
    """
    folders: Sequence[str] = NETAVARK_FOLDERS
    for configuration in configurations:
        network = configuration.get("network", {})
        given = network.get("netavark_plugin_dirs") if isinstance(network, Mapping) else None
        if given is None:
            continue
        if not isinstance(given, list) or not all(
            isinstance(one, str) and one.startswith("/") for one in given
        ):
            raise InputError(
                "netavark_plugin_dirs in containers.conf is not a list of absolute paths",
                thing="netavark_plugin_dirs",
                hint="correct it: podman reads it too",
            )
        folders = given or NETAVARK_FOLDERS
    return NETAVARK_FOLDER if NETAVARK_FOLDER in folders else folders[0]


def _config(name: str, around: InstallContext) -> File:
    return File(f"/etc/netagent/conf.d/{name}.toml", around.texts[f"{name}.toml"].encode())


def _shim(folder: str, around: InstallContext) -> File:
    return File(f"{folder}/netagent", around.texts["shim.py"].encode(), 0o755)


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _restart(around: InstallContext, then: str = "") -> tuple[str, ...]:
    return () if around.systemd else (f"restart the agent, if it runs{then}",)
