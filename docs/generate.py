"""Generate the parts of the documents that list the code.

These are the folders and the bounds in ARCHITECTURE.md, every file in reference/modules.md, the keys in
reference/configuration.md, the usage of each command in reference/command-line.md, and the routes in
reference/http-api.md. The texts are the docstrings' first sentences, the help texts of netagent.config.KEYS and the
declarations in netagent.interface.
A bound is a constant, or the default of a field, whose docstring begins "Bound of WHAT; beyond it: POLICY."
`make docs` runs this; a test checks that the documents are current.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from netagent import config_values as kind
from netagent.config import KEYS, ConfigKey
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import REQUIRED, Argument, Command

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("gossip/netgossip", "dns/netdns", "netagent")
BEGIN: Final = "<!-- folders: written by `make docs` -->"
END: Final = "<!-- folders end -->"
BEGIN_BOUNDS: Final = "<!-- bounds: written by `make docs` -->"
END_BOUNDS: Final = "<!-- bounds end -->"
BEGIN_KEYS: Final = "<!-- keys: written by `make docs` -->"
END_KEYS: Final = "<!-- keys end -->"
BEGIN_ROUTES: Final = "<!-- routes: written by `make docs` -->"
END_ROUTES: Final = "<!-- routes end -->"
LINE: Final = 110
VALUES: Final[dict[Callable[[Any], Any], str]] = {
    kind.boolean: "`true` or `false`",
    kind.domain: "a lower-case domain name of at most 200 characters",
    kind.name: "one lower-case DNS label (a-z, 0-9, - and _; at most 63 characters)",
    kind.optional_address: "an IPv4 or IPv6 address",
    kind.optional_listener: "ADDRESS:PORT, an IPv6 address in brackets",
    kind.optional_name: "one DNS label, as for `name`, or empty",
    kind.optional_path: "an absolute path",
    kind.path: "an absolute path",
    kind.pools: "a list of IPv4 ranges, each a /20 or larger",
    kind.seeds: "a list of `HOST`, `HOST:PORT` or `[IPV6]:PORT`",
    kind.text: "text",
    kind.texts: "a list of texts",
}
"""What each kind of value may be. Kinds with bounds or choices are not here: `_values` reads those from the code."""
_BOUND: Final = re.compile(r"Bound of (.+?); beyond it: (.+?)\.(?: |$)")
_DEFAULT_IN_HELP: Final = re.compile(r" \((default|without PORT): (.*)\)$")
"""A default that is no constant stands at the end of a key's help text."""


def main() -> None:
    """Write all generated parts."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """Return the files with the text that they should hold."""
    architecture, configuration = ROOT / "ARCHITECTURE.md", ROOT / "docs/reference/configuration.md"
    commands, api = ROOT / "docs/reference/command-line.md", ROOT / "docs/reference/http-api.md"
    table = "\n".join(["| folder | holds |", "|---|---|", *(_folder_row(folder) for folder in folders())])
    text = _replaced(architecture.read_text(encoding="utf-8"), BEGIN, table, END)
    return {
        architecture: _replaced(text, BEGIN_BOUNDS, "\n".join(_bounds()), END_BOUNDS),
        configuration: _replaced(
            configuration.read_text(encoding="utf-8"), BEGIN_KEYS, "\n".join(_keys()), END_KEYS
        ),
        ROOT / "docs/reference/modules.md": _modules(),
        commands: _usages(commands),
        api: _replaced(api.read_text(encoding="utf-8"), BEGIN_ROUTES, "\n".join(_routes()), END_ROUTES),
    }


def _replaced(page: str, begin: str, text: str, end: str) -> str:
    """Return the page with `text` between the two markers."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def _bounds() -> Iterator[str]:
    """The table of bounds, line by line, in the order of the files."""
    yield "| file | what waits | bound | when full |"
    yield "|---|---|---|---|"
    for folder in folders():
        for path in sorted(folder.glob("*.py")):
            for owner, name, doc in _documented(ast.parse(path.read_text(encoding="utf-8"))):
                if doc.startswith("Bound of "):
                    found = _BOUND.match(doc)
                    assert found is not None, f"{path}: {name} has no policy"
                    value = _amount(name, _value(path, owner, name))
                    yield f"| {path.relative_to(ROOT).as_posix()} | {found[1]} | `{name}` = {value} | {found[2]} |"


def _documented(module: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Each constant and each field of a class that has a docstring: its class or "", its name, the docstring."""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for owner, body in [("", module.body), *((node.name, node.body) for node in classes)]:
        for node, below in itertools.pairwise(body):
            match node, below:
                case (
                    (ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name))),
                    ast.Expr(ast.Constant(str(doc))),
                ):
                    yield owner, name, " ".join(doc.split())


def _value(path: Path, owner: str, name: str) -> float:
    package = next(ROOT / package for package in PACKAGES if path.is_relative_to(ROOT / package))
    module = importlib.import_module(".".join(path.relative_to(package.parent).with_suffix("").parts))
    if not owner:
        return float(getattr(module, name))
    return float(getattr(module, owner).__dataclass_fields__[name].default)


def _amount(name: str, value: float) -> str:
    """With thousands separated; octets in units of 1,024 where that is exact."""
    if "bytes" in name.lower():
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value / size:,.0f} {unit}"
        return f"{value:,.0f} bytes"
    return f"{value:,g}" if value % 1 else f"{value:,.0f}"


def _keys() -> Iterator[str]:
    """The table of configuration keys, line by line."""
    yield "| key | meaning and relations | values | default | applied | variable, option |"
    yield "|---|---|---|---|---|---|"
    for key in KEYS:
        meaning, default = _meaning(key), _default(key)
        applied = "at once" if key.reloads else "restart"
        ways = f"`{key.variable}`, `{key.flag}`"
        yield f"| `{key.name}` | {meaning} | {_values(key)} | {default} | {applied} | {ways} |"


def _meaning(key: ConfigKey) -> str:
    """The help text without a default at its end, with the names of other keys as code."""
    text = _DEFAULT_IN_HELP.sub(lambda found: "" if found[1] == "default" else found[0], key.help)
    others = "|".join(re.escape(key.name) for key in KEYS if "_" in key.name or "." in key.name)
    return re.sub(rf"(?<![\w`])(?:{others}|advertise|seeds|mdns)(?![\w`])", r"`\g<0>`", text)


def _default(key: ConfigKey) -> str:
    found = _DEFAULT_IN_HELP.search(key.help)
    if found is not None and found[1] == "default":
        return found[2]
    if key.default in (None, "", ()):
        return "none"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    return f"`{','.join(key.default) if isinstance(key.default, tuple) else key.default}`"


def _values(key: ConfigKey) -> str:
    """The range or the choices, which the parser of the key was made with; else what its kind says."""
    bounds = inspect.getclosurevars(key.parse).nonlocals
    if "choices" in bounds:
        return ", ".join(f"`{choice}`" for choice in bounds["choices"])
    if "low" in bounds:
        return f"{bounds['low']} to {bounds['high']}"
    return VALUES[key.parse]


def _usages(file: Path) -> str:
    """The file's text with the usage of each command below its heading. A command without a heading gets one, with
    its description, behind the command before it."""
    text, before = file.read_text(encoding="utf-8"), ""
    for command in COMMANDS:
        name = command.declaration.command
        heading = f"### {name}\n\n"
        if heading not in text:
            head, mark, rest = text.partition(f"### {before}\n")
            body, end = re.split(r"(?=^###? )", rest, maxsplit=1, flags=re.MULTILINE)
            text = f"{head}{mark}{body}{heading}```\n```\n\n{command.description()}\n\n{end}"
        head, _, rest = text.partition(heading)
        block = re.match(r"```\n.*?```\n", rest, re.DOTALL)
        if block is None:
            raise SystemExit(f"{file}: no block with the usage below {heading.strip()!r}")
        text = f"{head}{heading}```\n{_usage(command)}\n```\n{rest[block.end() :]}"
        before = name
    return text


def _usage(command: type[Command[Any]]) -> str:
    """What may be typed, in lines of at most LINE characters."""
    arguments = [one for one in command.arguments() if one.is_typed and not one.is_exclusive]
    options = [one for one in arguments if one.words]
    parts = [_positional(one) for one in arguments if not one.words]
    parts += map(_option, sorted(options, key=lambda one: one.default is not REQUIRED))
    exclusive = [(one.words or [one.metavar])[0] for one in command.arguments() if one.is_exclusive]
    parts += [f"[{' | '.join(exclusive)}]"] if exclusive else []
    parts += ["[--KEY VALUE]…"] if command.declaration.name == "agent" else []
    lines = [f"netagent {command.declaration.command}"]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) > LINE:
            lines.append("   ")
        lines[-1] += f" {part}"
    return "\n".join(lines)


def _positional(one: Argument) -> str:
    forms = {"*": f"[{one.metavar}…]", "?": f"[{one.metavar}]"}
    return forms.get(one.parsing.get("nargs", ""), one.metavar)


def _option(one: Argument) -> str:
    value = one.metavar or "|".join(one.parsing.get("choices", ()))
    text = f"{one.words[-1]} {value}".strip()
    if one.default is REQUIRED:
        return text
    return f"[{text}]…" if one.parsing.get("action") == "append" else f"[{text}]"


def _routes() -> Iterator[str]:
    """The table of routes, line by line."""
    yield "| method and path | fields | answer | command | role |"
    yield "|---|---|---|---|---|"
    for command in COMMANDS:
        declared = command.declaration
        if not declared.verb:
            continue
        sent = [one.field for one in command.arguments() if one.is_sent and one.field not in declared.in_path]
        fields = ", ".join(f"`{field}`" for field in sent)
        where = ("body: " if declared.has_body else "query: ") if sent else ""
        answer = command.answer().replace("schema.", "")
        created = "; 201 if it is new" if declared.creates else ""
        yield (
            f"| `{declared.verb} {declared.path}` | {where}{fields} | `{answer}`{created} "
            f"| `netagent {declared.command}` | {declared.role.word} |"
        )


def folders() -> Iterator[Path]:
    """The packages and the folders in them, each before what is in it."""
    for package in PACKAGES:
        yield from sorted(path.parent for path in (ROOT / package).rglob("__init__.py"))


def _folder_row(folder: Path) -> str:
    name = folder.relative_to(ROOT).as_posix()
    return f"| `{name}/` | {_first_sentence(folder / '__init__.py')} |"


def _modules() -> str:
    lines = [
        "# Modules",
        "",
        "Every file of the product with what it is for, by folder. `make docs` writes this page from the code.",
        "",
    ]
    for folder in folders():
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"## {folder.relative_to(ROOT).as_posix()}", "", _doc(folder / "__init__.py"), ""]
        if files:
            lines += ["| file | holds |", "|---|---|"]
            lines += [f"| `{path.name}` | {_first_sentence(path)} |" for path in files]
            lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _doc(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _first_sentence(path: Path) -> str:
    """The first paragraph in one line, without the word that marks a file without side effects."""
    paragraph = " ".join(_doc(path).split("\n\n")[0].split())
    return paragraph.removesuffix(" Pure.").removesuffix(".").replace("|", "\\|")


if __name__ == "__main__":
    main()
