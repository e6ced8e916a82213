#!/usr/bin/python3 -SEI
"""The executable that container runtimes start: passes each call to the agent and prints the answer.

CNI runtimes and netavark start a program for each container, several in a chain, and wait for it. So this file is
installed alone (`netagent install cni`, `netagent install podman`) and runs on any Python of the host, without the
product's own environment. It does not interpret what it passes on, and every import costs milliseconds. It imports
neither `site` (-S), `socket`, `json` and `annotations` nor `os` (but the part of it that is written in C): together
they double the start-up time.

The call, as the body of one HTTP request (netagent.integrations.shim_call is the other half):

    argument \\0 argument … \\0\\0 NAME=value \\0 NAME=value … \\0\\0 standard input

with only the CNI_* variables of the environment. It prints the answer's body; the header X-Exit-Status is the exit
status.
"""

import _signal  # type: ignore[import-not-found]  # mypy knows `signal`, but that imports enum: 4 ms
import _socket
import posix
import sys

SOCKET = "/run/netagent/netagent.sock"
DEADLINE_S = 20
"""Timeout of the whole run. The agent times out every call after 10 s, so this is for an agent that hangs."""
MAX_INPUT_BYTES = 1 << 20
"""The longest honest input is CNI's list of all attachments of a host, at some 120 bytes each."""

TRY_AGAIN, NOT_AVAILABLE, BAD_ENVIRONMENT, UNREADABLE = 11, 50, 4, 6
"""CNI's error codes: https://www.cni.dev/docs/spec/#error"""
VERSIONS = b'{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'
"""Answer to VERSION if no agent runs: CRI-O calls it when it reads the configurations, and drops one whose plug-in
fails; without this answer, the agent would have to start before CRI-O."""

ENCODING = sys.getfilesystemencoding()


class Unanswered(Exception):  # noqa: N818  (named for what happened)
    """The agent cannot be reached, or its answer is incomplete. The text says why, and what to do."""

    def __init__(self, text: str, code: int = TRY_AGAIN) -> None:
        super().__init__(text)
        self.code = code


def main() -> None:
    """Call the agent, print the answer, exit; never returns."""
    _signal.signal(_signal.SIGALRM, _too_late)
    _signal.alarm(DEADLINE_S)
    path = as_text(posix.environ.get(b"NETAGENT_SOCKET", b"")) or SOCKET
    try:
        if b"CNI_COMMAND" not in posix.environ:
            refuse_rootless()
        status, output = ask(path, call(read_input()))
    except Unanswered as error:
        status, output = 1, error_text(str(error), error.code)
        if error.code == TRY_AGAIN and posix.environ.get(b"CNI_COMMAND") == b"VERSION":
            status, output = 0, VERSIONS
    while output:
        output = output[posix.write(1, output) :]
    posix._exit(status)  # noqa: SLF001  (public as os._exit)


def _too_late(*_: object) -> None:
    raise TimeoutError


def as_text(raw: bytes) -> str:
    """Decode like `os.fsdecode`."""
    return raw.decode(ENCODING, "surrogateescape")


def refuse_rootless() -> None:
    """Refuse rootless Podman: it starts the shim as root of a user namespace that does not map the whole range."""
    with open("/proc/self/uid_map", "rb") as file:  # noqa: PTH123  (pathlib takes 10 ms to import)
        whole = file.read().split() == [b"0", b"0", b"4294967295"]
    if posix.getuid() or not whole:
        raise Unanswered(
            "netagent's networks need rootful Podman, because only root can attach an interface to a bridge of the"
            " host; run it with sudo"
        )


def read_input() -> bytes:
    """Read standard input to its end; empty if it is a terminal or closed."""
    if posix.isatty(0) or sys.argv[1:] == ["info"]:
        return b""
    found = b""
    try:
        while chunk := posix.read(0, 65536):
            found += chunk
            if len(found) > MAX_INPUT_BYTES:
                raise Unanswered(f"standard input is larger than {MAX_INPUT_BYTES} bytes", UNREADABLE)
    except TimeoutError:
        text = f"standard input did not end within {DEADLINE_S} s; close it after the configuration"
        raise Unanswered(text, UNREADABLE) from None
    except OSError as error:
        raise Unanswered(f"cannot read standard input: {error.strerror}", UNREADABLE) from None
    return found


def call(stdin: bytes) -> bytes:
    """Return the body of the request."""
    arguments = [one.encode(ENCODING, "surrogateescape") for one in sys.argv]
    variables = [name + b"=" + value for name, value in posix.environ.items() if name.startswith(b"CNI_")]
    return b"\0\0".join((b"\0".join(arguments), b"\0".join(variables), stdin))


def ask(path: str, body: bytes) -> tuple[int, bytes]:
    """Return the agent's (exit status, output). Raises Unanswered if it does not answer."""
    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    answer = b""
    try:
        stream.connect(path)
        head = b"POST /v1/shim HTTP/1.0\r\nHost: netagent\r\nContent-Length: %d\r\n\r\n"
        stream.sendall(head % len(body) + body)
        # Do not wait for the end of the connection: the agent may close it later than it answers.
        while parted(answer)[2] is None and (chunk := stream.recv(65536)):
            answer += chunk
    except TimeoutError:
        raise Unanswered(f"the agent at {path} did not answer within {DEADLINE_S} s; see its log") from None
    except (FileNotFoundError, ConnectionRefusedError):
        text = f"no agent runs on this host (no program listens on {path}); start it with `netagent agent`"
        raise Unanswered(text) from None
    except PermissionError:
        raise Unanswered(f"only root and the group netagent may use the agent at {path}; use sudo") from None
    except OSError as error:
        if not answer:  # else parse what came before the error
            raise Unanswered(f"cannot reach the agent at {path}: {error.strerror or error}") from None
    return understood(path, answer)


def parted(answer: bytes) -> tuple[bytes, dict[bytes, bytes], bytes | None]:
    """Split an HTTP answer into (first line, headers, output). Output None: it is still incomplete."""
    head, end_of_head, output = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    pairs = [one.partition(b":") for one in lines]
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    is_whole = end_of_head and headers.get(b"content-length") == b"%d" % len(output)
    return first, headers, output if is_whole else None


def understood(path: str, answer: bytes) -> tuple[int, bytes]:
    """Return (exit status, output) of the bytes of an HTTP answer."""
    first, headers, output = parted(answer)
    if output is None:
        raise Unanswered(f"the agent at {path} closed the connection too early; check whether it still runs")
    kind = first.partition(b" ")[2][:1]
    if kind != b"2":
        plain = headers.get(b"content-type", b"").startswith(b"text/plain")
        text = (
            output.decode("ascii", "replace").strip() if plain else f"the agent at {path} has another version"
        )
        raise Unanswered(text, UNREADABLE if kind == b"4" else TRY_AGAIN)
    return int(headers.get(b"x-exit-status", b"1")), output


def error_text(text: str, code: int) -> bytes:
    """Format an error as the calling runtime expects it."""
    plain = "".join(one if " " <= one <= "~" and one not in '"\\' else "?" for one in text).encode()
    command = posix.environ.get(b"CNI_COMMAND")
    if command is None:
        return b'{"error":"netagent: %s"}\n' % plain
    if command == b"STATUS" and code == TRY_AGAIN:
        code = NOT_AVAILABLE
    return b'{"cniVersion":"1.0.0","code":%d,"msg":"%s"}\n' % (code, plain)


if __name__ == "__main__":
    main()
