"""Take every right from the part of the resolver process that parses what containers and servers send.

Four layers, each of which would do against most of what code of an attacker's would try; one that a kernel lacks, or
that a unit's restrictions forbid, leaves the others:

- **The user**: one to whom nothing on the host belongs, without groups. `USER_ID` has no entry, and needs none.
- **Capabilities**: none in any set, and no program could gain any (no new privileges).
- **System calls** (seccomp, by libseccomp): those of a program that reads and answers sockets. No file is opened, no
  program started, no namespace entered, no other process signalled or inspected; new sockets are UDP and TCP only,
  and no memory becomes executable. The others fail with EPERM, as if rights were missing: libraries know that.
- **Landlock**, where the kernel has it: no file at all, TCP to port 53 only, no port of TCP bound, no abstract socket
  and no signal of another program's.

The confined part has what it needs before that (its modules, the listener for agents), or asks the broker.

It holds for the calling thread and those that it starts: call `confine` before there is another one.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from netagent.resolver.system import capabilities
from netagent.resolver.system.broker import die_with_parent
from netagent.resolver.system.layer import Layer

USER_ID: Final = 65530
"""The user and group. Neither Debian (which ends at 64999) nor systemd (61184 to 65519) gives out 65520 to 65533."""

_DNS_PORT: Final = 53

_ALLOWED: Final = (
    # Sockets that are open, and files that others have opened
    "accept", "accept4", "bind", "close", "connect", "dup", "fcntl", "fstat", "getpeername", "getsockname",
    "getsockopt", "listen", "lseek", "read", "readv", "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg",
    "sendto", "setsockopt", "shutdown", "write", "writev",
    # Waiting
    "clock_gettime", "clock_nanosleep", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "eventfd2", "futex", "nanosleep", "poll", "ppoll", "pselect6", "restart_syscall", "sched_yield", "select",
    # Memory
    "brk", "madvise", "mremap", "munmap",
    # Threads, and what the C library and the interpreter ask for themselves
    "exit", "exit_group", "getegid", "geteuid", "getgid", "getpid", "getppid", "getrandom", "getrusage", "gettid",
    "getuid", "membarrier", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity",
    "set_robust_list", "sigaltstack", "sysinfo", "uname", "gettimeofday", "time",
)  # fmt: skip

_CLONE_THREAD: Final = 0x00010000
_TYPE_MASK: Final = 0xF
"""Of a socket's type without SOCK_NONBLOCK and SOCK_CLOEXEC."""
_FIONBIO, _FIONCLEX, _FIOCLEX, _FIONREAD, _SIOCGIFINDEX = 0x5421, 0x5450, 0x5451, 0x541B, 0x8933

_ACT_ALLOW: Final = 0x7FFF0000
_ACT_ERRNO: Final = 0x00050000
_CMP_EQ, _CMP_MASKED_EQ = 4, 7
_ATTRIBUTE_TSYNC: Final = 4

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION: Final = 1
_LANDLOCK_RULE_NET_PORT: Final = 2
_FILE_RIGHTS_BY_VERSION: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights to files a version of Landlock knows; later ones know as many as 5."""
_BIND_TCP, _CONNECT_TCP = 1, 2
_NET_VERSION, _SCOPE_VERSION = 4, 6
_SCOPES: Final = 3  # abstract sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of libseccomp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def confine(parent: int) -> dict[Layer, str]:
    """Give up every right, for good, and end with `parent`. Returns a sentence for each layer that is missing."""
    problems = {}
    library = _load_libseccomp()  # while there are files
    # Each takes rights that a later one drops; the filter of system calls forbids what all others need.
    for layer, what, apply in (
        (Layer.BOUNDING_SET, "its bounding set is not empty", capabilities.empty_bounding_set),
        (Layer.USER, "the user stays root", _become_nobody),
        (Layer.CAPABILITIES, "some capabilities could not be dropped", capabilities.drop_all),
        (Layer.LANDLOCK, "Landlock is not in force", _restrict_by_landlock),
        (
            Layer.SYSTEM_CALLS,
            "system calls are not filtered",
            functools.partial(_filter_system_calls, library),
        ),
    ):
        try:
            apply()
        except OSError as error:
            problems[layer] = f"the resolver has more rights than it needs: {what}: {error.strerror}"
        if layer is Layer.USER:
            die_with_parent(parent)  # another user: the kernel has forgotten it
    return problems


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(USER_ID, USER_ID, USER_ID)
    os.setresuid(USER_ID, USER_ID, USER_ID)


def _restrict_by_landlock() -> None:
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        _raise("the kernel has none")
    files = (1 << _FILE_RIGHTS_BY_VERSION.get(version, 16)) - 1
    ports = _BIND_TCP | _CONNECT_TCP if version >= _NET_VERSION else 0
    scopes = _SCOPES if version >= _SCOPE_VERSION else 0
    fields = [files, ports, scopes][: 3 if scopes else 2 if ports else 1]
    handled = struct.pack(f"={len(fields)}Q", *fields)
    rules = _libc.syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        _raise()
    try:
        if ports:
            rule = struct.pack("=QQ", _CONNECT_TCP, _DNS_PORT)
            if _libc.syscall(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_RULE_NET_PORT, rule, 0):
                _raise()
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0):
            _raise()
    finally:
        os.close(rules)


def _load_libseccomp() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None


def _filter_system_calls(library: ctypes.CDLL | None) -> None:
    if library is None:
        raise OSError(errno.ENOENT, "libseccomp.so.2 is missing")
    library.seccomp_init.restype = ctypes.c_void_p
    context = library.seccomp_init(ctypes.c_uint32(_ACT_ERRNO | errno.EPERM))
    if not context:
        raise OSError(errno.ENOMEM, "libseccomp made no filter")
    context = ctypes.c_void_p(context)
    try:
        for name, action, comparisons in _rules():
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # not on this architecture
                continue
            array = (_Comparison * len(comparisons))(*comparisons)
            _check(
                library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(array), array)
            )
        _check(library.seccomp_load(context))
    finally:
        library.seccomp_release(context)


def _rules() -> Iterator[tuple[str, int, Sequence[_Comparison]]]:
    for name in _ALLOWED:
        yield name, _ACT_ALLOW, ()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            yield "socket", _ACT_ALLOW, (_equals(0, family), _masked(1, _TYPE_MASK, kind))
    # Of trio's loop, which wakes itself by it. A connected pair of streams can be connected to nothing else.
    yield "socketpair", _ACT_ALLOW, (_equals(0, socket.AF_UNIX), _masked(1, _TYPE_MASK, socket.SOCK_STREAM))
    # A thread, but no process. What clone3 is to do stands in memory, where no filter reads; without it the C library
    # takes clone.
    yield "clone", _ACT_ALLOW, (_masked(0, _CLONE_THREAD, _CLONE_THREAD),)
    yield "clone3", _ACT_ERRNO | errno.ENOSYS, ()
    for name in ("mmap", "mprotect"):
        yield name, _ACT_ALLOW, (_masked(2, mmap.PROT_EXEC, 0),)
    for request in (_FIONBIO, _FIOCLEX, _FIONCLEX, _FIONREAD, _SIOCGIFINDEX):
        yield "ioctl", _ACT_ALLOW, (_equals(1, request),)


def _equals(argument: int, value: int) -> _Comparison:
    return _Comparison(argument, _CMP_EQ, value, 0)


def _masked(argument: int, mask: int, value: int) -> _Comparison:
    return _Comparison(argument, _CMP_MASKED_EQ, mask, value)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _raise(reason: str = "") -> None:
    code = ctypes.get_errno()
    raise OSError(code, reason or os.strerror(code))
