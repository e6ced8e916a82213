"""The steps of `netagent add`: each leaves the other host as it was if a later one fails.

Nothing is changed there before the doctor has looked at it, by the program unpacked in a folder that goes again. What
was done is undone in the opposite order, also after Ctrl-C: leave the cluster, remove the parts, the package and the
files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from netagent.control.client import Client
from netagent.enrol.host_facts import (
    PROBE,
    FactsError,
    HostFacts,
    facts_untrusted,
    failures_untrusted,
    member_id_untrusted,
    obstacles,
)
from netagent.enrol.package import Package, package_of
from netagent.enrol.ssh import Remote, ScriptError
from netagent.errors import FailedError, NetagentError, NotFoundError, RefusedError, UnreachableError
from netagent.interface.cluster import InviteCommand, MembersCommand
from netagent.interface.questions import PingCommand
from netagent.model.ids import nearest_name

STARTED_S: Final = 30.0
"""How long the agent there gets to answer."""
PATH_S: Final = 45.0
"""How long the hosts get to find each other alive, and the path between them to be probed."""
_INVITATION_S: Final = 600.0
_LOOK_S: Final = 0.5
NAME_FILE: Final = "/etc/netagent/conf.d/name.toml"

_UNPACK = 'umask 077; d=$(mktemp -d) && cat >"$d/package" && echo "$d"'
_LOOK = """
set -e; cd "$1"; mkdir root
case $2 in deb) dpkg-deb -x package root ;; *) tar -xzf package -C root ;; esac
rc=0; "root$3/bin/python" -P -m netagent.cli.main doctor --json --socket "$1/none" || rc=$?
rm -rf root; exit $rc
"""
_INSTALL_DEB = """
mv "$1/package" "$1/netagent.deb"
DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$1/netagent.deb" >&2
"""
_INSTALL_TREE = """
set -e
tar -xzf "$1/package" -C /
[ -e /usr/local/bin/netagent ] || ln -s "$2/bin/netagent" /usr/local/bin/netagent
"$2/bin/netagent" install systemd >&2
systemctl enable --now netagent.service
"""
_REMOVE_TREE = """
systemctl disable --now netagent.service netagent.socket netagent-ro.socket netagent-shutdown.service
"$1/bin/netagent" uninstall systemd
[ "$(readlink /usr/local/bin/netagent)" = "$1/bin/netagent" ] && rm -f /usr/local/bin/netagent
rm -rf "$1" /var/lib/netagent
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asked for."""

    name: str
    """Of the new member; empty: its host name."""
    package: Path | None
    parts: tuple[str, ...]
    """Of `netagent install`."""


@dataclass(frozen=True, slots=True)
class Added:
    """A host that is a member now."""

    name: str
    address: str
    was_member: bool
    took_s: float


Progress = Callable[[str], None]
"""Is called with what is being done."""


class Enrolment:
    """One host on its way into the cluster."""

    def __init__(self, client: Client, remote: Remote, wish: Wish, folder: Path, progress: Progress) -> None:
        self._client = client
        self._remote = remote
        self._wish = wish
        self._folder = folder
        self._progress = progress
        self._undo: list[tuple[str, Callable[[], object]]] = []

    def run(self) -> Added:
        """Take all steps. Raises a NetagentError; then the other host is as it was, as far as the message says."""
        began_s = time.monotonic()
        try:
            name = self._steps()
        except BaseException as error:
            left = self._go_back()
            if isinstance(error, NetagentError) and left:
                raise FailedError(
                    f"{error.message}; {self._remote.where} could not be cleaned up: {left}",
                    code=error.code,
                    thing=error.thing,
                    hint=error.hint,
                ) from None
            raise
        member = self._member(name)
        return Added(name, member["address"], not self._undo, time.monotonic() - began_s)

    def _steps(self) -> str:
        where = self._remote.where
        self._progress(f"connecting to {where}")
        self._remote.learn_how_to_be_root()
        members = self._client.send(MembersCommand())["items"]
        package = None if self._program() else package_of(self._wish.package, self._folder)
        facts = self._facts(package)
        name = self._wish.name or nearest_name(facts.name.partition(".")[0]) or "host"
        if facts.is_member:
            return self._known(members)
        if any(member["name"] == name for member in members):
            raise RefusedError(
                f"the cluster has a host {name} already", thing=name, hint="choose another name with --name"
            )
        if package is not None:
            self._install(package)
        self._set_name()
        self._await_agent()
        for part in self._wish.parts:
            self._progress(f"connecting netagent to {part} there")
            self._there("netagent", "install", part)
            self._undo.append((f"the part {part}", partial(self._there, "netagent", "uninstall", part)))
        self._join()
        self._verify(name)
        return name

    # -- steps -----------------------------------------------------------------------------------------------------

    def _program(self) -> bool:
        return b"yes" in self._remote.run("command -v netagent >/dev/null 2>&1 && echo yes; :")

    def _facts(self, package: Package | None) -> HostFacts:
        prefix = "/nonexistent" if package is None else str(package.prefix)
        where = self._remote.where
        try:
            facts = facts_untrusted(self._remote.run(PROBE, prefix))
        except FactsError as error:
            raise FailedError(f"{where}: {error}", thing=where, hint="its account needs a shell") from None
        if package is not None and not facts.is_member:
            for reason, cure in obstacles(facts, package.needs):
                raise RefusedError(
                    f"netagent cannot be installed on {where}: {reason}", thing=where, hint=cure
                )
        return facts

    def _known(self, members: Sequence[Mapping[str, Any]]) -> str:
        """Return the name of a host that is a member of this cluster already. Raises RefusedError if it is one of
        another cluster."""
        try:
            host_id = member_id_untrusted(self._there("netagent", "status", "--json"))
        except FactsError as error:
            raise FailedError(
                f"{self._remote.where}: {error}",
                thing=self._remote.where,
                hint="`netagent status` there says more",
            ) from None
        ids = {member["id"]: member["name"] for member in members}
        if (found := ids.get(host_id)) is None:
            raise RefusedError(
                f"{self._remote.where} is in another cluster",
                thing=self._remote.where,
                hint="`netagent leave` there takes it out",
            )
        self._progress(f"{found} is a member already")
        self._verify(str(found))
        return str(found)

    def _install(self, package: Package) -> None:
        size_mb = package.path.stat().st_size / 1e6
        self._progress(f"copying netagent, {size_mb:.1f} MB")
        with package.path.open("rb") as file:
            folder = self._remote.run(_UNPACK, stdin=file, within_s=600.0).decode().strip()
        if not folder.startswith("/") or "\n" in folder:
            raise FailedError(f"{self._remote.where} made no temporary folder", thing=self._remote.where)
        try:
            self._examine(package, folder)
            self._progress("installing netagent")
            if package.needs.is_deb:
                purge = "DEBIAN_FRONTEND=noninteractive dpkg --purge netagent"
                self._undo.append(("the package netagent", lambda: self._remote.run(purge)))
                self._remote.run(_INSTALL_DEB, folder, within_s=300.0)
            else:
                prefix = str(package.prefix)
                self._undo.append(("the files of netagent", lambda: self._remote.run(_REMOVE_TREE, prefix)))
                self._remote.run(_INSTALL_TREE, folder, prefix, within_s=300.0)
        except ScriptError as error:
            raise FailedError(
                f"netagent could not be installed on {self._remote.where}: {error.message}",
                thing=self._remote.where,
            ) from None
        finally:
            with contextlib.suppress(NetagentError):
                self._remote.run('rm -rf "$1"', folder)

    def _examine(self, package: Package, folder: str) -> None:
        self._progress("examining the host with its doctor")
        kind = "deb" if package.needs.is_deb else "tree"
        said = self._remote.run(_LOOK, folder, kind, str(package.prefix), may_end=(0, 1, 3))
        try:
            failures = failures_untrusted(said)
        except FactsError as error:
            raise FailedError(
                f"{self._remote.where}: {error}",
                thing=self._remote.where,
                hint="use a package for that host",
            ) from None
        for name, message, fix in failures[:1]:
            raise RefusedError(
                f"the doctor of {self._remote.where} finds: {name}: {message}",
                code="unfit",
                thing=self._remote.where,
                hint=fix,
            )

    def _set_name(self) -> None:
        if not self._wish.name:
            return
        content = f'# written by `netagent add`\nname = "{self._wish.name}"\n'.encode()
        self._undo.append((NAME_FILE, lambda: self._remote.run('rm -f "$1"', NAME_FILE)))
        self._remote.run('mkdir -p "${1%/*}" && cat >"$1"', NAME_FILE, stdin=content)
        self._remote.run("systemctl try-restart netagent.service")

    def _await_agent(self) -> None:
        self._progress("waiting for its agent")
        end_s = time.monotonic() + STARTED_S
        while True:
            try:
                self._there("netagent", "version")
            except ScriptError as error:
                if time.monotonic() > end_s:
                    raise FailedError(
                        f"the agent of {self._remote.where} does not answer: {error.message}",
                        thing=self._remote.where,
                        hint="see `journalctl -u netagent` there",
                    ) from None
                time.sleep(_LOOK_S)
            else:
                return

    def _join(self) -> None:
        self._progress("joining the cluster")
        token = self._client.send(InviteCommand(ttl_s=_INVITATION_S, uses=1))["token"]
        self._undo.append(("its membership", lambda: self._there("netagent", "leave", "--drain", "0s")))
        try:
            self._there("netagent", "join", "--token-file", "-", stdin=f"{token}\n".encode())
        except ScriptError as error:
            raise FailedError(
                f"{self._remote.where} could not join: {error.message}",
                thing=self._remote.where,
                hint="open UDP and TCP 7956 and 7957 and UDP 4799 between the hosts",
            ) from None

    def _verify(self, name: str) -> None:
        """Ask either host's kernel from the other one. Raises FailedError."""
        self._progress("testing the path both ways")
        end_s = time.monotonic() + PATH_S
        while not self._is_alive(name):
            if time.monotonic() > end_s:
                raise FailedError(
                    f"{name} has joined, but is not alive for this host within {PATH_S:g} s",
                    thing=name,
                    hint="`netagent doctor` on both hosts says what is in between",
                )
            time.sleep(_LOOK_S)
        [own] = [one["name"] for one in self._client.send(MembersCommand())["items"] if one["local"]]
        while True:
            try:
                self._ping_both(own, name)
            except (NotFoundError, ScriptError) as error:
                if time.monotonic() > end_s:
                    raise FailedError(
                        f"the path between {own} and {name} does not carry packets: {error.message}",
                        thing=name,
                        hint="open UDP 4799 between the hosts",
                    ) from None
                time.sleep(_LOOK_S)
            else:
                return

    def _ping_both(self, own: str, name: str) -> None:
        answer = self._client.send(PingCommand(to=name, from_endpoint=""))
        if not answer["reached"]:
            raise NotFoundError(answer["says"])
        self._there("netagent", "ping", own)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _is_alive(self, name: str) -> bool:
        with contextlib.suppress(NotFoundError, UnreachableError):
            return bool(self._member(name)["agent"] == "alive")
        return False

    def _member(self, name: str) -> dict[str, Any]:
        for member in self._client.send(MembersCommand())["items"]:
            if member["name"] == name:
                return dict(member)
        raise NotFoundError(f"the cluster has no host {name}", thing=name)

    def _there(self, *command: str, stdin: bytes = b"") -> str:
        """Run a command there; its words are arguments, so no shell reads them."""
        return self._remote.run('"$@"', *command, stdin=stdin).decode(errors="replace")

    def _go_back(self) -> str:
        """Undo what was done; return what could not be."""
        left = []
        while self._undo:
            what, undo = self._undo.pop()
            self._progress(f"taking back: {what}")
            try:
                undo()
            except NetagentError as error:
                left.append(f"{what} ({error.message})")
        return ", ".join(left)
