"""The first contact with ChromaDB, made before a service takes requests: after a start its first answer may take seconds."""

from __future__ import annotations

import asyncio
from typing import Final

from shared.errors import KnowledgeBeastError
from shared.observability.logging import get_logger
from shared.ports import Embedder, VectorReader

_log: Final = get_logger(__name__)

_PING_SECONDS: Final = 1.5


async def warm_up(store: VectorReader, embedder: Embedder, timeout: float, collection: str = "") -> None:
    """Returns once the store has answered for the first time, has failed, or the time is over: a store that is down keeps nobody from starting.

    It is pinged first, because only of one that answers is a first query worth waiting for.

    Args:
        store: what is asked.
        embedder: makes the query.
        timeout: seconds, for everything.
        collection: is queried for one vector, which has the store read it from disk; empty for a ping alone.
    """
    try:
        async with asyncio.timeout(timeout):
            await store.ping(timeout=min(timeout, _PING_SECONDS))
            if collection:
                (vector,) = await embedder.embed(["ready?"])
                await store.query(collection, vector, 1, timeout=timeout)
    except TimeoutError:
        _log.warning("ChromaDB is not warm yet, going on without", waited_s=timeout)
    except KnowledgeBeastError as error:
        _log.warning("the first query to ChromaDB failed, going on without", reason=error.reason)
    else:
        _log.info("ChromaDB is warm", collection=collection)
