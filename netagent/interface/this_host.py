"""Commands that act on this host and do not ask the agent."""

from __future__ import annotations

from netagent.interface.command import Command, argument, option

TITLE = "This host"


class _Installation(Command["None"]):
    # The same as netagent.install.files.PARTS, whose import would be slow; a test compares the two.
    part: str = argument(choices=("docker", "podman", "cni", "systemd"), metavar="docker|podman|cni|systemd")
    root: str = option(
        "--root",
        default="/",
        metavar="DIR",
        help="write below this folder, to prepare the image of another system; runs no commands then",
    )


class InstallCommand(
    _Installation,
    command="install",
    brief="connect netagent to docker, podman, cni or systemd",
    examples="sudo netagent install systemd\nsudo netagent install docker",
):
    """Write the files that connect netagent to Docker, Podman, CNI or systemd, and list them. Never
    overwrites files of other programs. Where systemd runs, the command restarts the agent to apply the
    change; containers, packets and names are not interrupted."""


class UninstallCommand(
    _Installation,
    command="uninstall",
    brief="remove what `install` wrote",
    examples="sudo netagent uninstall docker",
):
    """Remove what `netagent install` wrote, and nothing else."""


class CompletionCommand(
    Command["None"],
    command="completion",
    brief="print the completion script for bash, zsh or fish",
    examples="netagent completion bash > ~/.local/share/bash-completion/completions/netagent",
):
    """Print the completion script for a shell."""

    shell: str = argument(choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish")
