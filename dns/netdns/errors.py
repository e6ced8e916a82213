"""netdns's errors: which side is at fault, and whether state changed."""

from __future__ import annotations


class DnsError(Exception):
    """Base of all errors that netdns raises."""


class FormatError(DnsError):
    """The peer is at fault: bytes that are not a DNS message. Every `*_untrusted` parser raises it, and no other
    error. State is unchanged."""


class UsageError(DnsError, ValueError):
    """The caller is at fault: a name that can't be encoded, a client that has a listener. State is unchanged."""
