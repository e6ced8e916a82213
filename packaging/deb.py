"""Builds the Debian package: netagent in its own Python environment, separate from the system's.

    python packaging/deb.py [--output DIR]

The environment is /usr/lib/netagent, built with Debian's python3 and byte-compiled; it works with that minor version
of Python only, on which the package depends. It contains what `packaging/requirements.txt` locks. The package also
has the units, manual pages and completions that the program itself generates, and its bill of materials, which is
written beside it as well. The script needs git, python3-venv and dpkg-deb but no privileges, and changes nothing on
the machine.

The same checkout gives the same package, byte for byte, on every machine with the same architecture, Python and dpkg:
a person who has a package can build it and compare. All times in it are that of the checkout's commit, or
SOURCE_DATE_EPOCH, without which a folder that is no checkout of git can't be built.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import bill_of_materials
import environment
import manual

from netagent import __version__
from netagent.install.files import PACKAGE, SYSTEM_FOLDERS, InstallContext, system_files
from netagent.install.installer import texts

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "packaging" / "debian"
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
    os.umask(0o022)
    if "SOURCE_DATE_EPOCH" not in os.environ:
        os.environ["SOURCE_DATE_EPOCH"] = _time_of_commit()
    os.environ["PYTHONHASHSEED"] = "0"  # byte code contains sets in the order of their hashes
    with tempfile.TemporaryDirectory(prefix="netagent-deb-") as name:
        stage = Path(name) / "root"
        stage.mkdir()
        bill = _environment(stage)
        _system_files(stage)
        _documents(stage, bill)
        architecture = environment.run(["dpkg", "--print-architecture"]).strip()
        _control(stage, architecture)
        output.mkdir(parents=True, exist_ok=True)
        package = output / f"netagent_{__version__}_{architecture}.deb"
        environment.run(["dpkg-deb", "--root-owner-group", "--build", str(stage), str(package)])
        package.with_suffix(".cdx.json").write_text(bill)
        return package


def _time_of_commit() -> str:
    # Root may build the checkout of another user, which git reads only if it is told so.
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return environment.run(git).strip()


def _environment(stage: Path) -> str:
    """Build the environment; return its bill of materials."""
    home = stage / HOME.removeprefix("/")
    hashes = environment.build(home)
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
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
        f"executable = {environment.SYSTEM_PYTHON}\n"
    )
    for own in home.glob("lib/python*/site-packages/netagent-*.dist-info"):
        (own / "direct_url.json").unlink(missing_ok=True)
    for record in home.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        _correct(record)
    # Byte code is not checked against the sources at each start: dpkg replaces both together.
    compiling = [
        "-m",
        "compileall",
        "-q",
        "-f",  # pip has compiled what it imports itself, with the name of this folder inside
        "-j",
        "0",
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        str(stage),
        "-p",
        "/",
    ]
    environment.run([environment.SYSTEM_PYTHON, *compiling, str(home / "lib")])
    (stage / "usr/bin").mkdir()
    (stage / "usr/bin/netagent").symlink_to(f"..{HOME.removeprefix('/usr')}/bin/netagent")
    return bill_of_materials.document(home, hashes)


def _correct(record: Path) -> None:
    """Drop files that are gone from the list of a library's files, and the hashes of those that were changed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, digest, size in csv.reader(record.read_text().splitlines()):
        file = record.parents[1] / name
        if digest and file.exists():
            content = file.read_bytes()
            sha256 = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            writer.writerow([name, f"sha256={sha256}", len(content)])
        elif file.exists():
            writer.writerow([name, digest, size])
    record.write_text(text.getvalue())


def _system_files(stage: Path) -> None:
    for file in system_files(InstallContext(texts=texts()), PACKAGE):
        _write(stage / file.path.removeprefix("/"), file.content)
    for folder in (*SYSTEM_FOLDERS, "/etc/netagent/conf.d"):
        (stage / folder.removeprefix("/")).mkdir(parents=True, exist_ok=True)


def _documents(stage: Path, bill: str) -> None:
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
        _write(stage / place, environment.run([*program, shell]).encode())
    folder = stage / "usr/share/doc/netagent"
    _write(folder / "copyright", (ROOT / "LICENSE").read_bytes())
    _write(folder / "changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    _write(folder / "bill-of-materials.cdx.json", bill.encode())
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
    return environment.run(
        [environment.SYSTEM_PYTHON, "-c", "import platform; print(platform.python_version())"]
    ).strip()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def main() -> None:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist")
    print(build(parser.parse_args().output))


if __name__ == "__main__":
    main()
