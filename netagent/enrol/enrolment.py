"""The steps of `netagent add`: each leaves the other host as it was if a later one fails.

Nothing is installed there before the doctor has looked at it, by the program unpacked in a folder that goes again.
What was done is undone in the opposite order, also after Ctrl-C: revoke the invitation, leave the cluster, remove the
parts, the package and the files. An undoing is noted before its step begins, because a step whose answer is lost may
have been taken. What cannot be undone is named with what an operator types.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

from netagent.control.client import Client
from netagent.enrol.host_facts import (
    PROBE,
    FactsError,
    HostFacts,
    facts_untrusted,
    failures_untrusted,
    identity_untrusted,
    obstacles,
)
from netagent.enrol.package import Package, package_of
from netagent.enrol.ssh import LostError, Remote, ScriptError
from netagent.errors import FailedError, NetagentError, NotFoundError, RefusedError, UnreachableError
from netagent.interface.cluster import InviteCommand, MembersCommand, UninviteCommand
from netagent.interface.questions import PingCommand
from netagent.model.ids import nearest_name

STARTED_S: Final = 30.0
"""How long the agent there gets to answer."""
PATH_S: Final = 45.0
"""How long the hosts get to find each other alive, and the path between them to be probed."""
COPYING_S: Final = 900.0
INSTALLING_S: Final = 300.0
_INVITATION_S: Final = 600.0
_LOOK_S: Final = 0.2
_RULES_S: Final = 15.0
"""How long the agent there gets to put its rules into Docker's chain; it takes a second."""
_FORWARD_RULES: Final = "forward-rules"
"""The doctor's check of rules that drop packets on bridges, as Docker's do until the agent serves Docker."""
_ENDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAME_FILE: Final = "/etc/netagent/conf.d/name.toml"

# The folder goes by itself if the copy is cut off: then no one may be able to come back for it.
_COPY = """
umask 077
mkdir "$1" || exit 1
trap 'rm -rf "$1"' EXIT
trap 'exit 1' HUP INT TERM PIPE
cat >"$1/package" || exit 1
[ "$(wc -c <"$1/package")" -eq "$2" ] || { echo "the copy was cut off" >&2; exit 1; }
trap - EXIT
"""
_LOOK = """
set -e; cd "$1"; mkdir root
case $2 in deb) dpkg-deb -x package root ;; *) tar -xzf package -C root ;; esac
rc=0; "root$3/bin/python" -P -m netagent.cli.main doctor --json --socket "$1/none" || rc=$?
rm -rf root; exit $rc
"""
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120"
_INSTALL_DEB = f"""
mv "$1/package" "$1/netagent.deb"
{_APT} install --no-install-recommends "$1/netagent.deb" >&2
"""
_INSTALL_TREE = """
set -e
umask 022
tar -xzf "$1/package" -C /
"$2/bin/python" -m compileall -q -j 0 "$2/lib"
[ -e /usr/local/bin/netagent ] || ln -s "$2/bin/netagent" /usr/local/bin/netagent
"$2/bin/netagent" install systemd >&2
systemctl enable --now netagent.service
"""
_REMOVE_TREE = """
systemctl disable --now netagent.service netagent.socket netagent-ro.socket netagent-shutdown.service
"$1/bin/netagent" uninstall systemd
[ "$(readlink /usr/local/bin/netagent)" = "$1/bin/netagent" ] && rm -f /usr/local/bin/netagent
rm -rf "$@"
"""
_WRITE_NAME = """
set -e
mkdir -p "${1%/*}"
[ ! -e "$1" ] || mv "$1" "$1.before"
cat >"$1"
systemctl try-restart netagent.service
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


@dataclass(frozen=True, slots=True)
class _Undo:
    """How a step is undone, and what an operator types if that fails."""

    what: str
    do: Callable[[], object]
    typed: str
    is_there: bool = True


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
        self._undo: list[_Undo] = []

    def run(self) -> Added:
        """Take all steps. Raises a NetagentError; then the other host is as it was, as far as the message says."""
        began_s = time.monotonic()
        try:
            name, was_member = self._steps()
        except BaseException as error:
            left = self._go_back()
            for undo, reason in left:
                self._progress(f"NOT taken back: {undo.what} ({reason}); type: {undo.typed}")
            if isinstance(error, NetagentError) and left:
                names = ", ".join(f"{undo.what} ({reason})" for undo, reason in left)
                commands = "; ".join(undo.typed for undo, _ in left)
                raise FailedError(
                    f"{error}; not everything could be taken back: {names}",
                    code=error.code,
                    thing=error.thing,
                    hint=f"type: {commands}",
                ) from None
            raise
        member = self._member(name)
        return Added(name, member["address"], was_member, time.monotonic() - began_s)

    def _steps(self) -> tuple[str, bool]:
        where = self._remote.where
        self._progress(f"connecting to {where}")
        self._remote.learn_how_to_be_root()
        members = self._client.send(MembersCommand())["items"]
        package = None if self._program() else package_of(self._wish.package)
        folder = f"/var/tmp/netagent-add-{secrets.token_hex(8)}"
        facts = self._facts(package, folder)
        if facts.is_member:
            return self._known(members), True
        if self._wish.name or "configuration" not in facts.had:  # else the configuration may say the name
            _refuse_taken(members, self._wish.name or nearest_name(facts.name.partition(".")[0]))
        if package is not None:
            self._install(package, folder, facts)
        if self._wish.name:
            self._set_name(self._wish.name, was_there=package is None)
        host_id, name = self._await_agent()
        _refuse_taken(members, name, host_id)
        for part in self._wish.parts:
            self._connect(part)
        self._join()
        self._verify(name)
        if "docker" in self._wish.parts:
            self._verify_rules()
        return name, False

    # -- steps -----------------------------------------------------------------------------------------------------

    def _program(self) -> bool:
        return b"yes" in self._remote.run("command -v netagent >/dev/null 2>&1 && echo yes; :")

    def _facts(self, package: Package | None, folder: str) -> HostFacts:
        prefix = "/nonexistent" if package is None else str(package.prefix)
        where = self._remote.where
        try:
            facts = facts_untrusted(self._remote.run(PROBE, prefix, folder))
        except FactsError as error:
            raise FailedError(f"{where}: {error}", thing=where, hint="its account needs a shell") from None
        if not facts.is_member:
            needs = None if package is None else package.needs
            for reason, cure in obstacles(facts, needs, self._wish.parts):
                raise RefusedError(
                    f"netagent cannot be installed on {where}: {reason}", thing=where, hint=cure
                )
        return facts

    def _known(self, members: Sequence[Mapping[str, Any]]) -> str:
        """Return the name of a host that is a member of this cluster already. Raises RefusedError if it is one of
        another cluster."""
        host_id, _ = self._identity()
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

    def _install(self, package: Package, folder: str, facts: HostFacts) -> None:
        self._progress("packing the netagent that runs here")
        path = package.pack(self._folder)
        try:
            self._copy(path, folder)
            self._examine(package, folder)
            self._progress("installing netagent")
            if package.needs.is_deb:
                self._will_undo(*_undo_deb(facts))
                self._change(_INSTALL_DEB, folder, within_s=INSTALLING_S)
            else:
                prefix = str(package.prefix)
                self._will_undo(*_undo_tree(facts, prefix))
                self._change(_INSTALL_TREE, folder, prefix, within_s=INSTALLING_S)
        except ScriptError as error:
            raise FailedError(
                f"netagent could not be installed on {self._remote.where}: {error.message}",
                thing=self._remote.where,
            ) from None
        self._remote.run('rm -rf "$1"', folder)
        self._undo = [undo for undo in self._undo if undo.what != _THE_COPY]

    def _copy(self, path: Path, folder: str) -> None:
        size = path.stat().st_size
        self._progress(f"copying netagent, {size / 1e6:.1f} MB")
        self._will_undo(_THE_COPY, f"rm -rf {folder}")

        def tell(sent: int) -> None:
            self._progress(f"copied {sent / 1e6:.1f} of {size / 1e6:.1f} MB")

        with path.open("rb") as file:
            self._remote.run(_COPY, folder, str(size), stdin=file, within_s=COPYING_S, each_second=tell)

    def _examine(self, package: Package, folder: str) -> None:
        where = self._remote.where
        self._progress("examining the host with its doctor")
        kind = "deb" if package.needs.is_deb else "tree"
        said = self._remote.ask(_LOOK, folder, kind, str(package.prefix), may_end=(0, 1, 3))
        try:
            failures = failures_untrusted(said.output)
        except FactsError as error:
            reason = f"{error}: {said.reason}" if said.reason else str(error)
            raise FailedError(f"{where}: {reason}", thing=where, hint="use a package for that host") from None
        for failure in failures:
            if failure[0] != _FORWARD_RULES or "docker" not in self._wish.parts:
                raise self._unfit(failure)

    def _unfit(self, failure: tuple[str, str, str]) -> RefusedError:
        (name, message, fix), where = failure, self._remote.where
        if name == _FORWARD_RULES:
            fix = f"if Docker has made that rule, add the host with --docker; else {fix}"
        return RefusedError(
            f"the doctor of {where} finds: {name}: {message}", code="unfit", thing=where, hint=fix
        )

    def _verify_rules(self) -> None:
        """Wait until no rule drops packets on bridges any more: the agent has put its own into Docker's chain. Raises
        RefusedError if another program's still does."""
        end_s = time.monotonic() + _RULES_S
        while True:
            said = self._remote.ask("netagent doctor --json", may_end=(0, 1))
            try:
                found = [one for one in failures_untrusted(said.output) if one[0] == _FORWARD_RULES]
            except FactsError as error:
                raise FailedError(f"{self._remote.where}: {error}", thing=self._remote.where) from None
            if not found:
                return
            if time.monotonic() > end_s:
                raise self._unfit(found[0])
            time.sleep(_LOOK_S)

    def _set_name(self, name: str, *, was_there: bool) -> None:
        content = f'# written by `netagent add`\nname = "{name}"\n'.encode()
        undo = f"rm -f {NAME_FILE}; [ ! -e {NAME_FILE}.before ] || mv {NAME_FILE}.before {NAME_FILE}"
        if was_there:  # else it is removed next
            undo += "; systemctl try-restart netagent.service"
        self._will_undo(NAME_FILE, undo)
        self._change(_WRITE_NAME, NAME_FILE, stdin=content)

    def _identity(self) -> tuple[str, str]:
        """Return what the agent there says that it is: id and name."""
        where = self._remote.where
        try:
            return identity_untrusted(self._remote.run("netagent status --json"))
        except FactsError as error:
            hint = "`netagent status` there says more"
            raise FailedError(f"{where}: {error}", thing=where, hint=hint) from None

    def _await_agent(self) -> tuple[str, str]:
        self._progress("waiting for its agent")
        end_s = time.monotonic() + STARTED_S
        while True:
            try:
                return self._identity()
            except ScriptError as error:
                if time.monotonic() > end_s:
                    raise FailedError(
                        f"the agent of {self._remote.where} does not answer: {error.message}",
                        thing=self._remote.where,
                        hint="see `journalctl -u netagent` there",
                    ) from None
                time.sleep(_LOOK_S)

    def _connect(self, part: str) -> None:
        self._progress(f"connecting netagent to {part} there")
        self._will_undo(f"the part {part}", f"netagent uninstall {part}")
        try:
            self._change('netagent install "$1" >&2', part)
        except ScriptError as error:
            raise FailedError(
                f"{self._remote.where} could not be connected to {part}: {error.message}",
                thing=self._remote.where,
            ) from None

    def _join(self) -> None:
        self._progress("joining the cluster")
        invitation = self._client.send(InviteCommand(ttl_s=_INVITATION_S, uses=1))
        # 4: it is in no cluster.
        leave = 'netagent leave --drain 0s || [ "$?" = 4 ]'
        self._will_undo("its membership", leave, "netagent leave")
        revoke = partial(self._client.send, UninviteCommand(invitation=invitation["id"]))
        typed = f"netagent uninvite {invitation['id']}"
        # Before it leaves: what cannot join any more does not join again.
        self._undo.append(_Undo("the invitation", revoke, typed, is_there=False))
        try:
            self._change("netagent join --token-file - >&2", stdin=f"{invitation['token']}\n".encode())
        except ScriptError as error:
            message = f"{self._remote.where} could not join: {error.message}"
            if error.status == RefusedError.exit_status:
                raise RefusedError(message, thing=self._remote.where) from None
            raise FailedError(
                message,
                thing=self._remote.where,
                hint="open UDP and TCP 7956 and 7957 between the hosts, and UDP 4799 (7955 if the cluster encrypts)",
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
            if member["name"] == name and member["agent"] != "left":
                return dict(member)
        raise NotFoundError(f"the cluster has no host {name}", thing=name)

    def _there(self, *command: str) -> str:
        """Run a command there; its words are arguments, so no shell reads them."""
        return self._remote.run('"$@"', *command).decode(errors="replace")

    def _change(self, script: str, *words: str, **more: Any) -> None:
        with _uninterrupted():
            self._remote.run(script, *words, **more)

    def _will_undo(self, what: str, script: str, typed: str = "", *words: str) -> None:
        """Undo the next step by this script there, with these arguments. `typed`: what an operator types, unless it
        is the script."""
        undo = partial(self._remote.run, script, *words, within_s=INSTALLING_S)
        self._undo.append(_Undo(what, undo, self._remote.typed(typed or script)))

    def _go_back(self) -> list[tuple[_Undo, str]]:
        """Undo what was done; return what could not be, each with the reason."""
        left: list[tuple[_Undo, str]] = []
        lost = ""
        while self._undo:
            undo = self._undo.pop()
            if lost and undo.is_there:
                left.append((undo, lost))
                continue
            self._progress(f"taking back: {undo.what}")
            try:
                with _uninterrupted():
                    undo.do()
            except LostError as error:
                # Each further attempt would take as long as this one.
                lost = error.message
                left.append((undo, lost))
            except NetagentError as error:
                left.append((undo, error.message))
            except KeyboardInterrupt:
                left += [(one, "interrupted") for one in (undo, *reversed(self._undo))]
                self._undo.clear()
        return left


_THE_COPY = "the copied package"


def _refuse_taken(members: Sequence[Mapping[str, Any]], name: str, host_id: str = "") -> None:
    """Raise RefusedError if a member has this name or id. A host that has left may come back."""
    for member in members:
        if member["agent"] != "left" and (member["name"] == name or member["id"] == host_id):
            raise RefusedError(
                f"the cluster has a host {member['name']} already",
                thing=member["name"],
                hint="choose another name with --name",
            )


def _undo_deb(facts: HostFacts) -> tuple[str, ...]:
    """Return what, the script, and what an operator types. To purge would remove the configuration and the state that
    were there before, too."""
    if not facts.had:
        return "the package netagent", f"{_APT} purge netagent >&2", "apt-get purge -y netagent"
    kept = "" if "state" in facts.had else "; rm -rf /var/lib/netagent"
    return "the package netagent", f"{_APT} remove netagent >&2{kept}", f"apt-get remove -y netagent{kept}"


def _undo_tree(facts: HostFacts, prefix: str) -> tuple[str, ...]:
    """Return what, the script, what an operator types, and the script's arguments."""
    folders = [prefix]
    folders += [] if "state" in facts.had else ["/var/lib/netagent"]
    folders += [] if "configuration" in facts.had else ["/etc/netagent"]
    typed = f"netagent uninstall systemd; rm -rf {' '.join(folders)} /usr/local/bin/netagent"
    return "the files of netagent", _REMOVE_TREE, typed, *folders


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Raise Ctrl-C only when the block has ended: a script that is cut off here goes on there, beside the one that
    undoes it. The second Ctrl-C is raised at once."""
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    before = {number: signal.signal(number, note) for number in _ENDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
