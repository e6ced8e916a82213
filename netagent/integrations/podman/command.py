"""Runs the program `podman`: it needs no service of Podman, and it manages Podman's networks.

Each run is a process that takes 40 to 60 ms of CPU, so no loop runs it. It waits for the lock of a container that
another `podman` is handling: right after `setup`, it answers only when the container has started.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

import trio

from netagent.checks.spec import MAX_TIMEOUT_S
from netagent.errors import FailedError, NetagentError
from netagent.integrations.labels import has_ours, without_image
from netagent.integrations.marked_processes import is_marked_left, kill_marked, new_mark
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
"""Timeout of one run, in seconds. A start without an image pull takes 2 s, and holds a lock no longer than that."""
MAX_AT_ONCE = 50
"""Bound of containers that one run of `podman` inspects; beyond it: the next run inspects the others. The answer has
some 15 kB for each."""
MAX_IMAGES = 256
"""Bound of images whose labels are remembered; beyond it: the oldest is inspected again."""
MAX_OUTPUT_BYTES = 4096
"""Bound of the output of a check's command that is kept; beyond it: read and dropped."""
MAX_READ_BYTES = 1024 * 1024
"""Bound of the output of a check's command that is read; beyond it: the command is killed, and has failed."""
MAX_HANGING = 256
"""Bound of killed commands that are remembered until they have ended; beyond it: the oldest is forgotten."""
TOO_MUCH = 128 + signal.SIGPIPE
"""Exit status of a command that was killed because it wrote too much: as if its output had been closed."""
START_S = 0.5
"""Within this time after the end of `podman exec`, conmon has started the command, or never does."""
_CHUNK_BYTES = 65536
NO_SUCH = "no such container"
CANNOT_RUN = 125
"""Exit status of `podman exec` when the error is Podman's, such as a container that does not run."""
_OF_SYSTEMD_RUN = b"Failed to "
"""So begin the errors of systemd-run itself, with exit status 1."""
_OUR_OWN = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""Variables that systemd set for the agent, and that Podman would take as its own."""


class Podman:
    """The program `podman`. Every method may raise FailedError: it is missing, fails or hangs."""

    def __init__(self) -> None:
        self._image_labels: dict[str, Mapping[str, str]] = {}
        """netagent's labels of images, by the image's id: the image with an id never changes."""
        self._hanging: dict[tuple[str, tuple[str, ...]], bytes] = {}
        """Commands in containers that did not end although killed, with the marks of their processes."""

    async def networks(self) -> tuple[PodmanNetwork, ...]:
        """Return all networks."""
        return networks_untrusted(await self._run("network", "ls", "--format", "json"))

    async def create_network(self, name: str, network_id: NetworkId) -> None:
        """Create the mirror of a network. Podman calls our plug-in meanwhile, so the agent must be able to answer."""
        mark = f"{NETWORK_OPTION}={network_id}"
        await self._run("network", "create", "--driver", DRIVER, "--opt", mark, "--label", mark, name)

    async def remove_network(self, name: str) -> None:
        """Remove a network. FailedError while a container refers to it, running or not."""
        await self._run("network", "rm", name)

    async def containers(self, ids: Sequence[str]) -> dict[str, PodmanContainer]:
        """Inspect containers by full id; those that do not exist are left out. At most MAX_AT_ONCE ids are used.

        A container whose image cannot be inspected has a `flaw`, and no labels.
        """
        text = await self._run("container", "inspect", *ids[:MAX_AT_ONCE], harmless=NO_SUCH)
        listed = {one.container_id: one for one in containers_untrusted(text)}
        until, failures = trio.current_time() + DEADLINE_S, dict[str, str]()
        return {known: await self._without_image(one, until, failures) for known, one in listed.items()}

    async def _without_image(
        self, container: PodmanContainer, until: float, failures: dict[str, str]
    ) -> PodmanContainer:
        """Remove labels that choose names and that only the image has; most containers have none, and cost nothing.

        Each image is inspected once for all containers of a batch, and a failure noted in `failures`; after `until`
        no further image is inspected.
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
            flaw = f"cannot separate the labels of container {container.name} from its image's: {failures[image]}"
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
        """Return the ids of all containers of a pod, including the infra container."""
        return ids_untrusted(
            await self._run("ps", "--all", "--quiet", "--no-trunc", "--filter", f"pod={pod}")
        )

    async def execute(self, container: str, command: Sequence[str]) -> tuple[int, bytes] | None:
        """Run a command in a container until it ends; return its exit status, and the beginning of its output. None:
        an earlier run of it does not end, so this one did not begin.

        Cancelled, it kills the command. Raises FailedError when Podman itself fails."""
        key = container, tuple(command)
        if key in self._hanging:
            await trio.to_thread.run_sync(kill_marked, self._hanging[key])
            if await trio.to_thread.run_sync(is_marked_left, self._hanging[key]):
                return None
            self._hanging.pop(key, None)
        mark = new_mark()
        name, _, value = mark.partition("=")
        words = ["podman", "exec", "--env", mark, container, *command]
        if outside := _outside_of_unit(mark):
            # systemd puts its own variables in for `$NAME`, and a `$` for `$$`.
            words = [*outside, *(word.replace("$", "$$") for word in words)]
        process = await trio.lowlevel.open_process(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment() | {name: value},
        )
        output, size = b"", 0
        try:
            assert process.stdout is not None
            async with process.stdout as pipe:
                while size <= MAX_READ_BYTES and (piece := await pipe.receive_some(_CHUNK_BYTES)):
                    output += piece[: MAX_OUTPUT_BYTES - len(output)]
                    size += len(piece)
            if size > MAX_READ_BYTES:
                await self._end(process, key, mark)
                return TOO_MUCH, output
            status = await process.wait()
        except trio.Cancelled:
            # Podman's end does not end the command, and commands that hang would pile up in the container.
            with trio.CancelScope(shield=True):
                await self._end(process, key, mark)
            raise
        if status == CANNOT_RUN or (status == 1 and output.startswith(_OF_SYSTEMD_RUN)):
            said = output[:200].decode("utf-8", "replace").strip()
            raise FailedError(f"`podman exec` failed: {said}", code="not-run")
        return status, output

    async def _end(self, process: trio.Process, key: tuple[str, tuple[str, ...]], mark: str) -> None:
        """End a run and its command, and remember a command that does not end."""
        process.kill()
        await process.wait()
        sought = mark.encode()
        await trio.to_thread.run_sync(kill_marked, sought)
        await trio.sleep(
            START_S
        )  # conmon may be about to start the command, and it may just have started others
        await trio.to_thread.run_sync(kill_marked, sought)
        if await trio.to_thread.run_sync(is_marked_left, sought):
            if len(self._hanging) >= MAX_HANGING:
                del self._hanging[next(iter(self._hanging))]
            self._hanging[key] = sought

    async def _run(self, *words: str, harmless: str = "") -> bytes:
        """Run podman; return its output, also if all its errors begin with `harmless`: then it has done the rest."""
        try:
            with trio.fail_after(DEADLINE_S):
                done = await trio.run_process(
                    ["podman", *words],
                    stdin=b"",
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env=_environment(),
                )
        except FileNotFoundError:
            hint = "install it, or set podman.enabled = false"
            raise FailedError("there is no program `podman` on this host", hint=hint) from None
        except trio.TooSlowError:
            raise FailedError(
                f"`podman {' '.join(words[:2])}` did not end within {DEADLINE_S:.0f} s"
            ) from None
        except OSError as error:
            raise FailedError(f"cannot run `podman {' '.join(words[:2])}`: {error}") from None
        complaints = _complaints(done)
        if complaints and not (harmless and all(one.startswith(harmless) for one in complaints)):
            raise FailedError(f"`podman {' '.join(words[:2])}` failed: {complaints[-1]}")
        return bytes(done.stdout)


def _outside_of_unit(mark: str) -> tuple[str, ...]:
    """Return what runs a command of a check beside the agent's unit: a runtime has to enter all namespaces of the
    container, with all capabilities that the container has, and the unit forbids both."""
    systemd_run = shutil.which("systemd-run")
    if "INVOCATION_ID" not in os.environ or systemd_run is None:
        return ()
    bound = f"--property=RuntimeMaxSec={MAX_TIMEOUT_S + DEADLINE_S:.0f}"
    return (systemd_run, "--pipe", "--wait", "--collect", "--quiet", f"--setenv={mark}", bound, "--")


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(_OUR_OWN)}


def _complaints(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the error lines, none after a success; podman writes warnings to the same stream."""
    if not done.returncode:
        return []
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ")[:500] for line in lines if line.startswith("Error: ")]
    return errors or [line[:500] for line in lines[-1:]] or [f"exit status {done.returncode}"]
