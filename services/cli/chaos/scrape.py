"""Figures that a service shows at /metrics."""

from __future__ import annotations

import aiohttp

from shared.errors import UnavailableError

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_OPEN = 2  # value of kb_breaker_state


async def samples(port: int) -> dict[str, float]:
    """Every sample by its name with labels, as it is written: `kb_breaker_transitions_total{to="open"}`. Raises UnavailableError."""
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnavailableError(f"nothing at port {port} shows metrics", component="metrics") from error
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not name.startswith("#"):
            found[name] = float(value)
    return found


async def breaker_is_open(port: int) -> bool:
    """Whether the service's breaker around ChromaDB is open. Raises UnavailableError."""
    return (await samples(port))["kb_breaker_state"] == _OPEN
