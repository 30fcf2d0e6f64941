"""Text in through the indexer, hits out of the query service: real processes, real gRPC, a real ChromaDB."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.stack.stack import Ports, Stack
from shared.client import DegradationReason, FusionMethod, KnowledgeBeast, SearchAnswer, SearchMode, SearchQuery
from shared.domain import ChunkingSettings, DocumentId, DocumentInput
from shared.errors import FailedPreconditionError, NotFoundError, UnavailableError
from shared.filters import AllOf, Comparison, Membership, Negation, Operator
from shared.search import Diversity, Grouping, Reranking, Snippets
from tests.waiting import eventually

TEXTS = {
    "cat": "The cat sat on the mat and purred.",
    "dog": "Dogs chase cars in the street.",
    "quantum": "Quantum mechanics describes the behaviour of very small particles.",
    "bread": "To bake bread you need flour, water, salt and yeast.",
    "market": "The stock market fell sharply today after bad news.",
}


def documents(texts: dict[str, str], **metadata: str | int) -> list[DocumentInput]:
    """Documents to write."""
    return [DocumentInput(DocumentId(document_id), "", text, {"id": document_id, **metadata}) for document_id, text in texts.items()]


def found(result: SearchAnswer) -> list[str]:
    """Ids of the documents that were found, best first."""
    return [hit.document_id for hit in result.hits]


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[KnowledgeBeast]:
    """A client of the shared stack."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as opened:
        yield opened


@pytest.fixture
async def project(client: KnowledgeBeast) -> AsyncIterator[str]:
    """A project of the test's own, with the five texts."""
    project_id = f"p-{uuid.uuid4().hex[:12]}"
    await client.create_project(project_id)
    await client.upsert(project_id, documents(TEXTS))
    yield project_id
    await client.delete_project(project_id)


async def fresh(client: KnowledgeBeast, project: str) -> str:
    """A token that covers what was written so far."""
    return (await client.upsert(project, documents({"cat": TEXTS["cat"]}))).consistency_token


async def test_a_text_is_found_by_meaning_and_by_keyword(client: KnowledgeBeast, project: str) -> None:
    """Each mode finds it with its own leg; the hybrid hit shows both legs' ranks."""
    token = await fresh(client, project)
    vector = await client.search(project, SearchQuery("a feline resting on a rug", SearchMode.VECTOR, at_least_as_fresh=token))
    keyword = await client.search(project, SearchQuery("yeast", SearchMode.KEYWORD, at_least_as_fresh=token))
    hybrid = await client.search(project, SearchQuery("physics of particles", at_least_as_fresh=token))

    assert found(vector)[0] == "cat"
    assert vector.hits[0].vector is not None
    assert vector.hits[0].keyword is None
    assert found(keyword) == ["bread"]
    assert found(hybrid)[0] == "quantum"
    assert hybrid.hits[0].vector is not None
    assert hybrid.hits[0].vector.rank == 1
    assert hybrid.hits[0].keyword is not None
    assert hybrid.hits[0].keyword.rank == 1
    assert not any(result.degraded for result in (vector, keyword, hybrid))


async def test_a_hit_carries_its_text_offsets_and_metadata(client: KnowledgeBeast, project: str) -> None:
    """What comes back is what was written."""
    token = await fresh(client, project)
    (hit,) = (await client.search(project, SearchQuery("purred", SearchMode.KEYWORD, at_least_as_fresh=token))).hits
    assert hit.chunk.text == TEXTS["cat"][hit.chunk.start : hit.chunk.end]
    assert hit.metadata == {"id": "cat"}


async def test_alpha_weighs_the_legs(client: KnowledgeBeast, project: str) -> None:
    """0 is the keyword leg's order, 1 the vector leg's, in both fusions."""
    token = await fresh(client, project)
    for fusion in FusionMethod:
        keyword = await client.search(project, SearchQuery("market cat", fusion=fusion, alpha=0.0, at_least_as_fresh=token))
        vector = await client.search(project, SearchQuery("market cat", fusion=fusion, alpha=1.0, at_least_as_fresh=token))
        assert set(found(keyword)) == {"market", "cat"}
        assert len(found(vector)) == len(TEXTS)
        assert [hit.vector.rank for hit in vector.hits if hit.vector] == [1, 2, 3, 4, 5]


async def test_a_filter_gives_the_same_set_in_every_mode(client: KnowledgeBeast, project: str) -> None:
    """Only documents that match come back, whichever leg finds them."""
    notes = [
        DocumentInput(DocumentId(f"year{year}"), "", f"A note about the market in the year {year}.", {"year": year, "id": "note"})
        for year in range(2015, 2025)
    ]
    await client.upsert(project, notes)
    token = await fresh(client, project)
    condition = AllOf(
        (Comparison("year", Operator.GREATER_OR_EQUAL, 2018), Membership("id", ("note",)), Negation(Comparison("year", Operator.EQUAL, 2020)))
    )
    wanted = {f"year{year}" for year in range(2018, 2025) if year != 2020}
    for mode in SearchMode:
        result = await client.search(project, SearchQuery("market note", mode, top_k=20, filter=condition, at_least_as_fresh=token))
        assert set(found(result)) == wanted, mode


async def test_a_deleted_document_is_not_found_once_the_token_is_satisfied(client: KnowledgeBeast, project: str) -> None:
    """No mode finds it, although its vector may still be in the vector store."""
    await fresh(client, project)
    token = (await client.delete_documents(project, [DocumentId("cat")])).consistency_token
    for mode in SearchMode:
        result = await client.search(project, SearchQuery("the cat sat on the mat", mode, at_least_as_fresh=token))
        assert "cat" not in found(result), mode


async def test_a_replaced_document_is_found_by_its_new_text_alone(client: KnowledgeBeast, project: str) -> None:
    """The old text is gone from both legs."""
    token = (await client.upsert(project, documents({"cat": "Volcanoes erupt when magma rises."}))).consistency_token
    assert found(await client.search(project, SearchQuery("purred", SearchMode.KEYWORD, at_least_as_fresh=token))) == []
    assert found(await client.search(project, SearchQuery("magma", SearchMode.KEYWORD, at_least_as_fresh=token))) == ["cat"]
    meaning = await client.search(project, SearchQuery("lava mountain", SearchMode.VECTOR, at_least_as_fresh=token))
    assert found(meaning)[0] == "cat"


async def test_a_token_makes_each_write_visible_at_once(client: KnowledgeBeast, project: str) -> None:
    """Read-your-writes, twenty times in a row, by keyword and by meaning."""
    for number in range(20):
        word = f"word{chr(ord('a') + number)}{chr(ord('a') + number)}"
        token = (await client.upsert(project, documents({f"doc{number}": f"This one says {word}."}))).consistency_token
        result = await client.search(project, SearchQuery(word, SearchMode.KEYWORD, at_least_as_fresh=token))
        assert found(result) == [f"doc{number}"]
        near = await client.search(project, SearchQuery(f"This one says {word}.", SearchMode.VECTOR, at_least_as_fresh=token))
        assert found(near)[0] == f"doc{number}"
        assert not near.degraded


async def test_a_project_that_was_just_created_can_be_searched_with_a_token(client: KnowledgeBeast) -> None:
    """The token is waited for also while the query service has not heard of the project."""
    project_id = f"p-{uuid.uuid4().hex[:12]}"
    await client.create_project(project_id)
    token = (await client.upsert(project_id, documents(TEXTS))).consistency_token
    assert found(await client.search(project_id, SearchQuery("yeast", SearchMode.KEYWORD, at_least_as_fresh=token))) == ["bread"]
    await client.delete_project(project_id)


async def test_a_token_of_a_project_that_was_created_again_is_refused(client: KnowledgeBeast, project: str) -> None:
    """It proves a write that is gone."""
    token = await fresh(client, project)
    await client.delete_project(project)
    await client.create_project(project)
    newer = await fresh(client, project)
    await client.search(project, SearchQuery("cat", at_least_as_fresh=newer))
    with pytest.raises(FailedPreconditionError, match="write again"):
        await client.search(project, SearchQuery("cat", at_least_as_fresh=token))


async def test_batch_search_answers_each_search_by_itself(client: KnowledgeBeast, project: str) -> None:
    """Good searches are answered, bad ones get their own error."""
    token = await fresh(client, project)
    texts = ("yeast", "", "particles")
    queries = [SearchQuery(text, SearchMode.KEYWORD, at_least_as_fresh=token) for text in texts]
    results = {result.index: result async for result in client.batch_search(project, queries)}
    assert results[0].result is not None
    assert found(results[0].result) == ["bread"]
    assert results[1].error is not None
    assert results[1].error.reason == "INVALID_ARGUMENT"
    assert results[2].result is not None
    assert found(results[2].result) == ["quantum"]


async def test_searches_go_on_without_chromadb_and_recover_with_it(own_stack: Stack) -> None:
    """Killed while searching: no search fails, answers say that they are degraded, writes and deletes take effect; afterwards all is well."""
    async with KnowledgeBeast(own_stack.indexer_address, own_stack.query_address) as client:
        await client.create_project("docs")
        token = (await client.upsert("docs", documents(TEXTS))).consistency_token
        before = await client.search("docs", SearchQuery("a feline on a rug", SearchMode.VECTOR, at_least_as_fresh=token))
        assert not before.degraded

        stop = asyncio.Event()
        answers: list[SearchAnswer] = []

        async def search_on() -> None:
            while not stop.is_set():
                answers.append(await client.search("docs", SearchQuery("a feline on a rug")))

        load = asyncio.gather(*(search_on() for _ in range(4)))
        own_stack.kill_chroma()
        await eventually(lambda: client.search("docs", SearchQuery("any")), lambda answer: answer.degraded)
        token = (await client.upsert("docs", documents({"sun": "Vincent van Gogh painted sunflowers."}))).consistency_token
        written = await client.search("docs", SearchQuery("dutch artist and his flowers", SearchMode.VECTOR, at_least_as_fresh=token))
        assert found(written)[0] == "sun", "the replica's own vectors find it"
        assert written.degraded
        assert [degradation.reason for degradation in written.degradations] == [DegradationReason.VECTOR_STORE_UNAVAILABLE]
        assert written.degradations[0].component == "chromadb"
        with pytest.raises(UnavailableError):
            await client.search("docs", SearchQuery("anything", allow_degraded=False))
        token = (await client.delete_documents("docs", [DocumentId("cat")])).consistency_token
        for mode in SearchMode:
            gone = await client.search("docs", SearchQuery("the cat sat on the mat", mode, at_least_as_fresh=token))
            assert "cat" not in found(gone)
        stop.set()
        await load
        assert all(found(answer) for answer in answers)

        await own_stack.start_chroma()
        await eventually(lambda: client.get_project("docs"), lambda seen: int(seen.vector_sequence) == int(seen.head), seconds=90)
        query = SearchQuery("dutch artist and his flowers", SearchMode.VECTOR)
        answer = await eventually(lambda: client.search("docs", query), lambda seen: not seen.degraded, seconds=90)
        assert found(answer)[0] == "sun"
        assert "cat" not in found(answer)


async def test_without_its_own_vectors_the_replica_answers_by_keyword(tmp_path: Path, model_dir: Path) -> None:
    """With the replica's vectors switched off, a search by meaning is answered with keyword hits, and says so."""
    bare = Stack(tmp_path, model_dir, Ports.free(), settings={"KB_REPLICA_VECTORS_MAX": "0"})
    await bare.start()
    try:
        async with KnowledgeBeast(bare.indexer_address, bare.query_address) as client:
            await client.create_project("docs")
            token = (await client.upsert("docs", documents(TEXTS))).consistency_token
            healthy = await client.search("docs", SearchQuery("feline", SearchMode.VECTOR, at_least_as_fresh=token))
            bare.kill_chroma()
            degraded = await client.search("docs", SearchQuery("the cat", SearchMode.VECTOR))
    finally:
        await bare.stop()

    assert found(healthy)[0] == "cat"
    assert not healthy.degraded
    assert found(degraded) == ["cat"]
    assert [degradation.reason for degradation in degraded.degradations] == [DegradationReason.VECTOR_LEG_MISSING]


@pytest.mark.parametrize("fusion", list(FusionMethod))
async def test_scores_of_a_hybrid_answer_add_up(client: KnowledgeBeast, project: str, fusion: FusionMethod) -> None:
    """What an explanation says is what the score is; in reciprocal rank fusion by the published formula."""
    token = await fresh(client, project)
    result = await client.search(project, SearchQuery("cat on the market street", fusion=fusion, alpha=0.3, at_least_as_fresh=token, explain=True))
    assert len(result.hits) == len(TEXTS)
    for hit in result.hits:
        assert hit.explanation is not None
        legs = [leg for leg in (hit.explanation.vector, hit.explanation.keyword) if leg is not None]
        assert sum(leg.contribution for leg in legs) == hit.explanation.fused_score
        assert math.isclose(hit.score, hit.explanation.fused_score, rel_tol=1e-6)
        if fusion is FusionMethod.RRF:
            expected = (0.3 / (60 + hit.vector.rank) if hit.vector else 0) + (0.7 / (60 + hit.keyword.rank) if hit.keyword else 0)
            assert math.isclose(hit.score, expected, rel_tol=1e-5)


# --- everything that can be asked for, through the real services ------------------------------------------------------------------------------


@pytest.fixture
async def library(client: KnowledgeBeast) -> AsyncIterator[tuple[str, str]]:
    """A project of thirty documents of several chunks each, and a token that covers them."""
    project_id = f"p-{uuid.uuid4().hex[:12]}"
    await client.create_project(project_id, chunking=ChunkingSettings(32, 0))
    subjects = ("bread", "cars", "physics", "markets", "cats", "gardens")
    texts = {
        f"{subject}-{number}": " ".join(
            f"Sentence {line} of note {number} says something more about {subject} and how they work." for line in range(6)
        )
        for subject in subjects
        for number in range(5)
    }
    written = await client.upsert(project_id, documents(texts, shelf=1))
    yield project_id, written.consistency_token
    await client.delete_project(project_id)


async def test_pages_of_a_search_repeat_and_skip_nothing(client: KnowledgeBeast, library: tuple[str, str]) -> None:
    """By document and apart, with ChromaDB's approximate neighbours: the pages are what one long page has."""
    project, token = library
    for grouping in (None, Grouping(1)):
        query = SearchQuery("how cars work", top_k=100, grouping=grouping, at_least_as_fresh=token)
        whole = await client.search(project, query)
        pages = [page async for page in client.pages(project, replace(query, top_k=7))]
        # The candidates are as many for both, so both rank the same.
        assert [hit.chunk.id for page in pages for hit in page.hits] == [hit.chunk.id for hit in whole.hits]
        assert len(whole.hits) == len({hit.chunk.id for hit in whole.hits}) == (30 if grouping else 90)


async def test_groups_diversity_snippets_and_explanations_work_together(client: KnowledgeBeast, library: tuple[str, str]) -> None:
    """Each leaves the others what they are."""
    project, token = library
    query = SearchQuery(
        "cats in gardens", grouping=Grouping(2), diversity=Diversity(0.3), snippets=Snippets(60), explain=True, at_least_as_fresh=token
    )
    answer = await client.search(project, query)
    assert len({hit.document_id for hit in answer.hits}) == len(answer.hits) == 10
    assert all(other.chunk.id != hit.chunk.id for hit in answer.hits for other in hit.more_chunks)
    assert all(hit.explanation is not None and hit.explanation.diversity is not None for hit in answer.hits)
    marked = {snippet.text[match.start : match.end] for hit in answer.hits for snippet in hit.snippets for match in snippet.matches}
    assert marked <= {"cats", "gardens", "in"}
    assert marked >= {"cats", "gardens"}
    assert not answer.degraded


async def test_an_equal_search_is_kept_until_something_is_written(client: KnowledgeBeast, library: tuple[str, str]) -> None:
    """Kept answers are those of the project as it is: a write with its token is seen at once."""
    project, token = library
    query = SearchQuery("markets", SearchMode.KEYWORD, top_k=3, at_least_as_fresh=token)
    first = await client.search(project, query)
    second = await client.search(project, query)
    assert second.cached
    assert second.hits == first.hits
    written = await client.upsert(project, documents({"new": "markets markets markets"}))
    third = await client.search(project, replace(query, at_least_as_fresh=written.consistency_token))
    assert not third.cached
    assert found(third)[0] == "new"


async def test_documents_like_a_document_are_of_its_subject(client: KnowledgeBeast, library: tuple[str, str]) -> None:
    """Before those of any other; one that is not there is NOT_FOUND."""
    project, token = library
    answer = await client.find_similar(project, "physics-2", top_k=4, at_least_as_fresh=token)
    assert set(found(answer)) == {f"physics-{number}" for number in (0, 1, 3, 4)}
    with pytest.raises(NotFoundError):
        await client.find_similar(project, "nobody")


async def test_a_batch_answers_each_search_as_if_it_were_alone(client: KnowledgeBeast, library: tuple[str, str]) -> None:
    """In any order, with its own error where a search is wrong."""
    project, token = library
    queries = [SearchQuery(f"about {subject}", top_k=5, at_least_as_fresh=token) for subject in ("bread", "cars", "cats")] + [
        SearchQuery("x", top_k=0)
    ]
    results = {result.index: result async for result in client.batch_search(project, queries)}
    assert set(results) == {0, 1, 2, 3}
    for index, query in enumerate(queries[:3]):
        answer = results[index].result
        assert answer is not None
        assert answer.hits == (await client.search(project, query)).hits
    assert results[3].error is not None
    assert results[3].error.violations[0].field == "top_k"


async def test_reranking_without_a_reranker_says_what_to_set(client: KnowledgeBeast, library: tuple[str, str]) -> None:
    """FAILED_PRECONDITION rather than an answer in another order than was asked for."""
    with pytest.raises(FailedPreconditionError, match="KB_RERANKER_MODEL"):
        await client.search(library[0], SearchQuery("bread", reranking=Reranking()))
