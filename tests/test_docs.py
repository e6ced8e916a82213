"""Documents are held against the code: commands exist, links resolve, tables say what is so.

tests/guide types the commands on hosts of the lab. The Python examples of gossip/README.md and dns/README.md run in
tests/gossip/test_gossip_readme.py and tests/dns/test_readme.py.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guide.shown import Shown, commands
from lab.faults import ALWAYS, DUPLICATE, FORGOTTEN, SLOW, SOMETIMES
from netlab.main import _parser as lab_parser

from netagent import config
from netagent.cli import grammar
from netagent.control.client import DEFAULT_SOCKET
from netagent.registry.views import ConflictKind

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs/netagent.example.toml"
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*/README.md"),
        ROOT / "tests/SCENARIOS.md",
    ],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
BY_NAME = {path.relative_to(ROOT).as_posix(): path for path in DOCUMENTS}


def text_of(name: str) -> str:
    return BY_NAME[name].read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """From a heading to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text_of(name).partition(f"\n{heading}\n")
    assert found, f"{name} has no {heading!r}"
    return re.split(rf"\n#{{1,{level}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"\|[-|]+\|$", line)]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]
    return [row for row in cells if row != cells[0]]


# -- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_links_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (BY_NAME[name].parent / path).resolve() if path else BY_NAME[name]
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_guide_leads_to_every_decision() -> None:
    index = text_of("docs/index.md")
    decisions = sorted((ROOT / "docs/design").glob("*.md"))
    assert decisions
    numbers = [path.name.partition("-")[0] for path in decisions]
    assert len({*numbers}) == len(numbers), "each number has one decision"
    for number, path in zip(numbers, decisions, strict=True):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {number} ")
        assert f"[{text.splitlines()[0].removeprefix('# ')}](design/{path.name})" in index
        assert "\n## Decided\n" in text
        assert "\n## Rejected\n" in text


# -- commands ------------------------------------------------------------------------------------------------------


def words_of(command: str) -> Iterator[list[str]]:
    """The simple commands of a line, each without `sudo` and what it runs on another host."""
    for part in command.split(" | "):
        words = shlex.split(part, comments=True)
        for after in (">", "&"):
            words = words[: words.index(after)] if after in words else words
        if words[:1] == ["ssh"]:
            words = words[2:]
        if words[:1] == ["sudo"]:
            words = words[1:]
        yield words
        if words[0] in {"lab", "netns-lab/lab"} and "--" in words:
            yield words[words.index("--") + 1 :]


ALL_COMMANDS = [(name, shown) for name in BY_NAME for shown in commands(text_of(name))]


def test_there_are_commands_to_check() -> None:
    assert {"README.md", "CONTRIBUTING.md", "netns-lab/README.md"} <= {name for name, _ in ALL_COMMANDS}


@pytest.mark.parametrize(("name", "shown"), ALL_COMMANDS)
def test_a_shell_understands_it(name: str, shown: Shown) -> None:
    if shown.is_pattern:
        return
    subprocess.run(["bash", "-n", "-c", shown.typed], check=True, timeout=10)


@pytest.mark.parametrize(("name", "shown"), ALL_COMMANDS)
def test_commands_exist(name: str, shown: Shown) -> None:
    if shown.is_pattern:
        return
    for words in words_of(shown.typed):
        check_words(words)


def check_words(words: list[str]) -> None:
    program, arguments = words[0], words[1:]
    if program == "netagent" and arguments:
        assert grammar.parse(arguments) if arguments != ["--help"] else True
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program in {"lab", "netns-lab/lab"}:
        lab_parser().parse_args(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    elif program == "pytest":
        marks = re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        for before, word in zip(["", *arguments], arguments, strict=False):
            assert word == "-m" or (word in marks if before == "-m" else (ROOT / word).exists()), word


@pytest.mark.parametrize("name", BY_NAME)
def test_commands_in_running_text_exist(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", text_of(name), flags=re.DOTALL | re.MULTILINE)
    for command in re.findall(r"`(?:sudo )?(netagent(?: [^`]+)?)`", prose):
        if Shown(0, command).is_pattern or re.search(r"\b[A-Z]{3,}\b", command):
            continue
        words = shlex.split(command)[1:]
        if words and not words[0].startswith("/"):
            check_command_word(words, name)


SOURCES = sorted((ROOT / "netagent").rglob("*.py"))


def texts_in(source: Path) -> Iterator[str]:
    """The strings of a module; `{…}` stands where something is filled in."""
    tree = ast.parse(source.read_text())
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield node.value


def test_commands_that_errors_and_warnings_name_exist() -> None:
    checked = 0
    for source in SOURCES:
        for text in texts_in(source):
            for command in re.findall(r"`(?:sudo )?(netagent [a-z][^`\n]*)`", text):
                words = command.split()[1:]
                if not words[0].startswith("{") and not words[-1].endswith(("=", "|")):
                    check_command_word(words, f"{source.name}: {text}")
                    checked += 1
    assert checked > 50


def check_command_word(words: list[str], name: str) -> None:
    """Running text may leave required arguments away, but not invent commands or options."""
    known = leaves()
    first_of_two = {path.partition(" ")[0] for path in known if " " in path}
    path = " ".join(words[:2]) if words[0] in first_of_two else words[0]
    assert path in known or path in first_of_two or words == ["--help"], f"{name}: netagent {' '.join(words)}"
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    if path in known:
        assert options <= options_of(known[path]), f"{name}: netagent {' '.join(words)}"


def leaves() -> dict[str, argparse.ArgumentParser]:
    """Every command and alias with its parser, by its words."""
    said: frozenset[str] = frozenset()
    for _ in range(
        3
    ):  # commands take their arguments only when they are said; each round says one level more
        found = dict(walk(grammar._root(said), ""))
        said = frozenset(word for path in found for word in path.split())
    return found


def walk(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for word, child in action.choices.items():
            yield from walk(child, f"{path} {word}".strip())


COMMON = {"-h", "--help", "-o", "--output", "--json", "--socket", "--token-file", "--ca-file", "--debug"}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def test_the_reference_has_every_command_and_option() -> None:
    by_parser: dict[int, set[str]] = {}
    parsers = leaves()
    for path, parser in parsers.items():
        by_parser.setdefault(id(parser), set()).add(path)
    reference = text_of("docs/reference/command-line.md")
    described = set(re.findall(r"^### (.+)$", reference, re.MULTILINE))
    for paths in by_parser.values():
        parser = parsers[min(paths)]
        if paths <= {"endpoint ls", "service ls"}:  # other words for `endpoints` and `services`
            assert next(iter(paths)) in reference
            continue
        (heading,) = paths & described
        part = section("docs/reference/command-line.md", f"### {heading}")
        for alias in paths - {heading}:
            assert alias in part, f"{heading} is also {alias}"
        named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", part))
        assert named - COMMON <= options_of(parser), heading
        for action in parser._actions:
            options = set(action.option_strings)
            assert not options or options & (named | COMMON), f"{heading} says nothing of {options}"
    assert described == {path for path in parsers if path in described}


def test_a_command_is_where_the_guide_to_contributing_says() -> None:
    """Its example lists all files that know of one command, and no others."""
    text = text_of("CONTRIBUTING.md").partition("**a command.**")[2].partition("**a module.**")[0]
    listed = {row[0].strip("`") for row in rows(text)}
    known = re.compile(r"UnpublishCommand|def unpublish|^### unpublish", re.MULTILINE)
    folders = [ROOT / name for name in ("netagent", "tests", "docs", "packaging")]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in {".py", ".md"}]
    found = {str(file.relative_to(ROOT)) for file in files if known.search(file.read_text("utf-8"))}
    assert found - {"tests/test_docs.py"} == listed


def test_the_guide_says_what_to_do_about_each_warning() -> None:
    """The codes of `status` and `doctor`, and of conflicts, all stand in the table that leads to a symptom."""
    emitted = {kind.value for kind in ConflictKind} | {"upstream-dead", "upstream-slow"}
    additions = ROOT / "netagent/control/present_additions.py"
    for source in [*sorted((ROOT / "netagent/commands").rglob("*.py")), additions]:
        emitted |= set(re.findall(r'"code": "([a-z-]+)"', source.read_text(encoding="utf-8")))
    table = section("docs/how-to/troubleshooting.md", "## Warnings by their code")
    listed = {code for row in rows(table) for code in re.findall(r"`([a-z-]+)`", row[0])}
    assert listed == emitted


def test_the_guide_lists_each_fault_that_tests_break_with_the_commands_that_find_it() -> None:
    table = section("docs/how-to/troubleshooting.md", "## Faults and the commands that find them")
    listed = {row[0]: re.findall(r"`([a-z]+)`", row[1]) for row in rows(table)}
    assert listed == {
        fault.name.replace("-", " "): list(dict.fromkeys(words.split()[0] for _, words in fault.commands))
        for fault in (*ALWAYS, DUPLICATE, FORGOTTEN, *SOMETIMES, *SLOW)
    }


# -- configuration -------------------------------------------------------------------------------------------------


def test_every_key_is_documented_as_it_is() -> None:
    found = {
        row[0].strip("`"): row[1:] for row in rows(section("docs/reference/configuration.md", "## Keys"))
    }
    assert list(found) == [key.name for key in config.KEYS]
    for key in config.KEYS:
        meaning, values, default, applied, ways = found[key.name]
        assert meaning
        assert values
        assert applied == ("at once" if key.reloads else "restart"), key.name
        assert ways == f"`{key.variable}`, `{key.flag}`"
        if key.default not in (None, "", ()):
            assert default == f"`{spelt(key.default)}`", key.name


def spelt(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def test_the_example_file_loads_and_shows_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert config.load(EXAMPLE, {}, {}) == config.load(tmp_path / "empty.toml", {}, {})


def test_the_example_file_has_every_key_and_its_examples_load(tmp_path: Path) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(text)
    config.load(tmp_path / "all.toml", {}, {})
    assert sorted(config.flattened(tomllib.loads(text))) == sorted(key.name for key in config.KEYS)


def test_the_socket_is_where_the_documents_say() -> None:
    for name in ("docs/reference/command-line.md", "docs/reference/configuration.md"):
        assert f"`{DEFAULT_SOCKET}`" in text_of(name)


# -- ARCHITECTURE.md -----------------------------------------------------------------------------------------------


def test_what_is_generated_is_current() -> None:
    """`make docs` writes it."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run `make docs`: {path.relative_to(ROOT)}"


def test_other_files_that_the_architecture_names_exist() -> None:
    text = text_of("ARCHITECTURE.md")
    for name in re.findall(r"\btests/[\w/.]+[\w/]", text):
        assert (ROOT / name).exists(), name
    headings = (
        "## In one picture",
        "## Seven rules",
        "## Three flows",
        "## Making a network",
        "## Where to change what",
        "## Fail static",
        "## Invariants, and where they are checked",
    )
    for heading in headings:
        part = section("ARCHITECTURE.md", heading)
        for name in re.findall(r"(?<![\w/])((?:[a-z_]+/)+[a-z_]+\.py)", part) + re.findall(
            r"`([\w/]+/)`", part
        ):
            if not name.startswith("tests/"):
                places = [ROOT / "netagent", ROOT / "gossip", ROOT / "dns"]
                assert any((place / name).exists() for place in places), name


# -- tests/SCENARIOS.md --------------------------------------------------------------------------------------------


def test_the_list_of_scenarios_is_that_of_the_tests() -> None:
    """Each number with the files that use it, in the name of a test or in a docstring."""
    used: dict[int, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for number in re.findall(r"\b(?:test_scenario_|Scenario )(\d+)", path.read_text(encoding="utf-8")):
            used.setdefault(int(number), set()).add(path.relative_to(ROOT).as_posix())
    listed = rows(text_of("tests/SCENARIOS.md"))
    assert {int(number): set(re.findall(r"`([^`]+)`", files)) for number, _, files in listed} == used
    assert [int(number) for number, _, _ in listed] == sorted(used), "in order, and each once"
