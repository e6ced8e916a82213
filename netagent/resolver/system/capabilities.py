"""Restrict the resolver process's broker to four capabilities, and have three of them in effect only while needed.

It starts as a child of the agent with all of the agent's capabilities, and drops them: its bounding, ambient and
inheritable sets are emptied, no program that it might run gains anything, and in its permitted set four are left:

- CAP_SYS_ADMIN: required by setns(2). Docker's resolver is queried from inside the container.
- CAP_NET_ADMIN: to find a socket's namespace (SIOCGSKNS), and for the nftables table in front of Docker's resolver.
- CAP_NET_BIND_SERVICE: port 53 in the namespace, for an agent of an earlier release that can't use another port.
- CAP_KILL: when the broker ends, the kernel kills the part that answers, which has another user, with the broker's
  rights. Without it a part that hangs would outlive its broker, and keep the containers' sockets.

The first three are not in effect except inside `raised`, for the some 20 us of such a call. What remains of its user,
root, is access to root's files. The part that parses what others send has none
(netagent.resolver.system.confinement).

Capabilities belong to the calling thread: call `keep_few` before there is another thread, which inherits them.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

KILL, NET_BIND_SERVICE, NET_ADMIN, SYS_ADMIN = 5, 10, 12, 21  # <linux/capability.h>
KEPT: Final = (KILL, NET_BIND_SERVICE, NET_ADMIN, SYS_ADMIN)
_AT_REST: Final = 1 << KILL
"""In effect all the time: SIGKILL leaves no moment to raise it."""

_VERSION_3: Final = 0x20080522
_SETS: Final = struct.Struct(
    "=6I"
)  # effective, permitted, inheritable: the lower halves, then the upper ones
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_LAST: Final = Path("/proc/sys/kernel/cap_last_cap")

_libc = ctypes.CDLL(None, use_errno=True)
_HEADER: Final = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)


def keep_few() -> None:
    """Drop all but KEPT for good, and take those out of effect, except CAP_KILL. OSError when the kernel refuses;
    then fewer are dropped."""
    try:
        # First, because this needs CAP_SETPCAP, which the next step drops.
        empty_bounding_set()
    finally:
        permitted = _held()[1] & sum(1 << number for number in KEPT)
        _set(effective=permitted & _AT_REST, permitted=permitted)


def empty_bounding_set() -> None:
    """Let no program gain anything. OSError without CAP_SETPCAP; then programs still gain nothing by their files."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(int(_LAST.read_text(encoding="ascii")) + 1):
        _prctl(_PR_CAPBSET_DROP, number)


def drop_all() -> None:
    """Drop all capabilities that the calling thread holds."""
    _set(effective=0, permitted=0)


@contextmanager
def raised() -> Iterator[None]:
    """Put the permitted capabilities into effect for the length of the block, which must not yield to other tasks.
    Afterwards those are in effect that were before."""
    effective, permitted = _held()
    _set(effective=permitted, permitted=permitted)
    try:
        yield
    finally:
        _set(effective=effective, permitted=permitted)


def _held() -> tuple[int, int]:
    """Return the capabilities in effect, and those permitted."""
    data = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(_HEADER, data))
    effective, permitted, _, effective_high, permitted_high, _ = _SETS.unpack(data.raw)
    return int(effective_high) << 32 | int(effective), int(permitted_high) << 32 | int(permitted)


def _set(*, effective: int, permitted: int) -> None:
    low, high = 0xFFFFFFFF, 32
    data = _SETS.pack(effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _check(_libc.capset(_HEADER, ctypes.create_string_buffer(data, _SETS.size)))


def _prctl(option: int, first: int) -> None:
    arguments = (ctypes.c_ulong(one) for one in (first, 0, 0, 0))
    _check(_libc.prctl(option, *arguments))


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
