"""The manual pages say what the program knows, and roff understands them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from netagent.cli.grammar import whole_grammar
from netagent.config import KEYS

FILE = Path(__file__).parents[2] / "packaging" / "manual.py"


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    """Loaded by its path: `packaging` is also the name of a library."""
    spec = importlib.util.spec_from_file_location("manual", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(text: str) -> str:
    return text.replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")


def test_every_command_and_option_is_described(manual: ModuleType) -> None:
    page = plain(manual.commands_page("1.2"))
    for command in manual.leaves(whole_grammar()):
        _, found, rest = page.partition(f'.SS "{command.prog}"\n')
        assert found, command.prog
        part = rest.split(".SS ")[0].split(".SH ")[0]
        for action in command._actions:
            if not set(action.option_strings) & set(manual.COMMON) and not action.dest.startswith("key_"):
                assert all(option in part for option in action.option_strings), (command.prog, action)


def test_every_key_is_described(manual: ModuleType) -> None:
    page = plain(manual.keys_page("1.2"))
    for key in KEYS:
        assert f'.B "{key.name} = {key.metavar}"' in page
        assert f"Also {key.flag} and {key.variable}." in page


def test_text_is_no_roff(manual: ModuleType) -> None:
    assert manual.escaped(".SH x\n'y\n-\\fB") == "\\&.SH x\n\\&'y\n\\-\\efB"


@pytest.mark.parametrize("name", ["netagent.1", "netagent.toml.5"])
def test_no_line_begins_with_an_unknown_request(manual: ModuleType, name: str) -> None:
    known = {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".BR", ".I", ".nf", ".fi", ".RS", ".RE"}
    for line in manual.PAGES[name]("1.2").splitlines():
        if line.startswith((".", "'")):
            assert line.split()[0] in known, line
            assert line.count('"') % 2 == 0, line
