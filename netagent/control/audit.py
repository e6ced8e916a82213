"""What requests change becomes an event, with its author: none can be forgotten, because each request comes by here.

A use-case that logs an event of its own says it better than the request's words do; only where none was noted, the
request is. A request that asks again for what is there already changes nothing and is not noted. Of what failed, that
is noted which a rule or a fault forbids; who mistypes a name learns it from the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from netagent.checks.spec import discreet_text
from netagent.errors import FailedError, ForbiddenError, NetagentError, RefusedError
from netagent.events.channel import counting, event
from netagent.events.kinds import EventKind
from netagent.interface.command import Command
from netagent.interface.role import Role
from netagent.log import Limited
from netagent.model.author import AuthorKind, current_author

_KINDS: Final[Mapping[str, EventKind]] = {
    "service": EventKind.SERVICE,
    "name": EventKind.SERVICE,
    "network": EventKind.NETWORK,
    "drain": EventKind.DRAIN,
    "undrain": EventKind.DRAIN,
    "join": EventKind.MEMBER,
    "leave": EventKind.MEMBER,
}
"""By the first word of the command."""

_log = logging.getLogger("netagent.control")
_limited = Limited(_log)


async def audited(request: Command[Any], handler: Callable[[Any], Awaitable[Any]]) -> Any:
    """Answer a request, and note what it changed or why it was refused."""
    declared = type(request).declaration
    if declared.role is Role.READ or declared.verb == "GET":
        return await handler(request)
    with counting() as noted:
        try:
            answer = await handler(request)
        except ForbiddenError:
            raise  # which `telling_forbidden` notes
        except (RefusedError, FailedError) as error:
            refused = event(EventKind.REFUSAL, subject_of(request) or error.thing)
            said = f"refused `{in_words(request)}`: {error.message}"
            if current_author().kind is AuthorKind.TOKEN:
                _note_seldom(declared.command, said, refused)
            else:
                _log.info("%s", said, extra=refused)
            raise
        except NetagentError:
            raise
        except Exception as error:
            failed = event(EventKind.REFUSAL, subject_of(request))
            _log.warning("`%s` failed: %s", in_words(request), type(error).__name__, extra=failed)
            raise
        is_repeat = declared.creates and answer.get("created", True) is False
        if not is_repeat and not noted():
            kind = _KINDS.get(declared.command.partition(" ")[0], EventKind.REQUEST)
            _log.info("%s", in_words(request), extra=event(kind, subject_of(request)))
    return answer


@contextmanager
def telling_forbidden(command: type[Command[Any]]) -> Iterator[None]:
    """Note that a request asks for more than its role allows, or than its token's networks; once a minute."""
    try:
        yield
    except ForbiddenError as error:
        words = command.declaration.command
        _note_seldom(words, f"refused `{words}`: {error.message}", event(EventKind.REFUSAL, words))
        raise


def _note_seldom(command: str, said: str, extra: Mapping[str, object]) -> None:
    """Note it once a minute for each asker and command: who may only read, or came with a token, could otherwise push
    all else out of the events, and fill the disk with log."""
    author = current_author()
    _limited.warning(f"{author.kind} {author.uid} {author.name} {command}", said, extra)


def subject_of(request: Command[Any]) -> str:
    """Return the first thing that the request names."""
    return next((str(value) for one, value in _typed(request) if not one), "")


def in_words(request: Command[Any]) -> str:
    """Return the request as one would type it, without what is no plain word. What is not typed, like the token of
    `join`, is never in it."""
    words = [type(request).declaration.command]
    for option, value in _typed(request):
        words += [option] if option else []
        words += [] if value is True else [str(value)]
    return " ".join(words)


def _typed(request: Command[Any]) -> list[tuple[str, object]]:
    """Return (option, value) of each field that users type and that was given; the option of a positional one is
    empty."""
    given = vars(request)
    found: list[tuple[str, object]] = []
    for one in type(request).arguments():
        value = given.get(one.attribute)
        values = value if isinstance(value, list) else [value]
        if one.attribute == "checks":
            # Who may read events may not read the password in a check's command.
            values = [discreet_text(item) if isinstance(item, str) else item for item in values]
        is_plain = all(isinstance(item, str | int | float) and item is not False for item in values)
        if one.is_typed and one.is_sent and values and is_plain:
            found += [(one.words[-1] if one.words else "", item) for item in values]
    return sorted(found, key=lambda item: bool(item[0]))
