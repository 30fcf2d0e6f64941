"""How many of the ten nearest chunks the vector leg finds, against exact search."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from services.cli.bench.ask import Ask
from services.cli.bench.context import Bench
from services.cli.bench.dataset import PROJECT
from services.cli.bench.exact import read_vectors, recall
from services.cli.bench.load import TargetSpec
from shared.domain import Vector
from shared.embedding.artifact import ModelExport
from shared.embedding.models import DEFAULT_MODEL, resolve_model
from shared.embedding.onnx import OnnxEmbedder

_QUERIES = 300


async def run(bench: Bench) -> None:
    """Compares the answers of the query service's vector mode, and of ChromaDB alone, with the scores of every stored vector."""
    chroma = {**bench.model, "url": bench.stack.chroma_url, "collection": bench.dataset.project.collection}
    await measure(bench, "recall", {"vector search": bench.stub, "ChromaDB query alone": TargetSpec("chroma", chroma)})


async def measure(bench: Bench, section: str, targets: Mapping[str, TargetSpec]) -> None:
    """Keeps recall@10 of each target as a record of the section."""
    queries = bench.queries.take(_QUERIES)
    vectors = await _embed(bench, queries)
    stored = await asyncio.to_thread(read_vectors, bench.stack.data_dir, PROJECT)
    for name, target in targets.items():
        burst = await bench.generator.run(target, [Ask(query, "vector") for query in queries], collect=True)
        if burst.failed:
            bench.fail(f"recall of {name} was not measured: {burst.errors[0]}")
            continue
        share = await asyncio.to_thread(recall, stored, vectors, burst.ids)
        values = {"recall_at_10_share": share, "degraded_share": burst.degraded / _QUERIES}
        bench.record(section, f"{name}, recall@10", values, n=_QUERIES, labels={"part": name})


async def _embed(bench: Bench, queries: list[str]) -> list[Vector]:
    """One by one, as the query service does it: padding changes the result of an int8 model in the last digits."""
    embedder = OnnxEmbedder(ModelExport.of(resolve_model(DEFAULT_MODEL), bench.stack.model_dir), concurrency=os.cpu_count() or 1, arena=False)
    try:
        await embedder.load()
        return [(await embedder.embed([query]))[0] for query in queries]
    finally:
        await asyncio.to_thread(embedder.close)
