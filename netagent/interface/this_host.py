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


class AddCommand(
    Command["None"],
    command="add",
    brief="install netagent on another host over ssh, and make it a member",
    examples="netagent add root@h2\nnetagent add root@192.0.2.7 --name db1 --docker\n"
    "netagent add anna@h3 --package dist/netagent_0.1.0_amd64.deb",
):
    """On a member: copy the program that runs here to another host over your own ssh, install it there with its
    unit, invite and join the host, and test the path both ways. Before it changes anything, the doctor examines that
    host. If a step fails, the command takes back what it did there, and says why. Needs neither a package index nor
    the Internet. A host that is a member already stays as it is."""

    where: str = argument(metavar="USER@HOST", help="as for ssh; root, or an account whose sudo asks nothing")
    name: str = option(
        "--name", default="", metavar="NAME", help="its name in the cluster (default: its host name)"
    )
    package: str | None = option(
        "--package",
        metavar="FILE",
        help="this Debian package of netagent in place of the program that runs here",
    )
    docker: bool = switch("--docker", help="also connect netagent to Docker there")
    podman: bool = switch("--podman", help="also connect netagent to Podman there")
    cni: bool = switch("--cni", help="also connect netagent to CNI there")


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


class McpCommand(
    Command["None"],
    command="mcp",
    brief="serve the agent's answers to a language model, as tools (Model Context Protocol)",
    examples="netagent mcp\nnetagent --socket https://h1:7958 --ca-file h1.crt --token-file look.token mcp",
):
    """Serve tools to a language model over standard input and output, for the client that starts this
    program: status, lists, why, doctor, ping, lookup, flows and events. They change nothing. The agent allows the
    tools what it allows the account or token that starts this. Needs the Python package `mcp`: install
    `netagent[mcp]`."""

    allow_write: bool = switch("--allow-write", help="one more tool, `change`, which changes something")


class CompletionCommand(
    Command["None"],
    command="completion",
    brief="print the completion script for bash, zsh or fish",
    examples="netagent completion bash > ~/.local/share/bash-completion/completions/netagent",
):
    """Print the completion script for a shell."""

    shell: str = argument(choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish")
