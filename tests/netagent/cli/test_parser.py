"""Wrong words on the command line: which sentence each of them gets."""

from __future__ import annotations

import pytest

from netagent.cli.grammar import parse
from netagent.errors import InputError


@pytest.mark.parametrize(
    ("words", "text", "hint"),
    [
        ("atach", "netagent has no command 'atach'", "did you mean 'attach'?"),
        ("network creat", "netagent network has no command 'creat'", "did you mean 'create'?"),
        ("xyzzy", "netagent has no command 'xyzzy'", "see `netagent --help`"),
        ("service's", 'netagent has no command "service\'s"', "did you mean 'services'?"),
        ("a\\b", "netagent has no command 'a\\\\b'", "see `netagent --help`"),
        ("completion tcsh", "netagent completion does not take 'tcsh'", "take bash, zsh or fish"),
        ("install dokcer", "netagent install does not take 'dokcer'", "did you mean 'docker'?"),
        ("status -o jsno", "-o/--output cannot be 'jsno'", "take table, wide, json, ndjson or name"),
        ("ping a b --count x", "--count cannot be 'x'", "give a whole number"),
        ("status --outptu json", "netagent status takes no option '--outptu'", "did you mean '--output'?"),
        ("nodes", "netagent has no command 'nodes'", "`netagent members` lists the hosts"),
        ("agents", "netagent has no command 'agents'", "`netagent members` lists the hosts"),
        ("network show", "netagent network has no command 'show'", "see `netagent network --help`"),
        (
            "status --watch",
            "netagent status takes no option '--watch'",
            "`netagent top` follows the state of this host",
        ),
        ("events -w", "netagent events takes no option '-w'", "did you mean '--follow'?"),
        ("endpoints -f", "netagent endpoints takes no option '-f'", "did you mean '--watch'?"),
        (
            "drain --host h2",
            "netagent drain takes ENDPOINT or --host, not both",
            "--host is the host on which you type it: there `netagent drain --host`",
        ),
        ("detach", "netagent detach: the following arguments are required", "see `netagent detach --help`"),
        ("init extra", "netagent init takes no argument 'extra'", "see `netagent init --help`"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence_with_a_way_out(words: str, text: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(words.split())
    assert caught.value.exit_status == 2
    assert caught.value.message.startswith(text)
    assert caught.value.hint == hint


def test_options_of_every_command_stand_before_or_after_it() -> None:
    for words in ("--json network ls --debug", "network --debug ls --json", "network ls --json --debug"):
        _, parsed = parse(words.split())
        assert (parsed.output, parsed.debug) == ("json", True), words
