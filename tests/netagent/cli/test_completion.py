"""What bash, zsh and fish themselves offer by the scripts of `netagent completion`, at the press of the tab key."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from netagent.cli.completion import completion_script

Completion = Callable[..., list[str]]

LISTS = {
    "endpoints --local": "web-1\nweb-2\ndb.shop\n",
    "services --local": "web\ndb.shop\n",
    "network ls": "app\nshop\n",
    "members": "h1\nh2\n",
    "name ls": "note.app\n",
    "token ls": "grafana\n",
}

BASH = """
source {folder}/completion
line={line}
read -ra COMP_WORDS <<<"$line"
[[ $line == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE=$line COMP_POINT=${{#line}}
$(complete -p netagent | sed 's/.*-F \\([^ ]*\\).*/\\1/') netagent "${{COMP_WORDS[-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}" >{folder}/offered
"""

FISH = "source {folder}/completion; complete -C {line} | string replace -r '\\t.*' '' >{folder}/offered"

ZSHRC = """
PATH={folder}:$PATH
autoload -Uz compinit
compinit -u -d {folder}/../zcompdump
source {folder}/completion
compadd() {{
  if [[ " ${{@[1,(i)(-|--)]}} " == *' '-[OAD]' '* ]]; then builtin compadd "$@"; return; fi
  local -a found
  builtin compadd -A found "$@"
  print -rl -- $found >>{folder}/offered
  builtin compadd "$@"
}}
ends() {{ exit }}
comppostfuncs=(ends)
"""
"""An interactive zsh whose completion writes what it would offer, and ends."""


script = functools.cache(completion_script)


@pytest.fixture(params=["bash", "zsh", "fish"])
def completion(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Completion:
    """What the shell offers for a line, without what does not begin like its last word, sorted."""
    shell: str = request.param
    (tmp_path / "completion").write_text(script(shell))
    (tmp_path / ".zshrc").write_text(ZSHRC.format(folder=tmp_path))
    (tmp_path / "cluster.toml").touch()

    def offered(line: str, lists: dict[str, str] = LISTS, *, ends: str = "") -> list[str]:
        for number, names in enumerate(lists.values()):
            (tmp_path / f"list-{number}").write_text(names)
        cases = "".join(f"'{words} -o name') cat {tmp_path}/list-{n} ;;\n" for n, words in enumerate(lists))
        program = tmp_path / "netagent"
        program.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\n{ends}\n')
        program.chmod(0o755)
        result = tmp_path / "offered"
        result.write_text("")
        quoted = "'" + line.replace("'", "'\\''") + "'"
        argv = {
            "bash": ["bash", "-c", BASH.format(folder=tmp_path, line=quoted)],
            "fish": ["fish", "--no-config", "-c", FISH.format(folder=tmp_path, line=quoted)],
            "zsh": ["script", "-qec", "zsh -i", "/dev/null"],
        }[shell]
        done = subprocess.run(
            argv,
            input=f"{line}\t" if shell == "zsh" else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "ZDOTDIR": str(tmp_path),
                "HOME": str(tmp_path),
            },
        )
        assert done.stderr == "", done
        last = line.rsplit(" ", maxsplit=1)[-1]
        option, equals, value = last.partition("=")
        found = {one.removeprefix(f"{option}=") for one in result.read_text().splitlines()}
        return sorted(one for one in found if one and one.startswith(value if equals else last))

    return offered


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("netagent net", ["network"]),
        ("netagent network conn", ["connect"]),
        ("netagent detach ", ["db.shop", "web-1", "web-2"]),
        ("netagent detach w", ["web-1", "web-2"]),
        ("netagent detach --drain 5s d", ["db.shop"]),
        ("netagent ping web-1 w", ["web-1", "web-2"]),
        ("netagent forget h1 h", ["h1", "h2"]),
        ("netagent network rm s", ["shop"]),
        ("netagent link web-1 ", ["db.shop", "web"]),
        ("netagent attach netns:x --network a", ["app"]),
        ("netagent attach netns:x --link d", ["db.shop"]),
        ("netagent services --host h", ["h1", "h2"]),
        ("netagent inspect ", ["app", "db.shop", "h1", "h2", "shop", "web", "web-1", "web-2"]),
        ("netagent name rm n", ["note.app"]),
        ("netagent token revoke g", ["grafana"]),
        ("netagent network set app --policy l", ["links"]),
        ("netagent apply cl", ["cluster.toml"]),
        ("netagent report --file cl", ["cluster.toml"]),
    ],
)
def test_a_shell_offers_commands_choices_files_and_names_that_the_agent_knows(
    completion: Completion, line: str, names: list[str]
) -> None:
    found = completion(line)
    assert [one for one in found if not one.startswith("-")] == names


@pytest.mark.parametrize("completion", ["zsh", "fish"], indirect=True)
def test_a_shell_offers_the_value_of_an_option_behind_its_sign(completion: Completion) -> None:
    assert completion("netagent attach netns:x --network=s") == ["shop"]


def test_names_that_a_shell_would_expand_are_not_offered(completion: Completion, tmp_path: Path) -> None:
    harm = "$(touch harm)\n`touch harm`\n*\n-rf\na;touch harm\na b\n~root\n\x1b[2J\n${HOME}\nweb\n"
    found = completion("netagent detach ", {"endpoints --local": harm})
    assert [one for one in found if not one.startswith("-")] == ["web"]
    assert not (tmp_path / "harm").exists()


def test_completion_is_silent_while_the_agent_is_away(completion: Completion) -> None:
    found = completion("netagent detach ", {}, ends="echo netagent: no agent >&2; exit 3")
    assert [one for one in found if not one.startswith("-")] == []
