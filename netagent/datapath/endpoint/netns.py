"""Run code inside another network namespace without the event loop's thread ever entering it.

`setns` changes the calling thread. A thread that has been in a foreign namespace must not be used for anything else,
so each call gets its own thread, which ends with the call; no thread of a pool is used, and the process never forks
(a fork of a threaded process is slow and may deadlock). Sockets opened inside belong to that namespace for good and
are used from the event loop afterwards.

The resolver process's broker differs: it has one thread and makes a socket in a sandbox for every query that is
forwarded there, so `call_in_netns_of` enters and leaves the namespace without yielding in between.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from netagent.datapath.endpoint.dns_redirect import open_port_redirect
from netagent.errors import RefusedError
from netagent.model.sandbox import Netns

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # <linux/nsfs.h>: which CLONE_ flag made this namespace
_SIOCGSKNS = 0x894C  # <linux/sockios.h>: a descriptor of the namespace that a socket is in
_SO_NETNS_COOKIE = 71  # <asm-generic/socket.h>, since Linux 5.14
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

RESOLVER_ADDRESS = ("127.0.0.11", 53)
"""The server in containers' resolv.conf; Docker's own choice, so that existing configurations keep working."""
_REDIRECTED_PORTS = range(61053, 61117)
"""Above the kernel's default range for clients (32768 to 60999), where hardly any program listens."""
_RESOLVER_BACKLOG = 128

_libc = ctypes.CDLL(None, use_errno=True)


def open_netns(path: str) -> int:
    """Open the network namespace at `path`; the caller closes the file descriptor.

    RefusedError `namespace-gone` when nothing exists at `path`, `not-a-namespace` when it is something else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        gone = error.errno in {errno.ENOENT, errno.ESRCH, errno.ENOTDIR}
        raise RefusedError(
            f"no network namespace at {path}"
            if gone
            else f"cannot open {path}: {os.strerror(error.errno or 0)}",
            code="namespace-gone" if gone else "not-a-namespace",
            thing=path,
            hint="the container has stopped, or does not run on this host" if gone else "",
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
    """Return (device, inode): equal for two descriptors exactly when they mean one namespace, within one boot."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def netns_cookie(sock: socket.socket) -> int | None:
    """Return the cookie of the namespace that a socket is in, which no other one has in the same boot; None if the
    kernel can't tell."""
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
    except OSError:
        return None


@contextmanager
def opened_netns(path: str) -> Iterator[int]:
    """Open the namespace at a path for the length of a block."""
    fd = open_netns(path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def reopened_netns(netns: Netns | None) -> Iterator[int]:
    """Open the namespace that an endpoint was attached to, for the length of a block. RefusedError `namespace-gone`
    when it is in none, or when another one is at the path by now."""
    if netns is None:
        raise RefusedError("it is in no network namespace", code="namespace-gone")
    with opened_netns(netns.path) as fd:
        if netns_identity(fd) != netns.identity:
            raise RefusedError(
                f"the network namespace at {netns.path} was replaced by another one",
                code="namespace-gone",
                thing=netns.path,
                hint="the container was restarted; attach it again",
            )
        yield fd


async def run_in_netns(netns_fd: int, fn: Callable[[], T]) -> T:
    """Call `fn` inside the namespace and return its result, or raise its exception.

    `fn` must be quick and must not block on the network: it is never cancelled half way, so that no socket it opened
    is lost. OSError when the namespace can't be entered, or this host has no thread left.
    """

    def visit() -> T:
        _enter(netns_fd)
        return fn()

    return await _run_in_own_thread(visit)


async def run_in_each_netns(
    visits: Iterable[tuple[Netns | None, Callable[[], T]]],
    then: Callable[[list[T | RefusedError | OSError]], object] | None = None,
) -> list[T | RefusedError | OSError]:
    """Call each function inside the namespace of an endpoint, or with None in this host's own, one after the other in
    one thread; return what each returned, or why it could not. As `run_in_netns`, at a fraction of the cost for each.

    `then` gets this list in the same thread, in any namespace; it may wait for a moment.
    """
    wanted = list(visits)

    def visit_all() -> list[T | RefusedError | OSError]:
        found: dict[int, T | RefusedError | OSError] = {}
        # The thread stays in the namespace that it entered last, so this host's own comes first.
        for number in sorted(range(len(wanted)), key=lambda one: wanted[one][0] is not None):
            found[number] = _visit(*wanted[number])
        answers = [found[number] for number in range(len(wanted))]
        if then is not None:
            then(answers)
        return answers

    try:
        return await _run_in_own_thread(visit_all)
    except OSError as error:  # no thread
        return [error] * len(wanted)


def _visit(netns: Netns | None, fn: Callable[[], T]) -> T | RefusedError | OSError:
    # What `reopened_netns` does, without its sentences: a host with a thousand checks visits 500 per second.
    try:
        if netns is None:
            return fn()
        fd = os.open(netns.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if netns_identity(fd) != netns.identity:
                return RefusedError(f"another namespace is at {netns.path}", code="namespace-gone")
            _enter(fd)  # EINVAL if it is none
        finally:
            os.close(fd)
        return fn()
    except (RefusedError, OSError) as error:
        return error


async def _run_in_own_thread(fn: Callable[[], T]) -> T:
    """Call `fn` in a thread that ends with it."""
    outcome: list[T] = []
    failure: list[BaseException] = []
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def run() -> None:
        try:
            outcome.append(fn())
        except BaseException as error:
            failure.append(error)
        finally:
            token.run_sync_soon(done.set)

    # Not `threading.Thread`: its start() blocks the caller until the thread runs, for milliseconds on a busy host.
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:  # no thread can be had: what the system call said is lost
        raise OSError(errno.EAGAIN, str(error)) from None
    with trio.CancelScope(shield=True):
        await done.wait()
    if failure:
        raise failure[0]
    return outcome[0]


def call_in_netns_of(sock: socket.socket, fn: Callable[[], T]) -> T:
    """Call `fn` in the namespace that `sock` belongs to, in the calling thread, and return its result.

    `fn` must not wait for anything. OSError when the namespace can't be entered. If the thread can't return to its
    own namespace, the process ends, because the thread is no longer usable.
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
    """Return the kernel's random id of this boot: a namespace's identity means nothing in another boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def own_netns() -> Netns:
    """Return the network namespace of this process."""
    status = Path("/proc/thread-self/ns/net").stat()
    return Netns("/proc/self/ns/net", (status.st_dev, status.st_ino), boot_id())


async def make_resolver_sockets(netns_fd: int) -> tuple[socket.socket, socket.socket, socket.socket]:
    """Return (UDP, listening TCP, redirect) sockets inside the namespace, non-blocking; brings its `lo` up.

    The first two are at 127.0.0.11 and a high port. The third owns the table that redirects 127.0.0.11 port 53 there,
    for as long as a copy of it is open (netagent.datapath.endpoint.dns_redirect). OSError when nf_tables refuses;
    then no socket is left open.
    """
    return await run_in_netns(netns_fd, _make_redirected_sockets)


async def bind_resolver_sockets(netns_fd: int) -> tuple[socket.socket, socket.socket]:
    """Return (UDP, listening TCP) as above, but at port 53 itself: for kernels where no redirect is possible.

    OSError (EADDRINUSE) when another program in the namespace uses the port.
    """
    return await run_in_netns(netns_fd, bound_resolver_sockets)


def bound_resolver_sockets() -> tuple[socket.socket, socket.socket]:
    """Open the same sockets in the calling thread's namespace."""
    return _bind_resolver_sockets(RESOLVER_ADDRESS)


def _make_redirected_sockets() -> tuple[socket.socket, socket.socket, socket.socket]:
    for port in _REDIRECTED_PORTS:
        try:
            udp, tcp = _bind_resolver_sockets((RESOLVER_ADDRESS[0], port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port != _REDIRECTED_PORTS[-1]:
                continue
            raise
        try:
            # Last: from here on queries arrive, and the sockets queue them.
            return udp, tcp, open_port_redirect(port)
        except BaseException:
            udp.close()
            tcp.close()
            raise
    raise AssertionError("unreachable")


def _bind_resolver_sockets(address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    with ExitStack() as opened:
        udp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        tcp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        bring_loopback_up(udp)
        udp.bind(address)
        # After a restart of the resolver its old connections may linger in TIME_WAIT.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(address)
        tcp.listen(_RESOLVER_BACKLOG)
        opened.pop_all()
    return udp, tcp


def bring_loopback_up(sock: socket.socket) -> None:
    """Set `lo` up (netdevice(7)): in a new namespace there is no 127.0.0.0/8 to bind to before."""
    request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
    (flags,) = struct.unpack_from("h", request, 16)
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
