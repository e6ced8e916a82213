"""`netagent config check` and `config show` as people type them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent import config
from netagent.cli.config_commands import _file, _plain
from netagent.cli.main import main


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("NETAGENT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "netagent.toml"
    path.write_text('seeds = ["h1", "h2:7000"]\ngossip_port = 7000\n\n[docker]\nmirror = false\n')
    return path


def test_show_prints_a_file_that_an_agent_reads_the_same(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "show", "--config", str(file)]) == 0
    written = capsys.readouterr().out
    assert 'seeds = ["h1", "h2:7000"]' in written.splitlines()
    again = file.parent / "again" / "netagent.toml"
    again.parent.mkdir()
    again.write_text(written)
    assert config.load(again, {}, {}) == config.load(file, {}, {})


@given(
    texts=st.fixed_dictionaries(
        {"state_dir": st.text(st.characters(exclude_characters="\0", codec="utf-8")).map("/".__add__)}
    )
)
def test_any_text_is_read_back(texts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    loaded = config.load_with_origins(None, texts, {}).config
    items = [{"name": key.name, "value": _plain(getattr(loaded, key.field))} for key in config.KEYS]
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(_file(items)), encoding="utf-8", newline="")
    assert config.load(path, {}, {}) == loaded


def test_origins(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "conf.d").mkdir()
    later = file.parent / "conf.d" / "later.toml"
    later.write_text("gossip_port = 7001\n")
    monkeypatch.setenv("NETAGENT_ZONE", "east")
    assert main(["config", "show", "--origin", "--config", str(file)]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["gossip_port"] == ["7001", str(later)]
    assert rows["docker.mirror"] == ["false", str(file)]
    assert rows["zone"] == ['"east"', "$NETAGENT_ZONE"]
    assert rows["vxlan_port"] == ["4799", "default"]
    assert main(["config", "show", "--config", str(file), "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert {"name": "seeds", "value": ["h1", "h2:7000"], "origin": str(file)} in items
    assert [item["name"] for item in items] == [key.name for key in config.KEYS]


def test_check_names_the_files_and_variables_that_are_no_keys(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETAGENT_ZON", "east")
    assert main(["config", "check", "--config", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"The configuration is valid; it is read from {file}.\n"
    assert "NETAGENT_ZON is ignored" in err
    assert "did you mean NETAGENT_ZONE?" in err
    assert main(["config", "check", "--config", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is True
    assert len(answer["warnings"]) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gosip_port = 1", "did you mean 'gossip_port'?"),
        ("gossip_port = 0", "must be between 1 and 65535"),
        ("= 1", "cannot read"),
        ('state_dir = "here"', "must be an absolute path"),
    ],
)
def test_a_configuration_that_is_not_valid_exits_2(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    file.write_text(text)
    for command in ("check", "show"):
        assert main(["config", command, "--config", str(file)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
        assert str(file) in err or "correct" in err


def test_a_variable_that_is_no_text_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETAGENT_STATE_DIR", os.fsdecode(b"/\xff"))
    assert main(["config", "show", "--config", str(file)]) == 2
    assert "must be text in UTF-8" in capsys.readouterr().err
