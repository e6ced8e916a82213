"""feed.rules: which rules of routers are bounded by the domains that a network may claim."""

from __future__ import annotations

import pytest
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.feeds.host_rule import (
    MAX_DEPTH,
    MAX_RULE_CHARS,
    RuleError,
    is_allowed,
    is_bounded_untrusted,
    is_domain,
)

RULES = ("*.shop.example.com", "blog.example.com")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("blog.example.com", True),
        ("BLOG.example.com.", True),
        ("a.shop.example.com", True),
        ("a.b.shop.example.com", True),
        ("*.shop.example.com", True),
        ("shop.example.com", False),
        ("evilshop.example.com", False),
        ("*.example.com", False),
        ("*", False),
        ("", False),
        ("a b.shop.example.com", False),
        ("x`) || Host(`y.shop.example.com", False),
    ],
)
def test_a_rule_allows_its_domain_or_all_below_it(host: str, *, allowed: bool) -> None:
    assert is_allowed(host, RULES) is allowed


@pytest.mark.parametrize(
    ("rule", "bounded"),
    [
        ("Host(`blog.example.com`)", True),
        ('Host("blog.example.com")', True),
        ("host(`blog.example.com`)", True),
        ("Host(`blog.example.com`, `a.shop.example.com`)", True),
        ("Host(`blog.example.com`,`bank.example.com`)", False),
        ("Host(`bank.example.com`)", False),
        ("Host(`blog.example.com`) && PathPrefix(`/x`)", True),
        ("PathPrefix(`/x`) && (Host(`blog.example.com`) || Host(`a.shop.example.com`))", True),
        ("Host(`blog.example.com`) || PathPrefix(`/`)", False),
        ("Host(`blog.example.com`) || Host(`a.shop.example.com`) && Path(`/`)", True),
        ("(Host(`blog.example.com`) || Path(`/`)) && Path(`/`)", False),
        ("!Host(`blog.example.com`)", False),
        ("!(!Host(`blog.example.com`))", False),
        ("!Path(`/x`) && Host(`blog.example.com`)", True),
        ("!Host(`bank.example.com`) && Host(`blog.example.com`)", False),
        ("Host(`bank.example.com`) && Host(`blog.example.com`)", False),
        ("Host(`blog.example.com`) && (Path(`/x`) || HostSNI(`bank.example.com`))", False),
        ("HostHeader(`bank.example.com`) && Host(`blog.example.com`)", False),
        ("HostRegexp(`.*`)", False),
        ("Header(`Host`, `blog.example.com`)", False),
        ("HostSNI(`*`)", False),
        ("HostSNI(`blog.example.com`)", True),
        ("PathPrefix(`/`)", False),
    ],
)
def test_a_router_is_bounded_if_all_that_it_matches_is_allowed(rule: str, *, bounded: bool) -> None:
    assert is_bounded_untrusted(rule, RULES) is bounded


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "Host",
        "Host(",
        "Host()",
        "Host(`a`",
        "Host(`a`) &&",
        "Host(`a`) Host(`b`)",
        "Host(blog)",
        "&& Host(`a`)",
        "Host(`a`) & Host(`b`)",
        "(" * (MAX_DEPTH + 2) + "Host(`a`)" + ")" * (MAX_DEPTH + 2),
        "!" * MAX_RULE_CHARS,
        "Host(`a`)" + " " * MAX_RULE_CHARS,
    ],
)
def test_what_is_no_expression_is_refused(rule: str) -> None:
    with pytest.raises(RuleError):
        is_bounded_untrusted(rule, RULES)


@given(st.text(alphabet='Host(`a.b`)&|!," \\', max_size=80))
def test_any_text_gives_an_answer_or_a_rule_error(rule: str) -> None:
    try:
        is_bounded_untrusted(rule, RULES)
    except RuleError:
        return


@pytest.mark.parametrize(
    "piece", ["Host(`a.b`)||", "!(", "` ", '"', "a", " ", "((", "Host(`" + "a-" * 60 + "`)||"]
)
def test_the_work_of_a_rule_is_bounded(piece: str) -> None:
    def read() -> None:
        try:
            is_bounded_untrusted((piece * MAX_RULE_CHARS)[:MAX_RULE_CHARS], RULES)
        except RuleError:
            return

    instructions_of(read, most=400_000)


def test_domains() -> None:
    assert is_domain("a.example.com")
    assert is_domain("*.example.com")
    assert not is_domain("*.*.example.com")
    assert not is_domain("exa_mple.c_m")
    assert not is_domain("-a.example.com")
    assert not is_domain("a" * 64 + ".com")
    assert not is_domain("a." * 126 + "com")
