"""The keyword leg: BM25 over one tantivy index that holds the chunks of all projects.

A chunk is a posting of `(project, pk, body)`; nothing is stored, hits come back as primary keys from a column. The statistics behind a score
(how many chunks hold a word, the mean length) are those of the whole index, as in any index that several tenants share.

Stop words are indexed, and left out of a query unless it has nothing else: "to be or not to be" finds what it should, and "the retry policy"
does not read the postings of "the". Words are folded to ASCII (`café` = `cafe`) and stemmed as English.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tantivy
from tantivy import Filter, Occur, Query, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

from services.query.replica.analysis import words
from services.query.replica.model import Pks, ScoredPk
from shared.errors import UnavailableError

# More words than this are reduced to the rarest: those decide a BM25 score, and each word costs a walk over its postings.
MAX_QUERY_TERMS = 64
# Up to here a set of allowed keys is a clause of the query (measured on 100,000 chunks: 1,000 keys 4 ms, 5,000 keys 6 ms). Above, it is cheaper to
# fetch more and to filter afterwards (10,000 hits 6 ms, all 48,000 hits of a common word 16 ms).
_LARGEST_CLAUSE = 2_000
_FIRST_OVERFETCH = 2
_NEXT_OVERFETCH = 8
_ANALYZER = "knowledgebeast"
# tantivy asks for at least 15 MB a thread; documents are buffered up to this size before a segment is written.
_WRITER_BYTES = 32_000_000
_WRITER_THREADS = 1


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("project", indexed=True)
    builder.add_unsigned_field("pk", indexed=True, fast=True)
    builder.add_text_field("body", tokenizer_name=_ANALYZER, index_option="freq")
    return builder.build()


def _index_analyzer() -> TextAnalyzer:
    return TextAnalyzerBuilder(Tokenizer.whitespace()).filter(Filter.ascii_fold()).filter(Filter.stemmer("english")).build()


def _query_analyzer() -> TextAnalyzer:
    stopped = TextAnalyzerBuilder(Tokenizer.whitespace()).filter(Filter.stopword("english"))
    return stopped.filter(Filter.ascii_fold()).filter(Filter.stemmer("english")).build()


@contextmanager
def _translated() -> Iterator[None]:
    """Turns tantivy's errors into ours; a panic in its code arrives as an exception that is no `Exception`."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        raise UnavailableError("the replica's keyword index cannot be read or written", component="replica") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UnavailableError("the replica's keyword index failed", component="replica") from error


class KeywordIndex:
    """Adds, deletes and finds chunks by their words.

    Any number of threads may search while one writes. What was added or deleted is seen after `commit`.

    Raises:
        UnavailableError: (component `replica`) another process has the index open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema = _schema()
        self._index_words = _index_analyzer()
        self._query_words = _query_analyzer()
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._index = tantivy.Index(self._schema, str(path))
        except ValueError:  # damaged, or laid out by another version: a copy, so it is made again
            shutil.rmtree(path)
            path.mkdir(parents=True)
            self._index = tantivy.Index(self._schema, str(path))
        self._index.register_tokenizer(_ANALYZER, self._index_words)
        self._index.config_reader("manual")
        self._writer: tantivy.IndexWriter | None = None
        self._closed = False
        self._renew_writer()

    def __len__(self) -> int:
        """Chunks that a search sees."""
        return int(self._index.searcher().num_docs)

    def close(self) -> None:
        """Ends the writer, which lets go of the lock; what was not committed is gone. May be called twice."""
        self._closed = True
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with _translated():
                writer.rollback()
                writer.wait_merging_threads()

    def _renew_writer(self) -> None:
        try:
            self._writer = self._index.writer(_WRITER_BYTES, _WRITER_THREADS)
        except ValueError as error:
            message = "the replica's keyword index cannot be written"
            if "LockBusy" in str(error):
                message = "the replica's keyword index is open in another process: give each query service a data directory of its own"
            raise UnavailableError(message, component="replica") from error

    def _open_writer(self) -> tantivy.IndexWriter:
        if self._closed:
            raise UnavailableError("the replica is closed", component="replica")
        if self._writer is None:
            self._renew_writer()
        assert self._writer is not None  # noqa: S101 # for the type checker
        return self._writer

    def add(self, project: int, pk: int, title: str, text: str) -> None:
        """Adds a chunk. A chunk that is there must be deleted first."""
        document = tantivy.Document.from_dict({"project": project, "pk": pk, "body": words(f"{title}\n{text}")}, self._schema)
        writer = self._open_writer()
        with _translated():
            writer.add_document(document)

    def delete(self, pks: Sequence[int]) -> None:
        """Deletes those of the chunks that are there."""
        # By query: `delete_documents_by_term` takes a number for a signed one, and deletes nothing from an unsigned field.
        if pks:
            self._open_writer().delete_documents_by_query(Query.term_set_query(self._schema, "pk", pks))

    def delete_project(self, project: int) -> None:
        """Deletes all chunks of a project."""
        self._open_writer().delete_documents_by_query(Query.term_query(self._schema, "project", project))

    def clear(self) -> None:
        """Deletes everything."""
        self._open_writer().delete_all_documents()

    def commit(self) -> None:
        """Makes all that was added and deleted durable, and visible to searches that begin from now on."""
        writer = self._open_writer()
        with _translated():
            writer.commit()
            self._index.reload()

    def rollback(self) -> None:
        """Forgets what was added and deleted since the last commit. A writer that has failed (a full disk ends it) is replaced."""
        # Letting go of the writer ends it and its lock; the next use opens another, which begins at the last commit.
        self._writer = None

    def search(self, project: int, text: str, limit: int, allowed: Pks | None = None) -> list[ScoredPk]:
        """The best chunks of the project for the words of a text: falling BM25 score, equal scores by rising key.

        Args:
            project: the project's key.
            text: what somebody typed; has no syntax.
            limit: the most chunks to return, at least 1.
            allowed: rising keys; others are left out. Scores do not depend on it.
        """
        with _translated():
            return self._search(project, text, limit, allowed)

    def _search(self, project: int, text: str, limit: int, allowed: Pks | None) -> list[ScoredPk]:
        searcher = self._index.searcher()
        terms = self._terms(searcher, text)
        if not terms or not searcher.num_docs or (allowed is not None and not allowed.size):
            return []
        query = self._query(project, terms, allowed if allowed is not None and allowed.size <= _LARGEST_CLAUSE else None)
        if allowed is None or allowed.size <= _LARGEST_CLAUSE:
            return _ordered(*_fetch(searcher, query, limit))
        window = limit * max(_FIRST_OVERFETCH, _FIRST_OVERFETCH * searcher.num_docs // allowed.size)
        while True:
            pks, scores = _fetch(searcher, query, window)
            keep = _contained(pks, allowed)
            if keep.sum() >= limit or pks.size < window:
                return _ordered(pks[keep], scores[keep])[:limit]
            window *= _NEXT_OVERFETCH

    def _terms(self, searcher: tantivy.Searcher, text: str) -> list[str]:
        """The distinct terms of a query, at most `MAX_QUERY_TERMS`."""
        found = words(text, query=True)
        terms = list(dict.fromkeys(self._query_words.analyze(found) or self._index_words.analyze(found)))
        if len(terms) > MAX_QUERY_TERMS:
            frequency = {term: searcher.doc_freq("body", term) for term in terms}
            terms = sorted((term for term in terms if frequency[term]), key=frequency.__getitem__)[:MAX_QUERY_TERMS]
        return terms

    def _query(self, project: int, terms: Iterable[str], allowed: Pks | None) -> Query:
        any_term = [(Occur.Should, Query.term_query(self._schema, "body", term, "freq")) for term in terms]
        clauses = [
            (Occur.Must, Query.const_score_query(Query.term_query(self._schema, "project", project), 0.0)),
            (Occur.Must, Query.boolean_query(any_term)),
        ]
        if allowed is not None:
            clauses.append((Occur.Must, Query.const_score_query(Query.term_set_query(self._schema, "pk", allowed.tolist()), 0.0)))
        return Query.boolean_query(clauses)


def _fetch(searcher: tantivy.Searcher, query: Query, limit: int) -> tuple[Pks, np.ndarray]:
    hits = searcher.search(query, min(limit, searcher.num_docs), count=False).hits
    pks = np.array(searcher.fast_field_values("pk", [address for _, address in hits]), dtype=np.int64)
    return pks, np.array([score for score, _ in hits], dtype=np.float32)


def _contained(pks: Pks, allowed: Pks) -> np.ndarray:
    """Which of the keys are in `allowed`, which is sorted and not empty."""
    places = np.minimum(np.searchsorted(allowed, pks), allowed.size - 1)
    return np.asarray(allowed[places] == pks)


def _ordered(pks: Pks, scores: np.ndarray) -> list[ScoredPk]:
    order = np.lexsort((pks, -scores))
    return [ScoredPk(pk, score) for pk, score in zip(pks[order].tolist(), scores[order].tolist(), strict=True)]
