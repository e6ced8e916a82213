"""Builds the Debian package: netagent in its own Python environment, separate from the system's.

    python packaging/deb.py [--output DIR]

The environment is /usr/lib/netagent, built with Debian's python3 and byte-compiled; it works with that minor version
of Python only, on which the package depends. pip gets the libraries from its configured package index. The package
also has the units, manual pages and completions that the program itself generates. The script needs python3-venv and
dpkg-deb but no privileges, and changes nothing on the machine.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import manual

from netagent import __version__
from netagent.install.files import PACKAGE, SYSTEM_FOLDERS, InstallContext, system_files
from netagent.install.installer import texts

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "packaging" / "debian"
SYSTEM_PYTHON = "/usr/bin/python3"
HOME = "/usr/lib/netagent"

CONTROL = """\
Package: netagent
Version: {version}
Architecture: {architecture}
Maintainer: The netagent authors <netagent@example.org>
Installed-Size: {size_kib}
Depends: python3 (>= {python}), python3 (<< {next_python}), libc6, libseccomp2, nftables, passwd
Recommends: iptables
Suggests: docker.io, podman, wireguard-go
Section: net
Priority: optional
Description: service discovery and overlay networks for containers
 An agent on each host gives containers of Docker, Podman, CNI runtimes and
 plain network namespaces one network and names across hosts, without a
 central server.
"""

COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/netagent",
    "zsh": "usr/share/zsh/vendor-completions/_netagent",
    "fish": "usr/share/fish/vendor_completions.d/netagent.fish",
}


def build(output: Path) -> Path:
    """Build the package and return its path."""
    with tempfile.TemporaryDirectory(prefix="netagent-deb-") as name:
        stage = Path(name) / "root"
        stage.mkdir(mode=0o755)
        _environment(stage)
        _system_files(stage)
        _documents(stage)
        architecture = _run(["dpkg", "--print-architecture"]).strip()
        _control(stage, architecture)
        output.mkdir(parents=True, exist_ok=True)
        package = output / f"netagent_{__version__}_{architecture}.deb"
        _run(["dpkg-deb", "--root-owner-group", "--build", str(stage), str(package)])
        return package


def _environment(stage: Path) -> None:
    home = stage / HOME.removeprefix("/")
    _run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(home)])
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--python",
        str(home / "bin/python"),
    ]
    _run([*pip, "install", "--no-compile", str(ROOT)])
    # The environment is built here and used at HOME: replace paths of this folder, or remove them.
    for file in (home / "bin").iterdir():
        if file.name not in {"netagent", "python", "python3"} and not file.is_symlink():
            file.unlink()
    shutil.rmtree(home / "include")
    (home / ".gitignore").unlink(missing_ok=True)
    script = home / "bin/netagent"
    first, rest = script.read_text().split("\n", 1)
    assert first.startswith("#!"), first
    script.write_text(f"#!{HOME}/bin/python -P\n{rest}")
    script.chmod(0o755)
    version = _python_version()
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\nexecutable = {SYSTEM_PYTHON}\n"
    )
    for own in home.glob("lib/python*/site-packages/netagent-*.dist-info"):
        (own / "direct_url.json").unlink(missing_ok=True)
    # Byte code is not checked against the sources at each start: dpkg replaces both together.
    compiling = [
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        str(stage),
        "-p",
        "/",
    ]
    _run([SYSTEM_PYTHON, *compiling, str(home / "lib")])
    (stage / "usr/bin").mkdir()
    (stage / "usr/bin/netagent").symlink_to(f"..{HOME.removeprefix('/usr')}/bin/netagent")


def _system_files(stage: Path) -> None:
    for file in system_files(InstallContext(texts=texts()), PACKAGE):
        _write(stage / file.path.removeprefix("/"), file.content)
    for folder in (*SYSTEM_FOLDERS, "/etc/netagent/conf.d"):
        (stage / folder.removeprefix("/")).mkdir(parents=True, exist_ok=True)


def _documents(stage: Path) -> None:
    for name, page in manual.PAGES.items():
        place = f"usr/share/man/man{name[-1]}/{name}.gz"
        _write(stage / place, gzip.compress(page(__version__).encode(), mtime=0))
    program = [
        str(stage / HOME.removeprefix("/") / "bin/python"),
        "-P",
        "-m",
        "netagent.cli.main",
        "completion",
    ]
    for shell, place in COMPLETIONS.items():
        _write(stage / place, _run([*program, shell]).encode())
    folder = stage / "usr/share/doc/netagent"
    _write(folder / "copyright", (ROOT / "LICENSE").read_bytes())
    _write(folder / "changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    _write(folder / "examples/netagent.toml", (ROOT / "docs/netagent.example.toml").read_bytes())


def _control(stage: Path, architecture: str) -> None:
    major, minor, *_ = _python_version().split(".")
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    control = stage / "DEBIAN"
    fields: Mapping[str, object] = {
        "version": __version__,
        "architecture": architecture,
        "size_kib": sum(path.stat().st_size for path in files) // 1024,
        "python": f"{major}.{minor}",
        "next_python": f"{major}.{int(minor) + 1}",
    }
    _write(control / "control", CONTROL.format(**fields).encode())
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}\n" for path in files]
    _write(control / "md5sums", "".join(sums).encode())
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(SCRIPTS / script, control / script)
        (control / script).chmod(0o755)


def _python_version() -> str:
    return _run([SYSTEM_PYTHON, "-c", "import platform; print(platform.python_version())"]).strip()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False, umask=0o022
    )
    if done.returncode != 0:
        sys.exit(f"failed with status {done.returncode}: {' '.join(command)}")
    return done.stdout


def main() -> None:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist")
    print(build(parser.parse_args().output))


if __name__ == "__main__":
    main()
