"""`kb similar`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import json_search, options, render_search
from services.cli.console import json_document
from shared.client import KnowledgeBeast, SearchAnswer

EXAMPLES = options.examples(
    "kb similar docs/guide.md -p notes",
    "kb similar docs/guide.md -p notes --top-k 3 --min-score 0.5 --filter kind=md",
    "kb similar docs/guide.md -p notes --json | jq -r '.hits[].document_id'",
)


def similar(  # noqa: PLR0913 - one an option
    document_id: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Id of the document that others are compared with.")],
    project: options.ProjectName,
    *,
    filters: options.Filters = None,
    top_k: options.TopK = None,
    min_score: Annotated[float | None, typer.Option("--min-score", min=-1, max=1, help="Leave out what is less similar in meaning (cosine).")] = None,
    more_chunks: Annotated[
        int | None, typer.Option("--more-chunks", min=0, max=100, help="Chunks that come with a document's best one. Default: 0.")
    ] = None,
    fresh: options.Fresh = None,
    no_degraded: options.NoDegraded = False,
    as_json: options.Json = False,
    query_address: options.Query = options.DEFAULT_QUERY,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Find documents that are like a document, by meaning. The document itself is left out."""
    condition = options.conditions(filters)

    async def work() -> SearchAnswer:
        async with KnowledgeBeast(query=query_address, timeout=timeout) as kb:
            return await kb.find_similar(
                project,
                document_id,
                top_k=top_k,
                filter=condition,
                at_least_as_fresh=fresh,
                allow_degraded=False if no_degraded else None,
                min_score=min_score,
                more_chunks=more_chunks,
            )

    found = options.run(work())
    if as_json:
        json_document(json_search.answer(found))
    else:
        render_search.search_answer(found)
