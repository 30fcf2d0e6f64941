"""The keyword index, on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.query.replica.keyword import MAX_QUERY_TERMS, KeywordIndex
from shared.errors import UnavailableError

P, Q = 1, 2


@pytest.fixture
def index(tmp_path: Path) -> Iterator[KeywordIndex]:
    """An empty index."""
    opened = KeywordIndex(tmp_path / "keyword")
    yield opened
    opened.close()


def fill(index: KeywordIndex, *texts: str, project: int = P, first: int = 1) -> None:
    """Adds texts with rising keys, and commits."""
    for pk, text in enumerate(texts, start=first):
        index.add(project, pk, "", text)
    index.commit()


def found(index: KeywordIndex, text: str, project: int = P) -> list[int]:
    """Keys, best first."""
    return [hit.pk for hit in index.search(project, text, 50)]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("She was running quickly", "runs"),
        ("Retries and back-off policies", "retry policy"),
        ("def snake_case_name(): pass", "snake_case_name"),
        ("def snake_case_name(): pass", "case"),
        ("class HttpServerError", "server error"),
        ("class HttpServerError", "HTTPSERVERERROR"),
        ("import os.path", "os.path"),
        ("listen on port 50051", "50051"),
        ("a café in Zürich", "cafe zurich"),
        ("東京タワーに行く", "タワー"),
        ("黒い猫がいる", "猫"),
        ("สวัสดีชาวโลก", "โลก"),
        ("deployed 🚀 today", "🚀"),
        ("C++ templates", "c++"),
        ("to be or not to be", "To be, or not to be?"),
    ],
)
def test_what_a_text_contains_is_found_by_it(index: KeywordIndex, text: str, query: str) -> None:
    """Inflected words, identifiers and parts, numbers, accents, unspaced scripts, emoji and stop words alone find their text, and no other."""
    fill(index, "entirely different content", text, "something else again")
    assert found(index, query) == [2]


@pytest.mark.parametrize("query", ["", "   ", "???", 'title:"', "AND OR (", "field:value^2~", "\x00"])
def test_a_query_has_no_syntax(index: KeywordIndex, query: str) -> None:
    """Whatever somebody types is words or nothing, never an error."""
    fill(index, "plain words")
    assert found(index, query) == []


def test_stop_words_do_not_decide(index: KeywordIndex) -> None:
    """Beside a word that means something, stop words neither find nor rank."""
    fill(index, "the the the of and", "a quokka", "the quokka of the island and the sea")
    assert set(found(index, "the quokka of")) == {2, 3}
    assert index.search(P, "the quokka of", 5) == index.search(P, "quokka", 5)


def test_projects_are_apart(index: KeywordIndex) -> None:
    """A search finds chunks of its project alone, and deleting one project leaves the other."""
    fill(index, "shared word")
    fill(index, "shared word", project=Q, first=10)
    assert found(index, "shared") == [1]
    assert found(index, "shared", Q) == [10]
    index.delete_project(P)
    index.commit()
    assert found(index, "shared") == []
    assert found(index, "shared", Q) == [10]


def test_writes_are_seen_after_the_commit(index: KeywordIndex) -> None:
    """Adds and deletes wait for the commit; a rollback forgets them; replacing a chunk leaves one entry."""
    fill(index, "old")
    index.delete([1])
    index.add(P, 1, "", "new")
    assert (found(index, "old"), found(index, "new")) == ([1], [])
    index.commit()
    assert (found(index, "old"), found(index, "new")) == ([], [1])
    index.delete([1])
    index.rollback()
    index.commit()
    assert found(index, "new") == [1]
    assert len(index) == 1


def test_rarer_and_denser_ranks_higher_and_equals_go_by_key(index: KeywordIndex) -> None:
    """BM25: a rare word weighs more than a common one, a short text more than a long one; equal scores are ordered by key."""
    fill(index, *["common filler text"] * 5, "rare filler text", "rare " + "padding " * 8)
    assert found(index, "common rare") == [6, 7, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [0, 1, 40, 2_500])
def test_allowed_keys_filter_without_touching_scores(index: KeywordIndex, count: int) -> None:
    """Of few keys and of many, the result is what is left of the whole result."""
    rng = np.random.default_rng(7)
    words = ["alpha", "bravo", "charlie", "delta", "echo"]
    fill(index, *(" ".join(rng.choice(words, size=rng.integers(1, 30))) for _ in range(3_000)))
    everything = index.search(P, "alpha echo", 3_000)
    allowed = np.sort(rng.choice(np.arange(1, 3_001), size=count, replace=False)).astype(np.int64)
    expected = [hit for hit in everything if hit.pk in set(allowed.tolist())]
    assert expected == index.search(P, "alpha echo", 3_000, allowed)
    assert [hit.score for hit in expected[:7]] == [hit.score for hit in index.search(P, "alpha echo", 7, allowed)]


def test_allowed_keys_that_are_the_worst_hits_are_found(index: KeywordIndex) -> None:
    """Fetching more and filtering goes on until nothing is left: the allowed ones may all be at the end."""
    fill(index, *["alpha"] * 2_000, *["alpha " + "padding " * 20] * 2_500)
    allowed = np.arange(2_001, 4_501, dtype=np.int64)
    assert [hit.pk for hit in index.search(P, "alpha", 2_500, allowed)] == allowed.tolist()
    few = index.search(P, "alpha", 10, allowed)
    assert len(few) == 10
    assert {hit.pk for hit in few} <= set(allowed.tolist())


@pytest.mark.parametrize("own", [2, 20, 60, 100])
def test_a_project_of_any_share_of_the_index_finds_its_own(index: KeywordIndex, own: int) -> None:
    """Whether the project is small or nearly everything: its best chunks by score, filtered or not, though the others match better."""
    fill(index, *["alpha " + "padding " * (number % 7 + 2) for number in range(own)])
    fill(index, *["alpha"] * (100 - own), project=Q, first=1_000)
    expected = sorted(range(1, own + 1), key=lambda pk: ((pk - 1) % 7, pk))
    best = index.search(P, "alpha", 10)
    assert [hit.score for hit in best] == sorted([hit.score for hit in best], reverse=True)
    assert {(hit.pk - 1) % 7 for hit in best} == {(pk - 1) % 7 for pk in expected[:10]}
    assert expected == [hit.pk for hit in index.search(P, "alpha", 200)]
    allowed = np.arange(1, own + 1, 2, dtype=np.int64)
    assert [pk for pk in expected if pk % 2] == [hit.pk for hit in index.search(P, "alpha", 200, allowed)]


def test_a_long_query_keeps_its_rarest_words(index: KeywordIndex) -> None:
    """Beyond the bound of terms the words that decide are used."""
    common = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"][: MAX_QUERY_TERMS + 10]
    fill(index, *[" ".join(common)] * 3, "needle " + " ".join(common))
    assert found(index, " ".join([*common, "needle"]))[0] == 4


def test_a_second_writer_is_told_why(tmp_path: Path, index: KeywordIndex) -> None:
    """The same folder cannot be opened twice."""
    fill(index, "first")
    with pytest.raises(UnavailableError, match="another process"):
        KeywordIndex(tmp_path / "keyword")
    assert found(index, "first") == [1]


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    """Closing and opening keeps commits, forgets what was not committed, and frees the lock."""
    first = KeywordIndex(tmp_path / "keyword")
    fill(first, "kept café")
    first.add(P, 2, "", "lost")
    first.close()
    first.close()
    with pytest.raises(UnavailableError, match="closed"):
        first.delete([1])
    again = KeywordIndex(tmp_path / "keyword")
    assert found(again, "cafe") == [1]
    assert len(again) == 1
    again.close()


def test_a_damaged_index_is_begun_again(tmp_path: Path) -> None:
    """Garbage in place of the index's description gives an empty index that works."""
    folder = tmp_path / "keyword"
    first = KeywordIndex(folder)
    fill(first, "old")
    first.close()
    (folder / "meta.json").write_text("{garbage")
    again = KeywordIndex(folder)
    assert len(again) == 0
    fill(again, "new")
    assert found(again, "new") == [1]
    again.close()
    shutil.rmtree(folder)
