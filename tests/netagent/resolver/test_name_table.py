"""What turns one table into another, found as it is asked for."""

from __future__ import annotations

from netagent.resolver.name_table import HostRow, Key, Row, RowKind, changes_between


class Watched(dict[Key, Row]):
    """Counts the rows that are looked up."""

    looked_up = 0

    def get(self, key: Key, default: None = None) -> Row | None:  # type: ignore[override]
        self.looked_up += 1
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.looked_up += 1
        return super().__contains__(key)


def key(number: int) -> Key:
    return RowKind.HOST, f"{number:032x}"


def row(number: int) -> HostRow:
    return HostRow(f"h{number}", bytes(4))


def test_rows_that_go_by_the_thousand_are_looked_up_one_by_one_and_come_last() -> None:
    count = 1000
    old = Watched({key(number): row(number) for number in range(count)})
    new: dict[Key, Row] = {key(0): row(7), key(1): row(1)}
    changes = changes_between(old, new, [*old, key(count)])
    assert next(changes) == (key(0), row(7))
    assert next(changes) == (key(2), None)
    assert old.looked_up <= 4
    assert [one for one, _ in changes] == [key(number) for number in range(3, count)]
