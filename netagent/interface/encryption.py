"""Commands of the encrypted data plane: turn it on and off in a living cluster, and see how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netagent.interface.command import Command, switch
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

TITLE = "Encryption"


class EncryptOnCommand(
    Command["schema.Encryption"],
    command="on",
    within="encrypt",
    route="POST /v1/encryption/on",
    brief="Encrypt what containers of different hosts send each other.",
    waits="for the other hosts",
    examples="sudo netagent encrypt on",
):
    """Let the cluster encrypt what containers of different hosts send each other. First each live host is asked
    whether it can; if one can't, it is named, and nothing is changed. Then all hosts change over together, step by
    step, and no connection ends. The command shows the steps, for at most 60 s; the change goes on without it."""


class EncryptOffCommand(
    Command["schema.Encryption"],
    command="off",
    within="encrypt",
    route="POST /v1/encryption/off",
    brief="Send what containers of different hosts send each other in the clear.",
    waits="for the other hosts",
    examples="sudo netagent encrypt off --yes",
):
    """Let the cluster send in the clear again what containers of different hosts send each other. All hosts change
    over together, step by step, and no connection ends. Each host notes who ended encryption, and on which host."""

    yes: bool = switch("--yes", help="agree that packets are sent in the clear")


class EncryptStatusCommand(
    Command["schema.Encryption"],
    command="status",
    within="encrypt",
    route="GET /v1/encryption",
    brief="Show whether each path from this host is encrypted.",
    examples="netagent encrypt status\nnetagent encrypt status -o json",
    role=Role.READ,
):
    """Show whether the cluster encrypts, who decided it, and for each path from this host whether packets are
    encrypted, when the last handshake was, and how much was sent. While the cluster changes over it also shows what
    is not encrypted yet, and which hosts are waited for."""
