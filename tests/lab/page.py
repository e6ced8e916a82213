"""The web page of a host of the lab, opened in a browser as its operator opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.browser import WIDE, Browser
from harness.tunnel import tunnel
from lab.harness import Cluster


@contextmanager
def page_of(cluster: Cluster, host: str, window: Browser) -> Iterator[Callable[[str], None]]:
    """Open the page of a host through a tunnel; yield what opens a part of it."""
    address = str(cluster.netagent(host, "dashboard")["url"])
    namespace = cluster.lab._fabric.host_namespace(host)
    with tunnel(namespace, 7958) as port:
        window.resize(*WIDE)
        window.open(address.replace("127.0.0.1:7958", f"localhost:{port}"))
        window.wait_text("live", "mesh · from")
        assert "key=" not in window.address, "it does not stay in the address bar"
        yield lambda path: window.open(f"http://localhost:{port}/page/{path}")
        window.open("about:blank")
