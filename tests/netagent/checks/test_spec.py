"""How a check is written: what is understood, and what the sentence says about what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.checks import spec
from netagent.checks.spec import check_text, parse_check_untrusted, parse_checks_untrusted
from netagent.errors import InputError
from netagent.model.check import Check, ExecCheck, HttpCheck, TcpCheck


def test_all_that_a_check_can_say() -> None:
    text = "http:8080/healthz?full=1 interval=5s timeout=500ms fall=4 rise=1 grace=2m"
    assert parse_check_untrusted(text) == Check(
        subject=HttpCheck(8080, "/healthz?full=1"),
        interval_s=5.0,
        timeout_s=0.5,
        fall=4,
        rise=1,
        grace_s=120.0,
    )


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("http:80", HttpCheck(80, "/")),
        ("https:443/a", HttpCheck(443, "/a", is_tls=True)),
        ("tcp:6379", TcpCheck(6379)),
        ("exec:/bin/ready", ExecCheck(("/bin/ready",))),
        ("exec:'/bin/ready --fast'", ExecCheck(("/bin/ready", "--fast"))),
        ("exec:\"sh -c 'test -f /ready'\"", ExecCheck(("sh", "-c", "test -f /ready"))),
    ],
)
def test_what_is_asked(text: str, subject: object) -> None:
    check = parse_check_untrusted(text)
    assert check.subject == subject
    is_exec = isinstance(subject, ExecCheck)
    assert (check.interval_s, check.timeout_s) == ((10.0, 5.0) if is_exec else (2.0, 1.0))
    assert (check.fall, check.rise, check.grace_s) == (3, 2, 30.0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a check is empty; write http:PORT/PATH"),
        ("web", "'web' does not say what to check; write http:PORT/PATH"),
        ("htp:80/", "'htp:80/' does not say what to check; did you mean http:80/?"),
        ("http://web:80/", "names a host, but a check asks its own container; write http:PORT/PATH"),
        ("tcp:0", "'tcp:0' has no port; write it as in tcp:6379, with a port from 1 to 65535"),
        ("tcp:99999999999999999999999", "has no port"),
        ("http:80/ä", "is not that of a URL; write other characters than ASCII"),
        ("exec:", "has no command to run; write exec:/bin/ready"),
        ("exec:'", 'a quotation mark in "exec:\'" is not closed; close the quotation mark'),
        ('exec:"\'"', "has no command to run"),
        ("exec:\"''\"", "has no command to run"),
        ("tcp:1 intervall=2s", "a check has no option 'intervall=2s'; did you mean interval=2s?"),
        ("tcp:1 80", "a check has no option '80'; known are interval, timeout, fall, rise, grace"),
        ("tcp:1 interval=0s", "a check cannot have interval=0s; write a time from 1s to 1h"),
        ("tcp:1 interval=2h", "write a time from 1s to 1h"),
        ("tcp:1 timeout=61s", "write a time from 100ms to 1m"),
        ("tcp:1 grace=soon", "a check cannot have grace=soon; write a time from 0s to 1h"),
        ("tcp:1 fall=0", "a check cannot have fall=0; write a number from 1 to 20"),
        ("tcp:1 rise=two", "a check cannot have rise=two; write a number from 1 to 20"),
        ("tcp:1 fall=1 fall=2", "a check has fall twice; give it once"),
        ("tcp:1\x1b[2J", "is not the text of a check; write at most 512 printable characters"),
        ("tcp:1" + " " * 600, "is not the text of a check"),
    ],
)
def test_a_wrong_check_is_named_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_check_untrusted(text)
    assert sentence in str(caught.value)
    assert caught.value.hint
    assert str(caught.value).isprintable()


def test_several_checks_count_once_each_and_are_few() -> None:
    assert len(parse_checks_untrusted(["tcp:1", "tcp:2", "tcp:1 interval=2s"])) == 2
    with pytest.raises(InputError, match="cannot have 9 checks; give it at most 8"):
        parse_checks_untrusted(f"tcp:{port}" for port in range(1, 10))


@given(st.text(max_size=80) | st.text("htpsexctcp:/ '\"\\=0123456789imvalfrgk", max_size=80))
def test_any_text_is_a_check_or_an_error(text: str) -> None:
    try:
        check = parse_check_untrusted(text)
    except InputError:
        return
    assert parse_check_untrusted(check_text(check)) == check


paths = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40)
words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
times = st.integers(1000, 60_000).map(lambda ms: ms / 1000)


@given(
    st.builds(HttpCheck, st.integers(1, 65535), paths.map("/{}".format), st.booleans())
    | st.builds(TcpCheck, st.integers(1, 65535))
    | st.builds(ExecCheck, st.tuples(words.filter(bool), words)),
    times,
    times,
    st.integers(1, spec.MAX_COUNT),
    times,
)
def test_what_is_written_is_read_again(
    subject: HttpCheck | TcpCheck | ExecCheck, interval_s: float, timeout_s: float, count: int, grace_s: float
) -> None:
    check = Check(
        subject=subject, interval_s=interval_s, timeout_s=timeout_s, fall=count, rise=count, grace_s=grace_s
    )
    assert parse_check_untrusted(check_text(check)) == check


def test_a_check_is_written_without_its_defaults() -> None:
    assert check_text(parse_check_untrusted("http:8080 interval=2000ms grace=60s fall=3")) == (
        "http:8080/ grace=1m"
    )
