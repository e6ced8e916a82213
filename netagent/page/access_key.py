"""Access keys: a user of the agent's socket may open the page with one, for some hours.

`netagent dashboard` prints an address that contains a key. The browser keeps it and sends it with each request. A
key is its time of expiry and a code of that time under a secret of this host's identity, so the agent keeps none:
they outlive its restart, need no bound, and end when the host leaves its cluster or gets another identity.

A cookie was rejected: browsers send cookies to every port of a host name, so any local account could read it by a
server of its own on loopback, and to requests that other sites cause.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

LIFE_S: Final = 12 * 3600
"""One day of work."""
MAX_KEY_CHARS: Final = 64

_FORM: Final = re.compile(r"([0-9a-f]{1,12})-([0-9a-f]{32})")


class AccessKeys:
    """Makes keys, and tells which are valid. Times are seconds of the wall clock: a key outlives this process."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, now_s: int) -> tuple[str, int]:
        """Return a key, and when it expires."""
        expires_s = now_s + LIFE_S
        return f"{expires_s:x}-{self._code(expires_s)}", expires_s

    def expiry_untrusted(self, key: str, now_s: int) -> int | None:
        """Return when the key expires; None if it is not valid."""
        found = _FORM.fullmatch(key[: MAX_KEY_CHARS + 1])
        if found is None:
            return None
        expires_s = int(found[1], 16)
        # A key of a clock that was set back must not live for years.
        if not now_s < expires_s <= now_s + 2 * LIFE_S:
            return None
        return expires_s if hmac.compare_digest(found[2], self._code(expires_s)) else None

    def _code(self, expires_s: int) -> str:
        return hmac.new(self._secret, b"%x" % expires_s, hashlib.sha256).hexdigest()[:32]
