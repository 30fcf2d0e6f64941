"""The corpus of the benchmark, and what is searched for in it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from services.cli.bench.corpus import BUCKETS, load
from services.cli.bench.passages import MAX_CHARACTERS, passages
from services.cli.bench.queries import Queries
from shared.domain import DocumentId, DocumentInput

_MODULE = '''"""A module that says what it is for in enough words to be kept as a passage of text."""

# short remark


def load(path):
    """Loads a thing from a path and gives it back when it is there, or raises an error that names the path."""
    # A longer comment that explains why something is done in this way and in no other way, so that a reader who comes later
    # does not have to find it out again, which is what comments of this length are commonly written for.
    return path


class Thing:
    def undocumented(self):
        return 1
'''


def _documents(count: int) -> list[DocumentInput]:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "omicron"]
    return [
        DocumentInput(DocumentId(str(i)), f"package.module.name_{i}", f"{' '.join(words[i % 8 :])} number {i}. Second sentence.", {})
        for i in range(count)
    ]


def test_a_python_file_gives_its_docstrings_and_long_comments(tmp_path: Path) -> None:
    """Docstrings come with their dotted names and kinds, a long comment as one text, a short one not at all."""
    path = tmp_path / "m.py"
    path.write_text(_MODULE)
    found = list(passages(path, "pkg.m"))
    assert [(passage.name, passage.kind) for passage in found] == [("pkg.m", "module"), ("pkg.m.load", "function"), ("pkg.m:8", "comment")]
    assert found[1].text.startswith("Loads a thing")
    assert found[2].text.startswith("A longer comment")
    assert "who comes later does not have to find it out again" in found[2].text


def test_prose_is_cut_into_paragraphs_and_tables_are_left_out(tmp_path: Path) -> None:
    """A paragraph becomes one line of text at the line where it stands; a table of numbers is none."""
    prose = "This paragraph is long enough to be kept,\nbecause it has more than eight words in it."
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{prose}\n\n| 1 | 2 | 3 |\n|---|---|---|\n{'| 12 | 13 | 14 |' * 8}\n")
    assert [(passage.line, passage.text) for passage in passages(path, "README")] == [(3, prose.replace("\n", " "))]


def test_a_long_docstring_is_cut_between_paragraphs(tmp_path: Path) -> None:
    """Parts are whole paragraphs and never longer than a passage may be."""
    paragraphs = [f"Paragraph {i} of a docstring that is long, with words enough to fill it. " * 4 for i in range(5)]
    path = tmp_path / "m.py"
    path.write_text('"""' + "\n\n".join(paragraphs) + '"""\n')
    texts = [passage.text for passage in passages(path, "m")]
    assert len(texts) > 1
    assert all(len(text) <= MAX_CHARACTERS for text in texts)
    assert "\n\n".join(texts).split() == " ".join(paragraphs).split()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe broken", b"def (:\n", b'"""\\ud800 half a surrogate pair in a docstring, which UTF-8 cannot hold at all"""']
)
def test_what_cannot_be_read_gives_nothing(tmp_path: Path, content: bytes) -> None:
    """A file that is not UTF-8, not Python, or holds what cannot be encoded gives no passage and no error."""
    path = tmp_path / "m.py"
    path.write_bytes(content)
    assert list(passages(path, "m")) == []


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    """Sizes share their text, so growth is what differs; texts are distinct, and the fingerprint depends on the size."""
    large, small = load(tmp_path / "a" / "corpus.jsonl", 60), load(tmp_path / "b" / "corpus.jsonl", 20)
    assert list(small.documents) == list(large.documents)[:20]
    assert small.fingerprint == load(tmp_path / "a" / "corpus.jsonl", 20).fingerprint != large.fingerprint
    assert len({document.text for document in large.documents}) == len({document.id for document in large.documents}) == 60
    assert all(0 <= int(str(document.metadata["bucket"])) < BUCKETS for document in large.documents)


def test_queries_are_distinct_repeatable_and_no_document() -> None:
    """The same seed gives the same queries; none comes twice, none is a document's text."""
    documents = _documents(50)
    queries = Queries(documents, seed=7).take(3_000)
    assert len(set(queries)) == 3_000
    assert not set(queries) & {document.text for document in documents}
    assert queries == list(islice(Queries(documents, seed=7), 3_000))
    assert queries != Queries(documents, seed=8).take(3_000)


def test_queries_do_not_run_out_in_a_small_corpus() -> None:
    """Two documents give more queries than they have phrases."""
    assert len(set(Queries(_documents(2), seed=1).take(500))) == 500
