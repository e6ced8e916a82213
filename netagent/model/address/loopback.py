"""Which addresses and names are this host's alone.

A browser on this host runs programs of strangers. Any site may send requests to 127.0.0.1, or have its own name lead
there (DNS rebinding), and the browser then takes the answer for that site's. So what is served on loopback is
answered only to names of loopback.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?", re.ASCII)


def is_loopback(address: str) -> bool:
    """True for an address of loopback, also as an IPv4 address in IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def is_name_of_loopback(host: str) -> bool:
    """True if a request's header `Host` names loopback."""
    found = _HOST.fullmatch(host)
    return found is not None and (found[1].lower() == "localhost" or is_loopback(found[1].strip("[]")))
