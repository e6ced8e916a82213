"""Numbers of any length, in whatever text or JSON others write: refused with the parser's own error alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from netagent.commands.ping import _split
from netagent.config_values import number, parse_seed
from netagent.control.conversion import fields_untrusted, object_untrusted
from netagent.control.request_parsing import attach_untrusted, publications_of
from netagent.endpoints.targets import resolve
from netagent.errors import InputError
from netagent.integrations.container_targets import _pid
from netagent.integrations.docker.protocol import address_untrusted
from netagent.integrations.labels import EXPOSE, described
from netagent.integrations.podman.netavark import plugging_untrusted
from netagent.interface.cluster import ForgetCommand, InviteCommand
from netagent.interface.command import Command
from netagent.interface.containers import DetachCommand, NetworkCreateCommand
from netagent.interface.notation import duration_of, port_of
from netagent.interface.questions import PingCommand
from netagent.model.number import MAX_DIGITS, MAX_PID, whole_number

MOST = sys.get_int_max_str_digits()
LENGTHS = (MAX_DIGITS, MAX_DIGITS + 1, MOST - 1, MOST, MOST + 1)
DIGITS = [digit * length for length in LENGTHS for digit in "19"]


def sent(command: type[Command[Any]], body: bytes) -> object:
    return fields_untrusted(command, object_untrusted(body))


@pytest.mark.parametrize("digits", DIGITS, ids=lambda text: f"{text[0]}x{len(text)}")
def test_long_numbers_are_refused_as_what_they_stand_for(digits: str) -> None:
    mappings = [
        {"host_port": int(digits[:MOST]), "container_port": 80, "range": 2},
        {"host_port": 80, "container_port": 80, "range": int(digits[:MOST])},
    ]
    bodies = [json.dumps({"port_mappings": [one]}).encode() for one in mappings]
    plugging = b'{"container_id": "%s", "network_options": {"interface_name": "eth0"}, ' % (b"ab" * 32)
    ports = b'{"target": "netns:x", "network": "app", "ports": [{"number": %s}]}' % digits.encode()
    refused: list[Callable[[], object]] = [
        *(partial(plugging_untrusted, plugging + body[1:]) for body in bodies),
        lambda: plugging_untrusted(plugging + b'"port_mappings": [{"host_port": %s}]}' % digits.encode()),
        lambda: fields_untrusted(PingCommand, {"to": "h2", "count": digits}, in_words=True),
        lambda: fields_untrusted(DetachCommand, {"endpoint": "web", "drain_s": digits}, in_words=True),
        lambda: _split(f"web:{digits}"),
        lambda: trio.run(resolve, f"pid:{digits}", None),  # type: ignore[arg-type]  # asks no runtime
        lambda: publications_of([f"{digits}:80"]),
        lambda: duration_of(f"{digits}s"),
        lambda: address_untrusted({"PoolID": digits}),
        lambda: sent(NetworkCreateCommand, b'{"name": "app", "mtu_bytes": ' + digits.encode() + b"}"),
        lambda: sent(InviteCommand, b'{"ttl_s": ' + digits.encode() + b"}"),
        lambda: sent(ForgetCommand, b'{"hosts": [], "dead_for_s": ' + digits.encode() + b"}"),
        lambda: attach_untrusted(object_untrusted(ports)),
    ]
    for call in refused:
        with pytest.raises(InputError):
            call()
    for call in (lambda: number(1, 65535)(digits), lambda: parse_seed(f"h1:{digits}")):
        with pytest.raises(ValueError, match="must be"):
            call()
    assert described({EXPOSE: digits}, "web").flaws
    assert _pid(digits) == 0
    assert whole_number(digits, 0, 65535) is None
    if len(digits) > MAX_DIGITS:
        with pytest.raises(InputError):
            port_of(digits)


def test_numbers_of_ordinary_length_are_read() -> None:
    assert whole_number("0080", 1, 65535) == 80
    assert whole_number("65536", 1, 65535) is None
    assert whole_number("٣", 0, 9) is None
    assert whole_number("", 0, 9) is None
    assert _pid(f" {MAX_PID}\n") == MAX_PID
    assert port_of("web=80/tcp") == {"number": 80, "name": "web", "protocol": "tcp"}
