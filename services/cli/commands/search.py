"""`kb search`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import json_forms, options, render
from services.cli.console import json_document
from shared.client import FusionMethod, KnowledgeBeast, SearchMode, SearchQuery, SearchResult

EXAMPLES = options.examples(
    'kb search "how to open a file" -p notes',
    'kb search "open file" -p notes --mode keyword --filter kind=md --filter "year>=2020"',
    'kb search "open file" -p notes --fresh "$TOKEN" --no-degraded --json | jq ".hits[].document_id"',
)


def search(  # noqa: PLR0913 - one an option
    query: Annotated[str, typer.Argument(metavar="WORDS", help="What to look for.")],
    project: options.ProjectName,
    *,
    mode: Annotated[SearchMode, typer.Option("--mode", "-m", help="By meaning and keyword, or one of them.")] = SearchMode.HYBRID,
    alpha: Annotated[float | None, typer.Option("--alpha", min=0, max=1, help="Weight of meaning in a hybrid search. Default: 0.5.")] = None,
    fusion: Annotated[FusionMethod | None, typer.Option("--fusion", help="How the legs become one list. Default: rrf.")] = None,
    filters: options.Filters = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, max=1000, help="Number of hits. Default: 10.")] = None,
    fresh: Annotated[str | None, typer.Option("--fresh", metavar="TOKEN", help="See at least the write that gave this consistency token.")] = None,
    no_degraded: Annotated[bool, typer.Option("--no-degraded", help="Fail rather than give a degraded answer.")] = False,
    as_json: options.Json = False,
    query_address: options.Query = options.DEFAULT_QUERY,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Search a project."""
    wanted = SearchQuery(query, mode, top_k, fusion, alpha, options.conditions(filters), fresh, False if no_degraded else None)

    async def work() -> SearchResult:
        async with KnowledgeBeast(query=query_address, timeout=timeout) as kb:
            return await kb.search(project, wanted)

    found = options.run(work())
    if as_json:
        json_document(json_forms.search(found))
    else:
        render.search_result(query, found)
