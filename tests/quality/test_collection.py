"""Reading labelled collections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import InvalidArgumentError, NotFoundError
from shared.golden.collection import below, load


def write(folder: Path, corpus: list[object], queries: list[object], qrels: str) -> Path:
    """A collection on disk."""
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in corpus))
    (folder / "queries.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in queries))
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    return folder


PASSAGES: list[object] = [
    {"_id": "a", "title": "Title", "text": "Text"},
    {"_id": "b", "title": "Only a title", "text": " "},
    {"_id": "c", "title": "", "text": ""},
    {"_id": "d", "text": "x"},
]
QUESTIONS: list[object] = [{"_id": "1", "text": "one", "kind": "easy"}, {"_id": "2", "text": "two"}, {"_id": "3", "text": "three"}]


def test_what_cannot_be_written_or_measured_is_left_out(tmp_path: Path) -> None:
    """Passages without a word, and questions without a positive judgement; a title stands in for a missing text."""
    collection = load(write(tmp_path / "set", PASSAGES, QUESTIONS, "1\ta\t2\n1\tb\t0\n2\tb\t0\n3\td\t1\n"))

    assert [(document.id, document.title, document.text) for document in collection.documents] == [
        ("a", "Title", "Text"),
        ("b", "Only a title", "Only a title"),
        ("d", "", "x"),
    ]
    assert [topic.id for topic in collection.topics] == ["1", "3"]
    assert collection.judgements == {"1": {"a": 2}, "3": {"d": 1}}
    assert collection.kinds == ("easy",)
    assert collection.name == "set"


def test_the_fingerprint_changes_with_the_passages_alone(tmp_path: Path) -> None:
    """So data of an older state is never searched."""
    one = load(write(tmp_path / "one", PASSAGES, QUESTIONS, "1\ta\t2\n"))
    two = load(write(tmp_path / "two", PASSAGES, QUESTIONS[:1], "1\ta\t3\n"))
    three = load(write(tmp_path / "three", PASSAGES[:1], QUESTIONS, "1\ta\t2\n"))

    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != three.fingerprint


def test_collections_below_a_folder_come_by_name(tmp_path: Path) -> None:
    """Folders without a corpus are no collections."""
    for name in ("z", "a"):
        write(tmp_path / name, PASSAGES, QUESTIONS, "1\ta\t2\n")
    (tmp_path / "other").mkdir()

    assert [collection.name for collection in below(tmp_path)] == ["a", "z"]


def test_a_folder_without_collections_is_an_error(tmp_path: Path) -> None:
    """Measuring nothing would look like success."""
    with pytest.raises(NotFoundError, match="no collection in"):
        below(tmp_path)


@pytest.mark.parametrize(
    ("corpus", "qrels", "where"),
    [
        ([{"_id": "a", "text": "x"}, {"text": "no id"}], "", "corpus.jsonl:2"),
        ([["not", "an", "object"]], "", "corpus.jsonl:1"),
        (PASSAGES, "1\ta\tmuch\n", "qrels.tsv:2"),
        (PASSAGES, "1\ta\n", "qrels.tsv:2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, corpus: list[object], qrels: str, where: str) -> None:
    """File and line stand in the message."""
    with pytest.raises(InvalidArgumentError, match=where):
        load(write(tmp_path / "set", corpus, QUESTIONS, qrels))
