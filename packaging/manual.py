"""The manual pages netagent(1) and netagent.toml(5), generated from the program's own tables.

Commands, options and examples come from its grammar, keys from its table of keys; so the pages always agree with
`--help`. Only what neither contains is written here. Output is roff with man(7)'s macros.

    python packaging/manual.py netagent.1
    python packaging/manual.py netagent.toml.5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence

from netagent import __version__
from netagent.cli.grammar import whole_grammar
from netagent.cli.overview import FIRST_STEPS, SUMMARY
from netagent.config import KEYS, ConfigKey

COMMON = ("-h", "-o", "--json", "--socket", "--debug")
"""Options of every command: listed once."""

EXIT_STATUS = (
    ("0", "Done."),
    ("1", "The answer is no: not found, drift found, a check failed."),
    ("2", "Wrong usage or bad input."),
    ("3", "The agent cannot be reached."),
    ("4", "Refused by a rule: address in use, network in use, not permitted."),
    ("5", "Something failed or timed out."),
)
ENVIRONMENT = (
    ("NETAGENT_SOCKET", "The agent's socket, unless --socket is given."),
    ("NETAGENT_TOKEN_FILE", "File with a token for the agent of another host, unless --token-file is given."),
    ("NETAGENT_CA_FILE", "That host's certificate authority, unless --ca-file is given."),
    ("NETAGENT_*", "Every configuration key, for the agent; see netagent.toml(5)."),
    ("NO_COLOR", "No colour, whatever its value."),
)
FILES = (
    ("/etc/netagent/netagent.toml, /etc/netagent/conf.d/*.toml", "Configuration."),
    ("/var/lib/netagent", "Identity, key ring and journal of this host."),
    ("/run/netagent/netagent.sock", "The agent's API, for root and the group netagent."),
    ("/run/netagent/netagent-ro.sock", "What of it only reads, for the group netagent-ro as well."),
)


def escaped(text: str) -> str:
    """Escape text so that roff prints it unchanged."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in lines)


def page(name: str, section: int, version: str, what: str, body: Iterable[str]) -> str:
    """Return a whole page. `what` is the line that apropos(1) shows."""
    head = f'.TH {name} {section} "" "netagent {version}" "netagent"\n.SH NAME\n{name} \\- {escaped(what)}\n'
    return head + "".join(part.rstrip("\n") + "\n" for part in body)


def commands_page(version: str) -> str:
    """Return netagent(1)."""
    return page("netagent", 1, version, "service discovery and overlay networks for containers", _commands())


def keys_page(version: str) -> str:
    """Return netagent.toml(5)."""
    return page("netagent.toml", 5, version, "configuration of the netagent agent", _keys())


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield every command once, in the grammar's order."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    if not below:
        yield parser
    for action in below:
        for child in dict.fromkeys(action.choices.values()):
            yield from leaves(child)


def _commands() -> Iterator[str]:
    root = whole_grammar()
    yield ".SH SYNOPSIS\n.B netagent\n[OPTION\\&...] COMMAND \\&..."
    yield ".SH DESCRIPTION\n" + escaped(SUMMARY)
    yield ".SH OPTIONS\nThese may stand before or after the command."
    yield from _options(a for a in root._actions if a.option_strings and a.help != argparse.SUPPRESS)  # noqa: SLF001
    yield ".SH COMMANDS"
    for command in leaves(root):
        yield from _command(command)
    yield ".SH FIRST STEPS\n" + _example(FIRST_STEPS)
    for title, rows in (("EXIT STATUS", EXIT_STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {title}"
        yield from (_item(term, text) for term, text in rows)
    yield ".SH SEE ALSO\n.BR netagent.toml (5)"


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f'.SS "{escaped(parser.prog)}"'
    yield escaped(parser.description or "")
    own = [action for action in parser._actions if not set(COMMON) & set(action.option_strings)]  # noqa: SLF001
    if any(action.dest.startswith("key_") for action in own):
        own = [action for action in own if not action.dest.startswith("key_")]
        yield ".PP\nEvery key of\n.BR netagent.toml (5)\nis an option too."
    yield from _options(own)
    if parser.epilog:
        yield _example(parser.epilog.removeprefix("examples:\n"))


def _options(actions: Iterable[argparse.Action]) -> Iterator[str]:
    for action in actions:
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        words = [f"{option} {value}".strip() for option in action.option_strings] or [value]
        yield _item(", ".join(words), action.help or "")


def _item(term: str, text: str) -> str:
    return f'.TP\n.B "{escaped(term)}"\n{escaped(text)}'


def _example(text: str) -> str:
    return ".PP\n.nf\n.RS 2\n" + escaped("\n".join(line.strip() for line in text.splitlines())) + "\n.RE\n.fi"


def _keys() -> Iterator[str]:
    yield (
        ".SH DESCRIPTION\nThe agent reads\n.I /etc/netagent/netagent.toml\nand then\n.I /etc/netagent/conf.d/*.toml\n"
        "in the order of their names; a later one overrides an earlier one. All are optional. Every key is also an\n"
        'environment variable and an option of\n.BR "netagent agent" :\n'
        "an option overrides a variable, which overrides a file. An unknown key is an error.\n"
        ".PP\nSIGHUP reloads files and variables. Keys marked so take effect then; the others need a restart."
    )
    yield ".SH KEYS"
    for key in KEYS:
        yield _item(f"{key.name} = {key.metavar}", _said(key))
    yield ".SH SEE ALSO\n.BR netagent (1)"


def _said(key: ConfigKey) -> str:
    text = key.help[0].upper() + key.help[1:] + "."
    if key.default not in (None, "", ()) and "default:" not in key.help:
        text += f" Default: {_toml(key.default)}."
    text += f" Also {key.flag} and {key.variable}."
    return text + (" Takes effect at once." if key.reloads else "")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


PAGES = {"netagent.1": commands_page, "netagent.toml.5": keys_page}


def main(arguments: Sequence[str]) -> int:
    """Print the page of that name."""
    sys.stdout.write(PAGES[arguments[0]](__version__))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
