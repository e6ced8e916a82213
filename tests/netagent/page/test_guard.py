"""Which browsers are answered."""

from __future__ import annotations

import pytest

from netagent.page.guard import HEADERS, refusal


@pytest.mark.parametrize(
    ("local", "host", "origin", "site"),
    [
        ("127.0.0.1", "127.0.0.1:7958", "", ""),
        ("127.0.0.1", "localhost:9000", "", "none"),  # through a tunnel, by another port
        ("::1", "[::1]:7958", "http://[::1]:7958", "same-origin"),
        ("::ffff:127.0.0.1", "LOCALHOST", "http://LOCALHOST", "same-origin"),
        ("127.0.0.1", "127.0.0.1:7958", "http://127.0.0.1:7958", "same-origin"),
    ],
)
def test_a_browser_on_the_host_is_answered(local: str, host: str, origin: str, site: str) -> None:
    assert refusal(local, host, origin, site) == ""


@pytest.mark.parametrize(
    ("local", "host", "origin", "site"),
    [
        ("192.0.2.1", "192.0.2.1:7958", "", ""),  # in clear text
        ("10.160.0.1", "127.0.0.1", "", ""),  # a container that claims to be on loopback
        ("", "127.0.0.1", "", ""),
        (
            "127.0.0.1",
            "rebound.example:7958",
            "",
            "same-origin",
        ),  # a name of a stranger that resolves to loopback
        ("127.0.0.1", "localhost.example", "", ""),
        ("127.0.0.1", "127.0.0.1.example", "", ""),
        ("127.0.0.1", "", "", ""),
        ("127.0.0.1", "127.0.0.1:7958 x", "", ""),
        ("127.0.0.1", "127.0.0.1:7958", "http://evil.example", ""),
        ("127.0.0.1", "127.0.0.1:7958", "http://127.0.0.1:8080", ""),  # another program of this host
        ("127.0.0.1", "127.0.0.1:7958", "null", ""),
        ("127.0.0.1", "127.0.0.1:7958", "", "cross-site"),
        ("127.0.0.1", "127.0.0.1:7958", "", "same-site"),
    ],
)
def test_other_names_sites_and_addresses_are_refused(local: str, host: str, origin: str, site: str) -> None:
    assert refusal(local, host, origin, site)


def test_nothing_is_loaded_from_elsewhere_and_nothing_inline() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_by_tls_it_is_answered_elsewhere_and_only_to_itself() -> None:
    there = ("192.0.2.1", "h1:7958")
    assert refusal(*there, "", "none", scheme="https") == ""
    assert refusal(*there, "https://h1:7958", "same-origin", scheme="https") == ""
    assert refusal(*there, "http://h1:7958", "", scheme="https")
    assert refusal(*there, "https://evil.example", "", scheme="https")
    assert refusal(*there, "", "cross-site", scheme="https")
