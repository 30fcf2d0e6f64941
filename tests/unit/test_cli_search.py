"""`kb search` and `kb similar` against a query service in memory: what they send, and what they print."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from services.cli.main import main
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2
from tests.fakes.servers import FakeServices


@dataclass
class Outcome:
    """What a command left."""

    status: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """What it printed, as one JSON value."""
        return json.loads(self.out)


Kb = Callable[..., Outcome]


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


@pytest.fixture
def kb(services: FakeServices, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Kb:
    """Runs a command with the addresses in the environment; there is a project `notes` of two documents."""
    monkeypatch.setenv("KB_INDEXER_ADDRESS", services.indexer)
    monkeypatch.setenv("KB_QUERY_ADDRESS", services.query)
    folder = tmp_path_factory.mktemp("notes")
    monkeypatch.chdir(folder)
    (folder / "docs").mkdir()
    (folder / "docs/a.md").write_text("# Lions\n\nlions roar at night")
    (folder / "docs/b.txt").write_text("tigers sleep at night")

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Outcome(status, printed.out, printed.err)

    assert run("ingest", "docs", "-p", "notes", "--create").status == 0
    return run


def test_a_search_shows_hits_with_their_snippets_and_the_time(kb: Kb, services: FakeServices) -> None:
    """Rank, score, document, legs and the service's snippet on one line."""
    outcome = kb("search", "night roar", "-p", "notes")

    assert outcome.status == 0
    first, second = (outcome.out.index(name) for name in ("docs/a.md", "docs/b.txt"))
    assert first < second
    assert "# Lions lions roar at night" in outcome.out
    assert "2 hits in 2.5 ms (keyword 1.2) · hybrid · sequence 2\n" in outcome.out
    assert services.state.requests[-1].snippets == query_pb2.Snippets(max_characters=240, max_snippets=1)


def test_without_snippets_whole_chunks_are_shown(kb: Kb, services: FakeServices) -> None:
    """With their own lines; the service is not asked for snippets."""
    outcome = kb("search", "lions", "-p", "notes", "--no-snippets")

    assert not services.state.requests[-1].HasField("snippets")
    assert "lions roar at night" in outcome.out
    assert "# Lions lions" not in outcome.out


def test_a_hit_without_a_snippet_shows_the_beginning_of_its_text(kb: Kb, services: FakeServices) -> None:
    """A service may have no snippet to give."""
    chunk = types_pb2.Chunk(text="one two\nthree " + "more " * 60)
    services.state.answer = query_pb2.SearchResponse(hits=[query_pb2.Hit(document_id="a", chunk=chunk)])

    assert "one two three more" in kb("search", "x", "-p", "notes").out


def test_json_has_snippets_when_they_are_asked_for(kb: Kb) -> None:
    """Offsets count code points, of the text and of the snippet."""
    without = kb("search", "roar", "-p", "notes", "--json").json()
    (snippet,) = kb("search", "roar", "-p", "notes", "--snippets", "--json").json()["hits"][0]["snippets"]

    assert without["hits"][0]["snippets"] == []
    (match,) = snippet["matches"]
    assert snippet["text"][match["start_offset"] : match["end_offset"]] == "roar"


def test_the_keys_of_an_answer_in_json_are_stable(kb: Kb) -> None:
    """Programs read them: one may be added here, none renamed."""
    answer = kb("search", "roar", "-p", "notes", "--explain", "--group", "--json").json()
    hit = answer["hits"][0]

    assert set(answer) == {
        "mode",
        "degraded",
        "degradations",
        "hits",
        "next_page_token",
        "cached",
        "served_from_cache",
        "found_time",
        "freshness",
        "timings_ms",
    }
    expected = {
        "rank",
        "score",
        "document_id",
        "title",
        "metadata",
        "chunk",
        "vector",
        "keyword",
        "more_chunks",
        "snippets",
        "explanation",
        "reranked",
    }
    assert set(hit) == expected
    assert set(hit["chunk"]) == {"id", "ordinal", "start_offset", "end_offset", "text"}
    assert set(hit["explanation"]) == {"vector", "keyword", "fused_score", "formula", "diversity", "reranking"}
    assert set(hit["explanation"]["keyword"]) == {"rank", "score", "normalized_score", "weight", "contribution"}
    assert set(hit["more_chunks"][0]) == {"score", "chunk", "vector", "keyword"}
    assert set(answer["freshness"]) == {"epoch", "sequence", "vector_sequence", "head_sequence", "contact_time"}
    assert answer["timings_ms"] == {"total": 2.5, "wait": 0, "embed": 0, "vector": 0, "keyword": 1.2, "assemble": 0, "rerank": 0}


def test_the_options_of_a_search_reach_the_service(kb: Kb, services: FakeServices) -> None:
    """Mode, alpha, fusion, filters, number, token and --no-degraded."""
    options = ("--mode", "vector", "--alpha", "0", "--fusion", "weighted", "-f", "kind=md", "-f", "not year<2000", "-k", "3", "--fresh", "t")
    outcome = kb("search", "lions", "-p", "notes", *options, "--no-degraded", "--json")

    sent = services.state.requests[-1]
    assert outcome.status == 0
    assert (
        sent.mode,
        sent.fusion,
        sent.top_k,
        sent.consistency.at_least_as_fresh,
        len(sent.filter.all_of.filters),
    ) == (query_pb2.SEARCH_MODE_VECTOR, query_pb2.FUSION_METHOD_WEIGHTED, 3, "t", 2)
    assert (sent.HasField("alpha"), sent.alpha, sent.HasField("allow_degraded"), sent.allow_degraded) == (True, 0.0, True, False)
    assert [hit["document_id"] for hit in outcome.json()["hits"]] == ["docs/a.md"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rrf-k", "20"), query_pb2.SearchRequest(rrf_k=20)),
        (("--candidates", "500"), query_pb2.SearchRequest(candidates=500)),
        (("--min-vector-score", "0"), query_pb2.SearchRequest(min_vector_score=0)),
        (("--min-keyword-score", "2.5"), query_pb2.SearchRequest(min_keyword_score=2.5)),
        (("--group",), query_pb2.SearchRequest(grouping=query_pb2.Grouping(more_chunks=2))),
        (("--more-chunks", "0"), query_pb2.SearchRequest(grouping=query_pb2.Grouping(more_chunks=0))),
        (("--diversity", "0"), query_pb2.SearchRequest(diversity=query_pb2.Diversity(**{"lambda": 0.0}))),
        (("--explain",), query_pb2.SearchRequest(explain=True)),
        (("--rerank",), query_pb2.SearchRequest(reranking=query_pb2.Reranking(candidates=20))),
        (("--rerank-candidates", "7"), query_pb2.SearchRequest(reranking=query_pb2.Reranking(candidates=7))),
        (("--page", "2"), query_pb2.SearchRequest(page_token="2")),  # noqa: S106 - no password
        ((), query_pb2.SearchRequest()),
    ],
)
def test_each_feature_has_an_option(kb: Kb, services: FakeServices, options: tuple[str, ...], expected: query_pb2.SearchRequest) -> None:
    """And an option asks for nothing else."""
    assert kb("search", "night", "-p", "notes", "--json", *options).status == 0

    expected.MergeFrom(query_pb2.SearchRequest(project_id="notes", query="night", mode=query_pb2.SEARCH_MODE_HYBRID))
    assert expected == services.state.requests[-1]


def test_a_degraded_answer_says_so_with_its_reason(kb: Kb, services: FakeServices) -> None:
    """In the table and in JSON; the exit status stays 0, for there is an answer."""
    services.state.degradations = [
        query_pb2.Degradation(reason=query_pb2.Degradation.REASON_VECTOR_LEG_MISSING, component="chromadb", message="ChromaDB does not answer")
    ]

    table, form = kb("search", "night", "-p", "notes"), kb("search", "night", "-p", "notes", "--json")

    assert (table.status, form.status) == (0, 0)
    assert "degraded: ChromaDB does not answer (chromadb: vector_leg_missing)" in table.out
    assert (form.json()["degradations"][0]["reason"], form.json()["degraded"]) == ("vector_leg_missing", True)


def test_an_answer_without_hits_says_so(kb: Kb) -> None:
    """And how long it took."""
    assert kb("search", "zebra", "-p", "notes").out.startswith("no hits\n0 hits in ")


def test_an_answer_from_the_cache_says_so(kb: Kb, services: FakeServices) -> None:
    """Its stages took no time and are left out."""
    services.state.answer = query_pb2.SearchResponse(cached=True)

    assert "0 hits in 0.0 ms · cached · hybrid" in kb("search", "x", "-p", "notes").out


def test_a_last_good_answer_says_when_it_was_found(kb: Kb, services: FakeServices) -> None:
    """In the tables and as JSON; other answers have no such time."""
    services.state.answer = query_pb2.SearchResponse(served_from_cache=True)
    services.state.answer.found_time.FromJsonString("2026-01-02T03:04:05Z")

    assert "0 hits in 0.0 ms · found at 03:04:05 UTC · hybrid" in kb("search", "x", "-p", "notes").out
    answer = kb("search", "x", "-p", "notes", "--json").json()
    assert (answer["served_from_cache"], answer["found_time"]) == (True, "2026-01-02T03:04:05+00:00")
    services.state.answer = query_pb2.SearchResponse()
    answer = kb("search", "x", "-p", "notes", "--json").json()
    assert (answer["served_from_cache"], answer["found_time"]) == (False, None)


def test_an_explanation_is_a_sum_that_can_be_checked(kb: Kb, services: FakeServices) -> None:
    """A row a leg, their sum, the arithmetic in one line, and what moved the hit afterwards."""
    explanation = query_pb2.Explanation(
        vector=query_pb2.LegContribution(rank=2, score=0.7312, normalized_score=0.5, weight=0.6, contribution=0.3),
        fused_score=0.3,
        formula="0.6 × 0.5 (vector) = 0.3",
        diversity=query_pb2.DiversityStep(relevance=0.9, similarity=0.1, value=0.4, rank_before=3),
        reranking=query_pb2.RerankingStep(score=5.5, rank_before=4),
    )
    services.state.answer = query_pb2.SearchResponse(hits=[query_pb2.Hit(document_id="docs/a.md", score=5.5, explanation=explanation)])

    lines = [" ".join(line.split()) for line in kb("search", "x", "-p", "notes", "--explain").out.splitlines()]

    begin = lines.index("#1 docs/a.md, chunk 0")
    assert lines[begin : begin + 8] == [
        "#1 docs/a.md, chunk 0",
        "leg rank score normalized weight contribution",
        "vector 2 0.7312 0.500000 0.6 0.300000",
        "keyword – – – – 0.000000",
        "sum 0.300000",
        "0.6 × 0.5 (vector) = 0.3",
        "diversity: relevance 0.9000, similarity to a hit before it 0.1000, value 0.4000; place by score alone 3",
        "reranking: score 5.5000; place before 4",
    ]


def test_further_chunks_of_a_document_stand_below_its_best_one(kb: Kb, services: FakeServices) -> None:
    """Each with its own score, place in the legs and beginning."""
    more = query_pb2.GroupedChunk(
        chunk=types_pb2.Chunk(id="a#4", ordinal=4, text="another\nchunk"), score=0.25, vector=query_pb2.LegScore(rank=9, score=0.5)
    )
    services.state.answer = query_pb2.SearchResponse(hits=[query_pb2.Hit(document_id="a", more_chunks=[more])])

    lines = [" ".join(line.split()) for line in kb("search", "x", "-p", "notes", "--group").out.splitlines()]

    assert "0.2500 chunk 4 9 0.500 – another chunk" in lines


def test_a_page_names_the_next_one(kb: Kb) -> None:
    """The last line is what to add to the command; the last page has none."""
    first = kb("search", "night", "-p", "notes", "-k", "1")
    second = kb("search", "night", "-p", "notes", "-k", "1", "--page", first.out.split()[-1])

    assert first.out.splitlines()[-1] == "more with --page 1"
    assert "docs/b.txt" in second.out
    assert "--page" not in second.out


def test_all_pages_are_numbered_through(kb: Kb) -> None:
    """In tables and in JSON, which has one answer a line."""
    table = kb("search", "night", "-p", "notes", "-k", "1", "--all-pages")
    form = kb("search", "night", "-p", "notes", "-k", "1", "--all-pages", "--json")

    ranks = [[hit["rank"] for hit in json.loads(line)["hits"]] for line in form.out.splitlines()]
    assert ranks == [[1], [2]]
    assert [line.split()[0] for line in table.out.splitlines() if "1.0000" in line] == ["1", "2"]
    assert "--page" not in table.out


def test_a_page_that_is_stale_says_what_to_do(kb: Kb, services: FakeServices) -> None:
    """One line, exit status 1."""
    services.state.page_tokens_are_stale = True

    outcome = kb("search", "night", "-p", "notes", "--page", "1")

    expected = "kb: the project has changed since the page before, so that hits would be repeated or skipped: search again without --page\n"
    assert (outcome.status, outcome.err) == (1, expected)


def test_similar_documents_are_shown_like_hits(kb: Kb, services: FakeServices) -> None:
    """As a table and in JSON, without the document itself."""
    table = kb("similar", "docs/a.md", "-p", "notes")
    form = kb("similar", "docs/a.md", "-p", "notes", "--json").json()

    assert table.status == 0
    assert "docs/b.txt" in table.out
    assert "docs/a.md" not in table.out
    assert "tigers sleep at night" in table.out
    assert "1 hit in 1.5 ms · vector" in table.out
    assert [(hit["rank"], hit["document_id"]) for hit in form["hits"]] == [(1, "docs/b.txt")]
    assert services.state.requests[-1] == query_pb2.FindSimilarRequest(project_id="notes", document_id="docs/a.md")


def test_the_options_of_similar_reach_the_service(kb: Kb, services: FakeServices) -> None:
    """Number, threshold, chunks, filter, token and --no-degraded."""
    options = ("-k", "3", "--min-score", "-0.5", "--more-chunks", "4", "-f", "kind=txt", "--fresh", "t", "--no-degraded")
    assert kb("similar", "docs/a.md", "-p", "notes", *options).status == 0

    sent = services.state.requests[-1]
    assert (sent.top_k, sent.min_score, sent.more_chunks, sent.consistency.at_least_as_fresh) == (3, -0.5, 4, "t")
    assert (sent.filter.comparison.field, sent.HasField("allow_degraded"), sent.allow_degraded) == ("kind", True, False)


def test_a_document_that_is_not_there_has_no_similar_ones(kb: Kb) -> None:
    """One line, exit status 1."""
    outcome = kb("similar", "gone", "-p", "notes")

    assert (outcome.status, outcome.err) == (1, "kb: there is no document gone\n")
