"""The client's searches against a query service in memory."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from shared.client import (
    Degradation,
    DegradationReason,
    Diversity,
    DiversityStep,
    Explanation,
    FusionMethod,
    GroupedChunk,
    Grouping,
    KnowledgeBeast,
    LegContribution,
    LegScore,
    Reranking,
    RerankingStep,
    SearchMode,
    SearchQuery,
    Snippet,
    Snippets,
    TextRange,
    Timings,
)
from shared.domain import Chunk, ChunkId, DocumentId, DocumentInput
from shared.errors import ConflictError, NotFoundError
from shared.filters import Comparison, Operator
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2
from tests.fakes.servers import FakeServices


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


def _document(identity: str, text: str, **metadata: int) -> DocumentInput:
    return DocumentInput(DocumentId(identity), f"Title of {identity}", text, metadata)


async def test_a_search_says_how_good_its_answer_is(services: FakeServices) -> None:
    """Hits, legs, reasons of degradation, freshness and timings arrive as values of the client; a stage that was not needed has no time."""
    reason = query_pb2.Degradation(reason=query_pb2.Degradation.REASON_VECTOR_LEG_MISSING, component="chromadb", message="it is down")
    future = query_pb2.Degradation(component="new")
    future.reason = 77  # type: ignore[assignment] # a reason that this client has never heard of
    services.state.degradations = [reason, future]
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document("a", "two words", year=1)])
        found = await kb.search("p", "words")

    (hit,) = found.hits
    assert ("a", "Title of a", {"year": 1}, None, LegScore(1, 1.0)) == (hit.document_id, hit.title, hit.metadata, hit.vector, hit.keyword)
    assert found.degraded
    assert found.degradations == (
        Degradation(DegradationReason.VECTOR_LEG_MISSING, "chromadb", "it is down", None),
        Degradation(DegradationReason.UNKNOWN, "new", "", None),
    )
    assert (found.mode, found.freshness.head, found.timings) == (SearchMode.HYBRID, 1, Timings(total=0.0025, keyword=0.0012))
    assert (hit.more_chunks, hit.snippets, hit.explanation, found.next_page_token, found.cached) == ((), (), None, "", False)


async def test_an_answer_of_earlier_says_when_it_was_found(services: FakeServices) -> None:
    """The time is aware; an answer that was found now has none."""
    services.state.answer = query_pb2.SearchResponse(served_from_cache=True)
    services.state.answer.found_time.FromJsonString("2026-01-02T03:04:05Z")
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        earlier = await kb.search("p", "x")
        services.state.answer = query_pb2.SearchResponse()
        now = await kb.search("p", "x")

    assert (earlier.served_from_cache, earlier.found_time) == (True, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert (now.served_from_cache, now.found_time) == (False, None)


async def test_a_degraded_answer_without_a_reason_is_degraded_all_the_same(services: FakeServices) -> None:
    """What the service says of its answer is not lost."""
    services.state.answer = query_pb2.SearchResponse(degraded_mode=True)
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        found = await kb.search("p", "x")

    assert (found.degraded, [part.reason for part in found.degradations]) == (True, [DegradationReason.UNKNOWN])


@pytest.mark.parametrize("reason", [reason for reason in DegradationReason if reason is not DegradationReason.UNKNOWN])
async def test_every_reason_of_the_api_is_known(services: FakeServices, reason: DegradationReason) -> None:
    """The names are the API's without their prefix."""
    number = query_pb2.Degradation.Reason.Value(f"REASON_{reason.name}")
    services.state.answer = query_pb2.SearchResponse(degraded_mode=True, degradations=[query_pb2.Degradation(reason=number)])
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")

        assert [reason] == [part.reason for part in (await kb.search("p", "x")).degradations]


def test_no_reason_of_the_api_is_left_out() -> None:
    """One that is added to the API gets a word here."""
    words = {f"REASON_{reason.name}" for reason in DegradationReason if reason is not DegradationReason.UNKNOWN}

    assert {*words, "REASON_UNSPECIFIED"} == set(query_pb2.Degradation.Reason.keys())


async def test_snippets_further_chunks_and_explanations_arrive_whole(services: FakeServices) -> None:
    """Every field of a hit has its place in the client's types."""
    other = query_pb2.GroupedChunk(
        chunk=types_pb2.Chunk(id="a#1", ordinal=1, text="more", start_offset=4, end_offset=8),
        score=0.25,
        vector=query_pb2.LegScore(rank=7, score=0.5),
    )
    snippet = query_pb2.Snippet(text="x y", start_offset=2, end_offset=5, matches=[query_pb2.TextRange(start_offset=0, end_offset=1)])
    explanation = query_pb2.Explanation(
        vector=query_pb2.LegContribution(rank=2, score=0.7, normalized_score=0.5, weight=0.6, contribution=0.3),
        fused_score=0.3,
        formula="0.6 × 0.5 (vector) = 0.3",
        diversity=query_pb2.DiversityStep(relevance=0.9, similarity=0.1, value=0.4, rank_before=3),
        reranking=query_pb2.RerankingStep(score=5.5, rank_before=4),
    )
    hit = query_pb2.Hit(document_id="a", more_chunks=[other], snippets=[snippet], explanation=explanation)
    services.state.answer = query_pb2.SearchResponse(hits=[hit], next_page_token="next", cached=True)  # noqa: S106 - no password
    services.state.answer.timings.rerank.FromMilliseconds(7)
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        found = await kb.search("p", "x")

    (received,) = found.hits
    assert received.more_chunks == (GroupedChunk(Chunk(ChunkId("a#1"), 1, "more", 4, 8), 0.25, LegScore(7, 0.5), None),)
    assert received.snippets == (Snippet("x y", 2, 5, (TextRange(0, 1),)),)
    assert received.explanation == Explanation(
        LegContribution(2, 0.7, 0.5, 0.6, 0.3),
        None,
        0.3,
        "0.6 × 0.5 (vector) = 0.3",
        DiversityStep(0.9, 0.1, 0.4, 3),
        RerankingStep(5.5, 4),
    )
    assert (found.next_page_token, found.cached, found.timings.rerank) == ("next", True, 0.007)


async def test_what_a_search_does_not_say_is_left_to_the_service(services: FakeServices) -> None:
    """Zero, one and False are sent; None is not."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.search("p", "x")
        await kb.search("p", SearchQuery("x", SearchMode.VECTOR, 1, FusionMethod.WEIGHTED, 0.0, None, "token", allow_degraded=False))

    plain, full = services.state.requests[-2:]
    assert query_pb2.SearchRequest(project_id="p", query="x") == plain
    assert full.HasField("alpha")
    assert full.HasField("allow_degraded")
    assert (
        full.mode,
        full.top_k,
        full.fusion,
        full.consistency.at_least_as_fresh,
    ) == (query_pb2.SEARCH_MODE_VECTOR, 1, query_pb2.FUSION_METHOD_WEIGHTED, "token")


async def test_every_feature_of_searching_reaches_the_service(services: FakeServices) -> None:
    """Each field of a query is that of the message; what has a default of its own is sent with it."""
    query = SearchQuery(
        "x",
        rrf_k=20,
        candidates=500,
        min_vector_score=-0.5,
        min_keyword_score=0.0,
        grouping=Grouping(0),
        diversity=Diversity(0.0),
        snippets=Snippets(80, 3),
        explain=True,
        reranking=Reranking(),
    )
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.search("p", query)

    sent = services.state.requests[-1]
    expected = query_pb2.SearchRequest(
        project_id="p",
        query="x",
        rrf_k=20,
        candidates=500,
        min_vector_score=-0.5,
        min_keyword_score=0.0,
        grouping=query_pb2.Grouping(more_chunks=0),
        diversity=query_pb2.Diversity(**{"lambda": 0.0}),
        snippets=query_pb2.Snippets(max_characters=80, max_snippets=3),
        explain=True,
        reranking=query_pb2.Reranking(candidates=20),
    )
    assert expected == sent


async def test_pages_go_from_the_first_hit_to_the_last(services: FakeServices) -> None:
    """Each hit comes once, in order; everything but the token is sent again as it was."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document(str(number), "word") for number in range(5)])
        pages = [[hit.document_id for hit in page.hits] async for page in kb.pages("p", SearchQuery("word", top_k=2, explain=True))]
        second = SearchQuery("word", top_k=2, page_token="2")  # noqa: S106 - no password
        rest = [[hit.document_id for hit in page.hits] async for page in kb.pages("p", second)]

    assert pages == [["0", "1"], ["2", "3"], ["4"]]
    assert rest == [["2", "3"], ["4"]]
    assert all(request.explain for request in services.state.requests[-5:-2])


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 1), (3, 2), (100, 3)])
async def test_no_page_is_asked_for_beyond_the_limit(services: FakeServices, limit: int, expected: int) -> None:
    """Pages are whole: the last one may pass the limit."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document(str(number), "word") for number in range(5)])
        before = len(services.state.requests)
        pages = [len(page.hits) async for page in kb.pages("p", SearchQuery("word", top_k=2), limit=limit)]

    assert ([2, 2, 1][:expected], expected) == (pages, len(services.state.requests) - before)


async def test_a_page_that_cannot_be_given_any_more_is_a_conflict(services: FakeServices) -> None:
    """Its reason tells a program to begin again."""
    services.state.page_tokens_are_stale = True
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document(str(number), "word") for number in range(3)])
        pages = kb.pages("p", SearchQuery("word", top_k=2))
        first = await anext(pages)
        with pytest.raises(ConflictError) as refused:
            await anext(pages)

    assert (len(first.hits), refused.value.reason) == (2, "PAGE_TOKEN_STALE")


async def test_searches_of_a_batch_succeed_and_fail_by_themselves(services: FakeServices) -> None:
    """Answers come in any order, each with its index."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document("a", "word")])
        answers = {answer.index: answer async for answer in kb.batch_search("p", [SearchQuery("word"), SearchQuery("")])}

    assert answers[0].result is not None
    assert [hit.document_id for hit in answers[0].result.hits] == ["a"]
    assert answers[1].error is not None
    assert answers[1].error.reason == "INVALID_ARGUMENT"


async def test_similar_documents_are_an_answer_by_meaning(services: FakeServices) -> None:
    """The document itself is no hit; a document that is not there is said so."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document("a", "red apple", year=1), _document("b", "green apple", year=2), _document("c", "apple tree", year=3)])
        found = await kb.find_similar("p", "a", filter=Comparison("year", Operator.GREATER, 2))
        with pytest.raises(NotFoundError) as missing:
            await kb.find_similar("p", "gone")

    assert ([hit.document_id for hit in found.hits], found.mode, found.next_page_token, found.degraded) == (["c"], SearchMode.VECTOR, "", False)
    assert (LegScore(1, 1.0), None, 0.0015) == (found.hits[0].vector, found.hits[0].keyword, found.timings.total)
    assert missing.value.reason == "DOCUMENT_NOT_FOUND"


async def test_what_a_search_for_similar_documents_does_not_say_is_left_to_the_service(services: FakeServices) -> None:
    """Zero and False are sent; None is not."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document("a", "apple")])
        await kb.find_similar("p", "a")
        await kb.find_similar("p", "a", top_k=3, at_least_as_fresh="t", allow_degraded=False, min_score=0.0, more_chunks=0)

    plain, full = services.state.requests[-2:]
    assert query_pb2.FindSimilarRequest(project_id="p", document_id="a") == plain
    expected = query_pb2.FindSimilarRequest(
        project_id="p",
        document_id="a",
        top_k=3,
        consistency=query_pb2.Consistency(at_least_as_fresh="t"),
        allow_degraded=False,
        min_score=0.0,
        more_chunks=0,
    )
    assert expected == full


async def test_scores_keep_their_precision_in_explanations(services: FakeServices) -> None:
    """The figures of an explanation are doubles, so that they add up."""
    leg = query_pb2.LegContribution(rank=1, score=0.1, normalized_score=1 / 61, weight=0.5, contribution=0.5 / 61)
    services.state.answer = query_pb2.SearchResponse(hits=[query_pb2.Hit(explanation=query_pb2.Explanation(vector=leg, fused_score=0.5 / 61))])
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        (hit,) = (await kb.search("p", "x")).hits

    assert hit.explanation is not None
    assert hit.explanation.vector is not None
    assert math.isclose(hit.explanation.vector.contribution, hit.explanation.fused_score, rel_tol=1e-15)
