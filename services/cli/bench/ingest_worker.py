"""One job of the ingest measurement in a process of its own: `python -m services.cli.bench.ingest_worker`, JSON on stdin, JSON on stdout.

`ingest` streams documents and tells when the last was acknowledged; `embed` embeds the same texts without any service.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from services.cli.bench import corpus, dataset
from shared.client import KnowledgeBeast
from shared.domain import DocumentInput
from shared.embedding.artifact import ModelExport
from shared.embedding.models import DEFAULT_MODEL, resolve_model
from shared.embedding.onnx import OnnxEmbedder

_STEP = 128  # texts a call, as the indexer does it


async def ingest(documents: Sequence[DocumentInput], indexer: str, project: str) -> dict[str, Any]:
    """Streams the documents; seconds until the last was durable, and when sending began, on this machine's monotonic clock."""
    failed = acknowledged = 0
    async with KnowledgeBeast(indexer) as kb:
        await kb.get_project(project)  # connects
        began, cpu = time.monotonic(), time.process_time()
        async for result in kb.ingest(project, dataset.batches(documents)):
            failed += sum(item.error is not None for item in result.results)
            acknowledged += len(result.results)
        return {
            "began": began,
            "seconds": time.monotonic() - began,
            "acknowledged": acknowledged,
            "failed": failed,
            "client_cpu": time.process_time() - cpu,
        }


async def embed(documents: Sequence[DocumentInput], model_dir: str, concurrency: int) -> dict[str, Any]:
    """Embeds title and text of the documents as the indexer does, with nothing else on the way; seconds."""
    embedder = OnnxEmbedder(ModelExport.of(resolve_model(DEFAULT_MODEL), Path(model_dir)), concurrency=concurrency, arena=False)
    try:
        await embedder.load()
        texts = [f"{document.title}\n{document.text}" for document in documents]
        began = time.monotonic()
        for start in range(0, len(texts), _STEP):
            await embedder.embed(texts[start : start + _STEP])
        return {"seconds": time.monotonic() - began}
    finally:
        await asyncio.to_thread(embedder.close)


async def main() -> None:
    """Does the job."""
    job = orjson.loads(sys.stdin.buffer.read())
    documents = corpus.load(Path(job["corpus"]), job["start"] + job["count"]).documents[job["start"] :]
    if job["kind"] == "ingest":
        result = await ingest(documents, job["indexer"], job["project"])
    else:
        result = await embed(documents, job["model_dir"], job["concurrency"])
    sys.stdout.buffer.write(orjson.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
