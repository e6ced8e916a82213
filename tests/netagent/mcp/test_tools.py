from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.cli.grammar import parse
from netagent.cli.mcp_command import _parsed
from netagent.errors import InputError, NetagentError
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command
from netagent.interface.role import Role
from netagent.mcp.tools import CHANGES, INSTRUCTIONS, Tool, checked_untrusted, tools


def parsed(words: list[str]) -> Command[Any]:
    return parse(words)[0]


READING = {one.name: one for one in tools(None)}
ALL = {one.name: one for one in tools(parsed)}
REQUIRED: dict[str, Any] = {
    "what": "services",
    "thing": "web",
    "to": "web",
    "name": "web",
    "words": ["drain", "web"],
}


def request(tool: Tool, **given: Any) -> Any:
    return tool.request(checked_untrusted(tool, given))


def test_there_are_at_most_nine_and_only_the_last_changes_something() -> None:
    assert len(ALL) <= 9
    assert ALL.keys() - READING.keys() == {"change"}
    assert all(one.is_reading for one in READING.values())
    assert sum(len(one.description) for one in ALL.values()) + len(INSTRUCTIONS) < 3000


@pytest.mark.parametrize("name", READING)
def test_reading_tools_ask_by_get(name: str) -> None:
    tool = READING[name]
    asked = request(tool, **{one: REQUIRED[one] for one in tool.required})
    assert type(asked).declaration.verb == "GET"


def test_arguments_become_the_fields_of_requests() -> None:
    assert vars(request(ALL["list"], what="endpoints", network="app", host="h1")) == {
        "network": "app",
        "host": "h1",
    }
    assert vars(request(ALL["ping"], to="db:6379", **{"from": "web"})) == {
        "to": "db:6379",
        "from_endpoint": "web",
        "trace": True,
    }
    assert request(ALL["events"], since="2d", kind="member").since_s == 172800
    assert request(ALL["flows"], refused=True).refused is True
    with pytest.raises(InputError, match="members cannot be filtered"):
        request(ALL["list"], what="members", network="app")


@pytest.mark.parametrize(
    ("name", "given_"),
    [
        ("list", {"what": "secrets"}),
        ("list", {}),
        ("why", {"thing": ["web"]}),
        ("why", {"thing": "x" * 1025}),
        ("why", {"thing": "web\n"}),
        ("status", {"thing": "web"}),
        ("flows", {"refused": "yes"}),
        ("change", {"words": "drain web"}),
        ("change", {"words": []}),
        ("change", {"words": ["drain"] * 65}),
        ("change", {"words": [1]}),
    ],
)
def test_what_the_schema_does_not_say_is_refused(name: str, given_: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        checked_untrusted(ALL[name], given_)


@given(
    st.dictionaries(
        st.text(max_size=8), st.recursive(st.none() | st.text(max_size=9), st.lists, max_leaves=3)
    )
)
def test_any_arguments_are_refused_by_one_error_or_make_a_request(arguments: dict[str, Any]) -> None:
    for tool in ALL.values():
        with contextlib.suppress(NetagentError):
            assert isinstance(tool.request(checked_untrusted(tool, arguments)), Command)


def test_a_change_is_what_the_command_line_would_send() -> None:
    asked = request(ALL["change"], words=["network", "set", "app", "--policy", "audit"])
    assert type(asked).declaration.command == "network set"
    assert vars(asked)["network"] == "app"


@pytest.mark.parametrize(
    "words",
    [
        ["invite"], ["token", "create", "x", "--admin"], ["join", "192.0.2.1"], ["leave"],
        ["forget", "h2", "--force"],
        ["network", "rm", "app", "--force"], ["network", "prune"], ["init"], ["agent"], ["install", "docker"],
        ["apply", "file"], ["mcp", "--allow-write"], ["status"],
    ],
)  # fmt: skip
def test_what_prints_secrets_or_takes_much_away_is_no_change(words: list[str]) -> None:
    with pytest.raises(InputError):
        request(ALL["change"], words=words)


@pytest.mark.parametrize("words", [["attach", "--help"], ["--help"], ["-h"], ["--version"]])
def test_no_words_end_the_server_or_print_into_its_protocol(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change = {one.name: one for one in tools(_parsed)}["change"]
    with pytest.raises(InputError, match="change nothing"):
        request(change, words=words)
    assert capsys.readouterr().out == ""


def test_changes_are_commands_of_the_agent() -> None:
    by_name = {one.declaration.command: one.declaration for one in COMMANDS}
    assert by_name.keys() >= CHANGES
    assert all(by_name[one].verb in ("POST", "DELETE") and by_name[one].role <= Role.ADMIN for one in CHANGES)
