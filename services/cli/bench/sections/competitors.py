"""The same corpus, vectors and queries in bare ChromaDB (official client) and in LanceDB (hybrid), in turns with our searches."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from services.cli.bench.ask import selectivity
from services.cli.bench.context import Bench
from services.cli.bench.dataset import PROJECT
from services.cli.bench.exact import StoredVectors, read_vectors
from services.cli.bench.interleave import Variant
from services.cli.bench.load import TargetSpec
from services.cli.bench.records import Labels, ratio_values
from services.cli.bench.sections import memory, recall
from services.cli.stack.chroma import chroma_server
from services.cli.stack.process import ManagedProcess, free_port
from shared.domain import DocumentInput, Metadata

CONCURRENCIES = (1, 8)
_BELOW = (None, 100, 2000)
_BATCH = 500
_START_TIMEOUT = 60.0
_GRACE = 10.0
_BUILT = "built.json"  # the fingerprint of what is in the folder, and what building it took
OURS_HYBRID, OURS_VECTOR = "KnowledgeBeast, hybrid", "KnowledgeBeast, vector"


async def run(bench: Bench) -> None:
    """Builds both beside our data unless they are there, then measures latency with and without filters, and recall of the vector searches.

    Raises ConfigurationError when LanceDB is not installed.
    """
    from services.cli.bench import competing  # noqa: PLC0415 - imports packages that only this section needs

    competing.require_lancedb()
    folder = bench.root / "competitors" / bench.size
    async with _chroma(folder) as (port, server):
        for name, seconds in (await _prepare(bench, folder, port)).items():
            chunks = bench.dataset.project.chunk_count
            bench.record("competitors", name, {"seconds": seconds, "chunks_per_second": chunks / seconds}, n=chunks)
        targets = {
            OURS_HYBRID: (bench.library, "hybrid"),
            OURS_VECTOR: (bench.library, "vector"),
            "LanceDB, hybrid": (TargetSpec("lancedb", {**bench.model, "path": str(folder / "lance")}), "hybrid"),
            "LanceDB, vector": (TargetSpec("lancedb", {**bench.model, "path": str(folder / "lance")}), "vector"),
            "ChromaDB, official client": (TargetSpec("official_chroma", {**bench.model, "port": port}), "vector"),
        }
        for concurrency in CONCURRENCIES:
            await _measure(bench, targets, concurrency)
        await recall.measure(bench, "competitors", {name: target for name, (target, mode) in targets.items() if mode == "vector"})
        bench.record("competitors", "ChromaDB with text and metadata, memory", memory.figures(server), n=1)


async def _measure(bench: Bench, targets: dict[str, tuple[TargetSpec, str]], concurrency: int) -> None:
    variants: dict[tuple[str, int | None], Variant] = {}
    for below in _BELOW:
        share = selectivity(below)
        for name, (target, mode) in targets.items():
            labels: Labels = {"what": name, "mode": mode, "selectivity": share, "concurrency": concurrency}
            full = f"{name}, {'no filter' if below is None else f'filter {share:.2%}'}, {concurrency} at a time"
            variants[name, below] = Variant(full, target, bench.fresh(mode, below), concurrency, labels)
    await bench.measure(f"side by side, {concurrency} at a time", list(variants.values()))
    for (name, below), variant in variants.items():
        ours = variants[OURS_HYBRID if variant.labels["mode"] == "hybrid" else OURS_VECTOR, below]
        ratio = {} if name in {OURS_HYBRID, OURS_VECTOR} else ratio_values("to_knowledgebeast", variant.ratio_to(ours))
        bench.record_variant("competitors", variant, **ratio)


@asynccontextmanager
async def _chroma(folder: Path) -> AsyncIterator[tuple[int, ManagedProcess]]:
    """A ChromaDB server of its own: what a user would run."""
    port = free_port()
    server = chroma_server(folder / "chroma", port, folder / "chroma.log")
    await server.start(_START_TIMEOUT)
    try:
        yield port, server
    finally:
        await server.stop(_GRACE)


async def _prepare(bench: Bench, folder: Path, port: int) -> dict[str, float]:
    """Builds both unless they are there; the seconds that building took, now or when they were built."""
    marker = folder / _BUILT
    fingerprint = bench.dataset.corpus.fingerprint
    if marker.is_file():
        built: dict[str, Any] = orjson.loads(marker.read_bytes())
        if built["fingerprint"] == fingerprint:
            seconds: dict[str, float] = built["seconds"]
            return seconds
    marker.unlink(missing_ok=True)
    stored = await asyncio.to_thread(read_vectors, bench.stack.data_dir, PROJECT)
    documents = {str(document.id): document for document in bench.dataset.corpus.documents}
    texts = [documents[identity] for identity in stored.document_ids]
    began = time.monotonic()
    await asyncio.to_thread(_fill_chroma, bench, port, stored, texts)
    chroma_seconds, began = time.monotonic() - began, time.monotonic()
    await asyncio.to_thread(_fill_lance, folder / "lance", stored, texts)
    seconds = {"ChromaDB, official client, build": chroma_seconds, "LanceDB, build with indexes": time.monotonic() - began}
    marker.write_bytes(orjson.dumps({"fingerprint": fingerprint, "seconds": seconds}))
    return seconds


def _fill_chroma(bench: Bench, port: int, stored: StoredVectors, texts: Sequence[DocumentInput]) -> None:
    import chromadb  # noqa: PLC0415 - its client is slow to import and used here alone
    from chromadb.config import Settings  # noqa: PLC0415 - same

    from services.cli.bench.competing import COLLECTION  # noqa: PLC0415 - same

    client = chromadb.HttpClient(host="127.0.0.1", port=port, settings=Settings(anonymized_telemetry=False))
    if COLLECTION in {collection.name for collection in client.list_collections()}:
        client.delete_collection(COLLECTION)
    collection = client.create_collection(COLLECTION, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
    with bench.meter("filling ChromaDB", "chunks", len(texts)) as meter:
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            collection.add(
                ids=list(stored.chunk_ids[part]),
                embeddings=stored.vectors[part],
                documents=[document.text for document in texts[part]],
                metadatas=[_plain(document.metadata) for document in texts[part]],
            )
            meter.advance(len(texts[part]))


def _plain(metadata: Metadata) -> dict[str, str | int | float]:
    """The corpus has no lists."""
    return {name: value for name, value in metadata.items() if not isinstance(value, tuple)}


def _fill_lance(folder: Path, stored: StoredVectors, texts: Sequence[DocumentInput]) -> None:
    """Table with text, metadata and vectors; indexes: HNSW with scalar quantisation (LanceDB's defaults), BM25 on the text, B-tree on `bucket`."""
    import pyarrow as pa  # noqa: PLC0415 - comes with LanceDB, a development extra
    from lancedb.index import FTS, BTree, HnswSq  # noqa: PLC0415 - same

    from services.cli.bench.competing import TABLE, require_lancedb  # noqa: PLC0415 - same

    shutil.rmtree(folder, ignore_errors=True)
    lancedb, _ = require_lancedb()
    columns = {
        "id": list(stored.chunk_ids),
        "title": [document.title for document in texts],
        "text": [document.text for document in texts],
        **{name: [document.metadata[name] for document in texts] for name in ("package", "kind", "bucket", "year")},
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(stored.vectors.reshape(-1)), stored.vectors.shape[1]),
    }
    table = lancedb.connect(str(folder)).create_table(TABLE, pa.table(columns))
    table.create_index("vector", config=HnswSq(distance_type="cosine"))
    table.create_index("text", config=FTS())
    table.create_index("bucket", config=BTree())
