"""Records that only a lying member writes, of every kind that the codec knows.

Each passes the codec, so that it reaches the parts behind it. The values are those that honest records have, so that
records meet (addresses, ids and names of others), the ends of each range, and texts that look like something else: an
option, markup, a path, a pattern, a word of another system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hypothesis import strategies as st

from fakes.external import alias, at, name_id, service, service_id
from fakes.registry import H1, H2, H3, N1, N2, endpoint, identifier, network
from netagent.feeds.host_rule import MAX_FEED_RULE_CHARS
from netagent.model.address.tunnel import MAX_SALT
from netagent.model.egress import MAX_TARGETS, parse_egress, text_of
from netagent.model.ids import EndpointId, HostId, KeyId, NetworkId, OwnNameId, ServiceId
from netagent.model.locality import MAX_WEIGHT, AnswerOrder, Balance
from netagent.model.publication import Publication
from netagent.model.records import (
    DIGEST_BYTES,
    MAX_ALIASES,
    MAX_DNS_TTL_S,
    MAX_ENCRYPTION_REVISION,
    MAX_HOST_WEIGHTS,
    MAX_KEY_IDS,
    MAX_OPTION_CHANGES,
    MAX_OVERRULED,
    MAX_PUBLISHED_PORTS,
    MAX_REASON_CHARS,
    MAX_SERVICE_PORTS,
    MAX_TEXTS,
    MAX_TIME_S,
    MAX_TURN,
    OPTION_VALUES,
    AddressState,
    AttachmentRecord,
    DnsName,
    Drain,
    EncryptionRecord,
    EncryptionStage,
    EndpointRecord,
    ExternalServiceRecord,
    ExternalStateRecord,
    FixedAddresses,
    ForgetRecord,
    GrantRecord,
    Group,
    Health,
    HealthNote,
    HostAddressRecord,
    HostProgram,
    HostRecord,
    NameAlias,
    NameData,
    NetworkOption,
    NetworkOptionsRecord,
    NetworkRecord,
    OptionChange,
    OwnNameRecord,
    Policy,
    Port,
    PublishedServiceRecord,
    Record,
    RemovalRecord,
    Resolution,
    ServiceAddressOrigin,
    ServiceAddressRecord,
    ServiceKey,
    ServicePort,
    ServiceRangeRecord,
    TargetAddress,
    TunnelRecord,
)
from netagent.model.ring_key import (
    EXCHANGE_KEY_BYTES,
    EXCHANGE_TAG_BYTES,
    MAX_ADMITTED,
    MAX_KEY_NUMBER,
    MAX_PARTS,
    MAX_RING_KEYS,
    MAX_SEALED,
    SEALED_KEY_BYTES,
    HeldKey,
    RingKeysRecord,
    SealedKey,
    SealedKeysRecord,
)
from netagent.registry.external_fields import address_key, in_order
from netagent.registry.record_codec import RecordError, encode

UNKNOWN: Final = "f" * 32
"""An id that nothing has."""

K1, K2 = (KeyId(identifier(0xCE00 + number)) for number in (1, 2))
"""Ring keys that honest hosts have."""

WORDS: Final = (
    *("web", "web1", "web2", "db", "app", "back", "own", "h1", "h2", "h3", "shop"),
    *("internal", "mesh", "localhost", "wpad", "arpa", "x", "0", "10", "a" * 63, "xn--a", "a--b", "h1-0000"),
    *("no-such", "null", "true", "0x10", "1-1", "nul", "con", "constructor", "__proto__"[2:7]),
)
"""What passes as a name."""
TEXTS: Final = (
    *(
        "",
        " ",
        "--force",
        "-rf",
        "<script>alert(1)</script>",
        "&amp;",
        "'; DROP TABLE x; --",
        "$(reboot)",
        "`id`",
    ),
    *(
        "../../etc/passwd",
        "{{.}}",
        "%s%n",
        "\\x1b[2J",
        "\\",
        '"',
        "'",
        "\u00e4" * 31,
        "\u5b57" * 63,
        "\U0001f600" * 9,
    ),
    *("Host(`a.example`)", "Host(`" + "a." * 20 + "`) && (((", "=cmd|' /C calc'!A0", "a" * 63),
)
ALIAS_TARGETS: Final = (
    "web",
    "web1",
    "shop",
    "a",
    "b",
    "web.h1",
    "web.shop",
    "no-such.h9",
    "a" * 63 + "." + "a" * 63,
)
OWN_NAMES: Final = (
    "shop",
    "*.shop",
    "a",
    "b",
    "web",
    "a.b.c.d",
    "*.a.b.c",
    "a" * 63,
    ".".join(["a" * 63] * 3),
)
INSIDE: Final = (
    *("10.1.0.0", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.5", "10.1.0.9", "10.1.0.200", "10.1.0.255"),
    *("fd00:1::1", "fd00:1::2", "fd00:1::9"),
)
OUTSIDE: Final = (
    *("192.0.2.1", "192.0.2.2", "10.9.1.5", "10.2.0.9", "203.0.113.50", "8.8.8.8", "10.1.0.2"),
    *("fd00::1", "fd00::2", "2001:db8::1", "fd00:9:1::5"),
)
NOBODYS: Final = (
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "ff02::1",
    "fe80::1",
    "::ffff:10.1.0.2",
)
CIDRS: Final = (
    *(
        "10.1.0.0/24",
        "10.1.0.128/25",
        "10.0.0.0/8",
        "10.2.0.0/24",
        "10.9.1.0/24",
        "10.9.2.0/24",
        "192.0.2.0/24",
    ),
    *("192.0.2.1/32", "8.8.8.0/24", "10.9.0.0/30", "10.64.0.0/12"),
    *(
        "fd00:1::/64",
        "fd00::/64",
        "fd00:2::/64",
        "fd00:9:1::/64",
        "fd00:9:2::/64",
        "fd00:3::/108",
        "2001:db8::/64",
    ),
)
LABELS: Final = (
    *(
        "netagent.service",
        "netagent.ports",
        "netagent.address",
        "netagent.group",
        "netagent.check",
        "netagent.weight",
    ),
    *(
        "com.docker.compose.project",
        "com.docker.compose.service",
        "traefik.enable",
        "traefik.http.routers.a.rule",
    ),
    *(
        "traefik.http.routers.a.service",
        "traefik.http.services.a.loadbalancer.server.port",
        "caddy",
        "caddy_0.redir",
    ),
    *(
        "traefik.http.routers.a.tls.domains[0].main",
        "traefik.tcp.routers.a.rule",
        "traefik.http.middlewares.a.chain",
    ),
    *("caddy.reverse_proxy", "prometheus.scrape", "prometheus.port", "prometheus.path", "x"),
    *(
        "traefik.http.services.a.weighted.services[999999].name",
        "caddy.0_header_999",
        "prometheus.labels.__name__",
    ),
)
CHECKS: Final = (
    *(
        "tcp:1",
        "http:80/",
        "http:80" + "/x" * 200,
        "exec:reboot",
        "tcp:",
        "tcp:99999",
        "http:80/ interval=1us",
        "grpc:1",
    ),
    *("tcp:1 interval=999999h", "http:80/ status=200-599", "--", "https:443/ header=a:b"),
)
EGRESSES: Final = tuple(
    text_of(parse_egress(text))
    for text in (
        *("open", "none", "0.0.0.0/0", "::/0", "0.0.0.0/0,::/0,127.0.0.0/8", "10.1.0.0/24,fd00:1::/64"),
        *("0.0.0.0", "255.255.255.255/32", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4", "192.0.2.2:7956"),
        "10.0.0.0/8:53,10.0.0.0/8:53/tcp,10.0.0.0/8:53/udp,10.1.0.0/24,[fd00:1::/64]:65535",
        ",".join(f"[2001:db8:{number:x}::/48]:{number + 1}" for number in range(MAX_TARGETS)),
    )
)

hosts = st.sampled_from([H1, H2, H3, HostId(UNKNOWN), HostId("0" * 32)])
networks = st.sampled_from([N1, N1, N1, N2, NetworkId(UNKNOWN)])
endpoint_ids = st.sampled_from(
    [identifier(0xE000 + number) for number in range(4)] + ["e" * 32, "0" * 32]
).map(EndpointId)
service_ids = st.sampled_from([service_id(1), service_id(2), ServiceId(UNKNOWN)])
name_ids = st.sampled_from([name_id(1), name_id(2), OwnNameId(UNKNOWN)])
names = st.sampled_from(WORDS)
texts = st.sampled_from(TEXTS)
addresses = st.sampled_from((*INSIDE, *OUTSIDE, *NOBODYS))
others = st.sampled_from((*INSIDE, *OUTSIDE))
macs = st.sampled_from(
    [
        "0a:00:00:00:00:01",
        "02:00:00:00:00:05",
        "02:a1:00:00:00:02",
        "02:a1:00:00:00:09",
        "fe:ff:ff:ff:ff:fe",
        "00:00:00:00:00:01",
    ]
)
times = st.sampled_from([0, 1, 1_760_000_000, MAX_TIME_S])
counts = st.sampled_from([0, 1, 2, 3, 9, 127, 128, 254, 255, 256, 2**20, 2**31, 2**32 - 1])
port_numbers = st.sampled_from([1, 53, 80, 4789, 4799, 7953, 7956, 65535])
flags = st.booleans()
weights = st.sampled_from([0, 1, 100, MAX_WEIGHT])
key_ids = st.sampled_from([K1, K2, KeyId(UNKNOWN), KeyId("0" * 32)])
key_numbers = st.sampled_from([0, 1, 2, MAX_KEY_NUMBER])
octets = st.sampled_from([bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
"""Keys: two of these lead every exchange to the same secret."""


def many(one: st.SearchStrategy[object], most: int) -> st.SearchStrategy[tuple[object, ...]]:
    """Some or many, also the same several times."""
    return st.lists(one, max_size=3).map(tuple) | st.lists(one, min_size=1, max_size=3).map(
        lambda few: tuple(few * most)[:most]
    )


def rising(one: st.SearchStrategy[object], most: int) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(one, max_size=min(most, 12), unique=True).map(lambda few: tuple(sorted(few)))  # type: ignore[type-var]


def numbered(prefix: str, most: int) -> st.SearchStrategy[tuple[str, ...]]:
    """As many as there may be."""
    return st.sampled_from([(), tuple(sorted(f"{prefix}{number}" for number in range(most)))])


drains = st.none() | st.builds(Drain, times, texts.map(lambda text: text[:64]))
plain_ports = st.builds(Port, names, port_numbers, st.sampled_from(["tcp", "udp", "sctp"]))
ports = st.builds(
    Port,
    names,
    port_numbers,
    st.sampled_from(["tcp", "udp", "sctp"]),
    st.sampled_from([(), ("h2", "http/1.1"), ("a" * 32,) * 4]),
)
groups = st.none() | st.builds(
    Group, names, st.none() | names, st.sampled_from([None, bytes(8), b"\xff" * 8])
)
subnets = st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2).map(tuple)
label_texts = st.sampled_from((*TEXTS, *CHECKS, "web", "80", "a\nb\tc", "x" * 4096))
labels = st.dictionaries(st.sampled_from(LABELS) | texts, label_texts, max_size=6).map(
    lambda found: tuple(sorted(found.items()))
)
service_keys = st.builds(ServiceKey, names, st.none() | names)
outside_names = st.sampled_from(
    ["example.com", "localhost", "web.app.mesh.internal", "a", ".".join(["a" * 60] * 4), "1.0.0.127"]
)
targets = st.one_of(
    st.lists(st.builds(TargetAddress, others, st.none() | port_numbers), min_size=1, max_size=32).map(
        lambda found: FixedAddresses(tuple(sorted(set(found), key=address_key)))
    ),
    st.builds(HostProgram, port_numbers),
    st.builds(DnsName, outside_names, st.none() | port_numbers),
)


def ordered(found: list[str]) -> tuple[str, ...]:
    return in_order(found)


options = st.sampled_from(list(NetworkOption)).flatmap(
    lambda option: st.builds(
        OptionChange,
        st.just(option),
        st.sampled_from(EGRESSES if option is NetworkOption.EGRESS else OPTION_VALUES[option]),
        st.sampled_from([1, 2, MAX_OPTION_CHANGES - 1, MAX_OPTION_CHANGES]),
        times,
        texts.map(lambda text: text[:64]),
        st.sampled_from([(), (bytes(DIGEST_BYTES),), (b"\xff" * DIGEST_BYTES,) * MAX_OVERRULED]),
    )
)
option_lists = st.lists(
    options, min_size=1, max_size=len(NetworkOption), unique_by=lambda one: one.option
).map(lambda found: tuple(sorted(found, key=lambda one: list(NetworkOption).index(one.option))))


def _key(number: int) -> KeyId:
    return KeyId(identifier(0xCC0000 + number))


def _sealed(to: HostId) -> SealedKey:
    return SealedKey(to, bytes(EXCHANGE_TAG_BYTES), bytes(EXCHANGE_KEY_BYTES), bytes(SEALED_KEY_BYTES))


sealed_keys = st.builds(
    SealedKey,
    hosts,
    octets.map(lambda key: key[:EXCHANGE_TAG_BYTES]),
    octets,
    st.sampled_from([b"", bytes(SEALED_KEY_BYTES)]),
)

POISON: Final[Mapping[type[Record], st.SearchStrategy[Record]]] = {
    HostRecord: st.builds(
        HostRecord,
        name=names,
        public_key=st.sampled_from([bytes(32), b"\xff" * 32]),
        underlay=st.sampled_from((*INSIDE, *OUTSIDE)),
        vxlan_port=port_numbers,
        probe_address=st.sampled_from([one for one in (*INSIDE, *OUTSIDE, *NOBODYS) if ":" in one]),
        probe_mac=macs,
        zone=texts.map(lambda text: text[:63]),
        agent_version=texts.map(lambda text: text[:63]),
        going_down=flags,
        routes=rising(st.sampled_from(CIDRS), 12)
        | st.just(tuple(sorted(f"10.{n >> 8}.{n & 255}.0/24" for n in range(1024)))),
        drain=drains,
        is_starting=flags,
    ),
    NetworkRecord: st.builds(
        NetworkRecord,
        network_id=networks,
        name=names,
        vni=st.sampled_from([1, 1161, 1162, 2**24 - 1]),
        subnets=subnets,
        mtu_bytes=st.sampled_from([576, 1280, 1450, 9000, 65465]),
        internal=flags,
        policy=st.sampled_from(Policy),
        multicast=flags,
        host_access=flags,
        revision=st.sampled_from([0, 1, 2**32 - 1]),
        answer=st.sampled_from(AnswerOrder),
        feed_rules=st.none()
        | rising(texts.map(lambda text: (text or "*")[:MAX_FEED_RULE_CHARS]), 8).map(
            lambda found: found or None
        ),
        feed_labels=flags,
        refuses_shared_names=flags,
        service_addresses=flags,
        egress=st.sampled_from(EGRESSES).map(parse_egress),
    ),
    RemovalRecord: st.builds(RemovalRecord, networks),
    AttachmentRecord: st.builds(AttachmentRecord, networks),
    GrantRecord: st.builds(
        GrantRecord, networks, counts, counts, hosts, st.sampled_from([1, 2, 3, 2**24, 2**32 - 1])
    ),
    HostAddressRecord: st.builds(
        HostAddressRecord, networks, st.sampled_from([2, 3, 9, 254, 2**32 - 1]), macs
    ),
    EndpointRecord: st.builds(
        EndpointRecord,
        endpoint_id=endpoint_ids,
        network_id=networks,
        name=names,
        service=names,
        addresses=st.lists(addresses, max_size=2).map(tuple)
        | st.sampled_from([("10.1.0.2", "fd00:1::2"), ("10.1.0.3", "fd00:1::3")]),
        mac=macs,
        aliases=many(names, MAX_ALIASES) | numbered("alias", MAX_ALIASES),
        ports=many(ports, 256),
        labels=labels,
        health=st.sampled_from(Health),
        links=rising(names | st.tuples(names, names).map(".".join), 12) | numbered("link", 256),
        group=groups,
        drain=drains,
        health_note=st.none()
        | st.builds(HealthNote, times, texts.map(lambda text: text[:MAX_REASON_CHARS]), flags),
        weight=weights,
    ),
    ForgetRecord: st.builds(
        ForgetRecord,
        hosts,
        settled=flags,
        disputed=st.none() | st.tuples(st.sampled_from([0, 1, 2**63 - 1]), st.sampled_from([0, 2**63 - 1])),
    )
    | st.builds(
        ForgetRecord,
        hosts,
        settled=flags,
        revoked=st.just(True),
        key_ids=rising(key_ids, MAX_KEY_IDS) | st.just(tuple(map(_key, range(MAX_KEY_IDS)))),
        compromised=flags,
    ),
    ExternalServiceRecord: st.builds(
        ExternalServiceRecord,
        service_id=service_ids,
        network_id=networks,
        name=names,
        target=targets,
        added_s=times,
        added_by=texts.map(lambda text: text[:64]),
        ports=many(plain_ports, 64),
        weight=weights,
        checks=many(st.sampled_from(CHECKS) | texts, 8),
        ttl_s=st.sampled_from([None, 1, 366 * 86_400]),
    ),
    ExternalStateRecord: st.builds(
        ExternalStateRecord,
        service_id=service_ids,
        network_id=networks,
        turn=st.sampled_from([0, 1, MAX_TURN]),
        states=st.lists(
            st.builds(
                AddressState,
                addresses,
                st.sampled_from(Health),
                times,
                texts.map(lambda text: text[:MAX_REASON_CHARS]),
            ),
            max_size=8,
        ).map(
            lambda found: tuple(
                next(one for one in found if one.address == text)
                for text in in_order([one.address for one in found])
            )
        ),
        resolution=st.none()
        | st.builds(
            Resolution,
            st.lists(others, max_size=8).map(ordered),
            st.sampled_from([0, 1, MAX_DNS_TTL_S]),
            texts.map(lambda text: text[:MAX_REASON_CHARS]),
        ),
        expired_s=st.sampled_from([None, 1, MAX_TIME_S]),
    ),
    OwnNameRecord: st.builds(
        OwnNameRecord,
        name_id=name_ids,
        network_id=networks,
        name=st.sampled_from(OWN_NAMES),
        value=st.builds(NameAlias, networks, st.sampled_from(ALIAS_TARGETS))
        | st.builds(
            NameData,
            st.lists(others, max_size=8).map(ordered),
            many(st.sampled_from([*TEXTS, "x" * 255]), MAX_TEXTS),
        ),
        added_s=times,
        added_by=texts.map(lambda text: text[:64]),
    ),
    ServiceRangeRecord: st.builds(ServiceRangeRecord, networks, subnets),
    ServiceAddressRecord: st.builds(
        ServiceAddressRecord,
        network_id=networks,
        service=service_keys,
        addresses=st.sampled_from(
            [
                ("10.9.1.5", "fd00:9:1::5"),
                ("10.9.1.6", "fd00:9:1::6"),
                ("10.9.1.0", "fd00:9:1::"),
                ("10.1.0.2", "fd00:1::2"),
            ]
        )
        | st.lists(addresses, min_size=1, max_size=2).map(tuple),
        origin=st.sampled_from(ServiceAddressOrigin),
        ports=st.lists(
            st.builds(ServicePort, port_numbers, port_numbers),
            max_size=MAX_SERVICE_PORTS,
            unique_by=lambda one: one.number,
        ).map(lambda found: tuple(sorted(found))),
        balance=st.sampled_from(Balance),
        host_weights=st.dictionaries(names, weights, max_size=12).map(
            lambda found: tuple(sorted(found.items())[:MAX_HOST_WEIGHTS])
        ),
        is_sticky=flags,
        keeps_failing=flags,
        keeps_connections=flags,
    ),
    PublishedServiceRecord: st.builds(
        PublishedServiceRecord,
        networks,
        service_keys,
        st.builds(
            lambda host_port, port, protocol, count: Publication(
                host_port, port, protocol, min(count, 65536 - max(host_port, port))
            ),
            port_numbers,
            port_numbers,
            st.sampled_from(["tcp", "udp"]),
            st.sampled_from([1, 2, MAX_PUBLISHED_PORTS]),
        ),
    ),
    NetworkOptionsRecord: st.builds(NetworkOptionsRecord, networks, option_lists),
    RingKeysRecord: st.builds(
        lambda exchange_key, held, place, standby, removed, admitted: RingKeysRecord(
            exchange_key,
            sorted(held)[place % len(held)],
            tuple(map(HeldKey._make, sorted(held.items()))),
            tuple(sorted(standby)),
            tuple(sorted(removed)),
            tuple(sorted(admitted)),
        ),
        octets,
        st.dictionaries(key_ids, key_numbers, min_size=1)
        | st.just({_key(number): MAX_KEY_NUMBER for number in range(MAX_RING_KEYS)}),
        counts,
        st.sets(key_ids, max_size=MAX_RING_KEYS),
        st.sets(key_ids, max_size=MAX_RING_KEYS),
        st.sets(st.integers(0, 9).map(lambda number: HostId(identifier(number))))
        | st.just({HostId(identifier(number)) for number in range(MAX_ADMITTED)}),
    ),
    SealedKeysRecord: st.builds(
        SealedKeysRecord,
        key_ids,
        key_numbers,
        st.sampled_from([0, 1, MAX_PARTS - 1]),
        st.lists(sealed_keys, min_size=1, max_size=4, unique_by=lambda one: one.to).map(
            lambda found: tuple(sorted(found))
        )
        | st.just(tuple(_sealed(HostId(identifier(number))) for number in range(MAX_SEALED))),
    ),
    TunnelRecord: st.builds(
        TunnelRecord, octets, port_numbers, st.sampled_from([0, 1, MAX_SALT]), st.booleans()
    ),
    EncryptionRecord: st.builds(
        EncryptionRecord,
        flags,
        st.sampled_from([1, 2, MAX_ENCRYPTION_REVISION]),
        times,
        texts.map(lambda text: text[:64]),
        st.none() | hosts,
        st.sampled_from(EncryptionStage),
        flags,
    ),
}
"""A strategy for each kind. Some of what it gives is refused by the codec all the same: see `can_be_said`."""


def can_be_said(record: Record) -> bool:
    """True if the codec lets the record pass, so that it reaches other hosts' parts."""
    try:
        encode(record)
    except RecordError:
        return False
    return True


def poison(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Records of a kind that reach other hosts."""
    return POISON[kind].filter(can_be_said)


every_poison = st.sampled_from(list(POISON)).flatmap(poison)


# -- many records of one kind ------------------------------------------------------------------------------------


def _network(number: int) -> NetworkId:
    return NetworkId(identifier(0xBB0000 + number))


def _mac(number: int) -> str:
    return f"06:00:00:00:{number >> 8:02x}:{number & 255:02x}"


_ALIASES: Final = tuple(f"alias{number}" for number in range(MAX_ALIASES))

CROWDS: Final[Mapping[type[Record], tuple[Callable[[int], Record], ...]]] = {
    NetworkRecord: (
        lambda n: network(_network(n), "app", vni=1161, revision=1),
        lambda n: network(_network(n), f"n{n}", vni=2000 + n, revision=1),
    ),
    RemovalRecord: (lambda n: RemovalRecord(_network(n)),),
    AttachmentRecord: (lambda n: AttachmentRecord(_network(n)),),
    GrantRecord: (
        lambda n: GrantRecord(N1, n % 200, 254, H3, n + 1),
        lambda n: GrantRecord(N1, n % 255, n % 255, H3, n + 1),
    ),
    HostAddressRecord: (lambda n: HostAddressRecord(_network(n), 2, _mac(n)),),
    EndpointRecord: (
        lambda n: endpoint(100 + n, offset=40, mac="0a:00:00:00:00:77"),
        lambda n: endpoint(100 + n, offset=20 + n, mac=_mac(n), aliases=_ALIASES, group=Group("shop", "db")),
        lambda n: endpoint(
            100 + n, offset=20 + n, mac=_mac(n), name=f"n{n}", service=f"n{n}", group=Group("shop", f"s{n}")
        ),
        lambda n: endpoint(100 + n, offset=20 + n, mac=_mac(n), links=("own", "web")),
        lambda n: endpoint(
            100 + n,
            offset=20 + n,
            mac=_mac(n),
            labels=(("traefik.http.routers.a.rule", f"Host(`x{n}.example`)"),),
        ),
    ),
    ForgetRecord: (
        lambda n: ForgetRecord(HostId(identifier(0xFF0000 + n)), settled=True),
        lambda n: ForgetRecord(
            HostId(identifier(0xFF0000 + n)),
            settled=True,
            revoked=True,
            key_ids=tuple(_key(n * MAX_KEY_IDS + number) for number in range(MAX_KEY_IDS)),
            compromised=True,
        ),
    ),
    ExternalServiceRecord: (
        lambda n: service(100 + n, name="pg", target=at(*(f"203.0.113.{last}" for last in range(1, 20)))),
        lambda n: service(100 + n, name=f"p{n}"),
    ),
    ExternalStateRecord: (lambda n: ExternalStateRecord(service_id(100 + n), N1, 1),),
    OwnNameRecord: (
        lambda n: alias(100 + n, "x", "y"),
        lambda n: alias(100 + n, f"c{n}", f"c{n + 1}"),
        lambda n: alias(100 + n, f"*.c{n}", "web"),
    ),
    ServiceRangeRecord: (lambda n: ServiceRangeRecord(N1, (f"10.64.{n}.0/24", f"fd00:{n + 10:x}::/64")),),
    ServiceAddressRecord: (
        lambda n: ServiceAddressRecord(N1, ServiceKey("web"), (f"10.9.1.{n + 1}", f"fd00:9:1::{n + 1:x}")),
        lambda n: ServiceAddressRecord(N1, ServiceKey(f"s{n}"), (f"10.9.1.{n + 1}", f"fd00:9:1::{n + 1:x}")),
    ),
    PublishedServiceRecord: (
        lambda n: PublishedServiceRecord(
            N1, ServiceKey("own"), Publication(n + 1, 80, "tcp", MAX_PUBLISHED_PORTS)
        ),
    ),
    NetworkOptionsRecord: (
        lambda n: NetworkOptionsRecord(
            _network(n), (OptionChange(NetworkOption.INTERNAL, "yes", 5, 1, "x"),)
        ),
        lambda n: NetworkOptionsRecord(
            _network(n), (OptionChange(NetworkOption.EGRESS, EGRESSES[-1], 5, 1, "x"),)
        ),
    ),
    SealedKeysRecord: (
        lambda n: SealedKeysRecord(_key(n), 1 + n, 0, (_sealed(H3),)),
        lambda n: SealedKeysRecord(K2, 1 + n, n, (_sealed(H1), _sealed(H2), _sealed(H3))),
    ),
}
"""For each kind of which a host may have more than one: records that one host may write as often as its
log has room, up to 150."""
