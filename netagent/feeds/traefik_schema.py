"""The fields of Traefik's dynamic configuration that labels may set: their names in files, and their types.

Traefik (2 and 3) refuses a whole configuration for one field that it does not know or one value that is no number
where it expects one. All containers of a network write into one configuration. So a label counts only if it is here,
and only with a value of its type; the others are left out, each with a sentence, and harm nothing else.

Labels spell fields in any case; files are written as here. Not here are fields that lead elsewhere than to the
endpoint itself (`loadbalancer.server.url`), and what Traefik's own Docker provider does not take from labels.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from netagent.model.number import whole_number

MAX_LIST: Final = 64
"""Bound of items of one list in a label; beyond it: the label is left out."""

_FALSE_OR_TRUE: Final = {"0": False, "f": False, "false": False, "1": True, "t": True, "true": True}
_DURATION = re.compile(r"[0-9]{1,15}|([0-9]{1,9}(\.[0-9]{1,9})?(ns|us|ms|s|m|h)){1,6}")
_INDEXED = re.compile(r"([^\[\]]+)\[([0-9]{1,2})\]")


class Kind(enum.Enum):
    """Types of single values, and maps of them."""

    TEXT = "text"
    LIST = "list"
    INT = "int"
    BOOL = "bool"
    TIME = "time"
    MAP = "map"
    """Any name below it is a text."""
    FREE = "free"
    """Anything may be below it: the options of a plug-in."""


_CALLED: Final = {Kind.INT: "whole number", Kind.BOOL: "true or false", Kind.TIME: "length of time"}


@dataclass(frozen=True, slots=True)
class Struct:
    """Fields by their names in lower case, each with its name in files and its type."""

    fields: Mapping[str, tuple[str, FieldType]]
    may_be_empty: bool = False
    """`true` for the whole is enough: `tls=true`."""


@dataclass(frozen=True, slots=True)
class Structs:
    """A list of structs: `domains[0].main`."""

    each: Struct


FieldType: TypeAlias = "Kind | Struct | Structs"

Place: TypeAlias = tuple[str | int, ...]
"""A field in a configuration: names, and numbers within lists."""


class FieldError(ValueError):
    """A label is not understood; the text says why."""


def _struct(texts: str = "", /, *, may_be_empty: bool = False, **inner: FieldType) -> Struct:
    """`"rule priority:int"` and what is no single value. A field without a type is a text."""
    fields: dict[str, tuple[str, FieldType]] = {name.lower(): (name, kind) for name, kind in inner.items()}
    for word in texts.split():
        name, _, kind = word.partition(":")
        fields[name.lower()] = (name, Kind(kind or "text"))
    return Struct(fields, may_be_empty)


_TLS = _struct("options certResolver", may_be_empty=True, domains=Structs(_struct("main sans:list")))
_TCP_TLS = _struct(
    "passthrough:bool options certResolver", may_be_empty=True, domains=Structs(_struct("main sans:list"))
)
_IP_STRATEGY = _struct("depth:int excludedIPs:list ipv6Subnet:int")
_SOURCE = _struct("requestHeaderName requestHost:bool", ipStrategy=_IP_STRATEGY)
_AUTH = "users:list usersFile realm removeHeader:bool headerField"
_COOKIE = _struct("name secure:bool httpOnly:bool sameSite maxAge:int path domain", may_be_empty=True)
_ADDRESSES = _struct("sourceRange:list", ipStrategy=_IP_STRATEGY)
_HTTP_ADDRESSES = _struct("sourceRange:list rejectStatusCode:int", ipStrategy=_IP_STRATEGY)
_ISSUER = (
    "country:bool province:bool locality:bool organization:bool commonName:bool serialNumber:bool "
    "domainComponent:bool"
)

_HEALTH_CHECK = _struct(
    "scheme mode path method status:int port:int interval:time unhealthyInterval:time timeout:time hostname "
    "followRedirects:bool headers:map"
)

_MIDDLEWARE = _struct(
    addPrefix=_struct("prefix"),
    basicAuth=_struct(_AUTH),
    buffering=_struct(
        "maxRequestBodyBytes:int memRequestBodyBytes:int maxResponseBodyBytes:int memResponseBodyBytes:int "
        "retryExpression"
    ),
    chain=_struct("middlewares:list"),
    circuitBreaker=_struct(
        "expression checkPeriod:time fallbackDuration:time recoveryDuration:time responseCode:int"
    ),
    compress=_struct(
        "excludedContentTypes:list includedContentTypes:list minResponseBodyBytes:int encodings:list "
        "defaultEncoding",
        may_be_empty=True,
    ),
    contentType=_struct("autoDetect:bool", may_be_empty=True),
    digestAuth=_struct(_AUTH),
    errors=_struct("status:list service query"),
    forwardAuth=_struct(
        "address trustForwardHeader:bool authResponseHeaders:list authResponseHeadersRegex "
        "authRequestHeaders:list addAuthCookiesToResponse:list headerField forwardBody:bool maxBodySize:int "
        "preserveLocationHeader:bool preserveRequestMethod:bool",
        tls=_struct("ca cert key insecureSkipVerify:bool"),
    ),
    grpcWeb=_struct("allowOrigins:list"),
    headers=_struct(
        "customRequestHeaders:map customResponseHeaders:map accessControlAllowCredentials:bool "
        "accessControlAllowHeaders:list accessControlAllowMethods:list accessControlAllowOriginList:list "
        "accessControlAllowOriginListRegex:list accessControlExposeHeaders:list accessControlMaxAge:int "
        "addVaryHeader:bool allowedHosts:list hostsProxyHeaders:list sslProxyHeaders:map stsSeconds:int "
        "stsIncludeSubdomains:bool stsPreload:bool forceSTSHeader:bool frameDeny:bool customFrameOptionsValue "
        "contentTypeNosniff:bool browserXssFilter:bool customBrowserXSSValue contentSecurityPolicy "
        "contentSecurityPolicyReportOnly publicKey referrerPolicy permissionsPolicy isDevelopment:bool "
        "featurePolicy sslRedirect:bool sslTemporaryRedirect:bool sslHost sslForceHost:bool"
    ),
    ipAllowList=_HTTP_ADDRESSES,
    ipWhiteList=_ADDRESSES,
    inFlightReq=_struct("amount:int", sourceCriterion=_SOURCE),
    passTLSClientCert=_struct(
        "pem:bool",
        info=_struct(
            "notAfter:bool notBefore:bool sans:bool serialNumber:bool",
            subject=_struct(_ISSUER + " organizationalUnit:bool"),
            issuer=_struct(_ISSUER),
        ),
    ),
    plugin=Kind.FREE,
    rateLimit=_struct("average:int period:time burst:int", sourceCriterion=_SOURCE),
    redirectRegex=_struct("regex replacement permanent:bool"),
    redirectScheme=_struct("scheme port permanent:bool"),
    replacePath=_struct("path"),
    replacePathRegex=_struct("regex replacement"),
    retry=_struct("attempts:int initialInterval:time"),
    stripPrefix=_struct("prefixes:list forceSlash:bool"),
    stripPrefixRegex=_struct("regex:list"),
)

SECTIONS: Final[Mapping[tuple[str, str], Struct]] = {
    ("http", "routers"): _struct(
        "rule ruleSyntax entryPoints:list middlewares:list service priority:int",
        tls=_TLS,
        observability=_struct("accessLogs:bool tracing:bool metrics:bool traceVerbosity"),
    ),
    ("http", "services"): _struct(
        loadBalancer=_struct(
            "passHostHeader:bool serversTransport strategy",
            server=_struct("port scheme"),
            sticky=_struct(may_be_empty=True, cookie=_COOKIE),
            healthCheck=_HEALTH_CHECK,
            responseForwarding=_struct("flushInterval:time"),
        )
    ),
    ("http", "middlewares"): _MIDDLEWARE,
    ("tcp", "routers"): _struct(
        "rule ruleSyntax entryPoints:list middlewares:list service priority:int", tls=_TCP_TLS
    ),
    ("tcp", "services"): _struct(
        loadBalancer=_struct(
            "terminationDelay:int serversTransport",
            server=_struct("port tls:bool"),
            proxyProtocol=_struct("version:int", may_be_empty=True),
        )
    ),
    ("tcp", "middlewares"): _struct(
        ipAllowList=_ADDRESSES, ipWhiteList=_struct("sourceRange:list"), inFlightConn=_struct("amount:int")
    ),
    ("udp", "routers"): _struct("entryPoints:list service"),
    ("udp", "services"): _struct(loadBalancer=_struct(server=_struct("port"))),
}


def field_untrusted(schema: Struct, path: Sequence[str], text: str) -> tuple[Place, object]:
    """Return where in a configuration the field at a label's path is, and the value that the label gives. Raises
    FieldError."""
    place: list[str | int] = []
    kind: FieldType = schema
    for number, word in enumerate(path):
        if isinstance(kind, Struct):
            kind = _step(kind, word, place)
        elif kind is Kind.MAP:
            return (*place, ".".join(path[number:])), text
        elif kind is Kind.FREE:
            if len(path) < number + 2 or any("[" in part for part in path):
                raise FieldError("the options of a plug-in are PLUGIN.OPTION, without brackets")
            return (*place, *path[number:]), text
        else:
            raise FieldError(f"nothing can follow {path[number - 1][:80]!r}")
    match kind:
        case Struct(may_be_empty=True):
            if not _value(Kind.BOOL, text):
                raise FieldError("is off, which is what it is without the label")
            return tuple(place), {}
        case Kind() if kind not in (Kind.MAP, Kind.FREE):
            return tuple(place), _value(kind, text)
        case _:
            raise FieldError(f"something must follow {path[-1][:80]!r}")


def _step(struct: Struct, word: str, place: list[str | int]) -> FieldType:
    indexed = _INDEXED.fullmatch(word)
    known = struct.fields.get((indexed[1] if indexed else word).lower())
    if known is None:
        raise FieldError(f"Traefik's field {word[:80]!r} is not known")
    name, kind = known
    place.append(name)
    if isinstance(kind, Structs) and indexed:
        place.append(int(indexed[2]))
        return kind.each
    if isinstance(kind, Structs) or indexed:
        raise FieldError(f"{word[:80]!r} is written wrongly: lists, and only they, have numbers in brackets")
    return kind


def _value(kind: Kind, text: str) -> object:
    text = text.strip()
    found: object = text
    match kind:
        case Kind.LIST:
            found = [item for item in map(str.strip, text.split(",")) if item]
            if len(found) > MAX_LIST:
                raise FieldError(f"has more than {MAX_LIST} items")
        case Kind.INT:
            size = whole_number(text.removeprefix("-"), 0, 2**63 - 1)
            found = None if size is None else -size if text.startswith("-") else size
        case Kind.BOOL:
            found = _FALSE_OR_TRUE.get(text.lower())
        case Kind.TIME:
            found = text if _DURATION.fullmatch(text) else None
    if found is None:
        raise FieldError(f"{text[:80]!r} is no {_CALLED[kind]}")
    return found


def assemble(fields: Sequence[tuple[Place, object]]) -> dict[str, object]:
    """Make a configuration from its fields. Where one is the whole of another (`tls=true`), both hold."""
    tree: dict[str | int, Any] = {}
    for place, value in fields:
        inner = tree
        for part in place[:-1]:
            deeper = inner.get(part)
            if not isinstance(deeper, dict):
                deeper = inner[part] = {}
            inner = deeper
        if value != {} or not isinstance(inner.get(place[-1]), dict):
            inner[place[-1]] = value
    return {str(name): _plain(value) for name, value in tree.items()}


def _plain(value: Any) -> object:
    """Turn what has numbers for names into lists."""
    if not isinstance(value, dict):
        return value
    if value and all(isinstance(name, int) for name in value):
        return [_plain(value[number]) for number in sorted(value)]
    return {str(name): _plain(inner) for name, inner in value.items()}
