"""The console command `netagent`: parses the arguments and returns the exit status.

    0 done    1 the answer is no    2 wrong usage    3 no agent    4 refused by a rule    5 failed

Users and scripts start it often, so it imports very little: a test checks that trio, pyroute2, msgpack and
cryptography are not imported. Only `netagent agent` loads the daemon.
"""

from __future__ import annotations

import errno
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from netagent.cli.client_commands import CommandContext, run_command, token_from
from netagent.cli.grammar import parse
from netagent.cli.render import Printer, clean
from netagent.control.client import DEFAULT_SOCKET, Client
from netagent.errors import NetagentError

UNEXPECTED = 5
WRONG_USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
PIPE_CLOSED = 141
"""128 + SIGPIPE: the reader closed the pipe, as `head` does. Not an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. An error prints one sentence on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        try:
            return _run(words)
        finally:
            # Flush here and not at exit, so that a closed pipe raises inside this try.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except NetagentError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_status
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
            _drop_output()
            _complain(f"cannot write the output: {error.strerror}; write it to a place that has space")
        else:
            _complain(f"failed unexpectedly ({type(error).__name__}: {error}); run it again with --debug")
        return UNEXPECTED


def _drop_output() -> None:
    """Redirect standard output to /dev/null: Python would print a second error when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(sentence: str) -> None:
    print(clean(f"netagent: {sentence}"), file=sys.stderr)


def _run(words: Sequence[str]) -> int:
    if not words:
        from netagent.cli.overview import overview

        sys.stderr.write(overview())
        return WRONG_USAGE
    request, parsed = parse(words)
    socket_path = parsed.socket or os.environ.get("NETAGENT_SOCKET") or DEFAULT_SOCKET
    client = Client(socket_path, token=_token(parsed, socket_path), ca_file=_given(parsed, "ca_file") or None)
    session = CommandContext(client, Printer(parsed.output or "table"), parsed)
    return run_command(session, request)


def _given(parsed: Namespace, name: str) -> str:
    """Return an option, or else its variable: NETAGENT_CA_FILE."""
    return getattr(parsed, name, None) or os.environ.get(f"NETAGENT_{name.removeprefix('api_').upper()}", "")


def _token(parsed: Namespace, agent: str) -> str:
    """Return the token for another host. It never stands on the command line, which all users can see."""
    file = _given(parsed, "api_token_file")
    if not file or "://" not in agent:
        return ""
    return token_from(file, "`netagent token create` on that host prints one")


if __name__ == "__main__":
    sys.exit(main())
