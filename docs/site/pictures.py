"""Draw the pictures of explanation/pictures.md.

`make docs` writes them to images/, and a test checks that they are current.

Colours are variables. As a file a picture follows the system's light or dark colours, in the site those that the
reader chose (netagent.css).
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

IMAGES: Final = Path(__file__).resolve().parents[1] / "images"
WIDTH: Final = 760
STYLE: Final = (
    ".na{--ink:#1d2a30;--soft:#5a6b73;--paper:#fff;--box:#e8f1f5;--line:#14506b;--mark:#a8480b;--warm:#fdf0e4}"
    "@media(prefers-color-scheme:dark){.na{--ink:#e6eef1;--soft:#9fb2bb;--paper:#1e2129;--box:#22394a;"
    "--line:#7cc4e8;--mark:#f0a060;--warm:#46321f}}"
    ".na text{font:14px system-ui,sans-serif;fill:var(--ink)}.na .b{font-weight:600}"
    ".na .s{font-size:12.5px;fill:var(--soft)}.na .m{text-anchor:middle}"
    ".na .box{fill:var(--box);stroke:var(--line)}.na .warm{fill:var(--warm);stroke:var(--mark)}"
    ".na .frame{fill:none;stroke:var(--soft);stroke-dasharray:5 4}"
    ".na .way{fill:none;stroke:var(--line);stroke-width:2}"
    ".na .head{fill:var(--line)}.na .dot{fill:var(--mark)}"
)


def main() -> None:
    """Write all pictures."""
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")


def pictures() -> dict[Path, str]:
    """Return the files with what they should hold."""
    return {
        IMAGES / "packet.svg": _packet(),
        IMAGES / "record.svg": _record(),
        IMAGES / "name.svg": _name(),
        IMAGES / "failure.svg": _failure(),
    }


def _packet() -> str:
    parts = [_frame(10, 10, 330, 330, "host h1"), _frame(420, 10, 330, 330, "host h2")]
    for left, container in ((35, "container cli"), (445, "container web")):
        parts += [
            _box(left, 45, 280, 46, container, "own namespace, interface, addresses", warm=True),
            _box(
                left, 125, 280, 46, "the host's end of the interface", "sender is who it says? policy links?"
            ),
            _box(left, 205, 280, 46, "bridge of network app", "a neighbour and a MAC for each endpoint"),
            _box(left, 285, 280, 46, "VXLAN device of network app", "which host has this MAC?"),
        ]
    for top in (91, 171, 251):
        parts += [_arrow([(175, top), (175, top + 34)]), _arrow([(585, top + 34), (585, top)])]
    parts += [
        _arrow([(175, 331), (175, 385), (585, 385), (585, 331)]),
        _text(380, 376, "UDP port 4799 between the hosts, not encrypted", "s m"),
        _text(380, 408, "No process is on the way: an agent may be away.", "s m"),
    ]
    return _picture(
        422,
        "A packet's way",
        "From a container through its interface, the bridge and the VXLAN device of its host, over UDP port 4799 "
        "to the VXLAN device of the other host, and there through the bridge and the interface to the other container.",  # noqa: E501
        parts,
    )


def _record() -> str:
    left = (
        ("attach", "an address of the host's own space"),
        ("journal", "on the disk, before anything is shown"),
        ("kernel", "interface, bridge, routes, rules"),
        ("record", "one writer, a counted version"),
    )
    right = (
        ("record log", "newer version? merged and noted"),
        ("view", "the next immutable snapshot"),
        ("kernel", "neighbours, MACs, rules: what differs"),
        ("names", "only after the path exists"),
    )
    parts = [
        _frame(10, 10, 310, 350, "host h1, where a container starts"),
        _frame(440, 10, 310, 350, "each host of the network"),
    ]
    for x, steps in ((35, left), (465, right)):
        for number, (title, note) in enumerate(steps):
            top = 45 + 80 * number
            parts.append(_box(x, top, 260, 46, title, note))
            if number:
                parts.append(_arrow([(x + 130, top - 34), (x + 130, top)]))
    parts += [
        _arrow([(295, 308), (380, 308), (380, 68), (465, 68)]),
        _text(380, 346, "sealed, UDP and", "s m"),
        _text(380, 362, "TCP port 7957", "s m"),
        _text(
            380, 390, "Every few seconds hosts compare digests: one that missed a record fetches it.", "s m"
        ),
    ]
    return _picture(
        404,
        "A record's way",
        "On the host where a container starts: attach, journal, kernel, record. The record goes sealed over port "
        "7957 to each host of the network; there: record log, view, kernel, and names last.",
        parts,
    )


def _name() -> str:
    parts = [
        _box(20, 30, 200, 46, "a program asks for web", "in a container", warm=True),
        _box(280, 30, 200, 46, "127.0.0.11, port 53", "nftables in its namespace"),
        _box(540, 30, 200, 46, "resolver process", "one per host"),
        _box(540, 135, 200, 46, "the cluster's name?", "links, group, networks"),
        _box(280, 135, 200, 46, "answer with authority", "also: there is no such name"),
        _box(540, 240, 200, 46, "may it leave the host?", ""),
        _box(280, 240, 200, 46, "Docker's own resolver", "if the container has one"),
        _box(20, 240, 200, 46, "the host's name servers", "in plain text"),
        _box(20, 135, 200, 46, "agent", "writes the table; may be away", warm=True),
        _arrow([(220, 53), (280, 53)]),
        _arrow([(480, 53), (540, 53)]),
        _arrow([(640, 76), (640, 135)]),
        _arrow([(540, 158), (480, 158)]),
        _text(510, 150, "yes", "s m"),
        _arrow([(640, 181), (640, 240)]),
        _text(652, 215, "no", "s"),
        _arrow([(540, 263), (480, 263)]),
        _text(510, 255, "yes", "s m"),
        _arrow([(280, 263), (220, 263)]),
        _arrow([(120, 135), (120, 105), (600, 105), (600, 76)]),
        _text(300, 99, "table of names", "s m"),
    ]
    return _picture(
        300,
        "Who answers a name",
        "A program asks 127.0.0.11. The resolver process of the host answers names of the cluster from the table "
        "that the agent writes. Other names go to Docker's own resolver, if there is one, and to the host's name servers.",  # noqa: E501
        parts,
    )


def _failure() -> str:
    moments = (
        (60, "0 s", ("the host", "loses power"), True),
        (215, "about 2 s", ("two echo requests", "without an answer:", "the agent is probed"), False),
        (380, "2.5 s, at most 5 s", ("suspected, and others", "do not hear it: its", "names are gone"), True),
        (545, "within 12 s", ("gossip says dead,", "also where no host", "could be asked"), False),
        (690, "it returns", ("the agent takes its", "place; names return", "with containers"), True),
    )
    parts = [_arrow([(30, 80), (740, 80)])]
    for x, when, lines, warm in moments:
        parts.append(f'<circle cx="{x}" cy="80" r="{8 if warm else 6}" class="dot"/>')
        parts.append(_text(x, 58, when, "b m"))
        parts += [_text(x, 112 + 18 * number, line, "s m") for number, line in enumerate(lines)]
    parts += [
        _text(380, 28, "Connections to other hosts go on; nothing is asked of a central server.", "s m"),
        _text(
            380,
            192,
            "Addresses stay the host's until an operator or auto-evict evicts it.",
            "s m",
        ),
    ]
    return _picture(
        208,
        "A failure's time line",
        "At 0 s a host loses power. About 2 s later echo requests are without an answer. After 2.5 s, at most 5 s, its "  # noqa: E501
        "names are gone everywhere. Gossip declares it dead within 12 s. When it returns, its names return.",
        parts,
    )


def _picture(height: int, title: str, description: str, parts: list[str]) -> str:
    name = title.rpartition(" ")[2]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="na" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{name}-title {name}-text">\n<title id="{name}-title">{escape(title)}</title>\n'
        f'<desc id="{name}-text">{escape(description)}</desc>\n<style>{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="6" style="fill:var(--paper)"/>\n{body}\n</svg>\n'
    )


def _frame(x: int, y: int, width: int, height: int, title: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" class="frame"/>' + _text(
        x + 14, y + 22, title, "s"
    )


def _box(x: int, y: int, width: int, height: int, title: str, note: str, *, warm: bool = False) -> str:  # noqa: PLR0917
    middle = x + width // 2
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{"warm" if warm else "box"}"/>'
    if not note:
        return shape + _text(middle, y + height // 2 + 5, title, "b m")
    return shape + _text(middle, y + 20, title, "b m") + _text(middle, y + 38, note, "s m")


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


def _arrow(points: list[tuple[int, int]]) -> str:
    (before_x, before_y), (x, y) = points[-2:]
    across, down = (x > before_x) - (x < before_x), (y > before_y) - (y < before_y)
    back_x, back_y = x - 9 * across, y - 9 * down
    head = f"{x},{y} {back_x - 5 * down},{back_y - 5 * across} {back_x + 5 * down},{back_y + 5 * across}"
    line = " ".join(f"{px},{py}" for px, py in [*points[:-1], (back_x, back_y)])
    return f'<polyline points="{line}" class="way"/><polygon points="{head}" class="head"/>'


if __name__ == "__main__":
    main()
