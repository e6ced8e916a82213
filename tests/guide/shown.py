"""What the documents show: the commands that a reader would type, each with the output that stands below it.

A command stands in a block of code without a language (or `console`, `sh`), also inside a list: after `$ ` where the
block has such lines, and what follows is its output; else each line of a block that begins like a command is one. A
line that begins with three blanks or more goes on with the one before; a remark stands three blanks or more behind a
command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SHELL_WORDS = frozenset(
    {
        *(".", "curl", "dig", "docker", "echo", "export", "ip", "journalctl", "lab", "make", "netagent"),
        *("netns-lab/lab", "pip", "podman", "promtool", "pytest", "scp", "ssh", "sudo"),
    }
)
LANGUAGES = frozenset({"", "console", "sh"})
FENCE = re.compile(r"( *)```(\w*)$")


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a document."""

    line: int
    """Of the document, counted from 1: where its block begins."""
    typed: str
    output: str = ""

    @property
    def is_pattern(self) -> bool:
        """Whether it says what may be typed, such as `netagent join [ADDR…]`, and is nothing to type."""
        return re.search(r"…| \[[A-Z-]|\w\|\w", self.typed) is not None


def blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Each block of code: the number of its first line, its language, its lines without their indentation."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        if fence := FENCE.match(lines[at]):
            indent, language = fence.groups()
            end = next(one for one in range(at + 1, len(lines)) if lines[one].strip() == "```")
            yield at + 2, language, [line.removeprefix(indent) for line in lines[at + 1 : end]]
            at = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next(
                (one for one in range(at, len(lines)) if not lines[one].startswith("    ")), len(lines)
            )
            yield at + 1, "", [line[4:] for line in lines[at:end]]
            at = end
        else:
            at += 1


def commands(text: str) -> Iterator[Shown]:
    """All commands of a document, in order."""
    for number, language, lines in blocks(text):
        if language not in LANGUAGES or not lines:
            continue
        joined = re.sub(r"( \\)?\n {3,}", " ", "\n".join(lines))
        if any(line.startswith("$ ") for line in lines):
            for part in re.split(r"^\$ ", "\n".join(lines), flags=re.MULTILINE)[1:]:
                typed, _, output = part.partition("\n")
                yield Shown(number, without_remark(typed), output.strip("\n"))
        elif lines[0].split()[:1] and lines[0].split()[0] in SHELL_WORDS:
            for line in joined.splitlines():
                if line.strip() and not line.startswith("#"):
                    yield Shown(number, without_remark(line))


def without_remark(line: str) -> str:
    """The command alone."""
    return re.split(r"\s{3,}", line.strip())[0]


def shape(output: str) -> re.Pattern[str]:
    """What all outputs match that have the words of this one. Figures, times, addresses, ids and the number of blanks
    may differ, but not the numbers beside a slash, such as `1/2` and `80/tcp`; `…` stands for what is left out."""
    words = [
        "".join(
            _shape_of(part) if number % 2 else re.escape(part)
            for number, part in enumerate(VARIES.split(word))
        )
        for word in output.split()
    ]
    return re.compile(r"\s*" + r"\s+".join(words).replace(r"\s+…", "…").replace("…", r"(?s:.*?)") + r"\s*")


ADDRESS_4 = r"\d+\.\d+\.\d+\.\d+"
ADDRESS_6 = r"[0-9a-f]{1,4}:(?:[0-9a-f]{0,4}:)+[0-9a-f]{0,4}"
IDENTIFIER = r"[0-9a-f]{12}"
FIGURE = r"\d+(?:[.,:T-]\d+)*Z?"
KINDS = (IDENTIFIER, ADDRESS_4, FIGURE, ADDRESS_6)
VARIES = re.compile(
    rf"((?<!\w){IDENTIFIER}(?!\w)|{ADDRESS_4}|(?<![\w/.-]){FIGURE}(?![\w/:])|(?<![\w:]){ADDRESS_6})"
)


def _shape_of(part: str) -> str:
    return next(kind for kind in KINDS if re.fullmatch(kind, part))
