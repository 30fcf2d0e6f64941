"""The little of HTTP/1.1 that a fault needs: reading a whole request, and answering one."""

from __future__ import annotations

import asyncio
import re

MAX_REQUEST_BYTES = 64 * 1024 * 1024  # ChromaDB's own limit in this project
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_READ_BYTES = 64 * 1024


class RequestTooLargeError(OSError):
    """A request is longer than this will hold."""


async def read_request(reader: asyncio.StreamReader, begun: bytes) -> bytes:
    """The whole of a request of which `begun` has been read: its head, and as much body as its head says.

    Raises RequestTooLargeError, and IncompleteReadError (an EOFError) when the client closes the connection before the end.
    """
    request = bytearray(begun)
    while (end := request.find(_END_OF_HEAD)) < 0:
        await _more(reader, request)
    length = _LENGTH.search(request, 0, end)
    total = end + len(_END_OF_HEAD) + (int(length[1]) if length else 0)
    while len(request) < total:
        await _more(reader, request)
    return bytes(request)


async def _more(reader: asyncio.StreamReader, request: bytearray) -> None:
    if not (data := await reader.read(_READ_BYTES)):
        raise asyncio.IncompleteReadError(bytes(request), None)
    request += data
    if len(request) > MAX_REQUEST_BYTES:
        raise RequestTooLargeError("a request is too large to be held")


def canned_answer(status: int) -> bytes:
    """A JSON error as ChromaDB words it; the connection stays open."""
    body = b'{"error":"InjectedFault","message":"a fault that was injected"}'
    return b"HTTP/1.1 %d Injected\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
