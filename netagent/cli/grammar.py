"""The grammar of the command line, made from the declared commands.

The overview of `netagent --help` is in netagent.cli.overview. The help of each command ends with examples, because
users copy those.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from netagent.cli.overview import words_after
from netagent.cli.parser import FOLLOWING, Parser, Root, ShowVersion, command_of, common_options, meant
from netagent.errors import InputError
from netagent.interface.catalogue import COMMANDS
from netagent.interface.cluster import AgentCommand, JoinCommand
from netagent.interface.command import Argument, Command

_WORDS = {
    "network": "networks",
    "endpoint": "`netagent endpoint ls` is the same as `netagent endpoints`",
    "policy": "which links a network needs",
    "service": "services with an address of their own, published services, and services that are no containers",
    "config": "this host's configuration",
    "token": "tokens for programs that use the API of this host",
    "encrypt": "whether what containers of different hosts send each other is encrypted",
    "keys": "the key that the hosts of the cluster seal gossip and records with",
    "name": "names that you add to networks",
}
"""Words that another one follows, and what they are about."""

KEY_PREFIX = "key_"
"""Prefix of configuration keys among the parsed arguments, where `name` and others mean something else."""


def parse(argv: Sequence[str]) -> tuple[Command[Any], argparse.Namespace]:
    """Return the request, and all parsed arguments. Raises InputError; `--help` exits."""
    parsed, left = _root(frozenset(argv)).parse_known_args(argv)
    if left:
        parser: Parser = parsed.parser
        options = re.findall(r"--?[a-z][a-z-]*", parser.format_help())
        hint = _meant_by(left[0].partition("=")[0], options) if left[0].startswith("-") else ""
        kind = "option" if left[0].startswith("-") else "argument"
        raise InputError(
            f"{parser.prog} takes no {kind} {left[0]!r}",
            code="usage",
            thing=left[0],
            hint=hint or f"see `{parser.prog} --help`",
        )
    return _request(parsed.command, vars(parsed)), parsed


def _meant_by(option: str, options: Sequence[str]) -> str:
    if option not in FOLLOWING:
        return meant(option, options)
    known = [one for one in FOLLOWING if one in options and one.startswith("--")]
    return meant(known[0], known) if known else "`netagent top` follows the state of this host"


def _request(command: type[Command[Any]], typed: dict[str, Any]) -> Command[Any]:
    given: dict[str, Any] = {}
    for one in command.arguments():
        if one.attribute not in typed:
            continue
        value = typed[one.attribute]
        read = value if one.read is None else one.read(value)
        given.update(read if one.spreads else {one.attribute: read})
    return command(**given)


def whole_grammar() -> Parser:
    """Return all commands with all their arguments, for completion and manual pages."""
    return _root(None)


def _root(typed: frozenset[str] | None) -> Parser:
    """Return the grammar. Only the commands among the words `typed` get their arguments, the others are only listed:
    this takes a fifth of the time. None: all commands."""
    root = Root(prog="netagent", parents=[common_options(None)], allow_abbrev=False)
    root.add_argument("--version", action=ShowVersion, nargs=0, help=argparse.SUPPRESS)
    levels = {"": command_of(root)}
    places = [(command, command.declaration.within) for command in COMMANDS]
    places += [(c, c.declaration.also.partition(" ")[0]) for c in COMMANDS if c.declaration.also]
    for command, within in places:
        declared = command.declaration
        if within not in levels:
            levels[within] = _add_word(levels[""], within, is_typed=typed is None or within in typed)
        level = levels[within]
        if level is not None:
            names = declared.names if within == declared.within else [declared.also.partition(" ")[2]]
            _add(level, names, command, is_typed=typed is None or not typed.isdisjoint(names))
    return root


def _add_word(root: Any, word: str, *, is_typed: bool) -> Any:
    """Add a word that other words follow, and return its level; None if it is not typed and so has none."""
    after = words_after(word, COMMANDS)
    help_ = f"{_WORDS[word]}: {', '.join(after)}" if after else _WORDS[word]
    if not is_typed:
        root.add_parser(word, help=help_, is_typed=False)
        return None
    common = common_options(argparse.SUPPRESS)
    return command_of(
        root.add_parser(word, parents=[common], allow_abbrev=False, description=help_, help=help_)
    )


def _add(
    level: Any,
    names: list[str],
    command: type[Command[Any]],
    *,
    is_typed: bool,
) -> None:
    (name, *aliases), declared = names, command.declaration
    if not is_typed:
        level.add_parser(name, aliases=aliases, help=declared.brief, is_typed=False)
        return
    common = common_options(argparse.SUPPRESS, has_token_file=command is not JoinCommand)
    examples = "\n".join("  " + line for line in declared.examples.splitlines())
    parser = level.add_parser(
        name,
        aliases=aliases,
        parents=[common],
        allow_abbrev=False,
        help=declared.brief,
        description=command.description(),
        epilog=f"examples:\n{examples}" if examples else None,
    )
    group = None
    typed = [one for one in command.arguments() if one.is_typed]
    for one in sorted(typed, key=lambda one: one.is_exclusive):
        if one.is_exclusive:
            group = group or parser.add_mutually_exclusive_group()
        _add_argument(group if group and one.is_exclusive else parser, one)
    if command is AgentCommand:
        _add_keys(parser)
    parser.set_defaults(command=command, parser=parser)


def _add_argument(parser: Any, one: Argument) -> None:
    """Add an argument. If it is not given, it is absent from the result."""
    more = {"default": argparse.SUPPRESS, "help": one.help or None, **one.parsing}
    if one.metavar:
        more["metavar"] = one.metavar
    if one.words:
        parser.add_argument(*one.words, dest=one.attribute, **more)
    else:
        parser.add_argument(one.attribute, **more)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """Make a flag of every configuration key."""
    from netagent.config import KEYS

    group = parser.add_argument_group("configuration keys")
    for key in KEYS:
        told = key.default in (None, "", ()) or "default:" in key.help
        default = "" if told else f" (default: {_shown(key.default)})"
        group.add_argument(
            key.flag,
            metavar=key.metavar,
            dest=KEY_PREFIX + key.name,
            default=argparse.SUPPRESS,
            help=(key.help + default).replace("%", "%%"),
        )


def flags(parsed: argparse.Namespace) -> dict[str, str]:
    """Return the configuration keys that were given as flags."""
    given = vars(parsed).items()
    return {name.removeprefix(KEY_PREFIX): text for name, text in given if name.startswith(KEY_PREFIX)}


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    return ",".join(default) if isinstance(default, tuple) else str(default)
