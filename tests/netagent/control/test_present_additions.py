"""Warnings about what operators added."""

from __future__ import annotations

import dataclasses

from fakes.external import ADDED_S, alias, service, state
from fakes.registry import H1, N1, Writer, endpoint, host, network

from netagent.control.present import Presenter
from netagent.control.present_additions import MONTH_S, addition_notices, services_of
from netagent.model.records import Record
from netagent.registry.view import RegistryView
from netgossip.slices import at_once


def presenter(*records: Record) -> Presenter:
    view, writer = RegistryView(H1), Writer(H1)
    for record in (network(), host("h1"), *records):
        view = view.with_entries(writer.put(record))
    return Presenter(view, "mesh.internal")


def codes(present: Presenter, now_s: int = ADDED_S) -> list[str]:
    return [one["code"] for one in at_once(addition_notices(present, now_s))]


def test_a_service_that_nothing_checks_is_named_after_a_month() -> None:
    plain = presenter(service())
    assert codes(plain, ADDED_S + MONTH_S) == []
    assert codes(plain, ADDED_S + MONTH_S + 1) == ["external-unchecked"]
    assert codes(presenter(service(ttl_s=30)), ADDED_S + 2 * MONTH_S) == []


def test_what_is_in_no_answer_is_named_with_the_reason() -> None:
    assert codes(presenter(service(checks=("tcp:5432",)))) == ["external-down"]
    expired = dataclasses.replace(state(), expired_s=ADDED_S)
    assert codes(presenter(service(ttl_s=30), expired)) == ["external-expired"]
    shadowed = presenter(service(), alias(), endpoint(name="pg", aliases=("shop",)))
    found = at_once(addition_notices(shadowed, ADDED_S))
    assert [one["code"] for one in found] == ["name-shadowed", "name-shadowed"]
    assert "container pg has the name" in found[0]["message"]
    (shown,) = services_of(shadowed, N1)
    assert (shown["id"], shown["answering"], shown["external"][0]["shadowed_by"]) == (
        "pg.app/external",
        0,
        "pg",
    )


def test_many_are_counted() -> None:
    many = presenter(*(service(number, name=f"s{number}", checks=("tcp:1",)) for number in range(30)))
    found = at_once(addition_notices(many, ADDED_S))
    assert len(found) == 11
    assert "20 more" in found[-1]["message"]
