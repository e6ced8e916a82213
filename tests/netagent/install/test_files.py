"""What each part consists of. That systemd, Podman and the others accept it is shown in tests/runtimes/."""

from __future__ import annotations

import configparser
import json
import tomllib

import pytest

from netagent.cli import grammar
from netagent.errors import InputError
from netagent.install import files
from netagent.install.files import (
    PACKAGE,
    PARTS,
    File,
    InstallContext,
    InstallPart,
    Layout,
    netavark_folder,
    part_of,
)
from netagent.install.installer import texts

TEXTS = texts()


def around(**changes: object) -> InstallContext:
    return InstallContext(**{"texts": TEXTS, **changes})  # type: ignore[arg-type]


def by_path(part: InstallPart) -> dict[str, File]:
    return {file.path: file for file in part.files}


def test_the_command_line_knows_the_parts() -> None:
    for part in PARTS:
        assert grammar.parse(["install", part])[1].part == part
        assert grammar.parse(["uninstall", part])[1].part == part
    with pytest.raises(InputError, match="did you mean 'docker'"):
        grammar.parse(["install", "dokcer"])


@pytest.mark.parametrize("name", PARTS)
def test_no_word_is_left_open_and_every_text_is_used(name: str) -> None:
    for file in part_of(name, around()).files:
        content = file.content
        for system_calls in (b"@system-service", b"@network-io", b"@sandbox"):
            content = content.replace(system_calls, b"")
        assert b"@" not in content
    used = {file.content for part in PARTS for file in part_of(part, around()).files}
    filled = {"netagent.service", "netagent-shutdown.service"}
    assert {name for name, text in TEXTS.items() if text.encode() not in used} == filled


def test_docker_has_a_socket_only_where_systemd_makes_it() -> None:
    units = [
        "/etc/systemd/system/netagent-docker.socket",
        "/etc/systemd/system/netagent.service.d/docker.conf",
    ]
    config = "/etc/netagent/conf.d/docker.toml"
    assert list(by_path(part_of("docker", around()))) == [config, *units]
    bare = part_of("docker", around(systemd=False))
    assert list(by_path(bare)) == [config]
    assert bare.next[0] == "restart the agent, if it runs"
    assert tomllib.loads(by_path(bare)[config].content.decode()) == {"docker": {"enabled": True}}


def test_podman_gets_the_plug_in_where_it_looks() -> None:
    part = by_path(part_of("podman", around(netavark_folder="/opt/plugins")))
    assert part["/opt/plugins/netagent"].mode == 0o755
    assert part["/opt/plugins/netagent"].content.startswith(b"#!/usr/bin/python3 ")
    config = part["/etc/netagent/conf.d/podman.toml"].content.decode()
    assert tomllib.loads(config) == {"podman": {"enabled": True}}


@pytest.mark.parametrize(
    ("configurations", "folder"),
    [
        ([], "/usr/libexec/netavark"),
        ([{}, {"network": {}}, {"network": 5}], "/usr/libexec/netavark"),
        ([{"network": {"netavark_plugin_dirs": ["/a", "/usr/libexec/netavark"]}}], "/usr/libexec/netavark"),
        (
            [
                {"network": {"netavark_plugin_dirs": ["/a"]}},
                {"network": {"netavark_plugin_dirs": ["/b", "/c"]}},
            ],
            "/b",
        ),
        ([{"network": {"netavark_plugin_dirs": []}}], "/usr/libexec/netavark"),
    ],
)
def test_where_podman_looks(configurations: list[dict[str, object]], folder: str) -> None:
    assert netavark_folder(configurations) == folder


@pytest.mark.parametrize("given", ["/a", ["a"], [5]])
def test_a_setting_of_podman_that_makes_no_sense(given: object) -> None:
    with pytest.raises(InputError, match="netavark_plugin_dirs"):
        netavark_folder([{"network": {"netavark_plugin_dirs": given}}])


def test_cni_gets_an_example_that_no_runtime_takes_for_a_configuration() -> None:
    part = by_path(part_of("cni", around()))
    assert part["/opt/cni/bin/netagent"].mode == 0o755
    (example,) = part.keys() - {"/opt/cni/bin/netagent"}
    assert not example.endswith((".conf", ".conflist", ".json"))  # what libcni reads
    assert json.loads(part[example].content)["plugins"][0]["type"] == "netagent"


def unit(content: bytes) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(content.decode())
    return parser


@pytest.mark.parametrize(
    ("program", "home"),
    [
        ("/usr/bin/netagent", "yes"),
        ("/root/.venv/bin/netagent", "read-only"),
        ("/home/a/bin/netagent", "read-only"),
    ],
)
def test_the_unit_starts_this_program(program: str, home: str) -> None:
    service = unit(
        by_path(part_of("systemd", around(program=program)))["/etc/systemd/system/netagent.service"].content
    )
    assert service["Service"]["ExecStart"] == f"{program} agent"
    assert service["Service"]["ProtectHome"] == home


def test_a_path_that_a_unit_would_read_differently() -> None:
    with pytest.raises(InputError, match="cannot be used in a systemd unit"):
        part_of("systemd", around(program="/opt/a b/netagent"))


def test_the_agent_alone_is_ended_and_the_resolver_finds_its_folder_again() -> None:
    service = unit(files.system_files(around(), Layout())[0].content)["Service"]
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"


def test_nothing_that_breaks_the_agent_is_asked_for() -> None:
    """docs/how-to/install.md has the reasons."""
    service = unit(files.system_files(around(), Layout())[0].content)["Service"]
    assert {"ProtectKernelTunables", "ProcSubset"}.isdisjoint(service)
    assert service["RestrictNamespaces"] == "net mnt"
    assert set(service["CapabilityBoundingSet"].split()) >= {
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_BPF",
        "CAP_SETPCAP",
    }
    assert {"bpf", "fsopen", "fsconfig", "fsmount"} <= set(service["SystemCallFilter"].split())
    assert service["LimitMEMLOCK"] == "infinity"


def test_a_package_brings_the_same_files_elsewhere() -> None:
    own, packaged = (files.system_files(around(), layout) for layout in (Layout(), PACKAGE))
    assert [file.content for file in own] == [file.content for file in packaged]
    assert all(file.path.startswith("/usr/lib/") for file in packaged)
    part = part_of("systemd", around(packaged=True))
    assert part.files == ()
    assert "has installed the units" in part.next[0]
