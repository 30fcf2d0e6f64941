"""Too many requests, and wrong ones."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from services.cli.chaos import notes
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig, running
from services.cli.chaos.tally import Asked, percentile
from services.cli.chaos.trial import Trial
from shared.client import decode_search, encode_search
from shared.errors import ResourceExhaustedError
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2, query_pb2_grpc
from shared.rpc.channel import create_channel
from shared.rpc.status import from_rpc_error

# What the query service works on and lets wait by default: see KB_SEARCH_CONCURRENCY and KB_SEARCH_QUEUE.
_PLACES_A_CORE = 2
_QUEUE = 4
_TIMES = 10
_SLO = 0.1  # seconds: p99 of admitted searches, with the callers on the same machine
_OVERLOADED = "OVERLOADED"

_MESSAGE = 16 * 1024 * 1024  # bytes that a message may have
_BOMB = 96 * 1024 * 1024
_CALL = 20.0  # seconds
_NOISE = 64  # messages of random bytes
_SEARCH = "/knowledgebeast.query.v1.QueryService/Search"
_UPSERT = "/knowledgebeast.indexer.v1.IndexerService/UpsertDocuments"
_REFUSALS = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND})


async def overload(trial: Trial) -> None:
    """Row 24: ten times as many callers as the query service lets in, each of which asks again and again, and comes back when it is told to."""
    places = _PLACES_A_CORE * len(os.sched_getaffinity(0))
    callers = _TIMES * (places + _QUEUE)
    clock = asyncio.get_running_loop().time
    until = clock() + trial.plan.seconds
    without_hint = 0

    async def call(searches: query_pb2_grpc.QueryServiceAsyncStub) -> None:
        nonlocal without_hint
        while (began := clock()) < until:
            request = encode_search.search(trial.project, notes.question(trial.next_number()))
            try:
                answer = await searches.Search(request, timeout=trial.plan.deadline)
            except grpc.aio.AioRpcError as failure:
                error = from_rpc_error(failure, "query")
                trial.tally.asked.append(Asked(began, clock() - began, error=error.reason))
                hint = error.retry_after if isinstance(error, ResourceExhaustedError) else 0.0
                without_hint += not hint
                await asyncio.sleep(hint or 1.0)
            else:
                reasons = tuple(degradation.reason.value for degradation in decode_search.search_answer(answer).degradations)
                trial.tally.asked.append(Asked(began, clock() - began, reasons))

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        # Not through our client, which asks again by itself when it is refused: here each attempt counts.
        async with create_channel(trial.rig.stack.query_address, max_message_bytes=_MESSAGE) as channel, asyncio.TaskGroup() as group:
            searches = query_pb2_grpc.QueryServiceStub(channel)
            for _ in range(callers):
                group.create_task(call(searches))
            yield

    await trial.during(fault(), searches=False)
    admitted = [one.seconds for one in trial.tally.asked if one.error is None]
    errors = trial.tally.errors
    p99 = percentile(admitted, 0.99)
    trial.notes.append(f"{callers} callers; {len(admitted) / trial.plan.seconds:.0f} searches a second answered, {errors[_OVERLOADED]} refused")
    trial.promise(
        "what is too much is refused with RESOURCE_EXHAUSTED and the time to retry after",
        kept=set(errors) == {_OVERLOADED} and not without_hint,
        seen=", ".join(f"{count} {reason}" for reason, count in errors.items()) or "nothing was refused",
    )
    trial.promise(
        f"p99 of admitted searches < {_SLO * 1e3:.0f} ms",
        kept=p99 < _SLO,
        seen=f"p50 {percentile(admitted, 0.5) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms",
    )
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


@asynccontextmanager
async def direct_rig(folder: Path, models: Path, plan: Plan) -> AsyncIterator[Rig]:
    """A rig of its own, whose services reach ChromaDB and each other directly."""
    async with running(folder, models, plan, direct=True) as rig:
        yield rig


@asynccontextmanager
async def rig_with_room(folder: Path, models: Path, plan: Plan) -> AsyncIterator[Rig]:
    """A rig that lets fifty callers at a time get as far as the breaker, instead of refusing some before."""
    async with running(folder, models, plan, query={"KB_SEARCH_QUEUE": "64", "KB_SEARCH_QUEUE_TIMEOUT": "1"}) as rig:
        yield rig


@dataclass(frozen=True, slots=True)
class _Bad:
    """A request that nobody should send: its name, where it goes, and its bytes as they are on the wire."""

    name: str
    address: str
    method: str
    message: bytes
    compression: grpc.Compression = grpc.Compression.NoCompression


async def wrong_requests(trial: Trial) -> None:
    """Row 25: bombs, oversized messages, noise and nonsense, while others use the services."""
    stack = trial.rig.stack
    seen: dict[str, grpc.StatusCode] = {}

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            yield

    async def send() -> None:
        for bad in _bad_requests(trial.project, stack.query_address, stack.indexer_address):
            seen[bad.name] = await _send(bad)

    await trial.during(fault())
    wrong = {
        name: code.name for name, code in seen.items() if code not in _REFUSALS and not (name.startswith("noise") and code is grpc.StatusCode.OK)
    }
    trial.notes.append(f"{len(seen)} requests")
    trial.promise(
        "each is refused as the caller's fault, never INTERNAL",
        kept=not wrong,
        seen=", ".join(f"{name}: {code}" for name, code in wrong.items()) or ", ".join(sorted({code.name for code in seen.values()})),
    )
    trial.none_failed()
    trial.none_late()
    trial.all_acknowledged()
    trial.promise("no answer is degraded", kept=not trial.tally.degraded, seen=", ".join(trial.tally.reasons) or "none")
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


def _bad_requests(project: str, query: str, indexer: str) -> Sequence[_Bad]:
    chance = random.Random(7)  # noqa: S311 - the same noise each time
    zeros = "0" * _BOMB

    def search(**fields: object) -> bytes:
        return query_pb2.SearchRequest(**{"project_id": project, "query": "rivers", **fields}).SerializeToString()  # type: ignore[arg-type]

    def upsert(text: str, document_id: str = "a") -> bytes:
        document = indexer_pb2.DocumentInput(id=document_id, text=text)
        return indexer_pb2.UpsertDocumentsRequest(project_id=project, documents=[document]).SerializeToString()

    return [
        _Bad("a bomb to the query service", query, _SEARCH, search(query=zeros), grpc.Compression.Gzip),
        _Bad("a bomb to the indexer", indexer, _UPSERT, upsert(zeros), grpc.Compression.Gzip),
        _Bad("an oversized search", query, _SEARCH, search(query=zeros[: _MESSAGE + 1])),
        _Bad("an oversized document", indexer, _UPSERT, upsert(zeros[: _MESSAGE + 1])),
        _Bad("a query of 1 MB", query, _SEARCH, search(query=zeros[: 1024 * 1024])),
        _Bad("no query", query, _SEARCH, search(query="")),
        _Bad("no project", query, _SEARCH, search(project_id="")),
        _Bad("no such project", query, _SEARCH, search(project_id="nobody")),
        _Bad("a page of -1", query, _SEARCH, search(top_k=-1)),
        _Bad("a page of two thousand million", query, _SEARCH, search(top_k=2_000_000_000)),
        _Bad("a weight that is no number", query, _SEARCH, search(alpha=float("nan"))),
        _Bad("a page token of nobody", query, _SEARCH, search(page_token="AAAA")),  # noqa: S106 - of results, no password
        _Bad("a mode that there is not", query, _SEARCH, search(mode=99)),
        _Bad("no documents", indexer, _UPSERT, indexer_pb2.UpsertDocumentsRequest(project_id=project).SerializeToString()),
        _Bad("half a message", query, _SEARCH, search(query="rivers" * 50)[:100]),
        _Bad("text that is no UTF-8", query, _SEARCH, b"\x0a\x04\xff\xfe\xfd\xfc"),
        *(
            _Bad(f"noise {number}", *(query, _SEARCH) if number % 2 else (indexer, _UPSERT), chance.randbytes(chance.randrange(1, 400)))
            for number in range(_NOISE)
        ),
    ]


async def _send(bad: _Bad) -> grpc.StatusCode:
    """How it is answered. On a channel of its own, without the limits and retries of ours."""
    options = (("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0))
    async with grpc.aio.insecure_channel(bad.address, options=options) as channel:
        method = channel.unary_unary(bad.method, request_serializer=bytes, response_deserializer=bytes)
        try:
            await method(bad.message, timeout=_CALL, compression=bad.compression)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK
