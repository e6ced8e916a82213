"""Which requests for the page are answered at all, before a key is looked at.

A browser on the operator's machine runs programs of strangers: any site may send requests to 127.0.0.1, or have its
own name resolve to it (DNS rebinding). So the page answers only to the names of loopback, and to no other origin.
Off loopback it is answered over TLS only, where a stranger's name fits no certificate of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from netagent.model.address.loopback import is_loopback, is_name_of_loopback

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of each answer. The page loads nothing from elsewhere, runs no script but its own files, and is in no frame."""

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?")


def refusal(local_address: str, host: str, origin: str, site: str, *, scheme: str = "http") -> str:
    """Return why a request is not answered, and what to do; "" if it is. `local_address`: the one that it was sent
    to; the others are its headers `Host`, `Origin` and `Sec-Fetch-Site`."""
    is_safe = scheme == "https"
    if not is_safe and not is_loopback(local_address):
        return (
            "the page is served elsewhere only by https: open a tunnel with `ssh -L 7958:127.0.0.1:7958 HOST`, "
            "and type `netagent dashboard` there"
        )
    name = _HOST.fullmatch(host)
    if name is None or not (is_safe or is_name_of_loopback(host)):
        return "the page is served only as localhost or 127.0.0.1: open the address that `netagent dashboard` prints"
    if origin not in {"", f"{scheme}://{host}"} or site not in {"", "same-origin", "none"}:
        return "the page answers no requests of other sites"
    return ""
