"""Labels and names of runtimes, whatever they hold."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.checks.spec import parse_checks_untrusted
from netagent.integrations.docker import container as facts
from netagent.integrations.docker.container import DockerContainer, Interface
from netagent.integrations.labels import (
    MAX_LABELS,
    MAX_LABELS_BYTES,
    described,
    names_from,
    without_choices,
    without_image,
)
from netagent.model.check import MAX_CHECKS
from netagent.model.ids import EndpointId, NetworkId, is_name, nearest_name
from netagent.model.locality import DEFAULT_WEIGHT
from netagent.model.origin_labels import ORIGINAL_NAME
from netagent.model.records import EndpointRecord, Group, Port
from netagent.model.txt import MAX_TEXTS, MAX_TEXTS_BYTES, text_flaw, texts_of
from netagent.registry.record_codec import decode_untrusted, encode


@pytest.mark.parametrize(
    ("given_name", "ours"),
    [
        ("web", "web"),
        ("Web.One", "web-one"),
        ("shop_db-1", "shop_db-1"),
        ("_x_", "x"),
        ("a" * 80, "a" * 63),
        ("a" * 62 + "-b", "a" * 62),
        ("...", ""),
        ("é", ""),
    ],
)
def test_names_are_mapped_to_one_dns_label(given_name: str, ours: str) -> None:
    assert nearest_name(given_name) == ours


@given(st.text())
def test_any_name_gives_one_of_ours_or_none(text: str) -> None:
    found = nearest_name(text)
    assert found == "" or is_name(found)


def test_aliases_come_sorted_once() -> None:
    assert names_from(["www", "WWW", "a.b", "-"]) == ("a-b", "www")


def test_what_labels_say() -> None:
    found = described(
        {"netagent.service": "web", "netagent.expose": "http=80/tcp, 53/udp,443", "color": "red"}, "w1"
    )
    assert found.service == "web"
    assert found.ports == (Port("http", 80), Port("53", 53, "udp"), Port("443", 443))
    assert (found.labels, found.flaws) == ((("color", "red"),), ())


def test_labels_say_weight_protocols_and_texts() -> None:
    labels = {
        "netagent.weight": "10",
        "netagent.expose": "https=443/tcp+h2+http/1.1",
        "netagent.txt.path": "/shop",
        "netagent.txt.": "no key",
        "netagent.txt.long": "x" * 255,
        "netagent.other": "not passed on",
    }
    found = described(labels, "w1")
    assert (found.weight, found.ports) == (10, (Port("https", 443, "tcp", ("h2", "http/1.1")),))
    assert ("netagent.txt.path", "/shop") in found.labels
    assert not {"netagent.weight", "netagent.other"} & {key for key, _ in found.labels}
    assert texts_of(found.labels) == (b"path=/shop",)
    assert found.flaws == (
        f"the label netagent.txt.: {text_flaw('netagent.txt.', '')}",
        "the label netagent.txt.long: KEY=VALUE in a TXT record must be at most 255 bytes long",
    )
    assert described({}, "w1").weight == DEFAULT_WEIGHT
    image = {"netagent.weight": "10", "netagent.txt.path": "/shop"}
    assert without_image(labels, image).keys().isdisjoint(image), "the maker of an image does not choose them"


@pytest.mark.parametrize("text", ["", "-1", "1001", "ten", "1" * 5000, "\u0661"])
def test_a_weight_that_is_none_is_passed_over_and_named(text: str) -> None:
    found = described({"netagent.weight": text}, "w1")
    assert found.weight == DEFAULT_WEIGHT
    assert len(found.flaws) == 1
    assert "write a number from 0 to 1000" in found.flaws[0]


def test_ports_with_too_many_protocols_together_are_left_out_and_named() -> None:
    alpn = "".join(f"+{number}{'a' * 31}" for number in range(8))
    found = described({"netagent.expose": ",".join(f"{number}{alpn}" for number in range(1, 19))}, "web")
    assert [port.number for port in found.ports] == list(range(1, 17))
    assert [flaw.count("too many ALPN protocols") for flaw in found.flaws] == [1, 1]


def test_the_texts_of_a_container_are_bounded() -> None:
    labels = tuple((f"netagent.txt.k{number:02}", "v" * 60) for number in range(40))
    texts = texts_of(labels)
    assert len(texts) <= MAX_TEXTS
    assert sum(len(text) + 1 for text in texts) <= MAX_TEXTS_BYTES


def test_a_label_is_a_check_and_further_ones_have_a_name_after_it() -> None:
    found = described(
        {
            "netagent.check.redis": "tcp:6379",
            "netagent.check": "http:8080/healthz interval=5s fall=2",
            "netagent.check.again": "tcp:6379",
            "netagent.checked": "yes",
        },
        "web",
    )
    assert found.checks == parse_checks_untrusted(["http:8080/healthz interval=5s fall=2", "tcp:6379"])
    assert (found.labels, found.flaws) == ((), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp:21", "'ftp:21' does not say what to check"),
        ("http:8080 intervall=2s", "did you mean interval=2s?"),
        ("http://example.com/", "names a host, but a check asks its own container"),
        ("", "a check is empty"),
        ("tcp:1 " * 200, "is not the text of a check"),
    ],
)
def test_a_wrong_check_is_ignored_with_a_sentence_and_the_others_count(text: str, said: str) -> None:
    found = described({"netagent.check.a": text, "netagent.check.b": "tcp:6379"}, "web")
    assert found.checks == parse_checks_untrusted(["tcp:6379"])
    (flaw,) = found.flaws
    assert flaw.startswith("the label netagent.check.a is ignored: ")
    assert said in flaw


def test_a_label_asks_for_an_address_of_the_service() -> None:
    asks = ("netagent.address", "true")
    assert asks in described({"netagent.address": "true"}, "web").labels
    for text in ("", "false"):
        found = described({"netagent.address": text}, "web")
        assert (found.labels, found.flaws) == ((), ())
    found = described({"netagent.address": "yes"}, "web")
    assert found.labels == ()
    assert found.flaws == ("the label netagent.address cannot be 'yes', and is ignored; write true or false",)
    assert without_image({"netagent.address": "true"}, {"netagent.address": "true"}) == {}
    assert without_choices({"netagent.address": "true"}) == {}


def test_a_label_says_whether_names_stay_while_all_fail() -> None:
    assert described({}, "web").keeps_names is False
    assert described({"netagent.all-failing": "keep"}, "web").keeps_names is True
    found = described({"netagent.all-failing": "yes"}, "web")
    assert found.keeps_names is False
    assert found.flaws == ("the label netagent.all-failing='yes' is ignored; write hide or keep",)


def test_labels_give_no_more_checks_than_an_endpoint_may_have() -> None:
    labels = {f"netagent.check.{number:02}": f"tcp:{1000 + number}" for number in range(MAX_CHECKS + 2)}
    found = described(labels, "web")
    assert len(found.checks) == MAX_CHECKS
    assert len(found.flaws) == 2


@pytest.mark.parametrize(
    "text", ["http", "0", "70000", "http=80/xyz", "Bad Name=80", "=80", "http=80=90", "80 81"]
)
def test_a_label_with_a_flaw_is_passed_over_and_named(text: str) -> None:
    found = described({"netagent.expose": f"{text},90"}, "web")
    assert found.ports == (Port("90", 90),)
    (flaw,) = found.flaws
    assert text in flaw


def test_a_service_that_is_no_name_is_mapped_and_said() -> None:
    found = described({"netagent.service": "My Web"}, "web")
    assert found.service == "my-web"
    assert "'My Web' is not a name" in found.flaws[0]


COMPOSE = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "web",
    "com.docker.compose.container-number": "1",
    "com.docker.compose.project.working_dir": "/srv/shop",
}


@pytest.mark.parametrize(
    ("given", "group"),
    [
        ({}, None),
        (COMPOSE, Group("shop", "web", hashlib.sha256(b"/srv/shop").digest()[:8])),
        (
            {
                "io.podman.compose.project": "Shop.",
                "io.podman.compose.service": "my.web",
                "io.podman.compose.container-number": "1",
            },
            Group("shop", "my-web"),
        ),
        ({"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}, None),
        ({"netagent.group": "shop"}, Group("shop")),
        ({"netagent.group": "shop", "netagent.service": "db"}, Group("shop", "db")),
        ({**COMPOSE, "netagent.group": "all"}, Group("all", "web")),
        ({**COMPOSE, "com.docker.compose.project": "..."}, None),
    ],
    ids=[
        "none",
        "compose",
        "podman-compose, with names that DNS does not know",
        "an image that compose built",
        "by label",
        "by label, with a service",
        "another than the project",
        "a project without a name",
    ],
)
def test_the_group_is_composes_project_or_what_the_label_says(
    given: dict[str, str], group: Group | None
) -> None:
    found = described(given, "shop-web-1")
    assert (found.group, found.flaws) == (group, ())


def test_a_group_that_is_no_name_is_mapped_and_said() -> None:
    found = described({"netagent.group": "My Shop"}, "web")
    assert found.group == Group("my-shop")
    assert "netagent.group='My Shop' is not a name" in found.flaws[0]


@pytest.mark.parametrize(
    ("image", "is_made"),
    [
        ({}, True),
        ({"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}, True),
        ({**COMPOSE, "com.docker.compose.container-number": "2"}, True),
        (COMPOSE, False),
    ],
    ids=["none", "built by compose", "made from another container", "all of them"],
)
def test_a_container_is_composes_if_compose_gave_it_labels(image: dict[str, str], is_made: bool) -> None:
    left = without_image({**COMPOSE, "maker": "m"}, {**image, "maker": "m"})
    assert left == ({**COMPOSE, "maker": "m"} if is_made else {"maker": "m"})


def test_the_original_name_is_kept_and_labels_of_runtimes_are_not() -> None:
    labels = {
        "com.docker.compose.project": "shop",
        "desktop.docker.io/wsl-distro": "x",
        "io.podman.annotations.init": "FALSE",
        "io.buildah.version": "1.39",
        "io.kubernetes.pod.uid": "7",
        "org.opencontainers.image.created": "2026-01-01",
        "netagent.service": "web",
        "team": "a",
        "bad": "line\nbreak",
    }
    assert described(labels, "Web.1").labels == ((ORIGINAL_NAME, "Web.1"), ("team", "a"))


@given(st.dictionaries(st.text(), st.text()), st.text())
def test_any_labels_give_a_record_of_bounded_size(labels: dict[str, str], name: str) -> None:
    found = described(labels, name)
    assert len(found.labels) <= MAX_LABELS + 1
    assert sum(len((k + v).encode()) for k, v in found.labels if k != ORIGINAL_NAME) <= MAX_LABELS_BYTES
    assert all(is_name(port.name) and 1 <= port.number <= 65535 for port in found.ports)
    assert not found.service or is_name(found.service)


def test_too_many_labels_are_left_out() -> None:
    assert len(described({f"k{n:03}": "v" for n in range(200)}, "web").labels) == MAX_LABELS
    assert described({"a": "x" * 4000, "b": "x" * 4000, "c": "x" * 4000, "z": "1"}, "web").labels == (
        ("a", "x" * 4000),
        ("b", "x" * 4000),
    )
    assert described({"big": "x" * 9000, "k" * 256: "", "z": "1"}, "web").labels == (("z", "1"),)


TEXT = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(["x" * 5000, "é" * 300])
EXPOSED = st.lists(st.from_regex(r"(a{1,60}=)?[0-9]{1,5}(/udp)?", fullmatch=True), max_size=90).map(",".join)


@given(
    st.dictionaries(TEXT, TEXT),
    EXPOSED | TEXT,
    TEXT,
    st.lists(st.from_regex("[a-z]{1,63}", fullmatch=True), max_size=90),
    TEXT,
)
def test_whatever_a_container_is_called_and_labelled_others_can_read_its_record(
    labels: dict[str, str], exposed: str, name: str, aliases: list[str], group: str
) -> None:
    container = DockerContainer(
        container_id="c" * 64,
        name=name,
        labels={**labels, "netagent.expose": exposed, "netagent.group": group},
    )
    interface = Interface(network="app", network_id="", endpoint="", aliases=tuple(aliases), links=())
    fields = facts.as_change(facts.fields_of(container, interface)[0])
    del fields["links"], fields["checks"], fields["keeps_names"]
    if fields["group"] is not None:
        fields["aliases"] = fields["group"].not_in(fields["aliases"])
    endpoint_id, network_id = EndpointId("a1" * 16), NetworkId("b2" * 16)
    addresses, mac = ("10.1.0.2", "fd00::2"), "02:00:00:00:00:02"
    record = EndpointRecord(
        endpoint_id=endpoint_id, network_id=network_id, addresses=addresses, mac=mac, **fields
    )
    assert decode_untrusted(encode(record)) == record
