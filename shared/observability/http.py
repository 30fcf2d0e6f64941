"""The HTTP endpoint for machines that do not speak gRPC: `/metrics` for Prometheus and `/health` for people and load balancers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from shared.errors import ConfigurationError
from shared.observability.metrics import REGISTRY

_GRACE: Final = 1.0  # seconds that running requests have at the end: they take milliseconds

Snapshot = Callable[[], Mapping[str, Any]]


def create_app(snapshot: Snapshot, registry: CollectorRegistry = REGISTRY) -> web.Application:
    """The application.

    Args:
        snapshot: the JSON of `/health`, for example `HealthMonitor.snapshot`. Its status `unhealthy` makes the answer a 503, else it is a 200.
        registry: what `/metrics` shows, in OpenMetrics (with exemplars) for a client that accepts it, else in Prometheus' text format.
    """
    rendering = asyncio.Lock()

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # Rendering takes some milliseconds and may read /proc: not in the loop. One at a time, so that scrapes take no threads from searches.
        async with rendering:
            body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def health(_request: web.Request) -> web.Response:
        state = snapshot()
        return web.Response(body=orjson.dumps(state), status=503 if state["status"] == "unhealthy" else 200, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/health", health)])
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, *, setting: str = "") -> AsyncIterator[int]:
    """Serves the application and yields the port; 0 takes a free one.

    Raises:
        ConfigurationError: when the port cannot be opened; the message names `setting`, for example `KB_QUERY_HTTP_PORT`.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            hint = f"; choose another with {setting}" if setting else ""
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
