"""Checksum offload of our VXLAN devices: the probes decide whether TCP's and UDP's checksums are left to the card.

With `tx off` the kernel computes a packet's checksums before the device encapsulates it, so a card that gets
checksums inside VXLAN wrong never has to compute one. Link messages of netlink do not have this flag, so it is read
and set by ethtool's old ioctl, which every kernel has: some microseconds per device.

One loop keeps the flag, whichever program changes it, also for devices that are created later. It does nothing as
long as there is no verdict: an agent that starts leaves the flag as the previous agent did.
"""

from __future__ import annotations

import array
import fcntl
import logging
import socket
import struct
from collections.abc import Callable, Collection
from typing import Final

from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.periodic_task import PeriodicTask

PERIOD_S: Final = 1.5
"""Repairs must happen within two seconds; a new verdict takes effect at once."""
_SIOCETHTOOL: Final = 0x8946
_GTXCSUM: Final = 0x16
_STXCSUM: Final = 0x17
_VALUE: Final = struct.Struct("=II")  # struct ethtool_value
_REQUEST: Final = struct.Struct("=16sQ16x")  # struct ifreq with a pointer, on 64 bits

_log = logging.getLogger(__name__)


class OffloadKeeper:
    """Keeps the flag. One task: `run`. Works in the namespace that `sock`, any socket, belongs to."""

    def __init__(self, sock: socket.socket, is_ours: Callable[[str], bool]) -> None:
        self._sock = sock
        self._is_ours = is_ours
        """Whether a device of this name exists and is ours."""
        self._devices: frozenset[str] = frozenset()
        self._is_on: bool | None = None
        self._task = PeriodicTask(PERIOD_S)

    async def run(self) -> None:
        """Work until cancelled; leave the devices as they are."""
        while True:
            if self._is_on is not None:
                self._look(is_on=self._is_on)
            await self._task.wait()

    def set_devices(self, devices: Collection[str]) -> None:
        """Set the VXLAN devices of our networks."""
        self._devices = frozenset(devices)

    def set_wanted(self, is_on: bool | None) -> None:  # noqa: FBT001 - the value
        """Set whether checksums may be left to the card; None: leave the flag as it is."""
        if is_on is not self._is_on:
            self._is_on = is_on
            self._task.wake()

    def _look(self, *, is_on: bool) -> None:
        for device in filter(self._is_ours, self._devices):
            try:
                if tx_checksum(self._sock, device) is not is_on:
                    set_tx_checksum(self._sock, device, is_on=is_on)
                    turned = event(EventKind.REPAIR, device)
                    _log.warning(
                        "%s: checksum offload turned %s", device, "on" if is_on else "off", extra=turned
                    )
            except OSError as error:  # the device has gone, or the kernel has no ethtool
                _log.debug("%s: checksum offload: %s", device, error)


def tx_checksum(sock: socket.socket, device: str) -> bool:
    """Return whether a device leaves checksums to the device below it. OSError."""
    return bool(_ethtool(sock, device, _GTXCSUM, 0))


def set_tx_checksum(sock: socket.socket, device: str, *, is_on: bool) -> None:
    """Do the same as `ethtool -K DEVICE tx on|off`. OSError."""
    _ethtool(sock, device, _STXCSUM, int(is_on))


def _ethtool(sock: socket.socket, device: str, command: int, value: int) -> int:
    buffer = array.array("B", _VALUE.pack(command, value))
    fcntl.ioctl(sock, _SIOCETHTOOL, _REQUEST.pack(device.encode(), buffer.buffer_info()[0]))
    answer: int = _VALUE.unpack(buffer.tobytes())[1]
    return answer
