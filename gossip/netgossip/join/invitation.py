"""An invitation as text: what `invite` prints on a member and `join` reads on a newcomer."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import msgpack

from netgossip.errors import WireError
from netgossip.join.wire import addresses_of, sized, typed, unpack_untrusted
from netgossip.types import Address

VERSION = 1
TOKEN_PREFIX = "netagent-join-1."
MAX_TOKEN_CHARACTERS = 4096
ID_BYTES = 8
SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Token:
    """The invitation that `invite` prints. `secret` must not be logged."""

    cluster: str
    cluster_id: str
    addresses: tuple[Address, ...]
    """Record addresses of the inviter, best first."""
    fingerprint: bytes
    """SHA-256 of the inviter's public key."""
    invitation_id: bytes
    secret: bytes = field(repr=False)

    def render(self) -> str:
        """Return the token as one word of text."""
        body = [
            VERSION,
            self.cluster,
            bytes.fromhex(self.cluster_id),
            [list(a) for a in self.addresses],
            self.fingerprint,
            self.invitation_id,
            self.secret,
        ]
        return TOKEN_PREFIX + base64.urlsafe_b64encode(msgpack.packb(body)).decode().rstrip("=")


def parse_token_untrusted(text: str) -> Token:
    """Parse a token. Raises WireError with a sentence that says what is wrong."""
    text = text.strip()
    if not text.startswith(TOKEN_PREFIX):
        raise WireError(f"this is not an invitation: it does not begin with {TOKEN_PREFIX}")
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise WireError("this is not an invitation: it is too long")
    encoded = text[len(TOKEN_PREFIX) :]
    try:
        body = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise WireError("the invitation is damaged: copy it whole") from None
    try:
        fields = unpack_untrusted(body, "token")
        version, cluster, cluster_id, addresses, fingerprint, invitation_id, secret = fields
        token = Token(
            cluster=typed(cluster, str),
            cluster_id=sized(cluster_id, 16).hex(),
            addresses=addresses_of(addresses),
            fingerprint=sized(fingerprint, 32),
            invitation_id=sized(invitation_id, ID_BYTES),
            secret=sized(secret, SECRET_BYTES),
        )
    except (ValueError, WireError):
        raise WireError("the invitation is damaged: copy it whole") from None
    if version != VERSION:
        raise WireError(
            f"the invitation has version {version}, this agent speaks {VERSION}: upgrade the older agent"
        )
    return token
