"""Doing things inside another network namespace without the event loop's thread ever entering it.

`setns` changes the thread that calls it. A thread that has been in a foreign namespace is not to be trusted with
anything else, so each call gets a thread of its own that ends with it; a pool's thread is never used, and the process
is never forked (a fork of a threaded process is slow and may deadlock). Sockets made inside belong to that namespace
for good and are used from the event loop afterwards.

The resolver process is another matter: it has one thread and needs a socket in a sandbox for every query that it
hands on there, so `call_beside` goes in and comes out again without giving way.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from netagent.datapath.endpoint.dns_redirect import open_lead
from netagent.errors import RefusedError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # <linux/nsfs.h>: which CLONE_ flag made this namespace
_SIOCGSKNS = 0x894C  # <linux/sockios.h>: a descriptor of the namespace that a socket is in
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

RESOLVER_ADDRESS = ("127.0.0.11", 53)
"""Where containers' resolv.conf points; Docker's own choice, so that configurations made for it go on working."""
_LED_PORTS = range(61053, 61117)
"""Above the kernel's default range for clients (32768 to 60999), where hardly any program listens."""
_RESOLVER_BACKLOG = 128

_libc = ctypes.CDLL(None, use_errno=True)


def open_netns(path: str) -> int:
    """A file descriptor of the network namespace at `path`; the caller closes it.

    RefusedError `namespace-gone` when there is nothing at `path`, `not-a-namespace` when it is something else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        gone = error.errno in {errno.ENOENT, errno.ESRCH, errno.ENOTDIR}
        raise RefusedError(
            f"no network namespace at {path}"
            if gone
            else f"can't open {path}: {os.strerror(error.errno or 0)}",
            code="namespace-gone" if gone else "not-a-namespace",
            thing=path,
            hint="the container has stopped, or never ran on this host" if gone else "",
        ) from error
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise RefusedError(f"{path} is not a network namespace", code="not-a-namespace", thing=path)
    return fd


def netns_identity(fd: int) -> tuple[int, int]:
    """(device, inode): equal for two descriptors exactly when they mean one namespace, within one boot."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


@contextmanager
def opened_netns(path: str, identity: tuple[int, int] | None = None) -> Iterator[int]:
    """`open_netns` for the length of a block; refused if the namespace is not the one that `identity` names."""
    fd = open_netns(path)
    try:
        if identity is not None and netns_identity(fd) != identity:
            raise RefusedError(
                f"the network namespace at {path} is not the one it was",
                code="namespace-gone",
                thing=path,
                hint="the container was restarted; attach it again",
            )
        yield fd
    finally:
        os.close(fd)


async def run_in_netns(netns_fd: int, fn: Callable[[], T]) -> T:
    """Call `fn` inside the namespace and return what it returns, or raise what it raises.

    `fn` must be quick and must not block on the network: it is never cancelled half-way, so that no socket it made is
    lost. OSError when the namespace can't be entered.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def visit() -> None:
        try:
            _enter(netns_fd)
            outcome.append(fn())
        except BaseException as error:
            failure.append(error)
        finally:
            token.run_sync_soon(done.set)

    # Not `threading.Thread`: whoever starts that stands still until it runs, for milliseconds on a busy host.
    _thread.start_new_thread(visit, ())
    with trio.CancelScope(shield=True):
        await done.wait()
    if failure:
        raise failure[0]
    return outcome[0]


def call_beside(sock: socket.socket, fn: Callable[[], T]) -> T:
    """Call `fn` in the namespace that `sock` was made in, in the calling thread, and return what it returns.

    `fn` must not wait for anything. OSError when the namespace can't be entered. A thread that can't go back is of no
    more use to anybody: then the process ends.
    """
    with ExitStack() as opened:
        there = fcntl.ioctl(sock, _SIOCGSKNS)
        opened.callback(os.close, there)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, here)
        _enter(there)
        try:
            return fn()
        finally:
            try:
                _enter(here)
            except OSError:
                os.abort()


def _enter(netns_fd: int) -> None:
    if _libc.setns(netns_fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def boot_id() -> str:
    """The kernel's random name for this boot: an identity of a namespace means nothing in another boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


async def make_resolver_sockets(netns_fd: int) -> tuple[socket.socket, socket.socket, socket.socket]:
    """(UDP, listening TCP, lead) inside the namespace, non-blocking; its `lo` is brought up for them.

    The first two are at 127.0.0.11 and a high port; the third is what 127.0.0.11 port 53 leads there by, for as long
    as a copy of it is open (netagent.datapath.endpoint.dns_redirect). OSError when nf_tables refuses; no socket is
    left open then.
    """
    return await run_in_netns(netns_fd, _make_led_sockets)


async def bind_resolver_sockets(netns_fd: int) -> tuple[socket.socket, socket.socket]:
    """(UDP, listening TCP) as above, but at port 53 itself: where nothing can be led.

    OSError (EADDRINUSE) when another program in there has the port.
    """
    return await run_in_netns(netns_fd, bound_resolver_sockets)


def bound_resolver_sockets() -> tuple[socket.socket, socket.socket]:
    """The same in the calling thread's namespace."""
    return _bind_resolver_sockets(RESOLVER_ADDRESS)


def _make_led_sockets() -> tuple[socket.socket, socket.socket, socket.socket]:
    for port in _LED_PORTS:
        try:
            udp, tcp = _bind_resolver_sockets((RESOLVER_ADDRESS[0], port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port != _LED_PORTS[-1]:
                continue
            raise
        try:
            # Last: from here on queries come, and the sockets keep them.
            return udp, tcp, open_lead(port)
        except BaseException:
            udp.close()
            tcp.close()
            raise
    raise AssertionError("unreachable")


def _bind_resolver_sockets(address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    with ExitStack() as opened:
        udp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        tcp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        _bring_loopback_up(udp)
        udp.bind(address)
        # After a restart of the resolver its old connections may linger.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(address)
        tcp.listen(_RESOLVER_BACKLOG)
        opened.pop_all()
    return udp, tcp


def _bring_loopback_up(sock: socket.socket) -> None:
    """By netdevice(7): without it there is no 127.0.0.0/8 to bind to, in a namespace that is new."""
    request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
    (flags,) = struct.unpack_from("h", request, 16)
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
