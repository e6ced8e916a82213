"""When the caller that removes a link may go on, and what the kernel is asked meanwhile."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
import trio
from fakes.virtual import virtual

from netagent.datapath.endpoint.link_delete import LinkDeletion
from netagent.datapath.netlink.link import delete_link_index, retire_link
from netagent.datapath.netlink.route_socket import Netlink, NetlinkRequest

UNLISTED_S, FORGOTTEN_S = 0.003, 0.045


class SlowKernel(Netlink):
    """Lists a link no longer soon after it was asked, and answers much later."""

    def __init__(self, *indexes: int) -> None:
        self.links = set(indexes)
        self.asked: list[Sequence[NetlinkRequest]] = []
        self.looks = 0
        self.answered = 0
        self.error: OSError | None = None
        self.failure: OSError | trio.ClosedResourceError | None = None
        self.is_closed = False

    def has_link(self, index: int) -> bool:
        if self.is_closed:
            raise ValueError("file descriptor cannot be a negative integer (-1)")
        self.looks += 1
        return index in self.links

    async def execute(self, requests: Sequence[NetlinkRequest]) -> list[OSError | None]:
        self.asked.append(requests)
        await trio.sleep(UNLISTED_S)
        if self.failure is not None:
            raise self.failure
        if self.error is None:
            self.links -= {
                one for one in set(self.links) if any(self.names(one, asked) for asked in requests)
            }
        await trio.sleep(FORGOTTEN_S - UNLISTED_S)
        self.answered += 1
        return [self.error] * len(requests)

    @staticmethod
    def names(index: int, request: NetlinkRequest) -> bool:
        # Those that are put into a group go with it.
        return request in (delete_link_index(index), retire_link(index, group_of(request)))


def group_of(request: NetlinkRequest) -> int:
    return int.from_bytes(request.body[-4:], "little") if len(request.body) > 16 else 0


@virtual
async def test_the_caller_goes_on_when_no_program_finds_the_link_and_not_when_the_kernel_has_forgotten_it() -> (
    None
):
    kernel = SlowKernel(7)
    begun = trio.current_time()
    await LinkDeletion(kernel).remove(7)
    assert not kernel.has_link(7)
    assert trio.current_time() - begun <= UNLISTED_S + 0.002
    assert kernel.answered < 1
    await trio.sleep(FORGOTTEN_S)
    assert kernel.answered == 1


@virtual
async def test_what_is_asked_for_while_one_removal_is_under_way_shares_the_next() -> None:
    kernel = SlowKernel(*range(1, 40))
    removal = LinkDeletion(kernel)
    await removal.remove(1)
    async with trio.open_nursery() as nursery:
        for index in range(2, 40):
            nursery.start_soon(removal.remove, index)
    assert kernel.links == set()
    assert [len(requests) for requests in kernel.asked] == [1, 39]
    assert trio.current_time() < 2 * FORGOTTEN_S
    assert kernel.looks < 2 * FORGOTTEN_S / 0.001 + 39, "not each of them looks again and again"


@virtual
async def test_what_the_kernel_refuses_is_said_and_what_is_not_there_is_well() -> None:
    kernel = SlowKernel(7, 8)
    kernel.error = OSError(errno.EPERM, "not allowed")
    with pytest.raises(OSError, match="not allowed"):
        await LinkDeletion(kernel).remove(7)
    kernel.error = OSError(errno.ENODEV, "no such device")
    await LinkDeletion(kernel).remove(8)


@virtual
async def test_a_socket_that_fails_is_told_to_everybody_who_waits_and_the_next_is_asked_again() -> None:
    kernel = SlowKernel(7, 8)
    kernel.failure = OSError(errno.ENOBUFS, "no room")
    removal = LinkDeletion(kernel)
    errors = []

    async def remove(index: int) -> None:
        with pytest.raises(OSError, match="no room") as caught:
            await removal.remove(index)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove, 7)
        nursery.start_soon(remove, 8)
    assert len(errors) == 2
    kernel.failure = None
    await removal.remove(7)
    assert kernel.links == {8}


@pytest.mark.parametrize("failure", [OSError(errno.EBADF, "closed"), trio.ClosedResourceError()])
@virtual
async def test_a_socket_that_is_closed_under_it_ends_the_work_and_nothing_else(
    failure: OSError | trio.ClosedResourceError,
) -> None:
    kernel = SlowKernel(7, 8)
    kernel.failure = failure
    removal = LinkDeletion(kernel)
    kernel.is_closed = True
    with pytest.raises(OSError, match="closed"):
        await removal.remove(7)
    kernel.failure = None
    await removal.remove(7)
    assert kernel.links == {8}


@virtual
async def test_cancelled_before_the_kernel_was_asked_nothing_is_done_and_afterwards_all_of_it() -> None:
    kernel = SlowKernel(7, 8)
    removal = LinkDeletion(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(removal.remove, 7)
        await trio.sleep(UNLISTED_S / 2)
        with trio.move_on_after(0):
            await removal.remove(8)  # behind the other
        nursery.cancel_scope.cancel()
    assert kernel.links == {7, 8}
    await trio.sleep(2 * FORGOTTEN_S)
    assert kernel.links == {8}
    assert len(kernel.asked) == 1
