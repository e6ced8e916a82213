"""The short notations of the command line (`8080:80`, `1h30m`, `http=80/tcp`), turned into the API's JSON.

These functions read only the shape (where the colon is). The agent decides whether a name is valid, so that the
command line and the API give the same answer. All raise InputError.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable

from netagent.errors import InputError
from netagent.model.number import MAX_DIGITS, whole_number
from netagent.model.port import split_alpn

_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_UNITS_S = (86400, 3600, 60, 1)
_TARGET_KINDS = ("netns", "pid", "docker", "podman", "unit", "machine")


def link_of(text: str) -> dict[str, str]:
    """`SERVICE[:ALIAS]`."""
    service, colon, alias = text.partition(":")
    if not service or (colon and not alias):
        raise InputError(f"{text!r} is not a link", thing=text, hint="write SERVICE or SERVICE:ALIAS")
    return {"service": service, "alias": alias} if alias else {"service": service}


_PORTS = "write 80/tcp, NAME=80/tcp or https=443/tcp+h2+http/1.1"


def port_of(text: str) -> dict[str, object]:
    """`[NAME=]80[/tcp][+ALPN…]`."""
    without, alpn = split_alpn(text)
    name, equals, rest = without.rpartition("=")
    number, slash, protocol = rest.partition("/")
    found = whole_number(number, 0, 10**MAX_DIGITS)  # the agent checks the range of ports
    if found is None or (equals and not name) or (slash and not protocol):
        raise InputError(f"{text[:80]!r} is not a port", thing=text[:80], hint=_PORTS)
    port: dict[str, object] = {"number": found}
    if name:
        port["name"] = name
    if protocol:
        port["protocol"] = protocol.lower()
    if alpn:
        port["alpn"] = list(alpn)
    return port


def labels_of(texts: list[str]) -> dict[str, str]:
    """`KEY=VALUE` each; refuses a key that is given twice."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InputError(f"{text!r} is not a label", thing=text, hint="write KEY=VALUE")
        if key in labels:
            raise InputError(f"the label {key!r} is given twice", thing=key, hint="give it once")
        labels[key] = value
    return labels


def duration_of(text: str) -> float:
    """Return the seconds of `90`, `90s`, `30m`, `1h`, `1h30m` or `2d`."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise InputError(f"{text!r} is not a length of time", thing=text, hint="write 90s, 30m, 1h or 2d")
    return float(sum(int(part or 0) * unit_s for part, unit_s in zip(match.groups(), _UNITS_S, strict=True)))


def since_of(text: str) -> float:
    """Return how many seconds ago a moment was: a length of time as for `duration_of`, or a time of today's clock,
    `15:50` or `15:50:10`."""
    import datetime as dt  # only here: most commands do without

    match = _CLOCK.fullmatch(text)
    try:
        hour, minute, second = (int(part or 0) for part in match.groups()) if match else (24, 0, 0)
        clock = dt.time(hour, minute, second)
    except ValueError:
        clock = None
    if clock is None:
        if _DURATION.fullmatch(text) and text:
            return duration_of(text)
        raise InputError(
            f"{text[:80]!r} is not a time",
            thing=text[:80],
            hint="write 90s, 30m, 1h or 2d, or a time of today: 15:50",
        )
    now = dt.datetime.now().astimezone()
    moment = now.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
    since_s = (now - moment).total_seconds()
    if since_s < 0:
        raise InputError(
            f"{text} is still to come today", thing=text, hint="write how long ago it was: 10h, 1d"
        )
    return since_s


def target_of(text: str, *, or_endpoint: bool = False) -> str:
    """Return the target of attach: a relative path becomes absolute. A bare name that is a network namespace raises
    an error with a hint, unless the name may mean an endpoint (`or_endpoint`)."""
    kind, colon, _ = text.partition(":")
    if colon and kind in _TARGET_KINDS:
        return text
    if "/" in text:
        return os.path.abspath(text)  # noqa: PTH100 - pathlib takes longer to import than this command to run
    if text and not or_endpoint and os.path.exists(f"/run/netns/{text}"):  # noqa: PTH110 - as above
        raise InputError(
            f"{text!r} does not say what to attach",
            thing=text,
            hint=f"did you mean netns:{text}?",
        )
    return text


def target_or_endpoint_of(text: str) -> str:
    """Return a target of attach, or the name of an endpoint."""
    return target_of(text, or_endpoint=True)


def links_of(texts: list[str]) -> list[dict[str, str]]:
    """`SERVICE[:ALIAS]` each."""
    return [link_of(text) for text in texts]


def ports_of(texts: list[str]) -> list[dict[str, object]]:
    """`[NAME=]80[/tcp][+ALPN…]` each."""
    return [port_of(text) for text in texts]


def ends_of(texts: list[str]) -> dict[str, str]:
    """`[FROM] TO[:PORT]`: without FROM the host itself."""
    if len(texts) > 2:
        raise InputError(
            "ping takes one or two arguments", thing="ping", hint="type `netagent ping [FROM] TO[:PORT]`"
        )
    start, to = ["", *texts][-2:]
    return {"from_endpoint": start, "to": to}


def filled(what: str) -> Callable[[str], str]:
    """Return a function that refuses an empty text."""

    def text_of(text: str) -> str:
        if not text.strip():
            raise InputError(f"the name of the {what} is empty", thing=what, hint="give a name")
        return text

    return text_of
