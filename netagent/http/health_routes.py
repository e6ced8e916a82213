"""The routes of the agent's health on the `http` listener."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from netagent.http.health import NO_CLUSTER, HealthAnswer, service_health
from netagent.registry.view import RegistryView

GetView = Callable[[], RegistryView | None]
"""The registry; None while this host is in no cluster."""


def routes(get_view: GetView) -> list[Route]:
    """Return `/healthz` and `/healthz/service/NAME`."""

    async def agent_health(_request: Request) -> Response:
        return _response(NO_CLUSTER if get_view() is None else HealthAnswer(200, "up"))

    async def named_health(request: Request) -> Response:
        view, asked = get_view(), request.query_params
        if view is None:
            return _response(NO_CLUSTER)
        name = request.path_params["name"].lower()
        return _response(service_health(view, name, asked.get("network"), asked.get("group")))

    return [Route("/healthz", agent_health), Route("/healthz/service/{name}", named_health)]


def _response(answer: HealthAnswer) -> Response:
    body: dict[str, object] = {"schema": 1, "status": answer.health}
    if answer.cause:
        body["cause"] = answer.cause
    counts = {} if answer.replicas is None else {"replicas": answer.replicas, "up": answer.up}
    return JSONResponse({**body, **counts}, answer.status, headers={"Cache-Control": "no-store"})
