"""Commands that change files of this host: install, uninstall, and init, which may begin with the former.

They import what they need when they run, so that the other commands start fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from netagent.cli.client_commands import DONE, CommandContext, runs, show_hint
from netagent.cli.render import Column, clean
from netagent.errors import FailedError
from netagent.interface.cluster import InitCommand
from netagent.interface.command import Command
from netagent.interface.containers import NetworkCreateCommand
from netagent.interface.this_host import InstallCommand, UninstallCommand

if TYPE_CHECKING:
    from netagent.install.files import InstallPart
    from netagent.install.installer import FileChange, Installer

CHANGES = (
    Column("ACTION", lambda item: str(item["action"])),
    Column("FILE", lambda item: str(item["path"])),
)


@runs(InstallCommand)
def install(session: CommandContext, request: InstallCommand) -> int:
    """Write the files of a runtime or of systemd."""
    part, changes, ran = _write_part(request)
    return _show(session, part.name, changes, ran, part.next)


@runs(InitCommand)
def init(session: CommandContext, request: InitCommand) -> int:
    """Connect the runtimes, start the cluster, create the network, and print what has become of each."""
    from netagent.cli.screen import HINTS, SHOWN

    parts = [part for part in ("docker", "podman", "cni") if getattr(request, part)]
    # First, because it restarts the agent; and a part that is refused leaves no cluster behind.
    for part in parts:
        _write_part(InstallCommand(part=part, root="/"))
    answer: dict[str, Any] = dict(session.send(request))
    shown: list[tuple[type[Command[Any]], Any]] = [(InitCommand, answer)]
    if request.network:
        network = session.send(NetworkCreateCommand(name=request.network))
        shown.append((NetworkCreateCommand, network))
        answer = {**answer, "network": network}

    def lines() -> Iterator[str]:
        yield from (f"connected netagent to {part} on this host" for part in parts)
        for command, one in shown:
            yield from SHOWN[command.answer()][0](session.printer, request, one)

    session.printer.one(answer, lines, name=answer["cluster"]["name"])
    show_hint(session, HINTS[InitCommand](answer))
    return DONE


def _write_part(request: InstallCommand) -> tuple[InstallPart, list[FileChange], list[str]]:
    """Write the files of a part and run its commands; return what was changed and run."""
    installer, part = _part(request)
    changes = installer.install(part)
    return part, changes, installer.run(part.installed)


@runs(UninstallCommand)
def uninstall(session: CommandContext, request: UninstallCommand) -> int:
    """Remove what `install` wrote, and nothing else."""
    installer, part = _part(request)
    if installer.is_installed(part.name):
        installer.check_unchanged(part.name)
        ran = installer.run(part.removing)
        changes = installer.uninstall(part.name)
        ran += installer.run(part.removed)
        advice = part.afterwards
    else:
        ran, changes, advice = [], [], ("`netagent install` has not written anything here",)
    if part.name == "docker" and installer.is_host:
        _remove_rules()
    return _show(session, part.name, changes, ran, advice)


def _remove_rules() -> None:
    """Remove the agent's rules from Docker's chain. Run it after the agent's restart, or the agent restores them."""
    import trio

    from netagent.integrations.docker.docker_user_chain import DockerUserChain

    accepts = DockerUserChain()
    trio.run(accepts.remove)
    if troubles := accepts.troubles():
        raise FailedError(troubles[0], code="rules", thing="DOCKER-USER", hint="repeat this command")


def _part(request: InstallCommand | UninstallCommand) -> tuple[Installer, InstallPart]:
    from pathlib import Path

    from netagent.install.files import part_of
    from netagent.install.installer import Installer

    installer = Installer(Path(request.root))
    return installer, part_of(request.part, installer.surroundings())


def _show(
    session: CommandContext, part: str, changes: list[Any], ran: list[str], advice: tuple[str, ...]
) -> int:
    printer = session.printer
    items = [{"action": change.action, "path": change.path} for change in changes]
    if printer.is_machine:
        printer.json({"schema": 1, "part": part, "files": items, "commands": ran, "next": list(advice)})
    elif printer.form == "name":
        printer.lines(clean(item["path"]) for item in items)
    else:
        printer.lines(printer.table(items, CHANGES) if items else [])
        printer.lines(f"ran {command}" for command in ran)
        printer.lines(
            f"next: {clean(text)}" if number == 0 else f"      {clean(text)}"
            for number, text in enumerate(advice)
        )
    return DONE
