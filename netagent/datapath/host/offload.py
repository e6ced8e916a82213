"""Whether our VXLAN devices leave TCP's and UDP's checksums to the network card. On the probes' word they do not.

With `tx off` a device has the kernel make the checksums before it wraps a packet, so a card that gets those inside
VXLAN wrong never sees one to make. netlink's messages of links do not have this switch, so it is read and set by
ethtool's old ioctl, which every kernel has: some microseconds a device.

One loop keeps it so, whoever changes it, and for devices that are made meanwhile. It says nothing as long as there is
no verdict: an agent that starts leaves the switch as the one before it did.
"""

from __future__ import annotations

import array
import fcntl
import logging
import socket
import struct
from collections.abc import Callable, Collection
from typing import Final

import trio

from netagent.periodic import beat_within

PERIOD_S: Final = 1.5
"""Damage is put right within two seconds; a verdict is followed at once."""
_SIOCETHTOOL: Final = 0x8946
_GTXCSUM: Final = 0x16
_STXCSUM: Final = 0x17
_VALUE: Final = struct.Struct("=II")  # struct ethtool_value
_REQUEST: Final = struct.Struct("=16sQ16x")  # struct ifreq with a pointer, on 64 bits

_log = logging.getLogger(__name__)


class OffloadKeeper:
    """One task: `run`. Works in the namespace that `sock`, any socket, was made in."""

    def __init__(self, sock: socket.socket, is_ours: Callable[[str], bool]) -> None:
        self._sock = sock
        self._is_ours = is_ours
        """Whether a device of this name is in the kernel, and is ours."""
        self._devices: frozenset[str] = frozenset()
        self._is_on: bool | None = None
        self._woken = trio.Event()

    async def run(self) -> None:
        """Until cancelled; leaves the devices as they are."""
        while True:
            if self._is_on is not None:
                self._look(is_on=self._is_on)
            with trio.move_on_at(beat_within(trio.current_time(), PERIOD_S)):
                await self._woken.wait()
            self._woken = trio.Event()

    def set_devices(self, devices: Collection[str]) -> None:
        """The VXLAN devices of our networks."""
        self._devices = frozenset(devices)

    def set_wanted(self, is_on: bool | None) -> None:  # noqa: FBT001 - the value
        """Whether checksums may be left to the card; None: as it is."""
        if is_on is not self._is_on:
            self._is_on = is_on
            self._woken.set()

    def _look(self, *, is_on: bool) -> None:
        for device in filter(self._is_ours, self._devices):
            try:
                if tx_checksum(self._sock, device) is not is_on:
                    set_tx_checksum(self._sock, device, is_on=is_on)
                    _log.warning("%s: checksum offload turned %s", device, "on" if is_on else "off")
            except OSError as error:  # gone in between, or a kernel without ethtool
                _log.debug("%s: checksum offload: %s", device, error)


def tx_checksum(sock: socket.socket, device: str) -> bool:
    """Whether a device leaves checksums to what is below it. OSError."""
    return bool(_ethtool(sock, device, _GTXCSUM, 0))


def set_tx_checksum(sock: socket.socket, device: str, *, is_on: bool) -> None:
    """What `ethtool -K DEVICE tx on|off` does. OSError."""
    _ethtool(sock, device, _STXCSUM, int(is_on))


def _ethtool(sock: socket.socket, device: str, command: int, value: int) -> int:
    buffer = array.array("B", _VALUE.pack(command, value))
    fcntl.ioctl(sock, _SIOCETHTOOL, _REQUEST.pack(device.encode(), buffer.buffer_info()[0]))
    answer: int = _VALUE.unpack(buffer.tobytes())[1]
    return answer
