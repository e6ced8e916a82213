"""netdns's errors: who erred, and whether state changed."""

from __future__ import annotations


class DnsError(Exception):
    """Base of all that netdns raises."""


class FormatError(DnsError):
    """The peer erred: bytes that are no DNS message. Raised by every `*_untrusted` parser, and nothing else comes
    out of them. State is unchanged."""


class UsageError(DnsError, ValueError):
    """The caller erred: a name that cannot be written down, a client that already listens. State is unchanged."""
