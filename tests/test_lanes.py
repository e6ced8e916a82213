"""`.ci/tests`: a test may fail by chance once, and is named then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / ".ci" / "tests"
SETTINGS = "[pytest]\nmarkers = lab\n  services\n  boot\n  kernel\n  runtimes\n  interop\n  long\n"
MEETING = ("lab", "kernel", "boot", "others")
SUITE = """
import os
import pathlib
import time
import pytest

HERE = pathlib.Path(__file__).parent

def fails_once(name):
    tries = HERE / str(name)
    with tries.open("a") as file:
        file.write("x")
    assert tries.stat().st_size > 1

def meets(name, *others):
    (HERE / f"{{name}}-is-here").touch()
    until = time.monotonic() + 60
    while not all((HERE / f"{{other}}-is-here").exists() for other in others):
        assert time.monotonic() < until, "alone"
        time.sleep(0.01)
    (HERE / f"{{name}}-nice").write_text(str(os.nice(0)))

@pytest.mark.lab
def test_of_lab():
    {lab}

@pytest.mark.kernel
def test_of_kernel():
    {kernel}

def test_that_computes():
    {others}
"""


def _run(folder: Path, lab: str = "pass", kernel: str = "pass", others: str = "pass") -> tuple[int, str]:
    """Runs a suite of three tests; returns the exit status and all output."""
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_suite.py").write_text(SUITE.format(lab=lab, kernel=kernel, others=others))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "CACHES": str(folder / "caches"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "xdist.plugin",
    }
    process = subprocess.run(
        [TESTS, "not long", "-q"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return process.returncode, process.stdout


def test_all_that_pass_need_no_words(tmp_path: Path) -> None:
    status, output = _run(tmp_path)
    assert status == 0
    assert output.count("1 passed") == 3
    assert "==" not in output


def test_the_lanes_run_at_once_and_what_computes_leaves_the_processors_to_the_others(tmp_path: Path) -> None:
    boot = "\n\n@pytest.mark.boot\n@pytest.mark.lab\ndef test_of_boot():\n    meets('boot', 'lab', 'kernel')"
    lab, kernel = ("meets('lab', 'kernel', 'boot')" + boot, "meets('kernel', 'lab', 'boot')")
    status, output = _run(tmp_path, lab=lab, kernel=kernel, others="meets('others')")
    assert status == 0, output
    niceness = {name: int((tmp_path / f"{name}-nice").read_text()) for name in MEETING}
    assert {niceness[name] for name in ("lab", "kernel", "boot")} == {os.nice(0)}
    assert niceness["others"] == min(os.nice(0) + 10, 19)


def test_each_test_belongs_to_one_group(tmp_path: Path) -> None:
    """Also one of a host that boots, or of services, which is of the lab as well."""
    both = "pass"
    for mark in ("boot", "services"):
        both += f"\n\n@pytest.mark.{mark}\n@pytest.mark.lab\ndef test_of_{mark}():\n    fails_once('{mark}')"
    status, output = _run(tmp_path, lab=both)
    assert status == 0, output
    for mark in ("boot", "services"):
        assert (tmp_path / mark).stat().st_size == 2, "once, and once more alone"
    assert output.splitlines()[-2:] == ["test_suite.py::test_of_services", "test_suite.py::test_of_boot"]


def test_what_passes_alone_is_named_and_forgiven(tmp_path: Path) -> None:
    status, output = _run(tmp_path, lab="fails_once('lab')", kernel="fails_once('kernel')")
    assert status == 0, output
    assert (tmp_path / "lab").stat().st_size == (tmp_path / "kernel").stat().st_size == 2
    end = output.splitlines()[-3:]
    assert "failed, then passed alone" in end[0]
    assert end[1:] == ["test_suite.py::test_of_lab", "test_suite.py::test_of_kernel"]


def test_what_fails_twice_has_failed(tmp_path: Path) -> None:
    status, output = _run(tmp_path, lab="fails_once('lab')", kernel="assert not 'ever'")
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert output.count("assert not 'ever'") >= 2
    end = output.splitlines()[-4:]
    assert end[:2] == ["== failed, of the group kernel:", "test_suite.py::test_of_kernel"]
    assert end[3] == "test_suite.py::test_of_lab"


def test_what_mostly_computes_has_a_second_try_as_well(tmp_path: Path) -> None:
    status, output = _run(tmp_path, others="fails_once('others')")
    assert status == 0, output
    assert (tmp_path / "others").stat().st_size == 2
    assert output.splitlines()[-1] == "test_suite.py::test_that_computes"


def test_many_fail_by_no_chance(tmp_path: Path) -> None:
    many = "pass\n\n@pytest.mark.lab\n@pytest.mark.parametrize('n', range(7))\ndef test_many(n):\n    fails_once(n)"
    status, output = _run(tmp_path, lab=many)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    assert all((tmp_path / str(n)).stat().st_size == 1 for n in range(7))
    assert output.count("::test_many[") >= 7
