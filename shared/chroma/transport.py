"""One HTTP call to ChromaDB: from the pool, within a time limit, in a span, with its outcome in our error tree.

An HTTP client of our own because the official Python clients have no time limits and do not verify TLS by default.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Callable, Mapping
from typing import TypeVar

import aiohttp
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind
from yarl import URL

from shared.chroma.status import malformed, refused, unreachable
from shared.errors import FailedPreconditionError
from shared.observability import tracing

T = TypeVar("T")

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # an answer of 1,000 collections is 1.5 MB
_ONE_WRITE_BYTES = 1024 * 1024  # a longer body is written in pieces between which other tasks run
_JSON = "application/json"


class Transport:
    """A pool of connections to one server. The session is made by the first call, in its event loop, and belongs to that loop.

    Args:
        url: Scheme, host, port and perhaps a path that every request begins with.
        headers: Sent with every request, for example a token.
        ssl_context: Replaces the default, which verifies certificates against the system's authorities.
        pool_size: Connections at most; further calls wait for one, within their time.
        connect_timeout: Seconds to establish a connection (TCP and TLS).
        tracer_provider: Where spans go; None is the global one.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
        pool_size: int,
        connect_timeout: float,
        tracer_provider: trace.TracerProvider | None,
    ) -> None:
        self._base = url.rstrip("/") + "/api/v2"
        self._headers = {"Accept": _JSON, "Accept-Encoding": "identity", "User-Agent": "knowledgebeast", **headers}
        self._ssl = True if ssl_context is None else ssl_context
        self._pool_size = pool_size
        # The total is kept by `call`: aiohttp would round limits above 5 s up to whole seconds.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._tracer = tracing.get_tracer("knowledgebeast.chroma", tracer_provider)
        address = URL(url)
        self._attributes: dict[str, str | int] = {
            "db.system.name": "chromadb",
            "server.address": address.host or "",
            "server.port": address.port or 0,
        }

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        until: float,
        decode: Callable[[bytes], T],
        body: bytes | None = None,
        collection: str | None = None,
    ) -> T:
        """Sends one request and decodes its answer.

        Args:
            operation: Name of the span after `chromadb.`, and of the call in causes.
            method: HTTP method.
            path: Already percent-encoded, begins with a slash, may have a query.
            until: When to give up, on the clock of the running event loop.
            decode: Turns the body of a 2xx answer into the result.
            body: JSON.
            collection: Name of the collection that the path is about: a 404 then means that it does not exist.

        Raises:
            VectorStoreUnavailableError, VectorStoreError, CollectionNotFoundError: see status.py.
        """
        with self._tracer.start_as_current_span(f"chromadb.{operation}", kind=SpanKind.CLIENT, attributes=self._attributes) as span:
            if span.is_recording():
                span.set_attribute("db.operation.name", operation)
                if collection is not None:
                    span.set_attribute("db.collection.name", collection)
            try:
                async with asyncio.timeout_at(until):
                    status, retry_after, answer = await self._exchange(method, path, body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = unreachable(operation, error)
                raise failure from failure.__cause__
            span.set_attribute("http.response.status_code", status)
            if not 200 <= status < 300:
                raise refused(operation, status, answer, about_collection=collection is not None, retry_after=retry_after)
            try:
                return decode(answer)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                failure = malformed(operation, error)
                raise failure from failure.__cause__

    async def close(self) -> None:
        """Closes all connections; calls under way fail. May be called twice."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body."""
        headers: dict[str, str] = {} if body is None else {"Content-Type": _JSON}
        propagate.inject(headers)
        url = URL(self._base + path, encoded=True)
        # No redirects: they would carry the token to another host.
        data = io.BytesIO(body) if body is not None and len(body) > _ONE_WRITE_BYTES else body
        async with self._connected().request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            answer = bytearray()
            async for part in response.content.iter_any():
                answer += part
                if len(answer) > MAX_ANSWER_BYTES:
                    raise aiohttp.ClientPayloadError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            return response.status, response.headers.get("Retry-After"), bytes(answer)

    def _connected(self) -> aiohttp.ClientSession:
        if self._closed:
            raise FailedPreconditionError("the ChromaDB client has been closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._pool_size, ssl=self._ssl),
                headers=self._headers,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session
