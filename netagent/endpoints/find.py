"""Lookup of networks, hosts and endpoints by a name, an id or the beginning of an id."""

from __future__ import annotations

from collections.abc import Iterator

from netagent.errors import InputError, NotFoundError, RefusedError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.origin_labels import (
    COMPOSE_SERVICE,
    CONTAINER_ID,
    MIN_ID_DIGITS,
    is_container,
    label_of,
    may_be_hexadecimal_id,
)
from netagent.registry.state_store import StateStore
from netagent.registry.view import EndpointView, NetworkView, RegistryView


def network_called(view: RegistryView, text: str) -> NetworkView:
    """Return a network by name or id. NotFoundError when there is none."""
    found = view.network_named(text) or view.networks.get(NetworkId(text))
    if found is None and len(text) >= 6:
        matches = [network for network_id, network in view.networks.items() if network_id.startswith(text)]
        found = matches[0] if len(matches) == 1 else None
    if found is None:
        raise NotFoundError(
            f"there is no network {text!r}",
            code="no-such-network",
            thing=text,
            hint="see `netagent network ls`, or create it with `netagent network create`",
        )
    return found


class NotHereError(NotFoundError):
    """No endpoint of this host is called so, nor one of another host as far as this host's records go."""


def host_called(view: RegistryView, host_id: HostId) -> str:
    """Return the name of a host; the beginning of its id while only its endpoints are known here."""
    host = view.hosts.get(host_id)
    return host.unique_name if host is not None else host_id[:8]


def target_shown(row: LocalEndpointRow) -> str:
    """Return the target as users know it: for Docker's endpoints the container, once Docker has reported it."""
    container_id = label_of(row.labels, CONTAINER_ID)
    if container_id and row.origin is not None and row.origin.startswith("docker:"):
        return f"docker:{container_id[:12]}"
    return row.target


def _place(view: RegistryView, row: LocalEndpointRow) -> str:
    network = view.networks.get(row.network_id)
    return f"{target_shown(row)} in {row.network_id[:8] if network is None else network.unique_name}"


def fenced_called(live: StateStore, text: str) -> LocalEndpointRow | None:
    """Return the note of a fenced endpoint by id, beginning of an id, or name; None if a working endpoint has that
    name or id, or if not exactly one note matches."""
    if any(text in {row.name, row.endpoint_id} for row in live.rows.values()):
        return None
    found = [
        row
        for row in live.fenced.values()
        if row.name == text or (len(text) >= 6 and row.endpoint_id.startswith(text))
    ]
    return found[0] if len(found) == 1 else None


def local_endpoint_called(live: StateStore, text: str) -> LocalEndpointRow:
    """Return an endpoint of this host by id, beginning of an id, NAME, NAME.NETWORK or NAME.HOST.NETWORK; else by the
    runtime's name or id of the container."""
    rows, view = live.rows, live.view
    exact = rows.get(EndpointId(text))
    if exact is not None:
        return exact
    name = text.partition(".")[0]
    found = [
        row
        for row in rows.values()
        if row.name == name and _is_called(view, text, row.name, view.local, row.network_id)
    ]
    if not found and len(text) >= 6:
        found = [row for row in rows.values() if row.endpoint_id.startswith(text)]
    found = found or [row for row in rows.values() if is_container(row.labels, text)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(sorted(f"{row.endpoint_id[:12]} ({_place(view, row)})" for row in found))
        raise InputError(
            f"{text!r} is ambiguous, {len(found)} endpoints match: {ids}",
            thing=text,
            hint=f"give the id, or {name}.NETWORK",
        )
    refuse_if_elsewhere(view, text)
    raise NotHereError(
        f"there is no endpoint {text!r} on this host",
        code="no-such-endpoint",
        thing=text,
        # A network that this host is not in may have it.
        hint="`netagent endpoints` shows which host has it: type this command there",
    )


def refuse_if_elsewhere(view: RegistryView, text: str) -> None:
    """Raise RefusedError if an endpoint of another host is called so."""
    name = text.partition(".")[0]
    for endpoint in view.endpoints_named(name):
        if (
            _is_called(view, text, name, endpoint.owner, endpoint.record.network_id)
            and endpoint.owner != view.local
        ):
            raise RefusedError(
                f"the endpoint {text!r} is on host {host_called(view, endpoint.owner)}",
                code="other-host",
                thing=text,
                hint="type this command there",
            )


def _is_called(view: RegistryView, text: str, name: str, owner: HostId, network_id: NetworkId) -> bool:
    """True if `text` is the endpoint's name, alone or followed by its network or its host and network."""
    network = view.networks.get(network_id)
    if text == name or network is None:
        return text == name
    place = network.unique_name
    return text in {f"{name}.{place}", f"{name}.{host_called(view, owner)}.{place}"}


def may_be_called(view: RegistryView, thing: str) -> Iterator[EndpointView]:
    """Yield the endpoints that count and that `is_called`, found by the indexes, and some others; some more than
    once. All of them if `thing` may be the id of a container, of which there is no index."""
    if may_be_hexadecimal_id(thing):
        yield from view.endpoints.values()
        return
    service, _, group = thing.partition(".")
    for network_id in view.store.by_network:
        yield from view.labelled(network_id, thing)
        if group:
            yield from view.service(network_id, service, group).endpoints
    for called in {thing, thing[:MIN_ID_DIGITS]}:
        if (found := view.store.by_origin.get(called)) is not None:
            yield from found.values()


def is_called(endpoint: EndpointView, thing: str) -> bool:
    """True if `--service THING` selects the endpoint: by the name of its service, by an alias, or by the name that
    compose or the runtime gives it."""
    record, key = endpoint.record, endpoint.record.service_key
    if thing in {record.service, key.name, f"{key.name}.{key.group}", *record.aliases}:
        return True
    return label_of(record.labels, COMPOSE_SERVICE) == thing or is_container(record.labels, thing)
