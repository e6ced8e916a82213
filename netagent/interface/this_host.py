"""Commands that act on this host and do not ask the agent."""

from __future__ import annotations

from netagent.interface.command import Command, argument, option, switch

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


class _Configuration(Command["None"]):
    config: str | None = option(
        "--config", metavar="FILE", help="read this file instead of /etc/netagent/netagent.toml"
    )


class ConfigCheckCommand(
    _Configuration,
    command="check",
    within="config",
    brief="check the configuration before the agent reads it",
    examples="netagent config check\nnetagent config check --config ./netagent.toml",
):
    """Read the configuration as the agent would, and say what is wrong with it: an unknown key with the
    nearest known one, a value that is not valid with the file or the variable that sets it. Changes nothing."""


class ConfigShowCommand(
    _Configuration,
    command="show",
    within="config",
    brief="show the value of each configuration key, and where it was set",
    examples="netagent config show\nnetagent config show --origin",
):
    """Print the configuration that an agent started here would have: of the files, of the NETAGENT_* variables of
    this shell, and the defaults. The output is a configuration file. What only the unit of systemd sets (its
    variables, flags of its command) is not known here."""

    origin: bool = switch("--origin", help="a table that also says where each value was set")


class CompletionCommand(
    Command["None"],
    command="completion",
    brief="print the completion script for bash, zsh or fish",
    examples="netagent completion bash > ~/.local/share/bash-completion/completions/netagent",
):
    """Print the completion script for a shell."""

    shell: str = argument(choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish")
