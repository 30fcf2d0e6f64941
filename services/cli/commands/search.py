"""`kb search`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import json_search, options, render_search
from services.cli.console import json_document, json_line, result
from shared.client import Diversity, FusionMethod, Grouping, KnowledgeBeast, Reranking, SearchAnswer, SearchMode, SearchQuery, Snippets

EXAMPLES = options.examples(
    'kb search "how to open a file" -p notes',
    'kb search "open file" -p notes --mode keyword --filter kind=md --filter "year>=2020"',
    'kb search "open file" -p notes --group --explain',
    'kb search "open file" -p notes --all-pages --json | jq -r ".hits[].document_id"',
    'kb search "open file" -p notes --fresh "$TOKEN" --no-degraded',
)

_RANKING = "Ranking"
_SHOWING = "What is shown"

Words = Annotated[str, typer.Argument(metavar="WORDS", help="What to look for.")]
Mode = Annotated[SearchMode, typer.Option("--mode", "-m", help="By meaning and keyword, or one of them.")]
Alpha = Annotated[
    float | None,
    typer.Option(
        "--alpha", min=0, max=1, rich_help_panel=_RANKING, help="Weight of meaning in a hybrid search. Default: 0.6, with --fusion rrf 0.5."
    ),
]
Fusion = Annotated[
    FusionMethod | None, typer.Option("--fusion", rich_help_panel=_RANKING, help="How meaning and keyword become one list. Default: weighted.")
]
RrfK = Annotated[int | None, typer.Option("--rrf-k", min=1, max=10_000, rich_help_panel=_RANKING, help="k of --fusion rrf. Default: 60.")]
Candidates = Annotated[
    int | None,
    typer.Option("--candidates", min=100, max=1000, rich_help_panel=_RANKING, help="How many of each leg are fused; pages end there. Default: 100."),
]
MinVectorScore = Annotated[
    float | None,
    typer.Option("--min-vector-score", min=-1, max=1, rich_help_panel=_RANKING, help="Leave out what is less similar in meaning (cosine)."),
]
MinKeywordScore = Annotated[
    float | None,
    typer.Option("--min-keyword-score", min=0, rich_help_panel=_RANKING, help="Leave out what matches the words less (BM25)."),
]
DiversityLambda = Annotated[
    float | None,
    typer.Option(
        "--diversity",
        metavar="LAMBDA",
        min=0,
        max=1,
        rich_help_panel=_RANKING,
        help="Prefer hits that differ from those before them. 1: relevance alone, 0: difference alone; 0.5 is a start.",
    ),
]
Rerank = Annotated[
    bool, typer.Option("--rerank", rich_help_panel=_RANKING, help="Order the best hits again by the service's reranker, if it has one.")
]
RerankCandidates = Annotated[
    int | None,
    typer.Option("--rerank-candidates", min=1, max=200, rich_help_panel=_RANKING, help="How many; implies --rerank. Default: 20."),
]
Group = Annotated[bool, typer.Option("--group", rich_help_panel=_SHOWING, help="One hit a document: its best chunk, and some of its others.")]
MoreChunks = Annotated[
    int | None,
    typer.Option("--more-chunks", min=0, max=100, rich_help_panel=_SHOWING, help="How many others; implies --group. Default: 2."),
]
WithSnippets = Annotated[
    bool | None,
    typer.Option(
        "--snippets/--no-snippets",
        show_default=False,
        rich_help_panel=_SHOWING,
        help="The parts of the texts that match, or whole chunks. Default: snippets in a table, none in JSON.",
    ),
]
Explain = Annotated[bool, typer.Option("--explain", rich_help_panel=_SHOWING, help="How each score came about.")]
Page = Annotated[
    str, typer.Option("--page", metavar="TOKEN", rich_help_panel=_SHOWING, help="The page that the page before named; all else as it was then.")
]
AllPages = Annotated[
    bool,
    typer.Option("--all-pages", rich_help_panel=_SHOWING, help="Every page, --top-k hits each; with --json, one answer a line."),
]


def search(  # noqa: PLR0913 - one an option
    query: Words,
    project: options.ProjectName,
    *,
    mode: Mode = SearchMode.HYBRID,
    filters: options.Filters = None,
    top_k: options.TopK = None,
    fresh: options.Fresh = None,
    no_degraded: options.NoDegraded = False,
    alpha: Alpha = None,
    fusion: Fusion = None,
    rrf_k: RrfK = None,
    candidates: Candidates = None,
    min_vector_score: MinVectorScore = None,
    min_keyword_score: MinKeywordScore = None,
    diversity: DiversityLambda = None,
    rerank: Rerank = False,
    rerank_candidates: RerankCandidates = None,
    group: Group = False,
    more_chunks: MoreChunks = None,
    snippets: WithSnippets = None,
    explain: Explain = False,
    page: Page = "",
    all_pages: AllPages = False,
    as_json: options.Json = False,
    query_address: options.Query = options.DEFAULT_QUERY,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Search a project by meaning and by keyword."""
    if page and all_pages:
        raise typer.BadParameter("cannot be combined with --page", param_hint="--all-pages")
    wanted = SearchQuery(
        query,
        mode,
        top_k,
        fusion,
        alpha,
        options.conditions(filters),
        fresh,
        False if no_degraded else None,
        rrf_k=rrf_k,
        candidates=candidates,
        min_vector_score=min_vector_score,
        min_keyword_score=min_keyword_score,
        grouping=_grouping(group, more_chunks),
        diversity=None if diversity is None else Diversity(diversity),
        snippets=Snippets() if snippets or (snippets is None and not as_json) else None,
        explain=explain,
        reranking=_reranking(rerank, rerank_candidates),
        page_token=page,
    )

    def show(found: SearchAnswer, first: int) -> None:
        if not as_json:
            render_search.search_answer(found, first=first, whole=snippets is False)
            if found.next_page_token and not all_pages:
                result(f"more with --page {found.next_page_token}", style="dim")
        elif all_pages:
            json_line(json_search.answer(found, first))
        else:
            json_document(json_search.answer(found, first))

    async def work() -> None:
        async with KnowledgeBeast(query=query_address, timeout=timeout) as kb:
            if not all_pages:
                show(await kb.search(project, wanted), 1)
                return
            first = 1
            async for found in kb.pages(project, wanted):
                show(found, first)
                first += len(found.hits)

    options.run(work())


def _grouping(wanted: bool, more_chunks: int | None) -> Grouping | None:
    if more_chunks is not None:
        return Grouping(more_chunks)
    return Grouping() if wanted else None


def _reranking(wanted: bool, candidates: int | None) -> Reranking | None:
    if candidates is not None:
        return Reranking(candidates)
    return Reranking() if wanted else None
