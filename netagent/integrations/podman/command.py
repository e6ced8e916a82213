"""Asks Podman by its program: there need be no service of Podman, and its program is where its networks are.

Each run is a process of its own that takes 40 to 60 ms of CPU, so nobody runs it in a loop. It waits for the lock of
a container that another `podman` is at work on: asked right after `setup`, it answers when the container has started.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Mapping, Sequence

import trio

from netagent.errors import FailedError, NetagentError
from netagent.integrations.labels import has_ours, without_image
from netagent.integrations.podman.netavark import DRIVER, NETWORK_OPTION
from netagent.integrations.podman.report import (
    PodmanContainer,
    PodmanNetwork,
    containers_untrusted,
    ids_untrusted,
    image_labels_untrusted,
    networks_untrusted,
)
from netagent.model.ids import NetworkId

DEADLINE_S = 10.0
"""For one run. A start that pulls no image is done in 2 s, and a lock is held no longer than that."""
MAX_AT_ONCE = 50
"""Containers that one run inspects; the answer is some 15 kB for each."""
MAX_IMAGES = 256
"""Whose labels are remembered."""
NO_SUCH = "no such container"
_OUR_OWN = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""What systemd told the agent, and Podman would take for its own."""


class Podman:
    """The program, and what it says. Every method may raise FailedError: it is not there, or refuses, or hangs."""

    def __init__(self) -> None:
        self._image_labels: dict[str, Mapping[str, str]] = {}
        """Labels of ours that images have, by the image's id: an image of one id never changes."""

    async def networks(self) -> tuple[PodmanNetwork, ...]:
        """All of them."""
        return networks_untrusted(await self._run("network", "ls", "--format", "json"))

    async def create_network(self, name: str, network_id: NetworkId) -> None:
        """One that stands for a network of ours. Podman asks our plug-in for the rest, so the agent must answer."""
        mark = f"{NETWORK_OPTION}={network_id}"
        await self._run("network", "create", "--driver", DRIVER, "--opt", mark, "--label", mark, name)

    async def remove_network(self, name: str) -> None:
        """FailedError while a container refers to it, running or not."""
        await self._run("network", "rm", name)

    async def containers(self, ids: Sequence[str]) -> dict[str, PodmanContainer]:
        """By full id; those that don't exist are left out. At most MAX_AT_ONCE of the ids are looked at.

        One whose image can't be asked about has a `flaw`, and no labels.
        """
        text = await self._run("container", "inspect", *ids[:MAX_AT_ONCE], harmless=NO_SUCH)
        listed = {one.container_id: one for one in containers_untrusted(text)}
        until, failures = trio.current_time() + DEADLINE_S, dict[str, str]()
        return {known: await self._without_image(one, until, failures) for known, one in listed.items()}

    async def _without_image(
        self, container: PodmanContainer, until: float, failures: dict[str, str]
    ) -> PodmanContainer:
        """Without those labels of ours that only its image has; most containers have none, and cost nothing.

        An image that can't be asked about is noted in `failures`, and asked about once for all containers of a batch;
        after `until` no further one is.
        """
        image = container.image
        if not has_ours(container.labels) or not image:
            return container
        if image not in self._image_labels and image not in failures:
            if trio.current_time() > until:
                failures[image] = f"`podman image inspect` takes longer than {DEADLINE_S:.0f} s"
            else:
                await self._read_image(image, failures)
        if image in failures:
            flaw = f"cannot tell the labels of container {container.name} from its image's: {failures[image]}"
            return dataclasses.replace(container, labels={}, flaw=flaw)
        return dataclasses.replace(
            container, labels=without_image(container.labels, self._image_labels[image])
        )

    async def _read_image(self, image: str, failures: dict[str, str]) -> None:
        try:
            text = await self._run("image", "inspect", image)
            labels = image_labels_untrusted(text).get(image, {})
        except NetagentError as error:
            failures[image] = str(error)
            return
        if len(self._image_labels) >= MAX_IMAGES:
            del self._image_labels[next(iter(self._image_labels))]
        self._image_labels[image] = {key: value for key, value in labels.items() if has_ours([key])}

    async def members(self, pod: str) -> tuple[str, ...]:
        """The ids of all containers of a pod, the infra container too."""
        return ids_untrusted(
            await self._run("ps", "--all", "--quiet", "--no-trunc", "--filter", f"pod={pod}")
        )

    async def _run(self, *words: str, harmless: str = "") -> bytes:
        """What it prints, also when all it complains of begins with `harmless`: then it has done the rest."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_OUR_OWN)}
        try:
            with trio.fail_after(DEADLINE_S):
                done = await trio.run_process(
                    ["podman", *words],
                    stdin=b"",
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env=environment,
                )
        except FileNotFoundError:
            hint = "install it, or set podman.enabled = false"
            raise FailedError("there is no program `podman` on this host", hint=hint) from None
        except trio.TooSlowError:
            raise FailedError(
                f"`podman {' '.join(words[:2])}` did not end within {DEADLINE_S:.0f} s"
            ) from None
        except OSError as error:
            raise FailedError(f"`podman {' '.join(words[:2])}` can't be run: {error}") from None
        complaints = _complaints(done)
        if complaints and not (harmless and all(one.startswith(harmless) for one in complaints)):
            raise FailedError(f"`podman {' '.join(words[:2])}` refuses: {complaints[-1]}")
        return bytes(done.stdout)


def _complaints(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """What it calls an error, none when it succeeded; it writes warnings on the same stream."""
    if not done.returncode:
        return []
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ")[:500] for line in lines if line.startswith("Error: ")]
    return errors or [line[:500] for line in lines[-1:]] or [f"exit status {done.returncode}"]
