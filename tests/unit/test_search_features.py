"""What a search can be asked for beyond hits: groups, diversity, pages, snippets, explanations, thresholds, reranking, batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.query.application.assembly import Assembler
from services.query.application.degradation import Degradations, Outages
from services.query.application.fusion import alone
from services.query.application.query import Query
from services.query.application.ranking import rank
from shared.domain import ChunkId
from shared.errors import ConflictError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from shared.filters import Existence
from shared.resilience.deadline import Deadline
from shared.search import DegradationReason, Diversity, FusionMethod, Grouping, Reranking, SearchAnswer, SearchMode, Snippets
from tests.fakes.feed import make_batch, make_document, vector_of
from tests.fixtures.world import P, WordReranker, World, ids, open_world, reasons

# fmt: off
NAMES = (
    "amber", "basil", "cedar", "dahlia", "elder", "fennel", "ginger", "hazel", "iris", "juniper", "kale", "laurel", "maple", "nutmeg",
    "olive", "poppy", "quince", "rowan", "sage", "thyme", "ulex", "violet", "willow", "xerus", "yarrow", "zinnia", "acacia", "birch",
    "clover", "daisy",
)
# fmt: on
# Thirty documents of three chunks each; every chunk has the word "common", the middle one its document's name, too.
DOCUMENTS = [
    make_document(f"d{number:02}", f"common opening {number}\ncommon middle {name}\ncommon end of {number}", metadata={"number": number})
    for number, name in enumerate(NAMES)
]
MODES = pytest.mark.parametrize("mode", list(SearchMode))
FUSIONS = pytest.mark.parametrize("fusion", list(FusionMethod))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world with those documents and a reranker."""
    async with open_world(tmp_path, DOCUMENTS, reranker=WordReranker()) as opened:
        yield opened


async def all_pages(world: World, text: str, **query: Any) -> list[SearchAnswer]:  # noqa: ANN401 - fields of Query
    """Every page of a search, to the last."""
    answers = [await world.ask(text, **query)]
    while answers[-1].next_page_token:
        answers.append(await world.ask(text, page_token=answers[-1].next_page_token, **query))
    return answers


def chunk_ids(*answers: SearchAnswer) -> list[ChunkId]:
    """Chunks of all hits, in order."""
    return [hit.chunk.id for answer in answers for hit in answer.hits]


# --- pages ------------------------------------------------------------------------------------------------------------------------------------


@MODES
@FUSIONS
@pytest.mark.parametrize(
    "more", [{}, {"grouping": Grouping(1)}, {"diversity": Diversity(0.5)}, {"grouping": Grouping(0), "diversity": Diversity(0.3)}]
)
async def test_pages_together_are_the_whole_without_repeating_or_skipping(
    world: World, mode: SearchMode, fusion: FusionMethod, more: dict[str, Any]
) -> None:
    """Whatever the search is made of: pages of 7 are what one page of 100 has, in the same order."""
    whole = await world.ask("common middle hazel", mode=mode, fusion=fusion, top_k=100, **more)
    pages = await all_pages(world, "common middle hazel", mode=mode, fusion=fusion, top_k=7, **more)
    assert chunk_ids(*pages) == chunk_ids(whole)
    assert all(len(page.hits) == 7 for page in pages[:-1])


async def test_a_page_after_a_change_that_would_repeat_a_hit_is_refused(world: World) -> None:
    """ABORTED asks for the first page again, rather than showing something twice."""
    first = await world.ask("common dahlia", mode=SearchMode.KEYWORD, top_k=5)
    world.replica.apply_documents(P, make_batch(len(DOCUMENTS), make_document("new", "dahlia dahlia common", sequence=31)))
    with pytest.raises(ConflictError) as raised:
        await world.ask("common dahlia", mode=SearchMode.KEYWORD, top_k=5, page_token=first.next_page_token)
    assert raised.value.reason == "PAGE_TOKEN_STALE"


async def test_a_page_after_a_change_that_matters_to_nothing_shown_goes_on(world: World) -> None:
    """A write elsewhere in the project does not end the reading of pages."""
    first = await world.ask("common dahlia", mode=SearchMode.KEYWORD, top_k=5)
    world.replica.apply_documents(P, make_batch(len(DOCUMENTS), make_document("new", "something else", sequence=31)))
    second = await world.ask("common dahlia", mode=SearchMode.KEYWORD, top_k=5, page_token=first.next_page_token)
    assert not set(chunk_ids(first)) & set(chunk_ids(second))


@pytest.mark.parametrize("token", ["", "kp1.", "kp1.e30", "kb1.W10", "x" * 500])
async def test_what_is_no_page_token_is_refused(world: World, token: str) -> None:
    """So is the token of another search; an empty one asks for the first page."""
    if not token:
        token = (await world.ask("another question", top_k=3)).next_page_token
    with pytest.raises(InvalidArgumentError) as raised:
        await world.ask("common", page_token=token)
    assert raised.value.violations[0].field == "page_token"


async def test_a_page_that_would_not_fit_a_message_ends_early_and_the_next_goes_on(world: World) -> None:
    """At least one hit a page, and nothing lost between pages."""
    assembler = Assembler(world.replica, page_bytes=1_000)
    query = Query(P, "common", SearchMode.KEYWORD, top_k=50)
    ranked = rank(world.replica, P, alone(keyword=world.replica.keyword(P, "common", 100)))
    seen: list[str] = []
    token = ""
    while True:
        page = assembler.page(Query(P, "common", SearchMode.KEYWORD, top_k=50, page_token=token), ranked, Degradations(Outages()))
        assert 1 <= len(page.hits) <= 4
        seen += [hit.chunk.id for hit in page.hits]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == 90
    assert seen[:50] == [hit.chunk.id for hit in Assembler(world.replica).page(query, ranked, Degradations(Outages())).hits]


async def test_snippets_count_towards_the_size_of_a_page(world: World) -> None:
    """They repeat the text, so fewer hits fit."""
    assembler = Assembler(world.replica, page_bytes=2_000)
    ranked = rank(world.replica, P, alone(keyword=world.replica.keyword(P, "common", 100)))
    plain, marked = (
        assembler.page(Query(P, "common", SearchMode.KEYWORD, top_k=50, snippets=snippets), ranked, Degradations(Outages()))
        for snippets in (None, Snippets(max_characters=200))
    )
    assert len(marked.hits) < len(plain.hits)


# --- groups -----------------------------------------------------------------------------------------------------------------------------------


@MODES
async def test_grouped_hits_are_one_a_document_by_its_best_chunk(world: World, mode: SearchMode) -> None:
    """In the order of the best chunks, each with so many others of its own, best first."""
    apart = await world.ask("common middle fennel", mode=mode, top_k=90)
    grouped = await world.ask("common middle fennel", mode=mode, top_k=30, grouping=Grouping(1))
    best: dict[str, list[str]] = {}
    for hit in apart.hits:
        best.setdefault(hit.document_id, []).append(hit.chunk.id)
    assert ids(grouped) == list(best)
    assert [[hit.chunk.id, *(other.chunk.id for other in hit.more_chunks)] for hit in grouped.hits] == [found[:2] for found in best.values()]
    assert all(other.score <= hit.score for hit in grouped.hits for other in hit.more_chunks)


# --- diversity --------------------------------------------------------------------------------------------------------------------------------


async def test_diversity_is_maximal_marginal_relevance(world: World) -> None:
    """Against the definition, computed here step by step from the vectors themselves."""
    lambda_ = 0.4
    pool = (await world.ask("common middle", top_k=100)).hits
    scores = {hit.chunk.id: hit.score for hit in pool}
    vectors = {hit.chunk.id: vector_of(hit.chunk.text) for hit in pool}
    low, high = min(scores.values()), max(scores.values())
    expected: list[ChunkId] = []
    while len(expected) < 20:

        def value(chunk: ChunkId) -> float:
            similarity = max((float(vectors[chunk] @ vectors[other]) for other in expected), default=0.0)
            return lambda_ * (scores[chunk] - low) / (high - low) - (1 - lambda_) * similarity

        expected.append(max((chunk for chunk in scores if chunk not in expected), key=value))
    diverse = await world.ask("common middle", top_k=20, diversity=Diversity(lambda_))
    assert chunk_ids(diverse) == expected


async def test_relevance_alone_is_the_order_by_score(world: World) -> None:
    """Lambda = 1 changes nothing."""
    plain = await world.ask("common middle juniper", top_k=30)
    assert chunk_ids(await world.ask("common middle juniper", top_k=30, diversity=Diversity(1.0))) == chunk_ids(plain)


async def test_diversity_without_vectors_says_that_it_was_left_out(tmp_path: Path) -> None:
    """The hits come all the same, by score; who allows no degraded answer gets none."""
    async with open_world(tmp_path, DOCUMENTS, vectors_max=0) as world:
        plain = await world.ask("common elder", top_k=5)
        diverse = await world.ask("common elder", top_k=5, diversity=Diversity())
        assert chunk_ids(diverse) == chunk_ids(plain)
        assert reasons(diverse) == [DegradationReason.DIVERSITY_SKIPPED]
        with pytest.raises(UnavailableError):
            await world.ask("common elder", diversity=Diversity(), allow_degraded=False)


# --- explanations, thresholds, snippets -------------------------------------------------------------------------------------------------------


@MODES
@FUSIONS
async def test_an_explanation_adds_up_to_the_score(world: World, mode: SearchMode, fusion: FusionMethod) -> None:
    """Leg by leg, to the last digit, and the line for people says the same."""
    answer = await world.ask("common middle iris", mode=mode, fusion=fusion, explain=True, top_k=40)
    for hit in answer.hits:
        explanation = hit.explanation
        assert explanation is not None
        legs = [leg for leg in (explanation.vector, explanation.keyword) if leg is not None]
        assert sum(leg.contribution for leg in legs) == explanation.fused_score == hit.score
        assert explanation.formula.endswith(f"= {hit.score:.6g}")
        arithmetic = explanation.formula.split(" = ")[0].replace("×", "*").replace("(vector)", "").replace("(keyword)", "")
        assert eval(arithmetic) == pytest.approx(hit.score, rel=1e-4)  # noqa: S307 # what the service says must be arithmetic
        for seen, leg in ((hit.vector, explanation.vector), (hit.keyword, explanation.keyword)):
            assert (seen is None) == (leg is None)
            assert seen is None or leg is None or (seen.rank, seen.score) == (leg.rank, leg.score)


async def test_an_explanation_tells_how_diversity_moved_a_hit(world: World) -> None:
    """The value is the arithmetic of its parts, and the place before is that by score."""
    plain = await world.ask("common middle", top_k=100)
    answer = await world.ask("common middle", top_k=10, diversity=Diversity(0.3), explain=True)
    for hit in answer.hits:
        assert hit.explanation is not None
        step = hit.explanation.diversity
        assert step is not None
        assert step.value == pytest.approx(0.3 * step.relevance - 0.7 * step.similarity)
        assert chunk_ids(plain)[step.rank_before - 1] == hit.chunk.id


async def test_a_threshold_of_one_leg_leaves_the_others_hits_alone(world: World) -> None:
    """A cut-off by meaning does not drop what was found by keyword, nor the other way round."""
    strict = await world.ask("ginger", min_vector_score=1.0, top_k=50)
    assert ids(strict) == ["d06"]
    assert strict.hits[0].keyword is not None
    assert strict.hits[0].vector is None
    unmatched = await world.ask("common middle ginger", min_keyword_score=1_000.0, top_k=50)
    assert unmatched.hits
    assert all(hit.keyword is None and hit.vector is not None for hit in unmatched.hits)


@MODES
async def test_a_threshold_keeps_the_hit_whose_score_it_is_and_changes_no_score(world: World, mode: SearchMode) -> None:
    """Scores are given out in single precision; one that is sent back as a threshold keeps its hit, and the others are worth what they were."""
    plain = await world.ask("common middle ginger", mode=mode, top_k=40)
    hit = plain.hits[5]
    least: dict[str, Any] = {
        "min_vector_score": None if hit.vector is None else float(np.float32(hit.vector.score)),
        "min_keyword_score": None if hit.keyword is None else float(np.float32(hit.keyword.score)),
    }
    kept = {other.chunk.id: other.score for other in (await world.ask("common middle ginger", mode=mode, top_k=40, **least)).hits}
    assert kept[hit.chunk.id] == hit.score
    assert all(kept.get(other.chunk.id, 0.0) <= other.score for other in plain.hits)


async def test_snippets_are_parts_of_the_document_with_the_words_marked(world: World) -> None:
    """Offsets of the snippet are those of the document, offsets of the words those of the snippet."""
    answer = await world.ask("laurel", mode=SearchMode.KEYWORD, snippets=Snippets(max_characters=40))
    hit = answer.hits[0]
    (snippet,) = hit.snippets
    assert hit.chunk.text[snippet.start - hit.chunk.start : snippet.end - hit.chunk.start] == snippet.text
    assert [snippet.text[match.start : match.end] for match in snippet.matches] == ["laurel"]
    assert (await world.ask("laurel", mode=SearchMode.KEYWORD)).hits[0].snippets == ()


# --- reranking --------------------------------------------------------------------------------------------------------------------------------


async def test_the_reranker_orders_the_best_again_and_the_rest_stays(world: World) -> None:
    """Its scores are what the hits show, and explanations tell the place before."""
    plain = await world.ask("common maple", mode=SearchMode.KEYWORD, top_k=40)
    answer = await world.ask("common maple", mode=SearchMode.KEYWORD, top_k=40, reranking=Reranking(10), explain=True)
    assert sorted(chunk_ids(answer)[:10]) == sorted(chunk_ids(plain)[:10])
    assert chunk_ids(answer)[10:] == chunk_ids(plain)[10:]
    assert ids(plain)[0] == ids(answer)[9] == "d12"
    for hit in answer.hits[:10]:
        assert hit.explanation is not None
        assert hit.explanation.reranking is not None
        assert hit.score == hit.explanation.reranking.score
        assert chunk_ids(plain)[hit.explanation.reranking.rank_before - 1] == hit.chunk.id
    assert answer.timings.rerank is not None


@pytest.mark.parametrize("hang", [False, True])
async def test_without_time_or_model_the_order_stays_and_the_answer_says_so(world: World, hang: bool) -> None:
    """Reranking may cost the answer's quality and never the answer."""
    assert world.reranker is not None
    world.reranker.hang = hang
    world.reranker.failure = None if hang else UnavailableError("not loaded", component="reranker")
    plain = await world.ask("common maple")
    answer = await world.ask("common maple", reranking=Reranking())
    assert chunk_ids(answer) == chunk_ids(plain)
    assert reasons(answer) == [DegradationReason.RERANKING_SKIPPED]


async def test_a_service_without_a_reranker_refuses_to_rerank(tmp_path: Path) -> None:
    """FAILED_PRECONDITION says which setting would change that."""
    async with open_world(tmp_path, DOCUMENTS) as world:
        with pytest.raises(FailedPreconditionError, match="KB_RERANKER_MODEL"):
            await world.ask("common", reranking=Reranking())


# --- batches ----------------------------------------------------------------------------------------------------------------------------------


async def test_a_batch_embeds_its_queries_together(world: World) -> None:
    """One call of the embedder, without the queries that need no vector; each answer is that of the search alone."""
    queries = [Query(P, f"common {NAMES[number]}") for number in range(5)] + [Query(P, "common basil", top_k=3), Query(P, "x", SearchMode.KEYWORD)]
    outcomes = {position: outcome async for position, outcome in world.search.run_batch(queries, Deadline.after(5))}
    assert world.embedder.calls == [[f"common {NAMES[number]}" for number in range(5)]]
    for position, query in enumerate(queries):
        outcome = outcomes[position]
        assert isinstance(outcome, SearchAnswer)
        assert chunk_ids(outcome) == chunk_ids(await world.search.run(query, Deadline.after(5)))


async def test_a_batch_without_the_embedder_is_answered_by_keyword(world: World) -> None:
    """Each of its answers says so, and none waits for the embedder longer than a search does."""
    world.embedder.hang = True
    queries = [Query(P, NAMES[number]) for number in range(20)]
    async with asyncio.timeout(3):
        outcomes = [outcome async for _, outcome in world.search.run_batch(queries, Deadline.after(5))]
    assert all(isinstance(outcome, SearchAnswer) and reasons(outcome) == [DegradationReason.EMBEDDING_UNAVAILABLE] for outcome in outcomes)


async def test_a_large_batch_is_embedded_a_part_at_a_time(world: World) -> None:
    """So that searches of others come in between, and none of the batch waits for all of it."""
    queries = [Query(P, f"common number {number}") for number in range(40)]
    outcomes = [outcome async for _, outcome in world.search.run_batch(queries, Deadline.after(5))]
    assert all(isinstance(outcome, SearchAnswer) and not outcome.degraded for outcome in outcomes)
    assert sorted(map(len, world.embedder.calls)) == [8, 16, 16]


async def test_a_batch_that_is_given_up_leaves_an_equal_search_of_somebody_else_alone(world: World) -> None:
    """They share a computation; whose it was does not matter."""
    world.embedder.hang = True
    batch = world.search.run_batch([Query(P, "common amber")], Deadline.after(5))
    first = asyncio.create_task(anext(batch))
    while not world.embedder.calls:
        await asyncio.sleep(0)
    other = asyncio.create_task(world.ask("common amber"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.embedder.hang = False
    assert ids(await other)[0] == "d00"


async def test_answers_of_a_batch_wait_for_the_one_who_reads_them(world: World) -> None:
    """However large the batch, no more answers are held than searches run at a time."""
    batch = world.search.run_batch([Query(P, f"common {number}") for number in range(40)], Deadline.after(5))
    await anext(batch)
    for _ in range(500):  # more turns of the event loop than forty searches take
        await asyncio.sleep(0)
    assert len(world.embedder.calls) < 3
    assert len([outcome async for outcome in batch]) == 39


async def test_one_search_of_a_batch_that_fails_leaves_the_others_alone(world: World) -> None:
    """An item that fails is told as such."""
    queries = [Query(P, "basil", SearchMode.KEYWORD), Query(P, "cedar", page_token="x")]  # noqa: S106 - no secret
    outcomes = {position: outcome async for position, outcome in world.search.run_batch(queries, Deadline.after(5))}
    assert isinstance(outcomes[0], SearchAnswer)
    assert isinstance(outcomes[1], InvalidArgumentError)


# --- documents like a document ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("vectors_max", [0, 1_000])
async def test_documents_like_a_document_are_those_nearest_to_the_mean_of_its_chunks(tmp_path: Path, vectors_max: int, down: bool) -> None:
    """Against the definition, with the store and without it; the document itself is not among them. With nothing by meaning, words stand in."""
    async with open_world(tmp_path, DOCUMENTS, vectors_max=vectors_max) as world:
        if down:
            world.store.fail()
        answer = await world.like("d03", top_k=5)
        assert "d03" not in ids(answer)
        assert len(set(ids(answer))) == 5
        if down and not vectors_max:
            assert reasons(answer) == [DegradationReason.VECTOR_LEG_MISSING]
            return
        assert reasons(answer) == ([DegradationReason.VECTOR_STORE_UNAVAILABLE] if down else [])
        if vectors_max:
            mean = np.sum([vector_of(chunk.text) for chunk in DOCUMENTS[3].chunks], axis=0)
            mean /= np.linalg.norm(mean)
            best = {document.id: max(float(vector_of(chunk.text) @ mean) for chunk in document.chunks) for document in DOCUMENTS}
            assert ids(answer) == sorted((name for name in best if name != "d03"), key=lambda name: -best[name])[:5]


async def test_similar_documents_can_be_filtered_and_cut_off(world: World) -> None:
    """By the same filters as a search, and by cosine."""
    everything = await world.like("d03", top_k=30, more_chunks=2)
    assert len(everything.hits) == 29
    assert any(hit.more_chunks for hit in everything.hits)
    middle = everything.hits[10].score
    assert ids(await world.like("d03", top_k=30, min_score=middle)) == ids(everything)[:11]
    assert ids(await world.like("d03", top_k=30, filter=Existence("nothing has this"))) == []
