"""The kernel's own WireGuard: finding out whether it is there, and one device of it.

There is no process. The device keeps keys, peers and sessions while no agent runs, and the next agent reads all of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import trio

from netagent.datapath.netlink.link import LinkMessage
from netagent.datapath.netlink.route_socket import Netlink
from netagent.errors import FailedError
from netagent.tunnel.genetlink import (
    decode_device,
    decode_family,
    device_request,
    encode_changes,
    family_request,
)
from netagent.tunnel.peer import DeviceReading, PeerChange

_LOOK_S: Final = 1.0
"""How often the agent looks whether another program has deleted the device: one call without a message."""


async def find_family(generic: Netlink) -> int | None:
    """Return the number of WireGuard's family of generic netlink; None: this kernel has no WireGuard. OSError."""
    message = await generic.find(family_request())
    return None if message is None else decode_family(message.body)


class KernelDevice:
    """A WireGuard device of the kernel, in the namespace of both sockets."""

    backend: Final[Literal["kernel"]] = "kernel"
    process_id: Final = None

    def __init__(self, links: Netlink, generic: Netlink, family: int, link: LinkMessage) -> None:
        self._links = links
        self._generic = generic
        self._family = family
        self._link = link
        self._is_given_up = False

    @property
    def ending(self) -> str:
        """What to say when it has ended."""
        return f"the device {self._link.name} has gone"

    def close(self) -> None:
        """Stop watching: nothing is open."""

    async def ended(self) -> None:
        """Return when the device is gone, or was given up."""
        while not self._is_given_up and self._links.has_link(self._link.index):
            await trio.sleep(_LOOK_S)

    def kill(self) -> None:
        """Give up a device that does not answer: `ended` returns, and the device is looked for anew."""
        self._is_given_up = True

    async def read(self) -> DeviceReading:
        """Read the device with its peers. FailedError."""
        try:
            bodies = await self._generic.dump(device_request(self._family, self._link.name))
        except OSError as error:
            raise FailedError(
                f"the kernel does not tell the state of {self._link.name}: {error}", thing=self._link.name
            ) from error
        return decode_device(one.body for one in bodies)

    async def configure(
        self,
        *,
        private_key: bytes | None = None,
        port: int | None = None,
        changes: Sequence[PeerChange] = (),
    ) -> None:
        """Make these changes. FailedError."""
        requests = encode_changes(
            self._family, self._link.name, private_key=private_key, port=port, changes=changes
        )
        try:
            for request in requests:
                await self._generic.execute_one(request)
        except OSError as error:
            raise FailedError(
                f"the kernel does not take the settings of {self._link.name}: {error}", thing=self._link.name
            ) from error
