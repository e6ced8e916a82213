"""Configuration: precedence, refusals that name the key, and what a reload may change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netagent import config
from netagent.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "netagent.toml"
    path.write_text(text)
    return path


def test_a_flag_beats_a_variable_beats_a_fragment_beats_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'name = "a"\nzone = "a"\ncluster = "a"\ngossip_port = 1\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10.toml").write_text('zone = "b"\ncluster = "b"\ngossip_port = 2\n')
    loaded = config.load(file, {"gossip_port": "4"}, {"NETAGENT_GOSSIP_PORT": "3", "NETAGENT_CLUSTER": "c"})
    assert (loaded.name, loaded.zone, loaded.cluster, loaded.gossip_port) == ("a", "b", "c", 4)


def test_every_default_is_itself_a_valid_value(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, ""), {}, {})
    for key in config.KEYS:
        value = getattr(loaded, key.field)
        assert key.parse(str(value) if isinstance(value, Path) else value) == value, key.name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('nmae = "a"', ["nmae", "did you mean 'name'"]),
        ('name = "Has.Dots"', ["name", "DNS label"]),
        ("gossip_port = 70000", ["gossip_port", "65535"]),
        ("gossip_port = true", ["gossip_port", "whole number"]),
        ('bind = "300.1.1.1"', ["bind"]),
        ('bind = "0.0.0.0"\nadvertise = "2001:db8::1"', ["advertise", "bind", "of the same family"]),
        ('address_pools = ["10.0.0.0/24"]', ["address_pools", "/20"]),
        ('seeds = ["a:b:c]"]', ["seeds"]),
        ('seeds = ["h1:99999"]', ["seeds", "65535"]),
        ('domain = "internal"', ["domain", "clouds"]),
        ('timing = "fast"', ["timing", "lan"]),
        ('state_dir = "relative"', ["state_dir", "absolute"]),
        ('mdns = "perhaps"', ["mdns", "true or false"]),
        ('http = "7958"', ["http"]),
        ('http = "::1:7958"', ["http", "brackets"]),
        ('http = "127.0.0.1:99999"', ["http", "65535"]),
        ("name = ", ["netagent.toml"]),
    ],
)
def test_bad_values_are_refused_by_name(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        config.load(write(tmp_path, text), {}, {})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("H1.example.net", "h1"),
        ("a" * 62 + "-b", "a" * 62),
        ("my host", "my-host"),
        ("...", "host"),
    ],
)
def test_the_default_name_is_a_name_whatever_the_host_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert config.load(write(tmp_path, ""), {}, {}).name == name
    assert config.KEYS[0].parse(name) == name


def test_files_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    file = tmp_path / "netagent.toml"
    file.write_bytes('seeds = ["bücher.example"]\n'.encode())
    code = """
import sys
from netagent import config
print(ascii(config.load(config.Path(sys.argv[1]), {}, {}).seeds))
"""
    latin = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=False, env=latin, timeout=30
    )
    assert done.stdout == "('b\\xfccher.example',)\n", done.stderr


def test_a_missing_file_is_refused_when_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.toml does not exist"):
        config.load(tmp_path / "nothing.toml", {}, {})


def test_a_variable_that_is_no_key_is_named_with_the_nearest_that_is() -> None:
    environment = dict.fromkeys(
        ["NETAGENT_SOCKET", "NETAGENT_GOSIP_PORT", "NETAGENT_ZONE", "NETAGENT_Q", "PATH"], "1"
    )
    assert config.unknown_variables(environment) == [
        (
            "the variable NETAGENT_GOSIP_PORT is ignored, because there is no such key; "
            "did you mean NETAGENT_GOSSIP_PORT?"
        ),
        "the variable NETAGENT_Q is ignored, because there is no such key",
    ]


def test_what_stands_in_the_default_files_place_and_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netagent.toml"
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    assert config.load(None, {}, {}).zone == ""
    file.symlink_to(tmp_path / "gone.toml")
    with pytest.raises(InputError, match=r"cannot read .*netagent\.toml: .*No such file"):
        config.load(None, {}, {})
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*netagent\.toml: .*Is a directory"):
        config.load(None, {}, {})


@pytest.mark.parametrize("text", ["gossip_port = " + "9" * 5000, "seeds = " + "[" * 5000])
def test_a_file_beyond_what_python_reads_is_refused_like_any_that_is_wrong(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"cannot read .*netagent\.toml: "):
        config.load(write(tmp_path, text), {}, {})


def test_a_reload_tells_what_takes_effect_and_what_needs_a_restart(tmp_path: Path) -> None:
    old = config.load(write(tmp_path, ""), {"name": "a"}, {})
    new = config.load(write(tmp_path, 'seeds = ["h2"]\ngossip_port = 9\n'), {"name": "a"}, {})
    assert config.changed_keys(old, new) == (["seeds"], ["gossip_port"])


@pytest.mark.parametrize(
    ("flags", "ports"),
    [
        ({}, (7956, 7957, 7955, 7958)),
        ({"http": "192.0.2.1:8080"}, (7956, 7957, 7955, 8080)),
        ({"http": "[::1]:8080"}, (7956, 7957, 7955, 7958)),
        ({"http": ""}, (7956, 7957, 7955, 7958)),
        ({"http": "0.0.0.0:7958", "http_containers": "true"}, (7956, 7957, 7955)),
    ],
    ids=["usual", "beyond-loopback", "another-port-of-loopback", "nowhere", "asked-for"],
)
def test_which_ports_containers_cannot_reach(flags: dict[str, str], ports: tuple[int, ...]) -> None:
    assert config.load(None, flags, {}).closed_ports == ports
