"""Which domains the labels of a network may claim: `feed.rules` of the network.

A user who may start a container in a network may put any label on it, `Host(`bank.example.com`)` as well. A rule is a
domain, `shop.example.com`, or all below one, `*.example.com`. With rules a router is refused unless each request that
it matches has a host that a rule allows. So Traefik's rule is read as the expression that it is: `A && B` is bounded
if one of both is, `A || B` if both are, `!A` never, `Host(…)` if each of its names is allowed, and anything else
(a path, a regular expression, an address) is not bounded by itself. And no name that the rules do not allow may be
anywhere in it, also negated or beside another: Traefik asks for certificates for each name that it finds in a rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MAX_FEED_RULES: Final = 64
"""Bound of domains that a network lists; beyond it: refused. A command takes as many of one option."""
MAX_FEED_RULE_CHARS: Final = 253
"""Of one of these: a domain is no longer."""
MAX_RULE_CHARS: Final = 4096
"""Bound of one rule of a router; beyond it: refused. A label has as many."""
MAX_DEPTH: Final = 32
"""Bound of parentheses and negations within each other; beyond it: refused. People write two."""

_DOMAIN = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TOKEN = re.compile(
    r"""\s*(?: (?P<sign>&&|\|\||!|\(|\)|,) | (?P<word>[A-Za-z]+) | `(?P<raw>[^`]*)` | "(?P<quoted>[^"\\]*)" )""",
    re.VERBOSE,
)
_HOSTS: Final = frozenset({"host", "hostheader", "hostsni"})

Token = tuple[str, str]


class RuleError(ValueError):
    """A rule is no expression of Traefik's."""


def is_domain(text: str) -> bool:
    """True for a domain in lower case, or `*.` and one."""
    return len(text) <= MAX_FEED_RULE_CHARS and _DOMAIN.fullmatch(text) is not None


def is_allowed(host: str, rules: Sequence[str]) -> bool:
    """True if a rule allows this host, or all hosts that `*.` and a domain mean."""
    host = host.lower().rstrip(".")
    if not is_domain(host):
        return False
    return any(host == rule or (rule.startswith("*.") and host.endswith(rule[1:])) for rule in rules)


def is_bounded_untrusted(text: str, rules: Sequence[str]) -> bool:
    """True if the rules allow each host whose requests a router's rule matches, and each that it names. Raises
    RuleError."""
    if len(text) > MAX_RULE_CHARS:
        raise RuleError(f"has more than {MAX_RULE_CHARS} characters")
    reader = _Reader(_tokens(text), rules)
    found = reader.either(0)
    if reader.next:
        raise RuleError(f"goes on after its end, with {reader.next[1][:40]!r}")
    return found and not reader.names_another


def _tokens(text: str) -> list[Token]:
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise RuleError(f"cannot be read from {text[place : place + 40]!r} on")
        kind = str(match.lastgroup)
        tokens.append(("text" if kind in ("raw", "quoted") else kind, match[kind]))
        place = match.end()
    return tokens


class _Reader:
    """Reads an expression from left to right; what it reads is True if it is bounded."""

    def __init__(self, tokens: list[Token], rules: Sequence[str]) -> None:
        self._tokens = tokens[::-1]
        self._rules = rules
        self.names_another = False
        """A host that the rules do not allow is named somewhere."""

    @property
    def next(self) -> Token | None:
        return self._tokens[-1] if self._tokens else None

    def either(self, depth: int) -> bool:
        """`A && B || C …`."""
        bounded = self._both(depth)
        while self._take("||"):
            bounded = self._both(depth) and bounded
        return bounded

    def _both(self, depth: int) -> bool:
        bounded = self._one(depth)
        while self._take("&&"):
            bounded = self._one(depth) or bounded
        return bounded

    def _one(self, depth: int) -> bool:
        if depth > MAX_DEPTH:
            raise RuleError(f"has more than {MAX_DEPTH} parentheses within each other")
        if self._take("!"):
            self._one(depth + 1)
            return False
        if self._take("("):
            bounded = self.either(depth + 1)
            self._expect(")")
            return bounded
        return self._matcher()

    def _matcher(self) -> bool:
        kind, name = self._pop()
        if kind != "word":
            raise RuleError(f"has {name[:40]!r} where a matcher begins")
        self._expect("(")
        texts = [self._text()]
        while self._take(","):
            texts.append(self._text())
        self._expect(")")
        if name.lower() not in _HOSTS:
            return False
        if not all(is_allowed(text, self._rules) for text in texts):
            self.names_another = True
        return True

    def _text(self) -> str:
        kind, text = self._pop()
        if kind != "text":
            raise RuleError(f"has {text[:40]!r} where a text in quotes is expected")
        return text

    def _take(self, sign: str) -> bool:
        if self.next != ("sign", sign):
            return False
        self._tokens.pop()
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise RuleError(f"lacks a {sign!r}")

    def _pop(self) -> Token:
        if not self._tokens:
            raise RuleError("ends too early")
        return self._tokens.pop()
