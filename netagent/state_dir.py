"""The agent's folders: the host's identity, the cluster's keys, the journal, and the lock for one agent per host.

    STATE_DIR/identity    32 bytes of private key in base64, made at the first start
    STATE_DIR/keyring     cluster id, name, domain and keys; the host is in a cluster if the file exists
    STATE_DIR/tunnel_key  private key of the encrypted tunnel in base64, of a cluster that encrypts
    STATE_DIR/state.db    the journal (netagent.journal.journal)
    STATE_DIR/events      what happened on this host (netagent.events.keeper)
    STATE_DIR/revoked     who revoked this host, until it joins or starts a cluster again
    STATE_DIR/tokens      digests of the tokens of the API (netagent.access.token_store)
    RUN_DIR/agent.lock    held while the agent runs

Files are written under another name and renamed, so that a crash leaves the old or the new content.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from netagent.errors import FailedError, RefusedError
from netgossip.join.identity import PRIVATE_KEY_BYTES, Identity

RELEASE_S = 2.0
"""If an agent is killed while it starts a program, that program holds the lock for a moment longer."""
_KEY_SIZES_BYTES = {16, 24, 32}
_CLUSTER_ID = re.compile(r"[0-9a-f]{32}")


class KeyNote(NamedTuple):
    """What this host knows of a ring key."""

    number: int = 0
    """Which of several it is (netagent.model.ring_key); 0: not known."""
    since_s: int = 0
    """When this host got it, as Unix time; 0: not written down yet."""


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """The content of the key ring file, which makes a host a member."""

    cluster_id: str
    cluster: str
    domain: str
    keys: tuple[bytes, ...] = field(repr=False)
    """The first one seals outgoing packets."""
    notes: Mapping[bytes, KeyNote] = field(default_factory=dict, repr=False)
    """By key. A file of the release before has none."""
    encrypts: bool = False
    """This host sends containers' packets encrypted alone. Beside the keys, because it must be known before the
    cluster's records are, also to a host whose journal is lost."""
    allows_unsigned: bool | None = None
    """Whether nodes that prove nothing of what they say may be members; None: not decided yet, as in a cluster of the
    release before."""

    def note_of(self, key: bytes) -> KeyNote:
        """Return what is known of a key."""
        return self.notes.get(key, KeyNote())


@dataclass(frozen=True, slots=True)
class Revocation:
    """That an operator of a cluster has revoked this host."""

    cluster_id: str
    cluster: str
    by: str
    """The name of the host on which that was typed, or the start of its id."""
    host_id: str
    """The identity that was revoked."""


class StateDir:
    """The folders of one agent; open while it runs."""

    def __init__(self, state_dir: Path, run_dir: Path, keyring_file: Path) -> None:
        """Create the folders and take the lock. Raises RefusedError when another agent holds it."""
        self.state_dir = state_dir
        self.run_dir = run_dir
        self._keyring_file = keyring_file
        _make_folder(state_dir, 0o700)
        _make_folder(run_dir, 0o755)
        self._lock_fd = _lock(run_dir / "agent.lock")

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock_fd)

    @property
    def journal_file(self) -> Path:
        """Return the path of the journal."""
        return self.state_dir / "state.db"

    @property
    def events_file(self) -> Path:
        """Return the path of the file of events. It outlives the membership: it says why this host left."""
        return self.state_dir / "events"

    @property
    def tokens_file(self) -> Path:
        """Return the path of the API's tokens."""
        return self.state_dir / "tokens"

    def identity(self, fresh_key: bytes) -> Identity:
        """Return this host's identity; the first start makes it from `fresh_key`."""
        path = self.state_dir / "identity"
        key = _kept_key(path, fresh_key)
        revocation = self.revocation()
        revoked = "" if revocation is None or self._keyring_file.exists() else revocation.host_id
        if len(key) == PRIVATE_KEY_BYTES and Identity(key).node_id == revoked:
            # A crash came between the end of the keys and that of the identity.
            self.forget_identity()
            key = _kept_key(path, fresh_key)
        if len(key) != PRIVATE_KEY_BYTES:
            raise FailedError(
                f"the identity in {path} is damaged",
                thing=str(path),
                hint="restore it from a backup, or remove the whole folder to make this a new host",
            )
        return Identity(key)

    def tunnel_key(self, fresh_key: bytes) -> bytes:
        """Return this host's private key in the encrypted tunnel; the first call makes it from `fresh_key`. A damaged
        one is replaced: other hosts follow the record with its public half."""
        path = self._tunnel_key_file
        key = _kept_key(path, fresh_key)
        if len(key) != len(fresh_key):
            path.unlink(missing_ok=True)
            key = _kept_key(path, fresh_key)
        return key

    def replace_tunnel_key(self, key: bytes) -> None:
        """Write another private key of the encrypted tunnel. FailedError."""
        write_private(self._tunnel_key_file, base64.b64encode(key).decode() + "\n")

    def tunnel_key_since_s(self) -> float | None:
        """Return when the private key of the encrypted tunnel was written, in seconds since 1970; None: there is
        none."""
        try:
            return self._tunnel_key_file.stat().st_mtime
        except OSError:
            return None

    @property
    def _tunnel_key_file(self) -> Path:
        return self.state_dir / "tunnel_key"

    def cluster_keys(self) -> ClusterKeys | None:
        """Return the keys of this host's cluster, or None. Raises FailedError when the file is damaged."""
        path = self._keyring_file
        content = _read(path)
        if content is None:
            return None
        try:
            body = json.loads(content)
            keys = tuple(base64.b64decode(key, validate=True) for key in body["keys"])
            if not keys or {len(key) for key in keys} - _KEY_SIZES_BYTES:
                raise ValueError("a key has a wrong size")
            if _CLUSTER_ID.fullmatch(body["cluster_id"]) is None:
                raise ValueError("the cluster id is not 32 hex digits")
            names = str(body["cluster"]), str(body["domain"])
            notes = _notes_of(body.get("notes", {}), keys)
            encrypts = body.get("encrypts", False)
            if not isinstance(encrypts, bool):
                raise ValueError("encrypts is neither true nor false")
            allows = body.get("allows_unsigned")
            if allows is not None and not isinstance(allows, bool):
                raise ValueError("allows_unsigned is neither true nor false")
            return ClusterKeys(body["cluster_id"], *names, keys, notes, encrypts, allows)
        except KeyError as error:
            raise _senseless(path, f"{error} is missing") from None
        except (ValueError, TypeError) as error:
            raise _senseless(path, str(error)) from None

    def save_cluster_keys(self, keys: ClusterKeys) -> None:
        """Write the key ring: from now on this host is a member, also after a restart."""
        body: dict[str, object] = {
            "cluster_id": keys.cluster_id,
            "cluster": keys.cluster,
            "domain": keys.domain,
            "keys": [base64.b64encode(key).decode() for key in keys.keys],
        }
        if keys.encrypts:
            body["encrypts"] = True
        if keys.allows_unsigned is not None:
            body["allows_unsigned"] = keys.allows_unsigned
        if keys.notes:
            body["notes"] = {base64.b64encode(key).decode(): list(note) for key, note in keys.notes.items()}
        write_private(self._keyring_file, json.dumps(body, indent=1) + "\n")

    def forget_cluster(self) -> None:
        """Delete keys and journal. The keys go first: without them no later start reads the rest."""
        self._keyring_file.unlink(missing_ok=True)
        self._tunnel_key_file.unlink(missing_ok=True)
        for path in self.state_dir.glob("state.db*"):
            path.unlink(missing_ok=True)
        _sync_folder(self.state_dir)

    def note_revoked(self, revocation: Revocation) -> None:
        """Keep the revocation, and delete the keys, that of the tunnel among them: this host is in no cluster from
        now on. What the journal keeps of endpoints that were fenced stays."""
        write_private(self.state_dir / "revoked", json.dumps(asdict(revocation)) + "\n")
        self._keyring_file.unlink(missing_ok=True)
        self._tunnel_key_file.unlink(missing_ok=True)
        _sync_folder(self._keyring_file.parent)
        _sync_folder(self.state_dir)

    def revocation(self) -> Revocation | None:
        """Return what `note_revoked` kept. A damaged note says nothing."""
        content = _read(self.state_dir / "revoked")
        try:
            return None if content is None else Revocation(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def forget_revocation(self) -> None:
        """Delete that note."""
        (self.state_dir / "revoked").unlink(missing_ok=True)

    def forget_identity(self) -> None:
        """Delete the identity: a host that left returns as a new one, as the old one has handed everything over."""
        (self.state_dir / "identity").unlink(missing_ok=True)
        _sync_folder(self.state_dir)


def _kept_key(path: Path, fresh_key: bytes) -> bytes:
    """Return the key in the file, which is made from `fresh_key` if there is none; empty if it is damaged."""
    content = _read(path)
    if content is None:
        write_private(path, base64.b64encode(fresh_key).decode() + "\n")
        return fresh_key
    try:
        return base64.b64decode(content.strip(), validate=True)
    except ValueError:
        return b""


def _read(path: Path) -> bytes | None:
    """Return the file's content; None when it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedError(f"cannot read {path}: {error.strerror}", thing=str(path)) from None


def _notes_of(body: dict[str, list[int]], keys: tuple[bytes, ...]) -> dict[bytes, KeyNote]:
    """Return the notes of the keys that are there: an operator may have changed them by hand."""
    if not isinstance(body, dict):
        raise ValueError("the notes are no table")
    notes = {}
    for key in keys:
        written = body.get(base64.b64encode(key).decode())
        if written is not None:
            number, since_s = map(int, written)
            notes[key] = KeyNote(number, since_s)
    return notes


def _senseless(path: Path, why: str) -> FailedError:
    return FailedError(
        f"the key ring in {path} is damaged ({why})",
        thing=str(path),
        hint="restore it from another member, or remove it and join again",
    )


def write_private(path: Path, text: str) -> None:
    """Replace the file atomically with `text`, readable by its owner only."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.unlink(missing_ok=True)  # a crash or another program may have left it with any mode
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise FailedError(
            f"cannot write {path}: {error.strerror}",
            thing=str(path),
            hint="free space, or repair the file system",
        ) from None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_folder(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        folder.chmod(mode)
    except OSError as error:
        raise FailedError(
            f"cannot create or use the folder {folder}: {error.strerror}",
            thing=str(folder),
            hint="run the agent as root"
            if error.errno in {errno.EPERM, errno.EACCES}
            else "name another folder",
        ) from None


def _lock(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedError(f"cannot open {path}: {error.strerror}", thing=str(path)) from None
    end = time.monotonic() + RELEASE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        else:
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
            return fd
        if _is_alive(holder) or time.monotonic() > end:
            break
        time.sleep(0.01)
    os.close(fd)
    raise RefusedError(
        f"another agent is already running on this host (process {holder or 'unknown'} holds {path})",
        code="already-running",
        thing=str(path),
        hint="stop it first, or give this one other folders with --state-dir and --run-dir",
    )


def _is_alive(process_id: str) -> bool:
    """False only if no process has this number."""
    return not process_id.isdecimal() or Path("/proc", process_id).exists()
