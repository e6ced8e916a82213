"""Parsing of the command line: argparse with errors in one sentence and a suggestion of the word meant.

The commands themselves are in netagent.cli.grammar. The options of every command may stand before or after it.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from netagent import __version__
from netagent.cli.render import FORMS
from netagent.errors import InputError

_COMMAND = "COMMAND"
"""Placeholder in the help for a command."""

_MEMBERS = "`netagent members` lists the hosts"
_ENDPOINTS = "`netagent endpoints` lists the containers, `netagent network ls` the networks"
_STATUS = "`netagent status` shows this host's state, `netagent doctor` checks it"
_LOOKUP = "`netagent lookup NAME --from CONTAINER` shows the answer that a container gets"
_INSPECT = "`netagent inspect NAME` shows everything known of a thing"
_SERVICE = "the agent is a service of systemd: `systemctl status netagent`"
_LOG = "`netagent events` shows what happened, `journalctl -u netagent` the agent's log"
_METRICS = "`curl http://127.0.0.1:7958/metrics` shows what the agent counts"
_TRACE = "`netagent ping FROM TO --trace` shows each step of a packet"
_FLOWS = "`netagent flows` lists who opened connections to whom"
_EXPORT = "`netagent export` writes networks, outside services and names as a file"
_TOP = "`netagent top` follows the state of this host"
_WORDS_OF_OTHERS = {
    word: says
    for words, says in (
        ("node nodes host hosts peer peers agents member", _MEMBERS),
        ("ls list container containers", _ENDPOINTS),
        ("health info state", _STATUS),
        ("dns dig nslookup resolve", _LOOKUP),
        ("show describe get", _INSPECT),
        ("start stop restart enable disable", _SERVICE),
        ("watch monitor", _TOP),
        ("trace traceroute", _TRACE),
        ("log logs", _LOG),
        ("metric metrics", _METRICS),
        ("connections conntrack", _FLOWS),
        ("backup dump", _EXPORT),
    )
    for word in words.split()
}
"""Words that users type as they do with other tools, and what has the same purpose here."""
FOLLOWING = ("-w", "--watch", "-f", "--follow")
"""Options by which lists are followed."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formats descriptions as they are written. argparse makes a formatter also where no help is printed, and would
    import shutil for the terminal's width, which takes longer than everything else here."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, **{"width": _terminal_columns() - 2, **more})


def _terminal_columns() -> int:
    """Return the width, as shutil.get_terminal_size does."""
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (AttributeError, ValueError, OSError):  # no standard output, or it is no terminal
        return 80


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises InputError instead of exiting, and suggests the word that was probably meant."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **more})

    def error(self, message: str) -> NoReturn:
        """Raise InputError with a sentence about the wrong usage."""
        see = f"see `{self.prog} --help`"
        if unusable := re.search(r"argument (-\S+): invalid int value: (.*)", message):
            what, word = unusable.groups()
            raise InputError(f"{what} cannot be {word}", code="usage", hint="give a whole number")
        if both := re.search(r"argument (\S+): not allowed with argument (\S+)", message):
            one, other = both.groups()
            here = f"--host is the host on which you type it: there `{self.prog} --host`"
            raise InputError(
                f"{self.prog} takes {one} or {other}, not both",
                code="usage",
                thing=one,
                hint=here if "--host" in (one, other) else see,
            )
        unknown = re.search(r"argument (\S+): invalid choice: ('.*'|\".*\") \(choose from (.*)\)", message)
        if unknown is None:
            raise InputError(f"{self.prog}: {message}", code="usage", hint=see)
        what, shown, listed = unknown.groups()
        word = shown[1:-1]
        choices = [choice.strip("'") for choice in listed.split(", ")]
        takes = f"take {', '.join(choices[:-1])} or {choices[-1]}"
        if what.startswith("-"):
            text, hint = f"{what} cannot be {shown}", takes
        elif what == _COMMAND:
            # Words of other tools may look like commands of ours that do something else.
            of_others = _WORDS_OF_OTHERS.get(word, "") if self.prog == "netagent" else ""
            text, hint = f"{self.prog} has no command {shown}", of_others or meant(word, choices) or see
        else:
            text, hint = f"{self.prog} does not take {shown}", meant(word, choices) or takes
        raise InputError(text, code="usage", thing=word, hint=hint)


class Root(Parser):
    """The top level. Its help is the overview, because that of argparse is one unsorted list."""

    def format_help(self) -> str:
        """Return the overview."""
        from netagent.cli.overview import overview

        return overview()


class ShowVersion(argparse.Action):
    """`--version`: users type it first, and it needs no agent."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print this program's version and exit."""
        sys.stdout.write(f"netagent {__version__}\n")
        parser.exit()


def meant(word: str, choices: Sequence[str]) -> str:
    """Return `did you mean …?`, or `""` when no choice is similar."""
    import difflib

    near = (
        difflib.get_close_matches(word, choices, n=1)
        or [c for c in choices if word and c.startswith(word)][:1]
    )
    return f"did you mean {near[0]!r}?" if near else ""


def common_options(default: Any, *, has_token_file: bool = True) -> argparse.ArgumentParser:
    """Options of every command; `join` has a --token-file of its own, for another kind of token. Below the root their
    defaults are suppressed, or they would replace the root's."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = common.add_argument_group("options of every command")
    group.add_argument("-o", "--output", choices=FORMS, default=default, metavar="FORM", help="|".join(FORMS))
    group.add_argument(
        "--json", action="store_const", const="json", dest="output", default=default, help="short for -o json"
    )
    group.add_argument(
        "--socket",
        metavar="PATH",
        default=default,
        help="the agent to ask; another host's: https://HOST:7958",
    )
    if has_token_file:
        group.add_argument(
            "--token-file",
            metavar="FILE|-",
            dest="api_token_file",
            default=default,
            help="file with a token for that host, or - for standard input",
        )
    group.add_argument(
        "--ca-file", metavar="FILE", default=default, help="that host's /run/netagent/http-ca.crt"
    )
    group.add_argument(
        "--debug",
        action="store_const",
        const=True,
        default=default,
        help="show a traceback when something goes wrong",
    )
    return common


def command_of(parser: argparse.ArgumentParser) -> Any:
    """Return the subparsers of `parser`: one of the commands added to them is required after its own options.

    Their `add_parser` takes `is_typed=False` for a command that is only listed."""
    make: Any = _parser  # argparse calls it; its stubs ask for a class
    return parser.add_subparsers(metavar=_COMMAND, required=True, prog=parser.prog, parser_class=make)


def _parser(*, is_typed: bool = True, **more: Any) -> Parser:
    """Make a parser. All commands that are not typed share one, because a parser takes 0.1 ms to make."""
    return Parser(**more) if is_typed else _untyped()


@functools.cache
def _untyped() -> Parser:
    return Parser(add_help=False)
