import os
from datetime import datetime

import pytest

from netagent.errors import InputError
from netagent.interface import notation


def test_links() -> None:
    assert notation.link_of("db") == {"service": "db"}
    assert notation.link_of("db.data:database") == {"service": "db.data", "alias": "database"}


def test_ports() -> None:
    assert notation.port_of("80") == {"number": 80}
    assert notation.port_of("http=80/TCP") == {"name": "http", "number": 80, "protocol": "tcp"}


def test_labels() -> None:
    assert notation.labels_of(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert notation.duration_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "-1", "1m1h", "1.5h", "1 h", "٣s", "9" * 30])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError):
        notation.duration_of(text)


@pytest.mark.parametrize("text", ["", ":x", "db:"])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(InputError):
        notation.link_of(text)


@pytest.mark.parametrize("text", ["", "http", "=80", "80/", "http=", "http=x/tcp"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(InputError):
        notation.port_of(text)


@pytest.mark.parametrize("texts", [["a"], ["=x"], ["a=1", "a=2"]])
def test_what_are_no_labels(texts: list[str]) -> None:
    with pytest.raises(InputError):
        notation.labels_of(texts)


def test_targets() -> None:
    assert notation.target_of("netns:web") == "netns:web"
    assert notation.target_of("./ns") == f"{os.getcwd()}/ns"  # noqa: PTH109 - what the code does
    assert notation.target_of("/proc/7/ns/net") == "/proc/7/ns/net"
    assert notation.target_of("web-that-is-not-there") == "web-that-is-not-there"


def test_a_bare_name_of_a_namespace_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.exists", lambda path: path == "/run/netns/web")
    with pytest.raises(InputError, match="did you mean netns:web"):
        notation.target_of("web")
    assert notation.target_of("web", or_endpoint=True) == "web"


def test_since_when_is_a_length_of_time_or_a_time_of_today() -> None:
    assert notation.since_of("1h30m") == 5400
    now = datetime.now().astimezone()
    assert 0 <= notation.since_of(f"{now:%H:%M:%S}") < 60
    assert notation.since_of("0:00") == pytest.approx(
        (now - now.replace(hour=0, minute=0, second=0)).total_seconds(), abs=60
    )
    for text in ("yesterday", "", "24:00", "15:5", "15:50:61", "2026-12-02", "-1:00"):
        with pytest.raises(InputError) as caught:
            notation.since_of(text)
        assert caught.value.hint == "write 90s, 30m, 1h or 2d, or a time of today: 15:50"
    if now.hour < 23:
        with pytest.raises(InputError, match="still to come today"):
            notation.since_of("23:59")
