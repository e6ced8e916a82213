"""What code that an attacker runs in the confined part of the resolver process can't do, tried in a real process."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import trio
from fakes.resolver_process import Container, agent, serve

from netagent.resolver.system.confinement import USER_ID

pytestmark = pytest.mark.kernel

PROGRAM = """
import ctypes, json, mmap, os, socket, sys, threading
from pathlib import Path
from netagent.resolver.system import confinement

def connect(address, family=socket.AF_INET):
    with socket.socket(family) as one:
        one.connect(address)

def call(name, *arguments):
    number = libseccomp.seccomp_syscall_resolve_name(name.encode())
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

place, port, layers = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
libseccomp = ctypes.CDLL("libseccomp.so.2")
agent = os.getpid()
outcome_in, outcome_out = os.pipe()
if os.fork():
    os.close(outcome_out)
    with open(outcome_in) as file:
        print(file.read())
    os.wait()
    sys.exit()
netns = os.open("/proc/self/ns/net", os.O_RDONLY)
api = socket.socket(socket.AF_UNIX)
tries = {
    "read a secret": lambda: open("/etc/shadow"),
    "read": lambda: open("/etc/passwd"),
    "write": lambda: open(place / "new", "w"),
    "list": lambda: os.listdir("/"),
    "remove": lambda: os.unlink(place / "here"),
    "signal the agent": lambda: os.kill(agent, 0),
    "ask the agent": lambda: api.connect(str(place / "api.sock")),
    "reach a service": lambda: connect(("127.0.0.1", port)),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "become root": lambda: os.setuid(0),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "run a program": lambda: call("execve", b"/bin/true", None, None),
}
by_filter = {
    "start a process": os.fork,
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "local socket": lambda: socket.socket(socket.AF_UNIX),
    "enter a namespace": lambda: os.setns(netns),
    "make a namespace": lambda: os.unshare(os.CLONE_NEWUSER),
    "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "anonymous file": lambda: os.memfd_create("x"),
    "ptrace": lambda: call("ptrace", 16, agent, 0, 0),
    "others' memory": lambda: call("process_vm_readv", agent, 0, 0, 0, 0, 0),
    "mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "chroot": lambda: call("chroot", b"/"),
    "bpf": lambda: call("bpf", 0, None, 0),
    "keys": lambda: call("keyctl", 0, -3, 0),
    "io_uring": lambda: call("io_uring_setup", 1, None),
    "user faults": lambda: call("userfaultfd", 1),
}
if layers == "all":
    tries |= by_filter
else:
    def is_missing(library):
        raise OSError(2, "libseccomp.so.2 is missing")
    confinement._filter_system_calls = is_missing
found = {"problems": confinement.confine(agent)}
for name, attempt in tries.items():
    try:
        attempt()
    except OSError as error:
        found[name] = error.errno
    else:
        found[name] = 0
# What the resolver does:
thread = threading.Thread(target=lambda: found.__setitem__("thread", "ran"))
thread.start()
thread.join()
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
    found["udp"] = one.sendto(b"x", ("::1", port))
with socket.socket() as one:
    found["port 53"] = one.connect_ex(("127.0.0.1", 53))
os.write(outcome_out, json.dumps(found).encode())
os._exit(0)
"""


@pytest.mark.parametrize("layers", ["all", "without filter"])
def test_everything_else_is_refused(tmp_path: Path, layers: str) -> None:
    """Without the filter of system calls, the user and Landlock still refuse what they can refuse."""
    tmp_path.chmod(0o777)
    (tmp_path / "here").touch()
    here = tmp_path
    while here != Path(tempfile.gettempdir()):  # so that nothing but the confinement is in the way
        here.chmod(0o777)
        here = here.parent
    with socket.socket(socket.AF_UNIX) as api, socket.create_server(("127.0.0.1", 0)) as service:
        api.bind(str(tmp_path / "api.sock"))
        (tmp_path / "api.sock").chmod(0o660)
        api.listen()
        port = str(service.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), port, layers],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    found = json.loads(done.stdout)
    lacks = "the resolver has more rights than it needs: system calls are not filtered: libseccomp.so.2 is missing"
    assert found.pop("problems") == ({} if layers == "all" else {"system_calls": lacks})
    assert (found.pop("thread"), found.pop("udp")) == ("ran", 1)
    assert found.pop("port 53") in {0, errno.ECONNREFUSED}
    assert len(found) == (28 if layers == "all" else 13)
    assert {name: code for name, code in found.items() if code not in {errno.EPERM, errno.EACCES}} == {}
    assert (tmp_path / "here").exists()


def test_the_running_process_has_no_right(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container)
            process_id = (await one.statistics())["process_id"]
            assert process_id != one.status()["process_id"], "another one than the broker"
            text = await trio.Path(f"/proc/{process_id}/status").read_text()
            said = dict(line.split(":\t", 1) for line in text.splitlines())
            sets = {name: int(said[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")}
            assert set(sets.values()) == {0}
            assert said["Uid"].split() == said["Gid"].split() == [str(USER_ID)] * 4
            assert (said["Groups"].strip(), said["NoNewPrivs"], said["Seccomp"]) == ("", "1", "2")
            files = [str(one.readlink()) for one in Path(f"/proc/{process_id}/fd").iterdir()]  # noqa: ASYNC240
            assert [name for name in files if name.startswith("/") and name != os.devnull] == []
            text = await trio.Path(run_dir / "resolver.log").read_text()
            assert "more rights" not in text
            assert "answers, process" in text, "its lines come to the file by the broker"

    trio.run(main)
