"""What a search cannot do without, measured beside it: the embedding, ChromaDB's query, both, and a bare gRPC call."""

from __future__ import annotations

import grpc.aio

from services.cli.bench.ask import Ask
from services.cli.bench.context import Bench
from services.cli.bench.dataset import PROJECT
from services.cli.bench.echo import EchoServer
from services.cli.bench.interleave import Variant
from services.cli.bench.load import TargetSpec
from services.cli.bench.records import ratio_values
from services.cli.bench.targets import SEARCH_METHOD, TIMEOUT
from shared.client import encode_search

CONCURRENCIES = (1, 8)


async def run(bench: Bench) -> None:
    """Measures searches and their parts in turns; ratios are of the medians of neighbouring slices."""
    stack = bench.stack
    request = encode_search.search(PROJECT, Ask(next(bench.queries)).search_query()).SerializeToString()
    async with grpc.aio.insecure_channel(stack.query_address) as channel:
        search: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(SEARCH_METHOD)
        answer = await search(request, timeout=TIMEOUT)
    async with EchoServer(answer) as echo:
        for concurrency in CONCURRENCIES:
            await _measure(bench, echo.address, concurrency)


async def _measure(bench: Bench, echo_address: str, concurrency: int) -> None:
    chroma = {**bench.model, "url": bench.stack.chroma_url, "collection": bench.dataset.project.collection}

    def variant(name: str, target: TargetSpec, mode: str = "hybrid", *, cached: bool = False) -> Variant:
        source = bench.repeated(mode) if cached else bench.fresh(mode)
        return Variant(f"{name}, {concurrency} at a time", target, source, concurrency, {"part": name, "concurrency": concurrency})

    embed = variant("embedding alone", TargetSpec("embed", bench.model))
    query = variant("ChromaDB query alone", TargetSpec("chroma", chroma))
    floor = variant("embedding, then ChromaDB query", TargetSpec("floor", chroma))
    echo = variant("bare gRPC echo", TargetSpec("echo", {"address": echo_address, "project": PROJECT}))
    hybrid = variant("hybrid search", bench.stub)
    library = variant("hybrid search through the client library", bench.library)
    vector = variant("vector search", bench.stub, "vector")
    keyword = variant("keyword search", bench.stub, "keyword")
    cached = variant("hybrid search, cached", bench.stub, cached=True)
    await bench.measure(f"the floor, {concurrency} at a time", [embed, query, floor, echo, hybrid, library, vector, keyword, cached])
    for part in (embed, query, floor, echo):
        bench.record_variant("floor", part)
    for search in (hybrid, library, vector):
        bench.record_variant("floor", search, **ratio_values("to_floor", search.ratio_to(floor)))
    for search in (keyword, cached):
        bench.record_variant("floor", search, **ratio_values("to_echo", search.ratio_to(echo)))
    bench.record(
        "floor",
        f"cost of the client library, {concurrency} at a time",
        ratio_values("to_stub", library.ratio_to(hybrid)),
        labels={"part": "client library", "concurrency": concurrency},
    )
