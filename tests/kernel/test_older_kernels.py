"""The tests of service addresses, flows and the kernel's WireGuard on the kernels of Debian's releases, in virtual
machines.

The kernel of the machine that runs these tests is but one; its version decides which programs the verifier accepts,
which functions and fields there are, and how sock_diag answers. Debian's kernels are downloaded with apt.
"""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.virtual_machine import MODULES, TUNNEL_MODULES, fetch_kernel, run_in_machine

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 1500.0
NEEDS_FIREWALL = (
    "test_what_no_link_allows_is_counted_as_refused",
    "test_a_container_cannot_have_refusals_counted_as_another_ones",
    "test_what_the_host_and_outsiders_open_is_counted_at_the_bridge",
)

pytestmark = [pytest.mark.kernel, pytest.mark.long, pytest.mark.timeout(2000)]

PACKAGES = (
    "_pytest", "attr", "attrs", "cffi", "cryptography", "idna", "immutables", "iniconfig", "outcome", "packaging",
    "pluggy", "py.py", "pygments", "pytest", "sniffio", "sortedcontainers", "trio",
)  # fmt: skip
OURS = ("netagent", "gossip/netgossip", "tests/harness")

CONFTEST = '''
"""In a virtual machine, whose processor is some twenty times slower."""
import pytest
import socket
from harness import namespaces as throwaway, netns_cookie, service_addresses
from netagent.datapath.endpoint.netns import netns_cookie as cookie_by_kernel
with socket.socket() as sock:
    if cookie_by_kernel(sock) is None:
        print("this kernel tells no cookies")
        service_addresses.cookie_of = netns_cookie.cookie_by_program
throwaway.COMMAND_S = service_addresses.COMMAND_S = 300.0

@pytest.fixture
def namespaces():
    with throwaway.throwaway_namespaces() as make:
        yield make

def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item.module, "PROMPT_S"):
            item.module.PROMPT_S = 10.0
'''
SETTINGS = "[pytest]\nmarkers = kernel: in a kernel\n"


@pytest.mark.parametrize("debian", ["bookworm", "trixie"])
def test_service_addresses_on_the_kernel_of(debian: str, tmp_path: Path) -> None:
    _run_there(debian, tmp_path, "test_service_addresses.py", "test_reset.py")


def test_flows_on_the_kernel_of_bookworm(tmp_path: Path) -> None:
    """Before TCX. What needs the firewall is left to other kernels: the machine has no nf_tables."""
    options = [word for name in NEEDS_FIREWALL for word in ("--deselect", f"test_flows.py::{name}")]
    _run_there("bookworm", tmp_path, "test_flows.py", options=options)


@pytest.mark.parametrize("debian", ["bookworm", "trixie"])
def test_the_tunnel_by_the_kernel_of(debian: str, tmp_path: Path) -> None:
    _run_there(
        debian,
        tmp_path,
        "kernel_tunnel.py",
        options=["kernel_tunnel.py"],  # whose name pytest does not look for
        modules=(*MODULES, *TUNNEL_MODULES),
    )


def _run_there(
    debian: str,
    tmp_path: Path,
    *files: str,
    options: Sequence[str] = (),
    modules: Sequence[str] = MODULES,
) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    (machine / "conftest.py").write_text(CONFTEST, "utf-8")
    (machine / "pytest.ini").write_text(SETTINGS, "utf-8")
    for name in files:
        shutil.copy(ROOT / "tests/kernel" / name, machine)
    site = Path(sysconfig.get_path("purelib"))
    kernel = fetch_kernel(debian, tmp_path)
    status, console = run_in_machine(
        kernel,
        tmp_path,
        folder=machine,
        contents=[
            machine,
            *(site / name for name in PACKAGES),
            *site.glob("_cffi_backend.*.so"),
            *(ROOT / name for name in OURS),
        ],
        python_path=[ROOT, ROOT / "gossip", ROOT / "tests", site],
        command=["-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *options],
        limit_s=LIMIT_S,
        modules=modules,
    )
    print(console)
    assert status == 0, f"{kernel.release}: {console[-4000:]}"
