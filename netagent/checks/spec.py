"""How a check is written, on the command line, in a label and in the API.

    http:8080/healthz interval=2s timeout=1s fall=3 rise=2 grace=30s
    tcp:6379
    exec:/bin/ready interval=10s
    exec:"sh -c 'test -f /run/ready'"

The first word says what is asked, the others how often and how many answers count, in any order. Words are split as
by a shell, so a command with arguments is quoted. A check names no host: it asks the container that has it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Final

from netagent.errors import InputError
from netagent.model.check import MAX_CHECKS, Check, ExecCheck, HttpCheck, Subject, TcpCheck
from netagent.model.number import whole_number

MAX_CHARS: Final = 512
"""Most characters of one check."""
MIN_INTERVAL_S: Final = 1.0
MAX_INTERVAL_S: Final = 3600.0
MIN_TIMEOUT_S: Final = 0.1
MAX_TIMEOUT_S: Final = 60.0
MAX_GRACE_S: Final = 3600.0
MAX_COUNT: Final = 20
"""Most failures or successes in a row that a check may ask for."""

INTERVAL_S: Final = 2.0
EXEC_INTERVAL_S: Final = 10.0
"""Default for commands: their runtime starts a process for each."""
TIMEOUT_S: Final = 1.0
EXEC_TIMEOUT_S: Final = 5.0
FALL: Final = 3
RISE: Final = 2
GRACE_S: Final = 30.0

_FORMS: Final = "write http:PORT/PATH, https:PORT/PATH, tcp:PORT or exec:COMMAND"
_KINDS: Final = ("http", "https", "tcp", "exec")
_OPTIONS: Final = ("interval", "timeout", "fall", "rise", "grace")
_DURATION: Final = re.compile(r"([0-9]{1,7})(ms|s|m|h)?")
_UNITS_MS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_PATH: Final = re.compile(r"/[!-\"$-~]*")


def parse_checks_untrusted(texts: Iterable[str]) -> tuple[Check, ...]:
    """Parse the checks of one endpoint; the same one twice counts once. Raises InputError."""
    found = tuple(dict.fromkeys(map(parse_check_untrusted, texts)))
    if len(found) > MAX_CHECKS:
        text = f"an endpoint cannot have {len(found)} checks"
        raise InputError(text, thing="checks", hint=f"give it at most {MAX_CHECKS}")
    return found


def parse_check_untrusted(text: str) -> Check:
    """Parse one check. Raises InputError, which names the word at fault."""
    if len(text) > MAX_CHARS or not text.isprintable():
        hint = f"write at most {MAX_CHARS} printable characters"
        raise InputError(f"{text[:40]!r} is not the text of a check", thing=text[:40], hint=hint)
    try:
        words = shlex.split(text)
    except ValueError:
        hint = "close the quotation mark, or write it without quotes"
        raise InputError(f"a quotation mark in {text[:80]!r} is not closed", thing=text, hint=hint) from None
    if not words:
        raise InputError("a check is empty", thing="check", hint=_FORMS)
    subject, is_exec = _subject(words[0]), words[0].startswith("exec:")
    options = _options(words[1:])
    return Check(
        subject=subject,
        interval_s=_duration(
            options, "interval", EXEC_INTERVAL_S if is_exec else INTERVAL_S, MIN_INTERVAL_S, MAX_INTERVAL_S
        ),
        timeout_s=_duration(
            options, "timeout", EXEC_TIMEOUT_S if is_exec else TIMEOUT_S, MIN_TIMEOUT_S, MAX_TIMEOUT_S
        ),
        fall=_count(options, "fall", FALL),
        rise=_count(options, "rise", RISE),
        grace_s=_duration(options, "grace", GRACE_S, 0.0, MAX_GRACE_S),
    )


def check_text(check: Check) -> str:
    """Write a check as it is parsed, without what is the default."""
    is_exec = isinstance(check.subject, ExecCheck)
    options = (
        ("interval", duration_text(check.interval_s), EXEC_INTERVAL_S if is_exec else INTERVAL_S),
        ("timeout", duration_text(check.timeout_s), EXEC_TIMEOUT_S if is_exec else TIMEOUT_S),
        ("fall", str(check.fall), FALL),
        ("rise", str(check.rise), RISE),
        ("grace", duration_text(check.grace_s), GRACE_S),
    )
    given = [
        f"{option}={text}"
        for option, text, usual in options
        if text != (str(usual) if isinstance(usual, int) else duration_text(usual))
    ]
    return " ".join([shlex.quote(subject_text(check.subject)), *given])


def discreet_text(text: str) -> str:
    """Return a check, as it is written, without what may be a secret: the words of a command, a query."""
    kind, colon, rest = text.lstrip("'\"").partition(":")
    if not colon or kind not in _KINDS:
        return "…"
    if kind == "exec":
        return "exec:…"
    return text.partition("?")[0] + "?…" if "?" in rest else text


def subject_text(subject: Subject) -> str:
    """Write what a check asks, as one word."""
    match subject:
        case HttpCheck(port, path, is_tls):
            return f"{'https' if is_tls else 'http'}:{port}{path}"
        case TcpCheck(port):
            return f"tcp:{port}"
        case ExecCheck(command):
            return f"exec:{shlex.join(command)}"


def duration_text(seconds: float) -> str:
    """Write a time in the largest unit that shows it whole."""
    ms = round(seconds * 1000)
    unit, size_ms = next((one for one in _UNITS_MS.items() if ms and not ms % one[1]), ("s", 1000))
    return f"{ms // size_ms}{unit}"


def _subject(word: str) -> Subject:
    kind, colon, rest = word.partition(":")
    if kind not in _KINDS or not colon:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f"did you mean {near[0]}:{rest}?" if near and colon and rest else _FORMS
        raise InputError(f"{word[:80]!r} does not say what to check", thing=word[:80], hint=hint)
    match kind:
        case "exec":
            return ExecCheck(_command(word, rest))
        case "tcp":
            return TcpCheck(_port(word, rest, "tcp:6379"))
        case _:
            return _http(word, kind, rest)


def _http(word: str, kind: str, rest: str) -> HttpCheck:
    if rest.startswith("//"):
        hint = f"write {kind}:PORT/PATH"
        raise InputError(
            f"{word[:80]!r} names a host, but a check asks its own container", thing=word, hint=hint
        )
    port, slash, path = rest.partition("/")
    if not _PATH.fullmatch(f"/{path}"):
        hint = "write other characters than ASCII, and blanks, as %20"
        raise InputError(f"the path in {word[:80]!r} is not that of a URL", thing=word[:80], hint=hint)
    return HttpCheck(_port(word, port, f"{kind}:8080/healthz"), f"{slash or '/'}{path}", kind == "https")


def _port(word: str, text: str, example: str) -> int:
    port = whole_number(text, 1, 65535)
    if port is None:
        hint = f"write it as in {example}, with a port from 1 to 65535"
        raise InputError(f"{word[:80]!r} has no port", thing=word[:80], hint=hint)
    return port


def _command(word: str, text: str) -> tuple[str, ...]:
    try:
        command = tuple(shlex.split(text))
    except ValueError:
        command = ()
    if not command or not command[0]:
        hint = "write exec:/bin/ready, or in quotes exec:'/bin/ready --fast'"
        raise InputError(f"{word[:80]!r} has no command to run", thing=word[:80], hint=hint)
    return command


def _options(words: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        option, equals, value = word.partition("=")
        if option not in _OPTIONS or not equals:
            near = difflib.get_close_matches(option, _OPTIONS, n=1)
            hint = f"did you mean {near[0]}={value or '…'}?" if near else f"known are {', '.join(_OPTIONS)}"
            raise InputError(f"a check has no option {word[:80]!r}", thing=word[:80], hint=hint)
        if option in found:
            raise InputError(f"a check has {option} twice", thing=word[:80], hint="give it once")
        found[option] = value
    return found


def _duration(options: dict[str, str], option: str, usual_s: float, low_s: float, high_s: float) -> float:
    if option not in options:
        return usual_s
    match = _DURATION.fullmatch(options[option])
    seconds = int(match[1]) * _UNITS_MS[match[2] or "s"] / 1000 if match else -1.0
    if not low_s <= seconds <= high_s:
        word = f"{option}={options[option][:40]}"
        hint = f"write a time from {duration_text(low_s)} to {duration_text(high_s)}"
        raise InputError(f"a check cannot have {word}", thing=word, hint=hint)
    return seconds


def _count(options: dict[str, str], option: str, usual: int) -> int:
    if option not in options:
        return usual
    count = whole_number(options[option], 1, MAX_COUNT)
    if count is None:
        word = f"{option}={options[option][:40]}"
        raise InputError(
            f"a check cannot have {word}", thing=word, hint=f"write a number from 1 to {MAX_COUNT}"
        )
    return count
