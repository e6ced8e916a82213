"""The kinds of values of configuration keys.

Each is a function that converts a TOML value, or the text of a variable or flag. It raises ValueError with the
reason; netagent.config adds the key and where it was set.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netagent.model.ids import is_name

_MAX_LABEL = 63
"""Octets between two dots of a name (RFC 1035, section 2.3.4)."""


def text(value: Any) -> str:
    """Text, unchanged. A variable may hold any octets; those that are no UTF-8 are refused."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must be text in UTF-8")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts, or text separated by commas."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ValueError("must be a list of texts, or text separated by commas")
    return tuple(value)


def boolean(value: Any) -> bool:
    """`true` or `false`, and common words for them."""
    if isinstance(value, bool):
        return value
    words = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(
        ("false", "no", "off", "0"), False
    )
    if str(value).lower() not in words:
        raise ValueError("must be true or false")
    return words[str(value).lower()]


def number(low: int, high: int) -> Callable[[Any], int]:
    """A whole number from `low` to `high`."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError("must be a whole number")
        try:
            found = int(value)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if not low <= found <= high:
            raise ValueError(f"must be between {low} and {high}")
        return found

    return parse


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of these words."""

    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return str(value)

    return parse


def path(value: Any) -> Path:
    """An absolute path: relative ones would depend on the agent's working directory."""
    found = Path(text(value))
    if not found.is_absolute() or "\0" in str(found):
        raise ValueError("must be an absolute path")
    return found


def optional_path(value: Any) -> Path | None:
    """An absolute path; None when empty."""
    return path(value) if value not in ("", None) else None


def optional_address(value: Any) -> str | None:
    """An IPv4 or IPv6 address, canonical; None when empty."""
    if value in ("", None):
        return None
    return str(ipaddress.ip_address(text(value)))


def optional_listener(value: Any) -> str:
    """An address and a port, `127.0.0.1:7958` or `[::1]:7958`, canonical; empty: none."""
    if value in ("", None):
        return ""
    host, _, port = text(value).rpartition(":")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    shown = f"[{address}]" if address.version == 6 else str(address)
    if host.startswith("[") != (address.version == 6) or not port.isascii() or not port.isdecimal():
        raise ValueError("must be ADDRESS:PORT, with an IPv6 address in brackets")
    return f"{shown}:{number(1, 65535)(port)}"


def name(value: Any) -> str:
    """One DNS label."""
    if not is_name(text(value)):
        raise ValueError("must be one lower-case DNS label (a-z, 0-9, - and _, at most 63)")
    return str(value)


def optional_name(value: Any) -> str:
    """One DNS label, or empty."""
    return name(value) if value != "" else ""


def domain(value: Any) -> str | None:
    """A domain name without a final dot; None when empty."""
    if value in ("", None):
        return None
    found = text(value).rstrip(".")
    if len(found) > 200 or not all(is_name(label) for label in found.split(".")):
        raise ValueError("must be a lower-case domain name")
    if found == "internal":
        raise ValueError("must not be .internal itself: clouds keep names there")
    return found


def pools(value: Any) -> tuple[str, ...]:
    """IPv4 ranges, each large enough for a network."""
    found = texts(value)
    for pool in found:
        network = ipaddress.ip_network(pool)
        if network.version == 4 and network.prefixlen > 20:
            raise ValueError(f"{pool} is smaller than the /20 that a network takes")
        if network.version == 6:
            raise ValueError(f"{pool}: IPv6 subnets come from the cluster's own ULA prefix")
    return found


def seeds(value: Any) -> tuple[str, ...]:
    """Hosts, each with or without a port."""
    found = texts(value)
    for seed in found:
        parse_seed(seed)
    return found


def parse_seed(text: str) -> tuple[str, int | None]:
    """Parse '192.0.2.1', '192.0.2.1:7956', 'h1.example.net:7956' or '[2001:db8::1]:7956' to (host, port or None).

    Raises ValueError with the reason.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [ADDRESS]:PORT")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif any(c.isspace() for c in host) or not all(
        0 < len(label) <= _MAX_LABEL for label in host.removesuffix(".").split(".")
    ):
        raise ValueError(f"{text!r} is not a host")
    return host, number(1, 65535)(port) if port else None
